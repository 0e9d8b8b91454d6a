"""Signals that come at a bad moment."""

import signal
import subprocess
import sys

import pytest

CLEARS_AWAY = """
import os, sys, time, weakref
from actlake.cli.command import command, terminable

class Kept:
    pass

def cleared() -> None:
    os.kill(os.getpid(), int(sys.argv.pop()))
    sum(range(10_000))

@command
@terminable()
def waiting() -> None:
    kept = Kept()
    weakref.finalize(kept, cleared)
    del kept
    for _ in range(2000):
        time.sleep(0.01)
    print("went on")

waiting(sys.argv[1:-1])
"""
"""A command to which a signal comes while it clears something away, where Python ignores exceptions."""


@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGINT, 1, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_a_signal_that_comes_while_something_is_cleared_away_ends_the_command(
    number: int, code: int, word: str
) -> None:
    command = [sys.executable, "-c", CLEARS_AWAY, str(int(number))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.splitlines() == [
        f"actlake: {word}; what was committed is kept, and the same command goes on from there"
    ]
