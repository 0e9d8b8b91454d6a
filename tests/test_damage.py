"""Damaged stores: whatever is broken is found and named, and no way to ask gives a wrong answer."""

from __future__ import annotations

import json
import random
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import actlake
import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest
import stores
from actlake.errors import ActlakeError, CorruptFile, CorruptLog, FormatTooNew, MissingFile
from actlake.queries.messages import says_of_no_file
from actlake.store import (
    TABLES,
    Commit,
    DataFile,
    Location,
    Log,
    Reader,
    Snapshot,
    compact,
    gc,
    index,
    save_label,
    thrift,
    verify,
)
from actlake.store.log import CHECKPOINT_EVERY
from actlake.store.schema import FORMAT

VECTORS = tuple(name for name, table in TABLES.items() if table.vector)
PROJECTION = ("segments", "neuron_vectors", "neuron_partials")
NEURON = (3, 5)
GENERATION = 1

Answers = Mapping[str, Callable[[actlake.Store], Any]]


def _sql(query: str, store: actlake.Store) -> str:
    with store.reading(query) as rows:
        return repr(rows.fetchall())


def _batches(table: str, store: actlake.Store) -> str:
    batches = Reader(store.location).batches(store.snapshot, table, {})
    return repr([[{name: values.tolist() for name, values in b.keys.items()}, b.vectors.tobytes()] for b in batches])


def _rows(table: str, store: actlake.Store) -> str:
    return repr(Reader(store.location).rows(store.snapshot, table).to_pylist())


def _neuron(path: str, store: actlake.Store) -> str:
    return _sql(f"from {path}.activations where layer = {NEURON[0]} and neuron = {NEURON[1]} order by all", store)


ANSWERS: Answers = {
    **{f"sql {name}": partial(_sql, f"from {name} order by all") for name in TABLES},
    **{
        f"sql {name}": partial(_sql, f"from {name} order by all")
        for name in ("activations", "neuron_stats", "neuron_examples")
    },
    "sql saliency": partial(  # of both tables, whose rows come in any order: sums differ in their last digits
        _sql, "select * replace (round(share, 9) as share) from saliency order by all"
    ),
    **{f"rows {name}": partial(_rows, name) for name in TABLES},
    **{f"batches {name}": partial(_batches, name) for name in VECTORS},
    **{f"neuron {path}": partial(_neuron, path) for path in ("by_token", "by_neuron")},
    "activations": lambda store: store.generation(GENERATION).activations().tobytes(),
    "embeddings": lambda store: store.generation(GENERATION).embeddings().tobytes(),
    "gradients": lambda store: store.generation(GENERATION).gradients().tobytes(),
    "hidden states": lambda store: store.generation(GENERATION).hidden_states().tobytes(),
    "layer predictions": lambda store: repr(store.generation(GENERATION).layer_predictions().to_dict("list")),
    "saliency": lambda store: store.generation(GENERATION).saliency().tobytes(),
    "tokens": lambda store: repr(store.generation(GENERATION).tokens.to_dict()),
    "runs": lambda store: repr(store.runs().to_dict()),
    "generations": lambda store: repr(store.generations().to_dict()),
    "factorizations": lambda store: repr(store.factorizations().to_dict()),
    "labels": lambda store: repr(store.labels().to_dict("list")),
}
"""Every way to ask."""

READ_BY = {
    name: [way for way in ANSWERS if way.endswith(f" {name}")] + more
    for name, more in {
        "runs": ["runs", "activations"],
        "generations": ["generations", "activations"],
        "tokens": ["tokens"],
        "embeddings": ["embeddings", "sql saliency"],
        "gradients": ["gradients", "sql saliency"],
        "gradient_scores": ["saliency", "sql saliency"],
        "activation_vectors": ["activations", "neuron by_token", "sql activations"],
        "hidden_states": ["hidden states"],
        "layer_predictions": ["layer predictions"],
        "segments": ["neuron by_neuron"],
        "neuron_vectors": ["neuron by_neuron"],
        "neuron_partials": ["sql neuron_stats", "sql neuron_examples"],
        "factorizations": ["factorizations"],
        "factor_tokens": [],
        "factor_neurons": [],
        "label_changes": ["labels"],
    }.items()
}
"""The ways that read a table."""


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two units of two generations, with their projection, two saved factorizations and a label."""
    path = tmp_path_factory.mktemp("stores") / "sound"
    fill(Location.of(path))
    return path


def fill(location: Location) -> None:
    stores.a_store(location)
    index(location)
    stores.save_factors(location)
    save_label(Log(location), "a label", {"layer": 0, "neuron": 1})


@pytest.fixture(scope="module")
def answers(sound: Path) -> Mapping[str, Any]:
    store = actlake.open(sound)
    return {way: ask(store) for way, ask in ANSWERS.items()}


@pytest.fixture
def store(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "store"))


def file_of(store: Path, table: str) -> tuple[DataFile, Path]:
    """The file of a table that has the generation, or the neuron, that is asked for."""
    snapshot = Log(Location.of(store)).snapshot()
    file = snapshot.of(table, generation_id=GENERATION, layer=NEURON[0], neuron=NEURON[1])[0]
    return file, store / file.path


@contextmanager
def flipped(path: Path, at: int, bit: int) -> Iterator[None]:
    """A file in which one bit is another."""
    with path.open("r+b", buffering=0) as file:
        file.seek(at)
        (byte,) = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ 1 << bit]))
        yield
        file.seek(at)
        file.write(bytes([byte]))


def page_headers(path: Path) -> list[range]:
    """Where the headers of a file's pages lie."""
    data, footer, headers = path.read_bytes(), pq.read_metadata(path), []
    for group in range(footer.num_row_groups):
        for column in range(footer.num_columns):
            at = footer.row_group(group).column(column).data_page_offset
            headers.append(range(at, thrift.read_struct(data, at)[1]))
    return headers


