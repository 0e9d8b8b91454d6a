"""Statistics of neurons over a set of tokens, in a form that adds up: moments, extrema, a histogram, the strongest tokens.

They are taken while the activations are in memory anyway, a few neurons at a time, and become rows of `neuron_partials`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
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

_TOKEN = ("generation_id", "position")
"""What a token is known by."""

BIN, COUNT, PLACE = np.uint16, np.int32, np.int32
"""What is held of a neuron is small: there are many, and what is held of all is gone through for every batch."""

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

    def and_also(self, others: "Kind") -> "Kind":
        """These tokens and others of the kind, in this order, where they alone are in hand."""
        generation_id, position = (np.concatenate([getattr(each, name) for each in (self, others)]) for name in _TOKEN)
        return Kind(self.run_id, self.is_special, np.arange(len(position)), generation_id, position)


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
    def of(cls, column: pa.ChunkedArray, dtype: Any = None) -> "Lists":
        """Of a column of lists, their values as numbers of this type (None: as they are)."""
        lists = column.combine_chunks()
        offsets = lists.offsets.to_numpy().astype(np.int64)
        values = lists.values.to_numpy()[offsets[0] : offsets[-1]]
        return cls(values if dtype is None else values.astype(dtype, copy=False), offsets[1:] - offsets[0])

    @property
    def offsets(self) -> Int64[np.ndarray, "neurons_and_1"]:
        """Where each begins, and where the last ends."""
        return np.concatenate([[0], self.ends])

    @classmethod
    def joined(cls, parts: Sequence["Lists"]) -> "Lists":
        """The lists of more neurons."""
        starts = accumulate((len(part.values) for part in parts), initial=0)
        ends = [part.ends + start for part, start in zip(parts, starts, strict=False)]
        return cls(np.concatenate([part.values for part in parts]), np.concatenate(ends))

    def column(self) -> pa.ListArray:
        return pa.ListArray.from_arrays(self.offsets.astype(np.int32), self.values)


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

    def shifted(self, start: int) -> "Measured":
        """The same of tokens that so many others now stand before."""
        positive, negative = (Lists(tokens.values + start, tokens.ends) for tokens in (self.positive, self.negative))
        return replace(self, positive=positive, negative=negative)

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
        self._tokens, self._activations = np.empty((2, n, EXAMPLES), PLACE), np.empty((2, n, EXAMPLES), np.float32)
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

    most = values.shape[0] * min(values.shape[1], 1 << (32 - BIN_SHIFT)) + 1
    bins, counts, ends = np.empty(most, BIN), np.empty(most, COUNT), np.empty(len(values), np.int64)
    kernels.histogram(values.view(np.int32), BIN_SHIFT, bins, counts, ends)
    return Lists(bins[: ends[-1]].copy(), ends), Lists(counts[: ends[-1]].copy(), ends)


def total(kinds: Sequence[Kind], parts: Sequence[Measured]) -> Measured:
    """The statistics of the same neurons over such tokens each, of one kind, as those over all of them.

    Cost: 1 µs a neuron and part.
    """
    lengths = [len(kind.places) for kind in kinds]
    starts = accumulate(lengths, initial=0)
    rows = Measured.joined([part.shifted(start) for part, start in zip(parts, starts, strict=False)])
    generation_id, position = (np.concatenate([getattr(kind, name) for kind in kinds]) for name in _TOKEN)
    n_parts, n_neurons = len(parts), len(parts[0].mean)
    order = np.arange(n_parts * n_neurons).reshape(n_parts, n_neurons).T.ravel()
    bounds = np.arange(0, len(order) + 1, n_parts)
    return _summed(rows, np.repeat(lengths, n_neurons), generation_id, position, order, bounds)


def _summed(
    rows: Measured,
    n: Int64[np.ndarray, "rows"],
    generation_id: Int64[np.ndarray, "tokens"],
    position: Int32[np.ndarray, "tokens"],
    order: Int64[np.ndarray, "rows"],
    bounds: Int64[np.ndarray, "groups_and_1"],
) -> Measured:
    """Statistics over `n` tokens each as those over all tokens of a group: of those from place `bounds[i]` to before
    `bounds[i + 1]` in `order`. These are the tokens that the strongest are among."""
    from . import kernels

    starts, n, mean = bounds[:-1], n[order], rows.mean[order]
    whole_mean = np.add.reduceat(n * mean, starts) / np.add.reduceat(n, starts)
    apart = mean - np.repeat(whole_mean, np.diff(bounds))
    bins, counts = np.empty(len(rows.bins.values) + 1, BIN), np.empty(len(rows.bins.values) + 1, COUNT)
    ends, half = np.empty(len(starts), np.int64), 1 << (31 - BIN_SHIFT)  # half of the bins are of values above 0
    of_rows = (rows.bins.values, rows.bin_counts.values, rows.bins.offsets)
    n_bins = kernels.add_histograms(*of_rows, order, bounds, half, bins, counts, ends)
    strongest = []
    of_signs = ((rows.positive, rows.positive_activation), (rows.negative, rows.negative_activation))
    for tokens, activations in of_signs:
        lists = (activations.values, generation_id[tokens.values], position[tokens.values], tokens.offsets)
        chosen, n_found = np.empty((len(starts), EXAMPLES), np.int64), np.empty(len(starts), np.int64)
        kernels.strongest_of(*lists, order, bounds, chosen, n_found)
        places, of_groups = chosen[np.arange(EXAMPLES) < n_found[:, None]], np.cumsum(n_found)
        strongest += [Lists(each.values[places], of_groups) for each in (tokens, activations)]
    return Measured(
        whole_mean,
        np.add.reduceat(rows.m2[order] + n * apart**2, starts),
        np.minimum.reduceat(rows.min[order], starts),
        np.maximum.reduceat(rows.max[order], starts),
        np.add.reduceat(rows.n_active[order], starts),
        Lists(bins[:n_bins], ends),
        Lists(counts[:n_bins], ends),
        *strongest,
    )


def partial_rows(
    kind: Kind,
    measured: Measured,
    layer: int,
    neurons: Int32[np.ndarray, "neurons"],
    segment_id: int,
) -> pa.Table:
    """The rows of `neuron_partials` of some neurons of a layer."""
    keys = {"layer": layer, "run_id": kind.run_id, "is_special": kind.is_special, "n": len(kind.places)}
    columns = {"neuron": neurons, **{name: np.full(len(neurons), value) for name, value in keys.items()}}
    return _rows(columns, measured, kind.generation_id, kind.position, segment_id)


def _rows(
    keys: Mapping[str, np.ndarray],
    measured: Measured,
    generation_id: Int64[np.ndarray, "tokens"],
    position: Int32[np.ndarray, "tokens"],
    segment_id: int,
) -> pa.Table:
    columns: dict[str, pa.Array | np.ndarray] = {**keys, "segment_id": np.full(len(measured.mean), segment_id)}
    columns |= {name: getattr(measured, name) for name in ("mean", "m2", "min", "max", "n_active")}
    columns |= {name: getattr(measured, name).column() for name in ("bins", "bin_counts")}
    for sign, which in (("positive", measured.positive), ("negative", measured.negative)):
        columns[f"{sign}_generation_id"] = Lists(generation_id[which.values], which.ends).column()
        columns[f"{sign}_position"] = Lists(position[which.values], which.ends).column()
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
    keys = {name: rows[name].to_numpy() for name in ("layer", "neuron", "run_id", "is_special")}
    order = np.lexsort(tuple(keys.values())[::-1])
    keys = {name: values[order] for name, values in keys.items()}
    changes = [values[1:] != values[:-1] for values in keys.values()]
    starts = np.flatnonzero(np.concatenate([[True], np.logical_or.reduce(changes)]))
    bounds, n = np.append(starts, len(order)), rows["n"].to_numpy()
    columns: dict[str, Any] = {name: rows[name].to_numpy() for name in ("mean", "m2", "min", "max", "n_active")}
    columns |= {"bins": Lists.of(rows["bins"], BIN), "bin_counts": Lists.of(rows["bin_counts"], COUNT)}
    tokens: dict[str, list[np.ndarray]] = {name: [] for name in _TOKEN}
    n_tokens = 0
    for sign in ("positive", "negative"):
        lists = {name: Lists.of(rows[f"{sign}_{name}"]) for name in (*_TOKEN, "activation")}
        for name in _TOKEN:
            tokens[name].append(lists[name].values)
        activations = columns[f"{sign}_activation"] = lists["activation"]
        n_before, n_tokens = n_tokens, n_tokens + len(activations.values)
        columns[sign] = Lists(np.arange(n_before, n_tokens, dtype=PLACE), activations.ends)
    generation_id, position = map(np.concatenate, tokens.values())
    summed = _summed(Measured(**columns), n, generation_id, position, order, bounds)
    keys = {name: values[starts] for name, values in keys.items()} | {"n": np.add.reduceat(n[order], starts)}
    return _rows(keys, summed, generation_id, position, segment_id)
