"""Neurons that prefer the positions which a predicate selects: one pass over the token-major vectors, as matrices.

In SQL the same would be an unnest of every value of the corpus; here a batch of positions is one matrix product a moment.
"""

from collections.abc import Iterable

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float32, Int32

from ..store import Batch


class Moments:
    """Sums of the activations of a layer's neurons, over the selected positions and over the others; each [2, neurons]."""

    def __init__(self) -> None:
        self.n, self.sums, self.squares = (np.zeros((2, 0)) for _ in range(3))

    def add(
        self,
        activations: Float32[np.ndarray, "positions neurons"],
        selected: Bool[np.ndarray, "positions"],
        neurons: Int32[np.ndarray, "neurons"],
    ) -> None:
        """Count a batch in. Products are taken in single precision within it, sums over batches in double."""
        if (more := neurons[-1] + 1 - self.n.shape[1]) > 0:
            self.n, self.sums, self.squares = (
                np.pad(a, ((0, 0), (0, more))) for a in (self.n, self.sums, self.squares)
            )
        weights = np.stack([selected, ~selected]).astype(np.float32)
        self.n[:, neurons] += weights.sum(axis=1, dtype=np.float64)[:, None]
        self.sums[:, neurons] += weights @ activations
        self.squares[:, neurons] += weights @ np.square(activations)

    def frame(self, layer: int) -> pd.DataFrame:
        """A row for each neuron that was recorded at positions of both kinds: means, and the difference of them in standard
        deviations (Cohen's d, pooled)."""
        (neurons,) = np.nonzero(self.n.all(axis=0))
        n, sums, squares = (of[:, neurons] for of in (self.n, self.sums, self.squares))
        means = sums / n
        within = np.maximum(squares - n * means**2, 0).sum(axis=0) / np.maximum(n.sum(axis=0) - 2, 1)
        difference = means[0] - means[1]
        with np.errstate(divide="ignore", invalid="ignore"):
            effect = np.where(difference == 0, 0.0, difference / np.sqrt(within))
        return pd.DataFrame(
            {
                "layer": np.int32(layer),
                "neuron": neurons.astype(np.int32),
                "n_selected": n[0].astype(np.int64),
                "mean_selected": means[0],
                "mean_others": means[1],
                "effect_size": effect,
            }
        )


def moments(batches: Iterable[Batch], selected: pd.DataFrame) -> dict[int, Moments]:
    """The moments of each layer. `selected` has the positions that count, and whether the predicate holds there.

    Its columns are generation_id, position and selected, sorted by the first two; a position that it lacks is left out.
    """
    known = _place(selected["generation_id"].to_numpy(), selected["position"].to_numpy())
    holds = selected["selected"].to_numpy(dtype=bool)
    found: dict[int, Moments] = {}
    for batch in batches:
        wanted = _place(batch.keys["generation_id"], batch.keys["position"])
        place = np.minimum(np.searchsorted(known, wanted), max(len(known) - 1, 0))
        counts = known[place] == wanted if len(known) else np.zeros(len(wanted), bool)
        layers = batch.keys["layer"]
        for layer in np.unique(layers).tolist():
            rows = counts & (layers == layer)
            if layer not in found:
                found[layer] = Moments()
            whole = rows.all()
            vectors = batch.vectors if whole else batch.vectors[rows]
            assert batch.neurons is not None, "activations are given with their neurons"
            found[layer].add(vectors, holds[place if whole else place[rows]], batch.neurons)
    return found


def _place(generation_id: np.ndarray, position: np.ndarray) -> np.ndarray:
    """One number for each (generation, position), in their order."""
    return generation_id.astype(np.int64) << 32 | position.astype(np.int64)
