"""Non-negative matrix factorisation by accelerated HALS: the same minimum as scikit-learn's coordinate descent, sooner.

Each round solves for W with H fixed and for H with W fixed, by several sweeps over the small Gram matrices (Gillis & Glineur
2012, doi:10.1162/NECO_a_00256): a sweep costs k² a column, the products with X, which dominate, are taken once a round. The
error comes from the same products. The start is nndsvda, whose singular vectors come from XXᵀ, small because tokens are few
beside neurons. Where a few neurons hold nearly all the energy (in most models they do), W is first found on those alone.
"""

from dataclasses import dataclass, field, fields
from threading import Event
from typing import Any, Literal, Self

import numpy as np
from jaxtyping import Float, Float32

from ..errors import Cancelled, InvalidOption
from .steps import OnCpu, Steps, device_of, steps_on
from .work import Progress

Init = Literal["nndsvda", "random"]

ALMOST_ALL, FEW = 0.998, 0.6
"""A first W is found on the columns that hold this share of the energy, if they are at most this share of the columns."""

FINER = 10
"""The rounds on those columns, which cost less, go on until one lowers the error by this much less."""

SWEEPS = 4
"""Sweeps over H in a round; the smaller of the two factors, W, costs nothing beside X and is swept twice as often."""


class Estimator:
    """What scikit-learn asks of an estimator's parameters: here they are a dataclass's fields."""

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        return {each.name: getattr(self, each.name) for each in fields(self) if each.init}  # type: ignore[arg-type]

    def set_params(self, **params: Any) -> Self:
        for name, value in params.items():
            if name not in self.get_params():
                raise InvalidOption(name, value, f"the parameters are {', '.join(self.get_params())}")
            setattr(self, name, value)
        return self


@dataclass
class NMF(Estimator):
    """X ≈ W H with W, H ≥ 0, as scikit-learn's `NMF`; float32 [samples, features] in, float32 out.

    `tol` ends it when a round lowers the error by less than that share. `device` is where rounds are computed, as torch names
    it; "auto" is that of `FactorOptions`. `cancel` is looked at once a round, `on_progress` told of it with rounds done and the
    most there can be. Attributes once fitted: `components_` (H), `reconstruction_err_` (‖X − W H‖), `n_iter_`, `converged_`.
    """

    n_components: int
    init: Init = "nndsvda"
    tol: float = 1e-4
    max_iter: int = 500
    random_state: int = 0
    device: str = "auto"
    cancel: Event | None = None
    on_progress: Progress | None = None

    def fit(self, x: Float32[np.ndarray, "n m"], y: object = None) -> Self:
        self.fit_transform(x)
        return self

    def fit_transform(self, x: Float32[np.ndarray, "n m"], y: object = None) -> Float32[np.ndarray, "n k"]:
        """W; raises InvalidOption where X has a negative or no finite value, or k does not fit it, Cancelled."""
        x = checked(x, self.n_components)
        energy = np.einsum("ij,ij->j", x, x, dtype=np.float64)
        on = steps_on(device_of(self.device, x.nbytes))
        w, h = self._start(x, energy, on)
        rounds = Rounds(self.tol, self.max_iter, self.cancel, self.on_progress, on)
        w, h = rounds.run(x, w, h, float(energy.sum()))
        self.components_, self.n_iter_, self.converged_ = h, rounds.n_done, rounds.converged
        self.reconstruction_err_ = residual_norm(x, w, h)
        return w

    def transform(self, x: Float32[np.ndarray, "n m"]) -> Float32[np.ndarray, "n k"]:
        """The best W for the components that were found."""
        h = self.components_
        return non_negative_weights(x @ h.T, h @ h.T)

    def inverse_transform(self, w: Float32[np.ndarray, "n k"]) -> Float32[np.ndarray, "n m"]:
        return w @ self.components_

    def _start(
        self, x: Float32[np.ndarray, "n m"], energy: Float[np.ndarray, "m"], on: Steps
    ) -> tuple[Float32[np.ndarray, "n k"], Float32[np.ndarray, "k m"]]:
        k, random = self.n_components, np.random.default_rng(self.random_state)
        few = columns_of_energy(energy, ALMOST_ALL)
        if len(few) > FEW * len(energy) or len(few) < k:
            return start(x, k, self.init, random)
        some = np.ascontiguousarray(x[:, few])
        w, h = start(some, k, self.init, random)
        first = Rounds(self.tol / FINER, self.max_iter, self.cancel, None, on)
        w, h_of_few = first.run(some, w, h, float(energy[few].sum()))
        h = np.zeros((k, x.shape[1]), np.float32)
        h[:, few] = h_of_few
        return w, h


@dataclass
class Rounds:
    """Rounds of W and H in turn, until one lowers the error by less than the share `tol` of it."""

    tol: float
    max_iter: int
    cancel: Event | None = None
    on_progress: Progress | None = None
    on: Steps = field(default_factory=OnCpu)
    n_done: int = 0
    converged: bool = False

    def run(
        self,
        x: Float32[np.ndarray, "n m"],
        w: Float32[np.ndarray, "n k"],
        h: Float32[np.ndarray, "k m"],
        energy: float,
    ) -> tuple[Float32[np.ndarray, "n k"], Float32[np.ndarray, "k m"]]:
        on = self.on
        x, w_t, h = on.put(x), on.put(w.T), on.put(h)
        before = np.inf
        for n_done in range(1, self.max_iter + 1):
            if self.cancel is not None and self.cancel.is_set():
                raise Cancelled("the factorization")
            on.descend(w_t, h @ h.T, h @ x.T, 2 * SWEEPS)
            self.n_done = n_done
            gram, product = w_t @ w_t.T, w_t @ x
            on.descend(h, gram, product, SWEEPS)
            error = on.error(energy, gram, product, h)
            if self.on_progress:
                self.on_progress(self.n_done, self.max_iter)
            if before - error <= self.tol * error:
                self.converged = True
                break
            before = error
        return np.ascontiguousarray(on.take(w_t).T), on.take(h)


