"""Reading rows by row group, for arrays: only the groups that are wanted, in few ranged reads, decoded by several threads.

SQL goes through DuckDB; this is the path for a page, a factorisation or a neuron that wants a matrix.
"""

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import Bool, Float32, Int32, Int64

from ..errors import ActlakeError, CorruptFile
from .footers import footer_of, opened_file
from .location import Location
from .log import DataFile, Range, Snapshot
from .pages import integers_in, vectors_in
from .schema import TABLES, Table
from .threads import threads

_GAP = 1 << 16
"""Ranges of a file that lie closer than this are read in one."""

_SPAN = 1 << 20
"""Bytes of a file that a thread reads and decodes at a time, at most (but one column chunk at least)."""

_UNPACKED_BYTES = 32 << 20
_UNPACKED = 500
"""A file of a table without vectors unpacks to 32 MiB and 500 times its bytes, at most; those of captures were measured to
unpack to 10 times. A few kilobytes of padding would fill the memory of who reads them."""

_BATCH_BYTES = 1 << 22
_AHEAD = 3
"""Batches that are read while one is looked at."""

Wanted = Mapping[str, int | Range]
"""Values of key columns, or ranges of them with both ends."""


@dataclass(frozen=True)
class Batch:
    """Rows of a table with vectors: each key column's values, and the vectors as a matrix, a row each.

    `neurons` are the numbers of a matrix's columns where it has activations, as `Store.batches` gives it.
    """

    keys: Mapping[str, np.ndarray]
    vectors: Float32[np.ndarray, "rows width"]
    neurons: Int32[np.ndarray, "width"] | None = None


@dataclass(frozen=True)
class _Footer:
    """What a footer says of each row group: its rows; a column's least and greatest value; where its chunk lies; how many
    values its vectors have (of a table with vectors)."""

    metadata: pq.FileMetaData
    n_rows: Int64[np.ndarray, "groups"]
    ranges: Mapping[str, Int64[np.ndarray, "groups 2"]]
    chunks: Mapping[str, Int64[np.ndarray, "groups 2"]]
    n_values: Int64[np.ndarray, "_"]


@dataclass(frozen=True)
class _Group:
    """A row group that can hold wanted rows; `exact` when all of its rows are wanted."""

    file: DataFile
    footer: _Footer
    number: int
    exact: bool

    @property
    def n_rows(self) -> int:
        return int(self.footer.n_rows[self.number])

    @property
    def width(self) -> int:
        return int(self.footer.n_values[self.number]) // self.n_rows

    def chunk(self, column: str) -> tuple[int, int]:
        """Where the column's chunk begins and ends in the file."""
        start, size = self.footer.chunks[column][self.number].tolist()
        return start, start + size

    def least(self, column: str) -> int:
        return int(self.footer.ranges[column][self.number, 0])

    def known_keys(self) -> Mapping[str, int | range]:
        """What key columns hold, as far as the footer says it: one value, or, where no other column changes, a range."""
        held = {name: tuple(ranges[self.number].tolist()) for name, ranges in self.footer.ranges.items()}
        known: dict[str, int | range] = {name: least for name, (least, greatest) in held.items() if least == greatest}
        changing = [name for name in TABLES[self.file.table].key if name not in known]
        if len(changing) == 1 and changing[0] in held:  # keys are unique and sorted
            least, greatest = held[changing[0]]
            if greatest - least + 1 == self.n_rows:
                known[changing[0]] = range(least, greatest + 1)
        return known


