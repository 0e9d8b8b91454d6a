"""Answers of the app that are no pages: `/random` leads to a generation, `/drawing.js` is the drawings' script.

They ask who is there as Panel's pages do, and work in threads.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

from bokeh.server.views.auth_request_handler import AuthRequestHandler
from tornado.web import RequestHandler, authenticated

from ..errors import ActlakeError
from ..queries import Store
from .address import CorpusAddress
from .early import DrawingScript
from .jobs import LIGHT


class Handler(AuthRequestHandler):
    """An answer about the store that the server holds."""

    def initialize(self, held: Sequence[Store]) -> None:
        self.held = held

    def get_login_url(self) -> str:
        return "./login"


class Random(Handler):
    """Leads to one of the generations that a corpus address narrows to, or back to the corpus if there is none."""

    @authenticated
    async def get(self) -> None:
        query = f"?{self.request.query}"
        drawn = await asyncio.wrap_future(LIGHT.submit(_drawn, self.held[0], query))
        self.set_header("Cache-Control", "no-store")
        self.redirect(f"./{query if query != '?' else ''}" if drawn is None else f"./generation?id={drawn}")


def routes(held: Sequence[Store]) -> list[tuple[str, type[RequestHandler], dict[str, Any]]]:
    """What the server answers beside its pages."""
    return [("/random", Random, {"held": held}), ("/drawing.js", DrawingScript, {})]


def _drawn(store: Store, query: str) -> int | None:
    try:
        asked = CorpusAddress.parse(query)
        metadata = dict(asked.metadata)
        found = store.find_generations(asked.search, run_id=asked.run, metadata=metadata, order_by="random", limit=1)
    except ActlakeError:
        return None
    return int(found.rows["generation_id"][0]) if found.n else None
