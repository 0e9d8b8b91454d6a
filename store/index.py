"""The index step: the neuron-major projection of activations, so that one neuron over the whole corpus is a small read.

Token-major shards that have none yet become a segment: the vectors of all of its tokens, turned around, and their partial
statistics where the capture has not made them already, which are a segment of their own. Small segments are merged as the store
grows, as log-structured stores do, so that there are few of them whatever the corpus. Each segment, and each merge, is
one commit: a crash leaves at most files that no commit names.
"""

import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import itemgetter
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float32, Int32, Int64

from ..errors import InvalidOption, UnknownLayer, number_ranges
from .location import Location
from .log import Commit, DataFile, Log, Snapshot
from .memory import give_back
from .parquet import list_column
from .partials import Kind, added, by_kind, in_order, measured, partial_rows
from .reader import Reader
from .schema import ACTIVATION_VECTORS, NEURON_PARTIALS, NEURON_VECTORS, PROJECTION, SEGMENTS
from .shapes import Shape, run_of, shapes
from .shard import all_or_none, write_table
from .threads import threads

SEGMENT_TOKENS = 1 << 15
"""Tokens of a new segment, at most."""

MERGED_TOKENS = 1 << 20
"""Tokens of a merged segment, at most."""

FANOUT = 4
"""Segments of about the same size are merged when there are this many of them."""

SLICE_VALUES = 1 << 26
"""Activations of one layer that are turned around at once, and so a file's, at most."""

MERGED_VALUES = 1 << 22
MERGED_NEURONS = 16
"""Activations of one layer that are merged at once: so few that merging holds no more than a small store's first segment does.
A row group has so many neurons, which are read together."""

_SHARED = 256
"""Neurons that a thread puts in place at a time."""


@dataclass(frozen=True)
class Indexed:
    """What an index step did: tokens that came into the projection, the segments that there are now, bytes written."""

    n_tokens: int
    n_segments: int
    n_bytes: int

    def sentence(self) -> str:
        """What was done, for people."""
        if not self.n_bytes:
            return f"nothing to index: {self.n_segments} segment{'s' * (self.n_segments != 1)} hold all tokens"
        what = f"indexed {self.n_tokens} tokens" if self.n_tokens else "merged segments"
        return f"{what}, {self.n_bytes / 1e6:.3g} MB written; {self.n_segments} segment{'s' * (self.n_segments != 1)}"


