"""actlake: a database of what happens inside a transformer language model.

>>> import actlake
>>> sorted(actlake.__all__)[:4]
['ActlakeError', 'Generation', 'Store', 'capture']
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

from actlake.errors import ActlakeError
from actlake.queries import Generation, Store
from actlake.queries import display as _display

if TYPE_CHECKING:
    from actlake.capture import capture

__version__ = "0.1.0"

__all__ = ["ActlakeError", "Generation", "Store", "capture", "open"]


def open(uri: str | os.PathLike[str], *, at: int | None = None) -> Store:  # noqa: A001  `actlake.open` is the contract
    """The store at a folder or a `pyarrow.fs` URI, as it was after commit `at` if one is named; creates nothing.

    Raises StoreNotFound when there is none, CommitNotFound when it has no such commit, CorruptLog when its log is damaged,
    FormatTooNew when it was written by a newer actlake.
    """
    return Store(uri, at=at)


def _html_of(thing: Any) -> str | None:
    """What a notebook shows of a result; drawings are imported when the first is shown."""
    return importlib.import_module("actlake.ui.notebook").html_of(thing)


_display.register(_html_of)


def __getattr__(name: str) -> Any:
    if name == "capture":  # needs torch, which reading a store does not
        return importlib.import_module("actlake.capture")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
