"""Answers of the app that are no pages: `/random` leads to a generation, `/sql.csv` and `/sql.parquet` are a query's rows,
`/drawing.js` is the drawings' script.

They ask who is there as Panel's pages do, and work in threads.
"""

import asyncio
import io
import logging
from collections.abc import Sequence
from typing import Any

from bokeh.server.views.auth_request_handler import AuthRequestHandler
from tornado.iostream import StreamClosedError
from tornado.web import RequestHandler, authenticated

from ..errors import ActlakeError
from ..queries import Format, Store, write_rows
from .address import CorpusAddress, SqlAddress
from .early import DrawingScript
from .guarded import Guarded
from .jobs import DOWNLOADS, LIGHT
from .query import Query

_CHUNK = 2**18
TAKEN_S = 60.0
"""How long a piece of a file may wait to be taken."""


class Handler(Guarded, AuthRequestHandler):
    """An answer about the store that the server holds."""

    def initialize(self, held: Sequence[Store]) -> None:
        self.held = held


class Random(Handler):
    """Leads to one of the generations that a corpus address narrows to, or back to the corpus if there is none."""

    @authenticated
    async def get(self) -> None:
        query = f"?{self.request.query}"
        drawn = await asyncio.wrap_future(LIGHT.submit(_drawn, self.held[0], query))
        self.set_header("Cache-Control", "no-store")
        self.redirect(f"./{query if query != '?' else ''}" if drawn is None else f"./generation?id={drawn}")


class Rows(Handler):
    """All rows of `?sql=…` as a file, sent as they come. A query that fails later ends the answer early, so that no browser takes
    a part for the whole."""

    def initialize(self, held: Sequence[Store], how: Format = "csv", kind: str = "text/csv") -> None:
        super().initialize(held)
        self.how, self.kind = how, kind
        self.query: Query | None = None

    @authenticated
    async def get(self) -> None:
        if self.request.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
            self._refuse(403, "a query's rows are given to the app's own pages")
            return
        query = self.query = Query(self.held[0], SqlAddress.parse(f"?{self.request.query}").sql)
        output = _Sent(self, asyncio.get_running_loop())

        def work() -> None:
            with query.open() as rows, io.BufferedWriter(output, _CHUNK) as buffer:
                write_rows(rows, buffer, self.how)

        try:
            await asyncio.wrap_future(DOWNLOADS.submit(work))
        except ActlakeError as error:
            self._end(output, str(error))
        except StreamClosedError:
            pass
        except TimeoutError:
            self._end(output, "nobody took the rows")
        except Exception:  # the rows are cut short, and why is for the log
            logging.getLogger(__name__).exception("sending the rows of a query failed")
            self._end(output, "this could not be sent; the log of `actlake serve` says why")

    async def send(self, piece: bytes) -> None:
        """Send a piece of the file, and wait until it is on its way."""
        if not self._headers_written:
            self.set_header("Content-Type", self.kind)
            self.set_header("Content-Disposition", f'attachment; filename="rows.{self.how}"')
            self.set_header("Cache-Control", "no-store")
        self.write(piece)
        await self.flush()

    def on_connection_close(self) -> None:
        if self.query:
            self.query.stop()

    def _end(self, output: "_Sent", sentence: str) -> None:
        if output.n_bytes == 0:
            self._refuse(400, sentence)
        elif stream := getattr(self.request.connection, "stream", None):
            stream.close()

    def _refuse(self, status: int, sentence: str) -> None:
        self.set_status(status)
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.finish(f"{sentence}\n")


class _Sent(io.RawIOBase):
    """A file that is a browser's: what a thread writes into it is sent, no faster than it is taken. Raises TimeoutError where
    nobody takes it, so that who stopped reading holds no thread for ever."""

    def __init__(self, handler: Rows, loop: asyncio.AbstractEventLoop) -> None:
        self._handler, self._loop = handler, loop
        self.n_bytes = 0
        self._is_left = False

    def writable(self) -> bool:
        return True

    def write(self, piece: Any) -> int:
        held = bytes(piece)
        self.n_bytes += len(held)
        if self._is_left:
            raise TimeoutError
        try:
            asyncio.run_coroutine_threadsafe(self._handler.send(held), self._loop).result(TAKEN_S)
        except TimeoutError:
            self._is_left = True  # a writer that is closed would try again
            raise
        return len(held)


def routes(held: Sequence[Store]) -> list[tuple[str, type[RequestHandler], dict[str, Any]]]:
    """What the server answers beside its pages."""
    return [
        ("/random", Random, {"held": held}),
        ("/drawing.js", DrawingScript, {}),
        (r"/sql\.csv", Rows, {"held": held, "how": "csv", "kind": "text/csv; charset=utf-8"}),
        (r"/sql\.parquet", Rows, {"held": held, "how": "parquet", "kind": "application/vnd.apache.parquet"}),
    ]


def _drawn(store: Store, query: str) -> int | None:
    try:
        asked = CorpusAddress.parse(query)
        metadata = dict(asked.metadata)
        found = store.find_generations(asked.search, run_id=asked.run, metadata=metadata, order_by="random", limit=1)
    except ActlakeError:
        return None
    return int(found.rows["generation_id"][0]) if found.n else None
