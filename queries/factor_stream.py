"""Factors of more activations than memory holds: passes over blocks of tokens that keep small matrices.

nmf: each block's W is solved with H fixed, and H then takes a step by WᵀW and WᵀX, summed over all blocks with each one's newest
W: exact block coordinate descent, so that the error never rises (the sums are those of online NMF, Mairal et al. 2010, and of
Lefèvre et al. 2011, with a block's old share taken out when the new one comes in). pca: subspace iteration (Halko et al. 2011),
ica: of the scores of pca at evenly spaced tokens, kmeans: Lloyd's passes. All begin with the factors of a sample of
tokens that lie evenly over the slice. The values of tokens go to a temporary file.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Event
from typing import Any

import numpy as np
from jaxtyping import Float, Float32

from ..errors import Cancelled, InvalidOption
from ..store.mapped import let_go
from .decompositions import ICA, PCA, KMeans, nearest, one_hot, unmixed
from .factor_slice import BLOCK_BYTES, Slice, Spool
from .factorize import Found, How, prepared, shares
from .factors import FactorOptions
from .nmf import NMF, SWEEPS, Init, check_size
from .steps import device_of, steps_on
from .work import Progress

MAX_PASSES = 20
TOLERANCE = 1e-3
"""Passes end when one lowers the error by less than this share of it."""

FULLY = 100
"""Sweeps over a block's W that end at the best there is for some H."""

MORE = 8
"""Directions that subspace iteration keeps beside those that are asked for."""

MOST_SCORES = 1 << 16
"""Tokens whose scores ICA looks at."""


@dataclass(frozen=True)
class Looked:
    """What one pass finds: sums of each column and of its squares, both signs apart, and a sample of rows."""

    n: int
    sums: Float[np.ndarray, "2 m"]
    squares: Float[np.ndarray, "2 m"]
    sample: Float32[np.ndarray, "s m"]

    def column_energy(self, how: How, *, centred: bool) -> Float[np.ndarray, "columns"]:
        """Each column's energy as it is factored; with the mean taken away, if `centred`."""
        if how == "split":
            return self.squares.reshape(-1)
        energy = self.squares[0] if how == "clip" else self.squares.sum(axis=0)
        return np.maximum(energy - self.n * self.mean(how) ** 2, 0) if centred else energy

    def mean(self, how: How) -> Float[np.ndarray, "m"]:
        return (self.sums[0] if how == "clip" else self.sums.sum(axis=0)) / max(self.n, 1)


class Passes:
    """Passes over the blocks of a slice; the next block is read while one is looked at."""

    def __init__(
        self,
        of: Slice,
        *,
        block_bytes: int = BLOCK_BYTES,
        cancel: Event | None,
        on_progress: Progress | None,
        n_runs: int = 1,
    ) -> None:
        self.of, self._block_bytes = of, block_bytes
        self._cancel, self._on_progress = cancel, on_progress
        self._n_done, self._n_all = 0, len(of) * (1 + n_runs * (MAX_PASSES + 1))

    def __iter__(self) -> Iterator[tuple[slice, Float32[np.ndarray, "n m"]]]:
        blocks = self.of.blocks(self._block_bytes)
        with ThreadPoolExecutor(1) as ahead:
            coming = ahead.submit(self.of.activations, blocks[0]) if blocks else None
            for number, rows in enumerate(blocks):
                if self._cancel is not None and self._cancel.is_set():
                    raise Cancelled("the factorization")
                assert coming is not None, "the next block was asked for"
                x = coming.result()
                coming = ahead.submit(self.of.activations, blocks[number + 1]) if number + 1 < len(blocks) else None
                yield rows, x
                let_go(self.of.generation_id)
                let_go(self.of.position)
                self._n_done += rows.stop - rows.start
                if self._on_progress:
                    self._on_progress(self._n_done, self._n_all)

    def end(self) -> None:
        if self._on_progress:
            self._on_progress(self._n_all, self._n_all)


