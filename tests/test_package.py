"""The package: what it exports, what imports what, and that its wheel works alone."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import actlake
import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("store", "capture", "queries", "ui", "cli")
MAY_IMPORT = {
    "errors": set(),
    "store": {"errors"},
    "capture": {"errors", "store"},
    "queries": {"errors", "store"},
    "ui": {"errors", "store", "queries", "capture"},
    "cli": {"errors", "store", "capture", "queries", "ui"},
    "__main__": {"cli"},
    "__init__": {"errors", "queries", "capture", "ui"},  # ui by name alone, when something is displayed
}


def modules() -> dict[Path, str]:
    """Every module of the package and the part that it belongs to."""
    inside = {path: path.relative_to(ROOT).parts[0] for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")}
    return inside | {path: path.stem for path in ROOT.glob("*.py")}


def imports_of(path: Path) -> set[str]:
    """The parts of actlake that a module imports, wherever in it."""
    found: set[str] = set()
    depth = len(path.relative_to(ROOT).parts)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            assert node.level <= depth, f"{path} imports from above the package"
            if node.level == depth:
                found |= {node.module.split(".")[0]} if node.module else {name.name for name in node.names}
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
        names += [name.name for name in node.names] if isinstance(node, ast.Import) else []
        for name in names:
            if name.split(".")[0] == "actlake":
                assert path == ROOT / "__init__.py", f"{path} imports actlake absolutely"
                found |= set(name.split(".")[1:2])
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_in_one_direction(path: Path) -> None:
    part = modules()[path]
    assert imports_of(path) <= MAY_IMPORT[part] | {part}


def test_no_stray_module_lies_in_the_root() -> None:
    assert {path.name for path in ROOT.glob("*.py")} == {"__init__.py", "__main__.py", "errors.py"}


def test_every_subpackage_is_listed() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {path.parent for folder in FOLDERS for path in (ROOT / folder).rglob("__init__.py")}
    assert set(listed) == {"actlake", *(f"actlake.{'.'.join(path.relative_to(ROOT).parts)}" for path in folders)}


def test_the_public_names_are_there() -> None:
    for module in (actlake, actlake.store, actlake.queries, actlake.capture):
        assert all(hasattr(module, name) for name in module.__all__)


@pytest.mark.parametrize(
    "statement",
    [
        "import actlake",
        "import actlake.store, actlake.queries",
        "import actlake.cli",
        "import actlake; s = actlake.open({store!r}); g = s.generation(0); g.saliency(); g.factors(2); s.sql('from tokens').df()",
        "import actlake; import actlake.ui",
    ],
)
def test_reading_a_store_imports_neither_torch_nor_transformers(toy_store: Path, statement: str) -> None:
    check = "import sys; print([m for m in ('torch', 'transformers') if m in sys.modules])"
    code = f"{statement.format(store=str(toy_store))}; {check}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_doctests_pass() -> None:
    names = [
        "actlake",
        *(f"actlake.{'.'.join(p.relative_to(ROOT).with_suffix('').parts)}" for p in modules() if p.stem[0] != "_"),
    ]
    code = (
        "import doctest, importlib, sys\n"
        "results = [doctest.testmod(importlib.import_module(name)) for name in sys.argv[1:]]\n"
        "print(sum(r.attempted for r in results)); sys.exit(any(r.failed for r in results))"
    )
    done = subprocess.run([sys.executable, "-c", code, *names], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert int(done.stdout.split()[-1]) >= 4


@pytest.mark.slow
def test_the_wheel_works_in_an_empty_environment_from_another_folder(tmp_path: Path, toy_folder: Path) -> None:
    def run(*command: object) -> str:
        done = subprocess.run(
            [*map(str, command)], capture_output=True, text=True, cwd=tmp_path, env=clean, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    clean = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    run(sys.executable, "-m", "build", "--wheel", "--outdir", tmp_path / "dist", ROOT)
    (wheel,) = (tmp_path / "dist").glob("actlake-*.whl")
    run(sys.executable, "-m", "venv", tmp_path / "venv")
    python = tmp_path / "venv/bin/python"
    run(python, "-m", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt", wheel)
    actlake_command = tmp_path / "venv/bin/actlake"
    run(actlake_command, "capture", "corpus", "--model", toy_folder, "--prompt", "1, 2,", "--max-new-tokens", "3")
    assert "ok: " in run(actlake_command, "verify", "corpus", "--deep")
    assert "share" in run(actlake_command, "sql", "corpus", "from saliency")
    where = run(python, "-c", "import actlake, actlake.ui; print(actlake.__file__, len(actlake.queries.examples()))")
    assert str(tmp_path / "venv") in where
    assert where.strip().endswith("3")
    files = run(python, "-c", "import zipfile, sys; print(*zipfile.ZipFile(sys.argv[1]).namelist())", wheel).split()
    assert {
        "actlake/py.typed",
        "actlake/capture/demo.jsonl",
        "actlake/queries/views.sql",
        "actlake/ui/static/draw.js",
    } <= set(files)
    assert not [name for name in files if "test" in name or "bench" in name]
