"""The two projections of the activations: any part may be indexed, and the answers are the same, from files that it needs."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import actlake
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from actlake.errors import UnknownLayer
from actlake.queries.plan import scans_of
from actlake.store import (
    CapturedGeneration,
    CapturedTokens,
    Commit,
    Location,
    Log,
    Reader,
    Reservation,
    compact,
    index,
    verify,
    write_shard,
    write_table,
)
from actlake.store.schema import RUNS
from hypothesis import given, settings
from hypothesis import strategies as st

D_FF, LAYERS = 7, (0, 2, 3)


@dataclass
class Corpus:
    """A store that is written without a model, and beside it everything that was written, as plain rows."""

    location: Location
    layers: Sequence[int] = LAYERS
    d_ff: int = D_FF
    rows: list[tuple[int, int, int, int, int, bool, float]] = field(default_factory=list)
    n_runs: int = 0

    def run(
        self,
        sizes: Sequence[Sequence[int]],
        precision: str = "bfloat16",
        neurons: Sequence[int] | None = None,
        every: int = 1,
    ) -> None:
        """Register a run, of these neurons (or all) at every so many positions, and commit one shard for each list of sizes."""
        log, n = Log(self.location), sum(map(len, sizes))
        some = {} if neurons is None else {"neurons": list(neurons)}
        run_id = self.n_runs
        self.n_runs += 1

        def register(snapshot: object) -> Commit:
            first = snapshot.next_generation_id  # type: ignore[attr-defined]
            row = {
                "run_id": run_id, "name": "r", "model": "m", "model_hash": "h", "tokenizer_hash": "t",
                "architecture": "A", "n_layers": 4, "d_model": 4, "d_ff": self.d_ff, "vocab_size": 9,
                "precision": precision, "recorded": ["activations"], "seed": 0, "versions": "{}", "status": "complete",
                "generation_config": json.dumps({"layers": list(self.layers), "every": every} | some),
                "created_at": datetime(2026, 1, 1),
            }  # fmt: skip
            file = write_table(self.location, RUNS, pa.Table.from_pylist([row], schema=RUNS.arrow))
            return Commit("register", f"run{run_id}", [file], reserve=Reservation(run_id, first, n))

        generation_id = log.commit(register).reservations[-1].first_generation_id
        for number, shard in enumerate(sizes):
            generations = [
                self.generation(generation_id + i, run_id, n, neurons or range(self.d_ff), every)
                for i, n in enumerate(shard)
            ]
            generation_id += len(shard)
            files = write_shard(self.location, generations[::-1], precision)  # type: ignore[arg-type]
            log.commit(lambda _, key=f"{run_id}/{number}", files=files: Commit("capture", key, files))

    def generation(
        self, generation_id: int, run_id: int, n: int, neurons: Sequence[int], every: int
    ) -> CapturedGeneration:
        random = np.random.default_rng(generation_id)
        ints, floats = np.arange(n, dtype=np.int32), np.zeros(n, np.float32)
        special = ints % 5 == 0
        bits = random.normal(size=(len(self.layers), n, self.d_ff)).astype(np.float32).view(np.uint32)
        values = (bits & np.uint32(0xFFFF0000)).view(np.float32).round(2)  # many equal ones, and zeros
        values = (values.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
        for layer, matrix in zip(self.layers, values, strict=True):
            self.rows += [
                (
                    run_id,
                    generation_id,
                    position,
                    layer,
                    neuron,
                    bool(special[position]),
                    float(matrix[position, neuron]),
                )
                for position in range(0, n, every)
                for neuron in neurons
            ]
        return CapturedGeneration(
            generation_id, run_id, generation_id, "p", "c", n, "stop", {},
            CapturedTokens(ints, [f"t{i % 3}" for i in ints], ints, ints, special, floats, ints, floats),
            activations=dict(zip(self.layers, values[:, ::every, list(neurons)], strict=True)),
            positions=ints[::every],
        )  # fmt: skip

    @property
    def frame(self) -> pd.DataFrame:
        names = ["run_id", "generation_id", "position", "layer", "neuron", "is_special", "activation"]
        return pd.DataFrame(self.rows, columns=names)

    @property
    def store(self) -> actlake.Store:
        return actlake.open(self.location.uri)


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    """Two runs in five shards, of which the first run's are indexed, one layer of them alone."""
    made = Corpus(Location.of(tmp_path / "store"))
    made.run([[9, 4], [6], [12, 3, 2]])
    index(made.location, layers=[2])
    index(made.location)
    made.run([[8], [5, 5]])
    return made


