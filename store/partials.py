"""Statistics of neurons over a set of tokens, in a form that adds up: moments, extrema, a histogram, the strongest tokens.

They are taken while the activations are in memory anyway, neuron by neuron.
"""

from typing import Literal

import numpy as np
import pyarrow as pa
from jaxtyping import Float32, Int32, Int64

from .schema import NEURON_PARTIALS
from .threads import threads

EXAMPLES = 20
"""How many of the strongest tokens of each sign are kept."""

BIN_SHIFT = 20
"""A histogram's bin is a 32-bit float without its lower 20 bits: sign, exponent and an eighth of the octave, so a value lies
within 1/16 of the bin's middle, relatively. The edges are the same for every neuron, run and store."""

_BLOCK = 64
_BLOCK_VALUES = 1 << 20
"""Neurons, and activations, that a thread looks at at a time, at most (but one neuron at least)."""

_N_BINS = 1 << (32 - BIN_SHIFT)


def partials(
    activations: Float32[np.ndarray, "neurons tokens"],
    generation_id: Int64[np.ndarray, "tokens"],
    position: Int32[np.ndarray, "tokens"],
    counted: Int64[np.ndarray, "_"],
    *,
    layer: int,
    neurons: Int32[np.ndarray, "neurons"],
    segment_id: int,
    run_id: int,
    is_special: bool,
) -> pa.Table:
    """The rows of `neuron_partials` of some neurons of a layer, over the tokens whose places are `counted`.

    Tokens are sorted by generation and position; among equal activations the earlier token is the stronger one.
    """
    generation_id, position = generation_id[counted], position[counted]
    everything = len(counted) == activations.shape[1]
    n_at_once = min(_BLOCK, max(1, _BLOCK_VALUES // len(counted)))

    def block(start: int) -> _Block:
        values = activations[start : start + n_at_once]
        return _Block(values if everything else values.take(counted, axis=1))

    blocks = list(threads().map(block, range(0, len(activations), n_at_once)))
    n = len(activations)
    columns: dict[str, pa.Array | np.ndarray] = {
        "layer": np.full(n, layer, np.int32),
        "neuron": neurons,
        "segment_id": np.full(n, segment_id),
        "run_id": np.full(n, run_id),
        "is_special": np.full(n, is_special),
        "n": np.full(n, len(counted)),
    }
    for name in ("mean", "m2", "min", "max", "n_active"):
        columns[name] = np.concatenate([getattr(block, name) for block in blocks])
    columns["bins"] = _lists([block.bins for block in blocks])
    columns["bin_counts"] = _lists([block.bin_counts for block in blocks])
    for sign in ("positive", "negative"):
        tokens = [getattr(block, sign) for block in blocks]
        columns[f"{sign}_generation_id"] = _lists([(generation_id[index], ends) for index, _, ends in tokens])
        columns[f"{sign}_position"] = _lists([(position[index], ends) for index, _, ends in tokens])
        columns[f"{sign}_activation"] = _lists([(values, ends) for _, values, ends in tokens])
    return pa.table(columns).select(NEURON_PARTIALS.arrow.names).cast(NEURON_PARTIALS.arrow)


class _Block:
    """The statistics of a few neurons. Lists are flat, with the place where each neuron's ends."""

    def __init__(self, values: Float32[np.ndarray, "neurons tokens"]) -> None:
        from . import kernels

        n, values = len(values), np.ascontiguousarray(values)
        self.mean, self.m2, self.n_active = np.empty(n), np.empty(n), np.empty(n, np.int64)
        self.min, self.max = np.empty(n, np.float32), np.empty(n, np.float32)
        kernels.moments(values, self.mean, self.m2, self.min, self.max, self.n_active)
        self.bins, self.bin_counts = _histogram(values)
        self.positive, self.negative = _strongest(values, 1), _strongest(values, -1)


def _histogram(values: Float32[np.ndarray, "neurons tokens"]) -> tuple["_Flat", "_Flat"]:
    from . import kernels

    counts = np.zeros((len(values), _N_BINS), np.int32)
    kernels.histogram(values.view(np.uint32), np.uint32(BIN_SHIFT), counts)
    neuron, held = np.nonzero(counts)
    ends = np.searchsorted(neuron, np.arange(len(values)), side="right")
    return (held.astype(np.int32), ends), (counts[neuron, held], ends)


def _strongest(
    values: Float32[np.ndarray, "neurons tokens"], sign: Literal[1, -1]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens of the values farthest above 0, or below, strongest first: their indices, the values, where each neuron's end."""
    from . import kernels

    tokens, n_found = np.empty((len(values), EXAMPLES), np.int64), np.empty(len(values), np.int64)
    kernels.strongest(values, np.float32(sign), tokens, n_found)
    found = np.arange(EXAMPLES) < n_found[:, None]
    neuron, token = np.repeat(np.arange(len(values)), n_found), tokens[found]
    return token, values[neuron, token], np.cumsum(n_found)


_Flat = tuple[np.ndarray, np.ndarray]


def _lists(parts: list[_Flat]) -> pa.ListArray:
    """Flat lists, one after the other, as a list column."""
    offsets, total = [np.zeros(1, np.int64)], 0
    for values, ends in parts:
        offsets.append(ends + total)
        total += len(values)
    flat = np.concatenate([values for values, _ in parts])
    return pa.ListArray.from_arrays(np.concatenate(offsets).astype(np.int32), flat)
