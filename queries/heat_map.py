"""A layer's activations as a heat map: the neurons that vary most, in an order that puts like beside like."""

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float32, Int32, Int64

from ..errors import InvalidOption
from .display import Displayed

NeuronOrder = Literal["neuron", "agglomerative", "kmeans"]
NEURON_ORDERS: tuple[NeuronOrder, ...] = get_args(NeuronOrder)

MOST_DRAWN = 5000


@dataclass(frozen=True, repr=False)
class HeatMap(Displayed):
    """Activations of some neurons of a layer, [positions, neurons], float32, in the order to draw them.

    `neurons` are their numbers; `clusters` (None for `order="neuron"`) the cluster of each, those of one cluster side by side
    and numbered from the left; `position` the position of each row; `n_neurons` how many there were to choose from.
    """

    values: Float32[np.ndarray, "positions drawn"]
    neurons: Int32[np.ndarray, "drawn"]
    clusters: Int32[np.ndarray, "drawn"] | None
    position: Int32[np.ndarray, "positions"]
    layer: int
    order: NeuronOrder
    n_neurons: int
    generation: Any = field(default=None, compare=False)

    def __repr__(self) -> str:
        rows, columns = self.values.shape
        return f"HeatMap(layer {self.layer}, {rows} positions × {columns} of {self.n_neurons} neurons, order={self.order!r})"


def heat_map(
    activations: Float32[np.ndarray, "positions neurons"],
    neurons: Int32[np.ndarray, "neurons"],
    *,
    layer: int,
    position: Int32[np.ndarray, "positions"],
    order: NeuronOrder = "neuron",
    n_clusters: int = 8,
    most: int = 200,
    seed: int = 0,
) -> HeatMap:
    """The `most` neurons with the greatest variance over these positions (of equal ones the lower numbers), in order of their
    numbers, or of clusters.

    Neurons are clustered by the shape of their activations over positions, each less its mean and over its standard
    deviation: by Ward's method, drawn as the leaves of its tree (`agglomerative`), or by k-means from `seed` (`kmeans`).
    Clusters, and the branches of the tree, come in the order of the positions where they are strongest, so the same input
    and options give the same picture. Raises InvalidOption.
    Source: Ward 1963, doi:10.1080/01621459.1963.10500845; Arthur & Vassilvitskii 2007 (k-means++).
    """
    if order not in NEURON_ORDERS:
        raise InvalidOption("order", order, f"choose one of {', '.join(NEURON_ORDERS)}")
    if not 1 <= most <= MOST_DRAWN:
        raise InvalidOption("most", most, f"choose from 1 to {MOST_DRAWN} neurons")
    variance = activations.var(axis=0, dtype=np.float64) if len(activations) else np.zeros(len(neurons))
    drawn = np.sort(np.argsort(-variance, kind="stable")[:most])
    clusters = None
    if order != "neuron":
        least = 1 if len(activations) else 0
        if not least <= n_clusters <= len(drawn):
            raise InvalidOption("n_clusters", n_clusters, f"choose from 1 to {len(drawn)}, the neurons that are drawn")
        shapes = _standardised(activations[:, drawn]).T  # (neuron, position)
        cluster = _agglomerative if order == "agglomerative" else _kmeans
        places, clusters = cluster(shapes, n_clusters, seed)
        drawn = drawn[places]
    return HeatMap(
        values=np.ascontiguousarray(activations[:, drawn]),
        neurons=neurons[drawn],
        clusters=clusters,
        position=position,
        layer=layer,
        order=order,
        n_neurons=len(neurons),
    )


_Clustered = tuple[Int64[np.ndarray, "drawn"], Int32[np.ndarray, "drawn"]]
"""Neurons in the order to draw them, and the cluster of each."""


def _standardised(activations: Float32[np.ndarray, "positions drawn"]) -> Float32[np.ndarray, "positions drawn"]:
    centred = activations - activations.mean(axis=0)
    deviation = centred.std(axis=0)
    deviation[deviation == 0] = 1
    return centred / deviation


def _agglomerative(shapes: Float32[np.ndarray, "drawn positions"], n_clusters: int, seed: int) -> _Clustered:
    from sklearn.cluster import AgglomerativeClustering  # here, because it takes longer to import than a store to open

    if len(shapes) == 1:
        return np.zeros(1, np.int64), np.zeros(1, np.int32)
    model = AgglomerativeClustering(n_clusters, linkage="ward", compute_full_tree=True).fit(shapes)
    sums: list[np.ndarray] = list(shapes)
    leaves: list[list[int]] = [[leaf] for leaf in range(len(shapes))]
    for left, right in model.children_.tolist():
        first, then = sorted((left, right), key=lambda branch: (_peak(sums[branch]), leaves[branch][0]))
        leaves.append(leaves[first] + leaves[then])
        sums.append(sums[left] + sums[right])
        leaves[left], leaves[right] = leaves[left][:1], leaves[right][:1]  # what is merged is not needed whole
    places = np.array(leaves[-1], np.int64)
    return places, _numbered(model.labels_[places])


def _kmeans(shapes: Float32[np.ndarray, "drawn positions"], n_clusters: int, seed: int) -> _Clustered:
    from sklearn.cluster import KMeans

    labels = KMeans(n_clusters, n_init=4, random_state=seed).fit(shapes).labels_
    peaks = {label: _peak(shapes[labels == label].sum(axis=0)) for label in np.unique(labels).tolist()}
    first = {label: int(np.flatnonzero(labels == label)[0]) for label in peaks}
    order = sorted(peaks, key=lambda label: (peaks[label], first[label]))
    places = np.concatenate([np.flatnonzero(labels == label) for label in order])
    return places, _numbered(labels[places])


def _peak(shape: Float32[np.ndarray, "positions"]) -> int:
    """The position where it is strongest."""
    return int(np.argmax(shape)) if len(shape) else 0


def _numbered(labels: np.ndarray) -> Int32[np.ndarray, "drawn"]:
    """Labels, those of one cluster side by side, numbered from the left."""
    return np.cumsum([0, *(labels[1:] != labels[:-1])]).astype(np.int32)
