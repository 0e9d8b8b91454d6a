"""Runs that record some neurons or some positions alone: what they have is exactly what a full run has there."""

from __future__ import annotations

import base64
import json
import pickle
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import actlake
import duckdb
import numpy as np
import pandas as pd
import pytest
from actlake.capture import CaptureOptions, Model, Plan, byte_budget, load_model, make_plan, prompts_from, refusal
from actlake.capture.allowance import Allowance
from actlake.capture.procedure import Procedure
from actlake.capture.registration import register, run_key, run_row
from actlake.capture.units import Units
from actlake.cli import cli
from actlake.errors import ActlakeError, InvalidOption, TooManyBytes, UnknownNeuron
from actlake.queries.connection import _bytes
from actlake.queries.neurons import neuron_numbers
from actlake.store import Location, Log, Positions, Reservation, compact, index, verify
from actlake.ui.strip import factors_payload
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

KEYS = ["generation_id", "position", "layer", "neuron", "activation"]
N_PROMPTS, LAYERS, D_FF = 5, (0, 1, 2), 40
NEURONS = {0: tuple(range(D_FF)), 1: (1, 5, 39), 2: (5, 38, 39)}
"""Those of each run of the store."""

POSITIONS = {0: Positions(), 1: Positions(every=2), 2: Positions(only_generated=True)}


