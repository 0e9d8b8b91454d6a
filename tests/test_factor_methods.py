"""Factors by every method: laws that all of them keep, what is saved is what is loaded, and what cannot be done is said."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from threading import Event

import actlake
import numpy as np
import pytest
import stores
from actlake.errors import Cancelled, FactorizationNotFound, GenerationNotFound, InvalidOption, QueryError, UnknownLayer
from actlake.queries import FACTOR_METHODS, FactorMethod, FactorOptions, Factors, factorize
from actlake.store import Location, verify

LAYERS = (3, 0)
"""Of the generations, in an order of their own."""


@pytest.fixture(scope="module")
def location(tmp_path_factory: pytest.TempPathFactory) -> Location:
    location = Location.of(tmp_path_factory.mktemp("stores") / "store")
    stores.a_store(location, units=3)
    return location


@pytest.fixture
def store(location: Location) -> actlake.Store:
    return actlake.open(location.uri)


def matrix(factors: Factors, store: actlake.Store) -> np.ndarray:
    """What was factored, from the store's own arrays."""
    x = np.concatenate([store.generation(number).activations(factors.layers) for number in range(6)])
    if factors.negatives == "split":
        return np.concatenate([np.maximum(x, 0), np.maximum(-x, 0)], axis=1)
    return np.maximum(x, 0) if factors.negatives == "clip" else x


@pytest.mark.parametrize("method", FACTOR_METHODS)
class TestEveryMethod:
    def test_its_error_and_shares_are_those_of_the_product(self, store: actlake.Store, method: FactorMethod) -> None:
        factors = store.factors(3, LAYERS, method=method)
        x = matrix(factors, store).astype(np.float64)
        x -= 0 if factors.mean is None else factors.mean
        rest = x - factors.tokens.astype(np.float64) @ factors.components
        assert factors.error == pytest.approx(np.linalg.norm(rest) / np.linalg.norm(x), rel=1e-5)
        assert factors.explained.sum() == pytest.approx(1 - factors.error**2, rel=1e-4)
        assert (np.diff(factors.explained) <= 0).all()

    def test_lengths_and_signs_are_fixed(self, store: actlake.Store, method: FactorMethod) -> None:
        factors = store.factors(3, LAYERS, method=method)
        if method != "kmeans":
            np.testing.assert_allclose(np.linalg.norm(factors.components, axis=1), 1, rtol=1e-5)
            greatest = np.abs(factors.components).argmax(axis=1)
            assert (factors.components[np.arange(3), greatest] > 0).all()
        if method in ("nmf", "kmeans"):
            assert (factors.tokens >= 0).all()

    def test_the_same_seed_gives_the_same_factors(self, store: actlake.Store, method: FactorMethod) -> None:
        one, two = (store.factors(3, LAYERS, method=method, seed=5) for _ in range(2))
        np.testing.assert_array_equal(one.tokens, two.tokens)
        np.testing.assert_array_equal(one.components, two.components)

    def test_what_is_saved_is_what_is_loaded(self, tmp_path: Path, method: FactorMethod) -> None:
        stores.a_store(Location.of(tmp_path), units=2)
        store = actlake.open(tmp_path)
        options = {"positions": "generated", "where": "rank > 1", "scale_layers": True}
        factors = store.factors(2, LAYERS, method=method, reruns=0 if method == "pca" else 2, **options)
        number = store.save(factors, name="all")
        loaded = actlake.open(tmp_path).factorization(number)
        for field in [field for field in fields(Factors) if field.compare]:
            before, after = getattr(factors, field.name), getattr(loaded, field.name)
            np.testing.assert_array_equal(after, before, err_msg=field.name)
            assert type(after) is type(before) or isinstance(after, np.ndarray), field.name
        assert loaded.store.location.uri == factors.store.location.uri
        assert (factors.factorization_id, loaded.factorization_id) == (None, number)
        assert verify(store.location, deep=True).ok

    def test_a_corpus_of_one_generation_is_the_generation(self, store: actlake.Store, method: FactorMethod) -> None:
        one, other = store.factors(2, LAYERS, method=method, generations=[4]), store.generation(4)
        alone = other.factors(2, LAYERS, method=method)
        np.testing.assert_array_equal(one.tokens, alone.tokens)
        np.testing.assert_array_equal(one.neurons, alone.neurons)
        assert one.generation_id.tolist() == alone.generation_id.tolist()

    def test_silence_has_factors_that_explain_nothing(self, store: actlake.Store, method: FactorMethod) -> None:
        factors = factorize(np.zeros((6, 8), np.float32), FactorOptions(2, method), layers=[0])
        assert factors.error == 0
        assert not factors.explained.any()
        assert np.isfinite(factors.tokens).all()
        assert np.isfinite(factors.components).all()

    def test_it_can_be_cancelled(self, store: actlake.Store, method: FactorMethod) -> None:
        cancel = Event()
        cancel.set()
        with pytest.raises(Cancelled):
            store.factors(2, method=method, cancel=cancel)


