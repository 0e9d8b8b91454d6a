"""The replay: one forward pass over finished texts that records everything, and the gradients on its graph.

Texts are padded at the right, where causal attention never looks; every position of every text is real.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Int, Int32
from torch import Tensor, nn

from ..store import CapturedPredictions, GradientTarget
from . import memory
from .devices import Arriving, HostCopies
from .float32 import in_float32
from .gradients import Graph, Output, masked_outputs, output_gradients, target_gradients, written_outputs
from .head import said
from .lens import layer_predictions
from .linearized import linearized
from .masked import masked_predictions, masked_targets
from .models import Model
from .packed import packed_ffns
from .predictions import prediction_columns, predictions
from .reach import Reach
from .real import Real
from .stream import OfStream, Stream, residual_stream
from .wanted import Wanted

EMBEDDINGS = -1
"""What stands for the embeddings where other values are by layer."""


@dataclass(frozen=True)
class Recorded:
    """What the replay gives of one text of `n` tokens, `p` of them the prompt; see `store.CapturedGeneration`.

    Of an encoder's: `masked` are the masked positions, and `targets` the tokens there that are explained.
    """

    embeddings: Float32[np.ndarray, "n d_model"]
    activations: dict[int, Float32[np.ndarray, "m neurons"]]
    gradients: list[Float32[np.ndarray, "_ width"]]
    logprob: Float32[np.ndarray, "n"]
    rank: Int32[np.ndarray, "n"]
    entropy: Float32[np.ndarray, "n"]
    masked: tuple[int, ...] | None = None
    targets: tuple[int, ...] = ()
    hidden_states: Mapping[int, Float32[np.ndarray, "m d_hidden"]] = field(default_factory=dict)
    layer_predictions: Mapping[int, CapturedPredictions] = field(default_factory=dict)


def replay(
    model: Model,
    texts: Sequence[Sequence[int]],
    n_prompt_tokens: Sequence[int],
    wanted: Wanted,
) -> Arriving[list[Recorded]]:
    """Record what is wanted of texts (token ids), in one batch; activations are cut on the device.

    Memory: activations of the whole batch in float32, and with gradients the graph of one forward pass and
    backward passes over `gradient_tokens` positions at a time. Gradients are computed in float32 whatever the model computes in.
    """
    lengths = list(map(len, texts))
    width = max(lengths)
    ids = torch.full((len(texts), width), model.pad_id)
    mask = torch.zeros_like(ids)
    for row, text in enumerate(texts):
        ids[row, : len(text)] = torch.tensor(text)
        mask[row, : len(text)] = 1
    ids, mask = ids.to(model.device), mask.to(model.device)
    real = Real(mask.bool())
    outputs = [written_outputs(text, p) for text, p in zip(texts, n_prompt_tokens, strict=True)]
    target = wanted.target if any(outputs) else None
    at = wanted.at(n_prompt_tokens, lengths)
    in_parts = target is None and not wanted.stream.predictions and model.logits_are_unembedded
    unembedded = Real.first(ids) if in_parts else real
    with _recording_pass(model, wanted, target, real, unembedded) as (flow, taps):
        logits = _forward(model, ids, mask, unembedded)
    recorded_at = None if wanted.positions.are_all else at
    copies = _copies(taps, recorded_at, real, texts, wanted)
    of_flow = _of_flow(model, flow, logits, [[*text[1:], -1] for text in texts], at, wanted.stream, real)
    following = [torch.tensor(text[1:], dtype=torch.long) for text in texts]
    if in_parts:
        of_all = said(model, real.before_last.rows(taps.last_hidden), torch.cat(following))
        predicted = list(of_all.split([n - 1 for n in lengths], dim=1))
    else:
        of_each = zip(logits.detach().split(lengths), following, strict=True)
        predicted = [predictions(of_text[:-1], targets) for of_text, targets in of_each]
    columns: list[list[Float32[np.ndarray, "_ width"]]] = [[] for _ in texts]
    if target is not None:
        recorded = taps.graph
        whole, at_hidden = _at_hidden(model, ids, mask, recorded, logits, outputs, target, real)
        del recorded, logits
        columns = _columns(model, ids, mask, whole, at_hidden, outputs, wanted)
    said_of = HostCopies(dict(enumerate(predicted)))

    def arrived() -> list[Recorded]:
        embeddings, activations = _arrived(copies, recorded_at, lengths)
        states, columns_said = of_flow(), said_of.arrays()
        return [
            Recorded(
                embeddings[row],
                {layer: of_texts[row] for layer, of_texts in activations.items()},
                columns[row],
                *prediction_columns(columns_said[row]),
                **states[row],
            )
            for row in range(len(lengths))
        ]

    return arrived


def replay_encoder(
    model: Model,
    texts: Sequence[Sequence[int]],
    targets: Sequence[Sequence[int]],
    wanted: Wanted,
) -> Arriving[list[Recorded]]:
    """As `replay`, for a model that reads all positions at once: a gradient is with respect to every embedding of the text.

    `targets` are the tokens to explain at each text's masked positions; the likeliest where there are none. Nothing is said
    about other positions (log-probability, rank and entropy 0), nor by a model that predicts no token.
    """
    lengths = [len(text) for text in texts]
    ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(text) for text in texts], True, model.pad_id).to(model.device)
    mask = (torch.arange(ids.shape[1]) < torch.tensor(lengths)[:, None]).long().to(model.device)
    real = Real(mask.bool())
    masked = [[at for at, token_id in enumerate(text) if token_id == model.mask_id] for text in texts]
    target = wanted.target if any(masked) else None
    at = wanted.at(lengths, lengths)
    with _recording_pass(model, wanted, target, real, real) as (flow, taps):
        logits = _forward(model, ids, mask, real)
    recorded_at = None if wanted.positions.are_all else at
    copies = _copies(taps, recorded_at, real, texts, wanted)
    of_texts = logits.detach().split(lengths)
    chosen = [
        masked_targets(of_texts[row], positions, targets[row]) if positions else ()
        for row, positions in enumerate(masked)
    ]
    predictions = [masked_predictions(*of_text) for of_text in zip(of_texts, masked, chosen, strict=True)]
    explained = [[-1] * n for n in lengths]
    for row, of_row in enumerate(masked):
        for position, token_id in zip(of_row, chosen[row], strict=True):
            explained[row][position] = token_id
    of_flow = _of_flow(model, flow, logits, explained, at, wanted.stream, real)
    columns: list[list[Float32[np.ndarray, "_ width"]]] = [[] for _ in texts]
    if target is not None:
        outputs = [masked_outputs(*of_row) for of_row in zip(masked, chosen, lengths, strict=True)]
        recorded = taps.graph
        whole, at_hidden = _at_hidden(model, ids, mask, recorded, logits, outputs, target, real)
        del recorded, logits
        columns = _columns(model, ids, mask, whole, at_hidden, outputs, wanted)

    def arrived() -> list[Recorded]:
        embeddings, activations = _arrived(copies, recorded_at, lengths)
        states = of_flow()
        return [
            Recorded(
                embeddings[row],
                {layer: of_texts[row] for layer, of_texts in activations.items()},
                columns[row],
                *predictions[row],
                masked=tuple(masked[row]),
                targets=chosen[row],
                **states[row],
            )
            for row in range(len(lengths))
        ]

    return arrived


@dataclass
class Taps:
    """Tensors taken from one forward pass, with their graph if there is one."""

    activations: dict[int, Tensor] = field(default_factory=dict)
    embedding: Tensor = field(default_factory=lambda: torch.empty(0))
    last_hidden: Tensor = field(default_factory=lambda: torch.empty(0))
    reach: Reach = field(default_factory=Reach)

    @property
    def graph(self) -> Graph:
        return Graph(self.embedding, self.last_hidden, self.reach)

    def take(self, layer: int, activation: Tensor) -> None:
        """Called as the model computes it."""
        self.activations[layer] = activation


def _forward(
    model: Model, ids: Int[Tensor, "batch pos"], mask: Int[Tensor, "batch pos"], unembedded: Real
) -> Float[Tensor, "positions vocab"]:
    """The logits of these positions, with no width where the model predicts no token."""
    cache = {"use_cache": False} if model.anatomy.is_causal else {}
    output = model.network(input_ids=ids, attention_mask=mask, **cache)
    if not model.anatomy.is_causal and model.mask_id is None:
        return torch.zeros(sum(unembedded.lengths), 0, device=ids.device)
    return unembedded.rows(output.logits)


def _at_hidden(
    model: Model,
    ids: Int[Tensor, "batch pos"],
    mask: Int[Tensor, "batch pos"],
    recorded: Graph,
    logits: Float[Tensor, "real vocab"],
    outputs: Sequence[Sequence[Output]],
    target: GradientTarget,
    real: Real,
) -> tuple[Graph, Float[Tensor, "batch pos d_last"]]:
    """A graph of the whole texts, that of the recording pass if it was in float32, and the targets' gradients at its end."""
    whole = recorded
    if model.dtype != "float32":
        whole, logits = _graph(model, ids, mask, real)
    return whole, target_gradients(whole.last_hidden, logits, real.starts, outputs, target)


