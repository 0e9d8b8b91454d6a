"""Similarity of layers (linear CKA) and of a layer's neurons (correlation), over a corpus in bounded memory."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from threading import Event
from typing import Literal, get_args

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Float32, Float64, Int32

from ..errors import InvalidOption, RunNotFound, UnknownNeuron
from ..store import Batch
from .corpus_tokens import CorpusTokens, token_numbers
from .generation import Generation
from .neuron_values import NeuronReader
from .selection import READ, selected_tokens
from .work import Progress, Work

LayerValues = Literal["activations", "hidden_states"]

MOST_NEURONS = 4096
"""Neurons whose correlations with each other are held together: 128 MB."""


@dataclass(frozen=True)
class LayerSample:
    """Of which layers (all that were recorded if None), of which values and of which tokens a similarity is."""

    layers: Sequence[int] | None
    run_id: int | None
    of: LayerValues
    most_tokens: int
    special: bool
    seed: int

    def __post_init__(self) -> None:
        if self.of not in get_args(LayerValues):
            raise InvalidOption("of", self.of, f"choose one of {', '.join(get_args(LayerValues))}")


def layer_similarity(
    neurons: NeuronReader,
    generation: Callable[[int], Generation],
    sample: LayerSample,
    *,
    debiased: bool,
    cancel: Event | None,
    on_progress: Progress | None,
) -> pd.DataFrame:
    """What `Store.layer_similarity` gives; `generation` is `Store.generation`."""
    work = Work("the comparison of layers", 2 * sample.most_tokens, cancel, on_progress)
    values = _values_by_layer(neurons, generation, sample, work)
    index = pd.Index(list(values), name="layer")
    found = cka_of_layers(values, debiased=debiased, after_each=lambda: work.did(1))
    work.end()
    return pd.DataFrame(found, index=index, columns=index)


def _values_by_layer(
    neurons: NeuronReader, generation: Callable[[int], Generation], sample: LayerSample, work: Work
) -> dict[int, Float32[np.ndarray, "tokens width"]]:
    """The values of each layer at the tokens that are drawn: whole generations until there are twice as many, then of those."""
    if sample.run_id is None and len(neurons.runs) > 1:
        raise InvalidOption("run_id", None, "name one of the runs")
    if (run_id := sample.run_id or 0) not in neurons.runs:
        raise RunNotFound(run_id, len(neurons.runs))
    corpus, random = neurons.tokens, np.random.default_rng(sample.seed)
    parts: list[Float32[np.ndarray, "tokens layers width"]] = []
    asked: tuple[int, ...] = ()
    for generation_id in random.permutation(np.unique(corpus.numbers[neurons.in_runs([run_id])] >> 32)).tolist():
        drawn = generation(generation_id)
        recorded = drawn.layers if sample.of == "activations" else drawn.hidden_layers
        asked = tuple(recorded if sample.layers is None else dict.fromkeys(sample.layers))
        rows = drawn.activations(asked) if sample.of == "activations" else drawn.hidden_states(asked)
        kept = rows.reshape(len(rows), len(asked), -1)  # (token, layer, width)
        places = corpus.places(token_numbers(np.array([generation_id]), drawn.layer_positions))
        parts.append(kept if sample.special else kept[~corpus.is_special[places]])
        work.n_all = 2 * sample.most_tokens + len(asked)  # tokens that are read, and then layers
        work.did(min(len(parts[-1]), 2 * sample.most_tokens - work.n_done))
        if work.n_done == 2 * sample.most_tokens:
            break
    values = np.concatenate(parts) if parts else np.empty((0, 0, 0), np.float32)
    chosen = np.sort(random.choice(len(values), min(sample.most_tokens, len(values)), replace=False))
    return {layer: values[chosen, number] for number, layer in enumerate(asked)}


def neuron_similarity(
    reader: NeuronReader,
    read_sql: READ,
    layer: int,
    neurons: Sequence[int] | None,
    *,
    run_id: int | None,
    where: str | None,
    special: bool,
    cancel: Event | None,
    on_progress: Progress | None,
) -> pd.DataFrame:
    """What `Store.neuron_similarity` gives."""
    corpus, run_ids = reader.tokens, reader.runs_with(layer, None, run_id)
    recorded = set.intersection(*(set(reader.runs[each].shape.neurons) for each in run_ids))
    asked = np.array(sorted(recorded if neurons is None else set(neurons)), np.int32)
    if unknown := set(asked.tolist()) - recorded:
        raise UnknownNeuron(sorted(unknown), reader.runs[run_ids[0]].shape.d_ff, sorted(recorded))
    if not 0 < len(asked) <= MOST_NEURONS:
        raise InvalidOption("neurons", f"{len(asked)} of them", f"name from 1 to {MOST_NEURONS} neurons")
    wanted = reader.in_runs(run_ids)
    if not special:
        wanted &= ~corpus.is_special
    if where is not None:
        wanted &= corpus.marked(selected_tokens(read_sql, where, len(corpus)))
    of_runs = [reader.snapshot.reservations[each].generation_ids for each in run_ids]
    generations = (min(ids.start for ids in of_runs), max(ids.stop for ids in of_runs) - 1)
    batches = reader.activations({"layer": layer, "generation_id": generations})
    work = Work("the comparison of neurons", int(wanted.sum()), cancel, on_progress)
    found = correlations_of_neurons(batches, corpus, wanted, asked, work)
    work.end()
    return found


def cka_of_layers(
    layers: Mapping[int, Float32[np.ndarray, "tokens width"]],
    *,
    debiased: bool = False,
    after_each: Callable[[], None] = lambda: None,
) -> Float64[np.ndarray, "layers layers"]:
    """Linear CKA of each two layers' values at the same tokens: ‖YᵀX‖² / (‖XᵀX‖ ‖YᵀY‖), Frobenius, of columns less their means.

    From the tokens' Gram matrices, which take 4 bytes × tokens² a layer. `debiased` takes the unbiased estimate of each of the
    three (HSIC₁), which is near 0 for unrelated layers however few tokens there are, and may be a little below it.
    `after_each` layer's Gram matrix, which take most of the time, is called and may raise to end it.
    NaN where a layer does not change. Raises InvalidOption for fewer than 4 tokens.
    Source: Kornblith et al. 2019, arXiv:1905.00414; Song et al. 2012 (HSIC₁), jmlr.org/papers/v13/song12a.html.
    """
    n = len(next(iter(layers.values()), ()))
    if n < 4:
        raise InvalidOption("most_tokens", n, "at least 4 tokens are needed to compare layers")
    grams = np.empty((len(layers), n, n), np.float32)  # (layer, token, token)
    for number, values in enumerate(layers.values()):
        grams[number] = _gram(values, debiased=debiased)
        after_each()
    if debiased:
        products = _unbiased_products(grams)
    else:
        flat = grams.reshape(len(grams), -1)
        products = (flat @ flat.T).astype(np.float64)
    own = np.sqrt(np.maximum(np.diagonal(products), 0))
    with np.errstate(divide="ignore", invalid="ignore"):
        return products / np.outer(own, own)


def correlations_of_neurons(
    batches: Iterable[Batch],
    corpus: CorpusTokens,
    wanted: Bool[np.ndarray, "tokens"],
    neurons: Int32[np.ndarray, "neurons"],
    work: Work,
) -> pd.DataFrame:
    """Pearson's r of each two of these neurons over the wanted tokens where they were recorded, as a square frame by neuron;
    NaN of a neuron that does not change. All batches are of one layer and have these neurons.

    Products are taken in single precision within a batch, sums over batches in double.
    """
    n, shift = 0, np.zeros(len(neurons), np.float32)
    sums, products = np.zeros(len(neurons)), np.zeros((len(neurons), len(neurons)))
    for x in _wanted_rows(batches, corpus, wanted, neurons, work):
        if not n:
            shift = x.mean(axis=0)
        centred = x - shift
        n += len(x)
        sums += centred.sum(axis=0, dtype=np.float64)
        products += centred.T @ centred
    covariance = products - np.outer(sums, sums) / max(n, 1)
    energy = np.diagonal(covariance).copy()
    energy[energy <= 1e-9 * np.diagonal(products)] = np.nan
    r = np.clip(covariance / np.sqrt(np.outer(energy, energy)), -1, 1)
    index = pd.Index(neurons, name="neuron")
    return pd.DataFrame(r, index=index, columns=index)


def _gram(values: Float32[np.ndarray, "tokens width"], *, debiased: bool) -> Float32[np.ndarray, "tokens tokens"]:
    centred = values - values.mean(axis=0)
    norm = float(np.linalg.norm(centred))
    gram: Float[np.ndarray, "tokens tokens"] = (centred / norm if norm else centred) @ centred.T
    if norm:
        gram = gram / norm
    if debiased:
        np.fill_diagonal(gram, 0)
    return gram


def _unbiased_products(grams: Float32[np.ndarray, "layers tokens tokens"]) -> Float64[np.ndarray, "layers layers"]:
    """HSIC₁ of each two Gram matrices without diagonals, times n(n − 3)."""
    n = grams.shape[-1]
    flat = grams.reshape(len(grams), -1)
    rows = grams.sum(axis=2, dtype=np.float64)  # (layer, token)
    totals = rows.sum(axis=1)
    products = (flat @ flat.T).astype(np.float64)
    return products + np.outer(totals, totals) / ((n - 1) * (n - 2)) - 2 / (n - 2) * (rows @ rows.T)


def _wanted_rows(
    batches: Iterable[Batch],
    corpus: CorpusTokens,
    wanted: Bool[np.ndarray, "tokens"],
    neurons: Int32[np.ndarray, "neurons"],
    work: Work,
) -> Iterator[Float32[np.ndarray, "some neurons"]]:
    for batch in batches:
        work.go_on()
        assert batch.neurons is not None, "activations are given with their neurons"
        rows = wanted[corpus.places(token_numbers(batch.keys["generation_id"], batch.keys["position"]))]
        if rows.any():
            kept = batch.vectors if rows.all() else batch.vectors[rows]
            columns = np.searchsorted(batch.neurons, neurons)
            yield kept if len(columns) == kept.shape[1] else kept[:, columns]
            work.did(len(kept))
