"""Whether a store is what its log says."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import ActlakeError, CorruptFile, CorruptLog, FormatTooNew, StoreUnreachable
from .footers import footer_of, has_its_bytes
from .location import Location
from .log import DataFile, Log, Snapshot
from .positions import Positions
from .reader import Reader
from .schema import (
    ACTIVATION_VECTORS,
    EMBEDDINGS,
    FACTOR_NEURONS,
    FACTOR_TOKENS,
    FACTORIZATIONS,
    GENERATIONS,
    GRADIENT_SCORES,
    GRADIENTS,
    HIDDEN_STATES,
    LAYER_PREDICTIONS,
    PROJECTION,
    RUNS,
    TABLES,
    TOKENS,
)
from .verify_projection import projection_problems

RECORDED = tuple(
    table.name
    for table in (
        TOKENS,
        EMBEDDINGS,
        GRADIENTS,
        GRADIENT_SCORES,
        ACTIVATION_VECTORS,
        HIDDEN_STATES,
        LAYER_PREDICTIONS,
    )
)

REBUILD = "`actlake index --rebuild` makes the projection again"


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
            plural = "s" * (len(self.problems) != 1)
            return f"{len(self.problems)} problem{plural} at commit {self.version}:"
        left = len(self.unreferenced)
        leftovers = f"; {left} file{'s' * (left != 1)} that no commit names (harmless)" if left else ""
        return (
            f"ok: commit {self.version}, {self.n_generations} generations in {self.n_files} files, "
            f"{self.n_bytes / 1e6:.1f} MB{leftovers}"
        )


def verify(location: Location, *, deep: bool = False) -> Report:
    """Check the log and its checkpoints, that every file is there in its size and with its footer, that every generation is there
    once with all its rows, so is every saved factorization, and that the neuron-major projection has what it says.

    `deep` reads every byte, compares checksums, and the projection's values with the token-major ones. Raises StoreNotFound or
    StoreUnreachable; damage is reported, not raised.
    """
    log = Log(location)
    try:
        snapshot = log.snapshot()
    except StoreUnreachable:
        raise
    except ActlakeError as error:
        if not log.exists():
            raise
        return Report(-1, 0, 0, 0, (str(error),), ())
    problems = list(_log_problems(log, snapshot))
    of_files = {file.path: _file_problem(location, file, deep=deep) for file in snapshot.files.values()}
    problems += [problem for problem in of_files.values() if problem]
    damaged = {snapshot.files[path].table for path, problem in of_files.items() if problem}
    n_generations = 0
    if not damaged - {table.name for table in PROJECTION}:
        try:
            n_generations, of_rows = _check_rows(snapshot, Reader(location))
            of_rows += _factorization_problems(snapshot, Reader(location))
            problems += of_rows
            if not damaged and not of_rows:
                found = projection_problems(snapshot, Reader(location), deep=deep)
                problems += [f"{problem}; {REBUILD}" for problem in found]
        except ActlakeError as error:  # a page, which only `deep` looks at before
            problems.append(str(error))
    n_bytes = sum(file.bytes for file in snapshot.files.values())
    leftovers = tuple(unreferenced(location, snapshot))
    return Report(snapshot.version, len(snapshot.files), n_bytes, n_generations, tuple(problems), leftovers)


def unreferenced(location: Location, snapshot: Snapshot) -> Iterator[str]:
    """Files in the tables' folders that the snapshot does not name: left by a crash, or of a capture that is running."""
    for table in TABLES:
        yield from (path for name in location.names(table) if (path := f"{table}/{name}") not in snapshot.files)


def _log_problems(log: Log, snapshot: Snapshot) -> Iterator[str]:
    """What is wrong with the log, though the snapshot could be made: an old commit, or a checkpoint."""
    folded = Snapshot()
    try:
        for path in log.checkpoints():
            try:
                checkpoint = log.read_checkpoint(path)
            except (CorruptLog, FormatTooNew):
                yield f"{log.location.full(path)} cannot be read; it only makes opening quick: delete it"
                continue
            folded = log.replayed(folded, checkpoint.version)
            if folded != checkpoint:
                yield f"{log.location.full(path)} does not agree with the commits; it only makes opening quick: delete it"
        if log.replayed(folded, snapshot.version) != snapshot:
            yield f"the commits of {log.location.uri} do not make the snapshot that its newest checkpoint makes"
    except ActlakeError as error:
        yield str(error)


def _file_problem(location: Location, file: DataFile, *, deep: bool) -> str | None:
    path = location.full(file.path)
    again = f"; {REBUILD}" if TABLES[file.table] in PROJECTION else ""
    size = location.size(file.path)
    if size is None:
        return f"{path} is missing{again}"
    if size != file.bytes:
        return f"{path} has {size} bytes, its commit says {file.bytes}{again}"
    try:
        if deep and not has_its_bytes(location, file):
            return f"{path} does not have the checksum that its commit says{again}"
        rows = pq.read_metadata(pa.BufferReader(footer_of(location, file))).num_rows
    except StoreUnreachable:
        raise
    except ActlakeError as error:
        return f"{error}{again}"
    except (pa.ArrowInvalid, OSError) as error:
        problem = location.read_error(file.path, error)
        if not isinstance(problem, CorruptFile):
            raise problem from error
        return f"{path} has a Parquet footer that cannot be read{again}"
    return None if rows == file.rows else f"{path} has {rows} rows, its commit says {file.rows}{again}"


