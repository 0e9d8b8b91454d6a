"""Other tools read a store as we do: DuckDB's own shell, Polars, pandas, Arrow, Hugging Face datasets, and exported files."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import actlake
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from actlake.cli import cli
from actlake.errors import CorruptFile, InvalidOption, MissingLibrary, QueryError
from actlake.queries.script import views_script
from actlake.store import RECORDS, TABLES, Location, index
from click.testing import CliRunner

DUCKDB = Path(sys.executable).with_name("duckdb")
RELATIONS = [
    *TABLES,
    "activations",
    "by_token.activations",
    "by_neuron.activations",
    "unindexed_activation_vectors",
    "uncounted_activations",
    "all_neuron_partials",
    "neuron_stats",
    "neuron_stats_by(true)",
    "neuron_examples",
    "neuron_examples_by(true)",
    "saliency",
    "saliency_by('grad_norm')",
    "(from factor_tokens join activations using (generation_id, position) join factor_neurons using (layer, neuron, factor))",
    "(select activation_bin(-1.5) as bin, bin_magnitude(1020) as magnitude)",
    "(select neuron, layer, run_id, histogram_quantile(histogram, 0.5) as median from neuron_stats)",
    "(select layer, neuron, histogram_of(bins, bin_counts) as histogram from neuron_partials)",
]


@pytest.fixture(scope="module")
def mixed_store(toy_model: actlake.capture.Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store in a folder with a difficult name, whose projection has some layers of one run, with their statistics, and the
    statistics alone of another, and with saved factors and a label."""
    path = tmp_path_factory.mktemp("stores") / 'it\'s "one" [of] *m?ny; ünï'
    actlake.capture(path, toy_model, [" 1, 2, 3,", "One, two,"], max_new_tokens=4, precision="float32", index=False)
    index(Location.of(path), layers=[0, 2], rebuild=True)
    actlake.capture(
        path, toy_model, ["hé 😀", "keys"], max_new_tokens=3, index=False, gradients="scores", record=RECORDS
    )
    store = actlake.open(path)
    for generation_id in (0, 2):
        store.save(store.generation(generation_id).factors(2, layers=[1]), name="ünï")
    store.label("ünï", layer=1, neuron=0)
    return path


def shell(script: str, *statements: str, cwd: Path, database: Path | str = ":memory:") -> str:
    """What DuckDB's command line prints for statements after a script."""
    (cwd / "views.sql").write_text(script)
    command = [DUCKDB, "-bail", "-csv", "-init", "views.sql", database, "; ".join(statements)]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, cwd=cwd, check=False)
    assert done.returncode == 0, done.stderr
    assert "Error" not in done.stderr
    return done.stdout


def plain(value: Any) -> Any:
    """A value that equals another of its kind whichever library it comes from; computed sums may differ in their last bits."""
    if isinstance(value, list | tuple | np.ndarray):
        return [plain(each) for each in value]
    if isinstance(value, dict):
        return {name: plain(each) for name, each in value.items()}
    return f"{value:.9g}" if isinstance(value, float) else value


def rows(table: pa.Table) -> list[str]:
    """A table's rows in an order of their own."""
    return sorted(map(repr, map(plain, table.to_pylist())))


