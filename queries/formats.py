"""Rows of a query as text or as a file: a table to read, CSV, JSON lines, Parquet. Streams, but for the table."""

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any, Literal, get_args

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from .connection import query_error

Format = Literal["table", "csv", "json", "parquet"]
FORMATS: tuple[Format, ...] = get_args(Format)

TABLE_ROWS = 100
CELL_WIDTH = 60
_BATCH = 4096


def write_rows(relation: duckdb.DuckDBPyRelation, output: IO[bytes], how: Format) -> None:
    """Write all rows (of a `table` the first 100, with a note on the rest). Raises QueryError if the query fails."""
    try:
        _WRITERS[how](relation, output)
    except duckdb.Error as error:
        raise query_error(error) from error


def table_text(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Rows under their column names, numbers at the right; control characters are shown as escapes."""
    cells = [[_cell(value) for value in row] for row in (columns, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    right = [bool(rows) and all(isinstance(row[i], int | float | None) for row in rows) for i in range(len(columns))]

    def line(row: Sequence[str]) -> str:
        padded = (c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True))
        return "  ".join(padded).rstrip()

    return "\n".join([line(cells[0]), line(["─" * width for width in widths]), *map(line, cells[1:])])


def _cell(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, float):
        return f"{value:.6g}"
    text = str(value)
    if not text.isprintable() or text != text.strip():
        text = (
            json.dumps(text, ensure_ascii=False)
            if text.replace("\n", "").replace("\t", "").isprintable()
            else ascii(text)
        )
    return text if len(text) <= CELL_WIDTH else f"{text[: CELL_WIDTH - 1]}…"


def _batches(relation: duckdb.DuckDBPyRelation) -> Iterator[pa.RecordBatch]:
    yield from relation.to_arrow_reader(_BATCH)


def _write_table(relation: duckdb.DuckDBPyRelation, output: IO[bytes]) -> None:
    rows = relation.limit(TABLE_ROWS + 1).fetchall()
    output.write(f"{table_text(relation.columns, rows[:TABLE_ROWS])}\n".encode(errors="replace"))
    if len(rows) > TABLE_ROWS:
        output.write(f"(the first {TABLE_ROWS} rows; --format csv, json or parquet gives all)\n".encode())


def _write_csv(relation: duckdb.DuckDBPyRelation, output: IO[bytes]) -> None:
    writer = csv.writer(_Encoded(output), lineterminator="\n")
    writer.writerow(relation.columns)
    for batch in _batches(relation):
        writer.writerows(
            [json.dumps(value, default=str) if isinstance(value, list | dict) else value for value in row.values()]
            for row in batch.to_pylist()
        )


def _write_json(relation: duckdb.DuckDBPyRelation, output: IO[bytes]) -> None:
    for batch in _batches(relation):
        for row in batch.to_pylist():
            output.write(f"{json.dumps(row, ensure_ascii=False, default=str)}\n".encode())


def _write_parquet(relation: duckdb.DuckDBPyRelation, output: IO[bytes]) -> None:
    reader = relation.to_arrow_reader(_BATCH)
    with pq.ParquetWriter(output, reader.schema, compression="zstd") as writer:
        for batch in reader:
            writer.write_batch(batch)


class _Encoded:
    """A binary file as the text file that the csv module wants."""

    def __init__(self, output: IO[bytes]) -> None:
        self._output = output

    def write(self, text: str) -> int:
        return self._output.write(text.encode())


_WRITERS: dict[Format, Callable[[duckdb.DuckDBPyRelation, IO[bytes]], None]] = {
    "table": _write_table,
    "csv": _write_csv,
    "json": _write_json,
    "parquet": _write_parquet,
}
