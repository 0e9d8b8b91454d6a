"""Saved factorizations: SQL has the arrays, joins them with everything else, and two who save at once lose nothing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import actlake
import numpy as np
import pandas as pd
import pytest
import stores
from actlake.errors import ActlakeError
from actlake.queries import FactorOptions, Factors, factorize
from actlake.queries.saved import factorization_of
from actlake.store import Commit, Location, Log, Reader, Snapshot, compact, gc, index, save_factorization, verify
from actlake.ui.corpus_factors import FactorsAddress, factorization_payload
from actlake.ui.factor_cards import corpus_factors_payload
from actlake.ui.notebook import html_of

LAYERS = (3, 0)
"""Of the generations, in an order of their own."""

TABLES = ("factorizations", "factor_tokens", "factor_neurons")
ROWS = ("tokens", "activation_vectors", "embeddings", "gradient_scores", "hidden_states", "layer_predictions")


@pytest.fixture
def location(tmp_path: Path) -> Location:
    """Three units of two generations, indexed but for the last."""
    location = Location.of(tmp_path / "store")
    stores.a_store(location, units=2)
    index(location)
    stores.capture_unit(location, [4, 5])
    return location


@pytest.fixture
def store(location: Location) -> actlake.Store:
    return actlake.open(location.uri)


def factors_of(store: actlake.Store, *generation_ids: int, k: int = 3) -> Factors:
    """Factors of several generations together."""
    x = np.concatenate([store.generation(number).activations(LAYERS) for number in generation_ids])
    ids = np.repeat(generation_ids, stores.N_TOKENS)
    positions = np.tile(np.arange(stores.N_TOKENS, dtype=np.int32), len(generation_ids))
    return replace(factorize(x, FactorOptions(k), layers=LAYERS), generation_id=ids, position=positions)


class TestWhatIsSaved:
    @pytest.mark.parametrize("negatives", ["clip", "split"])
    def test_the_tables_have_the_arrays(self, store: actlake.Store, negatives: str) -> None:
        factors = store.generation(1).factors(3, layers=LAYERS, negatives=negatives)
        factorization_id = store.save(factors)
        rows = store.sql("from factor_tokens order by position, factor").fetchnumpy()
        np.testing.assert_array_equal(rows["value"].reshape(factors.tokens.shape), factors.tokens)
        assert set(rows["generation_id"]) == {1}
        assert set(rows["factorization_id"]) == {factorization_id}
        rows = store.sql("from factor_neurons order by factor, layer desc, neuron").fetchnumpy()  # as LAYERS are
        np.testing.assert_array_equal(rows["weight"].reshape(factors.neurons.shape), factors.neurons)
        assert rows["neuron"].tolist() == [*range(stores.D_FF)] * len(LAYERS) * 3

    def test_a_row_says_what_was_factored_and_how(self, store: actlake.Store) -> None:
        factors = store.generation(2).factors(2, layers=[3], scale_layers=True, seed=5)
        store.save(factors, name="commas")
        (row,) = store.sql("from factorizations").to_arrow_table().to_pylist()
        assert set(json.loads(row.pop("versions"))) == {"actlake", "scikit-learn", "numpy"}
        assert row.pop("created_at") is not None
        assert row == {
            "factorization_id": 0,
            "name": "commas",
            "method": "nmf",
            "k": 2,
            "layers": [3],
            "d_ff": stores.D_FF,
            "n_tokens": stores.N_TOKENS,
            "slice": '{"generations": "2"}',
            "negatives": "split",
            "scale_layers": True,
            "seed": 5,
            "n_iterations": factors.n_iterations,
            "converged": factors.converged,
            "error": factors.error,
            "solver": "hals",
            "parameters": '{"init": "nndsvda", "tol": 0.0001, "max_iter": 500}',
            "explained": factors.explained.tolist(),
            "stability": None,
        }

    def test_factors_of_several_generations_are_saved_as_those_of_one(self, store: actlake.Store) -> None:
        factors = factors_of(store, 4, 0, 1)
        store.save(factors)
        assert store.factorizations()["slice"].tolist() == ['{"generations": "0-1,4"}']
        for generation_id, tokens in zip((4, 0, 1), np.split(factors.tokens, 3), strict=True):
            query = "select value from factor_tokens where generation_id = ? order by position, factor"
            found = store.sql(query, [generation_id]).fetchnumpy()["value"]
            np.testing.assert_array_equal(found.reshape(tokens.shape), tokens)

    def test_numbers_are_dense_and_what_is_saved_is_seen_at_once(self, store: actlake.Store) -> None:
        other = actlake.open(store.uri)
        factors = store.generation(0).factors(2)
        assert [store.save(factors), other.save(factors), store.save(factors, name="again")] == [0, 1, 2]
        assert store.factorizations()["factorization_id"].tolist() == [0, 1, 2]
        assert store.read_sql("select count(*) from factorizations").fetchall() == [(3,)]
        assert len(other.factorizations()) == 2
        assert len(other.refresh().factorizations()) == 3

    def test_they_survive_a_compaction_and_a_collection(self, location: Location, store: actlake.Store) -> None:
        for generation_id in range(4):
            store.save(store.generation(generation_id).factors(2 + generation_id))
        before = [store.sql(f"from {name} order by all").fetchall() for name in TABLES]
        compact(location)
        gc(location, grace_s=0)
        assert [len(store.refresh().snapshot.of(name)) for name in TABLES] == [1, 1, 1]
        assert [store.sql(f"from {name} order by all").fetchall() for name in TABLES] == before
        assert store.save(store.generation(0).factors(2)) == 4
        assert verify(location, deep=True).ok

    def test_a_layer_that_is_named_twice_is_factored_once(self, store: actlake.Store) -> None:
        store.save(store.generation(0).factors(2, layers=[3, 3]))
        assert store.factorizations()["layers"][0].tolist() == [3]
        assert verify(store.location).ok


class TestWhatCannotBeSaved:
    def refused(self, store: actlake.Store, factors: Factors, said: str) -> None:
        version = Log(store.location).newest()
        with pytest.raises(ActlakeError, match=said):
            store.save(factors)
        assert Log(store.location).newest() == version
        assert verify(store.location).unreferenced == ()

    def test_factors_of_an_array_are_not(self, store: actlake.Store) -> None:
        factors = factorize(store.generation(0).activations(LAYERS), FactorOptions(2), layers=LAYERS)
        self.refused(store, factors, r"in no store; make them with `store.generation\(…\).factors\(…\)`")

    def test_factors_of_a_generation_that_is_not_in_the_store_are_not(self, store: actlake.Store) -> None:
        factors = replace(store.generation(0).factors(2), generation_id=np.full(stores.N_TOKENS, 9))
        self.refused(store, factors, "no generation 9; this store holds 6, the last of them 5")

    @pytest.mark.parametrize(
        "changed",
        [
            lambda factors: replace(factors, position=factors.position + 1),
            lambda factors: replace(factors, layers=(0, 1)),
            lambda factors: replace(factors, components=factors.components[:, ::2]),
        ],
        ids=["more tokens", "another layer", "fewer neurons"],
    )
    def test_factors_of_other_tokens_layers_or_neurons_are_not(
        self, store: actlake.Store, changed: Callable[[Factors], Factors]
    ) -> None:
        factors = changed(store.generation(0).factors(2, negatives="clip"))
        self.refused(store, factors, "generation 0 of this store has other tokens, layers or neurons")

    def test_a_store_that_was_opened_at_a_commit_is_only_read(self, store: actlake.Store) -> None:
        before = actlake.open(store.uri, at=2)
        self.refused(before, before.generation(0).factors(2), "open it without `at` to save")

    def test_a_generation_that_came_since_the_store_was_opened_is(self, location: Location) -> None:
        early = actlake.open(location.uri)
        stores.capture_unit(location, [6])
        assert early.save(actlake.open(location.uri).generation(6).factors(2)) == 0


class Overtaken(Log):
    """A log on which another writer commits between the writing of files and their commit, for the first times."""

    def __init__(self, location: Location, *others: Callable[[], object]) -> None:
        super().__init__(location)
        self._others = list(others)

    def commit(self, build: Callable[[Snapshot], Commit | None]) -> Snapshot:
        def late(snapshot: Snapshot) -> Commit | None:
            commit = build(snapshot)
            if self._others:
                self._others.pop(0)()
            return commit

        return super().commit(late)


class TestSavingAtOnce:
    def test_who_loses_a_number_takes_the_next_and_leaves_no_file_behind(self, store: actlake.Store) -> None:
        mine, theirs = store.generation(0).factors(2), store.generation(1).factors(3)
        other = actlake.open(store.uri)
        saved: list[int] = []
        log = Overtaken(
            store.location,
            lambda: saved.append(other.save(theirs, name="theirs")),
            lambda: stores.capture_unit(store.location, [6]),  # which takes no number
            lambda: saved.append(other.save(theirs, name="theirs too")),
        )
        what = factorization_of(mine, "mine", store.snapshot, Reader(store.location))
        saved.append(save_factorization(log, what))
        assert saved == [0, 1, 2]
        assert store.refresh().factorizations()["name"].tolist() == ["theirs", "theirs too", "mine"]
        rows = store.sql("from factor_tokens where factorization_id = 2 order by position, factor").fetchnumpy()
        np.testing.assert_array_equal(rows["value"].reshape(mine.tokens.shape), mine.tokens)
        report = verify(store.location, deep=True)
        assert (report.problems, report.unreferenced) == ((), ())


@pytest.fixture
def joined(store: actlake.Store) -> tuple[actlake.Store, Factors]:
    """A store with three factorizations, and the second, of generations 0 and 3, in hand; its saliency is of scores."""
    vectors = [file.path for file in store.snapshot.of("gradients")]
    Log(store.location).commit(lambda _: Commit("drop", "drop", remove=vectors))
    store.refresh()
    store.save(store.generation(1).factors(2))
    factors = factors_of(store, 0, 3)
    assert store.save(factors, name="two generations") == 1
    store.save(factors_of(store, 2, 4, k=4))
    return store, factors


def frames(store: actlake.Store, factors: Factors) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The tokens that were factored, with the factor that is greatest at each and their texts; and each factor's top neuron."""
    tokens = pd.DataFrame({"generation_id": factors.generation_id, "position": factors.position})
    tokens["factor"], tokens["value"] = factors.tokens.argmax(1), factors.tokens.max(1)
    tokens["token"] = "t" + tokens["position"].astype(str)
    top = factors.neurons.argmax(1)
    neurons = pd.DataFrame({"layer": np.array(LAYERS)[top // stores.D_FF], "neuron": top % stores.D_FF})
    return tokens, neurons


TOP_NEURON = """
    with greatest as (
        select generation_id, position, arg_max(factor, value) as factor
        from factor_tokens
        where factorization_id = 1
        group by generation_id, position
    ),
    top as (
        select factor, arg_max(layer, weight) as layer, arg_max(neuron, weight) as neuron
        from factor_neurons
        where factorization_id = 1
        group by factor
    )
    select factor, token, avg(activation) as mean, count(*) as n
    from greatest
    join top using (factor)
    join activations using (generation_id, position, layer, neuron)
    join tokens using (generation_id, position)
    where generation_id between 0 and 3
    group by factor, token
    order by factor, token
"""
"""The mean activation of each factor's strongest neuron at the tokens where the factor is the greatest, by the tokens' texts."""

READ_FROM = """
    select output_position, factor, sum(share * value) as present
    from saliency
    join factor_tokens on saliency.generation_id = factor_tokens.generation_id and input_position = position
    where factorization_id = 1 and saliency.generation_id = 3
    group by all
    order by all
"""
"""How present each factor is in what each written token was read from."""


class TestJoins:
    def test_a_factors_neuron_at_the_factors_tokens_is_what_pandas_gives(
        self, joined: tuple[actlake.Store, Factors]
    ) -> None:
        store, factors = joined
        tokens, top = frames(store, factors)
        activations = {number: stores.a_generation(number).activations for number in (0, 3)}
        tokens["activation"] = [
            activations[row.generation_id][top.layer[row.factor]][row.position, top.neuron[row.factor]]
            for row in tokens.itertuples()
        ]
        expected = tokens.groupby(["factor", "token"]).activation.agg(["mean", "size"])
        found = store.sql(TOP_NEURON).df()
        assert list(zip(found["factor"], found["token"], strict=True)) == expected.index.tolist()
        np.testing.assert_allclose(found["mean"], expected["mean"], rtol=1e-6)
        assert found["n"].tolist() == expected["size"].tolist()
        assert found["factor"].nunique() > 1

    def test_saliency_weighted_by_factors_is_what_numpy_gives(self, joined: tuple[actlake.Store, Factors]) -> None:
        store, factors = joined
        values = factors.tokens[factors.generation_id == 3][:-1].astype(np.float64)
        expected = np.asarray(store.generation(3).saliency()) @ values
        found = store.sql(READ_FROM).fetchnumpy()["present"]
        np.testing.assert_allclose(found.reshape(expected.shape), expected, rtol=1e-5)

    @pytest.mark.parametrize(
        ("query", "generations"), [(TOP_NEURON, (0, 3)), (READ_FROM, (3, 3))], ids=["activations", "saliency"]
    )
    def test_a_join_opens_only_files_that_it_can_need(
        self, joined: tuple[actlake.Store, Factors], query: str, generations: tuple[int, int]
    ) -> None:
        store, _ = joined
        expected, wanted = store.sql(query).fetchall(), {"factorization_id": 1, "generation_id": generations}
        needed = {file.path for name in ("runs", *TABLES[1:], *ROWS) for file in store.snapshot.of(name, **wanted)}
        others = [file for path, file in store.snapshot.files.items() if path not in needed]
        assert {"factor_tokens", "factor_neurons", *ROWS} <= {file.table for file in others}
        for file in others:
            Path(store.location.full(file.path)).write_bytes(b"not to be opened")
        opened = actlake.open(store.uri)
        assert opened.sql(query).fetchall() == expected

    def test_the_sandbox_answers_as_sql_does(self, joined: tuple[actlake.Store, Factors]) -> None:
        store, _ = joined
        assert store.read_sql(TOP_NEURON).fetchall() == store.sql(TOP_NEURON).fetchall()


class TestDamage:
    @pytest.fixture
    def saved(self, location: Location) -> Location:
        stores.save_factors(location)
        assert verify(location, deep=True).ok
        return location

    @pytest.mark.parametrize(
        ("table", "problem"),
        [
            ("factor_tokens", "factorization 0 has 0 rows of factor_tokens, not 14"),
            ("factor_neurons", "factorization 0 has 0 rows of factor_neurons, not 48"),
            ("factorizations", "there are rows of factorization 0, which is not in factorizations"),
        ],
    )
    def test_rows_that_were_lost_are_found(self, saved: Location, table: str, problem: str) -> None:
        Log(saved).commit(lambda s: Commit("lose", "lose", remove=[s.of(table, factorization_id=0)[0].path]))
        assert verify(saved).problems == (problem,)

    def test_a_number_that_is_there_twice_is_found(self, saved: Location) -> None:
        (file,) = Log(saved).snapshot().of("factorizations", factorization_id=1)
        twin = replace(file, path=file.path.replace(".parquet", "-twin.parquet"))
        saved.put_if_absent(twin.path, saved.read(file.path))
        Log(saved).commit(lambda _: Commit("double", "double", [twin]))
        assert verify(saved).problems == ("factorization 1 is there 2 times",)

    def test_rows_of_a_generation_that_is_not_there_are_found(self, saved: Location) -> None:
        log = Log(saved)
        lost = [file.path for name in ("generations", *ROWS) for file in log.snapshot().of(name, generation_id=1)]
        log.commit(lambda _: Commit("lose", "lose", remove=lost))
        problems = verify(saved).problems
        assert "there are rows of factor_tokens of generation 1, which is not in generations" in problems


def test_what_an_older_version_did_not_keep_of_factors_is_said_to_be_unknown(location: Location) -> None:
    store = actlake.open(location.uri)
    number = store.save(store.factors(2))
    kept = store.factorization(number)
    stores.as_of_format(location, 4)
    opened = actlake.open(location.uri)
    assert verify(location, deep=True).ok
    old = opened.factorization(number)
    np.testing.assert_array_equal(old.tokens, kept.tokens)
    np.testing.assert_array_equal(old.neurons, kept.neurons)
    assert np.isnan(old.explained).all()
    assert old.stability is None
    assert "nan" not in repr(old).lower()
    for payload in (corpus_factors_payload(old), factorization_payload(opened, FactorsAddress(number))):
        assert [card["explained"] for card in payload["factorization"]["cards"]] == [None, None]
        assert json.loads(json.dumps(payload, allow_nan=False)) == payload
    assert html_of(old) is not None


def test_a_store_of_format_2_has_no_saved_factors_and_takes_some(location: Location) -> None:
    folder, parent = Path(location.root), ""
    for path in sorted((folder / "_log").glob("*.json")):
        body = json.loads(path.read_text()) | {"format": 2, "parent": parent}
        del body["checksum"]
        parent = hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
        path.write_text(json.dumps(body | {"checksum": parent}))
    store = actlake.open(location.uri)
    assert store.factorizations().empty
    for name in TABLES:
        assert store.read_sql(f"from {name}").fetchall() == store.connect().sql(f"from {name}").fetchall() == []
    assert store.save(store.generation(0).factors(2)) == 0
    assert len(actlake.open(location.uri).factorizations()) == 1
    assert verify(location, deep=True).ok
