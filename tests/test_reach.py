"""Which gradients can be other than zero, and that no others are multiplied."""

from __future__ import annotations

import torch
from actlake.capture.linearized import linearized
from actlake.capture.reach import Reach
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


@given(st.lists(st.lists(st.integers(0, 5), min_size=2, max_size=2), min_size=1, max_size=4))
def test_rows_that_are_spread_again_are_where_they_were(n_inputs: list[list[int]]) -> None:
    reach, gradients = Reach(), torch.zeros(len(n_inputs), 2, 5, 3)
    for output, of_output in enumerate(n_inputs):
        for text, n in enumerate(of_output):
            gradients[output, text, :n] = torch.randn(n, 3)
    with reach.limited(n_inputs, 5):
        assert reach.width == max(map(max, n_inputs))
        assert reach.fits(gradients) == (sum(map(sum, n_inputs)) < 10 * len(n_inputs))
        rows = reach.rows(gradients)
        assert len(rows) == sum(map(sum, n_inputs))
        assert torch.equal(reach.spread(rows), gradients)
    assert not reach.fits(gradients)
    assert reach.width is None


def test_a_map_multiplies_no_position_that_no_output_sees() -> None:
    reach, module = Reach(), nn.Linear(3, 4).requires_grad_(False)
    x = torch.randn(2, 5, 3, requires_grad=True)
    with linearized(module, reach):
        y = module(x)
    seeds = torch.zeros(2, 2, 5, 4)
    seeds[0, :, :2], seeds[1, 0, :4] = 1, 1

    with reach.limited([[2, 2], [4, 0]], 5), FlopCounterMode(display=False) as counted:
        found = torch.func.vmap(lambda seed: torch.autograd.grad(y, x, seed, retain_graph=True)[0])(seeds)
    assert counted.get_total_flops() == 2 * 8 * 4 * 3  # eight rows
    torch.testing.assert_close(found, seeds @ module.weight)


@given(st.lists(st.integers(0, 5), min_size=2, max_size=2))
def test_what_outputs_share_is_at_the_rows_of_each(n_inputs: list[int]) -> None:
    reach, values = Reach(), torch.arange(10.0).reshape(2, 5, 1)
    with reach.limited([n_inputs, n_inputs[::-1]], 5):
        shared = reach.shared(values)[:, 0].tolist()
    first, second = n_inputs
    assert shared == [*range(first), *range(5, 5 + second), *range(second), *range(5, 5 + first)]


def test_axes_of_the_same_lengths_that_are_not_texts_and_positions_are_multiplied_whole() -> None:
    reach, module = Reach(), nn.Linear(3, 4).requires_grad_(False)
    x = torch.randn(5, 5, 3, requires_grad=True)
    with linearized(module, reach):
        y = module(x.transpose(0, 1)).transpose(0, 1)  # positions first, as some models compute
    seeds = torch.zeros(2, 5, 5, 4)
    seeds[:, :, :2] = torch.randn(2, 5, 2, 4)
    with reach.limited([[2] * 5] * 2, 5):
        for _ in range(2):
            found = torch.func.vmap(lambda seed: torch.autograd.grad(y, x, seed, retain_graph=True)[0])(seeds)
            torch.testing.assert_close(found, seeds @ module.weight)
