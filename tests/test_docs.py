"""The docs say what the program does: examples run, and every command, table and option is in some page."""

import contextlib
import io
import re
from pathlib import Path

import actlake
import pytest
from actlake.cli import cli
from actlake.store import TABLES

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


def test_every_command_and_option_is_in_some_page() -> None:
    text = "\n".join(PAGES.values())
    for name, command in cli.commands.items():
        assert f"actlake {name}" in text
        options = [option for parameter in command.params for option in parameter.opts if option.startswith("--")]
        missing = [option for option in options if option not in text]
        assert not missing, f"actlake {name}: no page speaks of {missing}"


def test_every_public_name_is_in_some_page() -> None:
    text = "\n".join(PAGES.values())
    assert not [name for name in actlake.__all__ if name not in text]


def test_the_page_of_the_tables_is_that_of_the_schema() -> None:
    assert PAGES["tables.md"] == tables_page(), "write it again: python tests/test_docs.py"


def test_links_between_pages_lead_somewhere() -> None:
    for name, page in PAGES.items():
        folder = ROOT if name == "README.md" else ROOT / "docs"
        for target in re.findall(r"\]\(([^)#:]+)\)", page):
            assert (folder / target).exists(), f"{name} links to {target}"


def tables_page() -> str:
    """`docs/tables.md`, from the schema."""
    parts = ["# Tables\n\nWhat is kept in files, from `store/schema.py`; **bold** columns are the key.\n"]
    for table in TABLES.values():
        parts.append(
            f"\n## {table.name}\n\n{table.comment[0].upper()}{table.comment[1:]}.\n\n| column | type | |\n|---|---|---|\n"
        )
        for column in table.columns:
            name = f"**{column.name}**" if column.key else column.name
            kind = (
                str(column.type)
                .replace("list<element: float not null>", "list of float")
                .replace("list<item: string>", "list of string")
            )
            parts.append(f"| {name} | {kind} | {column.comment}{' (or NULL)' if column.nullable else ''} |\n")
    return "".join(parts)


if __name__ == "__main__":
    (ROOT / "docs/tables.md").write_text(tables_page())
