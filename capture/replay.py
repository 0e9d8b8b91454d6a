"""The replay: one forward pass over finished texts that records everything, and the gradients on its graph.

Texts are padded at the right, where causal attention never looks; every position of every text is real.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Float32, Int32
from torch import Tensor, nn

from .gradients import output_gradients
from .masked import masked_gradients, masked_predictions, masked_targets
from .models import Model

PREDICTIONS_AT_ONCE = 256
"""Positions whose distributions over the vocabulary are held together."""


@dataclass(frozen=True)
class Recorded:
    """What the replay gives of one text of `n` tokens, `p` of them the prompt; see `store.CapturedGeneration`.

    Of an encoder's: `masked` are the masked positions, and `targets` the tokens there that are explained.
    """

    embeddings: Float32[np.ndarray, "n d_model"]
    activations: dict[int, Float32[np.ndarray, "n d_ff"]]
    gradients: list[Float32[np.ndarray, "_ d_model"]]
    logprob: Float32[np.ndarray, "n"]
    rank: Int32[np.ndarray, "n"]
    entropy: Float32[np.ndarray, "n"]
    masked: tuple[int, ...] | None = None
    targets: tuple[int, ...] = ()


def replay(
    model: Model,
    texts: Sequence[Sequence[int]],
    n_prompt_tokens: Sequence[int],
    *,
    layers: Sequence[int],
    gradients: bool,
    gradient_tokens: int,
) -> list[Recorded]:
    """Record texts (token ids) in one batch: embeddings, activations of these layers, and gradients if wanted.

    Memory: activations of the whole batch in float32, and with gradients the graph of one forward pass and
    backward passes over `gradient_tokens` positions at a time. Values are float32 whatever the model computes in.
    """
    width = max(map(len, texts))
    ids = torch.full((len(texts), width), model.pad_id)
    mask = torch.zeros_like(ids)
    for row, text in enumerate(texts):
        ids[row, : len(text)] = torch.tensor(text)
        mask[row, : len(text)] = 1
    ids, mask = ids.to(model.device), mask.to(model.device)
    with _recording(model, layers, gradients=gradients) as taps, torch.set_grad_enabled(gradients):
        logits = model.network(input_ids=ids, attention_mask=mask, use_cache=False).logits
    predictions = [
        _predictions(logits[row, : len(text)].detach(), ids[row, : len(text)]) for row, text in enumerate(texts)
    ]
    columns: list[list[Float32[np.ndarray, "_ d_model"]]] = [[] for _ in texts]
    if gradients:
        lengths = [len(text) for text in texts]
        columns = output_gradients(
            taps.embedding, taps.last_hidden, logits, ids, n_prompt_tokens, lengths, tokens_at_once=gradient_tokens
        )
    embeddings = _numpy(taps.embedding)
    activations = {layer: _numpy(a).reshape(len(texts), width, -1) for layer, a in taps.activations.items()}
    return [
        Recorded(
            embeddings[row, :n],
            {layer: a[row, :n] for layer, a in activations.items()},
            columns[row],
            *predictions[row],
        )
        for row, n in enumerate(map(len, texts))
    ]


def replay_encoder(
    model: Model,
    texts: Sequence[Sequence[int]],
    targets: Sequence[Sequence[int]],
    *,
    layers: Sequence[int],
    gradients: bool,
) -> list[Recorded]:
    """As `replay`, for a model that reads all positions at once.

    `targets` are the tokens to explain at each text's masked positions; the likeliest where there are none. Nothing is said
    about other positions (log-probability, rank and entropy 0), nor by a model that predicts no token.
    """
    lengths = [len(text) for text in texts]
    ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(text) for text in texts], True, model.pad_id).to(model.device)
    mask = (torch.arange(ids.shape[1]) < torch.tensor(lengths)[:, None]).long().to(model.device)
    masked = [[at for at, token_id in enumerate(text) if token_id == model.mask_id] for text in texts]
    gradients = gradients and any(masked)
    with _recording(model, layers, gradients=gradients) as taps, torch.set_grad_enabled(gradients):
        output = model.network(input_ids=ids, attention_mask=mask)
    logits = output.logits if model.mask_id is not None else torch.zeros(*ids.shape, 0, device=ids.device)
    chosen = [
        masked_targets(logits[row].detach(), positions, targets[row]) if positions else ()
        for row, positions in enumerate(masked)
    ]
    columns: list[list[Float32[np.ndarray, "_ d_model"]]] = [[] for _ in texts]
    if gradients:
        columns = masked_gradients(taps.embedding, logits, masked, chosen, lengths)
    embeddings = _numpy(taps.embedding)
    activations = {layer: _numpy(a).reshape(*ids.shape, -1) for layer, a in taps.activations.items()}
    return [
        Recorded(
            embeddings[row, :n],
            {layer: a[row, :n] for layer, a in activations.items()},
            columns[row],
            *masked_predictions(logits[row, :n].detach(), masked[row], chosen[row]),
            masked=tuple(masked[row]),
            targets=chosen[row],
        )
        for row, n in enumerate(lengths)
    ]


@dataclass
class _Taps:
    """Tensors taken from one forward pass, with their graph if there is one."""

    activations: dict[int, Tensor] = field(default_factory=dict)
    embedding: Tensor = field(default_factory=lambda: torch.empty(0))
    last_hidden: Tensor = field(default_factory=lambda: torch.empty(0))


@contextmanager
def _recording(model: Model, layers: Sequence[int], *, gradients: bool) -> Iterator[_Taps]:
    """Hooks that take the input embedding, the FFNNs' activations and what the unembedding receives."""
    taps, anatomy, network = _Taps(), model.anatomy, model.network

    def embedding(module: nn.Module, args: object, output: Tensor) -> Tensor:
        taps.embedding = output.detach().clone().requires_grad_(gradients)
        return taps.embedding.clone()  # a copy, because a leaf may not be added to in place

    def last_hidden(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        taps.last_hidden = args[0]

    def activation_of(module_name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        runs = iter([layer for layer, name in enumerate(anatomy.ffn_outputs) if name == module_name])

        def activation(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            if (layer := next(runs)) in layers:
                taps.activations[layer] = args[0].detach()

        return activation

    wanted = {anatomy.ffn_outputs[layer] for layer in layers}
    handles = [
        network.get_submodule(anatomy.embedding).register_forward_hook(embedding),
        *(network.get_submodule(name).register_forward_pre_hook(activation_of(name)) for name in wanted),
    ]
    if anatomy.unembedding is not None:
        handles.append(network.get_submodule(anatomy.unembedding).register_forward_pre_hook(last_hidden))
    try:
        yield taps
    finally:
        for handle in handles:
            handle.remove()


def _predictions(
    logits: Float[Tensor, "n vocab"], ids: Tensor
) -> tuple[Float32[np.ndarray, "n"], Int32[np.ndarray, "n"], Float32[np.ndarray, "n"]]:
    """Log-probability, rank (1 is the likeliest) and entropy (nats) of each token but the first, which is 0."""
    parts = [torch.zeros(3, 1)]
    for rows, targets in zip(
        logits[:-1].split(PREDICTIONS_AT_ONCE), ids[1:, None].split(PREDICTIONS_AT_ONCE), strict=True
    ):
        logprobs = rows.float().log_softmax(-1)  # (positions, vocab)
        logprob = logprobs.gather(-1, targets)  # (positions, 1)
        rank = (logprobs > logprob).sum(-1) + 1
        entropy = torch.special.entr(logprobs.exp()).sum(-1)
        parts.append(torch.stack([logprob[:, 0], rank.float(), entropy]).cpu())  # a rank is exact below 2²⁴
    logprob, rank, entropy = torch.cat(parts, dim=1).numpy()
    return logprob, rank.astype(np.int32), entropy


def _numpy(tensor: Tensor) -> Float32[np.ndarray, "..."]:
    return tensor.detach().to("cpu", torch.float32).numpy()