def ask(store: Path, way: str, name: str) -> Any:
    """An answer; None for an error that says which file is damaged."""
    failure: ActlakeError
    try:
        return ANSWERS[way](actlake.open(store))
    except ActlakeError as error:
        failure = error
    assert name in str(failure), f"{way}: {failure!r}"
    return None


@pytest.mark.slow
@pytest.mark.parametrize("table", TABLES)
def test_a_flipped_bit_is_an_error_or_does_not_matter_by_every_way_to_ask(
    store: Path, answers: Mapping[str, Any], table: str
) -> None:
    file, path = file_of(store, table)
    draw = random.Random(table)
    headers = [at for header in page_headers(path) for at in header]
    places = [
        *draw.sample(headers, 8),
        *draw.sample(range(file.bytes - file.footer_bytes), 8),
        *draw.sample(range(file.bytes - file.footer_bytes, file.bytes), 4),
    ]
    n_found = 0
    for at in places:
        with flipped(path, at, draw.randrange(8)):
            for way in READ_BY[table]:
                answer = ask(store, way, path.name)
                assert answer is None or answer == answers[way], f"{way}, byte {at} of {path.name}"
                n_found += answer is None
            (problem,) = verify(Location.of(store), deep=True).problems
            assert path.name in problem
            assert ("--rebuild" in problem) == (table in PROJECTION)
    assert n_found > len(places)  # most flips are found, by all ways that meet them


@pytest.mark.slow
@pytest.mark.parametrize("table", TABLES)
def test_no_flip_in_a_page_header_is_a_wrong_answer_of_duckdb_or_of_the_reader(store: Path, table: str) -> None:
    file, path = file_of(store, table)
    snapshot, location, name = Snapshot(files={file.path: file}), Location.of(store), path.name
    connection = duckdb.connect(config={"threads": 1})

    def by_duckdb() -> str:
        return repr(connection.execute("from read_parquet(?)", [str(path)]).fetchall())

    def by_reader() -> str:
        opened = actlake.Store.__new__(actlake.Store)
        opened.location, opened.snapshot = location, snapshot
        return _batches(table, opened) if table in VECTORS else _rows(table, opened)

    right, draw = (by_duckdb(), by_reader()), random.Random(table)
    flips = [(at, bit) for header in page_headers(path) for at in header for bit in range(8)]
    for at, bit in draw.sample(flips, min(900, len(flips))):
        with flipped(path, at, bit):
            for read, expected in zip((by_duckdb, by_reader), right, strict=True):
                with suppress(duckdb.Error, CorruptFile):
                    assert read() == expected, f"byte {at}, bit {bit} of {name}"


def test_the_end_of_a_page_header_can_flip_in_a_file_of_many_small_pages(tmp_path: Path) -> None:
    location = Location.of(tmp_path)
    log = stores.registered(location)
    stores.capture_unit(location, range(60), "bfloat16")
    (file,) = log.snapshot().of("activation_vectors")
    path, connection = tmp_path / file.path, duckdb.connect(config={"threads": 1})

    def keys() -> Any:
        query = "select generation_id, position, layer from read_parquet(?)"
        return connection.execute(query, [str(path)]).fetchall()

    right = keys()
    for header in page_headers(path):
        with flipped(path, header.stop - 1, 3), suppress(duckdb.Error):
            assert keys() == right


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "garbage"])
def test_a_broken_file_is_named_by_every_way_that_reads_it(store: Path, table: str, damage: str) -> None:
    _, path = file_of(store, table)
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes({"empty": b"", "cut": data[:-3], "garbage": b"x" * len(data)}[damage])
    for way in READ_BY[table]:
        with pytest.raises((MissingFile, CorruptFile), match=re.escape(path.name)):
            ANSWERS[way](actlake.open(store))
    for deep in (False, True):
        (problem,) = verify(Location.of(store), deep=deep).problems
        assert path.name in problem
        assert ("--rebuild" in problem) == (table in PROJECTION)


