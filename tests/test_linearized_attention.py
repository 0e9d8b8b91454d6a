"""Attention's products for many outputs at once, against torch's own for one after the other."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from actlake.capture.attention import LinearizedAttention
from actlake.capture.reach import Reach
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

POS = 6
CALLS: dict[str, dict[str, Any]] = {
    "causal": {"is_causal": True},
    "causal, a scale": {"is_causal": True, "scale": 0.5},
    "every key": {},
    "a mask of booleans": {"attn_mask": torch.ones(2, 1, POS, POS, dtype=torch.bool).tril()},
    "a mask that hides every key from a query": {
        "attn_mask": torch.ones(2, 1, POS, POS, dtype=torch.bool).tril().index_fill(2, torch.tensor([1]), False)
    },
    "a mask of biases for each head": {
        "attn_mask": torch.randn(1, 4, POS, POS).masked_fill(torch.ones(POS, POS, dtype=torch.bool).triu(1), -torch.inf)
    },
    "a mask of keys": {"attn_mask": torch.tensor([True] * 5 + [False]).expand(2, 1, 1, POS)},
    "a mask of two axes": {"attn_mask": torch.ones(POS, POS, dtype=torch.bool).tril()},
}


def inputs(n_groups: int = 4) -> list[Tensor]:
    shapes = (2, 4, POS, 8), (2, n_groups, POS, 8), (2, n_groups, POS, 8)
    return [torch.randn(shape, requires_grad=True) for shape in shapes]


def one_by_one(output: Tensor, of: list[Tensor], seeds: Tensor) -> list[Tensor]:
    each = [torch.autograd.grad(output, of, seed, retain_graph=True) for seed in seeds]
    return [torch.stack(found) for found in zip(*each, strict=True)]


def at_once(output: Tensor, of: list[Tensor], seeds: Tensor) -> tuple[Tensor, ...]:
    found: tuple[Tensor, ...] = torch.func.vmap(lambda seed: torch.autograd.grad(output, of, seed, retain_graph=True))(
        seeds
    )
    return found


@pytest.mark.parametrize("reached", [None, 3, POS])
@pytest.mark.parametrize("n_groups", [4, 2, 1])
@pytest.mark.parametrize("call", CALLS)
def test_products_of_many_outputs_are_those_of_each(call: str, n_groups: int, reached: int | None) -> None:
    reach, of = Reach(), inputs(n_groups)
    asked = CALLS[call] | {"enable_gqa": n_groups < 4}
    plain = scaled_dot_product_attention(*of, **asked)
    with LinearizedAttention(reach):
        ours = scaled_dot_product_attention(*of, **asked)
    assert type(ours.grad_fn).__name__ == "_AttentionBackward"
    assert torch.equal(ours, plain)
    seeds = torch.randn(3, *plain.shape)
    if reached is None:
        found = at_once(ours, of, seeds)
    else:
        seeds[..., reached:, :] = 0
        with reach.limited([[reached, 1]] * 3, POS):
            found = at_once(ours, of, seeds)
    for ours_of, expected in zip(found, one_by_one(plain, of, seeds), strict=True):
        torch.testing.assert_close(ours_of, expected)


def test_a_gradient_beyond_what_is_said_to_be_reached_is_not_lost() -> None:
    reach, of = Reach(), inputs()
    with LinearizedAttention(reach):
        ours = scaled_dot_product_attention(*of, is_causal=True)
    seeds = torch.randn(3, *ours.shape)
    with reach.limited([[2, 2]] * 3, POS):
        found = at_once(ours, of, seeds)
    for ours_of, expected in zip(found, one_by_one(ours, of, seeds), strict=True):
        torch.testing.assert_close(ours_of, expected)


def test_one_output_alone_goes_back_too() -> None:
    of = inputs(2)
    with LinearizedAttention(Reach()):
        ours = scaled_dot_product_attention(*of, is_causal=True, enable_gqa=True)
    plain = scaled_dot_product_attention(*of, is_causal=True, enable_gqa=True)
    for a, b in zip(torch.autograd.grad(ours.sum(), of), torch.autograd.grad(plain.sum(), of), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    "asked",
    [
        {"dropout_p": 0.5},
        {"attn_mask": torch.zeros(POS, POS).requires_grad_()},
    ],
)
def test_what_it_has_no_products_for_is_left_to_torch(asked: dict[str, Any]) -> None:
    with LinearizedAttention(Reach()):
        ours = scaled_dot_product_attention(*inputs(), **asked)
    assert type(ours.grad_fn).__name__ != "_AttentionBackward"
    three = [each.squeeze(1) for each in inputs(1)][1:]
    with LinearizedAttention(Reach()):
        ours = scaled_dot_product_attention(three[0], *three)
    assert type(ours.grad_fn).__name__ != "_AttentionBackward"
