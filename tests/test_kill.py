"""`kill -9` at random moments of a capture, then the same command: nothing is lost, nothing is there twice."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import actlake
import numpy as np
import pytest
from actlake.store import TABLES, Location, Log, verify
from actlake.store.schema import PROJECTION

N_KILLS = 20
PROMPTS = [f"{index}, {index + 1}, {index + 2}," + " and so on" * (index % 4) for index in range(72)]

ZYGOTE = """
import json, os, sys
os.environ["OMP_NUM_THREADS"] = "1"
import actlake.capture
from actlake.cli import cli
actlake.capture.load_model(sys.argv[1])  # imports what transformers puts off until then
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        cli(json.loads(line))
    print(child, flush=True)
    print(os.waitpid(child, 0)[1], flush=True)
"""
"""Imports once and forks for each command, so that a kill hits the capture and not the import of its libraries."""


class Command:
    """`actlake capture …`, started as often as wanted."""

    def __init__(self, zygote: subprocess.Popen[str], model: Path, prompts: Path) -> None:
        self._zygote, self._model, self._prompts = zygote, model, prompts

    def run(self, store: Path, kill: Kill | None = None) -> bool:
        """Run the command, unless it is killed before it is done; gives whether it was killed."""
        arguments = [
            "capture",
            store,
            self._prompts,
            "--model",
            self._model,
            "--batch-size",
            "2",
            "--max-new-tokens",
            "6",
        ]
        self._zygote.stdin.write(f"{json.dumps([*map(str, arguments), '--precision', 'float32'])}\n")
        self._zygote.stdin.flush()
        pid = int(self._zygote.stdout.readline())
        if kill:
            kill.when_due(pid, store)
        status = int(self._zygote.stdout.readline())
        if not os.WIFSIGNALED(status):
            assert os.waitstatus_to_exitcode(status) == 0
        return os.WIFSIGNALED(status)


@dataclass(frozen=True)
class Kill:
    """A kill some time after a store has so many commits, whatever the machine's speed."""

    n_commits: int
    delay_s: float

    def when_due(self, pid: int, store: Path) -> None:
        with suppress(ProcessLookupError):  # it was done before
            while commits(store) < self.n_commits:
                os.kill(pid, 0)
                time.sleep(0.001)
            time.sleep(self.delay_s)
            os.kill(pid, signal.SIGKILL)


def commits(store: Path) -> int:
    return len(list(store.glob("_log/*[0-9].json")))


@contextmanager
def a_command(folder: Path, model: Path) -> Iterator[Command]:
    prompts = folder / "prompts.txt"
    prompts.write_text("".join(f"{prompt}\n" for prompt in PROMPTS))
    with subprocess.Popen(
        [sys.executable, "-c", ZYGOTE, model], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as zygote:
        yield Command(zygote, model, prompts)
        zygote.stdin.close()


def assert_same(left: actlake.Store, right: actlake.Store) -> None:
    for name, table in TABLES.items():
        if name == "runs" or table in PROJECTION:  # which has numbers of its own for the same activations
            continue
        query = f"select * from {name} order by {', '.join(table.key)}"
        ours, theirs = left.sql(query).to_arrow_table(), right.sql(query).to_arrow_table()
        assert ours.num_rows == theirs.num_rows
        for column in table.columns:
            if column.name == table.vector or str(column.type) == "float":
                values = (np.array(rows[column.name].to_pylist(), np.float64) for rows in (ours, theirs))
                np.testing.assert_allclose(*values, rtol=1e-4, atol=1e-5)
            else:
                assert ours[column.name].to_pylist() == theirs[column.name].to_pylist()
    query = "from by_neuron.activations order by generation_id, position, layer, neuron"
    ours, theirs = left.sql(query).fetchnumpy(), right.sql(query).fetchnumpy()
    assert all((ours[name] == theirs[name]).all() for name in ("generation_id", "position", "layer", "neuron"))
    np.testing.assert_allclose(ours["activation"], theirs["activation"], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_after_kill_9_the_same_command_finishes_the_rest_and_the_values_are_those_of_an_undisturbed_run(
    toy_folder: Path, tmp_path: Path
) -> None:
    draw, n_kills, n_partial, stores = random.Random(5), 0, 0, 0
    with a_command(tmp_path, toy_folder) as command:
        started = time.monotonic()
        command.run(tmp_path / "undisturbed")
        n_commits = commits(tmp_path / "undisturbed")
        between_s = (time.monotonic() - started) / n_commits
        undisturbed = actlake.open(tmp_path / "undisturbed")
        while n_kills < N_KILLS:
            store = tmp_path / f"store{stores}"
            stores += 1
            while command.run(store, Kill(commits(store) + draw.randrange(n_commits // 4), draw.uniform(0, between_s))):
                n_kills += 1
                if Log(Location.of(store)).exists():
                    report = verify(Location.of(store), deep=True)
                    assert report.ok, report.problems
                    n_partial += 0 < report.n_generations < len(PROMPTS)
                if n_kills >= N_KILLS:
                    command.run(store)
                    break
            report = verify(Location.of(store), deep=True)
            assert report.ok, report.problems
            assert report.n_generations == len(PROMPTS)
            opened = actlake.open(store)
            assert opened.generations()["generation_id"].tolist() == list(range(len(PROMPTS)))
            assert opened.runs()["status"].tolist() == ["complete"]
            assert_same(opened, undisturbed)
    assert n_partial >= N_KILLS // 4, "too few kills hit a capture half way to show anything"


@pytest.mark.slow
def test_ctrl_c_is_one_line_and_what_was_committed_stays(toy_folder: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "p.txt"
    prompts.write_text("a long enough prompt to take some time\n" * 2000)
    command = [sys.executable, "-m", "actlake", "capture", tmp_path / "s", prompts, "--model", toy_folder]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while not (tmp_path / "s/_log/00000000000000000002.json").exists():
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert said.strip().splitlines()[-1].startswith("actlake: interrupted; what was committed is kept")
    report = verify(Location.of(tmp_path / "s"), deep=True)
    assert report.ok
    assert report.n_generations > 0


@pytest.mark.slow
def test_two_processes_that_run_the_same_command_at_once_write_each_generation_once(
    toy_folder: Path, tmp_path: Path
) -> None:
    command = [
        sys.executable,
        "-m",
        "actlake",
        "capture",
        tmp_path / "s",
        "--model",
        toy_folder,
        "--max-new-tokens",
        "4",
    ]
    command += [part for prompt in PROMPTS[:24] for part in ("--prompt", prompt)]
    processes = [
        subprocess.Popen(
            [*command, "--json", "--batch-size", size],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        for size in ("2", "3")
    ]
    n_captured = 0
    for process in processes:
        printed, said = process.communicate(timeout=120)
        assert process.returncode == 0, said
        n_captured += json.loads(printed)["n_captured"]
    assert n_captured == 24  # each by the process that wrote it
    report = verify(Location.of(tmp_path / "s"), deep=True)
    assert report.ok, report.problems
    assert report.n_generations == 24
    assert actlake.open(tmp_path / "s").runs()["status"].tolist() == ["complete"]
