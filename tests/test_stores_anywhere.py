"""What a store does wherever it lies: the same tests over a local folder and over S3; then what S3 alone must do."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import actlake
import duckdb
import numpy as np
import pyarrow as pa
import pytest
from actlake.cli import cli
from actlake.errors import MissingFile, StoreNotFound, StoreUnreachable
from actlake.store import TABLES, Commit, DataFile, Location, Log, Reader, Reservation, verify
from actlake.store import objects as object_stores
from actlake.store.shard import write_table
from click.testing import CliRunner

if TYPE_CHECKING:
    from conftest import S3Server

QUERIES = [
    "select count(*), sum(length(token)), sum(rank) from tokens",
    "select layer, neuron, sum(activation) from activations group by all order by all",
    "select generation_id, output_position, input_position, round(score, 6), round(share, 6) from saliency order by all",
    "select generation_id, position, embedding from embeddings order by all",
    "select a.generation_id, a.position, a.layer, b.activation[3] from activation_vectors a join activation_vectors b"
    " using (generation_id, position, layer) order by all",
]

COMMITS = """
import os, sys
import boto3
from actlake.store import Commit, Location, Log, Reservation

for writer in range(8):
    if os.fork() == 0:
        log = Log(Location.of(sys.argv[1]))
        for turn in range(2):
            log.commit(lambda s: Commit(
                "register", f"{writer}/{turn}", reserve=Reservation(s.next_run_id, s.next_generation_id, 1 + writer)
            ))
        os._exit(0)
