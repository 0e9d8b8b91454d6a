"""What the operating system lets a query's process do: read some files, take some memory; write nothing, start nothing.

DuckDB's own settings come on top. This holds when they do not: limits of the kernel on every Unix, and on Linux
Landlock, which is used as far as the kernel has it.
"""

import ctypes
import os
import resource
import struct
import sys
from collections.abc import Iterable
from contextlib import suppress

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same on every architecture
_ABI = 1  # a flag: ask for the version
_BENEATH = 1  # a kind of rule: this file, or all under this folder
_NO_NEW_PRIVILEGES = 38
_READ_FILE, _READ_FOLDER = 1 << 2, 1 << 3
_FILE_RIGHTS = ((5, 16), (3, 15), (2, 14), (1, 13))  # (since version, how many rights it knows)
_TCP_SINCE, _TCP_RIGHTS = 4, 0b11
_SCOPES_SINCE, _SCOPES = 6, 0b11  # abstract sockets and signals reach no process outside


def limit_files_and_dumps() -> None:
    """From here on no file can grow, and a crash leaves no core."""
    _limit(resource.RLIMIT_FSIZE, 0)
    _limit(resource.RLIMIT_CORE, 0)


def limit_memory_and_time(memory_bytes: int, cpu_seconds: float) -> None:
    """From here on an allocation beyond `memory_bytes` fails, and the kernel ends the process after `cpu_seconds` more.

    Where the system has no such limit (macOS), DuckDB's own is the only one on memory.
    """
    _limit(resource.RLIMIT_DATA, memory_bytes)
    used = resource.getrusage(resource.RUSAGE_SELF)
    _limit(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime + cpu_seconds) + 1)


def landlock(readable: Iterable[str], *, network: bool) -> int:
    """Let this process, from here on, open for reading what lies under `readable`, and nothing else; connect nowhere.

    Gives the version of Landlock that holds, 0 where the kernel has none. It holds for this thread and those that it
    starts, so call it before anything works in another. Raises OSError when the kernel has Landlock and refuses.
    """
    version = landlock_version()
    if version < 1:
        return 0
    libc = ctypes.CDLL(None, use_errno=True)
    rights = next(count for since, count in _FILE_RIGHTS if version >= since)
    tcp = 0 if network or version < _TCP_SINCE else _TCP_RIGHTS
    handled = struct.pack("=QQQ", (1 << rights) - 1, tcp, _SCOPES if version >= _SCOPES_SINCE else 0)
    size = 24 if version >= _SCOPES_SINCE else 16 if version >= _TCP_SINCE else 8
    rules = _checked(libc.syscall(_CREATE_RULESET, handled, size, 0))
    for path in readable:
        with suppress(FileNotFoundError):
            opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
            allowed = _READ_FILE | (_READ_FOLDER if os.path.isdir(path) else 0)
            _checked(libc.syscall(_ADD_RULE, rules, _BENEATH, struct.pack("=Qi", allowed, opened), 0))
            os.close(opened)
    _checked(libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0))
    _checked(libc.syscall(_RESTRICT_SELF, rules, 0))
    os.close(rules)
    return version


def landlock_version() -> int:
    """The version of Landlock that this kernel has; 0 or less where it has none, or has it switched off."""
    if not sys.platform.startswith("linux"):
        return 0
    return int(ctypes.CDLL(None, use_errno=True).syscall(_CREATE_RULESET, None, 0, _ABI))


def _limit(kind: int, value: int) -> None:
    hard = resource.getrlimit(kind)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    with suppress(ValueError, OSError):  # macOS refuses some
        resource.setrlimit(kind, (value, value))


def _checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), f"Landlock: {os.strerror(ctypes.get_errno())}")
    return result
