"""The log, shards and snapshots: what is written is read back, and nobody loses a race."""

import hashlib
import json
import multiprocessing
import os
import pickle
import re
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from actlake.errors import (
    CorruptFile,
    CorruptLog,
    FormatTooNew,
    InvalidOption,
    MissingFile,
    NotEnoughSpace,
    PrecisionOverflow,
    StoreNotFound,
)
from actlake.store import (
    TABLES,
    CapturedGeneration,
    CapturedTokens,
    Commit,
    DataFile,
    Location,
    Log,
    Reader,
    Reservation,
    parse_ranges,
    rounded,
    write_shard,
    write_table,
)
from actlake.store.memory import give_back, kept_memory
from actlake.store.parquet import list_column
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays


def a_generation(generation_id: int, n: int, p: int, layers: tuple[int, ...] = (0, 3)) -> CapturedGeneration:
    random = np.random.default_rng(generation_id)
    ints = np.arange(n, dtype=np.int32)
    floats = random.normal(size=n).astype(np.float32)
    return CapturedGeneration(
        generation_id=generation_id, run_id=0, prompt_index=generation_id, prompt="p", completion="c",
        n_prompt_tokens=p, finish_reason="length", metadata={"a": [1, "ü"]},
        tokens=CapturedTokens(ints, ["t"] * n, ints, ints + 1, ints > n, floats, ints, floats),
        embeddings=random.normal(size=(n, 8)).astype(np.float32),
        activations={layer: random.normal(size=(n, 12)).astype(np.float32) for layer in layers},
        gradients=[random.normal(size=(t, 8)).astype(np.float32) for t in range(p, n)],
    )  # fmt: skip


def committed(location: Location, generations: list[CapturedGeneration], precision: str = "float32") -> Log:
    log = Log(location)
    log.commit(lambda s: Commit("register", "run", reserve=Reservation(0, 0, 100)))
    files = write_shard(location, generations, precision)
    log.commit(lambda s: Commit("capture", "unit", files))
    return log


@given(
    sizes=st.lists(st.tuples(st.integers(1, 9), st.integers(0, 5)), min_size=1, max_size=4),
    precision=st.sampled_from(["bfloat16", "float16", "float32"]),
)
def test_a_shard_gives_back_the_rounded_bits_it_was_given(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[tuple[int, int]], precision: str
) -> None:
    location = Location.of(tmp_path_factory.mktemp("s"))
    generations = [a_generation(index, p + more, p) for index, (p, more) in enumerate(sizes)]
    snapshot, reader = committed(location, generations[::-1], precision).snapshot(), Reader(location)
    for generation in generations:
        number = generation.generation_id
        for layer, values in generation.activations.items():
            read = reader.vectors(snapshot, "activation_vectors", generation_id=number, layer=layer)
            assert read.tobytes() == rounded(values, precision).tobytes()
        assert (
            reader.vectors(snapshot, "embeddings", generation_id=number).tobytes()
            == rounded(generation.embeddings, precision).tobytes()
        )
        gradients = reader.vectors(snapshot, "gradients", generation_id=number)
        if generation.gradients:
            assert gradients.tobytes() == rounded(np.concatenate(generation.gradients), precision).tobytes()
        else:
            assert gradients.size == 0
        row = reader.rows(snapshot, "generations", generation_id=number).to_pylist()[0]
        assert (row["n_tokens"], json.loads(row["metadata"])) == (generation.n_tokens, {"a": [1, "ü"]})


def test_one_generation_of_one_layer_is_one_row_group(tmp_path: Path) -> None:
    location = Location.of(tmp_path)
    snapshot = committed(location, [a_generation(index, 9, 4) for index in range(3)]).snapshot()
    (file,) = snapshot.of("activation_vectors")
    footer = pq.read_metadata(location.full(file.path))
    assert [footer.row_group(group).num_rows for group in range(footer.num_row_groups)] == [9] * 6


def test_the_files_have_the_columns_of_the_schema_and_no_nulls_where_it_says_so(tmp_path: Path) -> None:
    location = Location.of(tmp_path)
    snapshot = committed(location, [a_generation(0, 5, 2)]).snapshot()
    for file in snapshot.files.values():
        schema = pq.read_schema(location.full(file.path))
        assert schema.equals(TABLES[file.table].arrow)


