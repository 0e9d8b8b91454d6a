"""Graphs of activation functions that keep what many outputs share, against torch's own."""

from __future__ import annotations

import pytest
import torch
from actlake.capture import linearized
from actlake.capture.linearized import is_elementwise
from torch import Tensor, nn
from transformers.activations import ACT2FN

ACTIVATIONS = sorted(set(ACT2FN) - {"linear", "prelu"})


def products(output: Tensor, inputs: list[Tensor], seeds: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(output, inputs, seeds, is_grads_batched=True))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_function_gives_what_it_gave_and_its_gradients_by_its_derivative(name: str) -> None:
    module = nn.Sequential(ACT2FN[name])
    assert is_elementwise(module[0])
    x = torch.linspace(-3, 3, 41).reshape(1, 41).requires_grad_()
    seeds = torch.randn(3, 1, 41, generator=torch.Generator().manual_seed(0))
    plain = module(x)
    with linearized.linearized(module):
        ours = module(x)
    assert type(ours.grad_fn).__name__ == "_ElementwiseBackward"
    assert torch.equal(ours, plain)
    (expected,), (found,) = products(plain, [x], seeds), products(ours, [x], seeds)
    torch.testing.assert_close(found, expected)
    assert type(module(x).grad_fn).__name__ != "_ElementwiseBackward"


def test_a_function_that_works_in_place_is_left_to_torch() -> None:
    x = torch.tensor([-1.0, 2.0]).requires_grad_()
    with linearized.linearized(nn.Sequential(act := nn.ReLU(inplace=True))):
        act(x * 3).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0, 3]
