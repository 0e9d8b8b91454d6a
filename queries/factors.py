"""What a factorization of activations gives: a value for each token, a weight for each neuron, and how far to trust it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from jaxtyping import Float, Float32, Int32, Int64

from ..errors import InvalidOption, number_ranges
from .display import Displayed

FactorMethod = Literal["nmf", "pca", "ica", "kmeans"]
FACTOR_METHODS: tuple[FactorMethod, ...] = get_args(FactorMethod)

Negatives = Literal["auto", "clip", "split", "keep"]
NEGATIVES: tuple[Negatives, ...] = get_args(Negatives)

Which = Literal["all", "prompt", "generated"]
POSITIONS: tuple[Which, ...] = get_args(Which)

Solver = Literal["hals", "sklearn"]
SOLVERS: tuple[Solver, ...] = get_args(Solver)


@dataclass(frozen=True, repr=False)
class Factors(Displayed):
    """`k` factors of the activations X of some tokens and layers: `X ≈ mean + tokens @ components`, the most explained first.

    tokens      float32 [tokens, k], how present each factor is at each token; ≥ 0 but in pca and ica, 0 or 1 in kmeans
    components  float32 [k, columns], the factor's weight for each column of X: neurons layer by layer; with
                `negatives="split"` the positive halves of all of them first, then the negative halves. Of nmf, pca and ica each
                has length 1; signs are such that the greatest weight by magnitude is positive
    neurons     float32 [k, layers × d_ff], the weight of each neuron; with `split` positive minus negative half
    neuron      int32 [d_ff], the number that each of a layer's columns has: all neurons, or those that were recorded; None
                of an array that is in no store
    mean        float32 [columns], what was taken from X before (pca, ica, kmeans); None of nmf
    error       ‖X − mean − tokens @ components‖ / ‖X − mean‖ (Frobenius), 0 when that is 0
    explained   float64 [k], each factor's share of the energy ‖X‖² (of the variance, where a mean was taken); they sum to
                1 − error²
    stability   float64 [k], the mean cosine of the factor's weights with those of its match in reruns with other seeds; None
                without reruns
    store       the store whose corpus the tokens are of, for their texts; None of one generation's or of an array
    factorization_id  the number that they were loaded by
    generation_id, position  int64 and int32 [tokens], the store's token that each row is of; None of an array
                that is in no store

    `error` and `explained` are of X as it was factored: after `negatives`, and with `scale_layers` after that.
    """

    tokens: Float32[np.ndarray, "tokens k"]
    components: Float32[np.ndarray, "k columns"]
    error: float
    layers: tuple[int, ...]
    negatives: Literal["clip", "split", "keep"]
    scale_layers: bool
    seed: int
    n_iterations: int
    converged: bool
    explained: Float[np.ndarray, "k"]
    stability: Float[np.ndarray, "k"] | None = None
    method: FactorMethod = "nmf"
    solver: Solver = "hals"
    parameters: Mapping[str, Any] = field(default_factory=dict)
    mean: Float32[np.ndarray, "columns"] | None = None
    positions: Which = "all"
    where: str | None = None
    generation_id: Int64[np.ndarray, "tokens"] | None = None
    position: Int32[np.ndarray, "tokens"] | None = None
    neuron: Int32[np.ndarray, "d_ff"] | None = None
    generation: Any = field(default=None, compare=False)
    store: Any = field(default=None, compare=False)
    factorization_id: int | None = field(default=None, compare=False)

    def __repr__(self) -> str:
        shape = f"{self.k} × {self.method} of {len(self.tokens)} tokens, layers {number_ranges(self.layers)}"
        return f"Factors({shape}; error {self.error:.3f})"

    @property
    def k(self) -> int:
        return self.tokens.shape[1]

    @property
    def neurons(self) -> Float32[np.ndarray, "k neurons"]:
        if self.negatives != "split":
            return self.components
        positive, negative = np.split(self.components, 2, axis=1)
        return positive - negative

    def top_tokens(self, factor: int, n: int = 10) -> pd.DataFrame:
        """The tokens at which a factor is strongest: generation_id, position, value; at most `n`, none where it is 0.

        The greatest magnitude first, among equals by generation_id, then position. Of an array that is in no store,
        generation_id is -1 and position the row. Raises InvalidOption.
        """
        values = self.tokens[:, self._checked(factor)]
        rows = _strongest(values, n)
        ids = np.full(len(rows), -1) if self.generation_id is None else self.generation_id[rows]
        positions = rows.astype(np.int32) if self.position is None else self.position[rows]
        found = pd.DataFrame({"generation_id": ids, "position": positions, "value": values[rows]})
        return _first(found, "value", ["generation_id", "position"], n)

    def top_neurons(self, factor: int, n: int = 10) -> pd.DataFrame:
        """The neurons that a factor is made of: layer, neuron, weight; at most `n`, none whose weight is 0.

        The greatest magnitude first, among equals by layer, then neuron. Raises InvalidOption.
        """
        weights = self.neurons[self._checked(factor)]
        columns = _strongest(weights, n)
        d_ff = len(weights) // len(self.layers)
        neuron = np.arange(d_ff, dtype=np.int32) if self.neuron is None else self.neuron
        layers = np.array(self.layers, np.int32)
        found = pd.DataFrame(
            {"layer": layers[columns // d_ff], "neuron": neuron[columns % d_ff], "weight": weights[columns]}
        )
        return _first(found, "weight", ["layer", "neuron"], n)

    def contexts(self, tokens: pd.DataFrame, factor: int) -> pd.DataFrame:
        """The whole generations of some tokens (as `top_tokens` gives them), of factors that a store has made or loaded: their
        generation_id, position, token, is_generated, is_special and value (NaN where it was not factored).

        Raises InvalidOption."""
        if self.store is None or self.generation_id is None or self.position is None:
            raise InvalidOption(
                "factors", f"{self.k} factors", "these are not of a store's corpus, so their texts are not known"
            )
        self._checked(factor)
        ids = np.unique(tokens["generation_id"]).tolist()
        rows = self.store.texts(ids)
        found = np.full(len(rows), np.nan, np.float32)
        for generation_id in ids:
            factored = slice(*np.searchsorted(self.generation_id, [generation_id, generation_id + 1]).tolist())
            first = int(np.searchsorted(rows["generation_id"], generation_id))
            found[first + self.position[factored]] = self.tokens[factored, factor]  # a generation's positions are dense
        return rows.assign(value=found)

    def labels(self) -> dict[int, str]:
        """People's names of these factors, if they were loaded from a store."""
        if self.store is None or self.factorization_id is None:
            return {}
        rows = self.store.labels()
        mine = rows[(rows["factorization_id"] == self.factorization_id).fillna(False)]
        return dict(zip(mine["factor"].tolist(), mine["label"].tolist(), strict=True))

    def _checked(self, factor: int) -> int:
        if not 0 <= factor < self.k:
            raise InvalidOption("factor", factor, f"there are factors 0 to {self.k - 1}")
        return factor


