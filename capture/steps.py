"""Writing text and recording it in the same steps: what `generate()` computes anyway is kept, and no replay follows.

One step more than is written is taken, because a token is recorded when it is read. Prompts are padded at the left, and
the values come through the key-value cache: `steps_agree` proves that they are the replay's before a run relies on it.
"""

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
from .devices import Arriving, HostCopies
from .generate import Sampling, generated, until_end
from .head import said
from .models import Model
from .options import CaptureOptions
from .packed import packed_ffns
from .predictions import prediction_columns, predictions
from .real import Real
from .replay import EMBEDDINGS, Recorded, Taps, recording, replay, tokens_at
from .wanted import Wanted

PROVED_STEPS = 4


def steps_suffice(model: Model, options: CaptureOptions) -> bool:
    """Whether all that the options want of written text is to be had while it is written, and is the same."""
    of_stream = options.records("hidden_states") or options.records("layer_predictions")
    return options.target is None and not of_stream and model.anatomy.is_causal and model.steps_agree


def write_and_record(
    model: Model,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    sampling: Sampling,
    prompt_indices: Sequence[int],
    wanted: Wanted,
) -> tuple[list[list[int]], Arriving[list[Recorded]]]:
    """As `continuations`, and what `replay` would record of the texts, without gradients.

    Memory: activations of the whole batch in float32, the cache, and logits of the prompts' tokens where the model has something
    done to them (`head.py`).
    """
    real = Real.padded_at_left([*map(len, prompts)])
    kept = _Kept(real, real.shape[1] + max_new_tokens)
    steps = _Steps(model, kept, real, prompts)
    keeps_some = "logits_to_keep" in signature(model.network.forward).parameters
    unembedded = steps.unembedded
    with (
        packed_ffns(model, real),
        recording(model, wanted.layers, wanted.neurons, gradients=False, unembedded=unembedded, taps=kept),
    ):
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
    if wanted.see:
        texts = [[*prompt, *written] for prompt, written in zip(prompts, completions, strict=True)]
        wanted.see(kept.rows(lengths, at), tokens_at(texts, at))
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
        pairs = zip(stepped(), replay(model, texts, [2, len(ids)], wanted)(), strict=True)
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError) as error:
        if isinstance(error, ActlakeError):
            raise
        return False
    return all(
        _close(a, b, tolerance)
        for one, other in pairs
        for a, b in [
            (one.embeddings, other.embeddings),
            (one.logprob, other.logprob),
            *((one.activations[layer], other.activations[layer]) for layer in layers),
        ]
    )


class _Kept(Taps):
    """What the steps recorded so far: each value copied as it is computed, to the place of its token among its text's."""

    def __init__(self, real: Real, room: int) -> None:
        super().__init__()
        self._real, self._room = real, room
        self._values: dict[int, Float[Tensor, "batch room width"]] = {}
        self._places: Int[Tensor, "batch"] | None = None  # of what a step computes; None while prompts are read

    def take(self, layer: int, activation: Tensor) -> None:
        if self._places is not None:
            rows = activation.reshape(-1, activation.shape[-1])
            self._values[layer].flatten(0, 1)[self._places.to(rows.device)] = rows
            return
        rows = self._real.rows(activation)
        values = self._values[layer] = rows.new_empty(len(self._real.lengths), self._room, rows.shape[-1])
        for place, of_text in zip(values, rows.split(self._real.lengths), strict=True):
            place[: len(of_text)] = of_text

    def end_step(self) -> None:
        self.take(EMBEDDINGS, self.embedding)
        if self._places is None:
            places = [row * self._room + n - 1 for row, n in enumerate(self._real.lengths)]
            self._places = torch.tensor(places, device=self.embedding.device)
        self._places += 1

    def rows(
        self, lengths: Sequence[int], at: Sequence[Int32[np.ndarray, "_"]] | None
    ) -> dict[int, Float[Tensor, "rows width"]]:
        """By layer the activations of texts of these lengths at these positions (None: all), text after text."""
        at = [np.arange(length, dtype=np.int32) for length in lengths] if at is None else at
        places = torch.from_numpy(
            np.concatenate([np.int64(row * self._room) + of_row for row, of_row in enumerate(at)])
        )
        return {
            layer: values.flatten(0, 1)[places.to(values.device)]
            for layer, values in self._values.items()
            if layer != EMBEDDINGS
        }

    def copies(self, n_tokens: int) -> HostCopies[int]:
        """By layer the values of each text's first tokens, and the embeddings; they are let go here."""
        values, self._values = self._values, {}
        return HostCopies({layer: of_layer[:, :n_tokens] for layer, of_layer in sorted(values.items())})


