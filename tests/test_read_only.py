"""A store that may only be read: it opens and answers, and what would write says so in one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import stores
from actlake.store import Location

CONFINED = str(Path(__file__).with_name("confined.py"))
READS = ("sql", "generation", "verify", "version")
WRITES = ("write_shard", "capture", "index", "save", "compact", "gc", "new store")
IN_A_MOUNT = """
set -e
mount --bind "$STORE" "$STORE"
mount -o remount,bind,ro "$STORE"
exec "$@"
"""


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Something is left for an index step, a compaction and a garbage collection to do."""
    location = Location.of(tmp_path / "store")
    stores.a_store(location)
    stores.write_shard(location, [stores.a_generation(9)], "float32")
    for path in (tmp_path, *tmp_path.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return tmp_path / "store"


def said(command: list[str], store: Path) -> list[dict[str, Any]]:
    environment = {**os.environ, "STORE": str(store), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["by permission", "by its mount"])
def test_a_read_only_store_answers_and_says_that_it_cannot_be_written(store: Path, how: str) -> None:
    calls = [str(store), *READS, *WRITES]
    confined = [sys.executable, CONFINED, "read-only", *calls]
    if how == "by its mount":
        mounted = ["unshare", "-rm", "sh", "-c", IN_A_MOUNT, "sh", sys.executable, CONFINED, "as-it-is", *calls]
        confined = (
            mounted
            if subprocess.run([*mounted[:6], "true"], env={**os.environ, "STORE": str(store)}).returncode == 0
            else confined
        )
    before = sorted(store.rglob("*"))
    answers = said(confined, store)
    assert answers[: len(READS)] == [{"gives": value} for value in ([[4 * 7 * 2 * 12]], [7, 24], [True, 8], 2)]
    for call, answer in zip(WRITES, answers[len(READS) :], strict=True):
        assert answer["error"] == "StoreReadOnly", call
        assert answer["says"].startswith("the store cannot be written ("), call
        assert str(store) in answer["says"]
        assert "\n" not in answer["says"]
    assert sorted(store.rglob("*")) == before
