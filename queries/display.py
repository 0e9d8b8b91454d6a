"""How results display themselves in a notebook: by whoever has registered to draw them.

`queries/` knows nothing of pages. The package's root registers `actlake.ui`, which is imported when something is first
displayed; without it, or for what it does not draw, a notebook shows the plain text.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import pandas as pd

Displayer = Callable[[Any], str | None]
"""Gives the HTML of a thing, or None where there is nothing to draw."""

_displayer: Displayer | None = None


def register(displayer: Displayer) -> None:
    """Have things displayed by this function from now on."""
    global _displayer
    _displayer = displayer


class Displayed:
    """Something that a notebook draws."""

    __slots__ = ()

    def _repr_html_(self) -> str | None:
        """What Jupyter, VS Code and the like show of it; None, and they show its text."""
        return _displayer(self) if _displayer else None


ViewName = Literal["saliency", "factors", "activations", "layers"]
VIEW_NAMES: tuple[ViewName, ...] = get_args(ViewName)


@dataclass(frozen=True)
class View(Displayed):
    """A view of a generation, to be displayed: `result` is what it is drawn from, `state` what is pinned in it.

    Of layers, `watched` (a frame of layer, token, rank and probability at `position`) is drawn beside them.
    """

    name: ViewName
    generation: Any = field(repr=False)
    result: Any = field(repr=False)
    state: Mapping[str, Any] = field(default_factory=dict)
    watched: pd.DataFrame | None = field(default=None, repr=False)
    position: int = 0
