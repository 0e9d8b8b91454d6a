"""Parquet files whose every page carries a checksum that any reader checks, and vectors at the speed of memory.

A page here is a zstd frame with zstd's own checksum: pyarrow writes frames without one, and DuckDB ignores Parquet's page
checksums, so a flipped bit would be a wrong answer. Tables of numbers, with a vector or with lists, are laid out here: a vector's
bytes are split into planes, each compressed as blocks of its own, row groups shared among threads. Other tables are laid
out by pyarrow, uncompressed, and their pages sealed here. The result is ordinary Parquet without dictionaries
(docs/format.md; docs/decisions/007 has the reasons and what was measured).

Reading goes the same way back: a row group's vectors are one ranged read, one decompression and one merge of planes.
"""

import hashlib
import threading
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard
from jaxtyping import Float32, Int, UInt8, UInt32
from numpy.lib.stride_tricks import as_strided

from . import thrift
from .precision import Precision, rounded
from .schema import VECTOR, Table
from .threads import n_threads, threads

LEVEL = 1
"""zstd's level for pages of other tables."""

_MAGIC = b"PAR1"
_BOOLEAN, _INT32, _INT64, _FLOAT, _DOUBLE = 0, 1, 2, 4, 5
_KINDS = {pa.bool_(): _BOOLEAN, pa.int32(): _INT32, pa.int64(): _INT64, pa.float32(): _FLOAT, pa.float64(): _DOUBLE}
_ZSTD, _PLAIN, _RLE, _BYTE_STREAM_SPLIT, _LIST = 6, 0, 3, 9, 3
_REQUIRED, _OPTIONAL, _REPEATED = 0, 1, 2
_DATA_PAGE = 0
_STATISTICS = 5  # of a page: nobody reads them, and every byte of a header can be flipped
_NO_HEADER = b"\xff"
"""Stands after every column chunk, which is one page, and belongs to none. It begins no page's header, so a reader whom a
flipped bit told that the page has fewer values, or is of another kind, meets an error where it looks for the rest."""

_GUARD: thrift.Struct = {14: thrift.long(-(1 << 63))}
"""A field of page headers that readers do not know and skip: ten bytes of a number. When a flipped bit makes the end of the
struct before it the beginning of a field, that field's number goes on through these bytes and is too long: an error."""

_LEAP = 6072
"""Bytes that a reader leaps over when a flipped bit makes the end of a page's header a string: the zstd magic that follows is
its number and its length. Where it lands there is no small page either, or it might take that page for this one."""

_SMALL = 1 << 9

_PUT_BYTES = 1 << 20
_TASK_VALUES = 1 << 19
"""Values of vectors that a thread encodes before it gives up what it made: every exchange waits for Python's lock."""


@dataclass(frozen=True)
class EncodedFile:
    """What a commit says of a Parquet file; its footer's length and magic belong to the footer."""

    size: int
    sha256: str
    footer_bytes: int
    footer_crc32: int


def encode(
    table: Table, parts: Iterable[pa.Table], put: Callable[[bytes], object], precision: Precision = "float32"
) -> EncodedFile:
    """Put rows, in the table's order, as a Parquet file, piece by piece; a row group ends where a column of the table's
    `row_group` changes. Vectors are rounded to the precision.

    Of a table with vectors one part is held at a time, and row groups end with them. Raises PrecisionOverflow where a vector
    does not fit, after what stands before it is put.
    """
    file = _File(put)
    if table.vector or _is_of_lists(table):
        footer = _footer(table, parts, file, precision)
    else:
        footer = _sealed_footer(table, pa.concat_tables(parts), file)
    return file.finished(thrift.write_struct(footer))


class _File:
    """A file in the making, put in pieces of about a megabyte: a page is a dozen small ones."""

    def __init__(self, put: Callable[[bytes], object]) -> None:
        self._put, self._gathered = put, list[bytes]()
        self._sha256 = hashlib.sha256()
        self._landings: deque[int] = deque()
        self.size = self._n_put = 0
        self.put(_MAGIC)

    def put(self, *pieces: bytes) -> None:
        """Append."""
        self._add(pieces, sum(map(len, pieces)))

    def _add(self, pieces: Sequence[bytes], size: int) -> None:
        self._gathered += pieces
        self.size += size
        if self.size - self._n_put >= _PUT_BYTES:
            self._put_gathered()

    def _put_gathered(self) -> None:
        piece, self._gathered, self._n_put = b"".join(self._gathered), [], self.size
        self._put(piece)
        self._sha256.update(piece)

    def put_page(self, page: "_Page") -> int:
        """Append a column chunk's page; says where it begins."""
        head = len(page.header)
        while self._landings and self._landings[0] < self.size + (head + page.stored if page.stored < _SMALL else head):
            self.put(_NO_HEADER * (self._landings.popleft() - self.size + 1))
        start = self.size
        self._landings.append(start + head + _LEAP)
        self._add((page.header, *page.pieces, _NO_HEADER), head + page.stored + len(_NO_HEADER))
        return start

    def finished(self, footer: bytes) -> EncodedFile:
        end = footer + len(footer).to_bytes(4, "little") + _MAGIC
        self.put(end)
        self._put_gathered()
        return EncodedFile(self.size, self._sha256.hexdigest(), len(end), zlib.crc32(end))


