"""Parquet's pages: a column's numbers in one zstd frame under zstd's own checksum, made and read.

A vector's bytes are split into planes, each compressed as blocks of its own. Going back is one decompression and one merge of
planes. docs/format.md has the bytes, docs/decisions/007 the reasons and what was measured.
"""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import zstandard
from jaxtyping import Float32, Int, Shaped, UInt8, UInt32
from numpy.lib.stride_tricks import as_strided

from . import thrift
from .precision import Precision, rounded

LEVEL = 1
"""zstd's level for pages of other columns than vectors."""

PLAIN, RLE, BYTE_STREAM_SPLIT = 0, 3, 9
_DATA_PAGE = 0
_STATISTICS = 5  # of a page: nobody reads them, and every byte of a header can be flipped

_GUARD: thrift.Struct = {14: thrift.long(-(1 << 63))}
"""A field of page headers that readers do not know and skip: ten bytes of a number. When a flipped bit makes the end of the
struct before it the beginning of a field, that field's number goes on through these bytes and is too long: an error."""


@dataclass(frozen=True, slots=True)
class Page:
    """A page's header, its compressed pieces, its bytes before compression and after it with the header, its number of values,
    and, of whole numbers, the least and the greatest as Parquet's statistics."""

    header: bytes
    pieces: Sequence[bytes]
    uncompressed: int
    compressed: int
    n_values: int
    statistics: bytes = b""

    @classmethod
    def of(
        cls, pieces: Sequence[bytes], size: int, n_values: int, encoding: int = PLAIN, statistics: bytes = b""
    ) -> "Page":
        """Of so many bytes before compression."""
        stored = sum(map(len, pieces))
        header = _header(size, stored, n_values, encoding)
        return cls(header, pieces, len(header) + size, len(header) + stored, n_values, statistics)

    @classmethod
    def sealed(cls, header: thrift.Struct, data: memoryview) -> "Page":
        """Of a page that was laid out without compression."""
        piece = _compressor().compress(data)
        header[5][1].pop(_STATISTICS, None)
        head = thrift.write_struct(header | {3: thrift.integer(len(piece))} | _GUARD)
        return cls(head, [piece], len(head) + len(data), len(head) + len(piece), header[5][1][1][1])


def _header(size: int, stored: int, n_values: int, encoding: int) -> bytes:
    values = {1: n_values, 2: encoding, 3: RLE, 4: RLE}
    fields: thrift.Struct = {
        1: thrift.integer(_DATA_PAGE),
        2: thrift.integer(size),
        3: thrift.integer(stored),
        5: (thrift.STRUCT, {field: thrift.integer(value) for field, value in values.items()}),
    }
    return thrift.write_struct(fields | _GUARD)


def vector_page(
    matrix: Float32[np.ndarray, "rows width"],
    repeats: bool = False,
    precision: Precision = "float32",
    what: str = "a vector",
) -> Page:
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
    return Page.of(pieces, size, matrix.size, BYTE_STREAM_SPLIT)


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


def list_page(lists: pa.ListArray) -> Page:
    """Lists of numbers as a page: repetition levels (0 where one begins, else 1), definition levels (2, of an empty list 0), and
    the numbers."""
    offsets = lists.offsets.to_numpy()
    lengths = np.diff(offsets)
    entries = np.maximum(lengths, 1)
    starts, n_entries = np.cumsum(entries) - entries, int(entries.sum())
    repetition, definition = np.ones(n_entries, np.uint8), np.full(n_entries, 2, np.uint8)
    repetition[starts], definition[starts[lengths == 0]] = 0, 0
    are_all = not len(starts) or bool(lengths.all())
    defined = thrift.varint(n_entries << 1) + b"\x02" if are_all else _bit_packed(definition, 2)
    levels = (_bit_packed(repetition, 1), defined)
    parts = [each for part in levels for each in (len(part).to_bytes(4, "little"), part)]
    data = b"".join([*parts, lists.values.to_numpy()[offsets[0] : offsets[-1]].tobytes()])
    return Page.of([_compressor().compress(data)], len(data), n_entries)


def _bit_packed(levels: UInt8[np.ndarray, "n"], width: int) -> bytes:
    """Levels of so many bits, eight of them together, as Parquet's hybrid of run lengths and packed bits has them."""
    n_groups = -(-len(levels) // 8)
    bits = np.zeros((8 * n_groups, width), np.uint8)
    for bit in range(width):
        bits[: len(levels), bit] = levels >> bit & 1
    return thrift.varint(n_groups << 1 | 1) + np.packbits(bits.reshape(-1), bitorder="little").tobytes()


@lru_cache(maxsize=1024)  # a shard's row groups have few different ones
def key_page(data: bytes, dtype: np.dtype[Any]) -> Page:
    """Whole numbers as they are in memory."""
    values = np.frombuffer(data, dtype)
    least, greatest = ((thrift.BINARY, value.tobytes()) for value in (values.min(), values.max()))
    statistics = thrift.write_struct({3: thrift.long(0), 5: greatest, 6: least})
    return Page.of([_compressor().compress(data)], len(data), len(values), statistics=statistics)


def number_page(numbers: Shaped[np.ndarray, "rows"]) -> Page:
    """Numbers as they are in memory; booleans as bits."""
    data = np.packbits(numbers, bitorder="little") if numbers.dtype == bool else numbers
    return Page.of([_compressor().compress(data.tobytes())], data.nbytes, len(numbers))


def vectors_in(chunk: bytes | memoryview, out: Float32[np.ndarray, "rows width"]) -> None:
    """Put the vectors of a column chunk that `encode` wrote where they are wanted: rows of a matrix, or some columns of them.

    Raises ValueError when it is not such a chunk, or damaged.
    """
    from .kernels import merge

    start, width = 0, out.shape[1]
    for encoding, n_values, page in _data_pages(chunk):
        n_rows, rest = divmod(n_values, width)
        if encoding != BYTE_STREAM_SPLIT or rest or start + n_rows > len(out) or len(page) < 4 * n_values:
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
        if encoding != PLAIN or len(page) != n_values * dtype.itemsize:
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


def _in_memory(rows: Float32[np.ndarray, "rows width"]) -> tuple[UInt32[np.ndarray, "_"], int]:
    """The memory from the first value of some rows to the last, as bits, and how many values apart rows begin."""
    n_rows, width = rows.shape
    step = rows.strides[0] // 4
    assert rows.strides[1] == 4 or width == 1, "a row's values lie together"
    return as_strided(rows.view(np.uint32), ((n_rows - 1) * step + width,), (4,)), step


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


def _scratch(size: int) -> UInt8[np.ndarray, "size"]:
    """Memory of this thread, which stays in its cache."""
    if getattr(_local, "scratch", None) is None or _local.scratch.size < size:
        _local.scratch = np.empty(size, np.uint8)
    return _local.scratch[:size]
