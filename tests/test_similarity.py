"""Similarity of layers and of neurons, beside the plain formulas."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import Any

import actlake
import numpy as np
import pytest
import stores
from actlake.errors import ActlakeError, Cancelled, InvalidOption, UnknownLayer, UnknownNeuron
from actlake.queries.similarity import cka_of_layers
from actlake.store import Location


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> actlake.Store:
    location = Location.of(tmp_path_factory.mktemp("store"))
    stores.a_store(location, units=3, unit_size=3)
    return actlake.open(location.uri)


def values_of(layer: int) -> np.ndarray:
    """That store's activations at all tokens but the special ones."""
    return np.concatenate([(stores.a_generation(i).activations or {})[layer][1:] for i in range(9)])


def plain_cka(x: np.ndarray, y: np.ndarray) -> float:
    x, y = (a.astype(np.float64) - a.astype(np.float64).mean(axis=0) for a in (x, y))
    return float(np.linalg.norm(y.T @ x) ** 2 / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)))


def test_cka_is_that_of_the_formula(store: actlake.Store) -> None:
    found = store.layer_similarity()
    assert found.index.tolist() == found.columns.tolist() == list(stores.LAYERS)
    for one in stores.LAYERS:
        for other in stores.LAYERS:
            assert found.loc[one, other] == pytest.approx(plain_cka(values_of(one), values_of(other)), abs=1e-5)
    hidden = store.layer_similarity([3, -1], of="hidden_states")
    assert hidden.index.tolist() == [3, -1]
    assert hidden.loc[3, 3] == pytest.approx(1)


def test_cka_is_blind_to_rotation_and_scale_and_the_debiased_one_to_how_few_tokens_there_are() -> None:
    random = np.random.default_rng(0)
    x, other = (random.normal(size=(60, 400)).astype(np.float32) for _ in range(2))
    rotation = np.linalg.qr(random.normal(size=(400, 400)))[0].astype(np.float32)
    layers = {0: x, 1: 7 * x @ rotation + 3, 2: other}
    plain, fair = cka_of_layers(layers), cka_of_layers(layers, debiased=True)
    assert plain[0, 1] == pytest.approx(1, abs=1e-4)
    assert fair[0, 1] == pytest.approx(1, abs=1e-4)
    assert plain[0, 2] > 0.8
    assert abs(fair[0, 2]) < 0.1


def test_the_debiased_estimate_is_that_of_its_formula() -> None:
    random = np.random.default_rng(1)
    x = random.normal(size=(20, 5)).astype(np.float32)
    y = (x @ random.normal(size=(5, 7)) + random.normal(size=(20, 7))).astype(np.float32)

    def hsic(a: np.ndarray, b: np.ndarray) -> float:
        k, m = (each @ each.T * (1 - np.eye(20)) for each in (a.astype(np.float64), b.astype(np.float64)))
        ones = np.ones(20)
        return np.trace(k @ m) + ones @ k @ ones * (ones @ m @ ones) / (19 * 18) - 2 / 18 * ones @ k @ m @ ones

    expected = hsic(x, y) / np.sqrt(hsic(x, x) * hsic(y, y))
    assert cka_of_layers({0: x, 1: y}, debiased=True)[0, 1] == pytest.approx(expected, abs=1e-5)


def test_fewer_tokens_are_drawn_by_the_seed(store: actlake.Store) -> None:
    some = [store.layer_similarity(most_tokens=12, seed=seed).loc[0, 3] for seed in (1, 1, 2)]
    assert some[0] == some[1] != some[2]


def test_correlations_of_neurons_are_those_of_numpy(store: actlake.Store) -> None:
    found = store.neuron_similarity(3)
    np.testing.assert_allclose(found.to_numpy(), np.corrcoef(values_of(3).T), atol=1e-5)
    some = store.neuron_similarity(3, [7, 2], where="generation_id < 4")
    assert some.columns.tolist() == [2, 7]
    assert some.loc[2, 7] == pytest.approx(np.corrcoef(values_of(3)[:24, [2, 7]].T)[0, 1], abs=1e-5)


def test_what_cannot_be_compared_is_one_clear_error(store: actlake.Store) -> None:
    asks = [
        (lambda: store.layer_similarity([0, 9]), UnknownLayer),
        (lambda: store.layer_similarity(run_id=4), ActlakeError),
        (lambda: store.layer_similarity(most_tokens=3), InvalidOption),
        (lambda: store.layer_similarity(of="gradients"), InvalidOption),  # type: ignore[arg-type]
        (lambda: store.neuron_similarity(1), UnknownLayer),
        (lambda: store.neuron_similarity(0, [99]), UnknownNeuron),
        (lambda: store.neuron_similarity(0, []), InvalidOption),
    ]
    for ask, error in asks:
        with pytest.raises(error):
            ask()


def test_a_predicate_of_responding_reads_nothing_but_the_store(store: actlake.Store, tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("t1")
    with pytest.raises(ActlakeError, match="disabled"):
        store.responding(f"token = (select content from read_text('{secret}'))")


LONG: dict[str, Callable[[actlake.Store], Callable[..., Any]]] = {
    "layers": lambda store: store.layer_similarity,
    "neurons": lambda store: lambda **more: store.neuron_similarity(3, **more),
    "related": lambda store: lambda **more: store.neuron(3, 2).related(3, stores.LAYERS, **more),
    "responding": lambda store: lambda **more: store.responding("position % 3 = 1", **more),
}


@pytest.mark.parametrize("what", LONG)
def test_what_is_long_says_how_far_it_is_and_ends_when_it_is_told(store: actlake.Store, what: str) -> None:
    ask, said, cancel = LONG[what](store), [], Event()
    ask(on_progress=lambda *done: said.append(done))
    assert said == sorted(said)
    assert said
    assert said[-1][0] == said[-1][1]

    def after_the_first(done: int, total: int) -> None:
        assert not cancel.is_set(), "it went on"
        cancel.set()

    with pytest.raises(Cancelled, match="was cancelled; nothing of it was kept"):
        ask(cancel=cancel, on_progress=after_the_first)
    with pytest.raises(Cancelled):
        ask(cancel=cancel)
