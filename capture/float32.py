"""Half-precision models computed in float32, without a second copy of their weights: for gradients.

A gradient is a sum over every path back through the blocks; in bfloat16 each of those sums is rounded to 8 bits.
"""

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

HALF = (torch.bfloat16, torch.float16)


@contextmanager
def in_float32() -> Iterator[None]:
    """Calls of torch that have float32 and half-precision values together get the latter as float32.

    Begun with a float32 embedding, a model is so computed in float32 throughout. Graphs that are made keep the weights as
    they are, and widen them again when they go backward.
    """
    widened = _Widened()
    with widened, torch.autograd.graph.saved_tensors_hooks(widened.pack, _unpack):
        yield


class _Widened(TorchFunctionMode):
    """Widens half-precision arguments, and knows what it widened as long as that lives."""

    def __init__(self) -> None:
        super().__init__()
        self._sources: dict[int, tuple[weakref.ref[Tensor], Tensor]] = {}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        dtypes = {leaf.dtype for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        in_place = getattr(func, "__name__", "").endswith("_")
        if torch.float32 in dtypes and dtypes & set(HALF) and not in_place:
            args, kwargs = tree_map(self._wide, (args, dict(kwargs)))
        return func(*args, **kwargs)

    def pack(self, saved: Tensor) -> Tensor | tuple[Tensor, tuple[int, ...], tuple[int, ...]]:
        """A saved tensor, or in place of a widened one where it came from, with its shape and strides."""
        wide, source = self._sources.get(saved.data_ptr(), (None, None))
        if wide is None or source is None or wide() is None:
            return saved
        return source, tuple(saved.shape), saved.stride()

    def _wide(self, value: Any) -> Any:
        if not isinstance(value, Tensor) or value.dtype not in HALF:
            return value
        wide = value.float()
        if not value.requires_grad and value.is_contiguous():
            self._sources[wide.data_ptr()] = weakref.ref(wide), value
        return wide


def _unpack(packed: Tensor | tuple[Tensor, tuple[int, ...], tuple[int, ...]]) -> Tensor:
    if isinstance(packed, Tensor):
        return packed
    source, shape, stride = packed
    return source.float().as_strided(shape, stride)
