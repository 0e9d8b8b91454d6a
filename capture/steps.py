"""Writing text and recording it in the same steps: what `generate()` computes anyway is kept, and no replay follows.

One step more than is written is taken, because a token is recorded when it is read. Prompts are padded at the left, and
the values come through the key-value cache: `steps_agree` proves that they are the replay's before a run relies on it.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from inspect import signature
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int, Int32
from torch import Tensor, nn
from transformers import StoppingCriteria, StoppingCriteriaList

from ..errors import ActlakeError
from .calls import some_tokens
from .devices import HostCopies
from .generate import Sampling, generated, until_end
from .models import Model
from .options import CaptureOptions
from .predictions import prediction_columns, predictions
from .replay import EMBEDDINGS, Recorded, Taps, recording, replay
from .wanted import Wanted

PROVED_STEPS = 4


def steps_suffice(model: Model, options: CaptureOptions) -> bool:
    """Whether all that the options want of written text is to be had while it is written, and is the same."""
    of_stream = options.records("hidden_states") or options.records("layer_predictions")
    return options.target is None and not of_stream and model.anatomy.is_causal and steps_agree(model)


def write_and_record(
    model: Model,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    sampling: Sampling,
    prompt_indices: Sequence[int],
    wanted: Wanted,
) -> tuple[list[list[int]], list[Recorded]]:
    """As `continuations`, and what `replay` would record of the texts, without gradients.

    Memory: activations of the whole batch in float32, the cache, and logits of all prompts' positions.
    """
    width = max(map(len, prompts))
    keeps_some = "logits_to_keep" in signature(model.network.forward).parameters
    with recording(model, wanted.layers, wanted.neurons, gradients=False) as taps:
        steps = _Steps(taps, [width - len(prompt) for prompt in prompts], model.end_ids)
        handle = model.network.register_forward_hook(steps.keep)
        try:
            output = generated(
                model,
                prompts,
                max_new_tokens + 1,
                sampling,
                prompt_indices,
                end_ids=(),
                stopping_criteria=StoppingCriteriaList([steps]),
                **({"logits_to_keep": 0} if keeps_some else {}),
            )
        finally:
            handle.remove()
    completions = [until_end(row, model.end_ids) for row in output[:, :-1].tolist()]
    lengths = [len(prompt) + len(written) for prompt, written in zip(prompts, completions, strict=True)]
    at = None if wanted.positions.are_all else wanted.at([*map(len, prompts)], lengths)
    return completions, steps.recorded(lengths, at)


def steps_agree(model: Model) -> bool:
    """Whether a short text beside a longer one is recorded while it is written as the replay records it."""
    tolerance = 1e-3 if model.dtype == "float32" else 5e-2
    (ids,) = some_tokens(model.network).tolist()
    prompts, layers, model = [ids[:2], ids], range(model.anatomy.n_layers), replace(model, end_ids=())
    wanted = Wanted(layers)
    try:
        completions, stepped = write_and_record(model, prompts, PROVED_STEPS, Sampling(), range(2), wanted)
        texts = [[*prompt, *written] for prompt, written in zip(prompts, completions, strict=True)]
        whole = replay(model, texts, [2, len(ids)], wanted)
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError) as error:
        if isinstance(error, ActlakeError):
            raise
        return False
    return all(
        _close(a, b, tolerance)
        for one, other in zip(stepped, whole, strict=True)
        for a, b in [
            (one.embeddings, other.embeddings),
            (one.logprob, other.logprob),
            *((one.activations[layer], other.activations[layer]) for layer in layers),
        ]
    )


class _Steps(StoppingCriteria):
    """What each step recorded. Writing stops when every row has read its own end."""

    def __init__(self, taps: Taps, starts: Sequence[int], end_ids: Sequence[int]) -> None:
        self._taps, self._starts, self._end_ids = taps, starts, end_ids
        self._logits = torch.empty(0)
        self._ended: Tensor | None = None
        self._prompts: list[Float32[Tensor, "3 _"]] = []
        self._written: list[Float32[Tensor, "3 batch"]] = []
        self._embeddings: list[Float[Tensor, "batch _ d_model"]] = []
        self._activations: dict[int, list[Tensor]] = defaultdict(list)

    def keep(self, module: nn.Module, args: object, output: Any) -> None:
        """A hook for the network's forward pass."""
        self._logits = output.logits
        self._embeddings.append(self._taps.embedding)
        for layer, activation in self._taps.activations.items():
            self._activations[layer].append(activation)

    def __call__(self, input_ids: Int[Tensor, "batch pos"], scores: object, **_: object) -> Bool[Tensor, "batch"]:
        logits, self._logits = self._logits, torch.empty(0)
        targets, drawn = input_ids[:, -logits.shape[1] :], input_ids[:, -1]
        ends = torch.isin(drawn, torch.tensor(self._end_ids, dtype=drawn.dtype, device=drawn.device))
        if self._ended is None:
            if logits.shape[1] != self._embeddings[0].shape[1]:
                raise ValueError(f"the model gives logits of {logits.shape[1]} positions of the prompts")
            self._prompts = [
                predictions(logits[row, start:], targets[row, start:]) for row, start in enumerate(self._starts)
            ]
            self._ended = ends
            return torch.zeros_like(ends)
        self._written.append(predictions(logits[:, 0], drawn))
        ended, self._ended = self._ended, self._ended | ends
        return ended

    def recorded(self, lengths: Sequence[int], at: Sequence[Int32[np.ndarray, "_"]] | None) -> list[Recorded]:
        """The rows, each as long as is said, their activations at these positions (None: all); what was kept is let go."""
        widths = [embedding.shape[1] for embedding in self._embeddings]
        whole = {EMBEDDINGS: torch.cat(self._embeddings, dim=1)}
        for layer in sorted(self._activations):
            parts = zip(self._activations.pop(layer), widths, strict=True)
            whole[layer] = torch.cat([part.reshape(len(lengths), width, -1) for part, width in parts], dim=1)
        activations = HostCopies(whole).arrays()  # (batch, positions, d_ff)
        embeddings = activations.pop(EMBEDDINGS)
        written = torch.stack(self._written, dim=1)  # (3, steps, batch)
        return [
            Recorded(
                embeddings[row, start : start + n],
                {
                    layer: a[row, start : start + n] if at is None else a[row, start + at[row]]
                    for layer, a in activations.items()
                },
                [],
                *prediction_columns(torch.cat([self._prompts[row], written[:, :, row]], dim=1)[:, : n - 1]),
            )
            for row, (start, n) in enumerate(zip(self._starts, lengths, strict=True))
        ]


def _close(a: Any, b: Any, tolerance: float) -> bool:
    return a.shape == b.shape and bool(abs(a - b).max() <= tolerance * (abs(b).max() or 1.0))
