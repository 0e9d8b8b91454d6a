"""Several processes capture into one store at once: what they make is what one makes alone, value for value."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import actlake
import pytest
import stores
from actlake.store import Location, Log, verify
from captures import Captures, commits

PROMPTS = [f"{index}, {index + 1}," + " and so on" * (index % 3) for index in range(24)]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def alone(command: Captures, prompts: Path, tmp_path_factory: pytest.TempPathFactory) -> actlake.Store:
    """What one process captures."""
    store = tmp_path_factory.mktemp("stores") / "alone"
    assert command.one(store, prompts).code == 0
    return actlake.open(store)


def assert_whole(store: Path, alone: actlake.Store) -> None:
    report = verify(Location.of(store), deep=True)
    assert report.ok, report.problems
    assert report.n_generations == len(PROMPTS)
    opened = actlake.open(store)
    assert opened.runs()["status"].tolist() == ["complete"]
    done = [commit.operation for commit in Log(Location.of(store)).commits()]
    assert "capture" not in done[done.index("index") :], "it was indexed by the last"
    stores.assert_same(opened, alone)


@pytest.mark.parametrize("n", [2, 3, 4])
def test_shards_at_once_give_what_one_process_gives(
    command: Captures, prompts: Path, alone: actlake.Store, tmp_path: Path, n: int
) -> None:
    ended = command.run(tmp_path / "s", prompts, *(["--shard", f"{i}/{n}", "--json"] for i in range(1, n + 1)))
    assert [each.code for each in ended] == [0] * n, [each.stderr for each in ended]
    said = [json.loads(each.stdout) for each in ended]
    assert [each["n_captured"] for each in said] == [24 // n] * n
    assert len(PROMPTS) in [each["n_there"] for each in said]
    assert_whole(tmp_path / "s", alone)


def test_the_same_command_at_once_writes_each_generation_once(
    command: Captures, prompts: Path, alone: actlake.Store, tmp_path: Path
) -> None:
    ended = command.run(tmp_path / "s", prompts, *[["--json", "--no-index"]] * 3)
    assert [each.code for each in ended] == [0] * 3, [each.stderr for each in ended]
    assert sum(json.loads(each.stdout)["n_captured"] for each in ended) == 24
    assert command.one(tmp_path / "s", prompts).code == 0
    assert_whole(tmp_path / "s", alone)


def test_other_batches_at_once_write_each_generation_once(
    command: Captures, prompts: Path, alone: actlake.Store, tmp_path: Path
) -> None:
    ended = command.run(tmp_path / "s", prompts, ["--json"], ["--json", "--batch-size", "3"])
    assert [each.code for each in ended] == [0, 0], [each.stderr for each in ended]
    assert sum(json.loads(each.stdout)["n_captured"] for each in ended) == 24
    report = verify(Location.of(tmp_path / "s"), deep=True)
    assert (report.ok, report.n_generations) == (True, 24)
    stores.assert_same(actlake.open(tmp_path / "s"), alone, rtol=1e-4, atol=1e-5)


def test_a_capture_that_was_killed_is_finished_by_shards_one_of_which_is_killed_too(
    command: Captures, prompts: Path, alone: actlake.Store, tmp_path: Path
) -> None:
    store = tmp_path / "s"

    def kill_the_first(pids: list[int]) -> None:
        until = commits(store) + 3
        while commits(store) < until:
            time.sleep(0.002)
        os.kill(pids[0], signal.SIGKILL)

    (ended,) = command.run(store, prompts, [], meanwhile=kill_the_first)
    assert ended.code == -signal.SIGKILL
    first, second = command.run(store, prompts, ["--shard", "1/2"], ["--shard", "2/2"], meanwhile=kill_the_first)
    assert (first.code, second.code) == (-signal.SIGKILL, 0), second.stderr
    assert actlake.open(store).runs()["status"].tolist() == ["capturing"]
    ended = command.run(store, prompts, *(["--shard", f"{i}/3"] for i in (1, 2, 3)))
    assert [each.code for each in ended] == [0] * 3
    assert_whole(store, alone)


def test_different_runs_at_once_in_one_store_are_each_whole(
    command: Captures, prompts: Path, alone: actlake.Store, tmp_path: Path
) -> None:
    store = tmp_path / "s"
    ended = command.run(
        store,
        prompts,
        [],
        ["--gradients", "scores"],
        ["--shard", "1/2", "--seed", "1"],
        ["--seed", "1", "--shard", "2/2"],
    )
    assert [each.code for each in ended] == [0] * 4, [each.stderr for each in ended]
    report = verify(Location.of(store), deep=True)
    assert report.ok, report.problems
    opened = actlake.open(store)
    assert opened.runs()["status"].tolist() == ["complete"] * 3
    query = "select run_id, min(generation_id), max(generation_id), count(*) from generations group by all order by all"
    assert opened.sql(query).fetchall() == [(0, 0, 23, 24), (1, 24, 47, 24), (2, 48, 71, 24)]
    by_prompt = """
        select prompt_index, position, layer, activation from activation_vectors join generations using (generation_id)
        where run_id = {} order by all
    """
    expected = alone.sql(by_prompt.format(0)).to_arrow_table()
    for run_id in range(3):
        assert opened.sql(by_prompt.format(run_id)).to_arrow_table().equals(expected)
