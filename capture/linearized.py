"""Activation functions whose graphs go backward quickly for many outputs at once.

A vector-Jacobian product needs of an activation function its derivative alone, which is the same for every output; torch
would work it out again for each, and of some functions one output at a time. What goes forward is untouched.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import activations

_ELEMENTWISE = (
    nn.SiLU,
    nn.GELU,
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.Hardswish,
    nn.Mish,
    nn.Softplus,
    nn.Tanh,
    nn.Sigmoid,
)


@contextmanager
def linearized(network: nn.Module) -> Iterator[None]:
    """Graphs that `network` makes here keep the derivatives of its activation functions."""
    handles = [module.register_forward_hook(_derive) for module in network.modules() if is_elementwise(module)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def is_elementwise(module: nn.Module) -> bool:
    """Whether a module is known to be a function of each element of its input."""
    return isinstance(module, _ELEMENTWISE) or type(module).__module__ == activations.__name__


def _derive(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
    if not output.requires_grad or not args or output is args[0]:
        return None
    (derivative,) = torch.autograd.grad(output, args[0], torch.ones_like(output))
    given: Tensor = _Elementwise.apply(args[0], output.detach(), derivative)  # type: ignore[no-untyped-call]
    return given


class _Elementwise(torch.autograd.Function):
    """What a function of each element gave, by its derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, output: Tensor, derivative: Tensor) -> Tensor:
        ctx.save_for_backward(derivative)
        return output.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (derivative,) = ctx.saved_tensors
        return gradient * derivative, None, None
