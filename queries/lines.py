"""Rows as text, a line each: CSV, JSON, and the cells of a page.

A row's Python values can take a thousand times the bytes of its Arrow ones (a dictionary's text again in every row, a
dict for every struct), so they are made of a few rows at a time, and of a sandboxed query in its own process, within
its memory. That process imports this: neither NumPy nor pandas is there.
"""

import csv
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from ..errors import QueryError

LineForm = Literal["csv", "json", "cells"]

CELL_CHARACTERS = 1000
SAFE_INTEGER = 2**53 - 1
"""The greatest whole number that a browser holds exactly."""

LINES = pa.schema([("line", pa.large_binary())])
_PART_BYTES = 1 << 18  # of Arrow's, whose rows are Python values together
_BATCH_BYTES = 1 << 20
_TO_MICROSECONDS = len("2024-01-31 00:00:00.123456")

Row = Sequence[Any]
_LineOf = Callable[[Row], bytes]


def line_batches(reader: pa.RecordBatchReader, form: LineForm) -> Iterator[pa.RecordBatch]:
    """The rows as record batches of LINES, a line for each row; of `cells`, it is a JSON list of what a page shows."""
    to_line = _LINE_OF[form](reader.schema.names)
    for batch in reader:
        lines: list[bytes] = []
        size = 0
        for row in _rows(batch, _short_values if form == "cells" else _printable):
            lines.append(to_line(row))
            size += len(lines[-1])
            if size >= _BATCH_BYTES:
                yield pa.record_batch([lines], schema=LINES)
                lines, size = [], 0
        if lines:
            yield pa.record_batch([lines], schema=LINES)


def rows_of(batch: pa.RecordBatch) -> Iterator[tuple[Any, ...]]:
    """The rows of a batch as Python values; a HUGEINT, which Arrow holds as a decimal without places, is an int."""
    return _rows(batch, _values)


def csv_line(values: Row) -> bytes:
    """A row of a CSV file."""
    return _csv(())(values)


def _csv(_: Sequence[str]) -> _LineOf:
    written: list[str] = []
    writer = csv.writer(_Written(written), lineterminator="\n")

    def line(row: Row) -> bytes:
        writer.writerow(
            [json.dumps(value, default=_json_value) if isinstance(value, list | dict) else value for value in row]
        )
        return written.pop().encode()

    return line


class _Written:
    """The text file that the csv module wants."""

    def __init__(self, texts: list[str]) -> None:
        self.write = texts.append


def _json(names: Sequence[str]) -> _LineOf:
    def line(row: Row) -> bytes:
        body = json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=False, default=_json_value)
        return f"{body}\n".encode()

    return line


def _cells(_: Sequence[str]) -> _LineOf:
    return lambda row: json.dumps([_cell(value) for value in row]).encode()


_LINE_OF: dict[LineForm, Callable[[Sequence[str]], _LineOf]] = {"csv": _csv, "json": _json, "cells": _cells}


def _json_value(value: Any) -> Any:
    return int(value) if isinstance(value, Decimal) and value == value.to_integral_value() else str(value)


def _cell(value: Any) -> str | float | int | bool | None:
    """A value as a cell has it: numbers that a browser holds exactly, everything else as text."""
    if value is None:
        return None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return value if abs(value) <= SAFE_INTEGER else str(value)
    if isinstance(value, Decimal):
        value = float(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    text = (
        value
        if isinstance(value, str)
        else json.dumps(value, ensure_ascii=False, default=str)
        if isinstance(value, list | dict)
        else str(value)
    )
    return cut(text)


def cut(text: str, characters: int = CELL_CHARACTERS) -> str:
    """The text, with … for what is beyond so many characters."""
    return text if len(text) <= characters else f"{text[:characters]}…"


def _rows(batch: pa.RecordBatch, values_of: Callable[[pa.Array], Iterable[Any]]) -> Iterator[tuple[Any, ...]]:
    """The rows of a batch, of which few are Python values at a time where they are large."""
    size = sum(map(_bytes, batch.columns))
    n_rows = max(1, batch.num_rows * _PART_BYTES // max(size, 1))
    for start in range(0, batch.num_rows, n_rows):
        yield from zip(*map(values_of, batch.slice(start, n_rows).columns), strict=True)


def _bytes(column: pa.Array) -> int:
    if pa.types.is_dictionary(column.type) and len(column.dictionary):
        return len(column) * (pc.max(pc.binary_length(column.dictionary)).as_py() or 0)
    return int(column.nbytes)


def _values(column: pa.Array) -> list[Any]:
    values = column.to_pylist()
    if pa.types.is_decimal(column.type) and column.type.scale == 0:
        return [None if value is None else int(value) for value in values]
    return values


def _printable(column: pa.Array) -> list[Any]:
    """Values that print as they do where pandas is, which has nanoseconds."""
    if pa.types.is_timestamp(column.type) and column.type.unit == "ns":
        whole = pc.floor_temporal(column.cast(pa.timestamp("ns")), unit="microsecond")
        coarse = whole.cast(pa.timestamp("us", column.type.tz))
        rest = pc.subtract(column.cast(pa.timestamp("ns")), whole).cast(pa.int64())
        return list(map(_nanoseconds, coarse.to_pylist(), rest.to_pylist()))
    try:
        return _values(column)
    except (ValueError, OverflowError) as error:
        said = f"a value of type {column.type} is none of Python's (a year above 9999, nanoseconds in a list); cast it to text"
        raise QueryError(said) from error


def _nanoseconds(coarse: datetime | None, rest: int | None) -> str | None:
    if coarse is None or not rest:
        return None if coarse is None else str(coarse)
    text = coarse.isoformat(" ", "microseconds")
    return f"{text[:_TO_MICROSECONDS]}{rest:03}{text[_TO_MICROSECONDS:]}"


def _short_values(column: pa.Array) -> list[Any]:
    """As `_printable`, without most of what a cell would not show of a list."""
    if pa.types.is_list(column.type) and column.nbytes > _PART_BYTES:
        column = pc.list_slice(column, 0, CELL_CHARACTERS)  # in a cell, an element has a character at least
    return _printable(column)
