"""Tokens that are watched in the layers view: typed, drawn, kept in the address; one that is none is a sentence."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlparse

import actlake
import numpy as np
import pytest
from actlake.ui import Server, serve
from downloads import csv_rows, file_of
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.browser

LABEL = re.compile("^watch tokens")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, toy_model: actlake.capture.Model) -> actlake.Store:
    folder = tmp_path_factory.mktemp("watched")
    recorded = ["hidden_states", "layer_predictions"]
    actlake.capture(folder, toy_model, [" 1, 2,"], max_new_tokens=3, record=recorded, precision="float32")
    return actlake.open(folder)


@pytest.fixture(scope="module")
def server(store: actlake.Store, toy_folder: Path) -> Iterator[Server]:
    with serve(store, port=0, block=False, model=str(toy_folder)) as running:
        yield running


def watch(page: Page, tokens: str) -> None:
    page.get_by_label(LABEL).fill(tokens)
    page.get_by_label(LABEL).press("Enter")


def test_tokens_that_are_typed_are_drawn_a_line_each_with_their_ranks(
    page: Page, server: Server, store: actlake.Store, toy_model: actlake.capture.Model
) -> None:
    page.goto(f"{server.url}generation?id=0&view=layers&cell=2.1")
    expect(page.locator("canvas")).to_be_visible()
    expect(page.locator(".watched")).to_have_count(0)
    watch(page, "1, 2")
    chart = page.locator(".watched-chart")
    expect(chart).to_be_visible()
    expect(chart.locator("polyline")).to_have_count(2)
    page.wait_for_url(lambda url: parse_qs(urlparse(url).query).get("watch") == ["1\n2"])
    for row in store.generation(0).watched(toy_model, ["1", "2"], 1).itertuples():
        expect(chart).to_contain_text(f'"{row.token}" after layer {row.layer}: rank {row.rank},')
    page.reload()
    expect(page.locator(".watched-chart")).to_be_visible()
    expect(page.get_by_label(LABEL)).to_have_value("1, 2")
    watch(page, "")
    expect(page.locator(".watched")).to_have_count(0)


def test_ranks_and_probabilities_of_watched_tokens_are_saved(
    page: Page, server: Server, store: actlake.Store, toy_model: actlake.capture.Model
) -> None:
    page.goto(f"{server.url}generation?id=0&view=layers&cell=2.1&watch=1%0A2")
    expect(page.locator(".watched-chart")).to_be_visible()
    told = csv_rows(file_of(page, "save the watched tokens as CSV"))
    wanted = store.generation(0).watched(toy_model, ["1", "2"], 1)
    for name in ("position", "layer", "rank"):
        assert [int(row[name]) for row in told] == wanted[name].tolist()
    assert [row["token"] for row in told] == wanted["token"].tolist()
    np.testing.assert_allclose([float(row["probability"]) for row in told], wanted["probability"], rtol=1e-5)


@pytest.mark.parametrize(
    ("tokens", "sentence"), [("one two", "give the text of one token"), (",".join("123456789"), "at most 6 tokens")]
)
def test_what_is_no_token_is_one_clear_sentence_and_another_can_be_typed(
    page: Page, server: Server, tokens: str, sentence: str
) -> None:
    page.goto(f"{server.url}generation?id=0&view=layers")
    expect(page.locator("#early")).to_have_count(0)
    watch(page, tokens)
    expect(page.get_by_role("alert")).to_contain_text(sentence)
    expect(page.locator("canvas")).to_be_hidden()
    watch(page, "1")
    expect(page.locator(".watched-chart")).to_be_visible()
    expect(page.get_by_role("alert")).to_be_hidden()


def test_a_link_to_what_cannot_be_watched_shows_the_sentence_in_place_of_the_drawing(
    page: Page, server: Server
) -> None:
    page.goto(f"{server.url}generation?id=0&view=layers&watch=one+two")
    expect(page.get_by_role("alert")).to_contain_text("give the text of one token")
    page.wait_for_function("globalThis.Bokeh?.documents.length > 0 && Bokeh.documents.every((one) => one.is_idle)")
    expect(page.locator("#early")).to_have_count(0, timeout=4_500)  # a drawing would be waited for, 5 s from here on
    expect(page.locator("canvas")).to_have_count(0)


@pytest.mark.parametrize("query", ["&watch=1%0A2", "&watch=1%0A2&cell=2.1", ""])
def test_where_no_model_is_served_a_link_that_watches_says_what_it_needs(
    page: Page, store: actlake.Store, toy_folder: Path, query: str
) -> None:
    with serve(actlake.open(store.uri), port=0, block=False) as running:
        page.goto(f"{running.url}generation?id=0&view=layers{query}")
        expect(page.locator("#early")).to_have_count(0)
        expect(page.locator("canvas")).to_be_visible()
        said = page.get_by_text("This link watches “1”, “2”. Watching tokens needs the model")
        expect(said).to_have_count(1 if query else 0)
        if query:
            expect(said).to_contain_text(f"actlake serve {store.uri} --model {toy_folder}")
