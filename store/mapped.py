"""Arrays on disk that are larger than they should be in memory."""

import mmap

import numpy as np


def let_go(array: np.ndarray) -> None:
    """What was looked at of an array on disk (`np.memmap`) leaves this process's memory; what was written there stays written.

    Else all of a file that is gone through piece by piece counts as the process's own, until the machine runs short. Of another
    array, and where the system has no such call, nothing happens.
    """
    mapped = getattr(array, "_mmap", None)
    if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)
