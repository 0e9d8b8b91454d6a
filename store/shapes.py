"""What a run's vectors look like: their widths, layers and neurons. Files are put together only when they look the same."""

import json
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .log import DataFile, Snapshot
from .reader import Reader
from .schema import RUNS


@dataclass(frozen=True)
class Shape:
    """Widths of a run's vectors, the layers whose activations it has, and their neurons, if they are not all."""

    d_model: int
    d_ff: int
    layers: tuple[int, ...]
    some_neurons: tuple[int, ...] | None = None

    @property
    def neurons(self) -> Sequence[int]:
        """The neurons of each layer, ascending: what a vector of activations has the values of."""
        return range(self.d_ff) if self.some_neurons is None else self.some_neurons


def shapes(snapshot: Snapshot, reader: Reader) -> dict[int, Shape]:
    """The shape of each run, by its number."""
    columns = ["run_id", "d_model", "d_ff", "recorded", "generation_config"]
    return {row["run_id"]: shape_of(row) for row in reader.rows(snapshot, RUNS.name, columns=columns).to_pylist()}


def shape_of(run: Mapping[str, Any]) -> Shape:
    """The shape that a row of `runs` tells."""
    config = json.loads(run["generation_config"])
    layers = config["layers"] if "activations" in run["recorded"] else ()
    neurons = config.get("neurons")
    some = None if neurons is None else tuple(sorted(neurons))
    return Shape(run["d_model"], run["d_ff"], tuple(sorted(layers)), some)


def run_of(snapshot: Snapshot, file: DataFile) -> int:
    """The run of a file's first generation; what is in one file is of runs of one shape."""
    return run_of_generation(snapshot, file.ranges["generation_id"][0])


def run_of_generation(snapshot: Snapshot, generation_id: int) -> int:
    """The run that reserved that number."""
    starts = [reservation.first_generation_id for reservation in snapshot.reservations]
    return snapshot.reservations[bisect_right(starts, generation_id) - 1].run_id
