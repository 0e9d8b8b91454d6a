"""Factors of a slice of a store: in memory where it fits, else streamed."""

from dataclasses import replace
from threading import Event

import numpy as np
from jaxtyping import Float32

from .factor_slice import Slice
from .factorize import factorize
from .factors import FactorOptions, Factors
from .nmf import Progress

IN_MEMORY = 1 << 28
"""Activations of at most so many bytes are factored in memory."""


def factors_of_slice(
    of: Slice, options: FactorOptions, *, cancel: Event | None = None, on_progress: Progress | None = None
) -> Factors:
    """Factors of a slice's activations. Raises InvalidOption, Cancelled, MissingFile, CorruptFile."""
    factors = factorize(whole(of), options, layers=of.layers, cancel=cancel, on_progress=on_progress)
    return replace(
        factors,
        generation_id=of.generation_id,
        position=of.position,
        neuron=of.neuron,
        positions=of.positions,
        where=of.where,
    )


def whole(of: Slice) -> Float32[np.ndarray, "tokens neurons"]:
    """All activations of a slice."""
    out = np.empty((len(of), of.n_columns), np.float32)
    for rows in of.blocks():
        out[rows] = of.activations(rows)
    return out