def test_files_outside_the_key_range_are_not_opened(tmp_path: Path) -> None:
    location = Location.of(tmp_path)
    log = committed(location, [a_generation(0, 5, 2)])
    log.commit(lambda s: Commit("capture", "unit 2", write_shard(location, [a_generation(7, 5, 2)], "float32")))
    snapshot = log.snapshot()
    (first, second) = snapshot.of("tokens")
    Path(location.full(first.path)).unlink()
    assert Reader(location).rows(snapshot, "tokens", generation_id=7).num_rows == 5
    assert [file.path for file in snapshot.of("tokens", generation_id=7)] == [second.path]
    with pytest.raises(MissingFile, match="tokens"):
        Reader(location).rows(snapshot, "tokens", generation_id=0)


def test_rows_that_come_in_parts_are_on_the_disk_before_the_last_has_come(tmp_path: Path) -> None:
    location, table = Location.of(tmp_path), TABLES["neuron_vectors"]
    random = np.random.default_rng(0)
    on_disk = []

    def parts() -> Iterator[pa.Table]:
        for neuron in range(5):
            on_disk.append(sum(path.stat().st_size for path in tmp_path.rglob(".*.draft")))
            keys = {
                "layer": np.zeros(1, np.int32),
                "neuron": np.array([neuron], np.int32),
                "segment_id": np.ones(1, int),
            }
            values = list_column(random.normal(size=(1, 1 << 20)).astype(np.float32))
            yield pa.table({**keys, "activation": values}, schema=table.arrow)

    file = write_table(location, table, parts())
    assert all(
        size > (before - 1) * (2 << 20) for before, size in enumerate(on_disk[2:], 2)
    )  # all but one that is being put
    assert location.size(file.path) == file.bytes
    assert not list(tmp_path.rglob(".*.draft"))


def test_nothing_of_a_shard_appears_before_all_of_it_is_encoded(tmp_path: Path) -> None:
    location, seen = Location.of(tmp_path), list[tuple[int, int]]()

    def look() -> None:
        seen.append((len(list(tmp_path.rglob("*.parquet"))), len(list(tmp_path.rglob(".*.draft")))))

    files = write_shard(location, [a_generation(0, 5, 2)], "bfloat16", look)
    assert seen == [(0, len(files))]
    assert len(list(tmp_path.rglob("*.parquet"))) == len(files)
    assert not list(tmp_path.rglob(".*.draft"))


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda g: replace(g, embeddings=g.embeddings * 1e6), "an embedding of generation 1"),
        (
            lambda g: replace(g, activations={**g.activations, 3: g.activations[3] * 1e6}),
            "an activation of generation 1, layer 3",
        ),
        (lambda g: replace(g, gradients=[each * 1e6 for each in g.gradients]), "a gradient of generation 1"),
    ],
    ids=["embedding", "activation", "gradient"],
)
def test_a_shard_with_a_value_that_does_not_fit_names_it_and_leaves_nothing(
    tmp_path: Path, change: Callable[[Any], CapturedGeneration], what: str
) -> None:
    generations = [a_generation(0, 5, 2), change(a_generation(1, 4, 2))]
    with pytest.raises(PrecisionOverflow, match=f"^{what} holds .*, which float16 cannot"):
        write_shard(Location.of(tmp_path), generations, "float16")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def resident() -> int:
    """Bytes of this process that are in memory."""
    return os.sysconf("SC_PAGE_SIZE") * int(Path("/proc/self/statm").read_text().split()[1])


def blocks_kept() -> tuple[int, int, int]:
    """Bytes that 256 MB, allocated and freed, leave in this process: within `kept_memory`, after it, and again after it."""
    before = resident()
    with kept_memory():
        np.ones(1 << 25)
        within = resident() - before
    after = resident() - before
    np.ones(1 << 25)
    return within, after, resident() - before


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
def test_large_blocks_that_were_freed_are_kept_for_the_next_ones_and_given_back_at_the_end() -> None:
    with multiprocessing.get_context("spawn").Pool(1) as alone:  # whose heap has no holes that others left
        within, after, again = alone.apply(blocks_kept)
    assert within > 200 << 20
    assert max(after, again) < 50 << 20


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
def test_memory_that_was_freed_is_given_back() -> None:
    held = [np.ones(1 << 13) for _ in range(4096)]  # 64 kB each
    del held[:-1]
    kept = resident()
    give_back()
    assert kept - resident() > 200 << 20


@given(arrays(np.float32, 64, elements=st.floats(width=32, allow_nan=True, allow_infinity=True)))
def test_bfloat16_rounding_is_torchs(values: np.ndarray) -> None:
    import torch

    expected = torch.from_numpy(values).bfloat16().float().numpy()
    if (np.isinf(expected) & np.isfinite(values)).any():
        with pytest.raises(PrecisionOverflow, match="bfloat16"):
            rounded(values, "bfloat16")
        return
    np.testing.assert_array_equal(rounded(values, "bfloat16"), expected)


