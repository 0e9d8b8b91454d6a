"""The views of a generation in a real browser: maps, words, what is saved, and that a view's code gives its numbers."""

from __future__ import annotations

import base64
import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qsl, urlparse

import actlake
import numpy as np
import pytest
from actlake.queries import By
from actlake.ui import Server, serve
from downloads import csv_rows, file_of
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.browser

RECORDED = ("embeddings", "gradients", "activations", "layer_predictions")
COUNTING = [" one", " two", ",", " th", "ree", ",", " four", ",", " five", "."]
HOSTILE = [
    "<script>window.hacked = 1</script>",
    "\x00",
    "</text><image href='x' onerror='window.hacked = 1'/>",
    "]]>&amp;",
    "\U0001f600",
]
LINES = ["a", "\n", " b", "c", "de", "\n", " f", "gh", "i", " j"]
VIEWS = ("saliency", "factors&k=2", "activations", "layers")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, write_store: object) -> actlake.Store:
    assert callable(write_store)
    opened: actlake.Store = write_store(
        tmp_path_factory.mktemp("views"), (COUNTING, 5), (HOSTILE, 2), (LINES, 3), recorded=RECORDED
    )
    return opened


@pytest.fixture(scope="module")
def server(store: actlake.Store) -> Iterator[Server]:
    with serve(store, port=0, block=False) as running:
        yield running


def show(page: Page, server: Server, query: str) -> None:
    page.goto(f"{server.url}generation{query}")
    expect(page.locator(".strip .tools")).to_have_count(1)


def point_at(page: Page, x: float, y: float) -> None:
    box = page.locator("canvas").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + x, box["y"] + y)


def test_pointing_at_a_cell_of_the_heat_map_tells_its_exact_activation(
    page: Page, server: Server, store: actlake.Store
) -> None:
    values = store.generation(0).activations([1])
    show(page, server, "?id=0&view=activations&layer=1")
    page.get_by_role("button", name="14 px").click()
    point_at(page, 118 + 14 * 4 + 7, 20 + 16 * 3 + 8)
    tip = page.get_by_role("tooltip")
    expect(tip).to_contain_text("neuron1:4")
    expect(tip).to_contain_text("position3")
    expect(tip).to_contain_text(f"activation{float(f'{values[3, 4]:.6g}')}".replace("-", "−"))


def test_a_click_on_a_neuron_leads_to_its_page(page: Page, server: Server) -> None:
    show(page, server, "?id=0&view=activations&layer=1")
    page.get_by_role("button", name="14 px").click()
    page.route("**/neuron?*", lambda route: route.fulfill(body="the neuron's page", content_type="text/html"))
    point_at(page, 118 + 14 * 4 + 7, 20 + 16 * 3 + 8)
    page.mouse.down()
    page.mouse.up()
    page.wait_for_url("**/neuron?layer=1&neuron=4")


def test_the_keyboard_goes_through_the_cells_and_a_pinned_one_is_in_the_address(page: Page, server: Server) -> None:
    show(page, server, "?id=0&view=layers")
    page.locator("canvas").focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    expect(page.locator(".cell-readout")).to_contain_text("After layer 1, at 1·two")
    page.keyboard.press("Enter")
    page.wait_for_url(lambda url: dict(parse_qsl(urlparse(url).query)).get("cell") == "1.1")
    page.reload()
    expect(page.locator(".cell-readout .pinned")).to_be_visible()
    expect(page.locator(".cell-readout")).to_contain_text("After layer 1, at 1·two")
    page.keyboard.press("Escape")
    expect(page.locator(".cell-readout .pinned")).to_have_count(0)
    page.wait_for_url(lambda url: "cell" not in url)


