"""Which modules of a model ran in one forward pass, in what order and inside which, with what went in and came out."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

N_TOKENS = 6


@dataclass(frozen=True)
class Call:
    """One run of a module: the tensors that went in, the first of them `input`, and the one that came out.

    `start` and `end` count the modules' starts and ends in the whole pass, so they say what ran inside what.
    """

    name: str
    module: nn.Module
    inputs: tuple[Tensor, ...]
    output: Tensor
    start: int
    end: int

    @property
    def input(self) -> Tensor:
        return self.inputs[0]

    @property
    def is_linear(self) -> bool:
        weight = getattr(self.module, "weight", None)
        if not isinstance(weight, Tensor) or weight.ndim != 2 or not self.input.is_floating_point():
            return False
        return sorted(weight.shape) == sorted((self.input.shape[-1], self.output.shape[-1]))

    def holds(self, other: "Call") -> bool:
        """Whether the other ran inside this one."""
        return self.start < other.start and other.end < self.end


def some_tokens(model: nn.Module) -> Int[Tensor, "1 6"]:
    """Six token ids, all different, that no module could take for positions."""
    config: Any = model.config
    vocab_size = config.get_text_config().vocab_size
    ids = [(vocab_size // 2 + 7 * index) % vocab_size for index in range(N_TOKENS)]
    return torch.tensor([ids], device=next(model.parameters()).device)


def forward_calls(
    model: nn.Module,
    ids: Int[Tensor, "batch pos"],
    mask: Int[Tensor, "batch pos"] | None = None,
    *,
    cut_linear: bool = False,
) -> list[Call]:
    """Every module's run in one forward pass, in the order in which they ended.

    With `cut_linear`, what a module with a two-dimensional weight gives is cut out of the graph and made a leaf of it.
    """
    mask = torch.ones_like(ids) if mask is None else mask
    with torch.set_grad_enabled(cut_linear):
        return calls_in(
            model, lambda: model(input_ids=ids, attention_mask=mask, use_cache=False), cut_linear=cut_linear
        )


def calls_in(model: nn.Module, forward: Callable[[], object], *, cut_linear: bool = False) -> list[Call]:
    """Every module's run while `forward` does what it does, in the order in which they ended."""
    calls: list[Call] = []
    with _watched(model, calls, cut_linear=cut_linear):
        forward()
    return calls


def by_layer(calls: Sequence[Call], names: Sequence[str]) -> list[Call]:
    """The run of each layer's module; of layers that share a module, its runs one after the other.

    Raises ValueError when a module ran more or less often than it is named.
    """
    runs = {name: [call for call in calls if call.name == name] for name in names}
    for name, of_name in runs.items():
        if len(of_name) != (times := sum(other == name for other in names)):
            raise ValueError(f"{name} ran {len(of_name)} times in one forward pass, not {times}")
    left = {name: iter(of_name) for name, of_name in runs.items()}
    return [next(left[name]) for name in names]


@contextmanager
def _watched(model: nn.Module, calls: list[Call], *, cut_linear: bool) -> Iterator[None]:
    names = {module: name for name, module in model.named_modules() if name}
    clock, open_since = 0, []

    def begin(module: nn.Module, args: object) -> None:
        nonlocal clock
        clock += 1
        open_since.append(clock)

    def record(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Tensor | None:
        nonlocal clock
        clock += 1
        start = open_since.pop()
        # copies, because some models add to what a module took or gave in place
        tensors = tuple(value.clone() for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
        result = output[0] if isinstance(output, tuple | list) and output else output
        if not tensors or not isinstance(result, Tensor):
            return None
        cut = cut_linear and result is output and getattr(getattr(module, "weight", None), "ndim", 0) == 2
        leaf = result.detach().clone().requires_grad_(cut)
        calls.append(Call(names[module], module, tensors, leaf, start, clock))
        return leaf.clone() if cut else None

    handles = [
        handle
        for module in names
        for handle in (
            module.register_forward_pre_hook(begin),
            module.register_forward_hook(record, with_kwargs=True),
        )
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