class TestTheSlice:
    def test_positions_and_where_choose_tokens(self, store: actlake.Store) -> None:
        factors = store.factors(2, positions="generated", where="rank > 4", generations=[1, 5])
        rows = list(zip(factors.generation_id.tolist(), factors.position.tolist(), strict=True))
        assert rows == [(1, 5), (1, 6), (5, 5), (5, 6)]
        assert store.factors(2, positions="prompt", generations=[2]).position.tolist() == [0, 1, 2, 3]
        assert store.generation(2).factors(2, positions="generated").position.tolist() == [4, 5, 6]

    def test_a_condition_is_confined(self, store: actlake.Store) -> None:
        for hostile in (
            "true) union all (select 1, 2",
            "1 = 1; select 1",
            "exists (select 1 from read_text('/etc/passwd'))",
        ):
            with pytest.raises(QueryError):
                store.factors(2, where=hostile)

    def test_what_is_not_there_is_one_clear_error(self, store: actlake.Store) -> None:
        with pytest.raises(GenerationNotFound, match="no generation 9; this store holds 6"):
            store.factors(2, generations=[1, 9])
        with pytest.raises(UnknownLayer, match="no layer 1; there are layers 0,3"):
            store.factors(2, [1])
        with pytest.raises(InvalidOption, match="nothing to factor"):
            store.factors(2, where="rank > 100")
        with pytest.raises(InvalidOption, match="choose from 1 to 7"):
            store.generation(0).factors(8)
        with pytest.raises(FactorizationNotFound, match="no factorization 0; this store holds none yet"):
            store.factorization(0)

    @pytest.mark.parametrize(
        "wrong",
        [
            {"k": 0},
            {"method": "magic"},
            {"negatives": "drop"},
            {"negatives": "keep"},
            {"method": "pca", "negatives": "split"},
            {"positions": "some"},
            {"solver": "magic"},
            {"seed": -1},
            {"reruns": -1},
            {"method": "pca", "reruns": 1},
        ],
    )
    def test_an_option_that_cannot_be_used_is_named(self, store: actlake.Store, wrong: dict[str, object]) -> None:
        with pytest.raises(InvalidOption, match=next(reversed(wrong))):
            store.factors(**{"k": 2, **wrong})


def test_one_loud_neuron_does_not_decide_what_becomes_of_negatives(store: actlake.Store) -> None:
    x = np.random.default_rng(0).standard_normal((20, 3 * 8)).astype(np.float32)
    x[0, 5] = 1000
    assert factorize(x, FactorOptions(2), layers=[0, 1, 2]).negatives == "split"
    assert factorize(np.abs(x), FactorOptions(2), layers=[0, 1, 2]).negatives == "clip"


def test_the_strongest_tokens_and_neurons_come_first(store: actlake.Store) -> None:
    factors = store.factors(3, LAYERS, method="pca")
    top = factors.top_tokens(1, 4)
    assert np.abs(top["value"]).tolist() == sorted(np.abs(factors.tokens[:, 1]).tolist())[:-5:-1]
    for row in top.itertuples():
        place = np.flatnonzero((factors.generation_id == row.generation_id) & (factors.position == row.position))
        assert factors.tokens[place[0], 1] == np.float32(row.value)
    neurons = factors.top_neurons(1, 100)
    assert len(neurons) == len(LAYERS) * stores.D_FF
    for row in neurons.itertuples():
        column = LAYERS.index(row.layer) * stores.D_FF + row.neuron
        assert factors.neurons[1, column] == np.float32(row.weight)
    with pytest.raises(InvalidOption, match="there are factors 0 to 2"):
        factors.top_neurons(3)
