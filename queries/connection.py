"""DuckDB over a snapshot: a view for each table's files, and the views and macros of `views.sql` over them.

`Database.sql` gives a query only the files that it can need, chosen by the log's key ranges from DuckDB's own plan of it, and
takes the access path to `activations` that reads less. The views read their lists of files from variables of the
connection, so each query has a cursor of its own and the views are made once.
"""

import json
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, Literal, Protocol

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import QueryError
from ..store.log import DataFile, Snapshot
from ..store.schema import TABLES
from .catalog import asks_for_comments, with_comments
from .comments import comment_on_all, definitions, literal, quoted
from .files import StoreFiles
from .messages import is_duckdbs, query_error, says_of_no_file
from .neurons import Some, neuron_numbers
from .plan import INDEXED, TAILS, UNCOUNTED, UNINDEXED, Ranges, Scans, columns_of, scans_of, schema_option

Path = Literal["by_token", "by_neuron"]
"""How `activations` is read: from the token-major vectors, or from the neuron-major projection."""

DEFAULT_PATH: Path = "by_token"

PATHS: Mapping[Path, Sequence[str]] = {
    "by_token": ("activation_vectors",),
    "by_neuron": ("neuron_vectors", "segments", UNINDEXED),
}
"""The tables that each path reads."""

COST_OF_LISTS = 2.0
"""What a value costs more by the neuron-major path, whose rows come with the lists of their tokens."""

_EXPLAIN = re.compile(r"^\s*explain\s+(analyze\s+)?", re.IGNORECASE)
_READING_NODES = {"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"}

Files = Mapping[str, Sequence[DataFile]]


class Check(Protocol):
    """Raises MissingFile or CorruptFile for files that are not what their commits say (`Footers`)."""

    def check(self, files: Iterable[DataFile], *, again: bool = False) -> None: ...

    def check_bytes(self, files: Iterable[DataFile]) -> None: ...


Params = Sequence[Any] | Mapping[str, Any] | None