class Reader:
    """Rows of the files at a location. Keeps the footers of the files that it read last; safe between threads."""

    def __init__(self, location: Location, max_footers: int = 4096) -> None:
        self.location = location
        self._footers: OrderedDict[str, _Footer] = OrderedDict()
        self._max_footers = max_footers
        self._lock = threading.Lock()

    def n_row_groups(self, file: DataFile) -> int:
        """Row groups of a file. Raises MissingFile or CorruptFile."""
        return len(self._footer(file).n_rows)

    def rows(
        self, snapshot: Snapshot, table: str, *, columns: Sequence[str] | None = None, **wanted: int | Range
    ) -> pa.Table:
        """Rows with these values of key columns (`generation_id=3, layer=(0, 5)`), in the table's order; maybe none.

        Raises MissingFile or CorruptFile, with the file's path.
        """
        schema = TABLES[table].arrow
        names = list(columns or schema.names)
        parts = [self._matching(file, names, wanted) for file in snapshot.of(table, **wanted)]
        return pa.concat_tables([pa.schema([schema.field(name) for name in names]).empty_table(), *parts])

    def vectors(self, snapshot: Snapshot, table: str, **wanted: int | Range) -> Float32[np.ndarray, "rows width"]:
        """The vectors of those rows, which must be of one width, as a float32 matrix in the table's order."""
        batches = list(self.batches(snapshot, table, wanted, keys=(), batch_bytes=1 << 62))
        if not batches:
            return np.empty((0, 0), np.float32)
        return batches[0].vectors if len(batches) == 1 else np.concatenate([batch.vectors for batch in batches])

    def layers(
        self, snapshot: Snapshot, generation_id: int, layers: Sequence[int], *, of: str = "activation_vectors"
    ) -> Float32[np.ndarray, "positions values"]:
        """The vectors of one generation in a table that has them by layer, layer after layer in the order asked for;
        [positions, layers × width]."""
        table, place = TABLES[of], {layer: number for number, layer in enumerate(layers)}
        assert table.vector, f"{of} has no vector column"
        wanted: dict[str, int | Range] = {"generation_id": generation_id, "layer": (min(layers), max(layers))}
        groups = [group for group in self._groups(snapshot, table, wanted) if group.least("layer") in place]
        width, n_rows = groups[0].width, sum(group.n_rows for group in groups if group.least("layer") == layers[0])
        out, done = np.empty((n_rows, width * len(layers)), np.float32), dict.fromkeys(layers, 0)
        chunks = []
        for group in groups:  # each of one generation and one layer
            layer = group.least("layer")
            first, column = done[layer], place[layer] * width
            done[layer] += group.n_rows
            chunks.append(_Chunk(group, table.vector, out[first : done[layer], column : column + width]))
        for future in self._decode(chunks):
            future.result()
        return out

    def batches(
        self,
        snapshot: Snapshot,
        table: str,
        wanted: Wanted,
        *,
        keys: Sequence[str] | None = None,
        batch_bytes: int = _BATCH_BYTES,
    ) -> Iterator[Batch]:
        """All rows with the wanted values of key columns, in batches of at most about that many bytes of vectors.

        Each batch has vectors of one width. While one is looked at, the next are read and decoded. `keys` are the key
        columns to read as well (all unless told).
        """
        described = TABLES[table]
        names = described.key if keys is None else tuple(keys)
        started: deque[Callable[[], Batch]] = deque()
        for groups in _batched(self._groups(snapshot, described, wanted), batch_bytes):
            started.append(self._batch(described, groups, names, wanted))
            if len(started) > _AHEAD:
                yield started.popleft()()
        while started:
            yield started.popleft()()

    def _batch(
        self, table: Table, groups: Sequence[_Group], keys: Sequence[str], wanted: Wanted
    ) -> Callable[[], Batch]:
        """Start to read row groups; gives what waits for them."""
        exact = all(group.exact for group in groups)
        columns = list(keys) if exact else [*keys, *(name for name in wanted if name not in keys)]
        bounds = np.cumsum([0, *(group.n_rows for group in groups)])
        vectors = np.empty((bounds[-1], groups[0].width), np.float32)
        values = {name: np.empty(bounds[-1], table.arrow.field(name).type.to_pandas_dtype()) for name in columns}
        slices = [slice(start, end) for start, end in pairwise(bounds)]
        assert table.vector, f"{table.name} has no vector column"
        chunks = [_Chunk(group, table.vector, vectors[s]) for group, s in zip(groups, slices, strict=True)]
        for group, s in zip(groups, slices, strict=True):
            known = group.known_keys() if columns else {}
            for name in columns:
                if name in known:
                    values[name][s] = known[name]
                elif group.file.footer_bytes:
                    chunks.append(_Chunk(group, name, values[name][s]))
                else:  # of format 1, whose keys have dictionaries
                    values[name][s] = self._old_key(group, name)
        futures = self._decode(chunks)

        def wait() -> Batch:
            for future in futures:
                future.result()
            if exact:
                return Batch(values, vectors)
            keep = np.ones(len(vectors), bool)
            for name, value in wanted.items():
                first, last = _bounds(value)
                keep &= (values[name] >= first) & (values[name] <= last)
            return Batch({name: values[name][keep] for name in keys}, vectors[keep])

        return wait

    def _old_key(self, group: _Group, column: str) -> np.ndarray:
        with opened_file(self.location, group.file.path) as source:
            parquet = pq.ParquetFile(source, metadata=group.footer.metadata)
            return parquet.read_row_group(group.number, columns=[column])[column].to_numpy()

    def _groups(self, snapshot: Snapshot, table: Table, wanted: Wanted) -> Iterator[_Group]:
        """The row groups that can hold those rows, in the table's order."""
        for file in snapshot.of(table.name, **wanted):
            footer = self._footer(file)
            for number in np.flatnonzero(_may_hold(footer, wanted)).tolist():
                held = ((footer.ranges[name][number].tolist(), _bounds(value)) for name, value in wanted.items())
                exact = all(first <= least and greatest <= last for (least, greatest), (first, last) in held)
                yield _Group(file, footer, number, exact)

    def _decode(self, chunks: "Sequence[_Chunk]") -> list["Future[None]"]:
        """Start to put column chunks where they are wanted: the threads read ranges of files and decode them."""
        ordered = sorted(chunks, key=lambda chunk: (chunk.path, chunk.start))
        return [threads().submit(self._read, spans) for spans in _tasks(_spans(ordered))]

    def _read(self, spans: "Sequence[_Span]") -> None:
        path = spans[0][0].path
        full = self.location.full(path)
        with opened_file(self.location, path) as source:
            for span in spans:
                start, end = span[0].start, max(chunk.end for chunk in span)
                try:
                    data = memoryview(source.read_at(end - start, start)).cast("B")
                except OSError as error:
                    raise self.location.read_error(path, error) from error
                if len(data) != end - start:
                    raise CorruptFile(full, "it ends too early")
                for chunk in span:
                    try:
                        chunk.decode(data[chunk.start - start : chunk.end - start])
                    except ValueError as error:
                        raise CorruptFile(full, str(error)) from error

    def _matching(self, file: DataFile, columns: Sequence[str], wanted: Wanted) -> pa.Table:
        keys = [name for name in wanted if name not in columns]
        footer = self._footer(file)
        groups = np.flatnonzero(_may_hold(footer, wanted)).tolist()
        table, names = TABLES[file.table], [*columns, *keys]
        if all(table.column(name).since > 1 for name in names):  # a file that has none of them still has rows
            names.append(table.key[0])
        try:
            with opened_file(self.location, file.path) as source:
                parquet = pq.ParquetFile(source, metadata=footer.metadata)
                # a page that says of itself that it has more values than its chunk would shift those of the next group
                apart = any(column.nullable for column in table.columns) and len(groups) > 1
                parts = [[group] for group in groups] if apart else [groups]
                there = pa.concat_tables(parquet.read_row_groups(part, columns=names) for part in parts)
        except ActlakeError:
            raise
        except (pa.ArrowInvalid, OSError) as error:
            raise self.location.read_error(file.path, error) from error
        self._check_lists(file, there, footer.metadata, groups)
        rows = _with_later_columns(there, table, names)
        for name, value in wanted.items():
            first, last = _bounds(value)
            values = rows[name].to_numpy()
            matches = (values >= first) & (values <= last)
            if not matches.all():
                rows = rows.filter(pa.array(matches))
        return rows.select(list(columns))

    def _check_lists(self, file: DataFile, rows: pa.Table, metadata: pq.FileMetaData, groups: Sequence[int]) -> None:
        """Raise CorruptFile when lists are shorter than their footer says; pyarrow takes a page's word for it."""
        columns = {column.partition(".")[0]: place for place, column in enumerate(_paths(metadata))}
        for field in rows.schema:
            if pa.types.is_list(field.type):
                lengths = pc.max_element_wise(pc.list_value_length(rows[field.name]), 1)  # an empty list counts as one
                expected = sum(metadata.row_group(group).column(columns[field.name]).num_values for group in groups)
                if (pc.sum(lengths).as_py() or 0) != expected:
                    raise CorruptFile(self.location.full(file.path), f"lists of {field.name} are too short")

    def _footer(self, file: DataFile) -> _Footer:
        with self._lock:
            if file.path in self._footers:
                self._footers.move_to_end(file.path)
                return self._footers[file.path]
        footer = self._read_footer(file)
        with self._lock:
            self._footers[file.path] = footer
            if len(self._footers) > self._max_footers:
                self._footers.popitem(last=False)
        return footer

    def _read_footer(self, file: DataFile) -> _Footer:
        try:
            metadata = pq.read_metadata(pa.BufferReader(footer_of(self.location, file)))
        except pa.ArrowInvalid as error:
            raise self.location.read_error(file.path, error) from error
        groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
        key, vector = TABLES[file.table].key, TABLES[file.table].vector
        ranges: dict[str, list[Range]] = {}
        chunks: dict[str, list[Range]] = {}
        n_values = []
        n_unpacked = 0
        for group in groups:
            for column in map(group.column, range(group.num_columns)):
                n_unpacked += column.total_uncompressed_size
                name = column.path_in_schema.partition(".")[0]
                statistics = column.statistics if name in key else None
                if statistics is not None and statistics.has_min_max:
                    ranges.setdefault(name, []).append((statistics.min, statistics.max))
                chunks.setdefault(name, []).append((column.data_page_offset, column.total_compressed_size))
                if name == vector:
                    n_values.append(column.num_values)
        if not vector and n_unpacked > _UNPACKED_BYTES + _UNPACKED * file.bytes:
            problem = f"its {file.bytes:,} bytes unpack to {n_unpacked:,}, which no capture writes"
            raise CorruptFile(self.location.full(file.path), problem)
        return _Footer(
            metadata,
            np.array([group.num_rows for group in groups], np.int64),
            {name: np.array(values, np.int64).reshape(-1, 2) for name, values in ranges.items()},
            {name: np.array(places, np.int64).reshape(-1, 2) for name, places in chunks.items()},
            np.array(n_values, np.int64),
        )


