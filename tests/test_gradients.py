"""How the outputs of a batch are put into groups whose graphs are cut short."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from actlake.capture import Model, memory
from actlake.capture.gradients import BESIDE, FORWARD, group_starts
from hypothesis import given
from hypothesis import strategies as st


def time_of(widths: list[int], starts: list[int]) -> float:
    ends = [*starts[1:], len(widths)]
    forwards = [FORWARD] * (len(starts) - 1) + [0]
    return sum((BESIDE * (e - s) + f) * widths[e - 1] for s, e, f in zip(starts, ends, forwards, strict=True))


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=9).map(sorted))
def test_no_other_groups_of_outputs_take_less_time(widths: list[int]) -> None:
    others = [[0, *cuts] for n_cuts in range(len(widths)) for cuts in combinations(range(1, len(widths)), n_cuts)]
    best = min(time_of(widths, starts) for starts in others)
    assert time_of(widths, group_starts(widths)) == pytest.approx(best)


def test_outputs_of_about_the_same_width_go_through_one_graph() -> None:
    assert group_starts(list(range(500, 510))) == [0]


def test_a_long_text_is_cut_into_many_groups() -> None:
    widths = list(range(10, 4010))
    starts = group_starts(widths)
    assert starts == sorted(set(starts))
    assert 10 < len(starts) < 100
    assert time_of(widths, starts) < 1.2 * BESIDE * sum(widths)


def test_gradients_are_held_of_a_power_of_two_of_positions_that_fits_into_memory(toy_model: Model) -> None:
    n, free = memory.gradient_tokens(toy_model, 10), memory.free_bytes(torch.device("cpu"))
    assert n & (n - 1) == 0
    assert 1 <= n <= 2048
    assert free is None or free > 0


def test_of_texts_too_wide_for_memory_one_position_goes_at_once(toy_model: Model) -> None:
    if memory.free_bytes(torch.device("cpu")) is None:
        pytest.skip("this machine does not say how much memory is free")
    assert memory.gradient_tokens(toy_model, 1 << 40) == 1
