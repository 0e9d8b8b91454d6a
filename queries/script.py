"""A store as an SQL script that any DuckDB from 1.4 runs: the same tables, views and macros without actlake."""

from collections.abc import Iterator, Mapping, Sequence

import duckdb
import pyarrow as pa

from ..store.location import Location
from ..store.log import Snapshot
from ..store.schema import TABLES
from .comments import comments_beside_views_sql, literal, quoted, views_sql
from .files import GLOB
from .neurons import Some, neuron_numbers
from .plan import INDEXED, TAILS, UNCOUNTED, UNINDEXED, columns_of, schema_option

_AGAIN = {
    "\ncreate view ": "\ncreate or replace view ",
    "\ncreate macro ": "\ncreate or replace macro ",
    "\ncreate schema ": "\ncreate schema if not exists ",
}


def views_script(
    location: Location,
    snapshot: Snapshot,
    partly_indexed: Mapping[str, Sequence[int]],
    described: duckdb.DuckDBPyConnection,
    *,
    some_neurons: Some = (),
    relative: bool = False,
) -> str:
    """The script that makes views of a snapshot's files, in a DuckDB of one's own; it may be run again, over an older one.

    `relative` names files as they are from the store's folder. `described` is a connection that has the same views, for the
    comments on them.
    """
    prefix = "" if relative else f"{_root(location)}/"
    names = {path: f"{prefix}{path}" for path in snapshot.files}
    files = {name: [names[file.path] for file in snapshot.of(name)] for name in TABLES}
    files[UNINDEXED] = [names[path] for path in partly_indexed]
    files[UNCOUNTED] = [names[path] for path in partly_indexed if not snapshot.files[path].counted]
    layers = [(path.rpartition("/")[2], layer) for path, layers in partly_indexed.items() for layer in layers]
    views = "\n\n".join([*(_view(name, paths) for name, paths in files.items()), _indexed_layers(layers)])
    derived = f"\n{views_sql()}"
    for once, again in _AGAIN.items():
        derived = derived.replace(once, again)
    derived += neuron_numbers(some_neurons)
    comments = "\n".join(comments_beside_views_sql(described)).replace("comment on table ", "comment on view ")
    return "\n".join([*_head(location, snapshot, relative=relative), "", views, derived, comments, ""])


def _root(location: Location) -> str:
    if location.is_local:
        return location.root
    return f"{location.uri.partition('://')[0]}://{location.root}"


def _head(location: Location, snapshot: Snapshot, *, relative: bool) -> Iterator[str]:
    yield f"-- A store of actlake after its commit {snapshot.version}; later commits need a new script (`actlake views`)."
    if relative:
        yield "-- Run it in the store's folder; file names are relative to it."
    if not location.is_local:
        yield "-- These files are on an object store: `install httpfs; load httpfs;` and give DuckDB credentials first"
        yield "-- (`create secret`, https://duckdb.org/docs/stable/configuration/secrets_manager)."


def _view(name: str, paths: Sequence[str]) -> str:
    schema = columns_of(name)
    if not paths:
        return _empty(name, schema)
    columns = ",\n".join(f"    {quoted(column)}" for column in schema.names)
    listed = ",\n".join(f"    {literal(path.translate(GLOB))}" for path in paths)
    filename = ", filename = true" if name in TAILS else ""
    options = f"{filename}{schema_option(name)}"
    return f"create or replace view {quoted(name)} as\nselect\n{columns}\nfrom read_parquet([\n{listed}\n]{options});"


def _empty(name: str, schema: pa.Schema) -> str:
    types = duckdb.from_arrow(schema.empty_table()).types
    columns = ",\n".join(
        f"    null::{kind} as {quoted(column)}" for column, kind in zip(schema.names, types, strict=True)
    )
    return f"create or replace view {quoted(name)} as  -- no files yet\nselect\n{columns}\nwhere false;"


def _indexed_layers(rows: Sequence[tuple[str, int]]) -> str:
    if not rows:
        return _empty("indexed_layers", INDEXED)
    values = ",\n".join(f"    ({literal(filename)}, {layer})" for filename, layer in rows)
    return f"create or replace view indexed_layers as\nselect * from (values\n{values}\n) as layers ({', '.join(INDEXED.names)});"
