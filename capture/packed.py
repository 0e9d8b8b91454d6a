"""FFNNs that are given the real positions of a batch alone: an FFNN sees one position at a time, it is most of a block's
arithmetic, and padding can be a third of a batch."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .anatomy import Anatomy
from .calls import N_TOKENS, by_layer, forward_calls, some_tokens
from .models import Model
from .proof import close, tolerance_of
from .real import Real


def packed_ffns(model: Model, real: Real) -> AbstractContextManager[None]:
    """Within it, FFNNs get the real positions of such a batch as one text, and give zeros for the others, if it has others and
    `ffns_pack` is proved; batches of another shape, as a step with a cache, are left as they are.

    The proof, when it is first asked for, runs the model: other hooks come after this.
    """
    return nullcontext() if real.is_whole or not model.ffns_pack else _packing(model.network, model.anatomy, real)


@torch.no_grad()
def ffns_pack(model: Model) -> bool:
    """Whether FFNNs that get real positions alone change nothing, tried on two texts: no activation, nor what the model gives.

    Cost: two forward passes over 12 positions.
    """
    if not any(model.anatomy.ffns):
        return False
    (ids,) = some_tokens(model.network)
    batch = torch.stack([ids, ids.roll(1)])
    mask = torch.ones_like(batch)
    mask[0, N_TOKENS // 2 :] = 0
    real, tolerance = Real(mask.bool()), tolerance_of(model.network)

    def found() -> list[Float[Tensor, "real _"]]:
        calls = forward_calls(model.network, batch, mask)
        return [real.rows(call.input) for call in by_layer(calls, model.anatomy.ffn_outputs)] + [
            real.rows(call.output) for call in by_layer(calls, model.anatomy.blocks)
        ]

    try:
        whole = found()
        with _packing(model.network, model.anatomy, real):
            packed = found()
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError):
        return False
    return all(close(a, b, tolerance) for a, b in zip(packed, whole, strict=True))


@contextmanager
def _packing(network: nn.Module, anatomy: Anatomy, real: Real) -> Iterator[None]:
    """Hooks around each FFNN that is a module of its own."""

    def fits(value: object) -> bool:
        return isinstance(value, Tensor) and value.ndim == 3 and value.shape[:2] == real.shape

    def packed(value: Any) -> Any:
        return real.packed(value) if fits(value) else value

    def spread(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(spread, value))
        return real.spread(value) if isinstance(value, Tensor) else value

    def hooks_of(module: nn.Module) -> Iterator[Any]:
        is_packed = False

        def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
            nonlocal is_packed
            is_packed = any(map(fits, (*args, *kwargs.values())))
            return tuple(map(packed, args)), {name: packed(value) for name, value in kwargs.items()}

        def after(_: nn.Module, __: object, output: Any) -> Any:
            return spread(output) if is_packed else output

        yield module.register_forward_pre_hook(before, with_kwargs=True)
        yield module.register_forward_hook(after)

    modules = map(network.get_submodule, {*filter(None, anatomy.ffns)})
    handles = [handle for module in modules for handle in hooks_of(module)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
