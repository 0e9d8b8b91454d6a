"""Several processes at one store: nothing is lost, nothing doubled, and a reader sees a snapshot, whatever the others do."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import actlake
import pytest
import stores
from actlake.errors import CommitNotFound
from actlake.store import Location, Log, Snapshot, compact, gc, index, verify
from workers import ask, check


def at_once(store: Path, *work: tuple[str, list[Any]]) -> None:
    """Do all of this in a process each."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("workers.py")), str(store)],
        input=json.dumps(work),
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_eight_processes_commit_at_once_over_a_checkpoint_and_none_is_lost(tmp_path: Path) -> None:
    at_once(tmp_path, *(("commit", [writer, 20]) for writer in range(8)))
    log = Log(Location.of(tmp_path))
    snapshot = log.snapshot()
    assert set(snapshot.keys) == {f"{writer}/{number}" for writer in range(8) for number in range(20)}
    assert sorted(snapshot.keys.values()) == list(range(160))
    taken = [number for reservation in snapshot.reservations for number in reservation.generation_ids]
    assert taken == list(range(20 * sum(range(1, 9))))
    (path,) = log.checkpoints()
    assert log.read_checkpoint(path) == log.replayed(Snapshot(), 127)
    assert snapshot == log.replayed(Snapshot(), 159)


@pytest.mark.slow
def test_readers_see_snapshots_while_others_capture_index_compact_and_collect(tmp_path: Path) -> None:
    location = Location.of(tmp_path)
    stores.registered(location)
    stores.capture_unit(location, [0, 1])
    at_once(
        tmp_path,
        ("capture", [100, 30]),
        ("capture", [300, 30]),
        *((work, [2]) for work in ("index", "index", "compact", "compact", "gc", "read", "hold")),
    )
    index(location)
    report = verify(location, deep=True)
    assert report.ok, report.problems
    assert report.n_generations == 122
    assert check(actlake.open(tmp_path)) == 122
    assert all(file.indexed == "0,3" for file in Log(location).snapshot().of("activation_vectors"))
    gc(location, grace_s=0)
    assert verify(location, deep=True).ok
    assert verify(location).unreferenced == ()


@pytest.mark.slow
def test_two_index_steps_and_two_compactions_at_once_double_nothing(tmp_path: Path) -> None:
    location = Location.of(tmp_path)
    stores.a_store(location, units=12)
    for name in ("captured-a", "captured-b"):  # so that each does its work once
        (tmp_path / name).touch()
    at_once(tmp_path, *((work, [2]) for work in ("index", "index", "compact", "compact")))
    index(location)
    compact(location)
    assert verify(location, deep=True).ok
    assert check(actlake.open(tmp_path)) == 24


@pytest.mark.slow
def test_four_processes_save_factors_while_others_capture_and_compact_and_none_is_lost(tmp_path: Path) -> None:
    location = Location.of(tmp_path)
    stores.a_store(location, units=1)
    at_once(tmp_path, *(("save", [writer, 8]) for writer in range(4)), ("capture", [100, 8]), ("compact", [1]))
    store = actlake.open(tmp_path)
    saved = store.factorizations()
    assert saved["factorization_id"].tolist() == list(range(32))
    assert set(saved["name"]) == {f"{writer}/{number}" for writer in range(4) for number in range(8)}
    report = verify(location, deep=True)
    assert report.problems == ()
    removed = {path for commit in Log(location).commits() for path in commit.remove}
    assert {path for path in report.unreferenced if path.startswith("factor")} <= removed
    gc(location, grace_s=0)
    assert verify(location, deep=True).ok
    assert len(actlake.open(tmp_path).factorizations()) == 32


@pytest.fixture
def history(tmp_path: Path) -> tuple[Path, list[int]]:
    """A store and the number of its generations after each commit."""
    location, n_generations = Location.of(tmp_path), []
    log = stores.registered(location)
    for unit in range(6):
        stores.capture_unit(location, [2 * unit, 2 * unit + 1])
        if unit in (1, 3):
            index(location)
        if unit == 2:
            compact(location)
        n_generations += [2 * unit] * (unit == 0)
        n_generations += [2 * unit + 2] * (log.newest() + 1 - len(n_generations))
    return tmp_path, n_generations


def test_a_store_can_be_seen_as_it_was_after_every_commit(history: tuple[Path, list[int]]) -> None:
    store, n_generations = history
    assert n_generations[0] == 0
    assert [check(actlake.open(store, at=version)) for version in range(1, len(n_generations))] == n_generations[1:]
    for version in (-1, len(n_generations)):
        with pytest.raises(CommitNotFound, match=f"commits 0 to {len(n_generations) - 1}"):
            actlake.open(store, at=version)


def test_after_a_garbage_collection_an_older_state_says_which_commit_removed_its_files(
    history: tuple[Path, list[int]],
) -> None:
    store, n_generations = history
    gc(Location.of(store), grace_s=0)
    seen = 0
    for version, expected in enumerate(n_generations):
        answer = ask(actlake.open(store, at=version))
        seen += answer == expected
        assert answer == expected or re.search(
            r"is gone: commit \d+ removed it.*open the store as it is now", str(answer)
        )
    assert check(actlake.open(store)) == n_generations[-1]
    assert 0 < seen < len(n_generations)


def test_a_store_that_was_opened_at_a_commit_stays_there(history: tuple[Path, list[int]]) -> None:
    store, n_generations = history
    opened = actlake.open(store, at=2)
    assert check(opened.refresh()) == n_generations[2]
