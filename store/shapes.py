"""What a run's vectors look like: their widths and layers. Files are put together only when they look the same."""

import json
from bisect import bisect_right
from dataclasses import dataclass

from .log import DataFile, Snapshot
from .reader import Reader
from .schema import RUNS


@dataclass(frozen=True)
class Shape:
    """Widths of a run's vectors, and the layers whose activations it has."""

    d_model: int
    d_ff: int
    layers: tuple[int, ...]


def shapes(snapshot: Snapshot, reader: Reader) -> dict[int, Shape]:
    """The shape of each run, by its number."""
    columns = ["run_id", "d_model", "d_ff", "recorded", "generation_config"]
    found = {}
    for row in reader.rows(snapshot, RUNS.name, columns=columns).to_pylist():
        layers = json.loads(row["generation_config"])["layers"] if "activations" in row["recorded"] else ()
        found[row["run_id"]] = Shape(row["d_model"], row["d_ff"], tuple(sorted(layers)))
    return found


def run_of(snapshot: Snapshot, file: DataFile) -> int:
    """The run of a file's first generation; what is in one file is of runs of one shape."""
    starts = [reservation.first_generation_id for reservation in snapshot.reservations]
    return snapshot.reservations[bisect_right(starts, file.ranges["generation_id"][0]) - 1].run_id
