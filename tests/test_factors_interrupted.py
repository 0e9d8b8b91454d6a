"""Ctrl-C in the middle of `actlake factors`: one line, and nothing is left of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import actlake
import pytest
import stores
from actlake.store import Location, verify

LONG = ["--k", "3", "--reruns", "3000", "--save", "half"]
STREAMED = """
import sys
from actlake.cli import cli
from actlake.queries import Store
Store.factors.__kwdefaults__["in_memory_bytes"] = 0
cli(sys.argv[1:])
"""
"""The command, for which this small store is too large for memory."""


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def n_temporary(pid: int, folder: Path) -> int:
    """How many files of a folder a process has open that have no name any more."""
    found = 0
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):  # it was just closed
            name = os.readlink(link)
            found += name.startswith(str(folder)) and name.endswith("(deleted)")
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGINT, 1, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_a_factorization_that_is_interrupted_is_one_line_and_leaves_nothing(
    tmp_path: Path, number: int, code: int, word: str
) -> None:
    location, scratch = Location.of(tmp_path / "store"), tmp_path / "scratch"
    stores.a_store(location, units=4, unit_size=10)
    scratch.mkdir()
    before = names(tmp_path / "store")
    environment = {**os.environ, "TMPDIR": str(scratch), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", STREAMED, "factors", location.uri, *LONG]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        until(
            lambda: n_temporary(process.pid, scratch) >= 3, process
        )  # ids, positions, and by now the values of tokens
        process.send_signal(number)
        printed, said = process.communicate(timeout=60)
    assert process.returncode == code, said
    assert printed == ""
    assert [line for line in said.splitlines() if not line.startswith(("nanobind", " - "))] == [
        f"actlake: {word}; factors are saved whole or not at all"
    ]
    assert names(scratch) == []
    assert names(tmp_path / "store") == before
    assert actlake.open(location.uri).factorizations().empty
    assert verify(location, deep=True).unreferenced == ()


def until(holds: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 60
    while not holds():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "it never came so far"
        time.sleep(0.01)
