"""A broken store is found and named; a sound one passes."""

import shutil
from pathlib import Path

import actlake
import pytest
import stores
from actlake.errors import ActlakeError, CorruptFile
from actlake.store import Commit, Location, Log, verify


@pytest.fixture
def store(toy_store: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(toy_store, tmp_path / "store"))


def a_file(store: Path, table: str) -> Path:
    return Path(store / next(iter(Log(Location.of(store)).snapshot().of(table))).path)


def test_a_sound_store_passes(store: Path) -> None:
    report = verify(Location.of(store), deep=True)
    assert report.ok
    assert report.n_generations == 5


@pytest.mark.parametrize("table", ["runs", "generations", "tokens", "embeddings", "gradients", "activation_vectors"])
def test_a_missing_file_is_named(store: Path, table: str) -> None:
    a_file(store, table).unlink()
    (problem,) = verify(Location.of(store)).problems
    assert f"/{table}/" in problem
    assert "missing" in problem


def test_a_truncated_file_is_named(store: Path) -> None:
    file = a_file(store, "activation_vectors")
    file.write_bytes(file.read_bytes()[:-100])
    (problem,) = verify(Location.of(store)).problems
    assert file.name in problem


def test_a_flipped_bit_anywhere_is_found_by_a_deep_check(store: Path) -> None:
    file = a_file(store, "activation_vectors")
    sound = file.read_bytes()
    for at in range(0, len(sound), max(1, len(sound) // 23)):
        file.write_bytes(sound[:at] + bytes([sound[at] ^ 16]) + sound[at + 1 :])
        (problem,) = verify(Location.of(store), deep=True).problems
        assert file.name in problem


def test_a_file_of_garbage_is_an_error_with_its_name_and_not_a_wrong_answer(store: Path) -> None:
    file = a_file(store, "activation_vectors")
    file.write_bytes(b"x" * file.stat().st_size)
    first = int(file.name.split("-")[0])
    generation = actlake.open(store).generation(first)
    with pytest.raises(CorruptFile, match=file.name):
        generation.activations()
    assert file.name in verify(Location.of(store)).problems[0]


def test_a_missing_file_fails_the_query_with_its_name(store: Path) -> None:
    file = a_file(store, "tokens")
    file.unlink()
    with pytest.raises((ActlakeError, Exception), match=file.name):
        actlake.open(store).sql("select count(token) from tokens").fetchall()


def test_a_file_that_no_commit_names_is_told_and_harmless(store: Path) -> None:
    (store / "tokens" / "left-over.parquet").write_bytes(b"PAR1")
    report = verify(Location.of(store))
    assert report.ok
    assert "tokens/left-over.parquet" in report.unreferenced


def test_a_generation_without_its_vectors_is_found(store: Path) -> None:
    log = Log(Location.of(store))
    log.commit(lambda s: Commit("lose", "lose", remove=[s.of("embeddings")[0].path]))
    problems = verify(Location.of(store)).problems
    assert problems
    assert all("rows of embeddings" in problem for problem in problems)


@pytest.mark.parametrize(("table", "n"), [("hidden_states", 3), ("layer_predictions", 2)])
def test_a_generation_without_its_rows_by_layer_is_found(tmp_path: Path, table: str, n: int) -> None:
    log = stores.a_store(Location.of(tmp_path), units=1, unit_size=1)
    assert verify(Location.of(tmp_path), deep=True).ok
    log.commit(lambda s: Commit("lose", "lose", remove=[s.of(table)[0].path]))
    expected = f"generation 0 has 0 rows of {table}, not {n * stores.N_TOKENS}"
    assert verify(Location.of(tmp_path)).problems == (expected,)


def test_a_generation_that_is_there_twice_is_found(store: Path) -> None:
    location = Location.of(store)
    file = Log(location).snapshot().of("generations")[0]
    twin = f"{file.path}.twin"
    shutil.copy(location.full(file.path), location.full(twin))
    from dataclasses import replace

    Log(location).commit(lambda s: Commit("double", "double", [replace(file, path=twin)]))
    assert any("2 times" in problem for problem in verify(location).problems)


def test_a_damaged_log_is_a_problem_and_not_a_crash(store: Path) -> None:
    (store / "_log/00000000000000000001.json").write_text("{")
    report = verify(Location.of(store))
    assert not report.ok
    assert "00000000000000000001.json" in report.problems[0]
