"""A store opened for reading: SQL over all of it, and its generations one by one."""

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import duckdb
import pandas as pd

from ..errors import GenerationNotFound
from ..store import TABLES, Location, Log, Reader
from .connection import check_reads_only, connect, query_error
from .generation import Generation


class Store:
    """A snapshot of a store, and what can be asked of it. Commits made later are seen after `refresh()`."""

    def __init__(self, uri: str | os.PathLike[str]) -> None:
        """Open a store. Creates nothing. Raises StoreNotFound, CorruptLog or FormatTooNew."""
        self.location = Location.of(uri)
        self._log = Log(self.location)
        self.snapshot = self._log.snapshot()
        self._reader = Reader(self.location)
        self._connections: dict[bool, duckdb.DuckDBPyConnection] = {}

    @property
    def uri(self) -> str:
        return self.location.uri

    def refresh(self) -> "Store":
        """See what was committed since; relations and generations in hand keep what they saw."""
        newest = self._log.snapshot(after=self.snapshot)
        if newest.version != self.snapshot.version:
            self.snapshot, self._connections = newest, {}
        return self

    def sql(self, query: str, params: Sequence[Any] | Mapping[str, Any] | None = None) -> duckdb.DuckDBPyRelation:
        """A DuckDB relation over the tables and views (`.df()`, `.pl()`, `.arrow()`, `.fetchnumpy()` give its rows).

        This is all of DuckDB, in your process, with your rights; values go in `params` (`?` or `$name`).
        Raises QueryError, with DuckDB's message in one line.
        """
        return self._relation(query, params, locked=False)

    def connect(self) -> duckdb.DuckDBPyConnection:
        """A DuckDB connection with the tables and views, for what `sql` has no door to: your own frames, `register`, …"""
        return self._connection(locked=False).cursor()

    def read_sql(self, query: str, params: Sequence[Any] | Mapping[str, Any] | None = None) -> duckdb.DuckDBPyRelation:
        """As `sql`, for SQL that someone else wrote: one statement that reads, no file outside the store, no network."""
        check_reads_only(self._connection(locked=True), query)
        return self._relation(query, params, locked=True)

    def runs(self) -> pd.DataFrame:
        """The rows of `runs`, by run_id."""
        return self.sql("select * from runs order by run_id").df()

    def generations(self) -> pd.DataFrame:
        """The rows of `generations` with their run's model, by generation_id."""
        return self.sql("""
            select generation_id, run_id, model, prompt, completion, n_prompt_tokens, n_tokens, finish_reason, metadata
            from generations join runs using (run_id)
            order by generation_id
        """).df()

    def neighbours(self, generation_id: int) -> tuple[int | None, int | None]:
        """The numbers of the generations before and after one, None where there is none."""
        query = (
            "select max(generation_id) filter (generation_id < $id), min(generation_id) filter (generation_id > $id)"
        )
        ((before, after),) = self.sql(f"{query} from generations", {"id": generation_id}).fetchall()
        return before, after

    def generation(self, generation_id: int) -> Generation:
        """One generation. Raises GenerationNotFound."""
        rows = self._reader.rows(self.snapshot, "generations", generation_id=generation_id).to_pylist()
        if not rows:
            ((n, last),) = self.sql("select count(*), max(generation_id) from generations").fetchall()
            raise GenerationNotFound(generation_id, n, last)
        row = rows[0]
        (run,) = self._reader.rows(self.snapshot, "runs", run_id=row["run_id"]).to_pylist()
        layers = json.loads(run["generation_config"])["layers"] if "activations" in run["recorded"] else ()
        return Generation(
            **{**row, "metadata": json.loads(row["metadata"])},
            model=run["model"],
            recorded=frozenset(run["recorded"]),
            layers=tuple(layers),
            _reader=self._reader,
            _snapshot=self.snapshot,
        )

    def size(self) -> pd.DataFrame:
        """For each table its files, rows and bytes on disk."""
        rows = [
            {
                "table": name,
                "files": len(files),
                "rows": sum(f.rows for f in files),
                "bytes": sum(f.bytes for f in files),
            }
            for name in TABLES
            for files in [self.snapshot.of(name)]
        ]
        return pd.DataFrame(rows)

    def __repr__(self) -> str:
        n_generations = sum(file.rows for file in self.snapshot.of("generations"))
        return f"<actlake.Store {self.uri!r}: {len(self.snapshot.reservations)} runs, {n_generations} generations>"

    def _relation(
        self, query: str, params: Sequence[Any] | Mapping[str, Any] | None, *, locked: bool
    ) -> duckdb.DuckDBPyRelation:
        try:
            return self._connection(locked=locked).cursor().sql(query, params=params)
        except duckdb.Error as error:
            raise query_error(error) from error

    def _connection(self, *, locked: bool) -> duckdb.DuckDBPyConnection:
        if locked not in self._connections:
            self._connections[locked] = connect(self.location, self.snapshot, locked=locked)
        return self._connections[locked]
