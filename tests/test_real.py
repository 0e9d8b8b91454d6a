"""The unembedding is given real positions alone, and what it makes of them finds its way back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from actlake.capture import Model
from actlake.capture.generate import Sampling
from actlake.capture.real import Real
from actlake.capture.replay import replay
from actlake.capture.steps import write_and_record
from actlake.capture.wanted import Wanted
from hypothesis import given
from hypothesis import strategies as st

TEXTS = [[5, 6, 7, 8, 9, 10, 11], [40], [90, 91, 92]]


@contextmanager
def unembedded(model: Model) -> Iterator[list[tuple[int, ...]]]:
    """The shapes of what the unembedding receives."""
    shapes: list[tuple[int, ...]] = []
    module = model.network.get_submodule(model.anatomy.unembedding)
    keep = module.register_forward_hook(lambda module, args, output: shapes.append(tuple(args[0].shape[:2])))
    try:
        yield shapes
    finally:
        keep.remove()


@given(
    st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=1, max_size=5).filter(lambda m: any(map(any, m)))
)
def test_rows_are_those_that_a_mask_picks(mask: list[list[bool]]) -> None:
    picks = torch.tensor(mask)
    real, values = Real(picks), torch.randn(*picks.shape, 3)
    packed = real.packed(values)
    assert real.lengths == [sum(row) for row in mask]
    torch.testing.assert_close(real.rows(values), values[picks])
    torch.testing.assert_close(real.rows(2 * packed), 2 * values[picks])
    some = [row for row, n in enumerate(real.lengths) if n]
    torch.testing.assert_close(real.last.rows(values), torch.stack([values[row][picks[row]][-1] for row in some]))
    before = torch.cat([values[row][picks[row]][:-1] for row in some])
    torch.testing.assert_close(real.before_last.rows(values), before)
    for start, length, row in zip(real.starts, real.lengths, range(len(mask)), strict=True):
        torch.testing.assert_close(real.rows(values)[start : start + length], values[row][picks[row]])


@given(
    st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=1, max_size=5).filter(
        lambda m: any(map(any, m))
    ),
    st.data(),
)
def test_some_positions_are_found_among_packed_values_as_among_all(mask: list[list[bool]], data: st.DataObject) -> None:
    picks = torch.tensor(mask)
    real, values = Real(picks), torch.randn(*picks.shape, 3)
    at = [
        np.array(sorted(data.draw(st.sets(st.integers(0, n - 1)) if n else st.just([]))), np.int32)
        for n in real.lengths
    ]
    expected = torch.cat([values[row][picks[row]][positions] for row, positions in enumerate(at)])
    torch.testing.assert_close(real.rows(values, at), expected)
    torch.testing.assert_close(real.rows(real.packed(values), at), expected)


@given(
    st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=1, max_size=5).filter(lambda m: any(map(any, m)))
)
def test_what_is_spread_is_where_it_was_with_zeros_between(mask: list[list[bool]]) -> None:
    picks = torch.tensor(mask)
    real, values = Real(picks), torch.randn(*picks.shape, 3)
    torch.testing.assert_close(real.spread(values[picks][None]), values * picks[..., None])
    with pytest.raises(ValueError, match="are not a row for each of"):
        real.spread(values[picks][None, :-1])


def test_what_is_not_of_the_real_positions_is_refused() -> None:
    real = Real(torch.tensor([[True, True], [False, True]]))
    with pytest.raises(ValueError, match="gives 2 rows where 3 positions are real"):
        real.rows(torch.zeros(2, 1, 5))


def test_no_padding_is_unembedded(any_model: Model) -> None:
    n = sum(map(len, TEXTS))
    with unembedded(any_model) as shapes:
        replay(any_model, TEXTS, [2, 1, 1], Wanted([0], target="logit"))()
    assert shapes[0] == (1, n)


def test_logits_that_are_what_the_unembedding_gives_are_not_held_of_a_whole_batch(any_model: Model) -> None:
    free = replace(any_model, end_ids=())
    assert free.logits_are_unembedded
    assert free.ffns_pack == any(free.anatomy.ffns)
    with unembedded(free) as shapes:
        write_and_record(free, TEXTS, 4, Sampling(), range(3), Wanted([0]))
        replay(free, TEXTS, [*map(len, TEXTS)], Wanted([0]))()
    assert shapes == [(1, 3), *[(3, 1)] * 4, (1, 1)]


def test_logits_that_are_scaled_after_are_those_that_count(any_model: Model) -> None:
    free = replace(any_model, end_ids=())
    plain = [recorded.logprob for recorded in replay(free, TEXTS, [*map(len, TEXTS)], Wanted([0]))()]

    def scale(module: object, args: object, output: Any) -> None:
        output.logits = output.logits * 3

    handle = free.network.register_forward_hook(scale)
    try:
        scaled = replace(free)
        assert not scaled.logits_are_unembedded
        written, stepped = write_and_record(scaled, TEXTS, 4, Sampling(), range(3), Wanted([0]))
        texts = [[*text, *more] for text, more in zip(TEXTS, written, strict=True)]
        with unembedded(scaled) as shapes:
            replayed = replay(scaled, texts, [*map(len, TEXTS)], Wanted([0]))()
    finally:
        handle.remove()
    assert shapes == [(1, sum(map(len, texts)))]
    for one, other, before in zip(stepped(), replayed, plain, strict=True):
        np.testing.assert_allclose(one.logprob, other.logprob, atol=1e-4)
        assert len(before) == 1 or np.abs(one.logprob[: len(before)] - before).max() > 1e-3


def test_texts_of_a_token_each_are_written_one_beside_the_other(any_model: Model) -> None:
    alone = [write_and_record(any_model, [[at]], 5, Sampling(), [0], Wanted([1])) for at in (40, 41)]
    together = write_and_record(any_model, [[40], [41]], 5, Sampling(), range(2), Wanted([1]))
    assert together[0] == [written for (written,), _ in alone]
    for (_, (one,)), other in zip([(_, one()) for _, one in alone], together[1](), strict=True):
        np.testing.assert_allclose(one.logprob, other.logprob, atol=1e-4)
