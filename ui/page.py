"""What every page shares: its frame, its styles, and text that is always escaped.

Panel's text panes execute HTML, so every text of the store goes through `Markup.format`, which escapes what it is
given.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import panel as pn
import param
from markupsafe import Markup
from panel.io.location import Location

from ..errors import ActlakeError
from .strip import STATIC

PAGE_HTML = STATIC / "page.html"
PAGE_JS = STATIC / "page.js"
THEME_CSS = STATIC / "theme.css"
FRAME_CSS = STATIC / "frame.css"
PAGE_CSS = STATIC / "page.css"
CONTROL_CSS = STATIC / "control.css"

WAITING = Markup('<p class="status loading" role="status">Loading …</p>')
NOT_MADE = "this page could not be made; the log of `actlake serve` says why"
Found = TypeVar("Found")

NAVIGATION = {"Corpus": "/", "Neurons": "/neuron", "Factors": "/factors", "SQL": "/sql"}
"""What the header links to, of the routes in `app.PAGES`. Links are relative, so that a proxy may put the app in a folder."""


def page(title: str, *parts: Any) -> pn.Template:
    """The late piece of a page (`early` has sent the first): `parts` one under another."""
    template = _Template(css(PAGE_HTML), location=True)
    template.add_variable("page_title", title)
    template.add_panel("main", pn.Column(*parts, sizing_mode="stretch_width", margin=0))
    return template


def later(
    title: str,
    parts: Sequence[Any],
    begin: Callable[[], "Future[Found]"],
    fill: Callable[[Found], None],
    failed: Callable[[ActlakeError], Markup] = lambda error: problem(str(error)),
) -> pn.Template:
    """The late piece of a page whose `parts` show what a thread finds: the session is there at once, and `fill` is told what was
    found, so that what one page waits for holds up no other. Of an error there is what `failed` says."""
    status, body = html(WAITING), pn.Column(*parts, sizing_mode="stretch_width", margin=0)

    async def find() -> None:
        job = begin()

        def leave(context: object) -> None:
            job.cancel()  # if it stands in the line

        pn.state.on_session_destroyed(leave)
        try:
            fill(await asyncio.wrap_future(job))
            status.visible = False
            return
        except ActlakeError as error:
            status.object = str(failed(error))
        except Exception:  # the page must say that the wait is over; why is for the log
            logging.getLogger(__name__).exception("a page could not be made")
            status.object = str(problem(NOT_MADE))
        body.visible = False  # nothing comes that it could wait for

    pn.state.onload(find)
    return page(title, status, body)


def html(markup: Markup, **options: Any) -> pn.pane.HTML:
    """A pane of markup; takes Markup only, so that a bare text cannot slip through unescaped."""
    given = {"sizing_mode": "stretch_width", "margin": 0, "stylesheets": [css(PAGE_CSS)]}
    return pn.pane.HTML(str(markup), **(given | options))


def problem(sentence: str) -> Markup:
    """One clear line that says what went wrong, with the way back."""
    return Markup('<p class="problem" role="alert">{} <a href="./">Back to the corpus</a></p>').format(sentence)


def facts_list(facts: Mapping[str, object]) -> Markup:
    """What is known of a thing, in one line."""
    items = Markup("").join(Markup("<div><dt>{}</dt><dd>{}</dd></div>").format(*fact) for fact in facts.items())
    return Markup('<dl class="facts">{}</dl>').format(items)


class CopyAs(pn.viewable.Viewer):
    """Buttons that copy what reproduces a view; `python` and `sql` may be set again when the view changes, "" hides a button."""

    python = param.String(default="")
    sql = param.String(default="")

    def __init__(self, **params: Any) -> None:
        super().__init__(**params)  # type: ignore[no-untyped-call]  # Panel does not annotate it
        self._pane = html(_copies(self.python, self.sql), margin=(10, 0, 0, 0))
        self.param.watch(self._draw, ["python", "sql"])

    def __panel__(self) -> pn.pane.HTML:
        return self._pane

    def _draw(self, *events: object) -> None:
        self._pane.object = str(_copies(self.python, self.sql))


def copy_as(*, python: str = "", sql: str = "") -> CopyAs:
    """A line with "copy as Python" and "copy as SQL", each there if it has a text."""
    return CopyAs(python=python, sql=sql)


def _copies(python: str, sql: str) -> Markup:
    texts = {"copy as Python": python, "copy as SQL": sql}
    buttons = Markup("").join(
        Markup('<button type="button" data-copy="{}">{}</button>').format(text, name)
        for name, text in texts.items()
        if text
    )
    return Markup(
        '<div class="copies">{}<output aria-live="polite"></output><textarea hidden readonly spellcheck="false"></textarea></div>'
    ).format(buttons)


def places(route: str) -> Markup:
    """The header's links to the pages, that to `route` marked."""
    return Markup("").join(
        Markup('<a href="./{}"{}>{}</a>').format(
            path.removeprefix("/"), Markup(' aria-current="page"') if path == route else "", name
        )
        for name, path in NAVIGATION.items()
    )


class _Template(pn.Template):
    """A template without what Panel makes of one in a notebook: a fifth of a session's time."""

    def _build_layout(self) -> pn.Column:
        return pn.Column(pn.pane.Str(""))

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


@cache
def css(path: Path) -> str:
    """The text of a file beside this one, read once."""
    return path.read_text(encoding="utf-8")


def address_bar() -> Location:
    """The address of the page that is being made; writing its `search` makes a new entry in the browser's history."""
    location = pn.state.location
    assert location is not None, "a page is made for a browser, and a browser has an address"
    return location
