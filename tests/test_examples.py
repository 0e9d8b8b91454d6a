"""The example notebooks: each runs on the built-in model, draws, and still draws when exported as HTML and opened offline."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from nbconvert import HTMLExporter
from playwright.sync_api import expect, sync_playwright

EXAMPLES = Path(__file__).parent.parent / "examples"
DRAWINGS = {"saliency": 7, "factors": 7, "layers": 3, "activations": 4}
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of jupyter_client and zmq
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
]


def test_every_notebook_is_here_and_is_kept_without_outputs() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.ipynb")} == set(DRAWINGS)
    for path in EXAMPLES.glob("*.ipynb"):
        book = nbformat.read(path, as_version=4)
        nbformat.validate(book)
        assert all(cell.outputs == [] and cell.execution_count is None for cell in code_cells(book))


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.parametrize("name", DRAWINGS)
def test_a_notebook_runs_and_its_html_draws_offline(name: str, tmp_path: Path) -> None:
    book = nbformat.read(EXAMPLES / f"{name}.ipynb", as_version=4)
    NotebookClient(book, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in code_cells(book) for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    drawn = [output for output in outputs if "<iframe" in output.get("data", {}).get("text/html", "")]
    assert len(drawn) == DRAWINGS[name]
    html, _ = HTMLExporter(template_name="basic").from_notebook_node(book)
    page_file = tmp_path / "notebook.html"
    page_file.write_text(f"<!doctype html><meta charset=utf-8>{html}", "utf-8")
    check_offline(name, page_file, DRAWINGS[name])


def check_offline(name: str, path: Path, n_drawings: int) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_context(offline=True).new_page()
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(path.as_uri())
        frames = page.locator("iframe")
        expect(frames).to_have_count(n_drawings)
        for place in range(n_drawings):
            frames.nth(place).scroll_into_view_if_needed()
            expect(frames.nth(place).content_frame.locator(".strip").first).to_be_visible()
        if os.environ.get("ACTLAKE_SCREENSHOTS"):
            folder = Path(os.environ["ACTLAKE_SCREENSHOTS"], name)
            folder.mkdir(parents=True, exist_ok=True)
            for place in range(
                n_drawings
            ):  # one by one: of frames that are out of sight, a picture of the page has none
                frames.nth(place).scroll_into_view_if_needed()
                page.wait_for_timeout(400)
                page.screenshot(path=folder / f"{place}.png")
        browser.close()
        assert errors == []


def code_cells(book: Any) -> list[Any]:
    return [cell for cell in book.cells if cell.cell_type == "code"]
