"""Factors of a matrix of activations that is in memory: what becomes of negatives and layers' scales, and a stable result."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from threading import Event
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Float32

from ..errors import Cancelled
from ..store.mapped import let_go
from .decompositions import ICA, PCA, KMeans
from .factors import FactorOptions, Factors
from .nmf import NMF, Estimator, check_size, checked, residual_norm
from .work import Progress

SPLIT_ABOVE = 0.1
"""`auto` splits when negative activations hold more than this share of the energy of the middle layer by that share: about half
in gated FFNNs, a few hundredths after GELU, none after ReLU."""

MAX_ITERATIONS = 500
"""Most rounds of a solver of nmf."""

How = Literal["clip", "split", "keep"]


@dataclass(frozen=True)
class Found:
    """A factorization of the matrix as it was factored, before anything is put in order."""

    tokens: Float32[np.ndarray, "n k"]
    components: Float32[np.ndarray, "k m"]
    mean: Float32[np.ndarray, "m"] | None
    explained: Float[np.ndarray, "k"]
    error: float
    n_iterations: int
    converged: bool
    parameters: dict[str, Any]


def factorize(
    activations: Float32[np.ndarray, "tokens neurons"],
    options: FactorOptions,
    *,
    layers: Sequence[int],
    cancel: Event | None = None,
    on_progress: Progress | None = None,
) -> Factors:
    """Factors of activations, [tokens, layers × d_ff]. The same input and options give the same factors.

    `on_progress` is told of iterations done and the most there can be, reruns included. Raises InvalidOption, Cancelled.
    Cost: of nmf, X (as float32, twice with `split`) and a few products with it; 0.7 s of one core at most for 128 tokens of
    46,080 neurons (docs/benchmarks.md).
    """
    if not activations.size:
        check_size(options.k, activations.shape)
    known = options.negatives != "auto" or options.method != "nmf"
    how = how_of(options, np.zeros((2, 0)) if known else energies(activations, len(layers)))
    x = prepared(activations, how)
    check_size(options.k, x.shape)
    scale = layer_scale(column_energy(x, options), len(layers), how) if options.scale_layers else None
    if scale is not None:
        x /= scale
    runs = [replace(options, seed=options.seed + number, reruns=0) for number in range(options.reruns + 1)]
    found = []
    for number, run in enumerate(runs):
        report = None if on_progress is None else _part(on_progress, number, len(runs))
        found.append(_factor(x, run, "random" if number else "nndsvda", cancel, report))
    if on_progress:
        on_progress(len(runs) * MAX_ITERATIONS, len(runs) * MAX_ITERATIONS)
    return in_order(found, scale, options, how, layers)


def _part(on_progress: Progress, number: int, n_runs: int) -> Progress:
    return lambda done, total: on_progress(number * total + done, n_runs * total)


def _factor(
    x: Float32[np.ndarray, "n m"],
    options: FactorOptions,
    init: Literal["nndsvda", "random"],
    cancel: Event | None,
    on_progress: Progress | None,
) -> Found:
    if cancel is not None and cancel.is_set():
        raise Cancelled("the factorization")
    estimator = estimator_of(options, init, cancel, on_progress)
    tokens = estimator.fit_transform(x)
    mean = getattr(estimator, "mean_", None)
    centred = x if mean is None else x - mean
    energy = float(np.einsum("ij,ij->", centred, centred, dtype=np.float64))
    h = estimator.components_
    explained = shares(tokens.T @ tokens, tokens.T @ centred, h, energy)
    rest = getattr(estimator, "reconstruction_err_", None)
    rest = residual_norm(centred, tokens, h) if rest is None else rest
    error = rest / energy**0.5 if energy else 0.0
    kept = {name: value for name, value in estimator.get_params().items() if name in ("init", "tol", "max_iter")}
    return Found(tokens, h, mean, explained, error, estimator.n_iter_, estimator.converged_, kept)


def estimator_of(
    options: FactorOptions, init: Literal["nndsvda", "random"], cancel: Event | None, on_progress: Progress | None
) -> Any:
    """An unfitted estimator: `fit_transform`, then `components_`, `n_iter_`, `converged_`, and maybe `mean_`."""
    k, seed = options.k, options.seed
    if options.method == "pca":
        return PCA(k, random_state=seed)
    if options.method == "ica":
        return ICA(k, random_state=seed)
    if options.method == "kmeans":
        return KMeans(k, random_state=seed)
    if options.solver == "sklearn":
        return SklearnNMF(k, init=init, max_iter=MAX_ITERATIONS, random_state=seed)
    return NMF(
        k,
        init=init,
        max_iter=MAX_ITERATIONS,
        random_state=seed,
        device=options.device,
        cancel=cancel,
        on_progress=on_progress,
    )


@dataclass
class SklearnNMF(Estimator):
    """scikit-learn's NMF by coordinate descent, in the shape of ours: the reference."""

    n_components: int
    init: Literal["nndsvda", "random"] = "nndsvda"
    max_iter: int = MAX_ITERATIONS
    random_state: int = 0

    def fit_transform(self, x: Float32[np.ndarray, "n m"], y: object = None) -> Float32[np.ndarray, "n k"]:
        from sklearn import decomposition  # here, because it takes longer to import than a store to open
        from sklearn.exceptions import ConvergenceWarning

        x = checked(x, self.n_components)
        model = decomposition.NMF(
            self.n_components, init=self.init, solver="cd", max_iter=self.max_iter, random_state=self.random_state
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # `converged_` says it
            tokens = model.fit_transform(x)
        self.components_ = np.asarray(model.components_, np.float32)
        self.n_iter_, self.converged_ = int(model.n_iter_), model.n_iter_ < self.max_iter
        return np.asarray(tokens, np.float32)


def energies(activations: Float32[np.ndarray, "n m"], n_layers: int) -> Float[np.ndarray, "2 layers"]:
    """The energy of each layer's positive and of its negative activations."""
    halves = np.maximum(activations, 0), np.minimum(activations, 0)
    squares = np.stack([np.einsum("ij,ij->j", half, half, dtype=np.float64) for half in halves])
    return squares.reshape(2, n_layers, -1).sum(axis=2)


def how_of(options: FactorOptions, energy: Float[np.ndarray, "2 layers"]) -> How:
    """What becomes of negatives, by the energy of each layer's positive and negative activations.

    Layers count alike: one neuron of one layer may have more energy than all others, and its sign says nothing of theirs.
    """
    if options.negatives != "auto":
        return options.negatives
    if options.method != "nmf":
        return "keep"
    of_layer = energy.sum(axis=0)
    share = np.divide(energy[1], of_layer, out=np.zeros(len(of_layer)), where=of_layer > 0)
    return "split" if len(share) and np.median(share) > SPLIT_ABOVE else "clip"


def prepared(activations: Float32[np.ndarray, "n m"], how: How) -> Float32[np.ndarray, "n columns"]:
    """The matrix that is factored; a copy."""
    if how == "keep":
        return np.array(activations, np.float32)
    if how == "clip":
        return np.maximum(activations, 0, dtype=np.float32)
    n, m = activations.shape
    x = np.empty((n, 2 * m), np.float32)
    np.maximum(activations, 0, out=x[:, :m])
    np.maximum(-activations, 0, out=x[:, m:])
    return x


def column_energy(x: Float32[np.ndarray, "n m"], options: FactorOptions) -> Float[np.ndarray, "m"]:
    """Each column's energy; of methods that take the mean away, what is left of it."""
    energy = np.einsum("ij,ij->j", x, x, dtype=np.float64)
    if options.method == "nmf":
        return energy
    return np.maximum(energy - len(x) * x.mean(axis=0, dtype=np.float64) ** 2, 0)


def layer_scale(energy: Float[np.ndarray, "m"], n_layers: int, how: How) -> Float32[np.ndarray, "m"]:
    """For each column, the root energy of its layer; 1 where a layer is silent."""
    halves = 2 if how == "split" else 1
    by_layer = energy.reshape(halves, n_layers, -1)  # (half, layer, neuron)
    root = np.sqrt(by_layer.sum(axis=(0, 2), keepdims=True))
    root[root == 0] = 1
    return np.broadcast_to(root, by_layer.shape).reshape(-1).astype(np.float32)


def shares(
    gram: Float[np.ndarray, "k k"],
    product: Float[np.ndarray, "k m"],
    h: Float32[np.ndarray, "k m"],
    energy: float,
) -> Float[np.ndarray, "k"]:
    """Each factor's share of ‖X‖², from WᵀW, WᵀX and H; they sum to 1 − ‖X − WH‖² / ‖X‖².

    2⟨X, w_j h_j⟩ − ⟨WH, w_j h_j⟩: what the factor takes from the error, what it has in common with others shared out.
    """
    if not energy:
        return np.zeros(len(h))
    with_x = np.einsum("ij,ij->i", product, h, dtype=np.float64)
    within = (gram.astype(np.float64) * (h @ h.T).astype(np.float64)).sum(axis=1)
    return (2 * with_x - within) / energy


def in_order(
    runs: Sequence[Found],
    scale: Float32[np.ndarray, "m"] | None,
    options: FactorOptions,
    how: How,
    layers: Sequence[int],
) -> Factors:
    """Factors of the first run: the most explained first, lengths and signs fixed; matched with the other runs."""
    from .stability import stability

    found = runs[0]
    order = np.argsort(-found.explained, kind="stable")
    components = found.components[order] if scale is None else found.components[order] * scale
    mean = found.mean if found.mean is None or scale is None else found.mean * scale
    size = turns(components, options)
    return Factors(
        tokens=_arranged(found.tokens, order, size),
        components=components / size[:, None],
        error=found.error,
        layers=tuple(layers),
        negatives=how,
        scale_layers=options.scale_layers,
        seed=options.seed,
        n_iterations=found.n_iterations,
        converged=found.converged,
        explained=found.explained[order],
        stability=stability(found.components[order], [run.components for run in runs[1:]]) if runs[1:] else None,
        method=options.method,
        solver=options.solver if options.method == "nmf" else "sklearn",
        parameters=found.parameters | ({"reruns": options.reruns} if options.reruns else {}),
        mean=mean,
    )


def _arranged(
    tokens: Float32[np.ndarray, "n k"], order: np.ndarray, size: Float32[np.ndarray, "k"]
) -> Float32[np.ndarray, "n k"]:
    """Values in another order and size; of an array on disk, there."""
    if not isinstance(tokens, np.memmap):
        return np.ascontiguousarray(tokens[:, order] * size)
    for first in range(0, len(tokens), 1 << 16):
        some = slice(first, first + (1 << 16))
        tokens[some] = tokens[some][:, order] * size
        let_go(tokens)
    return tokens


def turns(components: Float32[np.ndarray, "k m"], options: FactorOptions) -> Float32[np.ndarray, "k"]:
    """What each component is divided by, and its tokens' values multiplied: its length and sign; 1 in k-means."""
    k = len(components)
    if options.method == "kmeans":
        return np.ones(k, np.float32)
    length = np.sqrt(np.einsum("ij,ij->i", components, components, dtype=np.float64))
    length[length == 0] = 1
    greatest = components[np.arange(k), np.abs(components).argmax(axis=1)]
    return (length * np.where(greatest < 0, -1, 1)).astype(np.float32)
