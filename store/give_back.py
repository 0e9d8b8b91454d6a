"""Memory that was freed, given back to the system."""

import ctypes
import os
from functools import cache
from typing import Any


def give_back() -> None:
    """Have the C library return what it keeps of freed memory, where it knows how to (glibc): milliseconds."""
    if trim := _trim():
        trim(0)


@cache
def _trim() -> Any:
    return getattr(ctypes.CDLL(None) if os.name == "posix" else None, "malloc_trim", None)