def test_escape_releases_the_cell_that_is_pinned_and_arrows_go_on_from_it(page: Page, server: Server) -> None:
    show(page, server, "?id=0&view=layers")
    page.locator("canvas").focus()
    for key in ("Home", "Enter", "ArrowRight", "ArrowRight"):
        page.keyboard.press(key)
    expect(page.locator(".cell-readout")).to_contain_text("After layer 0, at 0·one")
    page.keyboard.press("Escape")
    expect(page.locator(".cell-readout")).to_contain_text("After layer 0, at 2,")
    page.keyboard.press("ArrowLeft")
    expect(page.locator(".cell-readout")).to_contain_text("After layer 0, at 1·two")


def test_a_cell_tells_the_rank_of_what_came_next_and_the_likeliest_tokens(page: Page, server: Server) -> None:
    show(page, server, "?id=0&view=layers&cell=0.1")
    expect(page.locator(".cell-readout")).to_contain_text("has rank 7")
    assert page.locator(".top-token").all_text_contents() == ["·two75.00%", ",12.50%"]


def test_words_are_boxes_with_the_shares_of_their_tokens_together(
    page: Page, server: Server, store: actlake.Store
) -> None:
    shares = store.generation(0).saliency(by="word")
    show(page, server, "?id=0&by=word&output=9&detail=1")
    assert page.locator(".face").all_text_contents()[:4] == ["·one", "·two", ",", "·three"]
    assert page.locator(".position").all_text_contents()[3:5] == ["3", "5"]
    told = page.locator(".note").all_text_contents()
    assert told[: shares.shape[1]] == [f"{100 * share:.1f}%" for share in shares[-1]]


@pytest.mark.parametrize(("by", "n_outputs"), [("token", 7), ("word", 4), ("line", 2)])
def test_the_shares_that_are_saved_of_an_output_are_its_whole_row_and_sum_to_1(
    page: Page, server: Server, store: actlake.Store, by: By, n_outputs: int
) -> None:
    shares = np.asarray(store.generation(2).saliency(by=by))
    show(page, server, f"?id=2&by={by}")
    outputs = page.locator(".token.generated")
    expect(outputs).to_have_count(n_outputs)
    for row, output in zip(shares, outputs.all(), strict=True):
        output.click()
        saved_shares = [each["share"] for each in json.loads(file_of(page, "save the data shown as JSON"))]
        assert sum(saved_shares) == pytest.approx(1)
        np.testing.assert_allclose(saved_shares, row[: len(saved_shares)], rtol=1e-6)
        greatest = page.locator(".strongest-item b").first
        expect(greatest).to_have_text(f"{100 * max(saved_shares):.1f}%")


def test_the_csv_of_each_view_holds_its_numbers(page: Page, server: Server, store: actlake.Store) -> None:
    generation = store.generation(0)
    show(page, server, "?id=0&output=8")
    told = csv_rows(file_of(page, "save the data shown as CSV"))
    assert [row["token"] for row in told] == COUNTING[:8]
    np.testing.assert_allclose([float(row["share"]) for row in told], generation.saliency()[3, :8], rtol=1e-6)
    show(page, server, "?id=0&view=factors&k=2")
    told = csv_rows(file_of(page, "save the data shown as CSV"))
    values = np.array([float(row["value"]) for row in told]).reshape(10, 2)
    np.testing.assert_allclose(values, generation.factors(2).tokens, rtol=1e-6)
    show(page, server, "?id=0&view=activations&layer=0")
    told = csv_rows(file_of(page, "save the data shown as CSV"))
    values = np.array([float(row["activation"]) for row in told]).reshape(10, 12)
    np.testing.assert_array_equal(values.astype(np.float32), generation.activations([0]))
    show(page, server, "?id=0&view=layers")
    told = json.loads(file_of(page, "save the data shown as JSON"))
    assert [row["rank"] for row in told[:10]] == [7] * 9 + [None]
    assert told[10]["top_1"] == " two"


@pytest.mark.parametrize(("method", "of"), [("nmf", "energy"), ("pca", "variance")])
def test_a_factors_share_says_of_what_it_is(page: Page, server: Server, method: str, of: str) -> None:
    show(page, server, f"?id=0&view=factors&k=2&factor_method={method}")
    expect(page.get_by_title(f"the share of the {of} of the activations that it explains")).to_have_count(2)