def _columns(
    model: Model,
    ids: Int[Tensor, "batch pos"],
    mask: Int[Tensor, "batch pos"],
    whole: Graph,
    at_hidden: Float[Tensor, "batch pos d_last"],
    outputs: Sequence[Sequence[Output]],
    wanted: Wanted,
) -> list[list[Float32[np.ndarray, "_ width"]]]:
    """The gradients of each output, or their scores."""
    asked = wanted.gradient_tokens
    return output_gradients(
        at_hidden,
        whole,
        lambda width: _graph(model, ids[:, :width], mask[:, :width], Real.first(ids[:, :width]))[0],
        outputs,
        scores=wanted.scores,
        tokens_at_once=memory.gradient_tokens(model, ids.shape[1]) if asked == "auto" else asked,
    )


def _graph(
    model: Model, ids: Int[Tensor, "batch pos"], mask: Int[Tensor, "batch pos"], unembedded: Real
) -> tuple[Graph, Tensor]:
    """The graph of a forward pass in float32, and its logits of these positions."""
    wide = nullcontext() if model.dtype == "float32" else in_float32()
    reading = recording(model, (), None, gradients=True, unembedded=unembedded)
    with reading as taps, _linearized(model, taps), wide, torch.enable_grad():
        logits = _forward(model, ids, mask, unembedded)
    return taps.graph, logits


