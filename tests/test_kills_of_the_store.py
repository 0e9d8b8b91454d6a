"""`kill -9` in every phase of a commit, an index step, a compaction, a garbage collection and a saving of factors."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import actlake
import pytest
import stores
from actlake.store import Location, Log, Reader, compact, gc, index, verify
from actlake.store.log import LOG

N_KILLS = 100


class Operations:
    """Operations on stores, each in a process of its own."""

    def __init__(self, helper: subprocess.Popen[str]) -> None:
        self._helper = helper

    def run(
        self, what: str, store: Path, *, event: int | None = None, after_s: float | None = None
    ) -> tuple[bool, int]:
        """Do it, killed before a change of the file system, or after some time; whether it was killed, and its changes."""
        assert self._helper.stdin
        assert self._helper.stdout
        self._helper.stdin.write(json.dumps({"what": what, "store": str(store), "event": event}) + "\n")
        self._helper.stdin.flush()
        pid = int(self._helper.stdout.readline())
        if after_s is not None:
            time.sleep(after_s)
            with suppress(ProcessLookupError):  # it was done before
                os.kill(pid, signal.SIGKILL)
        status, n_changes = map(int, self._helper.stdout.readline().split())
        if not os.WIFSIGNALED(status):
            assert os.waitstatus_to_exitcode(status) == 0
        return os.WIFSIGNALED(status), n_changes


@contextmanager
def operations() -> Iterator[Operations]:
    command = [sys.executable, str(Path(__file__).with_name("killed.py"))]
    one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | one_thread
    ) as helper:
        yield Operations(helper)
        assert helper.stdin
        helper.stdin.close()


def before_commit(location: Location) -> None:
    """The next commit is the fourth, and so writes a checkpoint."""
    stores.a_store(location, units=2, unit_size=3)


def before_index(location: Location) -> None:
    """Three segments, and a unit that becomes the fourth, with which they are merged."""
    stores.registered(location)
    for unit in range(4):
        stores.capture_unit(location, range(unit * 2, unit * 2 + 2))
        if unit < 3:
            index(location)


def before_compact(location: Location) -> None:
    """Five tables of four files, one of them indexed."""
    stores.registered(location)
    for unit in range(4):
        stores.capture_unit(location, [unit * 2, unit * 2 + 1])
        if unit == 1:
            index(location)


def before_gc(location: Location) -> None:
    """Files that a compaction replaced, one that nobody ever committed, and drafts."""
    before_compact(location)
    compact(location)
    stores.write_shard(location, [stores.a_generation(99)], "float32")
    for folder in ("", "_log/", "_log/checkpoints/"):
        Path(location.full(f"{folder}.x.draft")).parent.mkdir(exist_ok=True)
        Path(location.full(f"{folder}.x.draft")).write_text("{")


def answers(store: Path) -> dict[str, Any]:
    """What arrays say: all generations, a neuron by both paths, one generation, which is there in every state."""
    opened, reader = actlake.open(store), Reader(Location.of(store))
    by_token = reader.vectors(opened.snapshot, "activation_vectors", layer=3)[:, 7]
    parts = reader.rows(opened.snapshot, "neuron_vectors", layer=3, neuron=7).to_pylist()
    segments = {row["segment_id"]: row for row in reader.rows(opened.snapshot, "segments").to_pylist()}
    by_neuron = {
        token: value
        for part in parts
        for segment in [segments[part["segment_id"]]]
        for token, value in zip(_tokens(segment), part["activation"], strict=True)
    }
    keys = reader.rows(
        opened.snapshot, "activation_vectors", columns=["generation_id", "position"], layer=3
    ).to_pylist()
    tokens = [(key["generation_id"], key["position"]) for key in keys]
    indexed = {token: value for token, value in zip(tokens, by_token.tolist(), strict=True) if token in by_neuron}
    assert by_neuron == indexed
    assert len(by_neuron) == sum(segment["n_tokens"] for segment in segments.values())
    return {
        "generations": reader.rows(opened.snapshot, "generations", columns=["generation_id"]).to_pylist(),
        "neuron": dict(zip(tokens, by_token.tolist(), strict=True)),
        "activations": opened.generation(1).activations().tobytes(),
    }


def _tokens(segment: dict[str, Any]) -> list[tuple[int, int]]:
    return list(zip(segment["generation_id"], segment["position"], strict=True))


def answers_of_sql(store: Path) -> dict[str, Any]:
    """What SQL says: all generations, a neuron by both paths."""
    opened = actlake.open(store)
    by_token, by_neuron = (
        opened.sql(f"from {path}.activations where layer = 3 and neuron = 7 order by all").fetchall()
        for path in ("by_token", "by_neuron")
    )
    assert by_token == by_neuron
    generations = opened.sql("select list(generation_id order by generation_id) from generations").fetchall()
    return {"generations": generations, "neuron": by_token}


def assert_nothing_is_left(store: Path) -> None:
    """After a garbage collection the folders have what the log names, and nothing else."""
    location = Location.of(store)
    gc(location, grace_s=0)
    held = {str(path.relative_to(store)) for path in store.rglob("*") if path.is_file()}
    log = {path for path in held if path.startswith(f"{LOG}/") and path.endswith(".json")}
    assert held == {*Log(location).snapshot().files, *log, "README.md"}


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: what is killed here is the process, not the machine."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as path:
        yield Path(path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "prepare", "n_phases"),
    [
        ("commit", before_commit, 12),
        ("index", before_index, 20),
        ("compact", before_compact, 20),
        ("gc", before_gc, 20),
    ],
)
def test_after_a_hundred_kills_nothing_is_lost_and_the_same_again_finishes(
    folder: Path, what: str, prepare: Callable[[Location], None], n_phases: int
) -> None:
    start, store = folder / "start", folder / "store"
    prepare(Location.of(start))
    with operations() as all_of_them:

        def fresh() -> Path:
            shutil.rmtree(store, ignore_errors=True)
            return Path(shutil.copytree(start, store))

        all_of_them.run(what, fresh())
        began = time.monotonic()
        _, n_changes = all_of_them.run(what, fresh())
        duration = time.monotonic() - began
        done_at = Log(Location.of(store)).snapshot().version
        right = {False: (answers(start), answers_of_sql(start)), True: (answers(store), answers_of_sql(store))}
        assert n_changes >= n_phases

        def check_and_finish(*, by_sql: bool) -> None:
            report = verify(Location.of(store), deep=True)
            assert report.ok, report.problems
            expected, expected_of_sql = right[report.version == done_at]  # only a commit changes answers
            assert answers(store) == expected
            assert not by_sql or answers_of_sql(store) == expected_of_sql
            killed, _ = all_of_them.run(what, store)
            assert not killed
            if by_sql:
                report = verify(Location.of(store), deep=True)
                assert report.ok, report.problems
            assert Log(Location.of(store)).snapshot().version == done_at
            assert answers(store) == right[True][0]
            assert_nothing_is_left(store)

        for event in range(1, n_changes + 1):
            assert all_of_them.run(what, fresh(), event=event) == (True, event)
            check_and_finish(by_sql=True)
        draw, n_kills, n_partial = random.Random(what), n_changes, 0
        while n_kills < N_KILLS:
            killed, done = all_of_them.run(what, fresh(), after_s=draw.uniform(0.1, 1.0) * duration)
            if killed:
                n_kills += 1
                n_partial += 0 < done < n_changes
                check_and_finish(by_sql=False)
        assert n_partial > 0


@pytest.mark.slow
def test_factors_that_a_kill_met_as_they_were_saved_are_there_whole_or_not_at_all(folder: Path) -> None:
    start, store = folder / "start", folder / "store"
    stores.a_store(Location.of(start), units=1)
    factors = stores.a_factorization(0, k=2)

    def saved() -> list[int]:
        assert verify(Location.of(store), deep=True).problems == ()
        opened = actlake.open(store)
        ids = opened.factorizations()["factorization_id"].tolist()
        for factorization_id in ids:
            query = "select value from factor_tokens where factorization_id = ? order by position, factor"
            values = opened.sql(query, [factorization_id]).fetchnumpy()["value"]
            assert values.tolist() == factors.values.ravel().tolist()
        return ids

    with operations() as all_of_them:
        shutil.copytree(start, store)
        _, n_changes = all_of_them.run("save", store)
        assert n_changes >= 10
        found = []
        for event in range(1, n_changes + 1):
            shutil.rmtree(store)
            shutil.copytree(start, store)
            assert all_of_them.run("save", store, event=event) == (True, event)
            found.append(saved())
            killed, _ = all_of_them.run("save", store)
            assert not killed
            assert saved() == [*range(len(found[-1]) + 1)]
            assert_nothing_is_left(store)
        assert found[0] == []
        assert found[-1] == [0]