@dataclass(frozen=True, slots=True)
class _Page:
    """A page's header, its compressed pieces, their size before compression and after it, its number of values."""

    header: bytes
    pieces: Sequence[bytes]
    size: int
    stored: int
    n_values: int

    @classmethod
    def of(cls, pieces: Sequence[bytes], size: int, n_values: int, encoding: int) -> "_Page":
        values, stored = {1: n_values, 2: encoding, 3: _RLE, 4: _RLE}, sum(map(len, pieces))
        header: thrift.Struct = {
            1: thrift.integer(_DATA_PAGE),
            2: thrift.integer(size),
            3: thrift.integer(stored),
            5: (thrift.STRUCT, {field: thrift.integer(value) for field, value in values.items()}),
            **_GUARD,
        }
        return cls(thrift.write_struct(header), pieces, size, stored, n_values)


@dataclass(frozen=True, slots=True)
class _Chunk:
    """A column chunk's entry in the footer, and the bytes of its pages before and after compression."""

    entry: thrift.Struct | bytes
    uncompressed: int
    compressed: int


def list_column(matrix: Float32[np.ndarray, "rows width"]) -> pa.ListArray:
    """Rows of a matrix as a column of vectors, not copied."""
    rows, width = matrix.shape
    flat = pa.array(np.ascontiguousarray(matrix).reshape(-1))
    return pa.ListArray.from_arrays(np.arange(rows + 1, dtype=np.int32) * np.int32(width), flat, type=VECTOR)


def vectors_in(chunk: bytes | memoryview, out: Float32[np.ndarray, "rows width"]) -> None:
    """Put the vectors of a column chunk that `encode` wrote where they are wanted: rows of a matrix, or some columns of them.

    Raises ValueError when it is not such a chunk, or damaged.
    """
    from .kernels import merge

    start, width = 0, out.shape[1]
    for encoding, n_values, page in _data_pages(chunk):
        n_rows, rest = divmod(n_values, width)
        if encoding != _BYTE_STREAM_SPLIT or rest or start + n_rows > len(out) or len(page) < 4 * n_values:
            raise ValueError(f"it is not a chunk of {out.shape[0]} vectors of {width} values")
        planes = np.frombuffer(page, np.uint8, offset=len(page) - 4 * n_values).reshape(4, n_rows, width)
        merge(planes, *_in_memory(out[start : start + n_rows]))
        start += n_rows
    if start != len(out):
        raise ValueError(f"it has {start} vectors, its footer says {len(out)}")


def integers_in(chunk: bytes | memoryview, dtype: np.dtype[Any], n_rows: int) -> Int[np.ndarray, "rows"]:
    """The values of a key column's chunk that `encode` wrote. Raises ValueError as `vectors_in` does."""
    pages = []
    for encoding, n_values, page in _data_pages(chunk):
        if encoding != _PLAIN or len(page) != n_values * dtype.itemsize:
            raise ValueError("it is not a chunk of plain integers")
        pages.append(np.frombuffer(page, dtype))
    values = pages[0] if len(pages) == 1 else np.concatenate(pages)
    if len(values) != n_rows:
        raise ValueError(f"it has {len(values)} rows, its footer says {n_rows}")
    return values


