"""Signals at random moments of a capture, then the same command: nothing is lost, nothing is there twice."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import actlake
import pytest
import stores
from actlake.store import Location, Log, verify
from captures import Captures, Signal, commits

N_KILLS = 50
PROMPTS = [f"{index}, {index + 1}," + " and so on" * (index % 3) for index in range(60)]


@pytest.fixture(scope="module")
def undisturbed(command: Captures, prompts: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """A store that one process captured, and how long a commit took it."""
    store, started = tmp_path_factory.mktemp("stores") / "undisturbed", time.monotonic()
    assert command.one(store, prompts).code == 0
    return store, (time.monotonic() - started) / commits(store)


def assert_whole(store: Path, undisturbed: Path) -> None:
    """All is there, once, with the values that one process gives that nobody disturbs."""
    report = verify(Location.of(store), deep=True)
    assert report.ok, report.problems
    assert report.n_generations == len(PROMPTS)
    opened = actlake.open(store)
    assert opened.runs()["status"].tolist() == ["complete"]
    stores.assert_same(opened, actlake.open(undisturbed))


@pytest.mark.slow
def test_after_each_of_50_kills_the_same_command_goes_on_and_the_values_are_those_of_an_undisturbed_run(
    command: Captures, prompts: Path, undisturbed: tuple[Path, float], tmp_path: Path
) -> None:
    draw, n_kills, n_partial, n_stores = random.Random(5), 0, 0, 0
    expected, between_s = undisturbed
    while n_kills < N_KILLS:
        store = tmp_path / f"store{n_stores}"
        n_stores += 1
        while n_kills < N_KILLS:
            kill = Signal(signal.SIGKILL, commits(store) + draw.randrange(5), draw.uniform(0, between_s))
            ended = command.one(store, prompts, signal=kill)
            if ended.code == 0:
                break
            assert ended.code == -signal.SIGKILL, ended.stderr
            n_kills += 1
            if Log(Location.of(store)).exists():
                report = verify(Location.of(store))
                assert report.ok, report.problems
                n_partial += 0 < report.n_generations < len(PROMPTS)
        assert command.one(store, prompts).code == 0
        assert_whole(store, expected)
    assert n_partial > N_KILLS // 2, "too few kills hit a capture half way to show anything"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGINT, 1, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_a_signal_that_asks_to_end_is_one_line_and_what_was_committed_stays(
    command: Captures,
    prompts: Path,
    undisturbed: tuple[Path, float],
    tmp_path: Path,
    number: int,
    code: int,
    word: str,
) -> None:
    store = tmp_path / "s"
    ended = command.one(store, prompts, signal=Signal(number, 3))
    assert ended.code == code
    assert ended.stdout == ""
    advice = "what was committed is kept, and the same command goes on from there"
    assert ended.stderr.splitlines()[-1] == f"actlake: {word}; {advice}"
    report = verify(Location.of(store), deep=True)
    assert report.ok
    assert 0 < report.n_generations < len(PROMPTS)
    assert report.unreferenced == ()
    assert command.one(store, prompts).code == 0
    assert_whole(store, undisturbed[0])
