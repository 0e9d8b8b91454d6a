"""DuckDB over a snapshot: a view for each table's files, and the views and macros of `views.sql` over them."""

import json
import re
from collections.abc import Iterator
from importlib import resources

import duckdb

from ..errors import QueryError
from ..store import TABLES, Location, Snapshot

_GLOB = str.maketrans({"[": "[[]", "*": "[*]", "?": "[?]"})
_EXPLAIN = re.compile(r"^\s*explain\s+(analyze\s+)?", re.IGNORECASE)
_READING_NODES = {"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"}


def connect(location: Location, snapshot: Snapshot, *, locked: bool = False) -> duckdb.DuckDBPyConnection:
    """An in-memory DuckDB that shows one snapshot, whatever is committed later.

    `locked` lets its SQL open no file outside the store, load nothing and change no setting.
    """
    connection = duckdb.connect(":memory:")
    for table in TABLES.values():
        paths = [location.full(file.path).translate(_GLOB) for file in snapshot.of(table.name)]
        if paths:
            connection.read_parquet(paths).create_view(table.name)
        else:
            connection.from_arrow(table.arrow.empty_table()).create(table.name)
    connection.execute(resources.files(__package__).joinpath("views.sql").read_text("utf-8"))
    if locked:
        connection.execute("set temp_directory = ''")  # else it is allowed too
        connection.execute("set allowed_directories = [?, ?]", [location.root, location.root.translate(_GLOB)])
        connection.execute("set enable_external_access = false")
        connection.execute("set lock_configuration = true")
    return connection


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


def query_error(error: duckdb.Error) -> QueryError:
    """DuckDB's message in one line, with its hint and without the picture of the query."""
    lines = [line.strip() for line in str(error).splitlines()]
    kept = [line for line in lines if line and not line.startswith("LINE ") and set(line) != {"^"}]
    return QueryError(" ".join(kept))