def _with_later_columns(rows: pa.Table, table: Table, names: Sequence[str]) -> pa.Table:
    """Those columns of a file's rows, null where the file is of a format that lacked one."""
    for name in names:
        if table.column(name).since > 1 and name not in rows.column_names:
            rows = rows.append_column(table.arrow.field(name), pa.nulls(rows.num_rows, table.arrow.field(name).type))
    return rows


def _paths(metadata: pq.FileMetaData) -> list[str]:
    return [metadata.schema.column(place).path for place in range(metadata.num_columns)]


def _bounds(value: int | Range) -> Range:
    return value if isinstance(value, tuple) else (value, value)


def _may_hold(footer: _Footer, wanted: Wanted) -> Bool[np.ndarray, "groups"]:
    may_hold = np.ones(len(footer.n_rows), bool)
    for name, value in wanted.items():
        (first, last), (least, greatest) = _bounds(value), footer.ranges[name].T
        may_hold &= (least <= last) & (greatest >= first)
        if not may_hold.any():
            break
    return may_hold


def _batched(groups: Iterable[_Group], batch_bytes: int) -> Iterator[list[_Group]]:
    """Row groups together as long as their vectors have one width and are not too many."""
    batch: list[_Group] = []
    size = 0
    for group in groups:
        n_bytes = 4 * group.n_rows * group.width
        if batch and (group.width != batch[0].width or size + n_bytes > batch_bytes):
            yield batch
            batch, size = [], 0
        batch.append(group)
        size += n_bytes
    if batch:
        yield batch