def _linearized(model: Model, taps: Taps) -> AbstractContextManager[None]:
    return linearized(model.network, taps.reach, model.anatomy.ffn_outputs)


@contextmanager
def _recording_pass(
    model: Model, wanted: Wanted, target: GradientTarget | None, real: Real, unembedded: Real
) -> Iterator[tuple[Stream, Taps]]:
    """Hooks of the pass that records, which makes the graph of gradients too where it computes in float32."""
    has_graph = target is not None and model.dtype == "float32"
    with (
        nullcontext() if has_graph else packed_ffns(model, real),
        residual_stream(model.network, model.anatomy, wanted.stream.layers) as flow,
        recording(model, wanted.layers, wanted.neurons, gradients=has_graph, unembedded=unembedded) as taps,
        _linearized(model, taps) if has_graph else nullcontext(),
        torch.set_grad_enabled(has_graph),
    ):
        yield flow, taps


@contextmanager
def recording(
    model: Model,
    layers: Sequence[int],
    neurons: Sequence[int] | None,
    *,
    gradients: bool,
    unembedded: Real,
    taps: Taps | None = None,
) -> Iterator[Taps]:
    """Hooks that take, of each forward pass, the input embedding, the FFNNs' activations (of these neurons; None: all) and
    what the unembedding would receive, into `taps`. The unembedding gets the positions `unembedded` alone, as one text.
    """
    taps, anatomy, network = taps or Taps(), model.anatomy, model.network
    columns = None if neurons is None else torch.tensor(neurons, device=model.device)

    def embedding(module: nn.Module, args: object, output: Tensor) -> Tensor:
        dtype = torch.float32 if gradients else output.dtype
        taps.embedding = output.detach().to(dtype, copy=True).requires_grad_(gradients)
        return taps.embedding.clone()  # a copy, because a leaf may not be added to in place

    def last_hidden(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor]:
        taps.last_hidden = args[0]
        return (unembedded.packed(args[0]),)

    def activation_of(module_name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        runs = cycle([layer for layer, name in enumerate(anatomy.ffn_outputs) if name == module_name])

        def activation(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            if (layer := next(runs)) in layers:
                whole = args[0].detach()
                taps.take(layer, whole if columns is None else whole.index_select(-1, columns.to(whole.device)))

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


def _of_flow(
    model: Model,
    flow: Stream,
    logits: Float[Tensor, "real vocab"],
    explained: Sequence[Sequence[int]],
    at: Sequence[Int32[np.ndarray, "_"]],
    wanted: OfStream,
    real: Real,
) -> Arriving[list[dict[str, Any]]]:
    """For each text what is wanted of the residual stream at its positions; `explained` are the tokens to find among the
    predictions."""
    states = HostCopies({layer: real.rows(flow.states[layer], at) for layer in wanted.states})
    said = layer_predictions(model, flow, logits.detach(), explained, at, wanted, real)

    def arrived() -> list[dict[str, Any]]:
        n_recorded = [*map(len, at)]
        by_text = {layer: _by_text(rows, n_recorded) for layer, rows in states.arrays().items()}
        return [
            {
                "hidden_states": {layer: of_texts[row] for layer, of_texts in by_text.items()},
                "layer_predictions": of_row,
            }
            for row, of_row in enumerate(said)
        ]

    return arrived


def _copies(
    taps: Taps,
    at: Sequence[Int32[np.ndarray, "_"]] | None,
    real: Real,
    texts: Sequence[Sequence[int]],
    wanted: Wanted,
) -> HostCopies[int]:
    """What leaves the device: the embeddings, and the activations of each layer, of texts at these positions alone (None: all).
    The activations are let go here."""
    rows = {layer: real.rows(taps.activations.pop(layer), at) for layer in sorted(taps.activations)}
    if wanted.see:
        wanted.see(rows, tokens_at(texts, at))
    return HostCopies({EMBEDDINGS: real.rows(taps.embedding), **rows})


def _arrived(
    copies: HostCopies[int], at: Sequence[Int32[np.ndarray, "_"]] | None, lengths: Sequence[int]
) -> tuple[list[Float32[np.ndarray, "_ d_model"]], dict[int, list[Float32[np.ndarray, "_ neurons"]]]]:
    """The embeddings of each text, and by layer its activations, at these positions (None: all)."""
    arrays = copies.arrays()
    embeddings, n_recorded = _by_text(arrays.pop(EMBEDDINGS), lengths), lengths if at is None else [*map(len, at)]
    return embeddings, {layer: _by_text(rows, n_recorded) for layer, rows in arrays.items()}


def tokens_at(texts: Sequence[Sequence[int]], at: Sequence[Int32[np.ndarray, "_"]] | None) -> list[Sequence[int]]:
    """The tokens of each text at these positions (None: all)."""
    if at is None:
        return list(texts)
    return [[text[position] for position in of_text] for text, of_text in zip(texts, at, strict=True)]


def _by_text(rows: Float32[np.ndarray, "rows width"], lengths: Sequence[int]) -> list[Float32[np.ndarray, "_ width"]]:
    return np.split(rows, np.cumsum(lengths)[:-1])