@pytest.mark.parametrize("table", TABLES)
def test_files_of_one_table_that_are_swapped_are_named(tmp_path: Path, table: str) -> None:
    location = Location.of(tmp_path)
    fill(location)
    fill(Location.of(tmp_path / "other"))
    _, path = file_of(tmp_path, table)
    twin = [file for file in Log(location).snapshot().of(table) if tmp_path / file.path != path]
    other = tmp_path / twin[0].path if twin else file_of(tmp_path / "other", table)[1]
    path.write_bytes(other.read_bytes()[: path.stat().st_size].ljust(path.stat().st_size, b"\0"))
    if path.read_bytes() == other.read_bytes() and table == "runs":
        return  # the very same run
    for way in READ_BY[table]:
        with pytest.raises(CorruptFile, match=re.escape(path.name)):
            ANSWERS[way](actlake.open(tmp_path))
    assert path.name in verify(location).problems[0]


def test_a_damaged_projection_is_made_again(store: Path, answers: Mapping[str, Any]) -> None:
    location = Location.of(store)
    for table in PROJECTION:
        file_of(store, table)[1].unlink()
    assert len(verify(location).problems) == 3
    index(location, rebuild=True)
    assert verify(location, deep=True).ok
    opened = actlake.open(store)
    for way in ("neuron by_neuron", "sql neuron_stats", "sql neuron_examples"):
        assert ANSWERS[way](opened) == answers[way]


@pytest.mark.parametrize("table", PROJECTION)
def test_a_projection_that_lost_a_file_by_a_commit_is_found(store: Path, table: str) -> None:
    location = Location.of(store)
    Log(location).commit(lambda s: Commit("lose", "lose", remove=[s.of(table)[0].path]))
    problems = verify(location).problems
    assert problems
    assert all("--rebuild" in problem for problem in problems)


def test_a_file_that_says_that_it_is_indexed_and_is_not_is_found(store: Path) -> None:
    location = Location.of(store)
    stores.capture_unit(location, [4, 5])
    Log(location).commit(lambda s: Commit("lie", "lie", indexed={s.of("activation_vectors")[-1].path: "3"}))
    vectors, statistics = verify(location).problems
    assert "layer 3 of generation 4 is not just once in the projection" in vectors
    assert "layer 3 of generation 4 is not just once in the statistics" in statistics


def test_a_file_that_says_that_it_is_counted_and_is_not_is_found(store: Path) -> None:
    location = Location.of(store)
    stores.capture_unit(location, [4, 5])
    Log(location).commit(lambda s: Commit("lie", "lie", counted=[s.of("activation_vectors")[-1].path]))
    problems = verify(location).problems
    assert len(problems) == len(stores.LAYERS)
    assert "layer 0 of generation 4 is not just once in the statistics" in problems[0]


def test_values_of_the_projection_that_are_not_the_token_major_ones_are_found_by_a_deep_check(store: Path) -> None:
    location = Location.of(store)
    log, reader = Log(location), Reader(location)
    snapshot = log.snapshot()
    file = next(file for file in snapshot.of("neuron_vectors") if file.ranges["layer"] == (3, 3))
    rows = reader.rows(Snapshot(files={file.path: file}), file.table)
    values = np.stack(rows["activation"].to_numpy())
    values[2, 9] += 1  # token 9 is position 2 of generation 1
    from actlake.store import write_table
    from actlake.store.parquet import list_column

    changed = rows.set_column(
        rows.schema.get_field_index("activation"), rows.schema.field("activation"), list_column(values)
    )
    new = write_table(location, TABLES["neuron_vectors"], changed)
    log.commit(lambda s: Commit("change", "change", [new], [file.path]))
    assert verify(location).ok
    (problem,) = verify(location, deep=True).problems
    assert "layer 3, generation 1, position 2, are others" in problem


LAST = 6
"""The newest commit of `sound`: a run, two units, their segment, two factorizations, a label."""


def entry(store: Path, version: int) -> Path:
    return store / f"_log/{version:020d}.json"