class TestViewsScript:
    @pytest.mark.parametrize("relative", [False, True])
    def test_it_gives_duckdbs_shell_the_rows_that_we_give(
        self, mixed_store: Path, tmp_path: Path, relative: bool
    ) -> None:
        store = actlake.open(mixed_store)
        folder = Path(shutil.copytree(mixed_store, tmp_path / mixed_store.name)) if relative else tmp_path
        copies = [f"copy (from {relation}) to '{tmp_path}/{i}.parquet'" for i, relation in enumerate(RELATIONS)]
        shell(store.views_script(relative=relative), *copies, cwd=folder)
        for i, relation in enumerate(RELATIONS):
            theirs = pq.read_table(tmp_path / f"{i}.parquet", partitioning=None)
            ours = store.sql(f"from {relation}").to_arrow_table()
            assert rows(theirs) == rows(ours), relation
            assert ours.num_rows, relation

    def test_it_comments_on_everything(self, mixed_store: Path, tmp_path: Path) -> None:
        counts = "select count(*), count(comment) from duckdb_columns() where not internal"
        ((n, n_comments),) = csv.reader(
            shell(actlake.open(mixed_store).views_script(), counts, cwd=tmp_path).splitlines()[1:]
        )
        assert n == n_comments

    def test_it_can_be_run_again_over_the_views_of_an_older_one(self, mixed_store: Path, tmp_path: Path) -> None:
        answers = [
            shell(store.views_script(), "select count(*) from segments", cwd=tmp_path, database="corpus.duckdb")
            for store in (actlake.open(mixed_store, at=1), actlake.open(mixed_store))
        ]
        assert [answer.split()[1] for answer in answers] == ["0", "2"]

    def test_it_names_the_files_of_the_commit_that_was_asked_for(self, mixed_store: Path) -> None:
        first = actlake.open(mixed_store, at=0)
        printed = CliRunner().invoke(cli, ["views", str(mixed_store), "--at", "0"])
        assert printed.stdout == first.views_script()
        assert printed.stdout.count(".parquet") == len(first.snapshot.files) == 1

    def test_for_an_object_store_it_names_uris_and_says_what_duckdb_needs(self, mixed_store: Path) -> None:
        store = actlake.open(mixed_store)
        remote = Location.of("s3://bucket/some/lake?region=us-east-1")
        script = views_script(remote, store.snapshot, {}, store.connect())
        assert "'s3://bucket/some/lake/tokens/" in script
        assert "httpfs" in script


class TestArrow:
    @pytest.mark.parametrize("table", TABLES)
    def test_a_dataset_has_the_rows_that_sql_gives_and_the_tables_schema(self, mixed_store: Path, table: str) -> None:
        store = actlake.open(mixed_store)
        read = store.arrow(table).to_table()
        assert read.schema == TABLES[table].arrow
        assert rows(read) == rows(store.sql(f"from {table}").to_arrow_table())

    def test_of_a_table_without_files_it_is_empty(self, mixed_store: Path) -> None:
        dataset = actlake.open(mixed_store, at=0).arrow("neuron_vectors")
        assert dataset.to_table(filter=pc.field("layer") == 0) == TABLES["neuron_vectors"].arrow.empty_table()

    def test_a_filter_leaves_the_other_files_closed(self, mixed_store: Path, tmp_path: Path) -> None:
        store = actlake.open(shutil.copytree(mixed_store, tmp_path / "store"))
        dataset = store.arrow("tokens")
        for file in store.snapshot.of("tokens", generation_id=2):
            Path(store.location.full(file.path)).unlink()
        assert set(dataset.to_table(filter=pc.field("generation_id") <= 1)["generation_id"].to_pylist()) == {0, 1}

    def test_a_name_that_is_no_table_is_told(self, mixed_store: Path) -> None:
        with pytest.raises(InvalidOption, match="choose one of runs"):
            actlake.open(mixed_store).arrow("activations")

    def test_a_damaged_footer_is_found_at_once(self, mixed_store: Path, tmp_path: Path) -> None:
        store = actlake.open(shutil.copytree(mixed_store, tmp_path / "store"))
        flip(Path(store.location.full(store.snapshot.of("tokens")[0].path)), at=-100)
        with pytest.raises(CorruptFile, match="tokens"):
            store.arrow("tokens")


class TestHuggingFaceDatasets:
    def test_they_stream_the_rows_of_each_table(self, mixed_store: Path) -> None:
        store = actlake.open(mixed_store)
        datasets = store.to_datasets()
        assert list(datasets) == list(TABLES)
        for table, dataset in datasets.items():
            assert list(dataset) == store.arrow(table).to_table().to_pylist()
        assert datasets["tokens"].num_shards == len(store.snapshot.of("tokens"))

    def test_a_table_without_files_has_columns_and_no_rows(self, mixed_store: Path) -> None:
        dataset = actlake.open(mixed_store, at=0).to_datasets(["tokens"])["tokens"]
        assert list(dataset) == []
        assert list(dataset.features) == TABLES["tokens"].arrow.names

    def test_without_the_library_the_error_says_how_to_get_it(
        self, mixed_store: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "datasets", None)
        with pytest.raises(MissingLibrary, match=r"pip install 'actlake\[datasets\]'"):
            actlake.open(mixed_store).to_datasets()


READ: dict[str, Callable[[Path], list[dict[str, Any]]]] = {
    "x.parquet": lambda path: pq.read_table(path).to_pylist(),
    "x.arrow": lambda path: pa.ipc.open_file(path).read_all().to_pylist(),
    "x.jsonl": lambda path: [json.loads(line) for line in path.read_text().splitlines()],
    "x.csv": lambda path: [
        {name: json.loads(value) for name, value in row.items()}
        for row in csv.DictReader(path.read_text().splitlines())
    ],
}


