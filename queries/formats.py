"""Rows of a query as text or as a file: a table to read, CSV, JSON lines, Parquet, Arrow. Rows are written as they come."""

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from typing import IO, Any, Literal, get_args

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from .sandbox import QueryResult, rows_of

Format = Literal["table", "csv", "json", "parquet", "arrow"]
FORMATS: tuple[Format, ...] = get_args(Format)

TABLE_ROWS = 100
CELL_WIDTH = 60
_BATCH = 4096
_ROW_GROUP_BYTES = 32 * 2**20


def write_rows(rows: QueryResult | duckdb.DuckDBPyRelation, output: IO[bytes], how: Format) -> None:
    """Write all rows; of a `table` the first 100, with a note on the rest, which are then not computed.

    Raises what reading the rows raises.
    """
    _WRITERS[how](rows.to_arrow_reader(_BATCH), output)


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
    text = shown(str(value))
    return text if len(text) <= CELL_WIDTH else f"{text[: CELL_WIDTH - 1]}…"


def shown(text: str) -> str:
    """A text for a terminal: quoted, with escapes, where it holds control characters or begins or ends with white space."""
    if text.isprintable() and text == text.strip():
        return text
    if text.replace("\n", "").replace("\t", "").isprintable():
        return json.dumps(text, ensure_ascii=False)
    return ascii(text)


def _write_table(reader: pa.RecordBatchReader, output: IO[bytes]) -> None:
    rows: list[tuple[Any, ...]] = []
    for batch in reader:
        rows += rows_of(batch.slice(0, TABLE_ROWS + 1))
        if len(rows) > TABLE_ROWS:
            break
    output.write(f"{table_text(reader.schema.names, rows[:TABLE_ROWS])}\n".encode(errors="replace"))
    if len(rows) > TABLE_ROWS:
        output.write(f"(the first {TABLE_ROWS} rows; --format csv, json or parquet gives all)\n".encode())


def _write_csv(reader: pa.RecordBatchReader, output: IO[bytes]) -> None:
    writer = csv.writer(_Encoded(output), lineterminator="\n")
    writer.writerow(reader.schema.names)
    for batch in reader:
        writer.writerows(
            [json.dumps(value, default=_json) if isinstance(value, list | dict) else value for value in row]
            for row in rows_of(batch)
        )


def _write_json(reader: pa.RecordBatchReader, output: IO[bytes]) -> None:
    names = reader.schema.names
    for batch in reader:
        for row in rows_of(batch):
            line = json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=False, default=_json)
            output.write(f"{line}\n".encode())


def _write_parquet(reader: pa.RecordBatchReader, output: IO[bytes]) -> None:
    with pq.ParquetWriter(output, reader.schema, compression="zstd") as writer:
        for batches in _row_groups(reader):
            writer.write_table(pa.Table.from_batches(batches))


def _write_arrow(reader: pa.RecordBatchReader, output: IO[bytes]) -> None:
    with pa.ipc.new_file(output, reader.schema) as writer:
        for batch in reader:
            writer.write_batch(batch)


def _row_groups(reader: pa.RecordBatchReader) -> Iterator[list[pa.RecordBatch]]:
    """Batches that are held in memory together, to become one row group."""
    held: list[pa.RecordBatch] = []
    for batch in reader:
        held.append(batch)
        if sum(part.nbytes for part in held) >= _ROW_GROUP_BYTES:
            yield held
            held = []
    if held:
        yield held


def _json(value: Any) -> Any:
    return int(value) if isinstance(value, Decimal) and value == value.to_integral_value() else str(value)


class _Encoded:
    """A binary file as the text file that the csv module wants."""

    def __init__(self, output: IO[bytes]) -> None:
        self._output = output

    def write(self, text: str) -> int:
        return self._output.write(text.encode())


_WRITERS: dict[Format, Callable[[pa.RecordBatchReader, IO[bytes]], None]] = {
    "table": _write_table,
    "csv": _write_csv,
    "json": _write_json,
    "parquet": _write_parquet,
    "arrow": _write_arrow,
}