sys.exit(any(os.wait()[1] for _ in range(8)))
"""
"""Eight processes that append two commits each, at once."""


class StoreContract:
    """Each place for a store subclasses this and gives `location`, where nothing is."""

    @pytest.fixture
    def filled(self, location: Location, toy_store: Path) -> Location:
        """A copy of the toy store."""
        for file in toy_store.rglob("*"):
            if file.is_file():
                location.put_if_absent(str(file.relative_to(toy_store)), file.read_bytes())
        return location

    def test_no_store_is_an_error_that_names_the_place(self, location: Location) -> None:
        with pytest.raises(StoreNotFound, match=f"no store at '{location.uri}'"):
            actlake.open(location.uri)

    def test_eight_processes_commit_at_once_and_none_is_lost(self, location: Location) -> None:
        subprocess.run([sys.executable, "-c", COMMITS, location.uri], check=True)
        snapshot = Log(location).snapshot()
        assert set(snapshot.keys) == {f"{writer}/{turn}" for writer in range(8) for turn in range(2)}
        assert [r.run_id for r in snapshot.reservations] == list(range(16))
        assert snapshot.next_generation_id == 2 * sum(range(1, 9))

    def test_what_is_captured_is_read_back_to_the_bit_and_captured_once(
        self, location: Location, toy_model: Any, toy_prompts: list[Any], opened: actlake.Store
    ) -> None:
        for _ in range(2):
            run = actlake.capture(
                location.uri, toy_model, toy_prompts, max_new_tokens=6, precision="float32", batch_size=2
            )
        assert run.n_captured == 0
        store = actlake.open(location.uri)
        for index in range(len(toy_prompts)):
            there, here = store.generation(index), opened.generation(index)
            assert there.completion == here.completion
            assert there.activations().tobytes() == here.activations().tobytes()
            assert there.saliency().tobytes() == here.saliency().tobytes()
        report = verify(location, deep=True)
        assert (report.ok, report.n_generations) == (True, 5)

    def test_factors_that_are_saved_are_read_back(self, filled: Location) -> None:
        store = actlake.open(filled.uri)
        factors = store.generation(0).factors(2, layers=[1])
        assert [store.save(factors), store.save(factors)] == [0, 1]
        query = "select value from factor_tokens where factorization_id = 1 order by position, factor"
        np.testing.assert_array_equal(store.sql(query).fetchnumpy()["value"], factors.tokens.ravel())
        assert verify(filled, deep=True).ok

    def test_a_damaged_file_is_found_and_named(self, filled: Location) -> None:
        (file, *_) = Log(filled).snapshot().of("embeddings")
        sound = filled.read(file.path)
        flipped = bytearray(sound)
        flipped[len(sound) // 2] ^= 16
        for damaged in (bytes(flipped), sound[:-9], b"x" * len(sound)):
            filled.delete(file.path)
            filled.put_if_absent(file.path, damaged)
            (problem,) = verify(filled, deep=True).problems
            assert filled.full(file.path) in problem

    def test_a_missing_file_is_named_by_every_way_to_read(self, filled: Location) -> None:
        (file, *_) = Log(filled).snapshot().of("embeddings")
        filled.delete(file.path)
        (problem,) = verify(filled).problems
        assert problem == f"{filled.full(file.path)} is missing"
        with pytest.raises(MissingFile, match=file.path):
            actlake.open(filled.uri).generation(file.ranges["generation_id"][0]).saliency()
        with pytest.raises((MissingFile, duckdb.Error), match=file.path):
            actlake.open(filled.uri).sql("select sum(position) from embeddings").fetchall()

    def test_sql_gives_what_it_gives_over_a_local_copy_with_four_threads_time_and_again(
        self, filled: Location, opened: actlake.Store
    ) -> None:
        connection = actlake.open(filled.uri).connect()
        connection.execute("set threads = 4")
        for query in QUERIES:
            expected = opened.sql(query).fetchall()
            assert expected
            for _ in range(4):
                assert connection.sql(query).fetchall() == expected

    def test_sql_of_others_reads_it_too(self, filled: Location, opened: actlake.Store) -> None:
        rows = actlake.open(filled.uri).read_sql(QUERIES[2]).df()
        assert rows.equals(opened.sql(QUERIES[2]).df())

    def test_every_command_takes_it(self, location: Location, toy_folder: Path) -> None:
        def run(*arguments: object) -> str:
            done = CliRunner().invoke(cli, [*map(str, arguments)])
            assert done.exit_code == 0, done.stderr
            return done.stdout

        captured = run("capture", location.uri, "--model", toy_folder, "--prompt", "1, 2,", "--max-new-tokens", 3)
        assert f"run 0 of {location.uri}: captured 1 generation" in captured
        assert "activation_vectors" in run("info", location.uri)
        assert json.loads(run("verify", location.uri, "--deep", "--json"))["ok"]
        assert run("sql", location.uri, "select count(*) from generations", "--format", "csv").split() == [
            "count_star()",
            "1",
        ]


class TestALocalFolder(StoreContract):
    @pytest.fixture
    def location(self, tmp_path: Path) -> Location:
        return Location.of(tmp_path / "store")


class TestS3(StoreContract):
    @pytest.fixture
    def location(self, bucket: str) -> Location:
        return Location.of(f"{bucket}/lakes/ü one")

    def test_a_commit_whose_answer_was_lost_is_there_once(self, location: Location, s3_server: S3Server) -> None:
        log = Log(location)
        log.commit(lambda s: Commit("register", "first"))
        s3_server.replies_to_lose.append("PUT")
        snapshot = log.commit(lambda s: Commit("register", "second"))
        assert snapshot.keys == {"first": 0, "second": 1}
        assert log.snapshot().keys == snapshot.keys

    def test_one_generation_out_of_many_is_a_ranged_read(self, location: Location, s3_server: S3Server) -> None:
        vectors = np.random.default_rng(0).normal(size=(64, 1024)).astype(np.float32)
        files = [self.vectors_of(location, generations, vectors) for generations in (range(8), range(8, 16))]
        log = Log(location)
        log.commit(lambda s: Commit("register", "run", reserve=Reservation(0, 0, 16)))
        snapshot = log.commit(lambda s: Commit("capture", "unit", files))
        reader = Reader(location)
        for expected_share, ask in [
            (0.10, lambda: reader.vectors(snapshot, "activation_vectors", generation_id=11, layer=1)),
            (0.07, lambda: reader.vectors(snapshot, "activation_vectors", generation_id=12, layer=1)),
        ]:
            s3_server.requests.clear()
            assert np.array_equal(ask(), vectors + 1)
            got = [request for request in s3_server.requests if request.method == "GET"]
            assert sum(request.n_bytes for request in got) < expected_share * sum(file.bytes for file in files)
            assert {request.key for request in got} == {f"lakes/ü one/{files[1].path}".encode().decode("latin-1")}
        s3_server.requests.clear()
        query = "select sum(activation[7]) from activation_vectors where generation_id = 11 and layer = 1"
        ((total,),) = actlake.open(location.uri).sql(query).fetchall()
        assert total == pytest.approx((vectors[:, 6] + 1).sum(dtype=np.float64), rel=1e-6)
        got = sum(request.n_bytes for request in s3_server.requests if request.method == "GET")
        assert got < 0.25 * sum(file.bytes for file in files)

    def vectors_of(self, location: Location, generations: range, vectors: np.ndarray) -> DataFile:
        """A file with two layers of vectors for each generation: these, and these plus 1."""
        rows, width = vectors.shape
        parts = [
            pa.table(
                {
                    "generation_id": np.full(rows, generation),
                    "position": np.arange(rows),
                    "layer": np.full(rows, layer),
                    "activation": pa.ListArray.from_arrays(np.arange(rows + 1) * width, (vectors + layer).reshape(-1)),
                }
            )
            for generation in generations
            for layer in (0, 1)
        ]
        table = TABLES["activation_vectors"]
        return write_table(location, table, pa.concat_tables(parts).cast(table.arrow))

    def test_a_service_that_fails_is_not_called_damage(
        self, filled: Location, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store = actlake.open(filled.uri)
        monkeypatch.setattr(s3_server, "is_down", True)
        monkeypatch.setattr(object_stores, "ATTEMPTS", 1)
        with pytest.raises(StoreUnreachable, match="says"):
            store.generation(0)
        with pytest.raises(StoreUnreachable, match="says"):
            verify(filled)

    @pytest.mark.parametrize("command", ["info", "verify", "sql", "serve", "capture"])
    def test_a_command_without_credentials_says_so_in_one_line(
        self, location: Location, monkeypatch: pytest.MonkeyPatch, command: str
    ) -> None:
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        more = {"sql": ["from runs"], "capture": ["--model", "a model that is not looked for", "--prompt", "1, 2,"]}
        done = CliRunner().invoke(cli, [command, location.uri, *more.get(command, [])])
        assert done.exit_code == 1
        (line,) = done.stderr.splitlines()
        assert line.startswith("actlake: cannot reach 's3://")
        assert "AWS_ACCESS_KEY_ID" in line
