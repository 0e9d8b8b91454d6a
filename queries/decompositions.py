"""PCA, ICA and k-means as estimators of one shape with NMF: X ≈ mean + fit_transform(X) @ components_.

The values are scikit-learn's; order and sign are made stable by `factorize`. PCA is the eigenvectors of the smaller Gram
matrix. ICA is of the scores of PCA, which is what scikit-learn's own whitening does, so that its cost does not grow with the
neurons.
"""

import warnings
from dataclasses import dataclass
from typing import Self

import numpy as np
from jaxtyping import Float32

from .nmf import Estimator, singular_vectors

NOTHING = 1e-6
"""A singular value below this share of the greatest is of no direction that the data have."""


@dataclass
class PCA(Estimator):
    """Principal components, the directions of greatest variance: `components_` of length 1 (0 where nothing varies)."""

    n_components: int
    random_state: int = 0

    def fit(self, x: Float32[np.ndarray, "n m"], y: object = None) -> Self:
        self.fit_transform(x)
        return self

    def fit_transform(self, x: Float32[np.ndarray, "n m"], y: object = None) -> Float32[np.ndarray, "n k"]:
        self.mean_ = np.asarray(x.mean(axis=0, dtype=np.float64), np.float32)
        u, s, self.components_ = singular_vectors(x - self.mean_, self.n_components, np.float64)
        self.n_iter_, self.converged_ = 1, True
        return u * s.astype(np.float32)

    def transform(self, x: Float32[np.ndarray, "n m"]) -> Float32[np.ndarray, "n k"]:
        return (x - self.mean_) @ self.components_.T

    def inverse_transform(self, scores: Float32[np.ndarray, "n k"]) -> Float32[np.ndarray, "n m"]:
        return scores @ self.components_ + self.mean_


@dataclass
class ICA(Estimator):
    """Independent components: directions in the space of the first k principal ones whose scores are as independent as can be.

    Source: FastICA, Hyvärinen & Oja 2000, doi:10.1016/S0893-6080(00)00026-5.
    """

    n_components: int
    max_iter: int = 1000
    tol: float = 1e-4
    random_state: int = 0

    def fit(self, x: Float32[np.ndarray, "n m"], y: object = None) -> Self:
        self.fit_transform(x)
        return self

    def fit_transform(self, x: Float32[np.ndarray, "n m"], y: object = None) -> Float32[np.ndarray, "n k"]:
        pca = PCA(self.n_components, self.random_state)
        scores = pca.fit_transform(x)
        sources, mixing, self.n_iter_, self.converged_ = unmixed(scores, self.max_iter, self.tol, self.random_state)
        self.components_, self.mean_ = mixing @ pca.components_, pca.mean_
        return sources

    def transform(self, x: Float32[np.ndarray, "n m"]) -> Float32[np.ndarray, "n k"]:
        return (x - self.mean_) @ np.linalg.pinv(self.components_)

    def inverse_transform(self, sources: Float32[np.ndarray, "n k"]) -> Float32[np.ndarray, "n m"]:
        return sources @ self.components_ + self.mean_


def unmixed(
    scores: Float32[np.ndarray, "n k"], max_iter: int, tol: float, seed: int
) -> tuple[Float32[np.ndarray, "n k"], Float32[np.ndarray, "k k"], int, bool]:
    """Independent sources of PCA's scores, the matrix that mixes them (scores = sources @ mixing), iterations, converged.

    Scores that do not vary have no source: theirs are 0.
    """
    from sklearn.decomposition import FastICA
    from sklearn.exceptions import ConvergenceWarning

    size = np.sqrt(np.einsum("ij,ij->j", scores, scores, dtype=np.float64))
    varying = np.flatnonzero(size > NOTHING * max(size.max(initial=0), np.finfo(np.float32).tiny))
    sources, mixing = np.zeros_like(scores), np.zeros((scores.shape[1],) * 2, np.float32)
    if not len(varying):
        return sources, mixing, 0, True
    model = FastICA(len(varying), whiten="unit-variance", max_iter=max_iter, tol=tol, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = model.fit_transform(scores[:, varying].astype(np.float64))
    sources[:, : len(varying)] = found
    mixing[: len(varying), varying] = model.mixing_.T
    return sources, mixing, int(model.n_iter_), model.n_iter_ < max_iter


@dataclass
class KMeans(Estimator):
    """Clusters: each token is of the cluster whose centre is nearest. A row of `fit_transform(X)` is 1 at its cluster, else 0;
    `components_` are the centres less the mean of all tokens.

    Source: Lloyd 1982 from k-means++, Arthur & Vassilvitskii 2007.
    """

    n_components: int
    max_iter: int = 300
    random_state: int = 0

    def fit(self, x: Float32[np.ndarray, "n m"], y: object = None) -> Self:
        self.fit_transform(x)
        return self

    def fit_transform(self, x: Float32[np.ndarray, "n m"], y: object = None) -> Float32[np.ndarray, "n k"]:
        from sklearn.cluster import KMeans as SklearnKMeans
        from sklearn.exceptions import ConvergenceWarning

        model = SklearnKMeans(self.n_components, n_init=4, max_iter=self.max_iter, random_state=self.random_state)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # fewer different tokens than clusters
            model.fit(x)
        self.mean_ = np.asarray(x.mean(axis=0, dtype=np.float64), np.float32)
        self.components_ = np.asarray(model.cluster_centers_, np.float32) - self.mean_
        self.n_iter_, self.converged_ = int(model.n_iter_), model.n_iter_ < self.max_iter
        return one_hot(model.labels_, self.n_components)

    def transform(self, x: Float32[np.ndarray, "n m"]) -> Float32[np.ndarray, "n k"]:
        return one_hot(nearest(x - self.mean_, self.components_), self.n_components)

    def inverse_transform(self, clusters: Float32[np.ndarray, "n k"]) -> Float32[np.ndarray, "n m"]:
        return clusters @ self.components_ + self.mean_


def nearest(x: Float32[np.ndarray, "n m"], centres: Float32[np.ndarray, "k m"]) -> np.ndarray:
    """The number of the centre that is nearest to each row."""
    return np.argmin(np.einsum("ij,ij->i", centres, centres) - 2 * (x @ centres.T), axis=1)


def one_hot(labels: np.ndarray, k: int) -> Float32[np.ndarray, "n k"]:
    """A row for each label: 1 there, else 0."""
    return np.eye(k, dtype=np.float32)[labels]