class _Steps(StoppingCriteria):
    """What each step said of its tokens. Writing stops when every row has read its own end."""

    def __init__(self, model: Model, kept: _Kept, real: Real, prompts: Sequence[Sequence[int]]) -> None:
        self._model, self._kept, self._real = model, kept, real
        self._following = [torch.tensor(prompt[1:], dtype=torch.long) for prompt in prompts]
        self._logits = torch.empty(0)
        self._ended: Tensor | None = None
        self._prompts: list[Float32[Tensor, "3 _"]] | None = None
        self._written: list[Float32[Tensor, "3 batch"]] = []

    @property
    def unembedded(self) -> Real:
        """The positions of the prompts that the model's forward pass has to give logits of: the last are to be continued, the
        others are asked afterwards if they can be."""
        return self._real.last if self._model.logits_are_unembedded else self._real

    def keep(self, module: nn.Module, args: object, output: Any) -> None:
        """A hook for the network's forward pass; of the prompts' logits, `generate()` is given each prompt's last."""
        if self._prompts is None:
            output.logits, self._prompts = self._of_prompts(output.logits)
        self._logits = output.logits[:, 0]
        self._kept.end_step()

    def _of_prompts(self, logits: Tensor) -> tuple[Float[Tensor, "batch 1 vocab"], list[Float32[Tensor, "3 _"]]]:
        lengths = self._real.lengths
        if self._model.logits_are_unembedded:
            hidden = self._real.before_last.rows(self._kept.last_hidden)
            of_all = said(self._model, hidden, torch.cat(self._following))
            return logits.reshape(len(lengths), 1, -1), list(of_all.split([n - 1 for n in lengths], dim=1))
        of_each = self._real.rows(logits).split(lengths)
        found = [predictions(of[:-1], targets) for of, targets in zip(of_each, self._following, strict=True)]
        return torch.stack([of_prompt[-1:] for of_prompt in of_each]), found

    def __call__(self, input_ids: Int[Tensor, "batch pos"], scores: object, **_: object) -> Bool[Tensor, "batch"]:
        logits, self._logits = self._logits, torch.empty(0)
        drawn = input_ids[:, -1]
        self._written.append(predictions(logits, drawn))
        ends = torch.isin(drawn, torch.tensor(self._model.end_ids, dtype=drawn.dtype, device=drawn.device))
        ended = torch.zeros_like(ends) if self._ended is None else self._ended
        self._ended = ended | ends
        return ended

    def recorded(self, lengths: Sequence[int], at: Sequence[Int32[np.ndarray, "_"]] | None) -> Arriving[list[Recorded]]:
        """The rows, each as long as is said, their activations at these positions (None: all); what was kept is let go."""
        values, prompts = self._kept.copies(max(lengths)), HostCopies(dict(enumerate(self._prompts or [])))
        steps = HostCopies({0: torch.stack(self._written, dim=1)})  # (3, steps, batch)

        def arrived() -> list[Recorded]:
            activations, of_prompts, written = values.arrays(), prompts.arrays(), steps.arrays()[0]
            embeddings = activations.pop(EMBEDDINGS)
            return [
                Recorded(
                    embeddings[row, :n],
                    {layer: a[row, :n] if at is None else a[row, at[row]] for layer, a in activations.items()},
                    [],
                    *prediction_columns(np.concatenate([of_prompts[row], written[:, :, row]], axis=1)[:, : n - 1]),
                )
                for row, n in enumerate(lengths)
            ]

        return arrived


def _close(a: Any, b: Any, tolerance: float) -> bool:
    return a.shape == b.shape and bool(abs(a - b).max() <= tolerance * (abs(b).max() or 1.0))
