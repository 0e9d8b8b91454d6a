"""Factors as a store keeps them, once it is sure that they are of its own tokens."""

from importlib import metadata

import numpy as np

from ..errors import InvalidOption, number_ranges
from ..store import Factorization, Reader, Snapshot, shapes
from .factors import Factors
from .generation import generation_not_found

_LIBRARIES = ("actlake", "scikit-learn", "numpy")


def factorization_of(factors: Factors, name: str | None, snapshot: Snapshot, reader: Reader) -> Factorization:
    """Factors for `save_factorization`. Raises InvalidOption when they are of no store, or plainly of another;
    GenerationNotFound."""
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
        method="nmf",
        layers=factors.layers,
        slice={"generations": number_ranges(generations)},
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
    )