def index(
    location: Location,
    *,
    layers: Sequence[int] | None = None,
    rebuild: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> Indexed:
    """Bring all tokens of these layers (all that were recorded, unless told) into the neuron-major projection.

    `rebuild` drops the projection before, for when a file of it is damaged or missing: all of it follows from other files.
    Other processes may capture, read, and index at the same time. `on_progress` is called with the tokens done and to do.
    Raises StoreNotFound; UnknownLayer if no run recorded a layer that was asked for.
    """
    if layers is not None and not layers:
        raise InvalidOption("layers", layers, "name at least one layer")
    log, reader = Log(location), Reader(location)
    snapshot = log.snapshot()
    known = sorted({layer for shape in shapes(snapshot, reader).values() for layer in shape.layers})
    if unknown := set(layers or ()) - set(known):
        raise UnknownLayer(sorted(unknown), known)
    wanted = frozenset(known if layers is None else layers)
    if rebuild:
        snapshot = log.commit(_without_projection)
    n_tokens = n_bytes = 0
    while sources := _sources(snapshot, reader, wanted):
        source = sources[0]
        files = all_or_none(location, _new_segment(location, snapshot, reader, source))
        commit = Commit("index", f"index/{files[0].path}", files, indexed=source.indexed())
        snapshot, done = log.commit_over(source.files, commit)
        give_back()
        if done:
            n_tokens += source.n_tokens
            n_bytes += sum(file.bytes for file in files)
        if on_progress:
            on_progress(n_tokens, n_tokens + sum(source.n_tokens for source in _sources(snapshot, reader, wanted)))
    while together := _to_merge(segments(snapshot, reader)):
        files = all_or_none(location, _merged_segment(location, reader, together))
        old = [file for segment in together for file in segment.files]
        commit = Commit("merge", f"merge/{files[0].path}", files, [file.path for file in old])
        snapshot, done = log.commit_over(old, commit)
        give_back()
        n_bytes += sum(file.bytes for file in files) if done else 0
    return Indexed(n_tokens, sum(segment.has_vectors for segment in segments(snapshot, reader)), n_bytes)


def rewrites(n_tokens: int) -> int:
    """How often merges write each of that many new tokens again, at most, if nothing else is in the store."""
    n_segments = -(-min(n_tokens, MERGED_TOKENS) // SEGMENT_TOKENS)
    return int(np.log(max(n_segments, 1)) / np.log(FANOUT) + 1e-9)


@dataclass(frozen=True)
class Segment:
    """A segment as a snapshot has it."""

    segment_id: int
    layers: tuple[int, ...]
    d_ff: int
    n_tokens: int
    neurons: tuple[int, ...]
    files: tuple[DataFile, ...]

    @property
    def has_vectors(self) -> bool:
        return any(file.table == NEURON_VECTORS.name for file in self.files)

    @property
    def has_statistics(self) -> bool:
        return any(file.table == NEURON_PARTIALS.name for file in self.files)

    @property
    def size_class(self) -> int:
        """Segments of a class have sizes within a factor of FANOUT."""
        return int(np.log(max(self.n_tokens, 1)) / np.log(FANOUT) + 1e-9)


def segments(snapshot: Snapshot, reader: Reader) -> list[Segment]:
    """The segments that there are, by number."""
    rows = reader.rows(snapshot, SEGMENTS.name, columns=["segment_id", "layers", "d_ff", "n_tokens"]).to_pylist()
    by_segment: dict[int, list[DataFile]] = {}
    for table in (SEGMENTS, NEURON_VECTORS, NEURON_PARTIALS):
        for file in snapshot.of(table.name):
            by_segment.setdefault(file.ranges["segment_id"][0], []).append(file)
    made = []
    for row in rows:
        files = tuple(by_segment[row["segment_id"]])
        neurons = _neurons(reader, files, row["layers"][0], row["d_ff"])
        made.append(Segment(**{**row, "layers": tuple(row["layers"])}, neurons=neurons, files=files))
    return sorted(made, key=lambda segment: segment.segment_id)


def _neurons(reader: Reader, files: Sequence[DataFile], layer: int, n: int) -> tuple[int, ...]:
    """The neurons of a segment, which has `n` of each layer; the files say it where none is left out."""
    held = Snapshot(files={file.path: file for file in files})
    table = next(file.table for file in files if file.table != SEGMENTS.name)
    if max((file.ranges["neuron"][1] for file in held.of(table, layer=layer)), default=-1) < n:
        return tuple(range(n))
    return tuple(np.unique(reader.rows(held, table, columns=["neuron"], layer=layer)["neuron"].to_numpy()).tolist())


def _without_projection(snapshot: Snapshot) -> Commit | None:
    """The commit that drops the projection."""
    files = [file.path for table in PROJECTION for file in snapshot.of(table.name)]
    indexed = {file.path: "" for file in snapshot.of(ACTIVATION_VECTORS.name) if file.indexed or file.counted}
    if not files and not indexed:
        return None
    return Commit("drop", f"drop/{snapshot.version + 1}", remove=files, indexed=indexed)


@dataclass(frozen=True)
class _Source:
    """Token-major files of runs of one shape that are to become a segment, and the layers of them that do; whether there are
    statistics of them."""

    files: tuple[DataFile, ...]
    layers: tuple[int, ...]
    shape: Shape
    counted: bool

    @property
    def n_tokens(self) -> int:
        return sum(file.rows for file in self.files) // len(self.shape.layers)

    def indexed(self) -> dict[str, str]:
        """For each file the layers of it that the projection has afterwards."""
        return {file.path: number_ranges([*self.layers, *file.indexed_layers]) for file in self.files}


def partly_indexed(snapshot: Snapshot, reader: Reader) -> dict[str, tuple[int, ...]]:
    """Token-major files of which the projection has not all layers: their paths, and the layers that it has."""
    known = shapes(snapshot, reader)
    return {
        file.path: file.indexed_layers
        for file in snapshot.of(ACTIVATION_VECTORS.name)
        if (shape := known.get(run_of(snapshot, file))) is None or set(shape.layers) - set(file.indexed_layers)
    }


def _sources(snapshot: Snapshot, reader: Reader, wanted: frozenset[int]) -> list[_Source]:
    """What is to become segments."""
    known = shapes(snapshot, reader)
    alike: dict[tuple[Shape, tuple[int, ...], bool], list[DataFile]] = {}
    for file in snapshot.of(ACTIVATION_VECTORS.name):
        shape = known[run_of(snapshot, file)]
        if layers := (wanted & set(shape.layers)) - set(file.indexed_layers):
            alike.setdefault((shape, tuple(sorted(layers)), file.counted), []).append(file)
    return [
        _Source(tuple(files), layers, shape, counted)
        for (shape, layers, counted), group in alike.items()
        for files in _filled(group, len(shape.layers) * min(SEGMENT_TOKENS, SLICE_VALUES // len(shape.neurons)))
    ]


def _filled(files: Sequence[DataFile], most_rows: int) -> Iterator[list[DataFile]]:
    """Files in groups of at most that many rows (but one file at least)."""
    group: list[DataFile] = []
    for file in files:
        if group and sum(f.rows for f in group) + file.rows > most_rows:
            yield group
            group = []
        group.append(file)
    if group:
        yield group


def _to_merge(there: Sequence[Segment]) -> list[Segment]:
    """Segments that should be one, the smallest first; none when there are few of every size."""
    alike: dict[tuple[Any, ...], list[Segment]] = {}
    for segment in there:
        has = segment.has_vectors, segment.has_statistics
        alike.setdefault((segment.size_class, *has, segment.neurons, segment.layers), []).append(segment)
    for _, group in sorted(alike.items(), key=itemgetter(0)):
        ends = accumulate(segment.n_tokens for segment in group)
        together = [segment for segment, end in zip(group, ends, strict=True) if end <= MERGED_TOKENS]
        if len(together) >= FANOUT:
            return together
    return []


@dataclass(frozen=True)
class _Tokens:
    """The tokens of a segment, sorted by generation and position."""

    generation_id: Int64[np.ndarray, "tokens"]
    position: Int32[np.ndarray, "tokens"]

    @classmethod
    def of(cls, generation_id: np.ndarray, position: np.ndarray) -> tuple["_Tokens", np.ndarray]:
        """The tokens, and where each stood before."""
        order = np.lexsort((position, generation_id))
        return cls(generation_id[order].astype(np.int64), position[order].astype(np.int32)), order

    @property
    def numbers(self) -> Int64[np.ndarray, "tokens"]:
        """One number for each token, in their order."""
        return self.generation_id << 32 | self.position

    def __len__(self) -> int:
        return len(self.position)


def _new_segment(location: Location, snapshot: Snapshot, reader: Reader, source: _Source) -> Iterator[DataFile]:
    """Write the segment of token-major files."""
    held = Snapshot(files={file.path: file for file in source.files})
    table, keys = ACTIVATION_VECTORS.name, ["generation_id", "position"]
    rows = reader.rows(held, table, columns=keys, layer=source.layers[0])
    tokens, order = _Tokens.of(*(rows[name].to_numpy() for name in keys))
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    neurons = np.array(source.shape.neurons, np.int32)

    def read(layer: int, columns: slice) -> Float32[np.ndarray, "neurons tokens"]:
        out, start = np.empty((len(neurons[columns]), len(tokens)), np.float32), 0
        for batch in reader.batches(held, table, {"layer": layer}, keys=()):
            end = start + len(batch.vectors)
            _in_place(batch.vectors[:, columns].T, place[start:end], out)
            start = end
        return out

    kinds = [] if source.counted else _kinds(snapshot, reader, tokens)
    segment_id = secrets.randbits(62)
    row = segment_row(segment_id, source.layers, len(neurons), tokens.generation_id, tokens.position)
    yield write_table(location, SEGMENTS, row)
    for layer in source.layers:
        counted = _Counted(kinds, layer, segment_id)
        yield from _vector_files(location, len(tokens), layer, neurons, segment_id, read, len(neurons), counted.see)
        if kinds:
            yield write_table(location, NEURON_PARTIALS, in_order(counted.rows))


class _Counted:
    """The statistics of a layer in the making."""

    def __init__(self, kinds: Sequence[Kind], layer: int, segment_id: int) -> None:
        self._kinds, self._layer, self._segment_id = kinds, layer, segment_id
        self.rows: list[pa.Table] = []

    def see(self, values: Float32[np.ndarray, "neurons tokens"], neurons: Int32[np.ndarray, "neurons"]) -> None:
        """Add those of some neurons, whose values at all tokens these are."""
        of_kinds = measured(values.__getitem__, len(values), values.shape[1], self._kinds)
        for kind, of_kind in zip(self._kinds, of_kinds, strict=True):
            self.rows.append(partial_rows(kind, of_kind, self._layer, neurons, self._segment_id))


def _merged_segment(location: Location, reader: Reader, together: Sequence[Segment]) -> Iterator[DataFile]:
    """Write the segment that has the tokens of several."""
    held = [Snapshot(files={file.path: file for file in segment.files}) for segment in together]
    names = ["generation_id", "position"]
    rows = pa.concat_tables(reader.rows(part, SEGMENTS.name, columns=names) for part in held)
    tokens, order = _Tokens.of(*(rows[name].combine_chunks().flatten().to_numpy() for name in names))

    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    places = np.split(place, np.cumsum([segment.n_tokens for segment in together])[:-1])

    neurons = np.array(together[0].neurons, np.int32)

    def read(layer: int, columns: slice) -> Float32[np.ndarray, "neurons tokens"]:
        wanted = neurons[columns].tolist()
        out, bounds = np.empty((len(wanted), len(order)), np.float32), (wanted[0], wanted[-1])
        for part, where in zip(held, places, strict=True):
            values = reader.vectors(part, NEURON_VECTORS.name, layer=layer, neuron=bounds)
            _in_place(values, where, out)
        return out

    at_once, layers = MERGED_NEURONS * max(1, MERGED_VALUES // (MERGED_NEURONS * len(tokens))), together[0].layers
    segment_id = secrets.randbits(62)
    row = segment_row(segment_id, layers, len(neurons), tokens.generation_id, tokens.position)
    yield write_table(location, SEGMENTS, row)
    for layer in layers:
        if together[0].has_vectors:
            yield from _vector_files(location, len(tokens), layer, neurons, segment_id, read, at_once)
        if together[0].has_statistics:
            rows = pa.concat_tables(reader.rows(part, NEURON_PARTIALS.name, layer=layer) for part in held)
            yield write_table(location, NEURON_PARTIALS, added(rows, segment_id))


def _in_place(
    values: Float32[np.ndarray, "neurons some_tokens"],
    place: Int64[np.ndarray, "some_tokens"],
    out: Float32[np.ndarray, "neurons tokens"],
) -> None:
    """Put columns where they belong; threads share the neurons."""
    from .kernels import scatter, turn

    put = scatter if values.flags.c_contiguous else turn
    parts = [slice(start, start + _SHARED) for start in range(0, len(values), _SHARED)]
    list(threads().map(lambda part: put(values[part], place, out[part]), parts))


def segment_row(
    segment_id: int,
    layers: Sequence[int],
    n_neurons: int,
    generation_id: Int64[np.ndarray, "tokens"],
    position: Int32[np.ndarray, "tokens"],
) -> pa.Table:
    """The row of `segments` of these tokens, sorted by generation and position."""
    row = {
        "segment_id": [segment_id],
        "layers": [list(layers)],
        "d_ff": [n_neurons],
        "n_tokens": [len(position)],
        "generation_id": _one_list(generation_id),
        "position": _one_list(position),
    }
    return pa.table(row, schema=SEGMENTS.arrow)


def _one_list(values: np.ndarray) -> pa.ListArray:
    return pa.ListArray.from_arrays([0, len(values)], pa.array(values))


def _vector_files(
    location: Location,
    n_tokens: int,
    layer: int,
    neurons: Int32[np.ndarray, "neurons"],
    segment_id: int,
    read: Callable[[int, slice], Float32[np.ndarray, "some_neurons tokens"]],
    at_once: int,
    seen: Callable[[Float32[np.ndarray, "some_neurons tokens"], Int32[np.ndarray, "some_neurons"]], None] | None = None,
) -> Iterator[DataFile]:
    """Write a layer's vectors, of so many neurons at a time, which `seen` is given too."""

    def rows(columns: slice) -> Iterator[pa.Table]:
        for some in _slices(columns, at_once):
            values = read(layer, some)
            if seen:
                seen(values, neurons[some])
            yield _vector_rows(values, layer, neurons[some], segment_id)
            del values  # before the next are read

    for columns in _slices(slice(0, len(neurons)), max(1, SLICE_VALUES // max(1, n_tokens))):
        yield write_table(location, NEURON_VECTORS, rows(columns))


def _slices(whole: slice, step: int) -> Iterator[slice]:
    return (slice(start, min(start + step, whole.stop)) for start in range(whole.start, whole.stop, step))


def _kinds(snapshot: Snapshot, reader: Reader, tokens: _Tokens) -> list[Kind]:
    """The kinds of tokens among the segment's."""
    bounds = (int(tokens.generation_id[0]), int(tokens.generation_id[-1]))
    rows = reader.rows(snapshot, "tokens", columns=["generation_id", "position", "is_special"], generation_id=bounds)
    rows = rows.filter(pa.array(np.isin(rows["generation_id"].to_numpy(), tokens.generation_id)))
    there, order = _Tokens.of(rows["generation_id"].to_numpy(), rows["position"].to_numpy())
    recorded = slice(None) if len(there) == len(tokens) else np.searchsorted(there.numbers, tokens.numbers)
    is_special = rows["is_special"].to_numpy()[order][recorded]
    starts = [reservation.first_generation_id for reservation in snapshot.reservations]
    runs = np.array([r.run_id for r in snapshot.reservations])[
        np.searchsorted(starts, tokens.generation_id, "right") - 1
    ]
    return by_kind(runs, is_special, tokens.generation_id, tokens.position)


def _vector_rows(
    values: Float32[np.ndarray, "neurons tokens"], layer: int, neurons: Int32[np.ndarray, "neurons"], segment_id: int
) -> pa.Table:
    columns = {
        "layer": np.full(len(neurons), layer, np.int32),
        "neuron": neurons,
        "segment_id": np.full(len(neurons), segment_id),
        "activation": list_column(values),
    }
    return pa.table(columns, schema=NEURON_VECTORS.arrow)
