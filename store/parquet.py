"""Parquet files whose every page carries a checksum that any reader checks, and vectors at the speed of memory.

A page here is a zstd frame with zstd's own checksum: pyarrow writes frames without one, and DuckDB ignores Parquet's page
checksums, so a flipped bit would be a wrong answer. Tables of numbers, with a vector or with lists, are laid out here, vectors
in threads. Other tables are laid out by pyarrow, uncompressed, and their pages sealed here. The result is ordinary Parquet
without dictionaries (docs/format.md; docs/decisions/007 has the reasons and what was measured).
"""

import hashlib
import zlib
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import accumulate, pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float32

from . import thrift
from .pages import BYTE_STREAM_SPLIT, PLAIN, RLE, Page, key_page, list_page, number_page, vector_page
from .precision import Precision
from .schema import VECTOR, Table
from .threads import n_threads, threads

_MAGIC = b"PAR1"
_BOOLEAN, _INT32, _INT64, _FLOAT, _DOUBLE = 0, 1, 2, 4, 5
_KINDS = {pa.bool_(): _BOOLEAN, pa.int32(): _INT32, pa.int64(): _INT64, pa.float32(): _FLOAT, pa.float64(): _DOUBLE}
_ZSTD, _LIST = 6, 3
_REQUIRED, _OPTIONAL, _REPEATED = 0, 1, 2
_NO_HEADER = b"\xff"
"""Stands after every column chunk, which is one page, and belongs to none. It begins no page's header, so a reader whom a
flipped bit told that the page has fewer values, or is of another kind, meets an error where it looks for the rest."""

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
    with ThreadPoolExecutor(1, thread_name_prefix="actlake-put") as thread:
        file = _File(put, thread)
        if table.vector or _is_of_lists(table):
            footer = _footer(table, parts, file, precision)
        else:
            footer = _sealed_footer(table, pa.concat_tables(parts), file)
        return file.finished(thrift.write_struct(footer))


class _File:
    """A file in the making, put in pieces of about a megabyte: a page is a dozen small ones."""

    def __init__(self, put: Callable[[bytes], object], thread: ThreadPoolExecutor) -> None:
        """`thread` puts and hashes a piece while the next is made."""
        self._put, self._gathered, self._thread = put, list[bytes](), thread
        self._putting: Future[None] | None = None
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
        self._settle()
        self._putting = self._thread.submit(self._put_piece, piece)

    def _put_piece(self, piece: bytes) -> None:
        self._put(piece)
        self._sha256.update(piece)

    def _settle(self) -> None:
        """Wait until all pieces are put; raises what putting one raised."""
        if self._putting:
            self._putting.result()

    def put_page(self, page: Page) -> int:
        """Append a column chunk's page; says where it begins."""
        head, is_small = len(page.header), page.compressed - len(page.header) < _SMALL
        while self._landings and self._landings[0] < self.size + (page.compressed if is_small else head):
            self.put(_NO_HEADER * (self._landings.popleft() - self.size + 1))
        start = self.size
        self._landings.append(start + head + _LEAP)
        self._add((page.header, *page.pieces, _NO_HEADER), page.compressed + len(_NO_HEADER))
        return start

    def finished(self, footer: bytes) -> EncodedFile:
        end = footer + len(footer).to_bytes(4, "little") + _MAGIC
        self.put(end)
        self._put_gathered()
        self._settle()
        return EncodedFile(self.size, self._sha256.hexdigest(), len(end), zlib.crc32(end))


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


