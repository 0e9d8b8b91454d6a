"""The threads that encode, decode, and work on activations."""

import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache


def threads() -> ThreadPoolExecutor:
    """The process's pool: as many threads as it may use cores."""
    return _pool(os.getpid())


def n_threads() -> int:
    """How many they are."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return cores or 1


@cache
def _pool(_: int) -> ThreadPoolExecutor:  # a forked child needs its own
    return ThreadPoolExecutor(n_threads(), thread_name_prefix="actlake-pool")
