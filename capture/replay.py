"""The replay: one forward pass over finished texts that records everything, and the gradients on its graph.

Texts are padded at the right, where causal attention never looks; every position of every text is real.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import cycle
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float32, Int, Int32
from torch import Tensor, nn

from ..store import GradientTarget
from . import memory
from .float32 import in_float32
from .gradients import Graph, output_gradients, target_gradients
from .masked import masked_gradients, masked_predictions, masked_targets
from .models import Model
from .predictions import prediction_columns, predictions


@dataclass(frozen=True)
class Recorded:
    """What the replay gives of one text of `n` tokens, `p` of them the prompt; see `store.CapturedGeneration`.

    Of an encoder's: `masked` are the masked positions, and `targets` the tokens there that are explained.
    """

    embeddings: Float32[np.ndarray, "n d_model"]
    activations: dict[int, Float32[np.ndarray, "n d_ff"]]
    gradients: list[Float32[np.ndarray, "_ width"]]
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
    gradients: GradientTarget | None,
    gradient_tokens: int | Literal["auto"],
    scores: bool = False,
) -> list[Recorded]:
    """Record texts (token ids) in one batch: embeddings, activations of these layers, and gradients of a target if wanted.

    With `scores` the gradients' scores, [inputs, 4], are in their place.

    Memory: activations of the whole batch in float32, and with gradients the graph of one forward pass and
    backward passes over `gradient_tokens` positions at a time. Gradients are computed in float32 whatever the model computes in.
    """
    width = max(map(len, texts))
    ids = torch.full((len(texts), width), model.pad_id)
    mask = torch.zeros_like(ids)
    for row, text in enumerate(texts):
        ids[row, : len(text)] = torch.tensor(text)
        mask[row, : len(text)] = 1
    ids, mask = ids.to(model.device), mask.to(model.device)
    has_outputs = any(len(text) > p for text, p in zip(texts, n_prompt_tokens, strict=True))
    target = gradients if has_outputs else None
    one_pass = target is not None and model.dtype == "float32"
    with recording(model, layers, gradients=one_pass) as taps, torch.set_grad_enabled(one_pass):
        logits = model.network(input_ids=ids, attention_mask=mask, use_cache=False).logits
    predicted = [
        predictions(logits[row, : len(text) - 1].detach(), ids[row, 1 : len(text)]) for row, text in enumerate(texts)
    ]
    columns: list[list[Float32[np.ndarray, "_ width"]]] = [[] for _ in texts]
    if target is not None:
        lengths = [len(text) for text in texts]
        whole = Graph(taps.embedding, taps.last_hidden)
        if not one_pass:
            whole, logits = _graph(model, ids, mask, unembeds=True)
        at_hidden = target_gradients(whole.last_hidden, logits, ids, n_prompt_tokens, lengths, target)
        del logits
        columns = output_gradients(
            at_hidden,
            whole,
            lambda rows, width: _graph(model, ids[rows, :width], mask[rows, :width])[0],
            n_prompt_tokens,
            lengths,
            scores=scores,
            tokens_at_once=memory.gradient_tokens(model, width) if gradient_tokens == "auto" else gradient_tokens,
        )
    embeddings = to_numpy(taps.embedding)
    activations = {layer: to_numpy(a).reshape(len(texts), width, -1) for layer, a in taps.activations.items()}
    return [
        Recorded(
            embeddings[row, :n],
            {layer: a[row, :n] for layer, a in activations.items()},
            columns[row],
            *prediction_columns(predicted[row]),
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
    one_pass = gradients and model.dtype == "float32"
    with recording(model, layers, gradients=one_pass) as taps, torch.set_grad_enabled(one_pass):
        output = model.network(input_ids=ids, attention_mask=mask)
    logits = output.logits if model.mask_id is not None else torch.zeros(*ids.shape, 0, device=ids.device)
    chosen = [
        masked_targets(logits[row].detach(), positions, targets[row]) if positions else ()
        for row, positions in enumerate(masked)
    ]
    columns: list[list[Float32[np.ndarray, "_ d_model"]]] = [[] for _ in texts]
    if one_pass:
        columns = masked_gradients(taps.embedding, logits, masked, chosen, lengths)
    elif gradients:
        with recording(model, (), gradients=True) as wide, in_float32(), torch.enable_grad():
            of_graph = model.network(input_ids=ids, attention_mask=mask).logits
        columns = masked_gradients(wide.embedding, of_graph, masked, chosen, lengths)
    embeddings = to_numpy(taps.embedding)
    activations = {layer: to_numpy(a).reshape(*ids.shape, -1) for layer, a in taps.activations.items()}
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
class Taps:
    """Tensors taken from a forward pass, the last one, with their graph if there is one."""

    activations: dict[int, Tensor] = field(default_factory=dict)
    embedding: Tensor = field(default_factory=lambda: torch.empty(0))
    last_hidden: Tensor = field(default_factory=lambda: torch.empty(0))


def _graph(
    model: Model, ids: Int[Tensor, "batch pos"], mask: Int[Tensor, "batch pos"], *, unembeds: bool = False
) -> tuple[Graph, Tensor]:
    """The graph of a forward pass in float32, and its logits: of the first position only unless `unembeds`."""
    wide = nullcontext() if model.dtype == "float32" else in_float32()
    with recording(model, (), gradients=True, unembeds=unembeds) as taps, wide, torch.enable_grad():
        logits = model.network(input_ids=ids, attention_mask=mask, use_cache=False).logits
    return Graph(taps.embedding, taps.last_hidden), logits


@contextmanager
def recording(model: Model, layers: Sequence[int], *, gradients: bool, unembeds: bool = True) -> Iterator[Taps]:
    """Hooks that take, of each forward pass, the input embedding, the FFNNs' activations and what the unembedding receives.

    The unembedding, which can be a quarter of a small model, gets one position only if what it gives is not wanted.
    """
    taps, anatomy, network = Taps(), model.anatomy, model.network

    def embedding(module: nn.Module, args: object, output: Tensor) -> Tensor:
        dtype = torch.float32 if gradients else output.dtype
        taps.embedding = output.detach().to(dtype, copy=True).requires_grad_(gradients)
        return taps.embedding.clone()  # a copy, because a leaf may not be added to in place

    def last_hidden(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor] | None:
        taps.last_hidden = args[0]
        return None if unembeds else (args[0][:, :1],)

    def activation_of(module_name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        runs = cycle([layer for layer, name in enumerate(anatomy.ffn_outputs) if name == module_name])

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


def to_numpy(tensor: Tensor) -> Float32[np.ndarray, "..."]:
    return tensor.detach().to("cpu", torch.float32).numpy()
