"""The app, notebooks and saved pages: what a store holds, seen in a browser.

`serve` and `Server` are the app's door, and importing them imports Panel; a notebook's drawings need none of it.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .app import Server, serve

__all__ = ["Server", "serve"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from . import app

        return getattr(app, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
