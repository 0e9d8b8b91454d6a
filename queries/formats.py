"""Rows of a query as text or as a file: a table to read, CSV, JSON lines, Parquet, Arrow. Rows are written as they come."""

import json
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any, Literal, get_args

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from .lines import LineForm, csv_line, line_batches, rows_of
from .sandbox import QueryResult

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
    if how == "csv" or how == "json":
        _write_lines(rows, output, how)
    else:
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


def _write_lines(rows: QueryResult | duckdb.DuckDBPyRelation, output: IO[bytes], form: LineForm) -> None:
    batches = rows.lines(form) if isinstance(rows, QueryResult) else line_batches(rows.to_arrow_reader(_BATCH), form)
    if form == "csv":
        output.write(csv_line(rows.columns))
    for batch in batches:
        output.writelines(batch[0].to_pylist())


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


_WRITERS: dict[Format, Callable[[pa.RecordBatchReader, IO[bytes]], None]] = {
    "table": _write_table,
    "parquet": _write_parquet,
    "arrow": _write_arrow,
}
