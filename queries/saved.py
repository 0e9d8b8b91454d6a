"""Factors as a store keeps them, once it is sure that they are of its own tokens; and back."""

import json
from importlib import metadata
from typing import Any

import numpy as np
from jaxtyping import Int32, Int64

from ..errors import FactorizationNotFound, InvalidOption, check_text, number_ranges
from ..store import Factorization, Reader, Snapshot, saved_tokens, shapes
from ..store.mapped import let_go
from .factor_slice import Spool
from .factors import Factors
from .generation import generation_not_found

_LIBRARIES = ("actlake", "scikit-learn", "numpy")

ROWS_AT_ONCE = 1 << 20
"""Tokens of factors that are looked at together."""


def factorization_of(factors: Factors, name: str | None, snapshot: Snapshot, reader: Reader) -> Factorization:
    """Factors for `save_factorization`. Raises InvalidOption when they are of no store, or plainly of another;
    GenerationNotFound."""
    check_text("name", name or "")
    if factors.generation_id is None or factors.position is None:
        how = "they are of an array that is in no store; make them with `store.generation(…).factors(…)`"
        raise InvalidOption("factors", f"{factors.k} factors", how)
    ids, n_positions = _generations(factors.generation_id, factors.position)
    d_ff = factors.neurons.shape[1] // len(factors.layers)
    neurons = list(range(d_ff)) if factors.neuron is None else factors.neuron.tolist()
    columns = ["generation_id", "run_id", "n_tokens"]
    rows = reader.rows(snapshot, "generations", columns=columns, generation_id=(int(ids[0]), int(ids[-1])))
    known, run_ids, n_tokens = (rows.sort_by("generation_id")[name].to_numpy() for name in columns)
    if len(missing := np.setdiff1d(ids, known)):
        raise generation_not_found(int(missing[0]), snapshot, reader)
    place = np.searchsorted(known, ids)
    is_other = n_positions > n_tokens[place]
    for run_id, shape in shapes(snapshot, reader).items():
        if len(neurons) != d_ff or neurons != list(shape.neurons) or set(factors.layers) - set(shape.layers):
            is_other |= run_ids[place] == run_id
    if is_other.any():
        how = f"generation {ids[is_other][0]} of this store has other tokens, layers or neurons; save them where they are from"
        raise InvalidOption("factors", f"{factors.k} factors", how)
    return Factorization(
        name=name,
        method=factors.method,
        layers=factors.layers,
        slice=_slice(factors, ids.tolist()),
        negatives=factors.negatives,
        scale_layers=factors.scale_layers,
        seed=factors.seed,
        n_iterations=factors.n_iterations,
        converged=factors.converged,
        error=factors.error,
        versions={library: metadata.version(library) for library in _LIBRARIES},
        generation_id=factors.generation_id,
        position=factors.position,
        values=factors.tokens,
        weights=factors.neurons,
        neurons=np.array(neurons, np.int32),
        solver=factors.solver,
        parameters=factors.parameters,
        explained=factors.explained.tolist(),
        stability=None if factors.stability is None else factors.stability.tolist(),
        halves=np.stack(np.split(factors.components, 2, axis=1)) if factors.negatives == "split" else None,
        mean=factors.mean,
    )


def _generations(
    generation_id: Int64[np.ndarray, "tokens"], position: Int32[np.ndarray, "tokens"]
) -> tuple[Int64[np.ndarray, "generations"], Int64[np.ndarray, "generations"]]:
    """The generations of tokens that may be on disk, ascending, and how many positions they have at least."""
    parts, ends = [], []
    for first in range(0, len(generation_id), ROWS_AT_ONCE):
        some = slice(first, first + ROWS_AT_ONCE)
        parts.append(np.unique(generation_id[some]))
        ends.append(np.zeros(len(parts[-1]), np.int64))
        np.maximum.at(ends[-1], np.searchsorted(parts[-1], generation_id[some]), position[some] + 1)
        let_go(generation_id)
        let_go(position)
    ids, which = np.unique(np.concatenate(parts), return_inverse=True)
    n_positions = np.zeros(len(ids), np.int64)
    np.maximum.at(n_positions, which, np.concatenate(ends))
    return ids, n_positions


def _slice(factors: Factors, generations: list[int]) -> dict[str, str]:
    said = {"generations": number_ranges(generations)}
    said |= {"positions": factors.positions} if factors.positions != "all" else {}
    return said | ({"where": factors.where} if factors.where is not None else {})


def factors_of(factorization_id: int, snapshot: Snapshot, reader: Reader) -> Factors:
    """The factors that were saved under that number, with the same arrays. Raises FactorizationNotFound.

    Their tokens' values are in a temporary file. Of factors that an older version saved, `explained` is NaN.
    """
    rows = reader.rows(snapshot, "factorizations", factorization_id=factorization_id).to_pylist()
    if not rows:
        numbers = reader.rows(snapshot, "factorizations", columns=["factorization_id"])["factorization_id"].to_pylist()
        raise FactorizationNotFound(factorization_id, numbers)
    (row,) = rows
    k, layers = row["k"], tuple(row["layers"])
    ids, positions, values = Spool(np.int64), Spool(np.int32), Spool(np.float32, k)
    for some_ids, some_positions, some_values in saved_tokens(snapshot, reader, factorization_id, k):
        ids.append(some_ids)
        positions.append(some_positions)
        values.append(some_values)
    weights = _Weights(factorization_id, row, snapshot, reader)
    said, explained, stability = json.loads(row["slice"]), row["explained"], row["stability"]
    return Factors(
        tokens=values.array(),
        components=weights.components,
        error=row["error"],
        layers=layers,
        negatives=row["negatives"],
        scale_layers=row["scale_layers"],
        seed=row["seed"],
        n_iterations=row["n_iterations"],
        converged=row["converged"],
        explained=np.full(k, np.nan) if explained is None else np.array(explained, np.float64),
        stability=None if stability is None else np.array(stability, np.float64),
        method=row["method"],
        solver=row["solver"] or "sklearn",
        parameters=json.loads(row["parameters"] or "{}"),
        mean=weights.mean,
        positions=said.get("positions", "all"),
        where=said.get("where"),
        generation_id=ids.array(),
        position=positions.array(),
        neuron=weights.neuron,
    )


class _Weights:
    """The rows of `factor_neurons` of a factorization as matrices, layers in the order in which they were factored."""

    def __init__(self, factorization_id: int, row: dict[str, Any], snapshot: Snapshot, reader: Reader) -> None:
        rows = reader.rows(snapshot, "factor_neurons", factorization_id=factorization_id)
        layers = row["layers"]
        shape = (row["k"], len(layers), row["d_ff"])
        order = np.argsort(np.argsort(layers))  # the place of each layer among the sorted ones
        weight, positive, negative, mean = (
            None if rows[name].null_count else rows[name].to_numpy().reshape(shape)[:, order].reshape(row["k"], -1)
            for name in ("weight", "positive_half", "negative_half", "mean")
        )
        assert weight is not None, "a weight is never NULL"
        if row["negatives"] != "split":
            self.components = weight
        elif positive is None or negative is None:  # saved by an older version
            self.components = np.concatenate([np.maximum(weight, 0), np.maximum(-weight, 0)], axis=1)
        else:
            self.components = np.concatenate([positive, negative], axis=1)
        self.mean = None if mean is None else np.ascontiguousarray(mean[0])
        self.neuron = rows["neuron"].to_numpy()[: row["d_ff"]].astype(np.int32)
