"""Runs `actlake capture` in processes that may be killed: `captures.py MODEL`, and on its input lines `{"commands", "folder"}`.

It imports once and forks for each command, all of a line at once, so that a signal hits the capture and not the import of
libraries. For each line it prints the pids, and when all have ended, their statuses; what command `i` printed is in the
folder's `i.out` and `i.err`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

SAME = ["--batch-size", "2", "--max-new-tokens", "3", "--precision", "float32"]


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code, or less than 0 the signal that killed it, and what it printed."""

    code: int
    stdout: str
    stderr: str


class Captures:
    """`actlake capture`, as often as wanted, with the options SAME."""

    def __init__(self, zygote: subprocess.Popen[str], model: Path, folder: Path) -> None:
        self._zygote, self._model, self._folder = zygote, model, folder

    def run(
        self, store: Path, prompts: Path, *more: Sequence[str], meanwhile: Callable[[list[int]], None] | None = None
    ) -> list[Ended]:
        """Run the command at once with each of these further arguments, and `meanwhile` something, which is given the pids."""
        same = ["capture", store, prompts, "--model", self._model, *SAME]
        commands = [[*map(str, same), *arguments] for arguments in more]
        self._zygote.stdin.write(f"{json.dumps({'commands': commands, 'folder': str(self._folder)})}\n")
        self._zygote.stdin.flush()
        pids = json.loads(self._zygote.stdout.readline())
        if meanwhile:
            meanwhile(pids)
        codes = map(os.waitstatus_to_exitcode, json.loads(self._zygote.stdout.readline()))
        printed = [[(self._folder / f"{i}.{what}").read_text() for what in ("out", "err")] for i in range(len(pids))]
        return [Ended(code, *texts) for code, texts in zip(codes, printed, strict=True)]

    def one(self, store: Path, prompts: Path, *more: str, signal: Signal | None = None) -> Ended:
        """Run one, and send it a signal."""
        meanwhile = (lambda pids: signal.when_due(pids[0], store)) if signal else None
        (ended,) = self.run(store, prompts, more, meanwhile=meanwhile)
        return ended


@dataclass(frozen=True)
class Signal:
    """A signal some time after a store has so many commits, whatever the machine's speed."""

    number: int
    n_commits: int
    delay_s: float = 0.0

    def when_due(self, pid: int, store: Path) -> None:
        with suppress(ProcessLookupError):  # it was done before
            while commits(store) < self.n_commits:
                os.kill(pid, 0)
                if Path(f"/proc/{pid}/stat").exists() and Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z":
                    return
                time.sleep(0.002)
            time.sleep(self.delay_s)
            os.kill(pid, self.number)


def commits(store: Path) -> int:
    return len(list(store.glob("_log/*[0-9].json")))


@contextmanager
def captures(folder: Path, model: Path) -> Iterator[Captures]:
    with subprocess.Popen(
        [sys.executable, __file__, model],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    ) as zygote:
        yield Captures(zygote, model, folder)
        zygote.stdin.close()


def main(model: str) -> None:
    import actlake.capture
    import stores
    from actlake.cli import cli

    actlake.capture.load_model(model)  # imports what transformers puts off until then
    stores.load_kernels()
    for line in sys.stdin:
        order, children = json.loads(line), []
        for index, command in enumerate(order["commands"]):
            child = os.fork()
            if child == 0:
                signal.signal(signal.SIGINT, signal.default_int_handler)
                for descriptor, what in ((1, "out"), (2, "err")):
                    path = Path(order["folder"], f"{index}.{what}")
                    os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
                cli(command)
            children.append(child)
        print(json.dumps(children), flush=True)
        print(json.dumps([os.waitpid(child, 0)[1] for child in children]), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