def test_a_value_that_float16_cannot_hold_is_an_error_and_never_an_infinity() -> None:
    with pytest.raises(PrecisionOverflow, match="70000, which float16 cannot"):
        rounded(np.array([1.0, 70000.0], np.float32), "float16")
    assert np.isposinf(rounded(np.array([np.inf], np.float32), "float16"))


def test_a_snapshot_in_hand_is_not_disturbed_by_later_commits(tmp_path: Path) -> None:
    location = Location.of(tmp_path)
    log = committed(location, [a_generation(0, 5, 2)])
    before = log.snapshot()
    paths = [file.path for file in before.of("tokens")]
    log.commit(lambda s: Commit("remove", "gone", remove=paths))
    assert [file.path for file in before.of("tokens")] == paths
    assert log.snapshot().of("tokens") == []


def test_a_second_commit_of_the_same_key_is_a_no_op(tmp_path: Path) -> None:
    log = Log(Location.of(tmp_path))
    file = DataFile("tokens", "tokens/x.parquet", 1, 1, "", {})
    log.commit(lambda s: Commit("capture", "unit", [file]))
    snapshot = log.commit(lambda s: Commit("capture", "unit", [DataFile("tokens", "tokens/y.parquet", 1, 1, "", {})]))
    assert (snapshot.version, list(snapshot.files)) == (0, ["tokens/x.parquet"])


def _commit_many(root: str, writer: int, n: int) -> None:
    log = Log(Location.of(root))
    for index in range(n):
        log.commit(
            lambda s, index=index: Commit(
                "register", f"{writer}/{index}", reserve=Reservation(s.next_run_id, s.next_generation_id, 1 + writer)
            )
        )


def test_eight_processes_commit_at_once_and_none_is_lost_nor_any_number_given_twice(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_commit_many, args=(str(tmp_path), writer, 12)) for writer in range(8)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    snapshot = Log(Location.of(tmp_path)).snapshot()
    assert set(snapshot.keys) == {f"{writer}/{index}" for writer in range(8) for index in range(12)}
    taken = [
        i for r in snapshot.reservations for i in range(r.first_generation_id, r.first_generation_id + r.n_generations)
    ]
    assert sorted(taken) == list(range(12 * sum(range(1, 9))))
    assert [r.run_id for r in snapshot.reservations] == list(range(96))


def test_a_missing_store_is_an_error_that_creates_nothing(tmp_path: Path) -> None:
    with pytest.raises(StoreNotFound, match="no store at"):
        Log(Location.of(tmp_path / "none")).snapshot()
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"format": 1}', b"null"])
def test_a_torn_commit_is_named(tmp_path: Path, damage: bytes) -> None:
    log = committed(Location.of(tmp_path), [a_generation(0, 5, 2)])
    (tmp_path / "_log/00000000000000000001.json").write_bytes(damage)
    with pytest.raises(CorruptLog, match=r"00000000000000000001\.json"):
        log.snapshot()


def test_a_changed_letter_in_a_commit_is_found(tmp_path: Path) -> None:
    log = committed(Location.of(tmp_path), [a_generation(0, 5, 2)])
    path = tmp_path / "_log/00000000000000000001.json"
    path.write_text(path.read_text().replace('"rows": 5', '"rows": 6', 1))
    with pytest.raises(CorruptLog, match="checksum"):
        log.snapshot()


def test_a_missing_commit_is_named(tmp_path: Path) -> None:
    log = committed(Location.of(tmp_path), [a_generation(0, 5, 2)])
    (tmp_path / "_log/00000000000000000000.json").unlink()
    with pytest.raises(CorruptLog, match=r"00000000000000000000\.json.*missing"):
        log.snapshot()


def test_a_newer_format_is_refused_with_the_version_to_install(tmp_path: Path) -> None:
    log = committed(Location.of(tmp_path), [a_generation(0, 5, 2)])
    path = tmp_path / "_log/00000000000000000001.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 9, "needs": "3.1"}))
    with pytest.raises(FormatTooNew, match=r"format 9.*actlake>=3\.1"):
        log.snapshot()


def test_the_stores_own_page_says_how_plain_duckdb_finds_its_files(
    toy_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(toy_store)
    (query,) = re.findall("```sql\n(.*?)```", Path("README.md").read_text(), re.DOTALL)
    for table in ("tokens", "runs"):
        ((paths,),) = duckdb.sql(query.replace("'tokens'", f"'{table}'")).fetchall()
        assert set(paths) == {file.path for file in Log(Location.of(toy_store)).snapshot().of(table)}
        assert duckdb.read_parquet(paths).fetchall()


def test_unfinished_drafts_in_the_log_are_not_commits(tmp_path: Path) -> None:
    log = committed(Location.of(tmp_path), [a_generation(0, 5, 2)])
    (tmp_path / "_log/.abc.draft").write_text("{")
    assert log.snapshot().version == 1


def test_an_error_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(PrecisionOverflow("an activation", 7e4, "float16")))
    assert str(error) == str(PrecisionOverflow("an activation", 7e4, "float16"))