class TestExport:
    @pytest.mark.parametrize("name", READ)
    @pytest.mark.parametrize("source", ["embeddings", "by_token.activations", "from saliency where share > 0.2"])
    def test_a_file_has_the_rows_of_the_table_or_query(
        self, mixed_store: Path, tmp_path: Path, source: str, name: str
    ) -> None:
        done = CliRunner().invoke(cli, ["export", str(mixed_store), source, "-o", str(tmp_path / name)])
        assert (done.exit_code, done.output) == (0, "")
        query = source if " " in source else f"from {source}"
        expected = actlake.open(mixed_store).sql(query).to_arrow_table()
        assert rows(pa.Table.from_pylist(READ[name](tmp_path / name), expected.schema)) == rows(expected)
        assert [path.name for path in tmp_path.iterdir()] == [name]

    def test_a_query_that_fails_half_way_leaves_the_old_file_as_it_was(self, mixed_store: Path, tmp_path: Path) -> None:
        (tmp_path / "x.csv").write_text("mine")
        with pytest.raises(QueryError, match="too far"):
            actlake.open(mixed_store).export(
                "select if(i < 1e6, i, error('too far')) from range(2000000) r(i)", tmp_path / "x.csv"
            )
        assert (tmp_path / "x.csv").read_text() == "mine"
        assert len(list(tmp_path.iterdir())) == 1

    def test_a_statement_that_writes_is_refused(self, mixed_store: Path, tmp_path: Path) -> None:
        with pytest.raises(QueryError, match="only statements that read"):
            actlake.open(mixed_store).export(f"copy tokens to '{tmp_path}/y.csv'", tmp_path / "x.csv")
        assert not list(tmp_path.iterdir())

    def test_a_suffix_that_says_nothing_is_wrong_usage(self, mixed_store: Path, tmp_path: Path) -> None:
        done = CliRunner().invoke(cli, ["export", str(mixed_store), "tokens", "-o", str(tmp_path / "x.xls")])
        assert done.exit_code == 2
        assert ".jsonl" in done.stderr

    def test_a_table_to_read_is_no_format_of_a_file(self, mixed_store: Path, tmp_path: Path) -> None:
        with pytest.raises(InvalidOption, match="arrow, csv, json, parquet"):
            actlake.open(mixed_store).export("tokens", tmp_path / "x.txt", "table")


def flip(file: Path, at: int) -> None:
    """Flip one bit of a file's byte."""
    data = bytearray(file.read_bytes())
    data[at] ^= 4
    file.write_bytes(data)


class TestFiles:
    @pytest.mark.parametrize("table", TABLES)
    def test_polars_and_pandas_read_the_rows_that_sql_gives(self, mixed_store: Path, table: str) -> None:
        store = actlake.open(mixed_store)
        expected = rows(store.sql(f"from {table}").to_arrow_table())
        paths = [store.location.full(file.path) for file in store.snapshot.of(table)]
        assert rows(pl.read_parquet(paths, glob=False).to_arrow()) == expected
        frame = pd.concat(pd.read_parquet(path, dtype_backend="pyarrow", partitioning=None) for path in paths)
        assert rows(pa.Table.from_pandas(frame, TABLES[table].arrow, preserve_index=False)) == expected

    @pytest.mark.parametrize("table", ["tokens", "activation_vectors", "neuron_vectors", "neuron_partials"])
    def test_a_flipped_bit_in_a_page_is_an_error_for_polars_and_arrow(
        self, mixed_store: Path, tmp_path: Path, table: str
    ) -> None:
        store = actlake.open(mixed_store)
        sound = Path(store.location.full(store.snapshot.of(table)[0].path))
        group = pq.read_metadata(sound).row_group(0)
        for column in (group.column(i) for i in range(group.num_columns)):
            broken = Path(shutil.copy(sound, tmp_path / "broken.parquet"))
            flip(
                broken, at=column.data_page_offset + column.total_compressed_size - 3
            )  # a frame has bits that change nothing
            with pytest.raises(OSError, match=r"checksum|Corrupt|corrupt|ZSTD"):
                pq.read_table(broken)
            with pytest.raises(pl.exceptions.PolarsError):
                pl.read_parquet(broken)
