"""What a model would say after each of its layers: its own head, applied to the residual stream there.

The logit lens (nostalgebraist 2020). The head is not put together from parts: the model's forward pass itself runs, with
the hidden states in the place of what its last block gives, so whatever it does after its blocks (final norm, projections,
transforms, unembedding, scales and caps of the logits) is done as the library does it.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, Int32
from torch import Tensor

from ..errors import InvalidOption
from ..store import CapturedPredictions
from .anatomy import Anatomy
from .calls import some_tokens
from .models import Model
from .options import CaptureOptions
from .proof import close, tolerance_of
from .real import Real
from .stream import Lens, OfStream, Stream, replaced, residual_stream, runs_of, stream_problem

TOP = 10
"""Likeliest tokens that are kept of each prediction."""

LOGITS_AT_ONCE = 256
"""Positions of one layer whose distributions over the vocabulary are held together."""


def of_stream(layers: Sequence[int], options: CaptureOptions) -> OfStream:
    """What a run wants of the residual stream; hidden states come with the first block's input."""
    return OfStream(
        (-1, *layers) if options.records("hidden_states") else (),
        tuple(layers) if options.records("layer_predictions") else (),
        options.lens,
    )


def check_stream(model: Model, options: CaptureOptions) -> None:
    """Prove what would be recorded of the residual stream, or raise InvalidOption. Cost: a few forward passes over six tokens."""
    network, anatomy = model.network, model.anatomy
    predicts = options.records("layer_predictions")
    wanted = "layer_predictions" if predicts else "hidden_states"
    if not predicts and not options.records("hidden_states"):
        return
    problem = stream_problem(network, anatomy)
    if predicts and not anatomy.is_causal and model.mask_id is None:
        problem = "it is an encoder that predicts no token"
    elif predicts and not problem:
        problem = head_problem(network, anatomy)
    if problem:
        asked = ",".join(options.record)
        raise InvalidOption("record", asked, f"{model.name} cannot give {wanted}: {problem}; leave {wanted} out")
    if predicts and options.lens == "raw" and not has_raw_lens(network, anatomy):
        between = (
            f"what stands between the last block of {model.name} and its unembedding is not one norm with a weight"
        )
        raise InvalidOption("lens", "raw", f"{between}; use normed")