def _data_pages(chunk: bytes | memoryview) -> Iterator[tuple[int, int, bytes]]:
    """Encoding, number of values and content of each page of a column chunk."""
    at = 0
    while at < len(chunk):
        header, at = thrift.read_struct(chunk, at)
        try:
            kind, size, stored = (header[field][1] for field in (1, 2, 3))
            n_values, encoding = (header[5][1][field][1] for field in (1, 2))
        except (KeyError, TypeError) as error:
            raise ValueError("it has a page of another kind") from error
        if kind != _DATA_PAGE or not 0 <= stored <= len(chunk) - at or not 0 <= size < 1 << 31 or n_values <= 0:
            raise ValueError("it has a page header that cannot be")
        try:
            page = _decompressor().decompress(chunk[at : at + stored], max_output_size=size)
        except zstandard.ZstdError as error:
            raise ValueError(str(error)) from error
        if len(page) != size:
            raise ValueError("a page has another size than it says")
        yield encoding, n_values, page
        at += stored


_local = threading.local()


def _compressor() -> zstandard.ZstdCompressor:
    if not hasattr(_local, "compressor"):
        _local.compressor = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True)
    return _local.compressor


def _vector_compressor(repeats: bool) -> zstandard.ZstdCompressor:
    """Bytes of numbers hold next to nothing that was there before, so looking for it hardly, and only for long stretches, is
    quicker and smaller than level 1; vectors of tokens that come again are the exception (decision 007)."""
    if not hasattr(_local, "vector_compressors"):
        how = {"strategy": zstandard.STRATEGY_FAST, "min_match": 7, "search_log": 1, "window_log": 17, "chain_log": 6}
        _local.vector_compressors = [
            zstandard.ZstdCompressor(
                compression_params=zstandard.ZstdCompressionParameters(
                    **how, hash_log=hash_log, target_length=0, write_checksum=True
                )
            )
            for hash_log in (6, 13)
        ]
    return _local.vector_compressors[repeats]


def _decompressor() -> zstandard.ZstdDecompressor:
    if not hasattr(_local, "decompressor"):
        _local.decompressor = zstandard.ZstdDecompressor()
    return _local.decompressor


