"""Which rows of which tables a query can need, by DuckDB's own plan of it.

The query is planned over stand-ins: tables with the same columns and the widest values, so that DuckDB can conclude nothing
from what they hold. What it pushes down to their scans is what the files can be chosen by, before one of them is opened.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import duckdb
import pyarrow as pa

from ..store.schema import TABLES
from .comments import definitions, literal

Ranges = Mapping[str, tuple[int, int]]
"""The least and the greatest value of key columns that a scan can need; a column that is not there: all."""

Scans = Mapping[str, Sequence[Ranges]]
"""For each table, what each scan of it can need."""

ACTIVATIONS = pa.schema(
    [
        ("generation_id", pa.int64()),
        ("position", pa.int32()),
        ("layer", pa.int32()),
        ("neuron", pa.int32()),
        ("activation", pa.float32()),
    ]
)
"""The columns of the `activations` view."""

UNINDEXED = "unindexed_files"
"""The name that files of `activation_vectors` have which the neuron-major projection has not, or not in all layers."""

UNCOUNTED = "uncounted_files"
"""The name that those have of which there are no statistics either."""

TAILS = (UNINDEXED, UNCOUNTED)

INDEXED = pa.schema([("filename", pa.string()), ("layer", pa.int32())])
"""The columns of `indexed_layers`: what the projection has of those files."""


def columns_of(name: str) -> pa.Schema:
    """The columns of a table that is made of files."""
    if name in TAILS:
        return TABLES["activation_vectors"].arrow.append(INDEXED.field("filename"))
    return TABLES[name].arrow


@cache
def schema_option(name: str) -> str:
    """What `read_parquet` is told, after a comma, of a table that files of an older format lack columns of: nulls stand there."""
    if name in TAILS or not TABLES[name].has_grown:
        return ""
    schema = columns_of(name)
    types = duckdb.from_arrow(schema.empty_table()).types
    columns = (
        f"{literal(column)}: {{name: {literal(column)}, type: {literal(str(kind))}, default_value: null}}"
        for column, kind in zip(schema.names, types, strict=True)
    )
    return f", schema = map {{{', '.join(columns)}}}"


_EXPLAIN = re.compile(r"^\s*explain\s+(analyze\s+)?(\([^)]*\)\s*)?", re.IGNORECASE)
_COMPARISON = re.compile(r"\(?(\w+) (=|<|<=|>|>=) (-?\d+)\)?")
_BETWEEN = re.compile(r"\(?\(?(\w+) >= (-?\d+)\)? AND \(?(\w+) <= (-?\d+)\)?\)?")
_IN = re.compile(r"(?:optional: )?\(?(\w+) IN \((-?\d+(?:, -?\d+)*)\)\)?")
_LEAST, _GREATEST = -(1 << 63), (1 << 63) - 1


def scans_of(query: str, params: Sequence[Any] | Mapping[str, Any] | None = None) -> Scans | None:
    """What a query scans, or None when it cannot be planned (it is no single SELECT, or it is wrong)."""
    text = _EXPLAIN.sub("", query)
    connection = _stand_ins().cursor()
    try:
        if [statement.type.name for statement in connection.extract_statements(text)] != ["SELECT"]:
            return None
        ((_, plan),) = connection.execute(f"explain (format json) {text}", params).fetchall()
    except duckdb.Error:
        return None
    scans: dict[str, list[Ranges]] = {}
    for table, filters in _table_scans(json.loads(plan)):
        scans.setdefault(table, []).append(_ranges(filters))
    return scans


@cache
def _stand_ins() -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect(":memory:", config={"python_enable_replacements": False, "threads": 1})
    for name in (*TABLES, *TAILS):
        connection.from_arrow(_widest(columns_of(name))).create(name)
    connection.from_arrow(_widest(INDEXED)).create("indexed_layers")
    connection.execute(definitions())
    connection.execute("drop view activations")
    connection.from_arrow(_widest(ACTIVATIONS)).create("activations")
    connection.execute("set enable_external_access = false")
    connection.execute("set lock_configuration = true")
    return connection


def _widest(schema: pa.Schema) -> pa.Table:
    """A row of least values, one of greatest, one of nulls."""
    extremes = {
        pa.int64(): (_LEAST, _GREATEST),
        pa.int32(): (-(1 << 31), (1 << 31) - 1),
        pa.float32(): (float("-inf"), float("inf")),
        pa.float64(): (float("-inf"), float("inf")),
        pa.string(): ("", chr(0x10FFFF)),
        pa.bool_(): (False, True),
        pa.timestamp("us"): (-(1 << 55), 1 << 55),
    }
    columns = []
    for field in schema:
        if pa.types.is_list(field.type):
            values = pa.array([[], list(extremes[field.type.value_type]), None], pa.list_(field.type.value_type))
        else:
            values = pa.array([*extremes[field.type], None], field.type)
        columns.append(values)
    return pa.Table.from_arrays(columns, names=schema.names)


def _table_scans(node: Any) -> Iterator[tuple[str, Sequence[str]]]:
    """The tables that a plan scans, with the conditions that were pushed down to each."""
    if isinstance(node, list):
        for each in node:
            yield from _table_scans(each)
        return
    details = node.get("extra_info", {})
    if "Table" in details:
        filters = details.get("Filters", [])
        yield details["Table"].rpartition(".")[2], [filters] if isinstance(filters, str) else filters
    yield from _table_scans(node["children"])


def _ranges(filters: Sequence[str]) -> Ranges:
    """What conditions, all of which hold, say of integer columns; one that is not understood says nothing."""
    ranges: dict[str, tuple[int, int]] = {}

    def narrow(column: str, least: int, greatest: int) -> None:
        before = ranges.get(column, (_LEAST, _GREATEST))
        ranges[column] = (max(before[0], least), min(before[1], greatest))

    for condition in filters:
        if match := _COMPARISON.fullmatch(condition):
            column, comparison, value = match[1], match[2], int(match[3])
            at_least, at_most = comparison in ("=", ">", ">="), comparison in ("=", "<", "<=")
            narrow(column, value if at_least else _LEAST, value if at_most else _GREATEST)
        elif (match := _BETWEEN.fullmatch(condition)) and match[1] == match[3]:
            narrow(match[1], int(match[2]), int(match[4]))
        elif match := _IN.fullmatch(condition):
            values = [int(value) for value in match[2].split(", ")]
            narrow(match[1], min(values), max(values))
    return ranges
