"""Saved factorizations: what was factored and how, a value for each token, a weight for each neuron, in one commit.

A factorization's number is one more than the greatest of the snapshot that its commit follows, and stands in all of its
rows: a saver that loses the number to another writes its files again under the next.
"""

import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float32, Int32, Int64

from .location import Location
from .log import Commit, DataFile, Log, Snapshot
from .schema import FACTOR_NEURONS, FACTOR_TOKENS, FACTORIZATIONS
from .shard import all_or_none, write_table


@dataclass(frozen=True)
class Factorization:
    """`k` factors of the activations of some tokens: `values` at each token, and `weights` of each neuron, layer by layer.

    `neurons` are the numbers of a layer's columns of `weights`; None: 0, 1, 2, …
    The other fields are columns of `factorizations`; `slice` and `versions` become JSON.
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
    key, number, files = f"save/{uuid.uuid4().hex}", -1, list[DataFile]()

    def build(snapshot: Snapshot) -> Commit | None:
        nonlocal number, files
        if key in snapshot.keys:  # it arrived, though it seemed not to
            return None
        if number != _next_number(snapshot):
            for file in files:  # of the number that another took
                log.location.delete(file.path)
            number = _next_number(snapshot)
            files = all_or_none(log.location, _files(log.location, number, factorization))
        return Commit("save", key, files)

    log.commit(build)
    return number


def _next_number(snapshot: Snapshot) -> int:
    files = snapshot.of(FACTORIZATIONS.name)
    return max((file.ranges["factorization_id"][1] for file in files), default=-1) + 1


def _files(location: Location, number: int, what: Factorization) -> Iterator[DataFile]:
    """Write the rows of all three tables, in their order."""
    said = {
        "factorization_id": number,
        "slice": json.dumps(dict(what.slice)),
        "versions": json.dumps(dict(what.versions)),
        "created_at": datetime.now(UTC).replace(tzinfo=None),
    }
    row = {name: said[name] if name in said else getattr(what, name) for name in FACTORIZATIONS.arrow.names}
    yield write_table(location, FACTORIZATIONS, pa.Table.from_pylist([row], schema=FACTORIZATIONS.arrow))
    order = np.lexsort((what.position, what.generation_id))
    tokens = {
        "factorization_id": np.full(what.values.size, number),
        "generation_id": np.tile(what.generation_id[order], what.k),
        "position": np.tile(what.position[order], what.k),
        "factor": np.repeat(np.arange(what.k), what.n_tokens),
        "value": what.values[order].T.ravel(),
    }
    yield write_table(location, FACTOR_TOKENS, pa.table(tokens).cast(FACTOR_TOKENS.arrow))
    weights = what.weights.reshape(what.k, len(what.layers), what.d_ff)[:, np.argsort(what.layers)]
    factor, place, column = np.indices(weights.shape).reshape(3, -1)
    neurons = {
        "factorization_id": np.full(weights.size, number),
        "factor": factor,
        "layer": np.sort(what.layers)[place],
        "neuron": column if what.neurons is None else what.neurons[column],
        "weight": weights.ravel(),
    }
    yield write_table(location, FACTOR_NEURONS, pa.table(neurons).cast(FACTOR_NEURONS.arrow))
