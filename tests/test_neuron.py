"""One neuron over a corpus, beside NumPy on the numbers that the store was made of."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable
from pathlib import Path

import actlake
import numpy as np
import pandas as pd
import pytest
import stores
from actlake.errors import (
    GenerationNotFound,
    InvalidOption,
    QueryError,
    RunNotFound,
    SeveralModels,
    UnknownLayer,
    UnknownNeuron,
)
from actlake.queries import neuron_values
from actlake.store import Location, index

LAYER, NEURON = 3, 5
N_GENERATIONS = 6


@pytest.fixture(scope="session", params=["indexed", "not indexed", "half indexed"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> actlake.Store:
    """Six generations of seven tokens, the first of each special, the last three written."""
    location = Location.of(tmp_path_factory.mktemp("store"))
    stores.a_store(location, units=2)
    if request.param == "half indexed":
        index(location)
    stores.capture_unit(location, [4, 5])
    if request.param == "indexed":
        index(location)
    return actlake.open(location.uri)


@pytest.fixture(scope="session")
def expected() -> pd.DataFrame:
    """Every token of that store with the neuron's activation."""
    frames = []
    for number in range(N_GENERATIONS):
        made = stores.a_generation(number)
        positions = np.arange(stores.N_TOKENS)
        activation = (made.activations or {})[LAYER][:, NEURON]
        frames.append(
            pd.DataFrame(
                {"generation_id": number, "position": positions, "activation": activation, "token": made.tokens.token}
            )
        )
    return pd.concat(frames, ignore_index=True)


def pairs(frame: pd.DataFrame) -> list[tuple[int, int]]:
    return list(zip(frame["generation_id"].tolist(), frame["position"].tolist(), strict=True))


def test_its_values_are_those_that_were_captured_special_tokens_left_out(
    store: actlake.Store, expected: pd.DataFrame
) -> None:
    found = store.neuron(LAYER, NEURON).activations()
    wanted = expected[expected["position"] > 0]
    assert pairs(found) == pairs(wanted)
    assert found["activation"].tolist() == wanted["activation"].tolist()
    assert (
        store.neuron(LAYER, NEURON, special=True).activations()["activation"].tolist()
        == expected["activation"].tolist()
    )


def test_its_statistics_are_those_of_sql_and_of_numpy(store: actlake.Store, expected: pd.DataFrame) -> None:
    stats = store.neuron(LAYER, NEURON).stats
    values = expected.loc[expected["position"] > 0, "activation"].to_numpy(np.float64)
    assert stats == pytest.approx(
        {
            "n": len(values),
            "mean": values.mean(),
            "std": values.std(),
            "min": values.min(),
            "max": values.max(),
            "density": (values > 0).mean(),
        },
        rel=1e-12,
    )
    query = "select n, mean, std, min, max, density from neuron_stats where layer = ? and neuron = ?"
    with store.reading(query, [LAYER, NEURON]) as rows:
        assert rows.fetchall() == [pytest.approx(tuple(stats.values()), rel=1e-6)]


def test_its_examples_are_those_of_sql(store: actlake.Store) -> None:
    neuron = store.neuron(LAYER, NEURON)
    for sign in ("positive", "negative"):
        found = neuron.examples(sign, 9)
        query = """
            select generation_id, position, activation, token
            from neuron_examples join tokens using (generation_id, position)
            where layer = ? and neuron = ? and sign = ? and neuron_examples.rank <= 9 order by neuron_examples.rank
        """
        with store.reading(query, [LAYER, NEURON, sign]) as rows:
            assert list(found.itertuples(index=False, name=None)) == rows.fetchall()


def test_a_filter_recomputes_everything_from_the_values(store: actlake.Store, expected: pd.DataFrame) -> None:
    where = "token in ('t1', 't4', 't5') and generation_id < 4"
    chosen = expected[expected["position"].isin([1, 4, 5]) & (expected["generation_id"] < 4)]
    neuron = store.neuron(LAYER, NEURON, where=where)
    assert neuron.stats["n"] == 12
    assert neuron.stats["mean"] == pytest.approx(chosen["activation"].mean(), rel=1e-6)
    assert neuron.histogram["n"].sum() == 12
    strongest = chosen.sort_values("activation", ascending=False).head(3)
    assert pairs(neuron.examples(n=3)) == pairs(strongest)
    assert pairs(store.neuron(LAYER, NEURON).examples(n=3, where=where)) == pairs(strongest)
    written = store.neuron(LAYER, NEURON).activations(where, generated_only=True)
    assert pairs(written) == pairs(chosen[chosen["position"] >= 4])
    assert pairs(neuron.filtered("position = 1").activations()) == [(i, 1) for i in range(4)]


