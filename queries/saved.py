"""Factors as a store keeps them, once it is sure that they are of its own tokens; and back."""

import json
from importlib import metadata
from typing import Any

import numpy as np

from ..errors import FactorizationNotFound, InvalidOption, check_text, number_ranges
from ..store import Factorization, Reader, Snapshot, saved_tokens, shapes
from .factor_slice import Spool
from .factors import Factors
from .generation import generation_not_found

_LIBRARIES = ("actlake", "scikit-learn", "numpy")


def factorization_of(factors: Factors, name: str | None, snapshot: Snapshot, reader: Reader) -> Factorization:
    """Factors for `save_factorization`. Raises InvalidOption when they are of no store, or plainly of another;
    GenerationNotFound."""
    check_text("name", name or "")
    if factors.generation_id is None or factors.position is None:
        how = "they are of an array that is in no store; make them with `store.generation(…).factors(…)`"
        raise InvalidOption("factors", f"{factors.k} factors", how)
    ids, which = np.unique(factors.generation_id, return_inverse=True)
    n_positions, d_ff = np.zeros(len(ids), np.int64), factors.neurons.shape[1] // len(factors.layers)
    neurons = list(range(d_ff)) if factors.neuron is None else factors.neuron.tolist()
    np.maximum.at(n_positions, which, factors.position + 1)
    generations, wanted = ids.tolist(), (int(ids[0]), int(ids[-1]))
    rows = reader.rows(snapshot, "generations", columns=["generation_id", "run_id", "n_tokens"], generation_id=wanted)
    there, known = {row["generation_id"]: row for row in rows.to_pylist()}, shapes(snapshot, reader)
    for generation_id, n in zip(generations, n_positions, strict=True):
        if generation_id not in there:
            raise generation_not_found(generation_id, snapshot, reader)
        shape = known[there[generation_id]["run_id"]]
        is_other = n > there[generation_id]["n_tokens"] or len(neurons) != d_ff or neurons != list(shape.neurons)
        if is_other or set(factors.layers) - set(shape.layers):
            how = f"generation {generation_id} of this store has other tokens, layers or neurons; save them where they are from"
            raise InvalidOption("factors", f"{factors.k} factors", how)
    return Factorization(
        name=name,
        method=factors.method,
        layers=factors.layers,
        slice=_slice(factors, generations),
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