class _Chunk:
    """A column chunk of a row group, and where its values are wanted."""

    def __init__(self, group: _Group, column: str, target: np.ndarray) -> None:
        self.path, self._target = group.file.path, target
        self.start, self.end = group.chunk(column)

    def decode(self, data: memoryview) -> None:
        if self._target.ndim == 2:
            vectors_in(data, self._target)
        else:
            self._target[:] = integers_in(data, self._target.dtype, len(self._target))


_Span = list[_Chunk]


def _spans(chunks: Iterable[_Chunk]) -> Iterator[_Span]:
    """Chunks, by file and by where they begin, in spans that are read at once: little between them, and not too long."""
    span: _Span = []
    for chunk in chunks:
        first, last = (span[0], span[-1]) if span else (chunk, chunk)
        if span and (chunk.path != first.path or chunk.start - last.end > _GAP or chunk.end - first.start > _SPAN):
            yield span
            span = []
        span.append(chunk)
    if span:
        yield span


def _tasks(spans: Iterable[_Span]) -> Iterator[list[_Span]]:
    """Spans of one file that a thread reads one after the other."""
    task: list[_Span] = []
    size = 0
    for span in spans:
        n_bytes = span[-1].end - span[0].start
        if task and (span[0].path != task[0][0].path or size + n_bytes > _SPAN):
            yield task
            task, size = [], 0
        task.append(span)
        size += n_bytes
    if task:
        yield task