def test_a_histogram_counts_every_value_once(store: actlake.Store, expected: pd.DataFrame) -> None:
    neuron = store.neuron(LAYER, NEURON, special=True)
    histogram = neuron.binned(7)
    values = expected["activation"].to_numpy(np.float64)
    counts, edges = np.histogram(values, 7)
    assert histogram["n"].tolist() == counts.tolist()
    np.testing.assert_allclose(histogram["lower"], edges[:-1])
    np.testing.assert_allclose(histogram["upper"], edges[1:])
    assert len(neuron.histogram) == 40
    assert neuron.histogram["n"].sum() == len(values)


def test_quantile_bins_are_exact_and_draws_are_of_their_bin(store: actlake.Store, expected: pd.DataFrame) -> None:
    neuron = store.neuron(LAYER, NEURON)
    everything = neuron.quantile_examples(n_bins=5, per_bin=100)
    assert sorted(pairs(everything)) == pairs(neuron.activations())
    ordered = np.sort(expected.loc[expected["position"] > 0, "activation"].to_numpy())
    for number, part in enumerate(np.array_split(ordered, 5)):
        in_bin = everything[everything["bin"] == number]
        assert in_bin["activation"].tolist() == part[::-1].tolist()
        assert set(in_bin["lower"]) == {part[0]}
        assert set(in_bin["upper"]) == {part[-1]}
    drawn = neuron.quantile_examples(n_bins=5, per_bin=2, seed=3)
    assert drawn["bin"].tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert (drawn["lower"] <= drawn["activation"]).all()
    assert (drawn["activation"] <= drawn["upper"]).all()
    pd.testing.assert_frame_equal(drawn, neuron.quantile_examples(n_bins=5, per_bin=2, seed=3))
    assert pairs(drawn) != pairs(neuron.quantile_examples(n_bins=5, per_bin=2, seed=4))


def test_every_draw_of_a_bin_is_as_likely(store: actlake.Store) -> None:
    neuron = store.neuron(LAYER, NEURON)
    counts: dict[tuple[int, int], int] = {}
    for seed in range(300):
        for pair in pairs(neuron.quantile_examples(n_bins=6, per_bin=1, seed=seed).query("bin == 2")):
            counts[pair] = counts.get(pair, 0) + 1
    assert len(counts) == 6
    assert min(counts.values()) > 25


@pytest.mark.parametrize("most_texts", [0, 1000])
def test_examples_have_their_texts_however_large_the_corpus(
    store: actlake.Store, most_texts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neuron_values, "MOST_TEXTS", most_texts)
    found = actlake.open(store.uri).neuron(LAYER, NEURON).quantile_examples()
    assert found["token"].tolist() == [f"t{position}" for position in found["position"]]


def test_a_context_is_its_whole_generation(store: actlake.Store, expected: pd.DataFrame) -> None:
    neuron = store.neuron(LAYER, NEURON, where="position = 2")
    for number in (0, 5):
        wanted = expected[expected["generation_id"] == number]
        found = neuron.context(number)
        assert found["position"].tolist() == list(range(stores.N_TOKENS))
        assert found["token"].tolist() == wanted["token"].tolist()
        assert found["activation"].tolist() == wanted["activation"].tolist()
    both = neuron.contexts([5, 0, 5])
    assert pairs(both) == [(g, p) for g in (0, 5) for p in range(stores.N_TOKENS)]
    with pytest.raises(GenerationNotFound):
        neuron.context(77)


def test_related_neurons_are_those_that_numpy_finds(store: actlake.Store) -> None:
    made = [stores.a_generation(number) for number in range(N_GENERATIONS)]
    kept = np.tile(np.arange(stores.N_TOKENS) > 0, N_GENERATIONS)
    by_layer = {
        layer: np.concatenate([(each.activations or {})[layer] for each in made])[kept] for layer in stores.LAYERS
    }
    seen: list[tuple[int, int]] = []
    found = store.neuron(LAYER, NEURON).related(100, stores.LAYERS, on_progress=lambda *done: seen.append(done))
    n = int(kept.sum())  # tokens, of each layer
    assert (n, 2 * n) in seen
    assert seen[-1] == (2 * n, 2 * n)
    assert len(found) == 2 * stores.D_FF - 1
    for row in found.itertuples():
        r = np.corrcoef(by_layer[LAYER][:, NEURON], by_layer[row.layer][:, row.neuron])[0, 1]
        assert row.correlation == pytest.approx(r, abs=1e-5)
    assert found["correlation"].abs().is_monotonic_decreasing
    alone = store.neuron(LAYER, NEURON).related(3)
    assert alone["neuron"].tolist() == found[found["layer"] == LAYER]["neuron"].head(3).tolist()


