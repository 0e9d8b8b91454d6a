"""Saved factorizations: what was factored and how, a value for each token, a weight for each neuron, in one commit.

A factorization's number is one more than the greatest of the snapshot that its commit follows, and stands in all of its
rows: a saver that loses the number to another writes its files again under the next.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float32, Int32, Int64

from .location import Location
from .log import DataFile, Log, Snapshot
from .mapped import let_go
from .numbered import commit_numbered
from .reader import Reader
from .schema import FACTOR_NEURONS, FACTOR_TOKENS, FACTORIZATIONS
from .shard import all_or_none, write_table

FILE_ROWS = 1 << 21
"""About how many rows of `factor_tokens` are written at a time, to a file."""


@dataclass(frozen=True)
class Factorization:
    """`k` factors of the activations of some tokens: `values` at each token, and `weights` of each neuron, layer by layer.

    `neurons` are the numbers of a layer's columns of `weights`; None: 0, 1, 2, …. `halves` are the positive and the negative
    half of each weight, where negatives were split, and `mean` what was taken from each neuron's activations before.
    `values` may be on disk: they are written some generations at a time, if tokens are sorted.
    The other fields are columns of `factorizations`; `slice`, `parameters` and `versions` become JSON.
    """

    name: str | None
    method: str
    layers: Sequence[int]
    slice: Mapping[str, Any]
    negatives: str
    scale_layers: bool
    seed: int
    n_iterations: int
    converged: bool
    error: float
    versions: Mapping[str, str]
    generation_id: Int64[np.ndarray, "tokens"]
    position: Int32[np.ndarray, "tokens"]
    values: Float32[np.ndarray, "tokens k"]
    weights: Float32[np.ndarray, "k columns"]
    neurons: Int32[np.ndarray, "d_ff"] | None = None
    solver: str | None = None
    parameters: Mapping[str, Any] | None = None
    explained: Sequence[float] | None = None
    stability: Sequence[float] | None = None
    halves: Float32[np.ndarray, "2 k columns"] | None = None
    mean: Float32[np.ndarray, "columns"] | None = None

    @property
    def k(self) -> int:
        return len(self.weights)

    @property
    def n_tokens(self) -> int:
        return len(self.values)

    @property
    def d_ff(self) -> int:
        return self.weights.shape[1] // len(self.layers)


def save_factorization(log: Log, factorization: Factorization) -> int:
    """Commit a factorization under the next number of its store; gives the number. Saving it again makes another.

    Raises DiskFull or StoreReadOnly, leaving nothing.
    """
    return commit_numbered(
        log,
        "save",
        FACTORIZATIONS,
        lambda number: all_or_none(log.location, _files(log.location, number, factorization)),
    )


def _files(location: Location, number: int, what: Factorization) -> Iterator[DataFile]:
    """Write the rows of all three tables, in their order."""
    said = {
        "factorization_id": number,
        "slice": json.dumps(dict(what.slice)),
        "versions": json.dumps(dict(what.versions)),
        "parameters": None if what.parameters is None else json.dumps(dict(what.parameters)),
        "created_at": datetime.now(UTC).replace(tzinfo=None),
    }
    row = {name: said[name] if name in said else getattr(what, name) for name in FACTORIZATIONS.arrow.names}
    yield write_table(location, FACTORIZATIONS, pa.Table.from_pylist([row], schema=FACTORIZATIONS.arrow))
    for rows in _together(what):
        n, columns = len(what.generation_id[rows]), (what.generation_id[rows], what.position[rows])
        tokens = {
            "factorization_id": np.full(n * what.k, number),
            "generation_id": np.tile(columns[0], what.k),
            "position": np.tile(columns[1], what.k),
            "factor": np.repeat(np.arange(what.k), n),
            "value": what.values[rows].T.ravel(),
        }
        yield write_table(location, FACTOR_TOKENS, pa.table(tokens).cast(FACTOR_TOKENS.arrow))
        for on_disk in (what.generation_id, what.position, what.values):
            let_go(on_disk)
    order, shape = np.argsort(what.layers), (what.k, len(what.layers), what.d_ff)

    def sorted_by_layer(of: Float32[np.ndarray, "*k columns"]) -> np.ndarray:
        return np.broadcast_to(of, (what.k, of.shape[-1])).reshape(shape)[:, order].ravel()

    factor, place, column = np.indices(shape).reshape(3, -1)
    none = pa.nulls(what.weights.size, pa.float32())
    neurons = {
        "factorization_id": np.full(what.weights.size, number),
        "factor": factor,
        "layer": np.sort(what.layers)[place],
        "neuron": column if what.neurons is None else what.neurons[column],
        "weight": sorted_by_layer(what.weights),
        "positive_half": none if what.halves is None else sorted_by_layer(what.halves[0]),
        "negative_half": none if what.halves is None else sorted_by_layer(what.halves[1]),
        "mean": none if what.mean is None else sorted_by_layer(what.mean),
    }
    yield write_table(location, FACTOR_NEURONS, pa.table(neurons).cast(FACTOR_NEURONS.arrow))


def _together(what: Factorization) -> Iterator[slice | np.ndarray]:
    """The tokens that one file has the values of: those of whole generations, in order, so many that it is not large."""
    n, size = what.n_tokens, max(1, FILE_ROWS // what.k)
    if any(not _is_sorted(what, first, min(first + size, n)) for first in range(0, n, size)):
        yield np.lexsort((what.position, what.generation_id))
        return
    first = 0
    while first < n:
        end = first + size
        if end < n:
            last = what.generation_id[end - 1]
            end = first + int(np.searchsorted(what.generation_id[first:], last, side="right"))
        yield slice(first, min(end, n))
        first = end


def _is_sorted(what: Factorization, first: int, last: int) -> bool:
    """Whether those tokens, and the one after them, are in order."""
    generation_id, position = what.generation_id[first : last + 1], what.position[first : last + 1]
    later = np.diff(generation_id)
    return bool(((later > 0) | ((later == 0) & (np.diff(position) > 0))).all())


def saved_tokens(
    snapshot: Snapshot, reader: Reader, number: int, k: int
) -> Iterator[tuple[Int64[np.ndarray, "n"], Int32[np.ndarray, "n"], Float32[np.ndarray, "n k"]]]:
    """Generations, positions and values [tokens, k] of a saved factorization, in order, a file's at a time."""
    for file in snapshot.of(FACTOR_TOKENS.name, factorization_id=number):
        rows = reader.rows(Snapshot(files={file.path: file}), FACTOR_TOKENS.name, factorization_id=number)
        if not len(rows):
            continue
        names = ("generation_id", "position", "factor", "value")
        ids, positions, factor, values = (rows[name].to_numpy() for name in names)
        order = np.lexsort((factor, positions, ids))
        yield ids[order][::k], positions[order][::k], values[order].reshape(-1, k)
