"""What the C library does with memory that was freed (glibc; elsewhere nothing is changed here)."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_MOST = (1 << 31) - 1
_OWN_MOST = 1 << 25
"""glibc's own thresholds grow with what is freed: up to this for blocks that are the system's, twice this for the heap's end."""


def give_back() -> None:
    """Have the C library return what it keeps of freed memory, where it knows how to: milliseconds."""
    if trim := _c("malloc_trim"):
        trim(0)


@contextmanager
def kept_memory() -> Iterator[None]:
    """Within it, what is freed stays in the process, for what is allocated next; at the end it is given back.

    Large blocks are else returned at once, and each page that the system gives again is zeroed when it is first touched: a
    seventh of the time of `generate()` on a virtual machine (docs/benchmarks.md).
    """
    if _c("mallopt"):
        _set_thresholds(_MOST, _MOST)
    try:
        yield
    finally:
        if _c("mallopt"):
            _set_thresholds(2 * _OWN_MOST, _OWN_MOST)
        give_back()


def _set_thresholds(trim: int, mmap: int) -> None:
    _c("mallopt")(_TRIM_THRESHOLD, trim)
    _c("mallopt")(_MMAP_THRESHOLD, mmap)


@cache
def _c(name: str) -> Any:
    """A function of the C library, None where it has none of that name."""
    return getattr(ctypes.CDLL(None) if os.name == "posix" else None, name, None)
