"""The controls that pages have in common: Panel's widgets in the pages' look, and the row that they stand in."""

from typing import Any

import panel as pn

from .page import CONTROL_CSS, css


def select(label: str, options: dict[str, Any], value: Any, width: int) -> pn.widgets.Select:
    """A choice: `options` are values by what is said of them."""
    return pn.widgets.Select(label=label, options=options, value=value, width=width, **_look())


def number(label: str, value: int, start: int, end: int, width: int = 100) -> pn.widgets.IntInput:
    """A whole number from `start` to `end`."""
    return pn.widgets.IntInput(label=label, value=value, start=start, end=end, width=width, **_look())


def text(label: str, value: str, placeholder: str, width: int) -> pn.widgets.TextInput:
    """A line of text."""
    return pn.widgets.TextInput(label=label, value=value, placeholder=placeholder, width=width, **_look())


def check(label: str, value: bool) -> pn.widgets.Checkbox:
    """A box to tick; its text stands as high as those in the boxes beside it."""
    return pn.widgets.Checkbox(label=label, value=value, **_look() | {"margin": (0, 0, 7, 0), "align": "end"})


def button(label: str, **options: Any) -> pn.widgets.Button:
    """A button that stands beside boxes."""
    return pn.widgets.Button(label=label, **_look() | {"align": "end"} | options)


def row(*parts: Any, margin: Any = (0, 0, 14, 0)) -> pn.Row:
    """Controls beside one another, in as many lines as they need."""
    wrapping = {"flex-wrap": "wrap", "gap": "10px 18px", "align-items": "flex-end"}
    return _Row(*parts, styles=wrapping, margin=margin, sizing_mode="stretch_width")


def _look() -> dict[str, Any]:
    return {"margin": 0, "stylesheets": [css(CONTROL_CSS)]}


class _Row(pn.Row):
    """A row that wraps: Panel would make it, and the page, as wide as all that is in it."""

    def _compute_sizing_mode(self, children: Any, props: Any) -> dict[str, Any]:
        return {**super()._compute_sizing_mode(children, props), "min_width": 0}  # type: ignore[no-untyped-call]
