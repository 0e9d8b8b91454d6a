"""Statistics of neurons over a set of tokens, in a form that adds up: moments, extrema, a histogram, the strongest tokens.

They are taken while the activations are in memory anyway, neuron by neuron.
"""

import numpy as np
import pyarrow as pa
from jaxtyping import Float32, Int32, Int64

from .parquet import threads
from .schema import NEURON_PARTIALS

EXAMPLES = 20
"""How many of the strongest tokens of each sign are kept."""

BIN_SHIFT = 20
"""A histogram's bin is a 32-bit float without its lower 20 bits: sign, exponent and an eighth of the octave, so a value lies
within 1/16 of the bin's middle, relatively. The edges are the same for every neuron, run and store."""

_BLOCK = 64
_N_BINS = 1 << (32 - BIN_SHIFT)


def partials(
    activations: Float32[np.ndarray, "neurons tokens"],
    generation_id: Int64[np.ndarray, "tokens"],
    position: Int32[np.ndarray, "tokens"],
    counted: Int64[np.ndarray, "_"],
    *,
    layer: int,
    first_neuron: int,
    segment_id: int,
    run_id: int,
    is_special: bool,
) -> pa.Table:
    """The rows of `neuron_partials` of some neurons of a layer, over the tokens whose places are `counted`.

    Tokens are sorted by generation and position; among equal activations the earlier token is the stronger one.
    """
    generation_id, position = generation_id[counted], position[counted]
    everything = len(counted) == activations.shape[1]

    def block(start: int) -> _Block:
        values = activations[start : start + _BLOCK]
        return _Block(values if everything else values.take(counted, axis=1))

    blocks = list(threads().map(block, range(0, len(activations), _BLOCK)))
    n = len(activations)
    columns: dict[str, pa.Array | np.ndarray] = {
        "layer": np.full(n, layer, np.int32),
        "neuron": np.arange(first_neuron, first_neuron + n, dtype=np.int32),
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
        exact = values.astype(np.float64)
        self.mean = exact.mean(axis=1)
        exact -= self.mean[:, None]
        self.m2 = np.einsum("nt,nt->n", exact, exact)
        self.min, self.max = values.min(axis=1), values.max(axis=1)
        self.n_active = (values > 0).sum(axis=1)
        self.bins, self.bin_counts = _histogram(values)
        self.positive, self.negative = _strongest(values), _strongest(-values)
        self.negative = (self.negative[0], -self.negative[1], self.negative[2])


def _histogram(values: Float32[np.ndarray, "neurons tokens"]) -> tuple["_Flat", "_Flat"]:
    n = len(values)
    bins = values.view(np.uint32) >> np.uint32(BIN_SHIFT)
    counts = np.stack([np.bincount(row, minlength=_N_BINS) for row in bins])
    neuron, held = np.nonzero(counts)
    ends = np.searchsorted(neuron, np.arange(n), side="right")
    return (held.astype(np.int32), ends), (counts[neuron, held], ends)


def _strongest(values: Float32[np.ndarray, "neurons tokens"]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens of the greatest values above 0, strongest first: their indices, the values, and where each neuron's end.

    The greatest of each run of tokens bound the 20th value from below, so few values need to be sorted.
    """
    n, n_tokens = values.shape
    step = max(1, min(64, n_tokens // (4 * EXAMPLES)))
    whole = n_tokens - n_tokens % step
    heads = np.fmax.reduce(values[:, :whole].reshape(n, -1, step), axis=2)  # a rest of some tokens bounds nothing
    heads[np.isnan(heads)] = -np.inf
    k = min(EXAMPLES, heads.shape[1])
    bound = np.partition(heads, -k, axis=1)[:, -k] if k == EXAMPLES else np.full(n, -np.inf, np.float32)
    least = np.maximum(bound, np.finfo(np.float32).smallest_subnormal)
    neuron, token = np.divmod(np.flatnonzero(values >= least[:, None]), n_tokens)
    strength = values[neuron, token]
    order = np.lexsort((token, -strength, neuron))
    neuron, token, strength = neuron[order], token[order], strength[order]
    first = np.searchsorted(neuron, np.arange(n))
    keep = np.arange(len(neuron)) - first[neuron] < EXAMPLES
    neuron, token, strength = neuron[keep], token[keep], strength[keep]
    return token, strength, np.searchsorted(neuron, np.arange(n), side="right")


_Flat = tuple[np.ndarray, np.ndarray]


def _lists(parts: list[_Flat]) -> pa.ListArray:
    """Flat lists, one after the other, as a list column."""
    offsets, total = [np.zeros(1, np.int64)], 0
    for values, ends in parts:
        offsets.append(ends + total)
        total += len(values)
    flat = np.concatenate([values for values, _ in parts])
    return pa.ListArray.from_arrays(np.concatenate(offsets).astype(np.int32), flat)
