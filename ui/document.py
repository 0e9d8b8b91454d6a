"""Pages that stand alone: drawings with their data, the module that draws them and its styles, in one HTML text.

Nothing in them is loaded from anywhere: a policy in the page forbids it, so that it works from a folder, in a notebook's
frame, and without a network.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from markupsafe import Markup

from .modules import STATIC, drawing_css, drawing_module

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'unsafe-inline'",
        "style-src 'unsafe-inline'",
        "img-src data: blob:",
        "base-uri 'none'",
        "form-action 'none'",
    )
)


@dataclass(frozen=True)
class Shown:
    """One drawing: its name among others, what is drawn, and what is pinned in it."""

    name: str
    payload: Mapping[str, Any]
    state: Mapping[str, Any] = field(default_factory=dict)


def document(title: str, shown: Sequence[Shown], *, before: Markup = Markup(""), after: Markup = Markup("")) -> str:  # noqa: B008
    """The HTML of a page with these drawings, each under its name where there are several, between other markup."""
    names = [one.name for one in shown]
    data = [{"payload": dict(one.payload), "state": dict(one.state)} for one in shown]
    tabs = Markup("").join(
        Markup('<button type="button" role="tab" data-view="{}">{}</button>').format(place, name)
        for place, name in enumerate(names)
    )
    return str(
        Markup(
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta http-equiv="Content-Security-Policy" content="{policy}">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            "<title>{title}</title><style>{css}</style></head><body>\n"
            '{before}{tabs}<div id="drawing"></div>{after}\n'
            '<script type="application/json" id="data">{data}</script>\n'
            '<script type="module">{module}</script></body></html>\n'
        ).format(
            policy=POLICY,
            title=title,
            css=Markup(_css()),
            before=before,
            tabs=Markup('<div class="views" role="tablist">{}</div>').format(tabs) if len(shown) > 1 else "",
            after=after,
            data=Markup(_json(data)),
            module=Markup(_script()),
        )
    )


@cache
def _css() -> str:
    names = ("theme.css", "document.css")
    return "\n".join([*((STATIC / name).read_text(encoding="utf-8") for name in names), drawing_css()])


@cache
def _script() -> str:
    """The module and what starts it; a script's text ends at the first `</script`, which none of it may hold."""
    script = f"{drawing_module()}\n{(STATIC / 'document.js').read_text(encoding='utf-8')}"
    assert "</script" not in script.lower()
    assert "<!--" not in script
    return script


def _json(value: Any) -> str:
    """JSON that can stand in a script: no text of a store can end the script, or begin a comment in it."""
    return json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