VALUES = ["generation_id", "position", "layer", "neuron", "activation"]


def answers(store: actlake.Store, view: str, where: str = "true") -> list[tuple[float, ...]]:
    return sorted(store.sql(f"select {', '.join(VALUES)} from {view} where {where}").fetchall())


def expected(corpus: Corpus, where: str = "index >= 0") -> list[tuple[float, ...]]:
    return sorted(corpus.frame.query(where)[VALUES].itertuples(index=False, name=None))


STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("run"), st.lists(st.lists(st.integers(1, 6), min_size=1, max_size=3), min_size=1, max_size=3)
        ),
        st.tuples(
            st.sampled_from([(0, 4), (4, 5, 6), (1, 4)]),
            st.lists(st.lists(st.integers(1, 6), min_size=1, max_size=3), min_size=1, max_size=3),
        ),
        st.tuples(st.just("index"), st.sampled_from([None, [0], [2, 3]])),
        st.tuples(st.just("compact"), st.none()),
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=12)
@given(steps=STEPS)
def test_any_split_into_indexed_and_unindexed_parts_gives_the_same_answers(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, list]]
) -> None:
    corpus = Corpus(Location.of(tmp_path_factory.mktemp("any") / "store"))
    corpus.run([[3, 2]])
    for what, argument in steps:
        if what == "run":
            corpus.run(argument)
        elif isinstance(what, tuple):
            corpus.run(argument, neurons=what, every=len(what))
        elif what == "index":
            index(corpus.location, layers=argument)
        else:
            compact(corpus.location)
    store, everything = corpus.store, expected(corpus)
    for view in ("activations", "by_token.activations", "by_neuron.activations"):
        assert answers(store, view) == everything
        for where in ("layer = 2 and neuron = 4", "generation_id = 1", "layer in (0, 3) and generation_id <= 1"):
            assert answers(store, view, where) == expected(corpus, where.replace("=", "==").replace("<==", "<="))
    assert [row[:4] for row in store.connect().sql("from activations order by all").fetchall()] == [
        r[:4] for r in everything
    ]
    check_statistics(corpus, store)
    assert verify(corpus.location, deep=True).problems == ()


def check_statistics(corpus: Corpus, store: actlake.Store) -> None:
    """Hold neuron_stats and neuron_examples, with special tokens and without, against NumPy on the whole."""
    everything, plain = corpus.frame, corpus.frame.query("not is_special")
    for how, rows in (("", plain), ("_by(true)", everything), ("_by(false)", plain)):
        groups = dict(list(rows.groupby(["run_id", "layer", "neuron"])))
        stats = store.sql(f"from neuron_stats{how} order by run_id, layer, neuron").fetchall()
        assert [row[:3] for row in stats] == sorted(groups)
        for row in stats:
            check_stats(groups[row[:3]].activation.to_numpy(), *row[3:])
        found = dict(
            list(
                store.sql(f"from neuron_examples{how} order by rank")
                .df()
                .groupby(["run_id", "layer", "neuron", "sign"])
            )
        )
        assert len(found) == sum(int((g.activation > 0).any()) + int((g.activation < 0).any()) for g in groups.values())
        for (*neuron, sign), examples in found.items():
            group = groups[tuple(neuron)]
            part = group[group.activation > 0] if sign == "positive" else group[group.activation < 0]
            order = np.lexsort((part.position, part.generation_id, -part.activation.abs()))[:20]
            names = ["generation_id", "position", "activation"]
            assert examples[names].to_numpy().tolist() == part[names].iloc[order].to_numpy().tolist()
            assert examples["rank"].tolist() == list(range(1, len(order) + 1))


