"""What every table, view, column and macro means, as `comment on` statements: for SQL, for scripts and for the docs.

Each text is written once: of tables that are files in `store/schema.py`, of views and macros in `views.sql`. A view's column
that `views.sql` does not name means what the key column of that name means, or what its model in `LIKE` says.
"""

import re
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import resources

import duckdb

from ..store.schema import TABLES

LIKE: Mapping[str, str] = {
    "unindexed_files": "activation_vectors",
    "unindexed_activation_vectors": "activation_vectors",
    "uncounted_files": "activation_vectors",
    "uncounted_activations": "activations",
    "by_token.activations": "activations",
    "by_neuron.activations": "activations",
    "all_neuron_partials": "neuron_partials",
}
"""Relations whose columns mean what another's mean."""

_INTERNAL = {
    "unindexed_files": "rows of activation_vectors whose files have layers that neuron_vectors has not, with their files",
    "unindexed_files.filename": "the file that the row is in",
    "uncounted_files": "those of them of which neuron_partials has no statistics either",
    "uncounted_files.filename": "the file that the row is in",
    "indexed_layers": "the layers of unindexed_files that neuron_vectors has nevertheless",
    "indexed_layers.filename": "the file",
    "indexed_layers.layer": "a layer of it that neuron_vectors has",
}
_COMMENT = re.compile(r"^comment on (?P<kind>\w+(?: table)?) (?P<name>\S+) is '.*';$\n*", re.MULTILINE)
_KEYS = {column.name: column.comment for table in reversed(TABLES.values()) for column in table.columns if column.key}

_RELATIONS = """
    select kind, if(schema_name = 'main', '', schema_name || '.') || name as name, columns
    from (
        select 'view' as kind, schema_name, view_name as name from duckdb_views() where not internal and not temporary
        union all
        select 'table', schema_name, table_name from duckdb_tables() where not internal and not temporary
    )
    join (
        select schema_name, table_name as name, list(column_name order by column_index) as columns
        from duckdb_columns()
        where database_name != 'temp'
        group by all
    ) using (schema_name, name)
    order by name
"""


def quoted(identifier: str) -> str:
    """An identifier as SQL writes it."""
    return '"' + identifier.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A text as SQL writes it."""
    return "'" + text.replace("'", "''") + "'"


@cache
def views_sql() -> str:
    """The definitions of views and macros, with their comments."""
    return resources.files(__package__).joinpath("views.sql").read_text("utf-8")


def definitions() -> str:
    """The same without comments: each of them takes DuckDB 0.3 ms, which a query that looks at none should not pay."""
    return _COMMENT.sub("", views_sql())


def comments_in_views_sql() -> Iterator[str]:
    """The statements of `views.sql` that are comments."""
    return (match[0].strip() for match in _COMMENT.finditer(views_sql()))


def comments_beside_views_sql(connection: duckdb.DuckDBPyConnection) -> Iterator[str]:
    """The statements that comment on all that is there and that `views.sql` says nothing of."""
    written = {match["name"] for match in _COMMENT.finditer(views_sql())}
    for kind, relation, columns in connection.execute(_RELATIONS).fetchall():
        name = ".".join(map(quoted, relation.split(".")))
        if relation not in written and (text := _of_relation(relation)):
            yield f"comment on {kind} {name} is {literal(text)};"
        for column in columns:
            if f"{relation}.{column}" not in written and (text := _of_column(relation, column)):
                yield f"comment on column {name}.{quoted(column)} is {literal(text)};"


def comment_on_all(connection: duckdb.DuckDBPyConnection) -> None:
    """Put all comments into a connection's catalog."""
    connection.execute("".join([*comments_beside_views_sql(connection), *comments_in_views_sql()]))


def _of_relation(name: str) -> str | None:
    return TABLES[name].comment if name in TABLES else _INTERNAL.get(name)


def _of_column(relation: str, name: str) -> str | None:
    if relation in TABLES:
        return next((column.comment for column in TABLES[relation].columns if column.name == name), None)
    if text := _INTERNAL.get(f"{relation}.{name}"):
        return text
    if relation in LIKE:
        return _of_column(LIKE[relation], name) or _in_views_sql(f"{LIKE[relation]}.{name}")
    return _KEYS.get(name)


def _in_views_sql(name: str) -> str | None:
    """The text of a comment there."""
    match = re.search(rf"^comment on column {re.escape(name)} is '(.*)';$", views_sql(), re.MULTILINE)
    return match[1].replace("''", "'") if match else None
