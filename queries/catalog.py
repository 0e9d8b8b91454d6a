"""What is there to ask, and what it means: `.tables`, `.schema` and `describe`, from the comments in DuckDB's own catalog."""

import re
from collections.abc import Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any

from ..errors import QueryError
from ..store.schema import TABLES
from .comments import literal

_NAME = r'"[^"]+"|\w+'
_DESCRIBE = re.compile(
    rf"\s*(?:describe|desc)\s+(?!(?:tables|databases|schemas|variables|select|from|with|all)\b)"
    rf"(?:(?P<schema>{_NAME})\.)?(?P<name>{_NAME})\s*;?\s*",
    re.IGNORECASE,
)
_DOT = re.compile(r"\s*\.(?P<command>\w*)(?:\s+(?P<name>[^\s;]+))?\s*;?\s*")

_TABLES = "select name, kind, comment from catalog where column_name is null order by place"
_SCHEMA = """
    select name, kind, column_name, type, comment
    from catalog
    where ($name is null or name = $name or starts_with(name, $name || '('))
        and if(
            $name is null or exists (from catalog where name = $name or starts_with(name, $name || '(')),
            true,
            error('there is no table, view or macro ' || $name || '; .tables lists them')
        )
    order by place
"""
_CATALOG = """
with there as (
    select 'relation' as kind, schema_name, view_name as name, '' as parameters, comment
    from duckdb_views() where not internal and not temporary
    union all
    select 'relation', schema_name, table_name, '', comment
    from duckdb_tables() where not internal and not temporary
    union all
    select 'macro', schema_name, function_name, '(' || array_to_string(parameters, ', ') || ')', comment
    from duckdb_functions() where not internal and function_type in ('macro', 'table_macro')
),
lines as (
    select kind, schema_name, name, parameters, -1 as column_index, null as column_name, null as type, comment
    from there
    union all
    select 'relation', schema_name, table_name, '', column_index, column_name, data_type, comment
    from duckdb_columns() where not internal and database_name != 'temp'
),
catalog as (
    select
        if(schema_name = 'main', '', schema_name || '.') || name || parameters as name,
        if(kind = 'macro', 'macro', if(list_contains($tables, name), 'table', 'view')) as kind,
        column_name,
        type,
        comment,
        row_number() over (
            order by
                kind desc,
                list_position($tables, name) nulls last,
                schema_name != 'main',
                schema_name,
                name,
                column_index
        ) as place
    from lines
)
"""


def asks_for_comments(query: str) -> bool:
    """Whether a query looks into DuckDB's catalog, where comments are."""
    return "duckdb_" in query.lower()


def with_comments(query: str) -> str:
    """`describe NAME` with a column for comments, which DuckDB's has not; any other query as it is."""
    match = _DESCRIBE.fullmatch(query)
    if not match:
        return query
    schema, name = ((match[part] or "main").strip('"') for part in ("schema", "name"))
    relation = query.strip().rstrip(";").split(None, 1)[1]
    return f"""
        select described.*, comment
        from (describe {relation}) as described
        left join (
            select column_name, column_index, comment
            from duckdb_columns()
            where database_name != 'temp'
                and lower(schema_name) = {literal(schema.lower())} and lower(table_name) = {literal(name.lower())}
        ) using (column_name)
        order by column_index
    """


def dot_command(text: str) -> tuple[str, Mapping[str, Any]] | None:
    """The query, with its parameters, that answers `.tables` or `.schema [NAME]`; None for what begins with no dot."""
    if not text.lstrip().startswith("."):
        return None
    match = _DOT.fullmatch(text)
    command, name = (match["command"], match["name"]) if match else ("", None)
    if command == "tables" and name is None:
        return _CATALOG + _TABLES, {"tables": list(TABLES)}
    if command == "schema":
        return _CATALOG + _SCHEMA, {"tables": list(TABLES), "name": name}
    raise QueryError(f"there is no command {text.strip()!r}; there are .tables, .schema and .schema NAME")


def catalog_text(rows: Sequence[Sequence[Any]]) -> str:
    """The rows of `.tables` or `.schema`, to read."""
    if rows and len(rows[0]) == 3:
        width = max(len(name) for name, *_ in rows)
        return "\n".join(f"{name:{width}}  {kind:5}  {comment}" for name, kind, comment in rows)
    parts = []
    for name, (head, *columns) in ((name, list(group)) for name, group in groupby(rows, itemgetter(0))):
        widths = [max((len(column[i]) for column in columns), default=0) for i in (2, 3)]
        lines = [f"  {c[2]:{widths[0]}}  {c[3]:{min(widths[1], 12)}}  {c[4]}" for c in columns]
        parts.append("\n".join([f"{name} ({head[1]}): {head[4]}", *lines]))
    return "\n\n".join(parts)