@pytest.mark.parametrize("view", VIEWS)
def test_a_hostile_text_saved_as_svg_is_text_and_nothing_else(page: Page, server: Server, view: str) -> None:
    show(page, server, f"?id=1&view={view}")
    drawn = ET.fromstring(file_of(page, "save as an SVG picture"))
    tags = {element.tag.rpartition("}")[2] for element in drawn.iter()}
    assert tags <= {"svg", "rect", "text", "path", "image", "line", "polyline", "circle", "title"}
    assert not [name for element in drawn.iter() for name in element.attrib if name.startswith("on")]
    if view in VIEWS[:2]:
        texts = "".join(drawn.itertext())
        assert "<script>window.hacked" in texts
        assert "U+0000" in texts
        assert "😀" in texts
    assert page.evaluate("window.hacked") is None


def test_a_picture_is_saved_twice_as_wide_as_the_drawing(page: Page, server: Server) -> None:
    show(page, server, "?id=0")
    with page.expect_download() as download:
        page.get_by_role("button", name="save as a PNG picture").click()
    header = Path(download.value.path()).read_bytes()[:24]
    assert header[:8] == b"\x89PNG\r\n\x1a\n"
    width = page.locator(".strip").evaluate("strip => Math.ceil(strip.getBoundingClientRect().width)")
    assert int.from_bytes(header[16:20], "big") == 2 * width
    assert download.value.suggested_filename == "generation-0-saliency.png"


def test_a_picture_of_a_map_has_all_of_its_cells_and_leaves_the_page_as_it_was(page: Page, server: Server) -> None:
    page.set_viewport_size({"width": 390, "height": 780})
    show(page, server, "?id=0&view=layers")
    page.locator(".grid").evaluate("one => one.scrollTo(100, 0)")
    drawn = ET.fromstring(file_of(page, "save as an SVG picture"))
    (cells,) = drawn.iter("{http://www.w3.org/2000/svg}image")
    wide = 34 + 74 * len(COUNTING)
    assert float(cells.attrib["width"]) == wide
    assert float(drawn.attrib["width"]) > wide
    png = base64.b64decode(cells.attrib["href"].removeprefix("data:image/png;base64,"))
    assert int.from_bytes(png[16:20], "big") == 2 * wide
    assert page.locator(".grid").evaluate("one => one.scrollLeft") == 100
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.locator("canvas").evaluate("one => one.width") < 390


@pytest.mark.parametrize("view", VIEWS)
def test_a_phone_shows_every_view_without_scrolling_sideways(page: Page, server: Server, view: str) -> None:
    page.set_viewport_size({"width": 390, "height": 780})
    show(page, server, f"?id=0&view={view}")
    page.wait_for_load_state("networkidle")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_what_was_not_recorded_says_how_to_record_it(page: Page, tmp_path: Path, write_store: object) -> None:
    assert callable(write_store)
    with serve(write_store(tmp_path, (["a", "b", "c"], 1)), port=0, block=False) as running:
        page.goto(f"{running.url}generation?id=0&view=layers")
        expect(page.get_by_role("alert")).to_contain_text("layer_predictions")
        expect(page.get_by_role("alert")).to_contain_text("--record activations,embeddings,gradients,layer_predictions")


def test_the_drawing_is_dark_where_the_page_is(page: Page, server: Server) -> None:
    show(page, server, "?id=0")
    light = page.locator(".strip").evaluate("strip => getComputedStyle(strip).backgroundColor")
    before = page.locator(".token.output .face").evaluate("face => face.style.backgroundColor")
    page.get_by_role("button", name="dark theme").click()
    expect(page.locator(".strip")).not_to_have_css("background-color", light)
    after = page.locator(".token.output .face").evaluate("face => face.style.backgroundColor")
    assert re.findall(r"\d+", before) != re.findall(r"\d+", after)
