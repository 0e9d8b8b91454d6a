"""Prompts that cannot be captured: how a batch that fails is narrowed down to them, and when the fault is not theirs.

A batch that fails is halved, and its halves, so that a prompt that is too long for memory, or on which the model fails,
costs the run that prompt alone. A disk, a store or a model that fails on anything is no prompt's fault, and ends the run.
"""

import gc
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch

from ..errors import ActlakeError, ModelFails, NothingCaptured, PrecisionOverflow
from ..store import CapturedGeneration
from ..store.memory import give_back
from .models import Model
from .plan import Work

Item = TypeVar("Item")
Result = TypeVar("Result")

OF_MODEL = (RuntimeError, MemoryError, ValueError, IndexError)
"""What a model raises on a text that it cannot take; every error of torch, CUDA's too, is a RuntimeError."""

OF_WRITING = (PrecisionOverflow, MemoryError)
"""What a generation can be to blame for when it is made ready for the disk."""

HOPELESS = 16
"""When so many prompts failed, and the run has no generation yet, the others would fail too."""

_ASKED = re.compile(r"allocate ([\d.]+ ?\w+)")


@dataclass(frozen=True)
class Skipped:
    """A prompt that was left out: its number, where it stands, and why."""

    prompt_index: int
    where: str
    reason: str


class Skips:
    """The prompts that a call leaves out, of `n_wanted`."""

    def __init__(self, model: Model, n_wanted: int) -> None:
        self._model, self._n_wanted = model, n_wanted
        self._skipped: list[Skipped] = []

    def add(self, work: Work, reason: str, *, n_there: int) -> None:
        """Leave a prompt out, where the run has `n_there` generations.

        Raises ModelFails or NothingCaptured when it is not the prompt's fault.
        """
        where = work.prompt.where
        self._skipped.append(Skipped(work.prompt_index, where, reason))
        if not _takes_any_text(self._model):
            raise ModelFails(where, reason)
        if not n_there and len(self._skipped) >= min(HOPELESS, self._n_wanted):
            raise NothingCaptured(len(self._skipped), where, reason)

    def left_out(self, there: Collection[int], first_generation_id: int) -> tuple[Skipped, ...]:
        """Those, by number, whose generation is not there: another process may have done one."""
        left_out = [each for each in self._skipped if first_generation_id + each.prompt_index not in there]
        return tuple(sorted(left_out, key=lambda skipped: skipped.prompt_index))


def by_halves(
    items: Sequence[Item],
    do: Callable[[Sequence[Item]], Result],
    skip: Callable[[Item, str], None],
    *,
    faults: tuple[type[Exception], ...],
    settle: Callable[[], object] = gc.collect,
) -> Iterator[Result]:
    """What `do` gives of all items together or, where it raises one of `faults`, of their halves, down to single ones.

    `settle` frees memory before every try but the first; a single item with which a later try raises is given to `skip`,
    with the reason.
    """
    parts, is_first = [items], True
    while parts:
        part, reason = parts.pop(), ""
        try:
            result = do(part)
        except faults as error:
            if isinstance(error, ActlakeError) and not isinstance(error, OF_WRITING):
                raise
            reason = said(error)
        if not reason:
            yield result
            del result  # it may be large
        elif len(part) > 1:
            half = len(part) // 2
            parts += [part[half:], part[:half]]
        elif is_first:
            parts.append(part)
        else:
            skip(part[0], reason)
        if parts:
            settle()
        is_first = False


def not_finite(generation: CapturedGeneration) -> str | None:
    """What of a generation is not a finite number, None where all is."""
    tokens = generation.tokens
    for name, values in (("log-probability", tokens.logprob), ("entropy", tokens.entropy)):
        if np.isnan(values).any():  # a log-probability of minus infinity is one
            return f"a {name} is not a number"
    named: list[tuple[str, np.ndarray | None]] = [("an embedding", generation.embeddings)]
    named += [(f"an activation of layer {layer}", a) for layer, a in sorted((generation.activations or {}).items())]
    named += [(f"a hidden state of layer {layer}", h) for layer, h in sorted((generation.hidden_states or {}).items())]
    named += [("a gradient", vectors) for vectors in generation.gradients or ()]
    named += [("a gradient's score", scores) for scores in generation.gradient_scores or ()]
    for name, array in named:
        if array is not None and array.size and not (np.isfinite(array.min()) and np.isfinite(array.max())):
            return f"{name} is not a finite number"
    return None


def said(error: Exception) -> str:
    """An error in one line."""
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in text:
        asked = _ASKED.search(text)
        return f"out of memory{f' ({asked[1]} more were asked for)' if asked else ''}"
    if isinstance(error, ActlakeError):
        return text
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")
    return f"{type(error).__name__}: {line}"


def free_memory() -> None:
    """Give back what a failed try held."""
    gc.collect()
    give_back()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _takes_any_text(model: Model) -> bool:
    """Whether the model goes through any of some texts of one token: else it is broken, or there is no memory left at all."""
    return any(_takes(model, token_id) for token_id in {model.pad_id, *range(min(4, model.anatomy.vocab_size))})


def _takes(model: Model, token_id: int) -> bool:
    try:
        with torch.inference_mode():
            output = model.network(input_ids=torch.tensor([[token_id]], device=model.device))
            return not bool(output[0].isnan().any())
    except OF_MODEL:
        return False