class Database:
    """DuckDB over one snapshot of a store, whatever is committed later. Safe between threads."""

    def __init__(
        self,
        snapshot: Snapshot,
        partly_indexed: Mapping[str, Sequence[int]],
        files: StoreFiles,
        *,
        check: Check,
        name_of: Callable[[str], str],
        some_neurons: Some = (),
    ) -> None:
        """`partly_indexed` and `some_neurons` are the store's; `check` sees files before they are read; `name_of` gives the name
        by which DuckDB opens a path. From `files` it reads the empty files that stand where nothing is to be read."""
        self._some_neurons = some_neurons
        self._snapshot, self._indexed = snapshot, partly_indexed
        self._store_files, self._check, self._name_of = files, check, cache(name_of)
        unindexed = {path: snapshot.files[path] for path in partly_indexed}
        uncounted = {path: file for path, file in unindexed.items() if not file.counted}
        self._tails = {UNINDEXED: Snapshot(files=unindexed), UNCOUNTED: Snapshot(files=uncounted)}
        tails = {name: list(tail.files.values()) for name, tail in self._tails.items()}
        self._files: Files = {name: snapshot.of(name) for name in TABLES} | tails
        self._opened: duckdb.DuckDBPyConnection | None = None
        self._opening = threading.Lock()
        self._has_comments = False

    def sql(self, query: str, params: Params = None) -> duckdb.DuckDBPyRelation:
        """A query's relation, over the files that it can need. Raises QueryError; MissingFile or CorruptFile for a file."""
        query = with_comments(query)
        if asks_for_comments(query):
            self._comment()
        chosen, path = self._chosen(query, params)
        try:
            try:
                return self._cursor(chosen, path).sql(query, params=params)
            except duckdb.Error:  # it may name tables that it does not scan
                return self._cursor({**self._files, **chosen}, path).sql(query, params=params)
        except duckdb.Error as error:
            if isinstance(error, duckdb.IOException):  # a file that was there may be gone
                for tables in (chosen, self._files):
                    self._check.check((file for files in tables.values() for file in files), again=True)
            raise query_error(error, self.opened()) from error

    @contextmanager
    def reading(self, query: str, params: Params = None) -> Iterator[duckdb.DuckDBPyRelation]:
        """As `sql`, for rows that are fetched inside: then too an error is QueryError, and a damaged file is named."""
        relation = self.sql(query, params)
        try:
            yield relation
        except (duckdb.Error, OSError) as error:
            if not is_duckdbs(error):
                raise
            if says_of_no_file(error):
                self.check_bytes(query, params)
            raise query_error(error, self.opened()) from error

    def check_bytes(self, query: str, params: Params = None) -> None:
        """Raise CorruptFile for the first damaged file that a query can need; reads all of them."""
        chosen, _ = self._chosen(query, params)
        self._check.check_bytes(file for files in chosen.values() for file in files)

    def _chosen(self, query: str, params: Params) -> tuple[Files, Path]:
        scans = scans_of(query, params)
        return (self._files, DEFAULT_PATH) if scans is None else self.choose(scans)

    def choose(self, scans: Scans) -> tuple[Files, Path]:
        """The files of each table that scans can need, and the path to `activations` that reads less."""
        wanted = {name: list(ranges) for name, ranges in scans.items() if name in self._files}
        activations = scans.get("activations", ())
        costs = {path: sum(self._cost(path, ranges) for ranges in activations) for path in PATHS}
        path = min(costs, key=costs.__getitem__)
        for name in PATHS[path] if activations else ():
            wanted[name] = [*wanted.get(name, ()), *activations]
        return {name: self._holding(name, ranges) for name, ranges in wanted.items()}, path

    def connect(self) -> duckdb.DuckDBPyConnection:
        """A connection of its own with all tables and views, whose lists of files are fixed."""
        connection = duckdb.connect(":memory:")
        connection.register_filesystem(self._store_files)
        self._check.check(file for files in self._files.values() for file in files)
        for name, files in self._files.items():
            names = ", ".join(map(literal, self._names(name, files)))
            connection.execute(_view_sql(name, f"[{names}]"))
        self._finish(connection)
        comment_on_all(connection)
        return connection

    def opened(self) -> duckdb.DuckDBPyConnection:
        """The connection whose cursors answer queries; its views take their files from variables, which each cursor sets."""
        with self._opening:
            if self._opened is None:
                connection = duckdb.connect(":memory:")
                connection.register_filesystem(self._store_files)
                connection.execute("set parquet_metadata_cache = true")
                for name in self._files:
                    self._set_files(connection, name, ())
                    connection.execute(_view_sql(name, f"getvariable({literal(name)})"))
                self._finish(connection)
                self._opened = connection
            return self._opened

    def _comment(self) -> None:
        """Comment on all that is there, once; it takes 50 ms, which only a query that looks at comments has to pay."""
        cursor = self.opened().cursor()
        with self._opening:
            if not self._has_comments:
                comment_on_all(cursor)
                self._has_comments = True

    def _cursor(self, chosen: Files, path: Path) -> duckdb.DuckDBPyConnection:
        """A cursor whose views read these files, and whose `activations` takes this path."""
        self._check.check(file for files in chosen.values() for file in files)
        cursor = self.opened().cursor()
        for name, files in chosen.items():
            self._set_files(cursor, name, files)
        if path != DEFAULT_PATH:
            cursor.execute(f"create temp view activations as from {path}.activations")
        return cursor

    def _finish(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Make what stands on the tables' views."""
        rows = [
            {"filename": path.rpartition("/")[2], "layer": layer}
            for path, layers in self._indexed.items()
            for layer in layers
        ]
        connection.from_arrow(pa.Table.from_pylist(rows, schema=INDEXED)).create("indexed_layers")
        connection.execute(definitions() + neuron_numbers(self._some_neurons))

    def _set_files(self, connection: duckdb.DuckDBPyConnection, name: str, files: Sequence[DataFile]) -> None:
        connection.execute(f"set variable {quoted(name)} = ?", [self._names(name, files)])

    def _names(self, name: str, files: Sequence[DataFile]) -> list[str]:
        if not files:
            return [self._store_files.url(empty_path("activation_vectors" if name in TAILS else name))]
        return [self._name_of(file.path) for file in files]

    def _holding(self, name: str, scans: Sequence[Ranges]) -> list[DataFile]:
        """Files of a table that one of the scans can need."""
        files: dict[str, DataFile] = {}
        for ranges in scans:
            if name not in TAILS:
                files |= {file.path: file for file in self._snapshot.of(name, **ranges)}
                continue
            for file in self._tails[name].of("activation_vectors", **ranges):
                first, last = _overlap(ranges, file, "layer")
                if set(range(first, last + 1)) - set(self._indexed[file.path]):
                    files[file.path] = file
        return list(files.values())

    def _cost(self, path: Path, ranges: Ranges) -> float:
        """About how many bytes a scan of `activations` reads by a path; what a value costs beside is counted in."""
        if path == "by_token":
            return sum(_bytes(file, ranges) for file in self._holding("activation_vectors", [ranges]))
        tail = sum(_bytes(file, ranges) for file in self._holding(UNINDEXED, [ranges]))
        return tail + COST_OF_LISTS * sum(_bytes(file, ranges) for file in self._holding("neuron_vectors", [ranges]))


def _view_sql(name: str, files: str) -> str:
    """The statement that makes the view of a table's files, a SQL expression."""
    return f"""
        create view {quoted(name)} as
        select {", ".join(map(quoted, columns_of(name).names))}
        from read_parquet({files}, filename = {name in TAILS}{schema_option(name)})
    """


@cache
def empty_files() -> Mapping[str, bytes]:
    """A Parquet file without rows for each table, by its path."""
    files = {}
    for name, table in TABLES.items():
        sink = pa.BufferOutputStream()
        pq.write_table(table.arrow.empty_table(), sink)
        files[empty_path(name)] = sink.getvalue().to_pybytes()
    return files


def empty_path(name: str) -> str:
    return f"empty/{name}.parquet"


def _overlap(ranges: Ranges, file: DataFile, column: str) -> tuple[int, int]:
    first, last = file.ranges[column]
    least, greatest = ranges.get(column, (first, last))
    return max(first, least), min(last, greatest)


def _bytes(file: DataFile, ranges: Ranges) -> float:
    """The bytes of the row groups that a scan reads of a file, if its rows are spread evenly over its ranges."""
    share = 1.0
    for column in ("generation_id", "layer", "neuron"):
        if column in file.ranges:
            first, last = _overlap(ranges, file, column)
            n_values = min(file.ranges[column][1] - file.ranges[column][0] + 1, file.rows)
            share *= min(1.0, max(0, last - first + 1) / n_values)
    return share * file.bytes


def check_reads_only(connection: duckdb.DuckDBPyConnection, query: str) -> None:
    """Raise QueryError unless `query` is one statement that only reads, by DuckDB's own parse of it."""
    try:
        kinds = [statement.type.name for statement in connection.extract_statements(query)]
        text = _EXPLAIN.sub("", query) if kinds == ["EXPLAIN"] else query
        (parsed,) = connection.execute("select json_serialize_sql(?)", [text]).fetchone() or ("{}",)
    except duckdb.Error as error:
        raise query_error(error) from error
    if len(kinds) != 1:
        raise QueryError(f"give one SQL statement at a time; these are {len(kinds)}")
    tree = json.loads(parsed)
    nodes = set(_nodes(tree))
    if tree.get("error") or not nodes or nodes - _READING_NODES:
        raise QueryError("only statements that read are allowed here: SELECT, FROM, WITH, DESCRIBE, SHOW, EXPLAIN")


def _nodes(tree: object) -> Iterator[str]:
    """The types of all query nodes in a parse tree."""
    if isinstance(tree, dict):
        if str(tree.get("type", "")).endswith("_NODE"):
            yield tree["type"]
        tree = list(tree.values())
    if isinstance(tree, list):
        for part in tree:
            yield from _nodes(part)
