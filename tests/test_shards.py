"""Parts of a run, and runs that are begun anew."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import actlake
import pytest
import stores
from actlake.capture import CaptureOptions, Model, Progress
from actlake.capture.shards import Shard
from actlake.cli import cli
from actlake.errors import InvalidOption
from actlake.store import Location, Log, compact, verify
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

PROMPTS = [f"{'and so on ' * (index % 3)}{index}," for index in range(10)]
OPTIONS: dict[str, Any] = {"max_new_tokens": 2, "batch_size": 2, "precision": "float32"}


@given(st.integers(0, 30), st.integers(1, 12))
def test_all_shards_together_have_every_unit_once(n_units: int, n_shards: int) -> None:
    parts = [list(Shard(number, n_shards).units(range(n_units))) for number in range(1, n_shards + 1)]
    assert sorted(unit for part in parts for unit in part) == list(range(n_units))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_a_shard_is_named_as_text_or_as_two_numbers() -> None:
    assert Shard.of("2/8") == Shard.of((2, 8)) == Shard(2, 8)
    assert Shard.of(None) == Shard(1, 1)


@pytest.mark.parametrize(
    "shard", ["0/8", "9/8", "2", "2/", "2/0", "-1/3", "1/2/3", "", (0, 2), (3, 2), (1,), 2, "1.0/2"]
)
def test_another_shard_is_one_clear_error(shard: Any) -> None:
    with pytest.raises(InvalidOption, match=r"shard=.* cannot be used: give I/N, as 2/8 for the second of eight parts"):
        CaptureOptions(shard=shard)


def test_shards_one_after_the_other_give_what_one_capture_gives(toy_model: Model, tmp_path: Path) -> None:
    one = actlake.capture(tmp_path / "one", toy_model, PROMPTS, **OPTIONS)
    runs = []
    for number in (3, 1, 2):
        runs.append(actlake.capture(tmp_path / "s", toy_model, PROMPTS, shard=(number, 3), **OPTIONS))
        status = ["complete" if number == 2 else "capturing"]
        assert actlake.open(tmp_path / "s").runs()["status"].tolist() == status
        assert bool(Log(Location.of(tmp_path / "s")).snapshot().of("neuron_vectors")) is (number == 2)
    assert [(run.n_captured, run.n_wanted, run.n_there) for run in runs] == [(2, 2, 2), (4, 4, 6), (4, 4, 10)]
    assert {(run.run_id, run.generation_ids) for run in runs} == {(0, range(10))}
    assert one.n_tokens == sum(run.n_tokens for run in runs)
    assert ", shard 3/3: captured 2 generations, " in runs[0].sentence()
    assert runs[0].sentence().endswith("; the run has 2 of 10 generations")
    assert runs[2].is_complete
    stores.assert_same(actlake.open(tmp_path / "s"), actlake.open(tmp_path / "one"))
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "s").rglob("*")}
    again = actlake.capture(tmp_path / "s", toy_model, PROMPTS, shard="2/4", **OPTIONS)
    assert again.sentence().endswith("all 2 generations were there already")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "s").rglob("*")} == files


def test_what_shards_left_is_done_without_them_or_with_another_number(toy_model: Model, tmp_path: Path) -> None:
    actlake.capture(tmp_path / "s", toy_model, PROMPTS, shard="1/3", **OPTIONS)
    other = actlake.capture(tmp_path / "s", toy_model, PROMPTS, shard="2/2", **OPTIONS)
    assert (other.n_wanted, other.n_captured, other.is_complete) == (4, 2, False)
    rest = actlake.capture(tmp_path / "s", toy_model, PROMPTS, **OPTIONS)
    assert (rest.n_captured, rest.is_complete) == (4, True)
    actlake.capture(tmp_path / "one", toy_model, PROMPTS, **OPTIONS)
    stores.assert_same(actlake.open(tmp_path / "s"), actlake.open(tmp_path / "one"))


def test_what_another_process_does_meanwhile_is_counted_and_not_done_again(toy_model: Model, tmp_path: Path) -> None:
    progress: list[tuple[int, int]] = []

    def other(seen: Progress) -> None:
        progress.append((seen.n_done, seen.n_total))
        if len(progress) == 2:
            actlake.capture(tmp_path / "s", toy_model, PROMPTS, shard="2/2", **OPTIONS)
            compact(Location.of(tmp_path / "s"))

    run = actlake.capture(tmp_path / "s", toy_model, PROMPTS, on_progress=other, **OPTIONS)
    assert (run.n_there, run.is_complete) == (10, True)
    assert run.n_captured < 10
    assert progress[0] == (0, 10)
    assert progress[-1] == (10, 10)
    assert [n for n, _ in progress] == sorted(n for n, _ in progress)
    actlake.capture(tmp_path / "one", toy_model, PROMPTS, **OPTIONS)
    stores.assert_same(actlake.open(tmp_path / "s"), actlake.open(tmp_path / "one"))


def test_a_shard_without_a_batch_says_so(toy_model: Model, tmp_path: Path) -> None:
    run = actlake.capture(tmp_path / "s", toy_model, ["a"], shard="2/2", max_new_tokens=1)
    assert "nothing to do, the run has fewer batches than shards; the run has 0 of 1 generation" in run.sentence()
    assert not run.is_complete


def test_a_forced_capture_is_another_run_and_the_same_command_resumes_the_newest(
    toy_model: Model, tmp_path: Path
) -> None:
    def capture(**more: Any) -> actlake.capture.Run:
        return actlake.capture(tmp_path / "s", toy_model, PROMPTS[:6], **OPTIONS, index=False, **more)

    assert capture(force=True).run_id == 0
    assert capture().n_captured == 0
    half = capture(force=True, shard="1/2")
    assert (half.run_id, half.generation_ids, half.n_captured) == (1, range(6, 12), 4)
    rest = capture()
    assert (rest.run_id, rest.n_captured, rest.is_complete) == (1, 2, True)
    unfinished = capture(force=True, shard="1/2")
    anew = capture(force=True)
    assert (unfinished.run_id, anew.run_id, anew.n_captured) == (2, 3, 6)
    assert capture().run_id == 3
    store = actlake.open(tmp_path / "s")
    assert store.runs()["status"].tolist() == ["complete", "complete", "capturing", "complete"]
    query = "select count(distinct completion), count(*) from generations group by prompt_index order by all"
    assert store.sql(query).fetchall() == [(1, 3)] * 2 + [(1, 4)] * 4
    assert verify(Location.of(tmp_path / "s"), deep=True).ok


def test_the_first_shard_alone_starts_a_run_anew() -> None:
    assert CaptureOptions(force=True, shard="1/8").force
    with pytest.raises(InvalidOption, match="the first shard alone starts a run anew"):
        CaptureOptions(force=True, shard="2/8")


def test_the_command_takes_shards_and_force(toy_folder: Path, tmp_path: Path) -> None:
    command = ["capture", tmp_path / "s", "--model", toy_folder, "--prompt", "a", "--prompt", "b", "--record", ""]
    command += ["--max-new-tokens", 1, "--batch-size", 1, "--json"]

    def run(*more: str) -> Any:
        done = CliRunner().invoke(cli, [*map(str, command), *more])
        return json.loads(done.stdout) if done.exit_code == 0 else (done.exit_code, done.stderr)

    assert [run("--shard", f"{number}/2")["n_there"] for number in (1, 2)] == [1, 2]
    assert run("--force")["run_id"] == 1
    code, said = run("--shard", "3/2")
    assert code == 2
    assert said.startswith("actlake: shard='3/2' cannot be used: give I/N, as 2/8")
