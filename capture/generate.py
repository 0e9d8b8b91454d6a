"""Writing text: the library's batched `generate()`, greedy or sampled, with each row's randomness its own."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from ..errors import InvalidOption
from .cache import roomy_cache
from .models import Model
from .packed import packed_ffns
from .real import Real

FinishReason = Literal["stop", "length", "context", "given"]


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen: the likeliest at temperature 0, else drawn (0 and 1 switch `top_k`, `top_p` off)."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.temperature >= 0:
            raise InvalidOption("temperature", self.temperature, "0 is greedy, greater values sample")
        if self.top_k < 0:
            raise InvalidOption("top_k", self.top_k, "give a number of tokens, or 0 for all")
        if not 0 < self.top_p <= 1:
            raise InvalidOption("top_p", self.top_p, "give a probability above 0, up to 1")


def continuations(
    model: Model,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    sampling: Sampling,
    prompt_indices: Sequence[int],
) -> list[list[int]]:
    """What the model writes after each prompt (token ids), the token that ends the text included, if it wrote one.

    A draw depends on the seed, the prompt's index and the step, not on which other prompts are in the batch.
    """
    with packed_ffns(model, Real.padded_at_left([*map(len, prompts)])):
        output = generated(model, prompts, max_new_tokens, sampling, prompt_indices, end_ids=model.end_ids)
    return [until_end(row, model.end_ids) for row in output.tolist()]


def generated(
    model: Model,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    sampling: Sampling,
    prompt_indices: Sequence[int],
    *,
    end_ids: Sequence[int],
    **more: Any,
) -> Int[Tensor, "batch new"]:
    """What the library's `generate()` adds to the prompts, until each has one of `end_ids`; it is given `more` too."""
    real = Real.padded_at_left([*map(len, prompts)])  # so that all rows are continued at the same column
    width = real.shape[1]
    ids = torch.full(real.shape, model.pad_id)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
    config = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        pad_token_id=model.pad_id,
        eos_token_id=list(end_ids) or None,
        bos_token_id=None,
    )
    with torch.inference_mode(), roomy_cache(model.network, width + max_new_tokens):
        output: Tensor = model.network.generate(
            input_ids=ids.to(model.device),
            attention_mask=real.mask.long().to(model.device),
            generation_config=config,
            logits_processor=_processors(sampling, prompt_indices),
            **more,
        )
    return output[:, width:]


def finish_reason(completion: Sequence[int], end_ids: Sequence[int], max_new_tokens: int) -> FinishReason:
    """Why a text ends where it does."""
    if completion and completion[-1] in end_ids:
        return "stop"
    return "length" if len(completion) >= max_new_tokens else "context"


def until_end(ids: list[int], end_ids: Sequence[int]) -> list[int]:
    """Tokens up to the first that ends the text, that one included."""
    ends = (index for index, token_id in enumerate(ids) if token_id in end_ids)
    return ids[: next(ends, len(ids) - 1) + 1]


def _processors(sampling: Sampling, prompt_indices: Sequence[int]) -> LogitsProcessorList:
    if sampling.temperature == 0:
        return LogitsProcessorList()
    wanted = [
        TemperatureLogitsWarper(sampling.temperature),
        *([TopKLogitsWarper(sampling.top_k)] if sampling.top_k else []),
        *([TopPLogitsWarper(sampling.top_p)] if sampling.top_p < 1 else []),
        _GumbelNoise(sampling.seed, prompt_indices),
    ]
    return LogitsProcessorList(wanted)


class _GumbelNoise(LogitsProcessor):
    """Adds Gumbel noise, so that the greatest is a draw from the distribution (Gumbel 1954; the "Gumbel-max trick").

    Each row has a generator of its own, seeded by the run's seed and the prompt's index.
    """

    def __init__(self, seed: int, prompt_indices: Sequence[int]) -> None:
        self._generators = [_generator(seed, index) for index in prompt_indices]

    def __call__(self, input_ids: Int[Tensor, "batch pos"], scores: Float[Tensor, "batch vocab"]) -> Tensor:
        draws = [torch.empty(scores.shape[1]).exponential_(generator=generator) for generator in self._generators]
        return scores.float() - torch.stack(draws).clamp_min(1e-38).log().to(scores.device)


def _generator(seed: int, prompt_index: int) -> torch.Generator:
    digest = hashlib.sha256(f"{seed} {prompt_index}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
