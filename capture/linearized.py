"""Graphs that go backward quickly for many outputs at once.

A vector-Jacobian product needs of an activation function its derivative alone, of a linear map its weight, and of attention
its shares: the same for every output. torch would work the first out again for each, would multiply the zeros behind each
output by the second, and has no rule for many outputs of the last, so that it takes them one at a time. An FFNN, which is linear
maps around functions of each element, is one product, whose wide values nothing else has to keep. What goes forward is
untouched.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import activations
from transformers.pytorch_utils import Conv1D

from .attention import LinearizedAttention
from .reach import Reach

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
_LINEAR = (nn.Linear, Conv1D)

_BETWEEN = 32
"""At most so many steps of a graph between an FFNN's output projection and the maps that feed it are looked at."""


@contextmanager
def linearized(network: nn.Module, reach: Reach, ffn_outputs: Collection[str] = ()) -> Iterator[None]:
    """Graphs that `network` makes here keep what many outputs share, and go backward no further than the reach says.

    `ffn_outputs` are its FFNNs' output projections.
    """
    graphs = _Graphs(reach)
    handles = []
    for name, module in network.named_modules():
        if is_linear(module):
            handles.append(module.register_forward_hook(graphs.ffn if name in ffn_outputs else graphs.linear))
        elif is_elementwise(module):
            handles.append(module.register_forward_hook(_derive))
    try:
        with LinearizedAttention(reach):
            yield
    finally:
        for handle in handles:
            handle.remove()


def is_elementwise(module: nn.Module) -> bool:
    """Whether a module is known to be a function of each element of its input."""
    return isinstance(module, _ELEMENTWISE) or type(module).__module__ == activations.__name__


def is_linear(module: nn.Module) -> bool:
    """Whether a module is known to multiply each position by its weight, and to do no more than add a bias."""
    return any(type(module).forward is known.forward for known in _LINEAR)