def checked(x: np.ndarray, k: int) -> Float32[np.ndarray, "n m"]:
    """X as NMF takes it. Raises InvalidOption."""
    x = np.ascontiguousarray(x, np.float32)
    check_size(k, x.shape)
    least = float(x.min())
    if not least >= 0 or not np.isfinite(x.max()):
        raise InvalidOption("X", least, "NMF needs finite values, 0 or more; clip or split the negative ones")
    return x


def check_size(k: int, shape: tuple[int, ...]) -> None:
    """Raise InvalidOption unless a matrix of that shape has `k` factors."""
    most = min(shape)
    if not most:
        raise InvalidOption("k", k, "there are no activations in this slice, so there is nothing to factor")
    if not 1 <= k <= most:
        raise InvalidOption("k", k, f"choose from 1 to {most}, the smaller of positions and columns of this slice")


def start(
    x: Float32[np.ndarray, "n m"], k: int, init: Init, random: np.random.Generator
) -> tuple[Float32[np.ndarray, "n k"], Float32[np.ndarray, "k m"]]:
    """The W and H to begin with.

    nndsvda: of each of the first k singular pairs the half, positive or negative, that is larger; zeros become X's mean.
    Source: Boutsidis & Gallopoulos 2008, doi:10.1016/j.patcog.2007.09.010. random: |normal| values of X's scale.
    """
    n, m = x.shape
    mean = float(x.mean(dtype=np.float64))
    if init == "random":
        scale = np.float32(np.sqrt(mean / k))
        return (
            scale * np.abs(random.standard_normal((n, k), np.float32)),
            scale * np.abs(random.standard_normal((k, m), np.float32)),
        )
    u, s, v = singular_vectors(x, k)
    w, h = np.zeros((n, k), np.float32), np.zeros((k, m), np.float32)
    for j in range(k):
        signs = (1, -1) if j else (np.sign(u[:, 0].sum()) or 1,)  # the first pair is of one sign
        halves = [(np.maximum(sign * u[:, j], 0), np.maximum(sign * v[j], 0)) for sign in signs]
        norms = [float(np.linalg.norm(a)) * float(np.linalg.norm(b)) for a, b in halves]
        best = int(np.argmax(norms))
        (a, b), norm = halves[best], norms[best]
        if norm > 0:
            length = np.sqrt(s[j] * norm)
            w[:, j], h[j] = length * a / np.linalg.norm(a), length * b / np.linalg.norm(b)
    w[w < 1e-6] = mean
    h[h < 1e-6] = mean
    return w, h


def singular_vectors(
    x: Float32[np.ndarray, "n m"], k: int, dtype: type = np.float32
) -> tuple[Float32[np.ndarray, "n k"], Float[np.ndarray, "k"], Float32[np.ndarray, "k m"]]:
    """The first k singular vectors and values of X, from the eigenvectors of XXᵀ or XᵀX, whichever is smaller.

    The products are summed in `dtype`: in float32, values below some 1e-3 of the greatest are noise. A vector of a value that is
    0 is 0.
    """
    if len(x) > x.shape[1]:
        v, s, u = singular_vectors(np.ascontiguousarray(x.T), k, dtype)
        return np.ascontiguousarray(u.T), s, np.ascontiguousarray(v.T)
    gram = np.zeros((len(x), len(x)))
    for first in range(0, x.shape[1], 1 << 14):
        block: np.ndarray = x[:, first : first + (1 << 14)].astype(dtype, copy=False)
        gram += block @ block.T
    values, vectors = np.linalg.eigh(gram)
    s = np.sqrt(np.maximum(values[::-1][:k], 0))
    s[s <= 1e-6 * s[0]] = 0
    u = np.ascontiguousarray(vectors[:, ::-1][:, :k] * (s > 0), np.float32)
    inverse = np.divide(1, s, out=np.zeros_like(s), where=s > 0)
    return u, s, (u.T @ x) * inverse[:, None].astype(np.float32)


def columns_of_energy(energy: Float[np.ndarray, "m"], share: float) -> np.ndarray:
    """The fewest columns that hold that share of the energy, ascending."""
    order = np.argsort(-energy, kind="stable")
    n = int(np.searchsorted(np.cumsum(energy[order]), share * energy.sum())) + 1
    return np.sort(order[:n])


def residual_norm(x: Float32[np.ndarray, "n m"], w: Float32[np.ndarray, "n k"], h: Float32[np.ndarray, "k m"]) -> float:
    """‖X − W H‖, a block of columns at a time; sums in double precision."""
    total = 0.0
    for first in range(0, x.shape[1], 1 << 13):
        rest = x[:, first : first + (1 << 13)] - w @ h[:, first : first + (1 << 13)]
        total += float(np.einsum("ij,ij->", rest, rest, dtype=np.float64))
    return float(np.sqrt(total))


def non_negative_weights(
    product: Float32[np.ndarray, "n k"], gram: Float32[np.ndarray, "k k"], n_sweeps: int = 100
) -> Float32[np.ndarray, "n k"]:
    """The W ≥ 0 that is best for some H, from XHᵀ and HHᵀ."""
    from .descent import descend

    w = np.zeros(product.shape[::-1], np.float32)
    descend(w, np.ascontiguousarray(gram, np.float32), np.ascontiguousarray(product.T, np.float32), n_sweeps)
    return np.ascontiguousarray(w.T)
