"""Similarity of layers (linear CKA) and of a layer's neurons (correlation), over a corpus in bounded memory."""

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Float32, Float64, Int32

from ..errors import InvalidOption
from ..store import Batch
from .corpus_tokens import CorpusTokens, token_numbers

MOST_NEURONS = 4096
"""Neurons whose correlations with each other are held together: 128 MB."""


def cka_of_layers(
    layers: Mapping[int, Float32[np.ndarray, "tokens width"]], *, debiased: bool = False
) -> Float64[np.ndarray, "layers layers"]:
    """Linear CKA of each two layers' values at the same tokens: ‖YᵀX‖² / (‖XᵀX‖ ‖YᵀY‖), Frobenius, of columns less their means.

    From the tokens' Gram matrices, which take 4 bytes × tokens² a layer. `debiased` takes the unbiased estimate of each of the
    three (HSIC₁), which is near 0 for unrelated layers however few tokens there are, and may be a little below it.
    NaN where a layer does not change. Raises InvalidOption for fewer than 4 tokens.
    Source: Kornblith et al. 2019, arXiv:1905.00414; Song et al. 2012 (HSIC₁), jmlr.org/papers/v13/song12a.html.
    """
    n = len(next(iter(layers.values())))
    if n < 4:
        raise InvalidOption("most_tokens", n, "at least 4 tokens are needed to compare layers")
    grams = np.stack([_gram(values, debiased=debiased) for values in layers.values()])  # (layer, token, token)
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
) -> pd.DataFrame:
    """Pearson's r of each two of these neurons over the wanted tokens where they were recorded, as a square frame by neuron;
    NaN of a neuron that does not change. All batches are of one layer and have these neurons.

    Products are taken in single precision within a batch, sums over batches in double.
    """
    n, shift = 0, np.zeros(len(neurons), np.float32)
    sums, products = np.zeros(len(neurons)), np.zeros((len(neurons), len(neurons)))
    for x in _wanted_rows(batches, corpus, wanted, neurons):
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
) -> Iterator[Float32[np.ndarray, "some neurons"]]:
    for batch in batches:
        assert batch.neurons is not None, "activations are given with their neurons"
        rows = wanted[corpus.places(token_numbers(batch.keys["generation_id"], batch.keys["position"]))]
        if rows.any():
            kept = batch.vectors if rows.all() else batch.vectors[rows]
            columns = np.searchsorted(batch.neurons, neurons)
            yield kept if len(columns) == kept.shape[1] else kept[:, columns]
