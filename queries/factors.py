"""Factors: a non-negative matrix factorisation of the activations of some tokens."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float32, Int32, Int64

from ..errors import InvalidOption

Negatives = Literal["auto", "clip", "split"]
NEGATIVES: tuple[Negatives, ...] = get_args(Negatives)

SPLIT_ABOVE = 0.1
"""`auto` splits when negative activations hold more than this share of the energy: about half in gated FFNNs, a few
hundredths after GELU, none after ReLU."""


@dataclass(frozen=True)
class Factors:
    """`k` factors of the activations X of some positions and layers: `X ≈ tokens @ components`, all of it ≥ 0.

    tokens      float32 [positions, k], how present each factor is at each position
    components  float32 [k, columns], the factor's weight for each column of X: neurons layer by layer; with
                `negatives="split"` the positive halves of all of them first, then the negative halves
    neurons     float32 [k, layers × d_ff], the weight of each neuron; with `split` positive minus negative half
    neuron      int32 [d_ff], the number that each of a layer's columns has: all neurons, or those that were recorded; None
                of an array that is in no store
    error       ‖X − tokens @ components‖ / ‖X‖ (Frobenius), 0 when X is 0
    generation_id, position  int64 and int32 [positions], the store's token that each row of X is of; None of an array
                that is in no store
    """

    tokens: Float32[np.ndarray, "positions k"]
    components: Float32[np.ndarray, "k columns"]
    error: float
    layers: tuple[int, ...]
    negatives: Literal["clip", "split"]
    scale_layers: bool
    seed: int
    n_iterations: int
    converged: bool
    generation_id: Int64[np.ndarray, "positions"] | None = None
    position: Int32[np.ndarray, "positions"] | None = None
    neuron: Int32[np.ndarray, "d_ff"] | None = None

    @property
    def k(self) -> int:
        return self.tokens.shape[1]

    @property
    def neurons(self) -> Float32[np.ndarray, "k neurons"]:
        if self.negatives == "clip":
            return self.components
        positive, negative = np.split(self.components, 2, axis=1)
        return positive - negative


def nmf(
    activations: Float32[np.ndarray, "positions neurons"],
    k: int,
    *,
    layers: Sequence[int],
    negatives: Negatives = "auto",
    scale_layers: bool = False,
    seed: int = 0,
    max_iterations: int = 500,
) -> Factors:
    """`k` factors of activations, [positions, layers × d_ff], by scikit-learn's coordinate descent from `nndsvda`.

    `negatives`: NMF needs values ≥ 0, so `clip` sets negative activations to 0 and `split` gives each neuron two columns,
    its positive and its negative half; `auto` splits when negatives hold over a tenth of the energy. `scale_layers`
    divides each layer by its root energy before, and multiplies the weights by it after, so that layers count alike.
    The same input, options and seed give the same factors. Raises InvalidOption.
    Cost: grows with positions × neurons × k; about 0.5 s for 128 × 1,536, 8 s for 128 × 46,080 on two cores.
    Source: Cichocki & Phan 2009, doi:10.1587/transfun.E92.A.708 (solver); Boutsidis & Gallopoulos 2008 (start).
    """
    from sklearn.decomposition import NMF  # here, because it takes longer to import than a store to open
    from sklearn.exceptions import ConvergenceWarning

    if negatives not in NEGATIVES:
        raise InvalidOption("negatives", negatives, f"choose one of {', '.join(NEGATIVES)}")
    how: Literal["clip", "split"] = _how(activations) if negatives == "auto" else negatives
    x = np.maximum(activations, 0)
    if how == "split":
        x = np.concatenate([x, np.maximum(-activations, 0)], axis=1)
    most = min(x.shape)
    if not most:
        raise InvalidOption("k", k, "there are no activations in this slice, so there is nothing to factor")
    if not 1 <= k <= most:
        raise InvalidOption("k", k, f"choose from 1 to {most}, the smaller of positions and columns of this slice")
    scale = _layer_scale(x, len(layers), how) if scale_layers else np.ones(x.shape[1], np.float32)
    model = NMF(k, init="nndsvda", solver="cd", max_iter=max_iterations, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # `converged` says it
        tokens = model.fit_transform(x / scale)
    norm = float(np.linalg.norm(x / scale))
    return Factors(
        tokens=tokens.astype(np.float32),
        components=(model.components_ * scale).astype(np.float32),
        error=float(model.reconstruction_err_) / norm if norm else 0.0,
        layers=tuple(layers),
        negatives=how,
        scale_layers=scale_layers,
        seed=seed,
        n_iterations=int(model.n_iter_),
        converged=model.n_iter_ < max_iterations,
    )


def _how(activations: Float32[np.ndarray, "positions neurons"]) -> Literal["clip", "split"]:
    energy = float(np.square(activations, dtype=np.float64).sum())
    negative = float(np.square(np.minimum(activations, 0), dtype=np.float64).sum())
    return "split" if negative > SPLIT_ABOVE * energy else "clip"


def _layer_scale(
    x: Float32[np.ndarray, "positions columns"], n_layers: int, how: Literal["clip", "split"]
) -> Float32[np.ndarray, "columns"]:
    """For each column, the root energy of its layer; 1 where a layer is silent."""
    halves = 2 if how == "split" else 1
    energy = np.square(x, dtype=np.float64).sum(0).reshape(halves, n_layers, -1)  # (half, layer, neuron)
    root = np.sqrt(energy.sum(axis=(0, 2), keepdims=True))
    root[root == 0] = 1
    return np.broadcast_to(root, energy.shape).reshape(-1).astype(np.float32)
