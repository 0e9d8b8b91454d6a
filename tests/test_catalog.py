"""Everything that SQL shows says what it means: comments, `.tables`, `.schema` and `describe`."""

from __future__ import annotations

import json
from pathlib import Path

import actlake
import pytest
from actlake.cli import cli
from actlake.queries.comments import comments_in_views_sql, views_sql
from actlake.store import TABLES
from click.testing import CliRunner, Result

WITHOUT_COMMENT = """
    select view_name from duckdb_views() where not internal and comment is null
    union all
    select table_name from duckdb_tables() where not internal and comment is null
    union all
    select table_name || '.' || column_name from duckdb_columns() where not internal and comment is null
    union all
    select function_name from duckdb_functions() where not internal and comment is null
"""


def sql(store: Path, query: str, *options: str) -> Result:
    return CliRunner().invoke(cli, ["sql", str(store), query, *options])


@pytest.mark.parametrize("at", [0, None], ids=["a store whose tables are empty", "a full store"])
def test_no_table_view_column_or_macro_is_without_a_comment(toy_store: Path, at: int | None) -> None:
    store = actlake.open(toy_store, at=at)
    assert store.connect().sql(WITHOUT_COMMENT).fetchall() == []
    assert store.sql(WITHOUT_COMMENT).fetchall() == []
    assert store.read_sql(WITHOUT_COMMENT).fetchall() == []


def test_a_tables_comments_are_those_of_the_schema(opened: actlake.Store) -> None:
    found = opened.sql("select table_name, column_name, comment from duckdb_columns() where schema_name = 'main'")
    comments = {(table, column): comment for table, column, comment in found.fetchall()}
    for table in TABLES.values():
        assert [comments[table.name, column.name] for column in table.columns] == [c.comment for c in table.columns]


def test_each_comment_in_views_sql_is_one_line_so_that_none_is_overlooked() -> None:
    assert views_sql().count("\ncomment on ") == len(list(comments_in_views_sql()))


def test_comments_are_made_only_for_a_query_that_looks_at_them(toy_store: Path) -> None:
    database = actlake.open(toy_store)._database
    database.sql("select count(*) from tokens")
    catalog = "select count(comment) from duckdb_columns() where not internal"
    assert database.opened().cursor().execute(catalog).fetchall() == [(0,)]
    ((n,),) = database.sql(catalog).fetchall()
    assert n > 100


@pytest.mark.parametrize(
    ("relation", "comment"),
    [
        ("tokens", "0-based index of the token in its generation, prompt first"),
        ('"TOKENS";', "0-based index of the token in its generation, prompt first"),
        ("by_neuron.activations", "0-based index of the token in its generation, prompt first"),
    ],
)
def test_describe_shows_comments(opened: actlake.Store, relation: str, comment: str) -> None:
    rows = opened.read_sql(f"describe {relation}").df()
    assert list(rows)[:2] == ["column_name", "column_type"]
    assert dict(zip(rows["column_name"], rows["comment"], strict=True))["position"] == comment


@pytest.mark.parametrize("query", ["describe select 1 as a", "describe", "show tables", "describe tables"])
def test_other_descriptions_are_duckdbs_own(opened: actlake.Store, query: str) -> None:
    assert "comment" not in opened.read_sql(query).columns


def test_dot_schema_prints_tables_columns_types_and_comments(toy_store: Path) -> None:
    text = sql(toy_store, ".schema").stdout
    assert (
        "tokens (table): one row for each token of each generation\n  generation_id  BIGINT   the generation\n" in text
    )
    assert "\nsaliency_by(method) (macro): saliency by another method" in text
    assert sql(toy_store, ".schema saliency").stdout.splitlines()[0].startswith("saliency (view): how much")
    first = sql(toy_store, ".tables").stdout.splitlines()[0]
    assert first.split(maxsplit=2) == ["runs", "table", TABLES["runs"].comment]


def test_dot_schema_gives_rows_to_a_program(toy_store: Path) -> None:
    lines = sql(toy_store, ".schema saliency_by", "--format", "json").stdout.splitlines()
    assert [json.loads(line)["name"] for line in lines] == ["saliency_by(method)"]
    named = [json.loads(line)["name"] for line in sql(toy_store, ".tables", "--format", "json").stdout.splitlines()]
    assert named[: len(TABLES)] == list(TABLES)


@pytest.mark.parametrize(
    ("command", "said"),
    [(".schema nothing", ".tables lists them"), (".quit", "no command"), (".schema a b", "no command")],
)
def test_what_is_not_there_is_one_line(toy_store: Path, command: str, said: str) -> None:
    result = sql(toy_store, command)
    assert result.exit_code == 1
    assert said in result.stderr
    assert len(result.stderr.splitlines()) == 1