def _row_groups(table: Table, rows: pa.Table) -> list[slice]:
    """The rows of each group: in it no column of the table's `row_group` changes (all rows where it names none), none is too
    long."""
    changes = np.zeros(max(rows.num_rows - 1, 0), bool)
    for name in table.row_group:
        values = rows[name].to_numpy()
        changes |= values[1:] != values[:-1]
    bounds, most = [0, *(np.flatnonzero(changes) + 1).tolist(), rows.num_rows], table.group_rows
    if table.vector and rows.num_rows:
        most = min(most, max(1, table.group_bytes // (4 * len(rows[table.vector][0]))))
    starts = ((start, end) for whole, end in pairwise(bounds) for start in range(whole, end, most))
    return [slice(start, min(start + most, end)) for start, end in starts]


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
            n_rows = group.stop - group.start
            writer.write_table(rows.slice(group.start, n_rows), row_group_size=n_rows)
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
    end = meta[9][1] + meta[7][1]
    assert body + header[3][1] == end, "a chunk is one page"
    page = Page.sealed(header, laid_out[body:end])
    start = file.put_page(page)
    sizes = {6: thrift.long(page.uncompressed), 7: thrift.long(page.compressed), 9: thrift.long(start)}
    of_chunk = thrift.STRUCT, meta | sizes | {4: thrift.integer(_ZSTD)}
    return _Chunk({2: thrift.long(0), 3: of_chunk}, page.uncompressed, page.compressed)


@cache
def _is_of_lists(table: Table) -> bool:
    """Whether a table has lists, and but for them numbers alone."""
    types = [field.type.value_type if pa.types.is_list(field.type) else field.type for field in table.arrow]
    has_lists = any(map(pa.types.is_list, table.arrow.types))
    return has_lists and all(each in _KINDS for each in types) and not any(field.nullable for field in table.arrow)


def _footer(table: Table, parts: Iterable[pa.Table], file: _File, precision: Precision) -> thrift.Struct:
    """Put all pages of a table of numbers, each when it is made, vectors while threads make others; gives the footer."""
    heads, row_groups, n_rows = [_head(field, table) for field in table.arrow], [], 0
    for rows in parts:
        groups = _row_groups(table, rows)
        columns = [_pages_of(field, table, rows, groups, precision) for field in table.arrow]
        for group, *pages in zip(groups, *columns, strict=True):
            start = file.size
            chunks = [_chunk(head, page, file) for head, page in zip(heads, pages, strict=True)]
            row_groups.append(_row_group(chunks, group.stop - group.start, start))
        n_rows += rows.num_rows
        del rows, columns  # before the next part is made
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
def _head(field: pa.Field, table: Table) -> bytes:
    """What the metadata of all chunks of a column of numbers, or of lists of them, begin with."""
    is_list = pa.types.is_list(field.type)
    path, kind = ([field.name, "list", "element"], field.type.value_type) if is_list else ([field.name], field.type)
    encodings = [RLE, BYTE_STREAM_SPLIT if field.name == table.vector else PLAIN] if is_list else [PLAIN]
    fields: thrift.Struct = {
        1: thrift.integer(_KINDS[kind]),
        2: thrift.list_of(thrift.I32, encodings),
        3: thrift.list_of(thrift.BINARY, [part.encode() for part in path]),
        4: thrift.integer(_ZSTD),
    }
    return thrift.write_struct(fields)[:-1]


def _chunk(head: bytes, page: Page, file: _File) -> _Chunk:
    """Put a column chunk's page; gives its entry in the footer."""
    start = file.put_page(page)
    before, after = _entry(head, page.n_values, page.uncompressed, page.compressed, page.statistics)
    return _Chunk(before + thrift.varint(start << 1) + after, page.uncompressed, page.compressed)


@lru_cache(maxsize=1024)  # keys come again in each layer
def _entry(head: bytes, n_values: int, uncompressed: int, compressed: int, statistics: bytes) -> tuple[bytes, bytes]:
    """What the footer says of a chunk before and after the number where its page begins."""
    sizes: thrift.Struct = {5: thrift.long(n_values), 6: thrift.long(uncompressed), 7: thrift.long(compressed)}
    begins = thrift.write_struct(sizes | {9: thrift.long(0)}, after=4)[:-2]
    rest: thrift.Struct = {12: (thrift.STRUCT, statistics)} if statistics else {}
    before = thrift.write_struct({2: thrift.long(0), 3: (thrift.STRUCT, head + begins)})[:-1]
    return before, thrift.write_struct(rest, after=9) + b"\0"


def _pages_of(
    field: pa.Field, table: Table, rows: pa.Table, groups: Sequence[slice], precision: Precision
) -> Iterator[Page]:
    """The pages of a column, one of each row group."""
    if field.name == table.vector:
        return _vector_pages(table, rows, groups, precision)
    if pa.types.is_list(field.type):
        lists = rows[field.name].combine_chunks()
        return (list_page(lists[group]) for group in groups)
    numbers = rows[field.name].to_numpy()
    if pa.types.is_integer(field.type):
        return (key_page(numbers[group].tobytes(), numbers.dtype) for group in groups)
    return (number_page(numbers[group]) for group in groups)


def _vector_pages(table: Table, rows: pa.Table, groups: Sequence[slice], precision: Precision) -> Iterator[Page]:
    """Those of the vectors, made in threads. Few are ahead of the one that is asked for: so they have the same memory, one after
    the other."""
    keys = {name: rows[name].to_numpy() for name in table.row_group}
    matrices, ahead = _matrices(rows[table.vector], groups), deque[Future[list[Page]]]()

    def page(number: int) -> Page:
        of_group = {name: values[groups[number].start] for name, values in keys.items()}
        return vector_page(matrices[number], table.repeats, precision, _what(table, of_group))

    for task in _tasks([matrix.size for matrix in matrices]):
        ahead.append(threads().submit(lambda numbers: [*map(page, numbers)], task))
        if len(ahead) == 2 * n_threads():
            yield from ahead.popleft().result()
    while ahead:
        yield from ahead.popleft().result()


def _tasks(sizes: Sequence[int]) -> Iterator[range]:
    """The numbers of matrices that are enough together for a thread to go on with by itself."""
    first, n_values = 0, 0
    for number, size in enumerate(sizes):
        n_values += size
        if n_values >= _TASK_VALUES or number == len(sizes) - 1:
            yield range(first, number + 1)
            first, n_values = number + 1, 0


def _matrices(vectors: pa.ChunkedArray, groups: Sequence[slice]) -> list[Float32[np.ndarray, "rows width"]]:
    """The vectors of each group of rows, as they are in memory where they lie together."""
    chunks = [_matrix(chunk) for chunk in vectors.chunks if len(chunk)]
    ends, matrices = [*accumulate(map(len, chunks))], []
    for group in groups:
        first, last = bisect_right(ends, group.start), bisect_right(ends, group.stop - 1)
        start = ends[first] - len(chunks[first])
        whole = chunks[first] if first == last else np.concatenate(chunks[first : last + 1])
        matrices.append(whole[group.start - start : group.stop - start])
    return matrices


def _matrix(vectors: pa.ListArray) -> Float32[np.ndarray, "rows width"]:
    offsets = vectors.offsets.to_numpy()
    return vectors.values.to_numpy()[offsets[0] : offsets[-1]].reshape(len(vectors), -1)  # `flatten` would copy


def _what(table: Table, keys: Mapping[str, int]) -> str:
    """The vectors of a row group, for people."""
    assert table.vector, f"{table.name} has no vector column"
    vector, of_group = table.vector.replace("_", " "), (f"{name.removesuffix('_id')} {keys[name]}" for name in keys)
    return f"{'an' if vector[0] in 'aeiou' else 'a'} {vector} of {', '.join(of_group)}"
