"""The docs say what the program does: examples run, and every command, table and option is in some page."""

import contextlib
import io
import re
from pathlib import Path

import actlake
import pytest
import stores
from actlake.cli import cli
from actlake.queries.catalog import dot_command
from actlake.queries.connection import Database, empty_files
from actlake.queries.files import StoreFiles
from actlake.store import TABLES, Footers, Location, Snapshot
from click.testing import CliRunner
from families import KINDS, REFUSED, REFUSED_SAID

ROOT = Path(__file__).parent.parent
PAGES = {path.name: path.read_text() for path in [ROOT / "README.md", *ROOT.glob("docs/*.md")]}


@pytest.mark.slow
def test_the_readmes_example_gives_the_output_that_stands_under_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ((code, output),) = re.findall("```python\n(.*?)```\n\n```text\n(.*?)```", PAGES["README.md"], re.DOTALL)
    assert len(code.splitlines()) < 20
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(compile(code, "README.md", "exec"), {})
    assert said.getvalue() == output


def test_the_page_of_the_commands_is_that_of_their_help() -> None:
    assert PAGES["cli.md"] == cli_page(), "write it again: python tests/test_docs.py"


def test_every_public_name_is_in_some_page() -> None:
    text = "\n".join(PAGES.values())
    assert not [name for name in actlake.__all__ if name not in text]


def test_the_page_of_the_tables_is_that_of_the_schema() -> None:
    assert PAGES["tables.md"] == tables_page(), "write it again: python tests/test_docs.py"


def test_the_examples_of_saved_factors_run(tmp_path: Path) -> None:
    stores.a_store(Location.of(tmp_path))
    store = actlake.open(tmp_path)
    page = PAGES["factors.md"].partition("## Saved factors")[2].replace("layers=[4]", "layers=[3]")
    names = {"store": store}
    save, join = re.findall("```python\n(.*?)```", page, re.DOTALL)
    exec(save, names)
    assert store.factorizations()["name"].tolist() == ["layer 4"]
    rows = eval(join, names)
    assert set(rows.columns) == {"factor", "layer", "neuron", "token", "mean", "n"}
    (query,) = re.findall("```sql\n(.*?)```", page, re.DOTALL)
    assert len(rows.fetchall()) == stores.N_TOKENS
    assert len(store.read_sql(query).fetchall()) == 5 * (stores.N_TOKENS - stores.N_PROMPT_TOKENS)


def test_the_page_of_the_models_is_that_of_those_that_are_tested() -> None:
    assert PAGES["models.md"] == models_page(), "write it again: python tests/test_docs.py"


def test_links_between_pages_lead_somewhere() -> None:
    for name, page in PAGES.items():
        folder = ROOT if name == "README.md" else ROOT / "docs"
        for target in re.findall(r"\]\(([^)#:]+)\)", page):
            assert (folder / target).exists(), f"{name} links to {target}"


def cli_page() -> str:
    """`docs/cli.md`, from the commands' own help."""
    codes = "0 done, 1 it failed (one line on stderr says why), 2 wrong usage, 143 SIGTERM ended a capture"
    parts = [f"# Commands\n\nExit codes: {codes}.\n"]
    for name in (None, *cli.commands):
        arguments = [*([name] if name else []), "--help"]
        text = CliRunner().invoke(cli, arguments, prog_name="actlake", terminal_width=100).stdout
        parts.append(f"\n## actlake{f' {name}' if name else ''}\n\n```text\n{text.strip()}\n```\n")
    return "".join(parts)


def tables_page() -> str:
    """`docs/tables.md`, from the schema and from the comments that SQL shows."""
    parts = ["# Tables\n\nWhat is kept in files, from `store/schema.py`; **bold** columns are the key.\n"]
    for table in TABLES.values():
        parts.append(heading(table.name, table.comment))
        for column in table.columns:
            name = f"**{column.name}**" if column.key else column.name
            kind = re.sub(r"list<\w+: (\w+).*>", r"list of \1", str(column.type))
            parts.append(f"| {name} | {kind} | {column.comment}{' (or NULL)' if column.nullable else ''} |\n")
    parts.append("\n# Views\n\nWhat follows from the tables, from `queries/views.sql`; types are DuckDB's.\n")
    query, params = dot_command(".schema") or ("", {})
    files = StoreFiles(Location.of("."), (), empty_files())
    empty = Database(Snapshot(), {}, files, check=Footers(Location.of(".")), name_of=str)
    rows = [row for row in empty.sql(query, params).fetchall() if row[1] != "table"]
    for name, kind, column, type_, comment in rows:
        if kind == "view":
            parts.append(f"| {column} | {type_} | {comment} |\n" if column else heading(name, comment))
    parts.append("\n# Macros\n\n| macro | |\n|---|---|\n")
    parts += [f"| `{name}` | {comment} |\n" for name, kind, _, _, comment in rows if kind == "macro"]
    return "".join(parts)


def models_page() -> str:
    """`docs/models.md`, from the models that the tests build."""
    parts = [
        "# Models\n\nWhat is tested, from `tests/families.py`: of each kind a tiny random model is built, and what is "
        "recorded of it is compared\nwith plain runs of that model. Others of the same shapes are found in the same way "
        "([capture.md](capture.md)).\n"
    ]
    for title, said, families in KINDS:
        parts.append(f"\n## {title}\n\n{said}\n\n| model type | output projections of the FFNNs | |\n|---|---|---|\n")
        for family in families:
            note = f"{family.note[:1].upper()}{family.note[1:]}"
            parts.append(f"| `{family.model_type}` | `{family.ffn}` | {note} |\n")
    refused = ", ".join(f"`{config.removesuffix('Config')}`" for config in REFUSED)
    parts.append(f"\n## Refused\n\n{REFUSED_SAID}\n\nTested: {refused}.\n")
    return "".join(parts)


def heading(name: str, comment: str) -> str:
    """A table's or view's name and meaning, and the head of the table of its columns."""
    return f"\n## {name}\n\n{comment[0].upper()}{comment[1:]}.\n\n| column | type | |\n|---|---|---|\n"


if __name__ == "__main__":
    (ROOT / "docs/tables.md").write_text(tables_page())
    (ROOT / "docs/cli.md").write_text(cli_page())
    (ROOT / "docs/models.md").write_text(models_page())