def look(passes: Passes, k: int, seed: int, sample_bytes: int) -> Looked:
    """One pass: what options depend on, and a sample. Raises InvalidOption where there are not `k` factors."""
    n, m = len(passes.of), passes.of.n_columns
    check_size(k, (n, m))
    n_sample = min(n, max(k, sample_bytes // (4 * m)))
    wanted = np.linspace(0, n, n_sample, endpoint=False) + np.random.default_rng(seed).random() * n / n_sample
    wanted = np.unique(wanted.astype(np.int64) % n)
    sums, squares, sample = np.zeros((2, m)), np.zeros((2, m)), np.empty((len(wanted), m), np.float32)
    for rows, x in passes:
        for sign, half in enumerate((np.maximum(x, 0), np.minimum(x, 0))):
            sums[sign] += half.sum(axis=0, dtype=np.float64)
            squares[sign] += np.einsum("ij,ij->j", half, half, dtype=np.float64)
        first, last = np.searchsorted(wanted, [rows.start, rows.stop])
        sample[first:last] = x[wanted[first:last] - rows.start]
    return Looked(n, sums, squares, sample)


@dataclass
class Prepared:
    """The blocks of passes as they are factored: negatives and scales seen to, the mean taken away."""

    passes: Passes
    how: How
    scale: Float32[np.ndarray, "m"] | None
    mean: Float32[np.ndarray, "m"] | None
    energy: float

    def __iter__(self) -> Iterator[tuple[slice, Float32[np.ndarray, "n m"]]]:
        for rows, x in self.passes:
            yield rows, self.of(x)

    def of(self, x: Float32[np.ndarray, "n neurons"]) -> Float32[np.ndarray, "n m"]:
        x = prepared(x, self.how)
        if self.scale is not None:
            x /= self.scale
        if self.mean is not None:
            x -= self.mean
        return x

    def spool(self, k: int) -> np.ndarray:
        """Zeros for each token, in a temporary file."""
        spool = Spool(np.float32, k)
        for rows in self.passes.of.blocks():
            spool.append(np.zeros((rows.stop - rows.start, k), np.float32))
        return spool.array()


def factor_stream(x: Prepared, sample: Float32[np.ndarray, "s m"], options: FactorOptions, init: Init) -> Found:
    """A factorization of all blocks; `sample` is prepared as they are. Raises InvalidOption, Cancelled."""
    if options.method == "nmf":
        if options.solver == "sklearn":
            how = "it needs all activations in memory, and these are too many: use hals, or in Python more in_memory_bytes"
            raise InvalidOption("solver", "sklearn", how)
        return _nmf(x, sample, options, init)
    return {"pca": _pca, "ica": _ica, "kmeans": _kmeans}[options.method](x, sample, options)


def _nmf(x: Prepared, sample: Float32[np.ndarray, "s m"], options: FactorOptions, init: Init) -> Found:
    k, device = options.k, device_of(options.device, 4 * len(x.passes.of) * sample.shape[1])
    on = steps_on(device)
    model = NMF(k, init=init, random_state=options.seed, device=device).fit(sample)
    h, w = on.put(model.components_), x.spool(k)
    gram, product = on.put(np.zeros((k, k))), on.put(np.zeros(model.components_.shape))
    before, converged, n_passes = np.inf, False, 0

    def weights(rows: slice) -> Any:
        return on.put(np.array(w[rows]).T)

    def solve(rows: slice, block: Any, new: Any, n_sweeps: int) -> None:
        """From `new` on, find a block's W, and put its share of the sums in the place of its old one."""
        nonlocal gram, product
        on.descend(new, h @ h.T, h @ block.T, n_sweeps)
        old = weights(rows)
        gram += on.double(new) @ on.double(new).T - on.double(old) @ on.double(old).T
        product += (new - old) @ block
        w[rows] = on.take(new).T
        let_go(w)

    def step(n_sweeps: int) -> None:
        on.descend(h, on.single(gram), on.single(product), n_sweeps)

    for n_passes in range(1, MAX_PASSES + 1):  # noqa: B007
        for rows, block in x:
            solve(rows, on.put(block), weights(rows), 2 * SWEEPS if before < np.inf else FULLY)
            if before < np.inf:  # until all blocks are in the sums, they would pull H to the first
                step(1)
        step(SWEEPS)
        error = on.error(x.energy, gram, product, h)
        converged = before - error <= TOLERANCE * error
        if converged:
            break
        before = error
    for rows, block in x:
        solve(rows, on.put(block), on.put(np.zeros((k, len(block)), np.float32)), FULLY)
    return _found(x, w, on.take(h), on.take(gram), on.take(product), n_passes, converged)


def _pca(x: Prepared, sample: Float32[np.ndarray, "s m"], options: FactorOptions) -> Found:
    k = options.k
    wide = min(k + MORE, *sample.shape)
    start = PCA(wide, random_state=options.seed).fit(sample).components_
    rest = np.random.default_rng(options.seed).standard_normal(start.shape, np.float32)
    basis = _orthonormal(np.where(start.any(axis=1, keepdims=True), start, rest).T)
    before, converged, n_passes = 0.0, False, 0
    for n_passes in range(1, MAX_PASSES + 1):  # noqa: B007
        turned = np.zeros(basis.shape)
        for _, block in x:
            turned += block.T @ (block @ basis)
        values, vectors = np.linalg.eigh(basis.T.astype(np.float64) @ turned)
        explained = float(values[::-1][:k].clip(0).sum())
        converged = explained - before <= 1e-5 * explained
        before = explained
        basis = _orthonormal(turned @ vectors[:, ::-1])
        if converged:
            break
    small = np.zeros((wide, wide))
    for _, block in x:
        scores = (block @ basis).astype(np.float64)
        small += scores.T @ scores
    values, vectors = np.linalg.eigh(small)
    there = values[::-1][:k] > 1e-12 * max(values[-1], np.finfo(np.float32).tiny)
    h = np.ascontiguousarray((basis @ vectors[:, ::-1][:, :k] * there).T, np.float32)
    return _scored(x, h, h.T, n_passes, converged)


def _orthonormal(columns: np.ndarray) -> Float32[np.ndarray, "m w"]:
    return np.ascontiguousarray(np.linalg.qr(columns.astype(np.float64))[0], np.float32)


def _ica(x: Prepared, sample: Float32[np.ndarray, "s m"], options: FactorOptions) -> Found:
    pca = _pca(x, sample, options)
    n = len(pca.tokens)
    some = np.asarray(pca.tokens[:: max(1, -(-n // MOST_SCORES))])
    defaults = ICA(options.k)
    _, mixing, n_iterations, converged = unmixed(some, defaults.max_iter, defaults.tol, options.seed)
    h = mixing @ pca.components
    w, unmixing = pca.tokens, np.linalg.pinv(mixing)
    for first in range(0, n, MOST_SCORES):
        w[first : first + MOST_SCORES] = w[first : first + MOST_SCORES] @ unmixing
        let_go(w)
    gram, with_pca = np.zeros((options.k,) * 2), np.zeros((options.k,) * 2)
    for first in range(0, n, MOST_SCORES):
        sources = np.array(w[first : first + MOST_SCORES], np.float64)
        gram += sources.T @ sources
        with_pca += sources.T @ (sources @ mixing)
        let_go(w)
    product = with_pca @ pca.components  # the sources' part of X lies in the span of pca's components
    return _found(x, w, h, gram, product, n_iterations, converged)


def _kmeans(x: Prepared, sample: Float32[np.ndarray, "s m"], options: FactorOptions) -> Found:
    k = options.k
    model = KMeans(k, random_state=options.seed).fit(sample)
    centres = model.components_ + model.mean_
    before, converged, n_passes = np.inf, False, 0
    for n_passes in range(1, MAX_PASSES + 1):  # noqa: B007
        sums, counts, within = np.zeros(centres.shape), np.zeros(k), 0.0
        for _, block in x:
            labels = nearest(block, centres)
            rest = block - centres[labels]
            within += float(np.einsum("ij,ij->", rest, rest, dtype=np.float64))
            ones = one_hot(labels, k)
            sums += ones.T @ block
            counts += ones.sum(axis=0)
        centres = np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], centres).astype(np.float32)
        converged = before - within <= TOLERANCE * within
        if converged:
            break
        before = within
    w, gram, product = x.spool(k), np.zeros((k, k)), np.zeros(centres.shape)
    for rows, block in x:
        ones = one_hot(nearest(block, centres), k)
        w[rows] = ones
        let_go(w)
        gram += ones.T @ ones
        product += ones.T @ block
    counts = np.diag(gram)
    centres = np.where(counts[:, None] > 0, product / np.maximum(counts, 1)[:, None], centres).astype(np.float32)
    return _found(x, w, centres, gram, product, n_passes, converged)


def _scored(
    x: Prepared, h: Float32[np.ndarray, "k m"], to_scores: Float32[np.ndarray, "m k"], n_passes: int, converged: bool
) -> Found:
    """A last pass: each token's scores."""
    k = len(h)
    w, gram, product = x.spool(k), np.zeros((k, k)), np.zeros(h.shape)
    for rows, block in x:
        scores = block @ to_scores
        w[rows] = scores
        let_go(w)
        gram += scores.T.astype(np.float64) @ scores
        product += scores.T @ block
    return _found(x, w, h, gram, product, n_passes, converged)


def _found(
    x: Prepared,
    w: np.ndarray,
    h: Float32[np.ndarray, "k m"],
    gram: Float[np.ndarray, "k k"],
    product: Float[np.ndarray, "k m"],
    n_passes: int,
    converged: bool,
) -> Found:
    explained = shares(gram, product, h, x.energy)
    error = float(np.sqrt(max(1 - float(explained.sum()), 0.0))) if x.energy else 0.0
    said = {"streamed": True, "tol": TOLERANCE, "max_passes": MAX_PASSES}
    return Found(w, h, x.mean, explained, error, n_passes, converged, said)
