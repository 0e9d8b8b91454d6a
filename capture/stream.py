"""The residual stream: what flows from block to block, read where it flows, and proved before any of it is recorded."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from jaxtyping import Int
from torch import Tensor, nn

from .anatomy import Anatomy
from .calls import N_TOKENS, some_tokens
from .proof import close, tolerance_of

INPUT = -1
"""The layer that stands for what enters the first block."""

Lens = Literal["normed", "raw"]
LENSES: tuple[Lens, ...] = get_args(Lens)
"""How predictions are made of a layer's hidden states: with the final norm, or without."""


@dataclass(frozen=True)
class OfStream:
    """What is wanted of the residual stream: hidden states of some layers, and predictions after some, by a lens."""

    states: tuple[int, ...] = ()
    predictions: tuple[int, ...] = ()
    lens: Lens = "normed"

    @property
    def layers(self) -> frozenset[int]:
        return frozenset((*self.states, *self.predictions))


@dataclass
class Stream:
    """What was read in one forward pass: copies of hidden states by layer, and what each block gives beside its own."""

    states: dict[int, Tensor] = field(default_factory=dict)
    beside: dict[str, Sequence[Any] | None] = field(default_factory=dict)

    def as_given(self, block: str, hidden: Tensor) -> Any:
        """A hidden state in the form in which a block gives its own: alone, or first of a tuple or list."""
        beside = self.beside[block]
        return hidden if beside is None else type(beside)([hidden, *beside])  # type: ignore[call-arg]


@contextmanager
def residual_stream(network: nn.Module, anatomy: Anatomy, layers: Collection[int]) -> Iterator[Stream]:
    """Hooks that copy hidden states of these layers; a block may change what it was given, and others what it gave."""
    stream = Stream()

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = _flowing((*args, *kwargs.values()), anatomy)
        if given is not None and INPUT not in stream.states:
            stream.states[INPUT] = given.detach().clone()

    def after(name: str) -> Callable[[nn.Module, object, object], None]:
        runs = runs_of(anatomy, name)

        def read(module: nn.Module, args: object, output: object) -> None:
            several = output if isinstance(output, tuple | list) else None
            stream.beside[name] = None if several is None else several[1:]
            layer, gave = next(runs), _flowing(several[:1] if several is not None else (output,), anatomy)
            if layer in layers and gave is not None:
                stream.states[layer] = gave.detach().clone()

        return read

    handles = []
    if INPUT in layers:
        handles.append(network.get_submodule(anatomy.blocks[0]).register_forward_pre_hook(before, with_kwargs=True))
    if layers:
        handles += [network.get_submodule(name).register_forward_hook(after(name)) for name in set(anatomy.blocks)]
    try:
        yield stream
    finally:
        for handle in handles:
            handle.remove()


def runs_of(anatomy: Anatomy, block: str) -> Iterator[int]:
    """The layers that a block's runs are, one after the other."""
    return iter([layer for layer, name in enumerate(anatomy.blocks) if name == block])


@torch.no_grad()
def stream_problem(network: nn.Module, anatomy: Anatomy) -> str | None:
    """Why hidden states of a model cannot be recorded, or None where this is proved on six tokens: each block gives one of
    every position, which is what enters the next block, and padding at the right changes none.

    Cost: two forward passes.
    """
    ids, tolerance = some_tokens(network), tolerance_of(network)
    every = range(INPUT, anatomy.n_layers)
    with residual_stream(network, anatomy, every) as alone, _block_inputs(network, anatomy) as inputs:
        network(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
    for layer in every:
        where = "the first block takes" if layer == INPUT else f"in layer {layer}, {anatomy.blocks[layer]} gives"
        if layer not in alone.states or alone.states[layer].numel() != N_TOKENS * anatomy.d_model:
            return f"{where} no tensor of {anatomy.d_model} values at every position"
        following = inputs[layer + 1 : layer + 2]
        if following and (following[0] is None or not close(following[0], alone.states[layer], tolerance)):
            return f"{where} something else than what enters layer {layer + 1}"
    longer, mask = _padded(ids)
    with residual_stream(network, anatomy, every) as padded:
        network(input_ids=longer, attention_mask=mask, use_cache=False)
    for layer in every:
        text = padded.states[layer].reshape(2 * N_TOKENS, -1)[:N_TOKENS]
        if not close(text, alone.states[layer].reshape(N_TOKENS, -1), 10 * tolerance):
            return f"padding changes the hidden states of layer {layer}"
    return None


@contextmanager
def replaced(forwards: Mapping[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    """Modules that for a while do something else than they do, with their hooks and attributes as they are."""
    before = {module: vars(module).get("forward") for module in forwards}
    for module, forward in forwards.items():
        vars(module)["forward"] = forward
    try:
        yield
    finally:
        for module, own in before.items():
            if own is None:
                del vars(module)["forward"]
            else:
                vars(module)["forward"] = own


@contextmanager
def _block_inputs(network: nn.Module, anatomy: Anatomy) -> Iterator[list[Tensor | None]]:
    """What entered each block, by layer."""
    inputs: list[Tensor | None] = []

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = _flowing((*args, *kwargs.values()), anatomy)
        inputs.append(None if given is None else given.clone())

    modules = {network.get_submodule(name) for name in anatomy.blocks}
    handles = [module.register_forward_pre_hook(before, with_kwargs=True) for module in modules]
    try:
        yield inputs
    finally:
        for handle in handles:
            handle.remove()


def _padded(ids: Int[Tensor, "1 pos"]) -> tuple[Int[Tensor, "1 longer"], Int[Tensor, "1 longer"]]:
    """As many tokens again, which the mask hides."""
    return torch.cat([ids, ids], dim=1), torch.cat([torch.ones_like(ids), torch.zeros_like(ids)], dim=1)


def _flowing(values: Iterable[object], anatomy: Anatomy) -> Tensor | None:
    """The first of these that can be hidden states."""
    return next(
        (
            value
            for value in values
            if isinstance(value, Tensor) and value.is_floating_point() and value.shape[-1:] == (anatomy.d_model,)
        ),
        None,
    )
