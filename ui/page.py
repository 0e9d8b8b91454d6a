"""What every page shares: its frame, its styles, and text that is always escaped.

Panel's text panes execute HTML, so every text of the store goes through `Markup.format`, which escapes what it is
given.
"""

from functools import cache
from pathlib import Path
from typing import Any

import panel as pn
from markupsafe import Markup
from panel.io.location import Location

from .strip import STATIC

PAGE_HTML = STATIC / "page.html"
PAGE_CSS = STATIC / "page.css"
CONTROL_CSS = STATIC / "control.css"


def page(title: str, *parts: Any) -> pn.Template:
    """A whole page: the header, and `parts` one under another."""
    template = pn.Template(PAGE_HTML.read_text(encoding="utf-8"), location=True)
    template.add_variable("page_title", title)
    template.add_variable("page_css", css(PAGE_CSS))
    template.add_panel("main", pn.Column(*parts, sizing_mode="stretch_width", margin=0))
    return template


def html(markup: Markup, **options: Any) -> pn.pane.HTML:
    """A pane of markup; takes Markup only, so that a bare text cannot slip through unescaped."""
    return pn.pane.HTML(str(markup), sizing_mode="stretch_width", margin=0, stylesheets=[css(PAGE_CSS)], **options)


def problem(sentence: str) -> Markup:
    """One clear line that says what went wrong, with the way back."""
    return Markup('<p class="problem" role="alert">{} <a href="/">Back to the corpus</a></p>').format(sentence)


@cache
def css(path: Path) -> str:
    """A stylesheet's text, read once."""
    return path.read_text(encoding="utf-8")


def address_bar() -> Location:
    """The address of the page that is being made; writing its `search` makes a new entry in the browser's history."""
    location = pn.state.location
    assert location is not None, "a page is made for a browser, and a browser has an address"
    return location
