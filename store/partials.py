"""Statistics of neurons over a set of tokens, in a form that adds up: moments, extrema, a histogram, the strongest tokens.

They are taken while the activations are in memory anyway, a few neurons at a time, and become rows of `neuron_partials`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from itertools import accumulate
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float32, Float64, Int32, Int64

from .schema import NEURON_PARTIALS
from .threads import threads

EXAMPLES = 20
"""How many of the strongest tokens of each sign are kept."""

BIN_SHIFT = 20
"""A histogram's bin is a 32-bit float without its lower 20 bits: sign, exponent and an eighth of the octave, so a value lies
within 1/16 of the bin's middle, relatively. The edges are the same for every neuron, run and store."""

_BLOCK = 128
_BLOCK_VALUES = 1 << 19
"""Neurons, and activations, that a thread looks at at a time, at most (but one neuron at least)."""


@dataclass(frozen=True)
class Kind:
    """Tokens of a run that have statistics of their own, special ones or the others, sorted by generation and position; `places`
    are where they stand among those in hand."""

    run_id: int
    is_special: bool
    places: Int64[np.ndarray, "n"]
    generation_id: Int64[np.ndarray, "n"]
    position: Int32[np.ndarray, "n"]


def by_kind(
    run_id: Int64[np.ndarray, "n"],
    is_special: Bool[np.ndarray, "n"],
    generation_id: Int64[np.ndarray, "n"],
    position: Int32[np.ndarray, "n"],
) -> list[Kind]:
    """Tokens, sorted by generation and position, apart by run and by whether they are special."""
    kinds = []
    for run in np.unique(run_id).tolist():
        for special in (False, True):
            places = np.flatnonzero((run_id == run) & (is_special == special))
            if len(places):
                kinds.append(Kind(run, special, places, generation_id[places], position[places]))
    return kinds


@dataclass(frozen=True)
class Lists:
    """Lists of numbers, one for each neuron: flat, one after the other, and where each ends."""

    values: np.ndarray
    ends: Int64[np.ndarray, "neurons"]

    @classmethod
    def joined(cls, parts: Sequence["Lists"]) -> "Lists":
        """The lists of more neurons."""
        starts = accumulate((len(part.values) for part in parts), initial=0)
        ends = [part.ends + start for part, start in zip(parts, starts, strict=False)]
        return cls(np.concatenate([part.values for part in parts]), np.concatenate(ends))

    def column(self) -> pa.ListArray:
        return pa.ListArray.from_arrays(np.concatenate([[0], self.ends]).astype(np.int32), self.values)


@dataclass(frozen=True)
class Measured:
    """Statistics of neurons over the same tokens. Of the strongest `EXAMPLES` tokens of each sign, which they are among those
    tokens, and their activations: the strongest first, among equals the earlier."""

    mean: Float64[np.ndarray, "neurons"]
    m2: Float64[np.ndarray, "neurons"]
    min: Float32[np.ndarray, "neurons"]
    max: Float32[np.ndarray, "neurons"]
    n_active: Int64[np.ndarray, "neurons"]
    bins: Lists
    bin_counts: Lists
    positive: Lists
    positive_activation: Lists
    negative: Lists
    negative_activation: Lists

    @classmethod
    def joined(cls, parts: Sequence["Measured"]) -> "Measured":
        """The statistics of more neurons."""
        columns: dict[str, Any] = {}
        for name in (each.name for each in fields(cls)):
            of_parts = [getattr(part, name) for part in parts]
            columns[name] = Lists.joined(of_parts) if isinstance(of_parts[0], Lists) else np.concatenate(of_parts)
        return cls(**columns)