@pytest.mark.parametrize("version", range(LAST + 1))
@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "another number", "another version", "another key"])
def test_a_broken_commit_is_named(store: Path, version: int, damage: str) -> None:
    path = entry(store, version)
    text = path.read_text()
    broken = {
        "empty": "",
        "cut": text[: len(text) // 2],
        "another number": text.replace(f'"version": {version}', f'"version": {version + 1}'),
        "another version": text.replace(f'"format": {FORMAT}', f'"format": {FORMAT + 1}'),
        "another key": text.replace('"key": "', '"key": "x'),
    }
    if damage == "missing":
        path.unlink()
    else:
        assert broken[damage] != text
        path.write_text(broken[damage])
    if damage == "missing" and version == LAST:
        assert actlake.open(store).snapshot.version == LAST - 1  # nobody can know
        return
    with pytest.raises((CorruptLog, FormatTooNew), match=path.name):
        actlake.open(store)
    (problem,) = verify(Location.of(store)).problems
    assert path.name in problem


def test_a_flipped_bit_in_a_commit_is_named_or_does_not_matter(store: Path) -> None:
    draw, location = random.Random(1), Location.of(store)
    expected = Log(location).snapshot()
    for version in range(LAST + 1):
        path = entry(store, version)
        size = path.stat().st_size
        for at in draw.sample(range(size), min(size, 150)):
            said = path.name
            with flipped(path, at, draw.randrange(8)):
                try:
                    found = Log(location).snapshot()
                except (CorruptLog, FormatTooNew) as error:
                    found, said = expected, str(error)
            assert found == expected
            assert path.name in said


@pytest.mark.parametrize("version", range(1, LAST + 1))
def test_a_commit_of_another_store_is_found(store: Path, tmp_path: Path, version: int) -> None:
    fill(Location.of(tmp_path / "other"))
    shutil.copy(entry(tmp_path / "other", version), entry(store, version))
    with pytest.raises(CorruptLog, match=rf"{version:020d}\.json.*another store"):
        actlake.open(store)


def test_a_first_commit_of_another_store_is_found(store: Path, tmp_path: Path) -> None:
    stores.a_store(Location.of(tmp_path / "other"))
    shutil.copy(entry(tmp_path / "other", 0), entry(store, 0))
    with pytest.raises(CorruptLog, match="it does not follow commit 0; one of them is of another store"):
        actlake.open(store)


@pytest.mark.parametrize("name", ["notes.txt", ".x.draft", "1.json", "00000000000000000001.json.bak"])
def test_a_strange_file_in_the_log_does_not_matter(store: Path, answers: Mapping[str, Any], name: str) -> None:
    (store / "_log" / name).write_text("garbage")
    assert verify(Location.of(store), deep=True).ok
    assert ANSWERS["generations"](actlake.open(store)) == answers["generations"]
    stores.capture_unit(Location.of(store), [4, 5])
    assert len(actlake.open(store).generations()) == 6


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with enough commits that its log has two checkpoints."""
    path = tmp_path_factory.mktemp("stores") / "long"
    log = stores.a_store(Location.of(path))
    for number in range(2 * CHECKPOINT_EVERY + 3 - 3):
        log.commit(lambda s, number=number: Commit("nothing", f"nothing/{number}"))
    return path


@pytest.fixture
def long_store(long: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(long, tmp_path / "store"))


def test_there_are_two_and_they_agree_with_the_commits(long_store: Path) -> None:
    log = Log(Location.of(long_store))
    assert [log.read_checkpoint(path).version for path in log.checkpoints()] == [127, 255]
    for path in log.checkpoints():
        checkpoint = log.read_checkpoint(path)
        assert checkpoint == log.replayed(Snapshot(), checkpoint.version)
    assert verify(Location.of(long_store)).ok


@pytest.mark.parametrize("which", [[0], [1], [0, 1]])
@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "version", "format", "other"])
def test_a_broken_checkpoint_does_not_matter_and_is_named(long_store: Path, which: list[int], damage: str) -> None:
    location = Location.of(long_store)
    log = Log(location)
    expected, paths = log.snapshot(), [long_store / path for path in log.checkpoints()]
    sound = [path.read_bytes() for path in paths]
    for number in which:
        data, twin = sound[number], sound[1 - number]
        version = {0: b"127", 1: b"255"}[number]
        broken = {
            "empty": b"",
            "cut": data[:-40],
            "version": data.replace(b'"version": ' + version, b'"version": 126', 1),
            "format": data.replace(b'"format": %d' % FORMAT, b'"format": 77', 1),
            "other": twin,
        }
        if damage == "missing":
            paths[number].unlink()
        else:
            assert broken[damage] != data
            paths[number].write_bytes(broken[damage])
    assert log.snapshot() == expected
    assert log.snapshot(at=130) == log.replayed(Snapshot(), 130)
    problems = verify(location).problems
    assert len(problems) == (0 if damage == "missing" else len(which))
    for number, problem in zip(which, problems, strict=False):
        assert paths[number].name in problem


def test_a_flipped_bit_in_a_checkpoint_does_not_matter(long_store: Path) -> None:
    draw, log = random.Random(2), Log(Location.of(long_store))
    expected, path = log.snapshot(), long_store / log.checkpoints()[-1]
    places = [*range(110), *draw.sample(range(path.stat().st_size), 40)]
    for at in draw.sample(places, 60):
        with flipped(path, at, draw.randrange(8)):
            assert log.snapshot() == expected


def test_a_broken_commit_from_before_the_checkpoints_does_not_matter_and_is_named(long_store: Path) -> None:
    expected = Log(Location.of(long_store)).snapshot()
    entry(long_store, 7).write_text("{")
    assert Log(Location.of(long_store)).snapshot() == expected
    (problem,) = verify(Location.of(long_store)).problems
    assert entry(long_store, 7).name in problem
    with pytest.raises(CorruptLog, match=entry(long_store, 7).name):
        gc(Location.of(long_store), grace_s=0)


def test_a_file_that_gc_deleted_says_which_commit_removed_it(store: Path) -> None:
    location = Location.of(store)
    compact(location)
    gc(location, grace_s=0)
    before = actlake.open(store, at=LAST)
    for way in ("sql tokens", "rows tokens", "tokens"):
        with pytest.raises(MissingFile, match=r"is gone: commit \d+ removed it.*open the store as it is now"):
            ANSWERS[way](before)
    newest = Log(location).snapshot().version
    assert [actlake.open(store, at=n).snapshot.version for n in range(newest + 1)] == list(range(newest + 1))
    assert len(actlake.open(store).generations()) == 4


def test_a_check_that_is_not_deep_reports_a_damaged_page_and_does_not_crash(store: Path) -> None:
    _, path = file_of(store, "generations")
    with flipped(path, page_headers(path)[0].stop + 8, 4):
        (problem,) = verify(Location.of(store)).problems
        assert path.name in problem


@pytest.mark.parametrize("table", ["runs", "segments", "neuron_partials", "factorizations"])
def test_an_arrow_dataset_of_a_table_with_lists_is_not_given_when_a_page_header_is_damaged(
    store: Path, table: str
) -> None:
    _, path = file_of(store, table)
    opened = actlake.open(store)
    for header in page_headers(path)[-2:]:
        with flipped(path, header.start + 1, 2):
            for ask in (opened.arrow, lambda name: opened.to_datasets([name])):
                with pytest.raises(CorruptFile, match=re.escape(path.name)):
                    ask(table)
    assert opened.arrow(table).count_rows()


def test_a_commit_names_its_parent(store: Path) -> None:
    chain = [json.loads(entry(store, version).read_text()) for version in range(LAST + 1)]
    assert [commit["parent"] for commit in chain] == ["", *(commit["checksum"] for commit in chain[:-1])]
    commit = Log(Location.of(store)).read(2)
    assert replace(commit, checksum="").following(Log(Location.of(store)).snapshot(at=1)) == commit


def test_a_page_whose_header_duckdb_cannot_read_is_named_by_sandboxed_sql_and_an_export(
    store: Path, tmp_path: Path
) -> None:
    _, path = file_of(store, "tokens")
    opened = actlake.open(store)
    with flipped(path, page_headers(path)[0].start, 3):
        with pytest.raises(duckdb.Error, match="know what type"):
            opened.sql("from tokens").fetchall()
        for ask in (
            lambda: opened.read_sql("from tokens").fetchall(),
            lambda: opened.export("tokens", tmp_path / "t.csv"),
            lambda: opened.responding("token = 'a'"),
        ):
            with pytest.raises(CorruptFile, match=re.escape(path.name)):
                ask()
    assert not (tmp_path / "t.csv").exists()


@pytest.mark.parametrize(
    ("said", "is_of_no_file"),
    [
        ("don't know what type: \x0f", True),
        ("Invalid Error: don't know what type: \x0f", True),  # from one of DuckDB's own threads
        ("Invalid Input Error: read error", False),
        ("IO Error: No files found", False),
    ],
)
def test_an_error_of_a_page_is_known_from_whichever_thread_met_it(said: str, is_of_no_file: bool) -> None:
    assert says_of_no_file(duckdb.Error(said)) == is_of_no_file