def _strongest(values: Float32[np.ndarray, "n"], n: int) -> np.ndarray:
    """Places of the values that are not 0 and of which fewer than `n` have a greater magnitude, ascending."""
    size = np.abs(values)
    places = np.flatnonzero(size)
    if 0 < n < len(places):
        size = size[places]
        places = places[size >= np.partition(size, len(size) - n)[len(size) - n]]
    return places


def _first(rows: pd.DataFrame, value: str, places: list[str], n: int) -> pd.DataFrame:
    """The `n` rows of the greatest magnitude, that first; among equals by their places."""
    order = np.lexsort((*(rows[name] for name in reversed(places)), -rows[value].abs()))
    return rows.iloc[order[: max(n, 0)]].reset_index(drop=True)


@dataclass(frozen=True)
class FactorOptions:
    """How to factor. `k` factors by `method`; `reruns` more times with other seeds, for `stability`.

    `negatives`: nmf needs values ≥ 0, so `clip` sets negative activations to 0 and `split` gives each neuron two columns,
    its positive and its negative half; `auto` splits when negatives hold over a tenth of the energy in half of the layers. The
    others take them as they are (`keep`). `scale_layers` divides each layer by its root energy before, and multiplies the
    weights by it after, so that layers count alike. `solver`, of nmf: `hals` (ours) or `sklearn`. `device`, of hals: where it
    computes, streamed or not, as torch names it; `auto` is CUDA where torch finds one, if torch is loaded already or X has 256 MB
    or more and NVIDIA's driver is installed, else the CPU.
    """

    k: int
    method: FactorMethod = "nmf"
    negatives: Negatives = "auto"
    scale_layers: bool = False
    seed: int = 0
    solver: Solver = "hals"
    reruns: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        for option, value, known in (
            ("method", self.method, FACTOR_METHODS),
            ("negatives", self.negatives, NEGATIVES),
            ("solver", self.solver, SOLVERS),
        ):
            check_choice(option, value, known)
        if self.k < 1:
            raise InvalidOption("k", self.k, "give 1 or more")
        if self.method == "nmf" and self.negatives == "keep":
            raise InvalidOption("negatives", "keep", "nmf needs values ≥ 0: clip or split, or another method")
        if self.method != "nmf" and self.negatives == "split":
            how = f"{self.method} takes negative activations as they are: keep, or clip"
            raise InvalidOption("negatives", "split", how)
        if not 0 <= self.seed < 1 << 31:
            raise InvalidOption("seed", self.seed, f"choose from 0 to {(1 << 31) - 1}")
        if self.reruns < 0:
            raise InvalidOption("reruns", self.reruns, "give 0 or more")
        if self.reruns and self.method == "pca":
            raise InvalidOption("reruns", self.reruns, "pca has one answer whatever the seed: reruns would say nothing")


def check_choice(option: str, value: object, known: Sequence[str]) -> None:
    """Raise InvalidOption unless the value is one of those."""
    if value not in known:
        raise InvalidOption(option, value, f"choose one of {', '.join(known)}")
