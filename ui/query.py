"""One person's query for a page: run in the sandbox, stopped from any thread, its rows as JSON can say them."""

import json
import threading
import time
from concurrent.futures import Future
from contextlib import suppress
from typing import Any
from weakref import WeakSet

from ..errors import ActlakeError, QueryCancelled, QueryError
from ..queries import Limits, QueryResult, Store, cut

SHOWN_ROWS = 1000
SHOWN_BYTES = 4 * 2**20

LIMITS = Limits(rows=1_000_000, seconds=60, memory_bytes=2**30)

STOPPED = {"state": "failed", "message": "stopped"}

_running: "WeakSet[Query]" = WeakSet()


class Query:
    """A query that a page asked for. `stop` ends it, before it began or while it runs; `begun` is done when its turn came."""

    def __init__(self, store: Store, sql: str) -> None:
        self._store, self._sql = store, sql
        self._result: QueryResult | None = None
        self._stopped = threading.Event()
        self.begun: Future[None] = Future()
        _running.add(self)

    def open(self) -> QueryResult:
        """The rows, as they come. Raises QueryError, QueryStopped, QueryCancelled."""
        if self._stopped.is_set():
            raise QueryCancelled
        self._result = self._store.read_sql(self._sql, limits=LIMITS)
        if self._stopped.is_set():
            self._result.close()
            raise QueryCancelled
        return self._result

    def stop(self) -> None:
        self._stopped.set()
        if self._result:
            self._result.cancel()

    def payload(self) -> dict[str, Any]:
        """What the page shows: the first rows, and in one line how it went."""
        begun = time.monotonic()
        self.begun.set_result(None)
        try:
            with self.open() as result:
                rows, is_all = _first_rows(result)
        except QueryCancelled:
            return STOPPED
        except ActlakeError as error:
            return {"state": "failed", "message": str(error)}
        seconds = time.monotonic() - begun
        counted = f"{len(rows):,} row{'' if len(rows) == 1 else 's'}" if is_all else f"the first {len(rows):,} rows"
        return {
            "state": "done",
            "sql": self._sql,
            "message": f"{counted} in {seconds:.2f} s",
            "columns": [cut(name) for name in result.columns],
            "types": list(result.types),
            "rows": rows,
        }


def stop_all() -> None:
    """End every query that runs: the server ends."""
    for query in list(_running):
        query.stop()


def _first_rows(result: QueryResult) -> tuple[list[list[Any]], bool]:
    """Rows that a page can hold, and whether these are all."""
    rows: list[list[Any]] = []
    size = 0
    for batch in result.lines("cells"):
        for line in batch[0].to_pylist():
            if len(rows) == SHOWN_ROWS or size > SHOWN_BYTES:
                return rows, False
            rows.append(json.loads(line))
            size += sum(len(value) if isinstance(value, str) else 8 for value in rows[-1])
    return rows, True


def tables_of(store: Store) -> list[dict[str, Any]]:
    """The tables, views and macros with their columns and what they mean, in the order of `.schema`."""
    tables: dict[str, dict[str, Any]] = {}
    with suppress(QueryError), store.read_sql(".schema", limits=LIMITS) as rows:
        for name, kind, column, of_type, comment in rows.fetchall():
            if column is None:
                tables[name] = {"name": name, "kind": kind, "comment": comment or "", "columns": []}
            else:
                tables[name]["columns"].append([column, of_type, comment or ""])
    return list(tables.values())