def measured(
    read: Callable[[slice], Float32[np.ndarray, "some_neurons tokens"]],
    n_neurons: int,
    n_tokens: int,
    kinds: Sequence[Kind],
) -> list[Measured]:
    """The statistics of each kind of tokens, of so many neurons; `read` gives the activations of some of them at all tokens, and
    is called in threads."""
    measuring = [_Measuring(n_neurons) for _ in kinds]
    at_once = min(_BLOCK, max(1, _BLOCK_VALUES // max(1, n_tokens)))

    def measure(start: int) -> None:
        neurons = slice(start, min(start + at_once, n_neurons))
        values = read(neurons)
        for kind, of_kind in zip(kinds, measuring, strict=True):
            are_all = len(kind.places) == n_tokens
            of_kind.measure(neurons, np.ascontiguousarray(values) if are_all else values.take(kind.places, axis=1))

    list(threads().map(measure, range(0, n_neurons if kinds else 0, at_once)))
    return [of_kind.done() for of_kind in measuring]


class _Measuring:
    """Statistics in the making, a few neurons at a time, in any order."""

    def __init__(self, n: int) -> None:
        self._mean, self._m2, self._n_active = np.empty(n), np.empty(n), np.empty(n, np.int64)
        self._min, self._max = np.empty(n, np.float32), np.empty(n, np.float32)
        self._histograms: dict[int, tuple[Lists, Lists]] = {}
        self._tokens, self._activations = np.empty((2, n, EXAMPLES), np.int64), np.empty((2, n, EXAMPLES), np.float32)
        self._n_found = np.empty((2, n), np.int64)

    def measure(self, neurons: slice, values: Float32[np.ndarray, "some_neurons tokens"]) -> None:
        from . import kernels

        moments = (self._mean, self._m2, self._min, self._max, self._n_active)
        kernels.moments(values, *(column[neurons] for column in moments))
        bins, counts = self._histograms[neurons.start] = _histogram(values)
        strongest = (self._tokens[:, neurons], self._activations[:, neurons], self._n_found[:, neurons])
        kernels.strongest(values, bins.values, counts.values, bins.ends, BIN_SHIFT, *strongest)

    def done(self) -> Measured:
        histograms = [of_some for _, of_some in sorted(self._histograms.items())]
        bins, counts = (Lists.joined(parts) for parts in zip(*histograms, strict=True))
        strongest = []
        for tokens, activations, n_found in zip(self._tokens, self._activations, self._n_found, strict=True):
            found, ends = np.arange(EXAMPLES) < n_found[:, None], np.cumsum(n_found)
            strongest += [Lists(tokens[found], ends), Lists(activations[found], ends)]
        return Measured(self._mean, self._m2, self._min, self._max, self._n_active, bins, counts, *strongest)


def _histogram(values: Float32[np.ndarray, "neurons tokens"]) -> tuple[Lists, Lists]:
    from . import kernels

    most = values.shape[0] * min(values.shape[1], 1 << (32 - BIN_SHIFT))
    bins, counts, ends = np.empty(most, np.int32), np.empty(most, np.int64), np.empty(len(values), np.int64)
    kernels.histogram(values.view(np.int32), BIN_SHIFT, bins, counts, ends)
    return Lists(bins[: ends[-1]].copy(), ends), Lists(counts[: ends[-1]].copy(), ends)


def partial_rows(
    kind: Kind,
    measured: Measured,
    layer: int,
    neurons: Int32[np.ndarray, "neurons"],
    segment_id: int,
) -> pa.Table:
    """The rows of `neuron_partials` of some neurons of a layer."""
    n = len(neurons)
    columns: dict[str, pa.Array | np.ndarray] = {
        "layer": np.full(n, layer, np.int32),
        "neuron": neurons,
        "segment_id": np.full(n, segment_id),
        "run_id": np.full(n, kind.run_id),
        "is_special": np.full(n, kind.is_special),
        "n": np.full(n, len(kind.places)),
    }
    columns |= {name: getattr(measured, name) for name in ("mean", "m2", "min", "max", "n_active")}
    columns |= {name: getattr(measured, name).column() for name in ("bins", "bin_counts")}
    for sign, which in (("positive", measured.positive), ("negative", measured.negative)):
        columns[f"{sign}_generation_id"] = Lists(kind.generation_id[which.values], which.ends).column()
        columns[f"{sign}_position"] = Lists(kind.position[which.values], which.ends).column()
        columns[f"{sign}_activation"] = getattr(measured, f"{sign}_activation").column()
    return pa.table(columns).select(NEURON_PARTIALS.arrow.names).cast(NEURON_PARTIALS.arrow)


def in_order(tables: Sequence[pa.Table]) -> pa.Table:
    """Rows of a layer as a file has them."""
    if len(tables) == 1:
        return tables[0]
    return pa.concat_tables(tables).sort_by([(name, "ascending") for name in ("neuron", "run_id", "is_special")])


def added(rows: pa.Table, segment_id: int) -> pa.Table:
    """Rows of `neuron_partials` over different tokens as those over all of them: one for each neuron, run and kind of token,
    sorted by them."""
    from . import kernels

    keys = {name: rows[name].to_numpy() for name in ("layer", "neuron", "run_id", "is_special")}
    order = np.lexsort(tuple(keys.values())[::-1])
    keys = {name: values[order] for name, values in keys.items()}
    changes = [values[1:] != values[:-1] for values in keys.values()]
    starts = np.flatnonzero(np.concatenate([[True], np.logical_or.reduce(changes)]))
    bounds = np.append(starts, len(order))
    n, mean, m2 = (rows[name].to_numpy()[order] for name in ("n", "mean", "m2"))
    of_all = np.add.reduceat(n, starts)
    whole_mean = np.add.reduceat(n * mean, starts) / of_all
    apart = mean - np.repeat(whole_mean, np.diff(bounds))
    columns: dict[str, pa.Array | np.ndarray] = {
        **{name: values[starts] for name, values in keys.items()},
        "segment_id": np.full(len(starts), segment_id),
        "n": of_all,
        "mean": whole_mean,
        "m2": np.add.reduceat(m2 + n * apart**2, starts),
        "min": np.minimum.reduceat(rows["min"].to_numpy()[order], starts),
        "max": np.maximum.reduceat(rows["max"].to_numpy()[order], starts),
        "n_active": np.add.reduceat(rows["n_active"].to_numpy()[order], starts),
    }
    (offsets, bins), (_, counts) = (_flat(rows[name]) for name in ("bins", "bin_counts"))
    held, how_many, ends = np.empty(len(bins), np.int32), np.empty(len(bins), np.int64), np.empty(len(starts), np.int64)
    half = 1 << (31 - BIN_SHIFT)  # the bins of values above 0
    n_held = kernels.add_histograms(bins, counts, offsets, order, bounds, half, held, how_many, ends)
    columns |= {"bins": Lists(held[:n_held], ends).column(), "bin_counts": Lists(how_many[:n_held], ends).column()}
    for sign in ("positive", "negative"):
        names = [f"{sign}_{what}" for what in ("generation_id", "position", "activation")]
        (offsets, generation_id), (_, position), (_, activation) = (_flat(rows[name]) for name in names)
        chosen, n_found = np.empty((len(starts), EXAMPLES), np.int64), np.empty(len(starts), np.int64)
        kernels.strongest_of(activation, generation_id, position, offsets, order, bounds, chosen, n_found)
        places = chosen[np.arange(EXAMPLES) < n_found[:, None]]
        columns |= {
            name: Lists(values[places], np.cumsum(n_found)).column()
            for name, values in zip(names, (generation_id, position, activation), strict=True)
        }
    return pa.table(columns).select(NEURON_PARTIALS.arrow.names).cast(NEURON_PARTIALS.arrow)


def _flat(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """Where each list of a column begins in its values, and where the last ends; and the values."""
    lists = column.combine_chunks()
    return lists.offsets.to_numpy(), lists.values.to_numpy()
