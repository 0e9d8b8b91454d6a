"""The joined module of the drawings: whole, and each of its parts in it once."""

from __future__ import annotations

import re

import pytest
from actlake.ui.modules import STATIC, VIEWS, drawing_module, joined


def test_a_part_comes_after_what_it_imports_and_once() -> None:
    source = joined("factors", "saliency", "factors")
    places = [
        source.index(f"export function {name}(") for name in ("node", "palette", "tokenLine", "factors", "saliency")
    ]
    assert places == sorted(places)
    assert source.count("export function node(") == 1


def test_nothing_is_imported_from_anywhere() -> None:
    assert not re.search(r"^\s*import\b|\bimport\(|https?://(?!www\.w3\.org)", drawing_module(), re.MULTILINE)


@pytest.mark.parametrize("parts", [(*VIEWS, "draw"), ("corpus",), ("sql",), ("ask",)])
def test_no_name_is_said_by_two_parts(parts: tuple[str, ...]) -> None:
    names = re.findall(r"^(?:export )?(?:async )?(?:function|const|let|class) (\w+)", joined(*parts), re.MULTILINE)
    assert len(names) == len(set(names))


def test_every_view_has_a_part_of_its_name() -> None:
    for kind, function in VIEWS.items():
        assert f"export function {function}(" in (STATIC / f"{kind}.js").read_text("utf-8")
