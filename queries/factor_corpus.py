"""Factors of a slice of a store: in memory where its activations fit, else streamed."""

from dataclasses import replace
from threading import Event

import numpy as np
from jaxtyping import Float32

from .factor_slice import BLOCK_BYTES, Slice
from .factor_stream import Passes, Prepared, factor_stream, look
from .factorize import factorize, how_of, in_order, layer_scale
from .factors import FactorOptions, Factors
from .work import Progress

IN_MEMORY = 1 << 28
"""Activations of at most so many bytes are factored in memory; a few times as much is taken then."""


def factors_of_slice(
    of: Slice,
    options: FactorOptions,
    *,
    in_memory: int = IN_MEMORY,
    block_bytes: int = BLOCK_BYTES,
    cancel: Event | None = None,
    on_progress: Progress | None = None,
) -> Factors:
    """Factors of a slice's activations; if they are more than `in_memory` bytes, streamed in blocks of `block_bytes`, a few of
    which are in memory at once. Raises InvalidOption, Cancelled, MissingFile, CorruptFile."""
    if of.n_bytes <= in_memory:
        factors = factorize(whole(of), options, layers=of.layers, cancel=cancel, on_progress=on_progress)
    else:
        passes = Passes(of, block_bytes=block_bytes, cancel=cancel, on_progress=on_progress, n_runs=1 + options.reruns)
        factors = _streamed(passes, options, block_bytes)
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


def _streamed(passes: Passes, options: FactorOptions, sample_bytes: int) -> Factors:
    looked, layers = look(passes, options.k, options.seed, sample_bytes), passes.of.layers
    by_layer = looked.squares.reshape(2, len(layers), -1).sum(axis=2)
    how, centred = how_of(options, by_layer), options.method != "nmf"
    columns = looked.column_energy(how, centred=centred)
    scale = layer_scale(columns, len(layers), how) if options.scale_layers else None
    mean = looked.mean(how).astype(np.float32) if centred else None
    if scale is not None:
        columns = columns / np.square(scale, dtype=np.float64)
        mean = None if mean is None else mean / scale
    x = Prepared(passes, how, scale, mean, float(columns.sum()))
    sample = x.of(looked.sample)
    del looked
    found = []
    for number in range(options.reruns + 1):
        run = replace(options, seed=options.seed + number, reruns=0)
        found.append(factor_stream(x, sample, run, "random" if number else "nndsvda"))
        if number:  # only weights are compared
            found[-1] = replace(found[-1], tokens=np.empty((0, options.k), np.float32))
    passes.end()
    return in_order(found, scale, options, how, layers)
