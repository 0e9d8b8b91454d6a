"""Whether a store is what its log says."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import ActlakeError
from .location import Location
from .log import DataFile, Log, Snapshot
from .schema import ACTIVATION_VECTORS, EMBEDDINGS, GENERATIONS, GRADIENTS, RUNS, TABLES, TOKENS

RECORDED = (TOKENS.name, EMBEDDINGS.name, GRADIENTS.name, ACTIVATION_VECTORS.name)


@dataclass(frozen=True)
class Report:
    """What `verify` found: problems (one sentence each), and files that no commit names (harmless)."""

    version: int
    n_files: int
    n_bytes: int
    n_generations: int
    problems: tuple[str, ...]
    unreferenced: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return not self.problems

    def sentence(self) -> str:
        """The verdict, for people."""
        if self.problems:
            return f"{len(self.problems)} problems at commit {self.version}:"
        leftovers = f"; {len(self.unreferenced)} files that no commit names (harmless)" if self.unreferenced else ""
        return (
            f"ok: commit {self.version}, {self.n_generations} generations in {self.n_files} files, "
            f"{self.n_bytes / 1e6:.1f} MB{leftovers}"
        )


def verify(location: Location, *, deep: bool = False) -> Report:
    """Check the log, that every file is there in its size, and that every generation is there once with all its rows.

    `deep` reads every byte and compares checksums. Raises StoreNotFound; damage is reported, not raised.
    """
    log = Log(location)
    try:
        snapshot = log.snapshot()
    except ActlakeError as error:
        if not log.exists():
            raise
        return Report(-1, 0, 0, 0, (str(error),), ())
    problems = [p for file in snapshot.files.values() if (p := _file_problem(location, file, deep=deep))]
    n_generations = 0
    if not problems:
        n_generations, problems = _check_rows(location, snapshot)
    n_bytes = sum(file.bytes for file in snapshot.files.values())
    leftovers = tuple(unreferenced(location, snapshot))
    return Report(snapshot.version, len(snapshot.files), n_bytes, n_generations, tuple(problems), leftovers)


def unreferenced(location: Location, snapshot: Snapshot) -> Iterator[str]:
    """Files in the tables' folders that the snapshot does not name: left by a crash, or of a capture that is running."""
    for table in TABLES:
        yield from (path for name in location.names(table) if (path := f"{table}/{name}") not in snapshot.files)


def _file_problem(location: Location, file: DataFile, *, deep: bool) -> str | None:
    path = location.full(file.path)
    size = location.size(file.path)
    if size is None:
        return f"{path} is missing"
    if size != file.bytes:
        return f"{path} has {size} bytes, its commit says {file.bytes}"
    if deep and hashlib.sha256(location.read(file.path)).hexdigest() != file.sha256:
        return f"{path} does not have the checksum that its commit says"
    try:
        with location.open(file.path) as source:
            rows = pq.read_metadata(source).num_rows
    except (pa.ArrowInvalid, OSError):
        return f"{path} has a Parquet footer that cannot be read"
    return None if rows == file.rows else f"{path} has {rows} rows, its commit says {file.rows}"


def _check_rows(location: Location, snapshot: Snapshot) -> tuple[int, list[str]]:
    """How many generations there are, and what is wrong with them: there twice, out of range, or with rows missing."""
    rows = _read(location, snapshot, GENERATIONS.name, ["generation_id", "run_id", "n_prompt_tokens", "n_tokens"])
    runs = {run["run_id"]: run for run in _read(location, snapshot, RUNS.name, RUNS.arrow.names).to_pylist()}
    reserved = {
        r.run_id: range(r.first_generation_id, r.first_generation_id + r.n_generations) for r in snapshot.reservations
    }
    held = {table: _rows_per_generation(location, snapshot, table) for table in RECORDED}
    problems = [
        f"generation {generation} is there {n} times"
        for generation, n in Counter(rows["generation_id"].to_pylist()).items()
        if n > 1
    ]
    for row in rows.to_pylist():
        generation, run = row["generation_id"], row["run_id"]
        if run not in runs or generation not in reserved[run]:
            problems.append(f"generation {generation} lies outside the numbers that run {run} reserved")
            continue
        for table, expected in _expected_rows(runs[run], row["n_prompt_tokens"], row["n_tokens"]).items():
            found = held[table].pop(generation, 0)
            if found != expected:
                problems.append(f"generation {generation} has {found} rows of {table}, not {expected}")
    orphans = sorted({generation for counts in held.values() for generation in counts})
    problems += [f"there are rows of generation {orphan}, which is not in generations" for orphan in orphans]
    return len(set(rows["generation_id"].to_pylist())), problems


def _expected_rows(run: Mapping[str, Any], p: int, n: int) -> dict[str, int]:
    recorded, layers = set(run["recorded"]), json.loads(run["generation_config"])["layers"]
    return {
        TOKENS.name: n,
        EMBEDDINGS.name: n if "embeddings" in recorded else 0,
        GRADIENTS.name: sum(range(p, n)) if "gradients" in recorded else 0,
        ACTIVATION_VECTORS.name: n * len(layers) if "activations" in recorded else 0,
    }


def _rows_per_generation(location: Location, snapshot: Snapshot, table: str) -> dict[int, int]:
    values, counts = np.unique(_read(location, snapshot, table, ["generation_id"])["generation_id"], return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


def _read(location: Location, snapshot: Snapshot, table: str, columns: Sequence[str]) -> pa.Table:
    schema = pa.schema([TABLES[table].arrow.field(column) for column in columns])
    parts = []
    for file in snapshot.of(table):
        with location.open(file.path) as source:
            parts.append(pq.read_table(source, columns=list(columns)).cast(schema))
    return pa.concat_tables([schema.empty_table(), *parts])