def test_a_run_that_would_fill_the_disk_is_told_in_words() -> None:
    error = pickle.loads(pickle.dumps(NotEnoughSpace("corpus", 2_000_000_000, 1_500_000_000)))
    assert str(error).startswith("the run may write 2.00 GB and 'corpus' has 1.50 GB free; record less")


@given(st.sets(st.integers(0, 200), min_size=1))
def test_ranges_are_read_as_they_are_written(numbers: set[int]) -> None:
    from actlake.errors import number_ranges

    assert parse_ranges(number_ranges(sorted(numbers))) == tuple(sorted(numbers))


@pytest.mark.parametrize(
    "text",
    [",".join(f"{first}-{first + 99_999}" for first in range(0, 100_100_000, 100_001)), "0-99999,7", "1" * 5000],
)
def test_ranges_are_bounded_together_before_any_is_made(text: str) -> None:
    tracemalloc.start()
    with pytest.raises(InvalidOption, match=r"100,000 numbers|numbers and ranges") as caught:
        parse_ranges(text)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()
    assert len(str(caught.value)) < 300


def test_a_commit_of_a_number_far_ahead_makes_the_first_gap_an_error(tmp_path: Path) -> None:
    location = Location.of(tmp_path)
    log = Log(location)
    log.commit(lambda _: Commit("register", "run", reserve=Reservation(0, 0, 1)))
    location.put_if_absent("_log/00000000000030000000.json", b"{}")
    tracemalloc.start()
    with pytest.raises(CorruptLog, match=r"00000000000000000001\.json.*it is missing"):
        log.newest()
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


@pytest.mark.parametrize(
    "path",
    ["../x", "tokens/../../x", "/etc/passwd", "tokens/..", "embeddings/x", "tokens/a/b", "tokens", "tokens/", ""],
)
def test_a_commit_that_names_a_file_outside_of_its_table_is_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(ValueError, match="TABLE/FILE"):
        DataFile("tokens", path, 1, 1, "")
    log = Log(Location.of(tmp_path))
    snapshot = log.commit(lambda _: Commit("register", "run", reserve=Reservation(0, 0, 1)))
    good = DataFile("tokens", "tokens/x.parquet", 1, 1, "")
    document = Commit("capture", "unit", [good]).following(snapshot).document(1)
    body = json.loads(document)
    body["add"][0]["path"] = path
    del body["checksum"]
    checksum = hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    (tmp_path / "_log/00000000000000000001.json").write_text(json.dumps(body | {"checksum": checksum}))
    with pytest.raises(CorruptLog, match="TABLE/FILE"):
        log.snapshot()


def test_a_link_out_of_the_store_is_not_followed(tmp_path: Path) -> None:
    location = Location.of(tmp_path / "store")
    log = committed(location, [a_generation(0, 5, 2)])
    (file,) = log.snapshot().of("generations")
    path = Path(location.full(file.path))
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CorruptFile, match="leads out of the store"):
        Reader(location).rows(log.snapshot(), "generations")
    (tmp_path / "link").symlink_to(tmp_path / "store")
    assert Reader(Location.of(tmp_path / "link")).rows(log.snapshot(), "tokens").num_rows == 5


def test_a_small_file_that_unpacks_to_hundreds_of_megabytes_is_not_read(tmp_path: Path) -> None:
    location = Location.of(tmp_path)
    log = committed(location, [a_generation(0, 5, 2)])
    (file,) = log.snapshot().of("generations")
    rows = pq.read_table(location.full(file.path))
    padded = rows.set_column(rows.schema.get_field_index("metadata"), "metadata", pa.array(["{}" + " " * 100_000_000]))
    pq.write_table(padded, location.full("generations/padded.parquet"), compression="zstd", use_dictionary=False)
    data = location.read("generations/padded.parquet")
    checksum = hashlib.sha256(data).hexdigest()
    added = replace(file, path="generations/padded.parquet", bytes=len(data), sha256=checksum, footer_bytes=0)
    log.commit(lambda _: Commit("capture", "padded", [added], [file.path]))
    with pytest.raises(CorruptFile, match=r"unpack to 100,\d+,\d+"):
        Reader(location).rows(log.snapshot(), "generations", columns=["prompt_index"])