class _Graphs:
    """Hooks that put maps into a graph, and what they put there since the last FFNN."""

    def __init__(self, reach: Reach) -> None:
        self._reach = reach
        self._fed: dict[Any, tuple[Tensor, Tensor, Tensor]] = {}  # by node: a map's input, output and weight

    def linear(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        weight = _weight(module)
        if (
            not args
            or not output.requires_grad
            or weight.requires_grad
            or {args[0].device, weight.device} != {output.device}
        ):
            return None
        given = self._put(args[0], output, _Linear(weight.detach()))
        self._fed[given.grad_fn] = args[0], given, weight.detach()
        return given

    def ffn(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        fed, self._fed = self._fed, {}
        if args and output.requires_grad and args[0].grad_fn and not (weight := _weight(module)).requires_grad:
            feeders = [fed[node] for node in _feeders(args[0].grad_fn, fed)]
            derivatives = _derivatives(args[0], [fed_by for _, fed_by, _ in feeders])
            inputs = {id(x): x for x, _, _ in feeders}.values()
            if derivatives and len(inputs) == 1 and {weight.device, *(x.device for x in inputs)} == {output.device}:
                whole = _Ffn(weight.detach(), [of_map for _, _, of_map in feeders], derivatives)
                return self._put(feeders[0][0], output, whole)
        return self.linear(module, args, output)

    def _put(self, x: Tensor, output: Tensor, product: "_Product") -> Tensor:
        given: Tensor = _Map.apply(x, output.detach(), _Reached(product, self._reach))  # type: ignore[no-untyped-call]
        return given


def _weight(module: nn.Module) -> Float[Tensor, "outputs inputs"]:
    weight: Tensor = module.weight  # type: ignore[assignment]
    return weight.T if isinstance(module, Conv1D) else weight


def _feeders(node: Any, maps: Collection[Any]) -> list[Any]:
    """Which of these maps, by their nodes of a graph, a node is computed from; none if it is from a leaf too, or far away."""
    waiting, seen, found = [node], {node}, list[Any]()
    while waiting:
        node = waiting.pop()
        if node in maps:
            found.append(node)
        elif hasattr(node, "variable") or len(seen) > _BETWEEN:
            return []
        else:
            following = {before for before, _ in node.next_functions if before is not None} - seen
            seen |= following
            waiting += following
    return found


def _derivatives(h: Float[Tensor, "... d_ff"], fed_by: Sequence[Tensor]) -> list[Float[Tensor, "... d_ff"]]:
    """Of `h`, a function of each element of these, its derivatives by each; none if it is not such a function."""
    if not fed_by or any(u.shape != h.shape for u in fed_by):
        return []
    signs = (torch.rand(h.shape, generator=torch.Generator().manual_seed(0)) < 0.5).to(h) * 2 - 1
    derivatives = torch.autograd.grad(h, fed_by, torch.ones_like(h), retain_graph=True)
    turned = torch.autograd.grad(h, fed_by, signs, retain_graph=True)
    if all(torch.equal(a * signs, b) for a, b in zip(derivatives, turned, strict=True)):
        return list(derivatives)
    return []


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


class _Product(Protocol):
    """What gradients at a map's output are at its input. Weights are kept as they are: half precision is widened where it is
    used.
    """

    def whole(self, gradients: Float[Tensor, "... d_out"]) -> Float[Tensor, "... d_in"]:
        """Of all texts and positions."""

    def of_rows(self, rows: Float[Tensor, "rows d_out"], reach: Reach) -> Float[Tensor, "rows d_in"]:
        """Of those that are reached."""


@dataclass(frozen=True)
class _Linear:
    weight: Float[Tensor, "d_out d_in"]

    def whole(self, gradients: Float[Tensor, "... d_out"]) -> Float[Tensor, "... d_in"]:
        return gradients @ self.weight.to(gradients.dtype)

    def of_rows(self, rows: Float[Tensor, "rows d_out"], reach: Reach) -> Float[Tensor, "rows d_in"]:
        return self.whole(rows)


@dataclass(frozen=True)
class _Ffn:
    """An output projection, the maps that feed it, and the derivatives by what each of these gives."""

    output: Float[Tensor, "d_out d_ff"]
    feeding: Sequence[Float[Tensor, "d_ff d_in"]]
    derivatives: Sequence[Float[Tensor, "text position d_ff"]]

    def whole(self, gradients: Float[Tensor, "... d_out"]) -> Float[Tensor, "... d_in"]:
        inner = gradients @ self.output.to(gradients.dtype)
        pairs = zip(self.feeding, self.derivatives, strict=True)
        return sum((inner * derivative) @ weight.to(inner.dtype) for weight, derivative in pairs)  # type: ignore[return-value]

    def of_rows(self, rows: Float[Tensor, "rows d_out"], reach: Reach) -> Float[Tensor, "rows d_in"]:
        inner = rows @ self.output.to(rows.dtype)
        products = rows.new_zeros(len(rows), self.feeding[0].shape[1])
        for weight, derivative in zip(self.feeding, self.derivatives, strict=True):
            products.addmm_(reach.shared(derivative).mul_(inner), weight.to(rows.dtype))
        return products


class _Reached:
    """A product of what is reached alone."""

    def __init__(self, product: _Product, reach: Reach) -> None:
        self._product, self._reach = product, reach
        self._by_position: bool | None = None  # not known before gradients were seen

    def __call__(self, gradients: Float[Tensor, "... d_out"]) -> Float[Tensor, "... d_in"]:
        if self._by_position is False or not self._reach.fits(gradients):
            return self._product.whole(gradients)
        rows = self._reach.rows(gradients)
        if self._by_position is None:  # axes of the same lengths can still be others
            self._by_position = int(rows.count_nonzero()) == int(gradients.count_nonzero())
            return self(gradients)
        return self._reach.spread(self._product.of_rows(rows, self._reach))


class _Map(torch.autograd.Function):
    """What a map gave, by its product."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, output: Tensor, product: _Reached) -> Tensor:
        ctx.product = product
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        found: Tensor = _Gradients.apply(gradient, ctx.product)  # type: ignore[no-untyped-call]
        return found, None, None


class _Gradients(torch.autograd.Function):
    """A gradient, or those of many outputs, through a map."""

    @staticmethod
    def forward(gradient: Tensor, product: _Reached) -> Tensor:
        return product(gradient)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int, None], gradients: Tensor, product: _Reached) -> tuple[Tensor, int]:
        return product(gradients.movedim(in_dims[0], 0)), 0
