"""docs/format.md is what a store is: its reader reads, its examples are real, its schema fits every commit."""

from __future__ import annotations

import copy
import hashlib
import json
import re
import zlib
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import actlake
import jsonschema
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from actlake.store import TABLES, Commit, DataFile, Location, Log, Reservation, compact, index
from actlake.store.log import CHECKPOINT_EVERY
from actlake.store.schema import FORMAT

DOCS = Path(__file__).parent.parent / "docs"
PAGE = (DOCS / "format.md").read_text()
SCHEMA = json.loads((DOCS / "commit.schema.json").read_text())
COMMIT = jsonschema.Draft202012Validator(SCHEMA)


def part(name: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator({**SCHEMA, **SCHEMA["$defs"][name]})


def block(language: str) -> str:
    """The one block of that language in the page."""
    (text,) = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return str(text)


@pytest.fixture(scope="module")
def store(toy_model: actlake.capture.Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of which the projection has one run, some layers of another and nothing of a third, compacted between."""
    path, options = tmp_path_factory.mktemp("stores") / "lake", {"max_new_tokens": 3, "batch_size": 1}
    actlake.capture(path, toy_model, [" 1, 2, 3,", "One, two,"], **options)
    actlake.capture(path, toy_model, ["keys", "hé 😀"], index=False, **options)
    index(Location.of(path), layers=[0, 2])
    actlake.capture(path, toy_model, ["int", "sum"], index=False, precision="float32", **options)
    compact(Location.of(path))
    opened = actlake.open(path)
    opened.save(opened.generation(0).factors(2, layers=[1]))
    return path


@pytest.fixture(scope="module")
def documents(store: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_bytes()) for path in sorted((store / "_log").glob("*.json"))]


@pytest.fixture(scope="module")
def reader() -> dict[str, Any]:
    code = block("python")
    assert len(code.splitlines()) <= 70
    assert set(re.findall(r"^(?:import|from) (\w+)", code, re.MULTILINE)) <= {
        "hashlib",
        "json",
        "pathlib",
        "pyarrow",
    }
    names: dict[str, Any] = {}
    exec(compile(code, "format.md", "exec"), names)
    return names


@pytest.fixture(scope="module")
def data() -> bytes:
    lines = [line.split("  ")[1] for line in block("hex").splitlines()]
    return bytes.fromhex("".join(lines))


@pytest.fixture(scope="module")
def file() -> DataFile:
    commit = Commit.parse(block("json").encode(), "format.md", json.loads(block("json"))["version"])
    return commit.add[0]


class TestTheReaderInThePage:
    def test_it_finds_the_files_that_count(self, reader: dict[str, Any], store: Path) -> None:
        assert set(reader["files_of"](store)) == set(Log(Location.of(store)).snapshot().files)

    @pytest.mark.parametrize("generation_id", range(6))
    def test_it_reads_one_generation(self, reader: dict[str, Any], store: Path, generation_id: int) -> None:
        found = reader["generation"](store, generation_id)
        for layer in range(3):
            expected = actlake.open(store).generation(generation_id).activations(layers=[layer])
            read = [found[layer, position] for position in range(len(expected))]
            np.testing.assert_array_equal(np.array(read, np.float32), expected)

    @pytest.mark.parametrize("layer", range(3))
    def test_it_reads_one_neuron_from_what_is_indexed_and_what_is_not(
        self, reader: dict[str, Any], store: Path, layer: int
    ) -> None:
        query = "select generation_id, position, activation from activations where layer = ? and neuron = 17"
        rows = actlake.open(store).sql(query, [layer]).fetchall()
        assert reader["neuron"](store, layer, 17) == {(generation, position): a for generation, position, a in rows}

    def test_it_refuses_a_commit_that_was_changed(self, reader: dict[str, Any], store: Path, tmp_path: Path) -> None:
        (tmp_path / "_log").mkdir()
        text = (store / "_log" / f"{0:020d}.json").read_text().replace('"rows": 1', '"rows": 2')
        (tmp_path / "_log" / f"{0:020d}.json").write_text(text)
        with pytest.raises(AssertionError):
            reader["files_of"](tmp_path)


class TestTheExampleInThePage:
    def test_its_commit_fits_the_schema(self) -> None:
        COMMIT.validate(json.loads(block("json")))

    def test_its_commit_says_what_is_true_of_its_file(self, data: bytes, file: DataFile) -> None:
        assert (file.bytes, file.sha256) == (len(data), hashlib.sha256(data).hexdigest())
        assert file.footer_crc32 == zlib.crc32(data[-file.footer_bytes :])

    def test_its_file_has_the_rows_that_the_page_says(self, data: bytes, file: DataFile) -> None:
        rows = pq.read_table(pa.BufferReader(data))
        assert rows.schema == TABLES[file.table].arrow
        assert rows.to_pylist() == [
            {"generation_id": 7, "position": 0, "embedding": [1.0, -0.5]},
            {"generation_id": 7, "position": 1, "embedding": [3.140625, 0.0]},
        ]


class TestTheSchemaOfCommits:
    def test_every_commit_of_a_store_fits_it(self, documents: list[dict[str, Any]]) -> None:
        for document in documents:
            COMMIT.validate(document)
        operations = {document["operation"] for document in documents}
        assert operations == {"register", "capture", "complete", "count", "index", "compact", "save"}

    def test_a_merge_of_segments_fits_it(self, toy_model: actlake.capture.Model, tmp_path: Path) -> None:
        for prompt in ("a", "b", "c", "d"):
            actlake.capture(tmp_path, toy_model, [prompt], max_new_tokens=2)
        index(Location.of(tmp_path))
        documents = [json.loads(path.read_bytes()) for path in (tmp_path / "_log").glob("*.json")]
        assert "merge" in {document["operation"] for document in documents}
        for document in documents:
            COMMIT.validate(document)

    @pytest.mark.parametrize(
        "change",
        [
            lambda d: d.pop("key"),
            lambda d: d.update(more=1),
            lambda d: d.update(format=FORMAT + 1),
            lambda d: d.update(version="0"),
            lambda d: d.update(checksum="xyz"),
            lambda d: d["add"][0].pop("footer_crc32"),
            lambda d: d["add"][0].update(table="elsewhere"),
            lambda d: d["add"][0].update(path="../tokens/x.parquet"),
            lambda d: d["add"][0].update(rows=-1),
            lambda d: d["add"][0].update(indexed="3-"),
            lambda d: d["add"][0].update(counted="yes"),
            lambda d: d.update(counted={"a": True}),
            lambda d: d["add"][0]["ranges"].update(layer=[1]),
            lambda d: d.update(reserve={"run_id": 0}),
            lambda d: d.update(indexed={"a": [1]}),
            lambda d: d.update(created_at="yesterday"),
        ],
    )
    def test_a_changed_commit_does_not(
        self, documents: list[dict[str, Any]], change: Callable[[dict[str, Any]], Any]
    ) -> None:
        document = copy.deepcopy(documents[1])
        change(document)
        assert not COMMIT.is_valid(document)

    def test_it_lists_the_fields_of_the_code_and_its_tables(self) -> None:
        def named(*more: str, of: type) -> set[str]:
            return {field.name for field in fields(of)} | set(more)

        assert set(SCHEMA["properties"]) == named("format", "version", "checksum", of=Commit)
        assert set(SCHEMA["$defs"]["file"]["properties"]) == named(of=DataFile)
        assert set(SCHEMA["$defs"]["reservation"]["properties"]) == named(of=Reservation)
        assert set(SCHEMA["$defs"]["file"]["properties"]["table"]["enum"]) == set(TABLES)
        assert SCHEMA["properties"]["format"]["const"] == FORMAT

    def test_both_lines_of_a_checkpoint_fit_it(self, store: Path, tmp_path: Path) -> None:
        head, body, end = Log(Location.of(store)).snapshot().checkpoint().split(b"\n")
        part("checkpoint_head").validate(json.loads(head))
        part("checkpoint_body").validate(json.loads(body))
        assert end == b""
        assert json.loads(head)["sha256"] == hashlib.sha256(body).hexdigest()


class TestThePage:
    def test_it_names_every_field_table_and_number(self) -> None:
        for kind in (Commit, DataFile, Reservation):
            assert not [field.name for field in fields(kind) if f"`{field.name}`" not in PAGE]
        assert not [name for name in TABLES if f"`{name}`" not in PAGE]
        assert f"format is **{FORMAT}**" in PAGE
        assert f"every {CHECKPOINT_EVERY} commits" in PAGE

    def test_it_says_how_each_table_is_sorted_and_grouped(self) -> None:
        for table in TABLES.values():
            sort, groups = (", ".join(names) for names in (table.sort or table.key, table.row_group))
            assert f"| `{table.name}` | {sort} | {groups or '–'} | {table.group_rows:,} |" in PAGE
