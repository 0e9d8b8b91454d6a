"""The early part of a page: sent, painted and alive before Panel has made the page's session.

A session costs the server a tenth of a second, and its scripts cost the browser several more. So a page's answer comes in two
pieces: the head, the heading and the drawing, as soon as the store has them; then, when the session is there, the rest, which
takes the place of the early part once it is drawn. What was pinned meanwhile is handed over.
"""

import asyncio
import json
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha256
from typing import Any

import jinja2
from markupsafe import Markup
from panel.io.server import DocHandler
from tornado.iostream import StreamClosedError
from tornado.web import HTTPError, RequestHandler, authenticated

from ..errors import ActlakeError
from ..queries import Store
from .guarded import Guarded
from .jobs import LIGHT
from .modules import STATIC, drawing_css, drawing_module
from .page import FRAME_CSS, PAGE_CSS, PAGE_JS, THEME_CSS, WAITING, css, places, problem

PATIENCE_S = 0.5
"""How long the early part waits for its drawing; a page whose drawing takes longer begins with its heading alone."""

FULL = problem("as many people look at this store as there is room for; reload this page in a minute")


@dataclass(frozen=True)
class Early:
    """What is known of a page before its session: `payload` gives what is drawn under `markup`, with `state` pinned."""

    title: str
    markup: Markup
    payload: Callable[[], Mapping[str, Any]] | None = None
    state: Mapping[str, Any] = field(default_factory=dict)


Make = Callable[[Store, str], Early]
"""The early part of a page, from the store and the address's query string. May raise ActlakeError, which is then shown."""


def install(application: Any, held: Sequence[Store], pages: Mapping[str, Make], most_sessions: int) -> None:
    """Has a Panel server's Tornado application send its pages in two pieces; those not in `pages` begin with their header.

    Past `most_sessions` a page is a sentence that says so, and no session is made.
    """
    handler = type("PageHandler", (_PageHandler,), {"held": held, "pages": pages, "most_sessions": most_sessions})
    for rule in application.wildcard_router.rules:
        if rule.target is DocHandler:
            rule.target = rule.handler_class = handler


class _PageHandler(Guarded, DocHandler):
    held: Sequence[Store]
    pages: Mapping[str, Make]
    most_sessions: int

    @authenticated
    async def get(self, *args: Any, **kwargs: Any) -> None:
        if self.request.path == self.application.prefix:  # Panel sends the browser to the folder
            await super().get(*args, **kwargs)  # type: ignore[misc]  # Tornado's decorator hides that it waits
            return
        if any(name.lower().startswith("bokeh-") for name in (*self.request.arguments, *self.request.headers)):
            raise HTTPError(400, "a page's session is its own")  # nobody chooses the session that another's page gets
        self.set_header("Cache-Control", "no-store")
        self.set_header("Content-Type", "text/html; charset=utf-8")
        if is_full(self.application, self.most_sessions):
            self.set_status(503)
            self.set_header("Retry-After", "15")
            self.finish(head(f"/{self.request.path.rpartition('/')[2]}", Early("actlake", FULL), None))
            return
        self.write(await self._early())
        try:
            await self.flush()
        except StreamClosedError:  # nobody is there any more who wants a session
            return
        await super().get(*args, **kwargs)  # type: ignore[misc]  # Tornado's decorator hides that it waits

    async def _early(self) -> str:
        route = f"/{self.request.path.rpartition('/')[2]}"
        early, payload = Early("actlake", WAITING), None
        if (make := self.pages.get(route)) is None:
            return head(route, early, payload)
        try:
            early = await asyncio.wrap_future(LIGHT.submit(make, self.held[0], self.request.query))
            payload = await _in_time(early.payload) if early.payload else None
        except ActlakeError as error:
            early, payload = Early("actlake", problem(str(error))), None
        except Exception:  # the session, which is made all the same, says what it can; why is for the log
            logging.getLogger(__name__).exception("the early part of a page could not be made")
        return head(route, early, payload)


def is_full(application: Any, most_sessions: int) -> bool:
    """Whether a Panel server's Tornado application has as many sessions as it may."""
    return sum(len(list(context.sessions)) for context in application._applications.values()) >= most_sessions


class DrawingScript(RequestHandler):
    """The drawings' module as a plain script, which a browser keeps: its address changes when it does."""

    def get(self) -> None:
        self.set_header("Content-Type", "text/javascript; charset=utf-8")
        self.set_header("Cache-Control", "public, max-age=31536000, immutable")
        self.write(drawing_script())


def head(route: str, early: Early, payload: Mapping[str, Any] | None) -> str:
    """The HTML of a page's first piece."""
    return _template().render(
        title=early.title,
        places=places(route),
        theme_css=Markup(css(THEME_CSS)),
        frame_css=Markup(css(FRAME_CSS)),
        page_css=Markup(css(PAGE_CSS) + drawing_css()),
        page_js=Markup(css(PAGE_JS)),
        markup=early.markup,
        payload=payload and _json({"data": payload, "state": early.state}),
        version=sha256(drawing_script().encode()).hexdigest()[:16],
    )


@cache
def drawing_script() -> str:
    """The drawings' module as a script that needs no `import`: it leaves `drawEarly` behind."""
    module = re.sub(r"^export default .*$", "", drawing_module(), flags=re.MULTILINE)
    return f"globalThis.drawEarly = (() => {{\n{re.sub(r'^export ', '', module, flags=re.MULTILINE)}\nreturn draw;\n}})();\n"


@cache
def _template() -> jinja2.Template:
    return jinja2.Environment(autoescape=True).from_string(css(STATIC / "head.html"))


def _json(value: object) -> Markup:
    """JSON that may stand in a script element: no `<` can end it."""
    return Markup(json.dumps(value, allow_nan=False).replace("<", "\\u003c"))


async def _in_time(payload: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The payload, or None when it is late or cannot be made: the session then says why."""
    work = asyncio.wrap_future(LIGHT.submit(payload))
    done, _ = await asyncio.wait({work}, timeout=PATIENCE_S)
    if not done:
        return None
    if error := work.exception():
        if not isinstance(error, ActlakeError):
            logging.getLogger(__name__).error("an early drawing failed", exc_info=error)
        return None
    return work.result()