def test_a_neuron_that_is_not_there_is_one_clear_error(store: actlake.Store) -> None:
    for ask, error in (
        (lambda: store.neuron(2, 0), UnknownLayer),
        (lambda: store.neuron(3, stores.D_FF), UnknownNeuron),
        (lambda: store.neuron(3, -1), UnknownNeuron),
        (lambda: store.neuron(3, 0, run_id=4), RunNotFound),
        (lambda: store.neuron(3, 0, where="nothing = 1"), QueryError),
        (lambda: store.neuron(3, 0, where="true) or (true"), QueryError),
        (lambda: store.neuron(3, 0).examples("up"), InvalidOption),  # type: ignore[arg-type]
        (lambda: store.neuron(3, 0).examples(n=0), InvalidOption),
        (lambda: store.neuron(3, 0).quantile_examples(per_bin=0), InvalidOption),
        (lambda: store.neuron(3, 0).related(layers=[1]), UnknownLayer),
    ):
        with pytest.raises(error):
            ask()


def test_a_selection_of_no_token_is_empty_everywhere(store: actlake.Store) -> None:
    neuron = store.neuron(LAYER, NEURON, where="false")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert neuron.stats["n"] == 0
        assert len(neuron.histogram) == len(neuron.examples()) == len(neuron.quantile_examples()) == 0
        assert len(neuron.related()) == 0
    assert list(neuron.quantile_examples().columns) == list(store.neuron(0, 0).quantile_examples().columns)


def test_a_predicate_reads_nothing_but_the_store(store: actlake.Store) -> None:
    with pytest.raises(QueryError, match="disabled"):
        store.neuron(LAYER, NEURON, where="(select count(*) from read_text('/etc/passwd')) > 0")


def test_runs_of_another_model_are_kept_apart(
    tmp_path: Path, model_saver: Callable[..., Path], toy_folder: Path
) -> None:
    sizes = {"num_hidden_layers": 2, "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 4}
    other = model_saver(tmp_path / "other", "LlamaConfig", **sizes, num_key_value_heads=2, max_position_embeddings=64)
    for folder in (toy_folder, other):
        actlake.capture(tmp_path / "s", str(folder), ["One, two,"], max_new_tokens=3, record=("activations",))
    store = actlake.open(tmp_path / "s")
    with pytest.raises(SeveralModels, match=r"run 0 is of .*; run 1 is of") as raised:
        store.neuron(1, 3)
    assert raised.value.runs == ((str(toy_folder), (0,)), (str(other), (1,)))
    copy = pickle.loads(pickle.dumps(raised.value))
    assert (str(copy), copy.runs) == (str(raised.value), raised.value.runs)
    assert store.neuron(1, 3, run_id=1).run_ids == (1,)
    assert store.neuron(1, 30).run_ids == (0,)
    assert store.neuron(2, 3).run_ids == (0,)
    assert set(store.neuron(1, 3, run_id=1).activations()["generation_id"]) == {1}
    with pytest.raises(SeveralModels, match=r"run 0 is of .*; run 1 is of"):
        store.responding("is_generated")
    of_both = store.sql(
        "select run_id, count(*) filter (is_generated) from tokens join generations using (generation_id) group by all"
    )
    n_written = dict(of_both.fetchall())
    assert set(store.responding("is_generated", run_id=1)["n_selected"]) == {n_written[1]}
    assert set(store.responding("is_generated", layers=[2])["n_selected"]) == {n_written[0]}


def test_of_some_neurons_those_that_were_recorded_are_there(tmp_path: Path, toy_folder: Path) -> None:
    options = {"max_new_tokens": 3, "record": ("activations",), "precision": "float32"}
    actlake.capture(tmp_path / "all", str(toy_folder), ["One, two,"], **options)
    actlake.capture(tmp_path / "some", str(toy_folder), ["One, two,"], neurons=(3, 30), every=2, **options)
    whole, part = (actlake.open(tmp_path / name) for name in ("all", "some"))
    every_second = whole.neuron(1, 30).activations("position % 2 = 0")
    pd.testing.assert_frame_equal(part.neuron(1, 30).activations(), every_second)
    with pytest.raises(UnknownNeuron, match="no neuron 4; each layer has neurons 0-39, of which 3,30 were recorded"):
        part.neuron(1, 4)
    context = part.neuron(1, 30).context(0)
    assert context["activation"].isna().tolist() == [position % 2 == 1 for position in context["position"]]