def _check_rows(snapshot: Snapshot, reader: Reader) -> tuple[int, list[str]]:
    """How many generations there are, and what is wrong with them: there twice, out of range, or with rows missing."""
    rows = reader.rows(snapshot, GENERATIONS.name, columns=["generation_id", "run_id", "n_prompt_tokens", "n_tokens"])
    runs = {run["run_id"]: run for run in reader.rows(snapshot, RUNS.name).to_pylist()}
    reserved = {reservation.run_id: reservation.generation_ids for reservation in snapshot.reservations}
    held = {table: _rows_per(snapshot, reader, table, "generation_id") for table in RECORDED}
    masked = _masked_positions(snapshot, reader) if any(map(_is_bidirectional, runs.values())) else {}
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
        p, n = row["n_prompt_tokens"], row["n_tokens"]
        pairs = n * masked.get(generation, 0) if _is_bidirectional(runs[run]) else sum(range(p, n))
        for table, expected in _expected_rows(runs[run], p, n, pairs).items():
            found = held[table].pop(generation, 0)
            if found != expected:
                problems.append(f"generation {generation} has {found} rows of {table}, not {expected}")
    orphans = sorted({generation for counts in held.values() for generation in counts})
    problems += [f"there are rows of generation {orphan}, which is not in generations" for orphan in orphans]
    return len(set(rows["generation_id"].to_pylist())), problems


def _is_bidirectional(run: Mapping[str, Any]) -> bool:
    return bool(json.loads(run["generation_config"]).get("attention") == "bidirectional")


def _masked_positions(snapshot: Snapshot, reader: Reader) -> Counter[int]:
    """At how many positions of each generation something was predicted."""
    counts: Counter[int] = Counter()
    for file in snapshot.of(TOKENS.name):
        rows = reader.rows(Snapshot(files={file.path: file}), TOKENS.name, columns=["generation_id", "rank"])
        predicted = rows["generation_id"].filter(rows["rank"].is_valid())
        for generation, n in zip(*np.unique(predicted, return_counts=True), strict=True):
            counts[int(generation)] += int(n)
    return counts


def _expected_rows(run: Mapping[str, Any], p: int, n: int, pairs: int) -> dict[str, int]:
    recorded, layers = set(run["recorded"]), json.loads(run["generation_config"])["layers"]
    n_positions = Positions.of_run(run).count(p, n)
    return {
        TOKENS.name: n,
        EMBEDDINGS.name: n if "embeddings" in recorded else 0,
        GRADIENTS.name: pairs if "gradients" in recorded else 0,
        GRADIENT_SCORES.name: pairs if "gradient_scores" in recorded else 0,
        ACTIVATION_VECTORS.name: n_positions * len(layers) if "activations" in recorded else 0,
        HIDDEN_STATES.name: n_positions * (len(layers) + 1) if "hidden_states" in recorded else 0,
        LAYER_PREDICTIONS.name: n_positions * len(layers) if "layer_predictions" in recorded else 0,
    }


def _factorization_problems(snapshot: Snapshot, reader: Reader) -> Iterator[str]:
    """What is wrong with saved factorizations: there twice, with rows missing, or of generations that are not there."""
    rows = reader.rows(snapshot, FACTORIZATIONS.name).to_pylist()
    tables = (FACTOR_TOKENS.name, FACTOR_NEURONS.name)
    held = {table: _rows_per(snapshot, reader, table, "factorization_id") for table in tables}
    for number, times in Counter(row["factorization_id"] for row in rows).items():
        if times > 1:
            yield f"factorization {number} is there {times} times"
    for number, row in {row["factorization_id"]: row for row in rows}.items():
        expected = (row["k"] * row["n_tokens"], row["k"] * len(row["layers"]) * row["d_ff"])
        for table, n in zip(tables, expected, strict=True):
            found = held[table].pop(number, 0)
            if found != n:
                yield f"factorization {number} has {found} rows of {table}, not {n}"
    for orphan in sorted({number for counts in held.values() for number in counts}):
        yield f"there are rows of factorization {orphan}, which is not in factorizations"
    there = _rows_per(snapshot, reader, GENERATIONS.name, "generation_id")
    for generation in sorted(set(_rows_per(snapshot, reader, FACTOR_TOKENS.name, "generation_id")) - set(there)):
        yield f"there are rows of factor_tokens of generation {generation}, which is not in generations"


def _rows_per(snapshot: Snapshot, reader: Reader, table: str, column: str) -> dict[int, int]:
    """How many rows of a table have each value of a key column."""
    counts: Counter[int] = Counter()
    for file in snapshot.of(table):
        held = reader.rows(Snapshot(files={file.path: file}), table, columns=[column])[column]
        for value, n in zip(*np.unique(held, return_counts=True), strict=True):
            counts[int(value)] += int(n)
    return counts
