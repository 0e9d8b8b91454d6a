"""Columns that came with a newer format are null in files of older ones, however they are read."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import actlake
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import stores
from actlake.store import TABLES, Location, Log, Reader, Snapshot, compact, gc, index, verify, write_shard
from actlake.store.log import Commit
from actlake.store.schema import FORMAT

DUCKDB = Path(sys.executable).with_name("duckdb")
ROLES = [None, "system", "user", "user", "assistant", "assistant", "assistant"]
QUERY = "select generation_id, position, role from tokens order by all"
SOURCES = [None, None, {"prompt": "hi"}]


def commit_newer(location: Location) -> None:
    """A generation, number 2, of the newest format."""
    generation = stores.a_generation(2)
    generation = replace(generation, tokens=replace(generation.tokens, role=ROLES), source=SOURCES[2])
    files = write_shard(location, [generation], "float32")
    Log(location).commit(lambda _: Commit("capture", "newer", files))


@pytest.fixture
def old(tmp_path: Path) -> Location:
    """Two generations of format 3, each in files of its own."""
    location = Location.of(tmp_path / "store")
    stores.a_store(location, units=2, unit_size=1)
    stores.as_of_format(location, 3)
    return location


@pytest.fixture
def mixed(old: Location) -> Location:
    """Two generations of format 3, and then one of the newest."""
    commit_newer(old)
    return old


def roles(*of_generations: list[str | None]) -> list[tuple[int, int, str | None]]:
    return [(number, at, role) for number, each in enumerate(of_generations) for at, role in enumerate(each)]


NONE: list[str | None] = [None] * stores.N_TOKENS


def test_a_store_of_format_3_has_no_roles_in_any_way_to_ask(old: Location, tmp_path: Path) -> None:
    assert [commit.operation for commit in Log(old).commits()] == ["register", "capture", "capture"]
    check(old, roles(NONE, NONE), tmp_path)
    assert verify(old, deep=True).ok


def test_files_of_both_formats_are_read_together(mixed: Location, tmp_path: Path) -> None:
    check(mixed, roles(NONE, NONE, ROLES), tmp_path)
    assert verify(mixed, deep=True).ok


def test_they_are_compacted_into_one_file_that_has_the_columns(mixed: Location, tmp_path: Path) -> None:
    compact(mixed)
    gc(mixed, grace_s=0)
    assert len(Log(mixed).snapshot().of("tokens")) == 1
    check(mixed, roles(NONE, NONE, ROLES), tmp_path)
    assert verify(mixed, deep=True).ok


def check(location: Location, expected: list[tuple[int, int, str | None]], tmp_path: Path) -> None:
    store, names = actlake.open(location.uri), ["generation_id", "position", "role"]
    assert store.sql(QUERY).fetchall() == expected
    assert store.connect().sql(QUERY).fetchall() == expected
    assert store.read_sql(QUERY).fetchall() == expected
    (tmp_path / "views.sql").write_text(store.views_script())
    shell = [DUCKDB, "-init", tmp_path / "views.sql", "-csv", "-noheader", "-c", QUERY]
    lines = subprocess.run([*map(str, shell)], capture_output=True, text=True, check=True).stdout.splitlines()
    assert [tuple(line.split(",")) for line in lines] == [(str(g), str(p), r or "NULL") for g, p, r in expected]
    assert triples(Reader(location).rows(store.snapshot, "tokens"), names) == expected
    assert triples(Reader(location).rows(store.snapshot, "tokens", columns=["role"]), ["role"]) == [
        (role,) for *_, role in expected
    ]
    assert triples(store.arrow("tokens").to_table(), names) == expected
    assert [tuple(row[name] for name in names) for row in store.to_datasets(["tokens"])["tokens"]] == expected
    for number in sorted({number for number, *_ in expected}):
        of_tokens = store.generation(number).tokens["role"]
        assert [None if pd.isna(role) else role for role in of_tokens] == [r for n, _, r in expected if n == number]
        assert store.generation(number).source == SOURCES[number]
    store.export(QUERY, tmp_path / "roles.parquet")
    assert triples(pq.read_table(tmp_path / "roles.parquet"), names) == expected


def triples(rows: pa.Table, names: list[str]) -> list[tuple[Any, ...]]:
    return [tuple(row[name] for name in names) for row in rows.to_pylist()]


def test_a_column_that_came_later_may_be_null_and_stands_at_the_end() -> None:
    for table in TABLES.values():
        since = [column.since for column in table.columns]
        assert since == sorted(since)
        assert max(since) <= FORMAT
        assert all(column.nullable for column in table.columns if column.since > 1)


def test_a_projection_of_format_5_goes_on_beside_statistics_that_captures_make(
    tmp_path: Path, toy_model: actlake.capture.Model
) -> None:
    location = Location.of(tmp_path / "store")
    stores.a_store(location, units=2, unit_size=2)
    index(location)
    stores.as_of_format(location, 5)
    query = "from neuron_stats where run_id = 0 order by layer, neuron"
    before = actlake.open(location.uri).sql(query).fetchall()
    assert len(before) == len(stores.LAYERS) * stores.D_FF
    for prompt in ("One, two,", "keys"):
        actlake.capture(location.uri, toy_model, [prompt], max_new_tokens=2)
    assert verify(location, deep=True).ok
    assert actlake.open(location.uri).sql(query).fetchall() == before
    stores.assert_counted(location.root)


def test_files_of_an_older_checkpoint_are_not_counted(old: Location) -> None:
    snapshot = Log(old).snapshot()
    head, body, _ = snapshot.checkpoint().split(b"\n")
    said = json.loads(body)
    del said["files"]["counted"]
    data = json.dumps(said).encode()
    older = json.loads(head) | {"format": 5, "sha256": hashlib.sha256(data).hexdigest()}
    assert Snapshot.parse(json.dumps(older).encode() + b"\n" + data + b"\n", "a checkpoint") == snapshot