@torch.no_grad()
def head_problem(network: Any, anatomy: Anatomy) -> str | None:
    """Why a model's head cannot be applied to hidden states, or None where this is proved on six tokens: of those that the
    last block gives, whatever other blocks gave and each position by itself, it makes the model's own logits."""
    ids = some_tokens(network)
    with residual_stream(network, anatomy, [anatomy.n_layers - 1]) as stream:
        logits = network(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
    hidden = stream.states[anatomy.n_layers - 1].reshape(-1, anatomy.d_model)
    made = head_logits(network, anatomy, stream, hidden, "normed")
    if made.shape != logits[0].shape or not close(made, logits[0], tolerance_of(network)):
        return "what follows its last block does not make its logits of that block's hidden states alone"
    return None


@torch.no_grad()
def has_raw_lens(network: Any, anatomy: Anatomy) -> bool:
    """Whether, without the final norm, the unembedding receives hidden states as they are; tried on six tokens."""
    ids = some_tokens(network)
    with residual_stream(network, anatomy, [anatomy.n_layers - 1]) as stream:
        network(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
    hidden = stream.states[anatomy.n_layers - 1].reshape(-1, anatomy.d_model)
    received: list[Tensor] = []
    unembedding = network.get_submodule(anatomy.unembedding)
    handle = unembedding.register_forward_pre_hook(lambda module, args: received.append(args[0].flatten(0, -2)))
    try:
        head_logits(network, anatomy, stream, hidden, "raw")
    finally:
        handle.remove()
    return [tuple(given.shape) for given in received] == [tuple(hidden.shape)] and torch.equal(received[0], hidden)


@torch.no_grad()
def head_logits(
    network: Any, anatomy: Anatomy, stream: Stream, hidden: Float[Tensor, "rows d_model"], lens: Lens
) -> Float[Tensor, "rows vocab"]:
    """The logits that a model's forward pass makes when its last block gives these hidden states, each in a text of its own.

    `stream` is of any forward pass; `raw` leaves out the final norm.
    """

    def gives(name: str) -> Any:
        runs = runs_of(anatomy, name)

        def forward(*args: object, **kwargs: object) -> Any:
            is_last = next(runs) == anatomy.n_layers - 1
            return stream.as_given(name, hidden[:, None] if is_last else torch.zeros_like(hidden)[:, None])

        return forward

    forwards = {network.get_submodule(name): gives(name) for name in set(anatomy.blocks)}
    if lens == "raw" and anatomy.final_norm is not None:
        forwards[network.get_submodule(anatomy.final_norm)] = lambda given, *args, **kwargs: given
    ids = torch.zeros(len(hidden), 1, dtype=torch.long, device=hidden.device)
    with replaced(forwards):
        logits: Tensor = network(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
    return logits[:, 0]


@torch.no_grad()
def layer_predictions(
    model: Model,
    stream: Stream,
    logits: Float[Tensor, "real vocab"],
    targets: Sequence[Sequence[int]],
    positions: Sequence[Int32[np.ndarray, "_"]],
    wanted: OfStream,
    real: Real,
) -> list[dict[int, CapturedPredictions]]:
    """For each text, by layer: what the model would say at each of its positions, and of the target there (-1 for none).

    After the last layer it is what the model says: its own `logits`. Memory: the distributions of 256 positions at a time.
    """
    batch, width = real.shape
    lengths = [len(of_row) for of_row in positions]
    rows_at = [(row, int(position)) for row, of_row in enumerate(positions) for position in of_row]
    at = torch.tensor([row * width + position for row, position in rows_at])
    among_real = torch.tensor([real.starts[row] + position for row, position in rows_at], device=logits.device)
    explained = torch.tensor([targets[row][position] for row, position in rows_at], device=logits.device)
    found: list[dict[int, CapturedPredictions]] = [{} for _ in targets]
    for layer in wanted.predictions:
        parts = []
        for some, own, of_some in zip(
            *(each.split(LOGITS_AT_ONCE) for each in (at, among_real, explained)), strict=True
        ):
            if layer == model.anatomy.n_layers - 1:
                said = logits[own]
            else:
                states = stream.states[layer].reshape(batch * width, -1)
                hidden = states[some.to(states.device)]
                said = head_logits(model.network, model.anatomy, stream, hidden, wanted.lens)
            parts.append(target_predictions(said, of_some))
        rank, probability, top_ids, top_probabilities = (torch.cat(part).numpy() for part in zip(*parts, strict=True))
        texts = token_texts(model, top_ids)
        start = 0
        for row, n in enumerate(lengths):
            rows = slice(start, start + n)
            found[row][layer] = CapturedPredictions(
                rank[rows], probability[rows], top_ids[rows], texts[rows], top_probabilities[rows]
            )
            start += n
    return found


def target_predictions(logits: Float[Tensor, "rows vocab"], targets: Int[Tensor, "rows"]) -> tuple[Tensor, ...]:
    """Rank (1 is the likeliest) and probability of each target, 0 where it is -1; the likeliest tokens, and how likely."""
    logprobs = logits.float().log_softmax(-1)
    logprob = logprobs.gather(-1, targets.clamp(min=0)[:, None])  # (rows, 1)
    rank = (logprobs > logprob).sum(-1) + 1
    top = logprobs.topk(min(TOP, logprobs.shape[-1]))
    none = targets < 0
    return (
        rank.masked_fill(none, 0).int().cpu(),
        logprob[:, 0].exp().masked_fill(none, 0.0).cpu(),
        top.indices.int().cpu(),
        top.values.exp().cpu(),
    )


def token_texts(model: Model, ids: Int[np.ndarray, "rows k"]) -> np.ndarray:
    """The tokens' texts."""
    unique, places = np.unique(ids, return_inverse=True)
    return np.array([model.text.text_of(int(token_id)) for token_id in unique], object)[places].reshape(ids.shape)
