"""The one Panel component that draws: any payload of any view, by the same module that notebooks and saved pages use."""

import json
from typing import Any, ClassVar

import param
from panel.custom import JSComponent

from .modules import drawing_css, drawing_module


class Drawing(JSComponent):
    """A drawing in a Panel page.

    `payload` is JSON text whose `kind` names the view, empty while there is nothing to draw; `busy` dims what is drawn while
    something newer is worked out. `state` is what is pinned and chosen, by names of the view; the page writes it too.
    """

    payload = param.String(default="")
    busy = param.Boolean(default=False)
    state = param.Dict(default={})

    _esm = drawing_module()
    _stylesheets: ClassVar[list[str]] = [drawing_css()]

    def __init__(self, **params: Any) -> None:
        given = {"sizing_mode": "stretch_width", "margin": 0, "min_height": 120}
        super().__init__(**(given | params))  # type: ignore[no-untyped-call]  # Panel does not annotate it

    def draw(self, payload: dict[str, Any]) -> None:
        """Shows this payload in place of the one before."""
        self.payload = json.dumps(payload, allow_nan=False)