def check_stats(
    values: np.ndarray,
    n: int,
    mean: float,
    std: float,
    least: float,
    most: float,
    density: float,
    histogram: list[dict],
) -> None:
    assert (n, least, most) == (len(values), values.min(), values.max())
    np.testing.assert_allclose([mean, std, density], [values.mean(), values.std(), (values > 0).mean()], atol=1e-12)
    for part in histogram:
        low, high = part["lower"], part["upper"]
        inside = (low <= values) & (values < high) if high > 0 else (low < values) & (values <= high)
        assert part["n"] == inside.sum() > 0
    assert sum(part["n"] for part in histogram) == n
    assert histogram == sorted(histogram, key=lambda part: part["lower"])


@pytest.mark.parametrize("q", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_a_quantile_from_a_histogram_is_off_by_at_most_a_sixteenth(corpus: Corpus, q: float) -> None:
    query = "select run_id, layer, neuron, histogram_quantile(histogram, $q) from neuron_stats"
    groups = corpus.frame.query("not is_special").groupby(["run_id", "layer", "neuron"]).activation
    for run_id, layer, neuron, found in corpus.store.sql(query, {"q": q}).fetchall():
        exact = np.quantile(groups.get_group((run_id, layer, neuron)), q, method="inverted_cdf")
        assert abs(found - exact) <= abs(exact) / 16 + 1e-38


ONE_NEURON = "select generation_id, position, activation from activations where layer = 2 and neuron = 3"
ONE_GENERATION = "select * from activations where generation_id = 1"


def files_read(store: actlake.Store, query: str) -> set[str]:
    """The files that DuckDB's profile of a query names, by table and name."""
    ((_, plan),) = store.sql(f"explain analyze {query}").fetchall()
    return set(re.findall(r"(\w+/[\w-]+\.parquet)", re.sub(r"[\s│]+", "", plan)))


def row_groups_scanned(store: actlake.Store, query: str) -> list[tuple[int, int]]:
    ((_, plan),) = store.sql(f"explain analyze {query}").fetchall()
    return [(int(scanned), int(there)) for scanned, there in re.findall(r"Row Groups Scanned:\s*(\d+) / (\d+)", plan)]


def test_one_neuron_is_read_from_the_projection_and_the_tail_that_it_lacks(corpus: Corpus) -> None:
    store = corpus.store
    read = files_read(store, ONE_NEURON)
    of_layer_2 = {file.path for file in store.snapshot.of("neuron_vectors", layer=2)}
    tail = {file.path for file in store.snapshot.of("activation_vectors") if not file.indexed}
    assert read == of_layer_2 | tail | {file.path for file in store.snapshot.of("segments")}
    assert 0 < len(of_layer_2) < len(store.snapshot.of("neuron_vectors"))
    assert 0 < len(tail) < len(store.snapshot.of("activation_vectors"))


def test_one_generation_is_read_from_the_shards_that_can_have_it_and_their_row_groups(corpus: Corpus) -> None:
    store = corpus.store
    (shard,) = store.snapshot.of("activation_vectors", generation_id=1)
    assert files_read(store, ONE_GENERATION) == {shard.path}
    assert row_groups_scanned(store, ONE_GENERATION) == [(3, 6)]  # of two generations, three layers each
    assert row_groups_scanned(store, f"{ONE_GENERATION} and layer = 2") == [(1, 6)]


def test_a_segments_other_neurons_stay_unread(tmp_path: Path) -> None:
    corpus = Corpus(Location.of(tmp_path / "wide"), layers=(0,), d_ff=600)
    corpus.run([[900, 300]])
    index(corpus.location)
    query = "select activation from activations where layer = 0 and neuron = 599"
    ((scanned, there),) = [pair for pair in row_groups_scanned(corpus.store, query) if pair[1] > 1]
    assert (scanned, there) == (1, 2)
    assert len(corpus.store.sql(query).fetchall()) == 1200


def test_files_are_chosen_before_duckdb_opens_a_footer(corpus: Corpus) -> None:
    for file in corpus.store.snapshot.of("activation_vectors"):
        if file.ranges["generation_id"][0] > 1:
            Path(corpus.location.full(file.path)).write_bytes(b"not to be opened")
    assert answers(corpus.store, "activations", "generation_id = 1") == expected(corpus, "generation_id == 1")


@pytest.mark.parametrize(
    ("query", "table", "ranges"),
    [
        ("from activations where layer = 4 and neuron = 7", "activations", {"layer": (4, 4), "neuron": (7, 7)}),
        ("from tokens where generation_id between 3 and 5", "tokens", {"generation_id": (3, 5)}),
        ("from tokens where generation_id in (9, 4)", "tokens", {"generation_id": (4, 9)}),
        (
            "from tokens where generation_id > 3 and position < 9",
            "tokens",
            {"generation_id": (3, None), "position": (None, 9)},
        ),
        ("from tokens where generation_id = 3 or position = 1", "tokens", {}),
        ("from tokens where not generation_id = 3", "tokens", {}),
        ("from tokens where token = '(generation_id = 3)'", "tokens", {}),
        ("from saliency where generation_id = 3", "gradients", {"generation_id": (3, 3)}),
        ("from neuron_stats where layer = 4", "neuron_partials", {"layer": (4, 4)}),
        ("from neuron_stats where layer = 4", "uncounted_files", {"layer": (4, 4)}),
        ("with a as (from activations) from a where layer = 2 + 2", "activations", {"layer": (4, 4)}),
    ],
)
def test_what_a_query_can_need_is_read_from_its_plan(query: str, table: str, ranges: dict[str, tuple]) -> None:
    scans = scans_of(query)
    assert scans is not None
    found = {
        column: tuple(None if abs(bound) >= 2**31 - 1 else bound for bound in bounds)
        for column, bounds in scans[table][0].items()
    }
    assert {column: bounds for column, bounds in found.items() if bounds != (None, None)} == ranges


def test_parameters_choose_files_too(corpus: Corpus) -> None:
    store = corpus.store
    assert scans_of("from tokens where generation_id = ?", [3]) == {"tokens": [{"generation_id": (3, 3)}]}
    found = store.sql(ONE_NEURON.replace("2", "$layer").replace("3", "$neuron"), {"layer": 2, "neuron": 3}).fetchall()
    assert len(found) == len(expected(corpus, "layer == 2 and neuron == 3"))


@settings(max_examples=40)
@given(
    where=st.lists(
        st.one_of(
            st.builds("{} {} {}".format, st.sampled_from(["generation_id", "layer", "neuron", "position"]),
                      st.sampled_from(["=", "<", "<=", ">", ">=", "!="]), st.integers(-1, 8)),
            st.builds("{} in ({}, {})".format, st.sampled_from(["generation_id", "layer"]), st.integers(0, 6), st.integers(0, 6)),
            st.builds("{} between {} and {}".format, st.sampled_from(["generation_id", "neuron"]),
                      st.integers(0, 4), st.integers(2, 8)),
            st.builds("({} = {} or position = {})".format, st.sampled_from(["generation_id", "layer"]),
                      st.integers(0, 4), st.integers(0, 3)),
        ),
        min_size=1, max_size=3,
    )
)  # fmt: skip
def test_choosing_files_changes_no_answer(corpus_once: Corpus, where: list[str]) -> None:
    store, query = (
        corpus_once.store,
        "select count(*), sum(activation::double), sum(neuron) from {} where " + " and ".join(where),
    )
    whole = store.connect().sql(query.format("by_token.activations")).fetchall()
    for view in ("activations", "by_neuron.activations"):
        n, total, neurons = store.sql(query.format(view)).fetchall()[0]
        assert (n, neurons) == (whole[0][0], whole[0][2])
        assert total == pytest.approx(whole[0][1], abs=1e-9)


@pytest.fixture(scope="module")
def corpus_once(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    made = Corpus(Location.of(tmp_path_factory.mktemp("once") / "store"))
    made.run([[9, 4], [6], [12, 3, 2]])
    index(made.location, layers=[2])
    made.run([[8]])
    return made


QUESTIONS = {
    "top tokens of a neuron": """
        select token, avg(activation) as mean, count(*) as n
        from activations join tokens using (generation_id, position)
        where layer = 2 and neuron = 3
        group by token order by mean desc""",
    "two neurons' correlation": """
        select corr(a.activation, b.activation)
        from activations a join activations b using (generation_id, position)
        where a.layer = 2 and a.neuron = 3 and b.layer = 0 and b.neuron = 5""",
    "activations of what a neuron prefers": """
        select e.rank, t.token, e.activation
        from neuron_examples e join tokens t using (generation_id, position)
        where layer = 2 and neuron = 3 and sign = 'positive' order by run_id, rank""",
    "neurons of a generation's last token": """
        select layer, neuron, activation from activations
        where generation_id = 1 and position = 3 order by activation desc, layer, neuron limit 5""",
}


@pytest.mark.parametrize("question", QUESTIONS)
def test_the_questions_that_people_ask_read_few_files_and_give_what_pandas_gives(corpus: Corpus, question: str) -> None:
    store, frame = corpus.store, corpus.frame
    query = QUESTIONS[question]
    found = store.sql(query).df()
    one = frame.query("layer == 2 and neuron == 3")
    match question:
        case "top tokens of a neuron":
            means = (
                one.groupby("t" + (one.position % 3).astype(str))
                .activation.agg(["mean", "size"])
                .sort_values("mean", ascending=False)
            )
            assert found["token"].tolist() == means.index.tolist()
            np.testing.assert_allclose(found["mean"], means["mean"])
        case "two neurons' correlation":
            other = frame.query("layer == 0 and neuron == 5").set_index(["generation_id", "position"]).activation
            assert found.iloc[0, 0] == pytest.approx(
                one.set_index(["generation_id", "position"]).activation.corr(other)
            )
        case "neurons of a generation's last token":
            at = frame.query("generation_id == 1 and position == 3").sort_values("activation", ascending=False)
            assert found["activation"].tolist() == at.activation[:5].tolist()
        case _:
            assert found["activation"].max() == one.query("not is_special").activation.max()
    assert not {p for p in files_read(store, query) if p.startswith(("embeddings", "gradients"))}
    if "generation" not in question:
        indexed = {file.path for file in store.snapshot.of("activation_vectors") if file.indexed}
        assert not files_read(store, query) & indexed


def test_small_segments_are_merged_so_that_there_are_few(tmp_path: Path) -> None:
    corpus = Corpus(Location.of(tmp_path / "many"))
    for _ in range(21):
        corpus.run([[4, 3]])
        index(corpus.location)
    store = corpus.store
    assert len(store.snapshot.of("segments")) <= 6
    assert sum(file.rows for file in store.snapshot.of("neuron_vectors", layer=0, neuron=0)) <= 6 * D_FF
    assert answers(store, "by_neuron.activations") == expected(corpus)
    check_statistics(corpus, store)


def test_more_tokens_than_a_segment_may_have_are_merged_into_several(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = sys.modules["actlake.store.index"]  # `actlake.store.index` is the function
    monkeypatch.setattr(module, "SEGMENT_TOKENS", 8)
    monkeypatch.setattr(module, "MERGED_TOKENS", 48)
    corpus = Corpus(Location.of(tmp_path / "large"))
    corpus.run([[8]] * 20)  # as many small segments at once as three large ones hold, and two more
    index(corpus.location)
    store = corpus.store
    sizes = store.sql("select n_tokens from segments order by 1").fetchall()
    assert sizes == [(8,), (8,), (48,), (48,), (48,)]
    assert answers(store, "by_neuron.activations") == expected(corpus)


def test_an_unknown_layer_is_refused(corpus: Corpus) -> None:
    with pytest.raises(UnknownLayer, match=r"no layer 1; there are layers 0,2-3"):
        index(corpus.location, layers=[1])


def test_indexing_again_writes_nothing(corpus: Corpus) -> None:
    index(corpus.location)
    version = corpus.store.snapshot.version
    done = index(corpus.location)
    assert (done.n_tokens, done.n_bytes, corpus.store.snapshot.version) == (0, 0, version)
    assert "nothing to index" in done.sentence()


def test_a_store_is_seen_as_it_was_after_a_commit(corpus: Corpus) -> None:
    newest = corpus.store.snapshot.version
    seen = [len(actlake.open(corpus.location.uri, at=at).generations()) for at in range(newest + 1)]
    assert seen == sorted(seen)
    assert (seen[0], seen[-1]) == (0, corpus.frame.generation_id.nunique())
    with pytest.raises(actlake.ActlakeError, match=f"no commit {newest + 1}; this store has commits 0 to {newest}"):
        actlake.open(corpus.location.uri, at=newest + 1)


def test_arrays_stream_in_order_and_in_bounded_batches(corpus: Corpus) -> None:
    store = corpus.store
    batches = list(Reader(corpus.location).batches(store.snapshot, "activation_vectors", {"layer": 2}, batch_bytes=200))
    assert len(batches) > 3
    assert all(batch.vectors.nbytes <= max(200, 12 * 4 * D_FF) for batch in batches)
    rows = [
        (int(g), int(p), 2, neuron, float(row[neuron]))
        for batch in batches
        for g, p, row in zip(batch.keys["generation_id"], batch.keys["position"], batch.vectors, strict=True)
        for neuron in range(D_FF)
    ]
    assert sorted(rows) == expected(corpus, "layer == 2")
    (whole,) = store.batches("activation_vectors", layer=2, generation_id=(1, 2))
    assert len(whole.vectors) == corpus.frame.query("layer == 2 and neuron == 0 and 1 <= generation_id <= 2").shape[0]


def test_responding_neurons_are_those_that_numpy_finds(corpus: Corpus) -> None:
    found = corpus.store.responding("token = 't1' and n_tokens > 3", layers=[0, 3])
    frame = corpus.frame.query("not is_special and layer in (0, 3)")
    long = frame.groupby("generation_id").position.transform("max") >= 3
    selected = (frame.position % 3 == 1) & long
    for row in found.itertuples():
        one = (frame.layer == row.layer) & (frame.neuron == row.neuron)
        a, b = frame[one & selected].activation.to_numpy(), frame[one & ~selected].activation.to_numpy()
        pooled = np.sqrt((len(a) * a.var() + len(b) * b.var()) / (len(a) + len(b) - 2))
        assert row.n_selected == len(a)
        assert (row.mean_selected, row.mean_others) == (
            pytest.approx(a.mean(), abs=1e-6),
            pytest.approx(b.mean(), abs=1e-6),
        )
        assert row.effect_size == pytest.approx((a.mean() - b.mean()) / pooled, abs=1e-5)
    assert found["effect_size"].is_monotonic_decreasing
    assert len(found) == 2 * D_FF


@pytest.mark.parametrize(
    ("predicate", "said"),
    [("nothing = 1", "nothing"), ("false", "at no position"), ("true", "at all"), ("true), (select 1", "syntax")],
)
def test_a_predicate_that_selects_nothing_or_is_wrong_is_one_clear_error(
    corpus: Corpus, predicate: str, said: str
) -> None:
    with pytest.raises(actlake.ActlakeError, match=said):
        corpus.store.responding(predicate)


def test_a_store_of_format_1_is_read_and_indexed(tmp_path: Path) -> None:
    corpus = Corpus(Location.of(tmp_path / "old"))
    corpus.run([[9, 4], [6]])
    for file in (tmp_path / "old").rglob("*.parquet"):  # as they were written then: by pyarrow, with dictionaries
        rows = pq.read_table(file)
        vector = ["activation.list.element"] if file.parent.name == "activation_vectors" else []
        keys = [name for name in rows.column_names if name != "activation"]
        pq.write_table(
            rows, file, use_dictionary=keys, use_byte_stream_split=vector, compression="zstd", row_group_size=5
        )
    for path in sorted((tmp_path / "old/_log").glob("*.json")):
        body = json.loads(path.read_text()) | {"format": 1}
        for new in ("checksum", "indexed", "parent"):
            del body[new]
        for entry in body["add"]:
            for new in ("footer_bytes", "footer_crc32", "indexed"):
                del entry[new]
            entry["bytes"] = (tmp_path / "old" / entry["path"]).stat().st_size
            entry["sha256"] = hashlib.sha256((tmp_path / "old" / entry["path"]).read_bytes()).hexdigest()
        canonical = json.dumps(body, sort_keys=True, separators=(",", ":"))
        path.write_text(json.dumps(body | {"checksum": hashlib.sha256(canonical.encode()).hexdigest()}))
    assert answers(corpus.store, "activations") == expected(corpus)
    assert corpus.store.responding("token = 't1'").shape[0] == len(LAYERS) * D_FF
    index(corpus.location)
    assert answers(corpus.store, "by_neuron.activations") == expected(corpus)
    assert verify(corpus.location, deep=True).problems == ()
