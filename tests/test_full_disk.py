"""A disk that is full: one clear error, nothing lost, nothing half written, and the same again finishes when there is room."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import actlake
import pytest
import stores
from actlake.capture import Model
from actlake.errors import DiskFull, NotEnoughSpace
from actlake.store import Location, Log, compact, gc, index, verify

CONFINED = [sys.executable, str(Path(__file__).with_name("confined.py"))]

ON_A_SMALL_DISK = """
set -e
mount -t tmpfs -o size=$SIZE tmpfs "$DISK"
cp -r "$START" "$DISK/store"
head -c "$FILL" /dev/zero > "$DISK/filler" || true
"$@"
find "$DISK/store" -type f | sort > "$LISTED"
rm "$DISK/filler"
"$@"
rm -r "$START"
cp -r "$DISK/store" "$START"
"""
"""In a mount namespace of its own: a disk with the store and a filler, the calls, and the calls again without the filler."""


ON_A_DISK_THAT_FILLS = """
set -e
mount -t tmpfs -o size=24m tmpfs "$DISK"
"$@" 2>"$SAID" >&2 & pid=$!
while kill -0 $pid && [ ! -e "$DISK/store/_log/00000000000000000003.json" ]; do sleep 0.01; done
head -c 100m /dev/zero > "$DISK/filler" || true
code=0
wait $pid || code=$?
echo $code
find "$DISK/store" -type f | sort > "$LISTED"
rm "$DISK/filler"
"$@" --json
cp -r "$DISK/store" "$KEPT"
"""
"""A disk that gets full while a capture writes to it, and the same command again when there is room."""


def lines(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines()]


def can_mount() -> bool:
    return (
        subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True).returncode == 0
    )


def before_capture(location: Location) -> None:
    stores.a_store(location)


def before_index(location: Location) -> None:
    stores.a_store(location, units=2, unit_size=30)


def before_compact(location: Location) -> None:
    stores.a_store(location, units=4, unit_size=20)


def contents(store: Path) -> list[tuple[Any, ...]]:
    opened = actlake.open(store)
    return [opened.sql(f"from {name} order by all").fetchall() for name in ("generations", "tokens", "activations")]


def files_of(store: Path) -> set[str]:
    held = {str(path.relative_to(store)) for path in store.rglob("*") if path.is_file()}
    return {path for path in held if not path.endswith(".json")} - {"README.md"}


def files_of_commits(store: Path) -> set[str]:
    """Files that any commit named."""
    return {file.path for commit in Log(Location.of(store)).commits() for file in commit.add}


CASES = [("capture", before_capture), ("index", before_index), ("save", before_capture), ("compact", before_compact)]


@pytest.mark.slow
@pytest.mark.parametrize(("call", "prepare"), CASES)
def test_when_a_file_finds_no_room_nothing_is_left_and_the_same_again_finishes(
    tmp_path: Path, call: str, prepare: Callable[[Location], None]
) -> None:
    prepare(Location.of(tmp_path))
    before = contents(tmp_path)
    for room in (0, 100, 700, 1500):
        (said,) = lines(run([*CONFINED, f"room={room}", str(tmp_path), call]))
        assert said["error"] == "DiskFull"
        assert str(tmp_path) in said["says"]
        assert (
            "File too large; what was committed is kept: make room (`actlake gc` may) and run the same" in said["says"]
        )
        assert files_of(tmp_path) == files_of_commits(tmp_path)
        assert contents(tmp_path) == before
    (said,) = lines(run([*CONFINED, "as-it-is", str(tmp_path), call]))
    assert "gives" in said
    assert verify(Location.of(tmp_path), deep=True).ok
    assert len(actlake.open(tmp_path).generations()) == len(before[0]) + (3 if call == "capture" else 0)


@pytest.mark.slow
@pytest.mark.parametrize(("call", "prepare"), CASES)
def test_on_a_full_disk_nothing_is_lost_and_the_same_again_finishes(
    tmp_path: Path, call: str, prepare: Callable[[Location], None]
) -> None:
    start, disk, listed = tmp_path / "start", tmp_path / "disk", tmp_path / "listed"
    prepare(Location.of(start))
    before, held = contents(start), sorted(str(path.relative_to(start)) for path in start.rglob("*") if path.is_file())
    if not can_mount():  # a limit of a file's size stands in: the test above
        test_when_a_file_finds_no_room_nothing_is_left_and_the_same_again_finishes(tmp_path / "limited", call, prepare)
        return
    disk.mkdir()
    places = {"START": start, "DISK": disk, "LISTED": listed, "SIZE": "2m", "FILL": "2m"}
    command = ["unshare", "-rm", "sh", "-c", ON_A_SMALL_DISK, "sh", *CONFINED, "as-it-is", str(disk / "store"), call]
    full, roomy = lines(run(command, {name: str(value) for name, value in places.items()}))
    assert full["error"] == "DiskFull"
    assert "No space left on device" in full["says"]
    assert str(disk) in full["says"]
    assert "gives" in roomy
    left = [str(Path(path).relative_to(disk / "store")) for path in listed.read_text().splitlines()]
    assert left == held
    assert verify(Location.of(start), deep=True).ok
    assert contents(start)[0][: len(before[0])] == before[0]
    assert len(contents(start)[0]) == len(before[0]) + (3 if call == "capture" else 0)


def test_a_commit_that_finds_no_room_deletes_its_files(tmp_path: Path) -> None:
    room = between_files_and_entry(tmp_path)
    (said,) = lines(run([*CONFINED, f"room={room}", str(tmp_path), "capture one"]))
    assert said["error"] == "DiskFull"
    assert "_log/00000000000000000003.json" in said["says"]
    assert files_of(tmp_path) == files_of_commits(tmp_path)


def test_a_checkpoint_that_finds_no_room_does_not_matter(tmp_path: Path) -> None:
    room = between_files_and_entry(tmp_path) + 1000
    (said,) = lines(run([*CONFINED, f"room={room}", str(tmp_path), "capture with a checkpoint"]))
    assert said == {"gives": []}
    assert files_of(tmp_path) == files_of_commits(tmp_path)
    assert verify(Location.of(tmp_path)).n_generations == 5


def between_files_and_entry(store: Path) -> int:
    """More bytes than a file of the next unit has, and fewer than its commit."""
    stores.a_store(Location.of(store), units=2)
    largest = max(file.bytes for file in stores.write_shard(Location.of(store), [stores.a_generation(20)], "float32"))
    gc(Location.of(store), grace_s=0)
    entry = (store / "_log/00000000000000000002.json").stat().st_size
    assert largest + 200 < entry
    return (largest + entry) // 2


def test_gc_works_where_nothing_can_be_written(tmp_path: Path) -> None:
    location = Location.of(tmp_path)
    stores.a_store(location, units=4)
    compact(location)
    (said,) = lines(run([*CONFINED, "room=0", str(tmp_path), "gc"]))
    assert said["gives"] > 0
    assert verify(location, deep=True).ok


def test_the_errors_of_a_full_disk_say_what_was_needed() -> None:
    assert str(NotEnoughSpace("corpus", 3 * 10**9, 10**9)).startswith(
        "the run may write 3.00 GB and 'corpus' has 1.00 GB free"
    )
    assert str(DiskFull("corpus/x", 25 * 10**5, "No space left on device")).startswith(
        "cannot write 'corpus/x' (2.5 MB): No space left on device"
    )


def test_a_store_that_was_full_is_collected_and_goes_on(tmp_path: Path) -> None:
    location = Location.of(tmp_path)
    stores.a_store(location, units=4)
    index(location)
    compact(location)
    assert gc(location, grace_s=0).n_bytes > 0
    stores.capture_unit(location, range(20, 23))
    assert Log(location).snapshot().next_generation_id == 1000
    assert verify(location, deep=True).ok


def capture_command(tmp_path: Path, store: Path, model: Path) -> list[str]:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("".join(f"{index}, {index + 1},\n" for index in range(60)))
    options = ["--model", model, "--max-new-tokens", "3", "--batch-size", "2", "--no-index"]
    return [sys.executable, "-m", "actlake", "capture", *map(str, [store, prompts, *options])]


@pytest.mark.slow
def test_a_capture_that_finds_no_room_is_one_line_and_the_same_command_finishes(
    toy_folder: Path, toy_model: Model, tmp_path: Path
) -> None:
    command, store = capture_command(tmp_path, tmp_path / "store", toy_folder), tmp_path / "store"
    actlake.capture(
        store, toy_model, tmp_path / "prompts.txt", max_new_tokens=3, batch_size=2, index=False, shard="1/6"
    )
    held = files_of(store)
    limited = [
        sys.executable,
        "-c",
        "import resource, os, sys\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1500, 1500))\nos.execv(sys.argv[1], sys.argv[1:])",
    ]
    done = subprocess.run([*limited, *command], capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert "File too large; what was committed is kept: make room" in done.stderr.splitlines()[-1]
    assert files_of(store) == held
    assert verify(Location.of(store), deep=True).n_generations == 10
    assert json.loads(run([*command, "--json"]))["n_captured"] == 50
    assert_captured(store)


@pytest.mark.slow
def test_a_disk_that_gets_full_during_a_capture_loses_nothing_and_the_same_command_finishes(
    toy_folder: Path, toy_model: Model, tmp_path: Path
) -> None:
    if not can_mount():  # a limit of a file's size stands in: the test above
        test_a_capture_that_finds_no_room_is_one_line_and_the_same_command_finishes(toy_folder, toy_model, tmp_path)
        return
    disk, kept, listed, said = (tmp_path / name for name in ("disk", "kept", "listed", "said"))
    disk.mkdir()
    places = {"DISK": str(disk), "KEPT": str(kept), "LISTED": str(listed), "SAID": str(said)}
    command = capture_command(tmp_path, disk / "store", toy_folder)
    code, again = run(["unshare", "-rm", "sh", "-c", ON_A_DISK_THAT_FILLS, "sh", *command], places).splitlines()
    assert int(code) == 1
    line = said.read_text().splitlines()[-1]
    assert line.startswith("actlake: cannot write ")
    assert "No space left on device; what was committed is kept: make room" in line
    assert not [path for path in listed.read_text().splitlines() if path.endswith(".draft")]
    assert 0 < json.loads(again)["n_captured"] < 60
    assert_captured(kept)
    assert files_of(kept) == files_of_commits(kept), "the write that failed left nothing"


def assert_captured(store: Path) -> None:
    report = verify(Location.of(store), deep=True)
    assert (report.problems, report.n_generations) == ((), 60)
    assert actlake.open(store).runs()["status"].tolist() == ["complete"]


def run(command: Sequence[str], places: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", **(places or {})},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