@pytest.fixture(scope="module")
def folder(toy_model: Model, toy_prompts: list[Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A full run, one of some neurons at every other position, and one of some at written positions that is not indexed."""
    path, same = tmp_path_factory.mktemp("stores") / "mixed", {"max_new_tokens": 6, "batch_size": 2}
    actlake.capture(path, toy_model, toy_prompts, precision="float32", **same)
    actlake.capture(path, toy_model, toy_prompts, precision="float32", neurons=[39, 1, 5], every=2, **same)
    some = {"neurons": NEURONS[2], "only_generated": True, "index": False}
    actlake.capture(path, toy_model, toy_prompts, precision="float32", **some, **same)
    return path


@pytest.fixture
def store(folder: Path) -> actlake.Store:
    return actlake.open(folder)


@pytest.fixture(scope="module")
def expected(folder: Path) -> pd.DataFrame:
    """Every row that there must be, taken from the vectors of the full run alone."""
    full, rows = actlake.open(folder), []
    for generation_id in range(3 * N_PROMPTS):
        run_id, same = divmod(generation_id, N_PROMPTS)
        generation = full.generation(same)
        activations = generation.activations().reshape(-1, len(LAYERS), D_FF)
        for position in POSITIONS[run_id].of(generation.n_prompt_tokens, generation.n_tokens).tolist():
            for layer, values in enumerate(activations[position]):
                rows += [(run_id, generation_id, position, layer, n, float(values[n])) for n in NEURONS[run_id]]
    return pd.DataFrame(rows, columns=["run_id", *KEYS])


def values_of(rows: pd.DataFrame) -> list[tuple[Any, ...]]:
    return sorted(rows[KEYS].itertuples(index=False, name=None))


@given(st.integers(1, 5), st.booleans(), st.integers(0, 12), st.integers(0, 12))
def test_positions_are_those_that_every_divides_and_as_many_as_they_say(
    every: int, only_generated: bool, n_prompt_tokens: int, n_written: int
) -> None:
    positions, n = Positions(every, only_generated), n_prompt_tokens + n_written
    first = n_prompt_tokens if only_generated else 0
    assert positions.of(n_prompt_tokens, n).tolist() == [t for t in range(first, n) if t % every == 0]
    assert positions.count(n_prompt_tokens, n) == len(positions.of(n_prompt_tokens, n))
    assert Positions.of_run({"generation_config": json.dumps(positions.config)}) == positions


class TestSql:
    @pytest.mark.parametrize("view", ["activations", "by_token.activations", "by_neuron.activations"])
    @pytest.mark.parametrize(
        "where",
        ["true", "neuron = 39", "layer = 1 and neuron = 5", "neuron = 2", "generation_id in (6, 12)", "neuron > 37"],
    )
    def test_every_path_has_the_full_runs_values_under_true_numbers(
        self, store: actlake.Store, expected: pd.DataFrame, view: str, where: str
    ) -> None:
        wanted = expected.query(where.replace("true", "index >= 0").replace(" = ", " == "))
        assert len(wanted)
        assert values_of(store.sql(f"select {', '.join(KEYS)} from {view} where {where}").df()) == values_of(wanted)

    def test_a_neuron_that_no_run_has_is_no_row(self, store: actlake.Store) -> None:
        assert store.sql("from activations where neuron = 40").fetchall() == []

    def test_the_sandbox_a_connection_and_a_script_without_actlake_say_the_same(
        self, store: actlake.Store, expected: pd.DataFrame
    ) -> None:
        query = f"select {', '.join(KEYS)} from activations where layer = 2 and generation_id >= 4"
        wanted = values_of(expected.query("layer == 2 and generation_id >= 4"))
        with store.read_sql(query) as rows:
            assert sorted(rows.fetchall()) == wanted
        assert sorted(store.connect().sql(query).fetchall()) == wanted
        plain = duckdb.connect()
        for _ in range(2):
            plain.execute(store.views_script())
        assert sorted(plain.sql(query).fetchall()) == wanted
        assert sorted(plain.sql(query.replace("from ", "from by_neuron.")).fetchall()) == wanted

    def test_statistics_and_examples_are_of_what_was_recorded(
        self, store: actlake.Store, expected: pd.DataFrame
    ) -> None:
        special = store.sql("select generation_id, position from tokens where is_special").df()
        assert special.empty  # else they were to be left out here
        groups = expected.groupby(["run_id", "layer", "neuron"]).activation
        found = store.sql("select run_id, layer, neuron, n, min, max, mean from neuron_stats order by all").df()
        assert list(found[["run_id", "layer", "neuron"]].itertuples(index=False, name=None)) == list(groups.groups)
        for name, values in (("n", groups.size()), ("min", groups.min()), ("max", groups.max())):
            np.testing.assert_array_equal(found[name], values)
        np.testing.assert_allclose(found["mean"], groups.mean(), rtol=1e-6, atol=1e-9)
        first = store.sql(
            "from neuron_examples where rank = 1 and sign = 'positive' order by run_id, layer, neuron"
        ).df()
        best = groups.max()[groups.max() > 0]
        assert list(first[["run_id", "layer", "neuron"]].itertuples(index=False, name=None)) == list(best.index)
        np.testing.assert_array_equal(first["activation"], best)

    def test_where_all_neurons_were_recorded_the_plan_has_neither_a_join_nor_a_case(
        self, opened: actlake.Store, store: actlake.Store
    ) -> None:
        assert neuron_numbers([]) == ""
        query = "explain from by_token.activations where generation_id = 0 and layer = 1"
        ((_, plan),) = opened.sql(query).fetchall()
        assert "JOIN" not in plan.upper()
        assert "CASE" not in plan.upper()
        ((_, mixed),) = store.sql(query).fetchall()
        assert "JOIN" not in mixed.upper()

    def test_a_path_costs_what_its_share_of_neurons_costs(self, store: actlake.Store) -> None:
        (some,) = {file.ranges["neuron"] for file in store.snapshot.of("neuron_vectors", neuron=39)} - {(0, 39)}
        assert some == (1, 39)
        for file in store.snapshot.of("neuron_vectors", layer=0):
            n_neurons = 3 if file.ranges["neuron"] == some else D_FF
            assert _bytes(file, {"neuron": (5, 5)}) == pytest.approx(file.bytes / n_neurons)
            assert _bytes(file, {"layer": (0, 0)}) == file.bytes

    @pytest.mark.parametrize("neuron", [1, 2, 39])
    def test_the_reader_in_the_formats_page_reads_one_neuron(
        self, folder: Path, expected: pd.DataFrame, neuron: int
    ) -> None:
        page = Path(__file__).parent.parent.joinpath("docs", "format.md").read_text()
        names: dict[str, Any] = {}
        exec(re.findall(r"```python\n(.*?)```", page, re.DOTALL)[0], names)
        rows = expected.query("layer == 1 and neuron == @neuron")
        assert names["neuron"](folder, 1, neuron) == {
            (row.generation_id, row.position): row.activation for row in rows.itertuples()
        }

    def test_compaction_and_another_index_change_no_answer(
        self, folder: Path, expected: pd.DataFrame, tmp_path: Path
    ) -> None:
        location = Location.of(shutil.copytree(folder, tmp_path / "s"))
        for step in (compact, index, compact, lambda where: index(where, rebuild=True)):
            step(location)
            store = actlake.open(location.uri)
            for view in ("by_token.activations", "by_neuron.activations"):
                assert values_of(store.sql(f"from {view}").df()) == values_of(expected)
            assert verify(location, deep=True).problems == ()


class TestArrays:
    @pytest.mark.parametrize("generation_id", range(3 * N_PROMPTS))
    def test_a_generation_says_which_positions_and_neurons_its_matrix_has(
        self, store: actlake.Store, generation_id: int
    ) -> None:
        run_id, same = divmod(generation_id, N_PROMPTS)
        generation, full = store.generation(generation_id), store.generation(same)
        assert tuple(generation.neurons) == NEURONS[run_id]
        positions = generation.layer_positions
        np.testing.assert_array_equal(positions, POSITIONS[run_id].of(full.n_prompt_tokens, full.n_tokens))
        whole = full.activations([2, 0]).reshape(full.n_tokens, 2, D_FF)
        expected = whole[positions][:, :, NEURONS[run_id]].reshape(len(positions), 2 * len(NEURONS[run_id]))
        np.testing.assert_array_equal(generation.activations([2, 0]), expected)
        np.testing.assert_array_equal(generation.embeddings(), full.embeddings())
        np.testing.assert_array_equal(generation.saliency(), full.saliency())

    def test_batches_have_the_numbers_of_their_columns(self, store: actlake.Store, expected: pd.DataFrame) -> None:
        rows = []
        for batch in store.batches("activation_vectors", layer=(0, 2)):
            keys = zip(*(batch.keys[name].tolist() for name in KEYS[:3]), strict=True)
            for key, vector in zip(keys, batch.vectors.tolist(), strict=True):
                rows += [(*key, neuron, value) for neuron, value in zip(batch.neurons.tolist(), vector, strict=True)]
        assert sorted(rows) == values_of(expected)

    def test_neurons_respond_where_they_were_recorded(self, store: actlake.Store, expected: pd.DataFrame) -> None:
        tokens = store.sql(
            "select generation_id, position, token like '%, %' or token = ',' as selected from tokens"
        ).df()
        rows = expected.merge(tokens, on=["generation_id", "position"])
        found = store.responding("token like '%, %' or token = ','").set_index(["layer", "neuron"])
        for key, group in rows.groupby(["layer", "neuron"]):
            of = {kind: part.activation for kind, part in group.groupby("selected")}
            assert found.loc[key, "n_selected"] == len(of[True])
            np.testing.assert_allclose(found.loc[key, "mean_selected"], of[True].mean(), rtol=1e-4, atol=1e-6)
            np.testing.assert_allclose(found.loc[key, "mean_others"], of[False].mean(), rtol=1e-4, atol=1e-6)
        assert set(found.index) == {(layer, neuron) for layer in LAYERS for neuron in range(D_FF)}

    def test_a_predicate_that_holds_at_no_recorded_position_is_an_error(self, store: actlake.Store) -> None:
        with pytest.raises(InvalidOption, match="at none, or at all, of the positions whose activations were recorded"):
            store.responding("not is_generated", run_id=2)


class TestFactors:
    def test_saved_factors_have_true_positions_and_neurons(self, folder: Path, tmp_path: Path) -> None:
        store = actlake.open(shutil.copytree(folder, tmp_path / "s"))
        generation = store.generation(10)
        factors = generation.factors(2, layers=[2, 0])
        store.save(factors)
        weights = store.sql("from factor_neurons order by factor, layer desc, neuron").df()
        assert weights["neuron"].tolist() == [*NEURONS[2]] * 4
        np.testing.assert_array_equal(weights["weight"], factors.neurons.ravel())
        values = store.sql("from factor_tokens order by position, factor").df()
        assert values["position"].unique().tolist() == list(range(generation.n_prompt_tokens, generation.n_tokens))
        np.testing.assert_array_equal(values["value"], factors.tokens.ravel())
        assert verify(store.location, deep=True).problems == ()

    def test_factors_of_other_neurons_are_refused(self, store: actlake.Store) -> None:
        factors = store.generation(10).factors(1)
        with pytest.raises(InvalidOption, match="other tokens, layers or neurons"):
            store.save(replace(factors, neuron=factors.neuron + 1))

    def test_a_token_that_was_not_recorded_has_no_value_in_the_strip(self, store: actlake.Store) -> None:
        generation = store.generation(5)
        factors = generation.factors(2)
        text = factors_payload(generation, factors)["factors"]["values"]
        drawn = np.frombuffer(base64.b64decode(text), "<f4").reshape(generation.n_tokens, 2)
        np.testing.assert_array_equal(drawn[::2], factors.tokens)
        assert np.isnan(drawn[1::2]).all()

    def test_a_text_without_written_tokens_has_nothing_to_factor(self, store: actlake.Store) -> None:
        text = store.generation(12)
        assert (text.n_prompt_tokens, text.activations().shape) == (text.n_tokens, (0, 9))
        with pytest.raises(InvalidOption, match="no activations in this slice"):
            text.factors(1)


class TestARun:
    def test_verify_finds_nothing_wrong(self, folder: Path) -> None:
        assert verify(Location.of(folder), deep=True).problems == ()

    def test_verify_knows_how_many_rows_a_generation_has(self, toy_model: Model, tmp_path: Path) -> None:
        actlake.capture(tmp_path / "s", toy_model, ["One, two,"], max_new_tokens=4, every=3, index=False)
        (file,) = (tmp_path / "s" / "activation_vectors").iterdir()
        store = actlake.open(tmp_path / "s")
        n = store.generation(0).n_tokens
        expected = -(-n // 3) * 3
        assert store.sql("select count(*) from activation_vectors").fetchall() == [(expected,)]
        actlake.capture(tmp_path / "all", toy_model, ["One, two,"], max_new_tokens=4, index=False)
        (other,) = (tmp_path / "all" / "activation_vectors").iterdir()
        shutil.copy(other, file)
        assert not verify(Location.of(tmp_path / "s")).ok

    def test_the_row_of_runs_says_it_and_only_then(self, store: actlake.Store) -> None:
        configs = [json.loads(config) for config in store.runs()["generation_config"]]
        said = [
            {name: config[name] for name in ("neurons", "every", "only_generated") if name in config}
            for config in configs
        ]
        assert said == [{}, {"neurons": [1, 5, 39], "every": 2}, {"neurons": [5, 38, 39], "only_generated": True}]

    def test_all_neurons_by_name_are_the_run_that_names_none(self, toy_model: Model, tmp_path: Path) -> None:
        first = actlake.capture(tmp_path / "s", toy_model, ["a"], max_new_tokens=2)
        again = actlake.capture(tmp_path / "s", toy_model, ["a"], max_new_tokens=2, neurons=range(D_FF), every=1)
        assert (again.run_id, again.n_captured) == (first.run_id, 0)

    def test_an_unknown_neuron_is_refused_before_anything_is_written(self, toy_model: Model, tmp_path: Path) -> None:
        with pytest.raises(UnknownNeuron, match="no neurons 40,77; each layer has neurons 0-39"):
            actlake.capture(tmp_path / "s", toy_model, ["a"], neurons=[0, 40, 77])
        assert not (tmp_path / "s").exists()

    def test_a_run_that_would_record_no_activations_is_refused(self, toy_model: Model, tmp_path: Path) -> None:
        with pytest.raises(InvalidOption, match="nothing is written after any of these texts"):
            actlake.capture(tmp_path / "s", toy_model, [{"text": "abc"}], only_generated=True)
        assert not (tmp_path / "s").exists()

    def test_an_encoder_records_some_neurons_at_some_positions(
        self, model_saver: Callable[..., Path], tmp_path: Path
    ) -> None:
        sizes = {"num_hidden_layers": 2, "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2}
        saved = model_saver(tmp_path / "model", "BertConfig", 4.0, kind="AutoModelForMaskedLM", **sizes)
        model, same = load_model(str(saved)), {"precision": "float32", "record": ["activations"]}
        texts = ["One, two,", "The countries of the European Union"]
        actlake.capture(tmp_path / "s", model, texts, **same)
        actlake.capture(tmp_path / "s", model, texts, neurons=[3, 20], every=2, **same)
        store = actlake.open(tmp_path / "s")
        for number in (0, 1):
            full = store.generation(number).activations().reshape(-1, 2, 24)
            some = store.generation(2 + number).activations().reshape(-1, 2, 2)
            np.testing.assert_array_equal(some, full[::2][:, :, [3, 20]])
        with pytest.raises(InvalidOption, match="nothing is written"):
            actlake.capture(tmp_path / "s", model, texts, only_generated=True, **same)


OPTIONS: list[dict[str, Any]] = [
    {},
    {"precision": "float32", "gradients": "scores"},
    {"precision": "float16", "layers": [0, 2], "batch_size": 3},
    {"neurons": [0, 7], "every": 3},
    {"only_generated": True, "record": ["activations"], "index": False},
]


def plan_of(model: Model, prompts: list[Any], options: dict[str, Any]) -> tuple[Plan, CaptureOptions]:
    chosen = CaptureOptions(**options)
    return make_plan(model, prompts_from(prompts), chosen), chosen


class TestBytes:
    @pytest.mark.parametrize("change", OPTIONS, ids=str)
    def test_a_run_writes_at_most_its_budget_and_at_least_a_third_of_it(
        self, toy_model: Model, toy_prompts: list[Any], tmp_path: Path, change: dict[str, Any]
    ) -> None:
        options = {"max_new_tokens": 8, **change}
        prompts = [*toy_prompts, *(f"{number} keys, int sum(int a, int b)" for number in range(4))]
        budget = byte_budget(toy_model, *plan_of(toy_model, prompts, options))
        actlake.capture(tmp_path / "s", toy_model, prompts, **options)
        sizes = actlake.open(tmp_path / "s").size().set_index("table")["bytes"].to_dict()
        assert {table for table, size in sizes.items() if size} == {"runs", *budget}
        assert {table: size for table, size in budget.items() if sizes[table] > size} == {}
        assert sum(budget.values()) <= 3 * sum(sizes[table] for table in budget)

    def test_fewer_neurons_and_positions_are_fewer_bytes(self, toy_model: Model) -> None:
        def vectors(**options: Any) -> int:
            return byte_budget(toy_model, *plan_of(toy_model, ["a" * 20] * 8, options))["activation_vectors"]

        full = vectors()
        assert vectors(neurons=range(4)) < vectors(neurons=range(20)) < full
        assert vectors(every=4) < vectors(every=2) < full
        assert vectors(only_generated=True) < full

    def test_a_budget_over_max_bytes_is_refused_before_anything_is_written(
        self, toy_model: Model, tmp_path: Path
    ) -> None:
        needed = sum(byte_budget(toy_model, *plan_of(toy_model, ["abc"], {"max_new_tokens": 4})).values())
        with pytest.raises(
            TooManyBytes, match=r"nothing was written; record less .*--neurons.*\(--max-bytes\)"
        ) as raised:
            actlake.capture(tmp_path / "s", toy_model, ["abc"], max_new_tokens=4, max_bytes=needed - 1)
        assert raised.value.args == (needed - 1, needed, None)
        assert not (tmp_path / "s").exists()
        run = actlake.capture(tmp_path / "s", toy_model, ["abc"], max_new_tokens=4, max_bytes=f"{needed}")
        assert run.n_captured == 1

    def test_a_run_that_comes_to_more_stops_keeps_what_is_there_and_goes_on_when_allowed(
        self, toy_model: Model, tmp_path: Path
    ) -> None:
        prompts, same = ["One, two,", " 1, 2, 3,", "keys", "int sum"], {"max_new_tokens": 4, "batch_size": 1}

        class Stopped(Exception):
            pass

        def stop(progress: Any) -> None:
            if progress.n_done:
                raise Stopped

        with pytest.raises(Stopped):  # registered, so the same command has no budget to keep but goes on
            actlake.capture(tmp_path / "s", toy_model, prompts, on_progress=stop, **same)
        there = actlake.open(tmp_path / "s")
        n_there = len(there.generations())
        written = sum(file.bytes for file in there.snapshot.files.values() if "generation_id" in file.ranges)
        with pytest.raises(TooManyBytes, match=r"committed \(.* MB\) is kept, and the same command goes on") as raised:
            actlake.capture(tmp_path / "s", toy_model, prompts, max_bytes=written + 1, **same)
        assert raised.value.args[2] == written
        assert len(actlake.open(tmp_path / "s").generations()) == n_there < 4
        report = verify(Location.of(tmp_path / "s"), deep=True)
        assert (report.problems, report.unreferenced) == ((), ())
        done = actlake.capture(tmp_path / "s", toy_model, prompts, max_bytes="1MB", **same)
        assert done.n_captured == 4 - n_there
        assert verify(Location.of(tmp_path / "s"), deep=True).ok

    def test_a_run_that_is_begun_has_room_for_the_rest_or_does_not_go_on(
        self, toy_model: Model, tmp_path: Path
    ) -> None:
        prompts, same = ["One, two,", " 1, 2, 3,", "keys", "int sum"], {"max_new_tokens": 4, "batch_size": 1}
        actlake.capture(tmp_path / "s", toy_model, prompts, shard="1/2", **same)
        location, plan = Location.of(tmp_path / "s"), plan_of(toy_model, prompts, same)[0]
        written = Allowance(None, location, Reservation(0, 0, 4)).written(actlake.open(tmp_path / "s").snapshot)
        there = set(actlake.open(tmp_path / "s").generations()["generation_id"])
        rest = replace(plan, works=[work for work in plan.works if work.prompt_index not in there])
        whole, left = (byte_budget(toy_model, each, CaptureOptions(**same)) for each in (plan, rest))
        of_index = ("segments", "neuron_vectors", "neuron_partials")
        needed = written + sum((whole if table in of_index else left)[table] for table in whole)

        def refused(most: int) -> str | None:
            return refusal(location, toy_model, plan, CaptureOptions(max_bytes=most, **same))

        assert refused(needed) is None
        assert "the run was stopped, because it may come to" in str(refused(needed - 1))
        files = sorted((tmp_path / "s").rglob("*"))
        with pytest.raises(TooManyBytes) as raised:
            actlake.capture(tmp_path / "s", toy_model, prompts, max_bytes=needed - 1, **same)
        assert raised.value.args == (needed - 1, needed, written)
        assert sorted((tmp_path / "s").rglob("*")) == files
        assert actlake.capture(tmp_path / "s", toy_model, prompts, max_bytes=needed, **same).n_captured == 2
        assert refused(1) is None, "nothing is missing"

    def test_what_another_process_commits_meanwhile_is_counted(self, toy_model: Model, tmp_path: Path) -> None:
        prompts = ["One, two,", " 1, 2, 3,", "keys", "int sum", "a", "b"]
        same: dict[str, Any] = {"max_new_tokens": 4, "batch_size": 1, "index": False}
        alone = actlake.capture(tmp_path / "alone", toy_model, prompts, shard="1/2", **same)
        sizes: list[int] = []

        def other(progress: Any) -> None:
            if not sizes:
                sizes.append(actlake.capture(tmp_path / "s", toy_model, prompts, shard="2/2", **same).n_bytes)

        plan, chosen = plan_of(toy_model, prompts, {**same, "max_bytes": alone.n_bytes + 1, "shard": "1/2"})
        log, key = Log(Location.of(tmp_path / "s")), run_key(toy_model, plan, chosen)
        _, reservation, procedure = register(log, key, run_row(toy_model, plan, chosen), len(prompts), Procedure)
        with pytest.raises(TooManyBytes) as raised:
            Units(log, toy_model, plan, chosen, reservation, procedure, other).do()
        assert raised.value.args[2] == sizes[0]
        report = verify(Location.of(tmp_path / "s"), deep=True)
        assert (report.problems, report.unreferenced) == ((), ())

    def test_errors_cross_a_process_boundary_whole(self) -> None:
        errors: list[ActlakeError] = [TooManyBytes(10**6, 2 * 10**6), TooManyBytes(1, 2, 1), UnknownNeuron([9], 8)]
        for error in errors:
            assert str(pickle.loads(pickle.dumps(error))) == str(error)


class TestTheCommand:
    def run(self, *args: object) -> Any:
        return CliRunner().invoke(cli, [str(arg) for arg in args])

    def test_it_says_the_bytes_before_it_starts_and_records_what_was_asked(
        self, toy_folder: Path, tmp_path: Path
    ) -> None:
        options = ["--neurons", "0-2,39", "--every", 2, "--only-generated", "--max-bytes", "5MB", "--max-new-tokens", 5]
        command = ["capture", tmp_path / "s", "--model", toy_folder, "--prompt", "One, two,", *options]
        planned = self.run(*command, "--dry-run")
        assert planned.exit_code == 0, planned.stderr
        for said in (
            "layers 0-2, neurons 0-2,39, every 2 positions, only generated",
            "neuron_vectors",
            "5.0 MB allowed",
        ):
            assert said in planned.stdout
        done = self.run(*command)
        assert done.exit_code == 0, done.stderr
        free = re.compile(r"\S+ \w+ are free")  # others write to the disk meanwhile
        assert free.sub("", done.stderr) == free.sub("", planned.stdout) != planned.stdout
        assert actlake.open(tmp_path / "s").generation(0).neurons == (0, 1, 2, 39)
        as_json = self.run(*command, "--json")
        assert json.loads(as_json.stdout)["n_captured"] == 0
        assert as_json.stderr == ""
        said = json.loads(self.run(*command, "--dry-run", "--json").stdout)
        assert (said["max_bytes"], said["refused"]) == (5_000_000, None)
        assert said["bytes"].keys() >= {"activation_vectors", "neuron_vectors", "neuron_partials", "segments"}

    def test_too_many_bytes_and_unknown_neurons_are_one_line_after_it(self, toy_folder: Path, tmp_path: Path) -> None:
        command = ["capture", tmp_path / "s", "--model", toy_folder, "--prompt", "One, two,"]
        refused = self.run(*command, "--max-bytes", "1kB")
        assert refused.exit_code == 1
        assert "actlake: the run may write" in refused.stderr.splitlines()[-1]
        planned = self.run(*command, "--max-bytes", "1kB", "--dry-run")
        assert planned.exit_code == 0
        assert planned.stdout.splitlines()[-1].startswith("it would be refused: the run may write")
        unknown = self.run(*command, "--neurons", "40")
        assert unknown.exit_code == 1
        assert unknown.stderr == "actlake: no neuron 40; each layer has neurons 0-39\n"
        assert self.run(*command, "--neurons", "4-").exit_code == 2
        assert not (tmp_path / "s").exists()