def _row_groups(table: Table, rows: pa.Table) -> Iterator[pa.Table]:
    """Slices in which no column of the table's `row_group` changes (all rows where it names none), none too long."""
    changes = np.zeros(max(rows.num_rows - 1, 0), bool)
    for name in table.row_group:
        values = rows[name].to_numpy()
        changes |= values[1:] != values[:-1]
    bounds = [0, *(np.flatnonzero(changes) + 1).tolist(), rows.num_rows]
    for start, end in pairwise(bounds):
        most = table.group_rows
        if table.vector and end > start:
            most = min(most, max(1, table.group_bytes // (4 * len(rows[table.vector][start]))))
        for first in range(start, end, most):
            yield rows.slice(first, min(end - first, most))


def _sealed_footer(table: Table, rows: pa.Table, file: _File) -> thrift.Struct:
    """Put all pages of a table without vectors; gives the footer."""
    sink = pa.BufferOutputStream()
    writer = pq.ParquetWriter(
        sink,
        table.arrow,
        compression="none",
        use_dictionary=False,  # a flipped bit could make a dictionary's page another's, with other numbers
        store_schema=False,
        data_page_size=1 << 30,  # a page for each chunk: see `_NO_HEADER`
    )
    with writer:
        for group in _row_groups(table, rows):
            writer.write_table(group, row_group_size=max(1, group.num_rows))
    laid_out = memoryview(sink.getvalue()).cast("B")
    size = int.from_bytes(laid_out[-8:-4], "little")
    footer, _ = thrift.read_struct(laid_out[-8 - size : -8])
    for row_group in footer[4][1][1]:
        start = file.size
        chunks = [_sealed(entry, laid_out, file) for entry in row_group[1][1][1]]
        row_group.update(_row_group(chunks, row_group[3][1], start))
    return footer


def _sealed(entry: thrift.Struct, laid_out: memoryview, file: _File) -> _Chunk:
    """Put a column chunk's page, compressed; gives its entry, with where and how large it now is."""
    meta = entry[3][1]
    header, body = thrift.read_struct(laid_out, meta[9][1])
    size = header[3][1]
    assert body + size == meta[9][1] + meta[7][1], "a chunk is one page"
    data = _compressor().compress(laid_out[body : body + size])
    header[5][1].pop(_STATISTICS, None)
    head = thrift.write_struct(header | {3: thrift.integer(len(data))} | _GUARD)
    page = _Page(head, [data], size, len(data), meta[5][1])
    start, uncompressed, compressed = file.put_page(page), len(head) + size, len(head) + len(data)
    sizes = {6: thrift.long(uncompressed), 7: thrift.long(compressed), 9: thrift.long(start)}
    return _Chunk(
        {2: thrift.long(0), 3: (thrift.STRUCT, meta | sizes | {4: thrift.integer(_ZSTD)})}, uncompressed, compressed
    )


@cache
def _is_of_lists(table: Table) -> bool:
    """Whether a table has lists, and but for them numbers alone."""
    types = [field.type.value_type if pa.types.is_list(field.type) else field.type for field in table.arrow]
    has_lists = any(map(pa.types.is_list, table.arrow.types))
    return has_lists and all(each in _KINDS for each in types) and not any(field.nullable for field in table.arrow)


def _footer(table: Table, parts: Iterable[pa.Table], file: _File, precision: Precision) -> thrift.Struct:
    """Put all pages of a table of numbers, each when it is made, vectors while threads make others; gives the footer."""
    row_groups, n_rows = [], 0
    for rows in parts:
        groups = list(_row_groups(table, rows))
        vectors = _vector_pages(groups, table, precision) if table.vector else iter(())
        for group in groups:
            start = file.size
            chunks = [_chunk_of(field, group[field.name], file) for field in table.arrow if field.name != table.vector]
            if table.vector:
                chunks.append(_vector_chunk(table.vector, next(vectors), file))
            row_groups.append(_row_group(chunks, group.num_rows, start))
        n_rows += rows.num_rows
        del rows, groups, group, vectors  # before the next part is made
    return {
        1: thrift.integer(2),
        2: thrift.list_of(thrift.STRUCT, _schema(table)),
        3: thrift.long(n_rows),
        4: thrift.list_of(thrift.STRUCT, row_groups),
        6: thrift.text("actlake"),
        7: thrift.list_of(thrift.STRUCT, [{1: (thrift.STRUCT, {})}] * len(table.columns)),  # as their types are ordered
    }


def _schema(table: Table) -> list[thrift.Struct]:
    """The elements of Parquet's schema, of a table of numbers."""
    one_child = thrift.integer(1)
    as_list: tuple[int, thrift.Struct] = (thrift.STRUCT, {3: (thrift.STRUCT, {})})
    elements: list[thrift.Struct] = [{4: thrift.text("schema"), 5: thrift.integer(len(table.columns))}]
    for field in table.arrow:
        name = thrift.text(field.name)
        if not pa.types.is_list(field.type):
            elements.append({1: thrift.integer(_KINDS[field.type]), 3: thrift.integer(_REQUIRED), 4: name})
            continue
        kind, repetition = _KINDS[field.type.value_type], _REQUIRED if field.name == table.vector else _OPTIONAL
        elements += [
            {3: thrift.integer(_REQUIRED), 4: name, 5: one_child, 6: thrift.integer(_LIST), 10: as_list},
            {3: thrift.integer(_REPEATED), 4: thrift.text("list"), 5: one_child},
            {1: thrift.integer(kind), 3: thrift.integer(repetition), 4: thrift.text("element")},
        ]
    return elements


def _row_group(chunks: Sequence[_Chunk], n_rows: int, start: int) -> thrift.Struct:
    return {
        1: thrift.list_of(thrift.STRUCT, [chunk.entry for chunk in chunks]),
        2: thrift.long(sum(chunk.uncompressed for chunk in chunks)),
        3: thrift.long(n_rows),
        5: thrift.long(start),
        6: thrift.long(sum(chunk.compressed for chunk in chunks)),
    }


@cache
def _column(kind: int, path: tuple[str, ...], encodings: tuple[int, ...]) -> bytes:
    """What the metadata of all chunks of a column begin with."""
    fields: thrift.Struct = {
        1: thrift.integer(kind),
        2: thrift.list_of(thrift.I32, encodings),
        3: thrift.list_of(thrift.BINARY, [part.encode() for part in path]),
        4: thrift.integer(_ZSTD),
    }
    return thrift.write_struct(fields)[:-1]


def _chunk(column: bytes, page: _Page, file: _File, statistics: bytes | None = None) -> _Chunk:
    """Put a column chunk's page; gives its entry in the footer."""
    start = file.put_page(page)
    uncompressed, compressed = (len(page.header) + size for size in (page.size, page.stored))
    before, after = _entry(column, page.n_values, uncompressed, compressed, statistics)
    return _Chunk(before + thrift.varint(start << 1) + after, uncompressed, compressed)


@lru_cache(maxsize=1024)
def _entry(
    column: bytes, n_values: int, uncompressed: int, compressed: int, statistics: bytes | None
) -> tuple[bytes, bytes]:
    """What the footer says of a chunk before and after the number where its page begins."""
    sizes: thrift.Struct = {5: thrift.long(n_values), 6: thrift.long(uncompressed), 7: thrift.long(compressed)}
    begins = thrift.write_struct(sizes | {9: thrift.long(0)}, after=4)[:-2]
    rest: thrift.Struct = {12: (thrift.STRUCT, statistics)} if statistics else {}
    before = thrift.write_struct({2: thrift.long(0), 3: (thrift.STRUCT, column + begins)})[:-1]
    return before, thrift.write_struct(rest, after=9) + b"\0"


def _vector_chunk(name: str, page: _Page, file: _File) -> _Chunk:
    return _chunk(_column(_FLOAT, (name, "list", "element"), (_RLE, _BYTE_STREAM_SPLIT)), page, file)


def _chunk_of(field: pa.Field, values: pa.ChunkedArray, file: _File) -> _Chunk:
    """Put a column of plain numbers, or of lists of them; of integers with the least and the greatest."""
    if pa.types.is_list(field.type):
        column = _column(_KINDS[field.type.value_type], (field.name, "list", "element"), (_RLE, _PLAIN))
        return _chunk(column, _list_page(values.combine_chunks()), file)
    column, numbers = _column(_KINDS[field.type], (field.name,), (_PLAIN,)), values.to_numpy()
    if pa.types.is_integer(field.type):
        page, statistics = _key_page(numbers.tobytes(), numbers.dtype)
        return _chunk(column, page, file, statistics)
    data = np.packbits(numbers, bitorder="little") if pa.types.is_boolean(field.type) else numbers
    return _chunk(column, _Page.of([_compressor().compress(data.tobytes())], data.nbytes, len(numbers), _PLAIN), file)


def _list_page(lists: pa.ListArray) -> _Page:
    """Lists of numbers as a page: repetition levels (0 where one begins, else 1), definition levels (2, of an empty list 0), and
    the numbers."""
    offsets = lists.offsets.to_numpy()
    lengths = np.diff(offsets)
    entries = np.maximum(lengths, 1)
    starts, n_entries = np.cumsum(entries) - entries, int(entries.sum())
    repetition, definition = np.ones(n_entries, np.uint8), np.full(n_entries, 2, np.uint8)
    repetition[starts], definition[starts[lengths == 0]] = 0, 0
    defined = (
        _bit_packed(definition, 2) if len(starts) and not lengths.all() else thrift.varint(n_entries << 1) + b"\x02"
    )
    levels = (_bit_packed(repetition, 1), defined)
    parts = [each for part in levels for each in (len(part).to_bytes(4, "little"), part)]
    data = b"".join([*parts, lists.values.to_numpy()[offsets[0] : offsets[-1]].tobytes()])
    return _Page.of([_compressor().compress(data)], len(data), n_entries, _PLAIN)


def _bit_packed(levels: UInt8[np.ndarray, "n"], width: int) -> bytes:
    """Levels of so many bits, eight of them together, as Parquet's hybrid of run lengths and packed bits has them."""
    n_groups = -(-len(levels) // 8)
    bits = np.zeros((8 * n_groups, width), np.uint8)
    for bit in range(width):
        bits[: len(levels), bit] = levels >> bit & 1
    return thrift.varint(n_groups << 1 | 1) + np.packbits(bits.reshape(-1), bitorder="little").tobytes()


@lru_cache(maxsize=1024)
def _key_page(data: bytes, dtype: np.dtype[Any]) -> tuple[_Page, bytes]:  # a shard's row groups have few different ones
    values = np.frombuffer(data, dtype)
    least, greatest = ((thrift.BINARY, value.tobytes()) for value in (values.min(), values.max()))
    statistics = thrift.write_struct({3: thrift.long(0), 5: greatest, 6: least})
    return _Page.of([_compressor().compress(data)], len(data), len(values), _PLAIN), statistics


def _vector_pages(groups: Sequence[pa.Table], table: Table, precision: Precision) -> Iterator[_Page]:
    """The vector columns of row groups as pages, in their order, made in threads; few are ahead of the one that is wanted, so
    that they have the same memory one after the other."""
    tasks, ahead = _tasks([_vectors(group, table) for group in groups]), deque[Future[list[_Page]]]()

    def pages(matrices: Sequence[Float32[np.ndarray, "rows width"]], first: int) -> list[_Page]:
        of_groups = zip(matrices, groups[first : first + len(matrices)], strict=True)
        return [vector_page(matrix, table.repeats, precision, _what(group, table)) for matrix, group in of_groups]

    for task in tasks:
        ahead.append(threads().submit(pages, *task))
        if len(ahead) >= 2 * n_threads():
            yield from ahead.popleft().result()
    while ahead:
        yield from ahead.popleft().result()


def _tasks(
    matrices: Sequence[Float32[np.ndarray, "rows width"]],
) -> Iterator[tuple[Sequence[Float32[np.ndarray, "rows width"]], int]]:
    """Matrices together that are enough for a thread to go on with by itself, and which is the first."""
    first, n_values = 0, 0
    for at, matrix in enumerate(matrices, 1):
        n_values += matrix.size
        if n_values >= _TASK_VALUES or at == len(matrices):
            yield matrices[first:at], first
            first, n_values = at, 0


def _vectors(group: pa.Table, table: Table) -> Float32[np.ndarray, "rows width"]:
    chunks = group[table.vector]
    rows = chunks.chunk(0) if chunks.num_chunks == 1 else chunks.combine_chunks()
    flat = rows.values[rows.offsets[0].as_py() : rows.offsets[-1].as_py()]  # `flatten` would copy
    return flat.to_numpy().reshape(len(rows), -1)


def _what(group: pa.Table, table: Table) -> str:
    """The vectors of a row group, for people."""
    assert table.vector
    vector = table.vector.replace("_", " ")
    keys = ", ".join(f"{name.removesuffix('_id')} {group[name][0].as_py()}" for name in table.row_group)
    return f"{'an' if vector[0] in 'aeiou' else 'a'} {vector} of {keys}"


def vector_page(
    matrix: Float32[np.ndarray, "rows width"],
    repeats: bool = False,
    precision: Precision = "float32",
    what: str = "a vector",
) -> _Page:
    """Vectors, rounded, as a page: their levels, then their bytes by significance, each plane compressed as blocks of its own.

    `repeats` when vectors may be there before, byte by byte. Raises PrecisionOverflow, which says `what` does not fit.
    """
    levels = _levels(*matrix.shape)
    size = len(levels) + matrix.nbytes
    stream = _vector_compressor(repeats).compressobj(size=size)
    pieces = [stream.compress(levels), stream.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)]
    for plane in _planes(matrix, precision, what):
        pieces += [stream.compress(memoryview(plane)), stream.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)]
    pieces.append(stream.flush())
    return _Page.of(pieces, size, matrix.size, _BYTE_STREAM_SPLIT)


def _levels(n_rows: int, width: int) -> bytes:
    """Repetition levels (0 where a vector begins, else 1) and definition levels (all 1), as Parquet's run lengths."""
    row = b"\x02\x00" + (thrift.varint((width - 1) << 1) + b"\x01" if width > 1 else b"")
    repetition, definition = row * n_rows, thrift.varint((n_rows * width) << 1) + b"\x01"
    return b"".join(len(part).to_bytes(4, "little") + part for part in (repetition, definition))


def _planes(matrix: Float32[np.ndarray, "rows width"], precision: Precision, what: str) -> Iterator[Any]:
    """The rounded values' bytes of equal significance together, the least first; half of them are zero after bfloat16."""
    from .kernels import split, split_bfloat16

    planes = _scratch(4 * matrix.size).reshape(4, -1)
    if precision == "bfloat16":
        if split_bfloat16(_bits(matrix), planes[2:]):
            rounded(matrix, precision, what=what)  # raises
        has_lower = False
    else:
        has_lower = split(_bits(rounded(matrix, precision, what=what)), planes)
    if not has_lower:
        yield bytes(2 * matrix.size)
    yield from planes if has_lower else planes[2:]


def _bits(matrix: Float32[np.ndarray, "rows width"]) -> UInt32[np.ndarray, "_"]:
    return np.ascontiguousarray(matrix).reshape(-1).view(np.uint32)


def _in_memory(rows: Float32[np.ndarray, "rows width"]) -> tuple[UInt32[np.ndarray, "_"], int]:
    """The memory from the first value of some rows to the last, as bits, and how many values apart rows begin."""
    n_rows, width = rows.shape
    step = rows.strides[0] // 4
    assert rows.strides[1] == 4 or width == 1, "a row's values lie together"
    return as_strided(rows.view(np.uint32), ((n_rows - 1) * step + width,), (4,)), step


def _scratch(size: int) -> UInt8[np.ndarray, "size"]:
    """Memory of this thread, which stays in its cache."""
    if getattr(_local, "scratch", None) is None or _local.scratch.size < size:
        _local.scratch = np.empty(size, np.uint8)
    return _local.scratch[:size]
