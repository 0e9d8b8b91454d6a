"""Heat maps of a layer: which neurons, in which order."""

from __future__ import annotations

import actlake
import numpy as np
import pytest
from actlake.errors import InvalidOption, UnknownLayer
from actlake.queries.heat_map import HeatMap, NeuronOrder, heat_map


def drawn(values: np.ndarray, order: NeuronOrder = "neuron", **options: int) -> HeatMap:
    numbers = np.arange(10, 10 + values.shape[1], dtype=np.int32)
    position = np.arange(len(values), dtype=np.int32)
    return heat_map(values.astype(np.float32), numbers, layer=3, position=position, order=order, **options)


def three_kinds(n_each: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Neurons that fire early, late and in the middle, shuffled, each with its own scale; and the kind of each."""
    random = np.random.default_rng(0)
    at = np.arange(12)
    bumps = np.stack([np.exp(-((at - centre) ** 2) / 2.0) for centre in (2, 10, 6)])
    kinds = random.permutation(np.repeat([0, 1, 2], n_each))
    values = bumps[kinds] * random.uniform(1, 9, len(kinds))[:, None] + random.normal(0, 0.01, (len(kinds), 12))
    return values.T, kinds


@pytest.mark.parametrize("order", ["agglomerative", "kmeans"])
def test_clusters_are_of_like_shapes_whatever_their_scale_and_stand_where_they_are_strongest(
    order: NeuronOrder,
) -> None:
    values, kinds = three_kinds()
    found = drawn(values, order, n_clusters=3)
    assert found.clusters is not None
    assert found.clusters.tolist() == [0] * 5 + [1] * 5 + [2] * 5
    assert [kinds[number - 10] for number in found.neurons] == [0] * 5 + [2] * 5 + [1] * 5
    assert sorted(found.neurons.tolist()) == list(range(10, 25))
    np.testing.assert_array_equal(found.values, values.astype(np.float32)[:, found.neurons - 10])


def test_neurons_that_vary_most_are_drawn_in_the_order_of_their_numbers() -> None:
    values = np.array([[0, 1, 2, 0, 5], [0, 2, 0, 0, 0], [0, 3, 4, 0, 1]])
    found = drawn(values, most=2)
    assert found.neurons.tolist() == [12, 14]
    assert found.n_neurons == 5
    assert found.clusters is None
    assert found.values.tolist() == [[2, 5], [0, 0], [4, 1]]
    assert drawn(np.zeros((3, 5)), most=2).neurons.tolist() == [10, 11]


@pytest.mark.parametrize("order", ["agglomerative", "kmeans"])
def test_the_same_input_is_the_same_picture(order: NeuronOrder) -> None:
    values = np.random.default_rng(1).normal(size=(9, 40))
    one, other = (drawn(values, order, n_clusters=6, most=30) for _ in range(2))
    assert one.neurons.tolist() == other.neurons.tolist()
    assert len(set(one.neurons.tolist())) == 30
    assert (one.clusters == other.clusters).all()
    assert drawn(values[:, :1], order, n_clusters=1).neurons.tolist() == [10]


def test_ward_clusters_are_the_leaves_of_scipys_tree() -> None:
    from scipy.cluster.hierarchy import fcluster, linkage

    values = np.random.default_rng(2).normal(size=(7, 25))
    found = drawn(values, "agglomerative", n_clusters=5)
    shapes = ((values - values.mean(0)) / values.std(0)).T
    labels = fcluster(linkage(shapes, "ward"), 5, "maxclust")
    assert found.clusters is not None
    mine = dict(zip((found.neurons - 10).tolist(), found.clusters.tolist(), strict=True))
    pairs = {(int(labels[neuron]), cluster) for neuron, cluster in mine.items()}
    assert len(pairs) == 5


@pytest.mark.parametrize(
    "options",
    [{"most": 0}, {"most": 10**6}, {"n_clusters": 0, "order": "kmeans"}, {"n_clusters": 9, "order": "kmeans"}],
)
def test_what_cannot_be_drawn_is_an_error(options: dict[str, int]) -> None:
    with pytest.raises(InvalidOption):
        drawn(np.random.default_rng(0).normal(size=(3, 8)), **options)


def test_a_generation_draws_its_layer(opened: actlake.Store) -> None:
    generation = opened.generation(1)
    found = generation.heat_map(2, "kmeans", n_clusters=3, most=12)
    assert found.values.shape == (generation.n_tokens, 12)
    assert (found.layer, found.order, found.n_neurons) == (2, "kmeans", 40)
    np.testing.assert_array_equal(found.values, generation.activations([2])[:, found.neurons])
    assert found.position.tolist() == list(range(generation.n_tokens))
    with pytest.raises(UnknownLayer):
        generation.heat_map(9)
