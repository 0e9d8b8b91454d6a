"""Graphs of activation functions that keep what many outputs share, against torch's own."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from actlake.capture import linearized
from actlake.capture.linearized import is_elementwise
from actlake.capture.reach import Reach
from torch import Tensor, nn
from transformers.activations import ACT2FN
from transformers.pytorch_utils import Conv1D

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
    with linearized.linearized(module, Reach()):
        ours = module(x)
    assert type(ours.grad_fn).__name__ == "_ElementwiseBackward"
    assert torch.equal(ours, plain)
    (expected,), (found,) = products(plain, [x], seeds), products(ours, [x], seeds)
    torch.testing.assert_close(found, expected)
    assert type(module(x).grad_fn).__name__ != "_ElementwiseBackward"


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up, self.down = nn.Linear(3, 8), nn.Linear(3, 8, bias=False), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        down: Tensor = self.down(nn.functional.silu(self.gate(x)) * self.up(x))
        return down


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.act, self.down = Conv1D(8, 3), nn.GELU(), Conv1D(4, 8)

    def forward(self, x: Tensor) -> Tensor:
        down: Tensor = self.down(self.act(self.up(x)))
        return down


class Normed(Gated):
    """As BitNet's: what the output projection gets is no function of each element."""

    def forward(self, x: Tensor) -> Tensor:
        h = nn.functional.silu(self.gate(x)) * self.up(x)
        down: Tensor = self.down(h / h.norm(dim=-1, keepdim=True))
        return down


class Rolled(Gated):
    """A function of elements, but of others than its own."""

    def forward(self, x: Tensor) -> Tensor:
        down: Tensor = self.down(nn.functional.silu(self.gate(x)).roll(2, -1) * self.up(x))
        return down


class Fed(Gated):
    """Fed by what is no map of the input too."""

    def forward(self, x: Tensor) -> Tensor:
        down: Tensor = self.down(self.gate(x) * self.up(x) + x.sum(-1, keepdim=True))
        return down


class Twice(Gated):
    """Its maps are of two inputs."""

    def forward(self, x: Tensor) -> Tensor:
        down: Tensor = self.down(self.gate(x) * self.up(x * 2))
        return down


@pytest.mark.parametrize("limited", [True, False])
@pytest.mark.parametrize(("made", "n_maps"), [(Gated, 1), (Plain, 1), (Normed, 3), (Rolled, 3), (Fed, 3), (Twice, 3)])
def test_an_ffnn_is_one_product_if_it_is_maps_around_functions_of_elements(
    made: type[nn.Module], n_maps: int, limited: bool
) -> None:
    torch.manual_seed(0)
    module, reach = made().requires_grad_(False), Reach()
    x = torch.randn(2, 5, 3, requires_grad=True)
    plain = module(x)
    with linearized.linearized(module, reach, ["down"]):
        ours = module(x)
    assert torch.equal(ours, plain)
    seeds = torch.randn(3, *plain.shape)
    seeds[:, :, 3:] = 0
    with reach.limited([[3, 3]] * 3, 5) if limited else nullcontext():
        found = torch.func.vmap(lambda seed: torch.autograd.grad(ours, x, seed, retain_graph=True)[0])(seeds)
    torch.testing.assert_close(found, products(plain, [x], seeds)[0])
    assert len(maps(ours.grad_fn)) == n_maps


def test_a_map_that_is_given_its_input_by_name_is_left_to_torch() -> None:
    x, module = torch.randn(2, 3, requires_grad=True), nn.Linear(3, 4).requires_grad_(False)
    with linearized.linearized(module, Reach(), [""]):
        ours = module(input=x)
    assert maps(ours.grad_fn) == set()
    torch.testing.assert_close(torch.autograd.grad(ours.sum(), x)[0], module.weight.sum(0).expand(2, 3))


def maps(node: Any) -> set[Any]:
    """The nodes of our maps in a graph."""
    before = {each for each, _ in node.next_functions if each is not None}
    return ({node} if type(node).__name__ == "_MapBackward" else set()).union(*map(maps, before))


def test_a_function_that_works_in_place_is_left_to_torch() -> None:
    x = torch.tensor([-1.0, 2.0]).requires_grad_()
    with linearized.linearized(nn.Sequential(act := nn.ReLU(inplace=True)), Reach()):
        act(x * 3).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0, 3]
