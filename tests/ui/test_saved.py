"""A generation saved as one page, and drawings in notebooks: whole, offline, bounded, and safe with hostile texts."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import actlake
import numpy as np
import pytest
from actlake.cli import cli
from actlake.queries import FactorOptions, View, factorize
from actlake.ui.document import POLICY, Shown, document
from actlake.ui.factor_cards import APART, AROUND, corpus_factors_payload
from actlake.ui.maps import activations_payload, layers_payload
from actlake.ui.notebook import html_of
from actlake.ui.saved import save_page, shown_of
from actlake.ui.strip import saliency_payload
from click.testing import CliRunner
from playwright.sync_api import Browser, Page, expect

RECORDED = ("embeddings", "gradients", "activations", "layer_predictions")
HOSTILE = [
    "</script><script>window.hacked = 1</script>",
    "<!--",
    "\x00",
    "'\"&amp;",
    " </iframe>",
    "]]>",
    "\u2028",
    " end",
]
WriteStore = Callable[..., actlake.Store]


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory, write_store: WriteStore) -> actlake.Store:
    counting = [" one", " two", ",", " three", ",", " four"]
    folder = tmp_path_factory.mktemp("full")
    return write_store(folder, (counting, 3), (HOSTILE, 4, {"</script>": "<img src=x>"}), recorded=RECORDED)


@pytest.fixture
def offline(browser: Browser) -> Iterator[Page]:
    """A page without a network, which must stay quiet and ask for nothing but itself."""
    context = browser.new_context(offline=True, viewport={"width": 1000, "height": 800}, accept_downloads=True)
    page = context.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on(
        "request",
        lambda asked: None if asked.url.startswith(("file:", "data:", "blob:")) else complaints.append(asked.url),
    )
    yield page
    context.close()
    assert complaints == []


@pytest.mark.browser
def test_a_saved_page_shows_every_view_without_a_network(offline: Page, full: actlake.Store, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    done = CliRunner().invoke(cli, ["export", full.uri, "--generation", "0", "-o", str(path)])
    assert done.exit_code == 0, done.output
    assert "Saliency, Factors, Activations, Layers" in done.stdout
    offline.goto(path.as_uri())
    expect(offline.get_by_role("heading", name="Generation 0")).to_be_visible()
    for name, part in {"Factors": ".spark", "Activations": "canvas", "Layers": "canvas", "Saliency": ".token"}.items():
        offline.get_by_role("tab", name=name).click()
        expect(offline.locator(part).first).to_be_visible()
    offline.locator(".token").nth(4).click()
    offline.reload()
    expect(offline.locator(".token.pinned")).to_have_attribute("data-position", "4")


@pytest.mark.browser
def test_hostile_texts_in_a_saved_page_do_nothing(offline: Page, full: actlake.Store, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    save_page(full, 1, path)
    offline.goto(path.as_uri())
    for name in ("Saliency", "Factors", "Activations", "Layers"):
        offline.get_by_role("tab", name=name).click()
        expect(offline.locator(".strip .tools")).to_be_visible()
    offline.get_by_text("Text and metadata").click()
    expect(offline.locator("pre").first).to_contain_text("</script><script>window.hacked")
    assert offline.evaluate("window.hacked") is None
    assert offline.locator("img").count() == 0


@pytest.mark.browser
@pytest.mark.parametrize("generation_id", [0, 1])
def test_a_notebooks_frame_draws_is_as_high_as_its_drawing_and_reaches_nothing(
    offline: Page, full: actlake.Store, tmp_path: Path, generation_id: int
) -> None:
    generation = full.generation(generation_id)
    things = [
        generation.saliency(),
        generation.factors(2),
        generation.heat_map(1),
        generation.show("layers"),
        generation,
    ]
    path = tmp_path / "notebook.html"
    path.write_text("<!doctype html><meta charset=utf-8>" + "".join(str(html_of(thing)) for thing in things), "utf-8")
    offline.goto(path.as_uri())
    frames = offline.locator("iframe")
    assert frames.count() == len(things)
    for place in range(len(things)):
        frames.nth(place).scroll_into_view_if_needed()  # a browser leaves frames that are out of sight alone
        inner = frames.nth(place).content_frame
        expect(inner.locator(".strip .tools")).to_be_visible()
        inside = inner.locator("body").evaluate("body => Math.ceil(body.getBoundingClientRect().height) + 2")
        expect(frames.nth(place)).to_have_js_property("offsetHeight", inside)
        assert inner.locator("body").evaluate("() => window.origin") == "null"
        assert inner.locator("body").evaluate("() => window.hacked") is None
    assert offline.evaluate("window.hacked") is None


@pytest.mark.browser
def test_a_notebook_shows_the_factors_of_a_corpus_with_their_tokens_neurons_and_labels(
    offline: Page, write_store: WriteStore, tmp_path: Path
) -> None:
    written = [([f"w{i}", *HOSTILE, " goes", "."], 2) for i in range(5)]
    store = write_store(tmp_path / "s", *written, shards=2)
    made = store.factors(3, reruns=1, in_memory_bytes=0)
    number = store.save(made)
    store.label("<b>beginnings</b>", factorization_id=number, factor=1)
    loaded = store.factorization(number)
    path = tmp_path / "notebook.html"
    path.write_text("<!doctype html><meta charset=utf-8>" + str(html_of(made)) + str(html_of(loaded)), "utf-8")
    offline.goto(path.as_uri())
    for place, factors in enumerate((made, loaded)):
        offline.locator("iframe").nth(place).scroll_into_view_if_needed()
        inner = offline.locator("iframe").nth(place).content_frame
        cards = inner.locator(".factor-card")
        expect(cards).to_have_count(3)
        expect(inner.locator("input, a")).to_have_count(0)
        expect(cards.nth(1)).to_contain_text(f"explained share {100 * factors.explained[1]:.2f}%")
        expect(cards.nth(1)).to_contain_text(f"stability {factors.stability[1]:.3f}")
        top = factors.top_tokens(2, 3)
        for row, example in zip(top.itertuples(), cards.nth(2).locator(".example").all(), strict=True):
            expect(example).to_contain_text(f"generation {row.generation_id}, position {row.position}")
            expect(example.locator(".token.chosen")).to_have_attribute("data-position", str(row.position))
        strongest = factors.top_neurons(0, 1).iloc[0]
        expect(cards.nth(0).locator(".card-neurons")).to_contain_text(
            f"{strongest['layer']:.0f}/{strongest['neuron']:.0f}"
        )
        assert inner.locator("body").evaluate("() => window.hacked") is None
        expect(inner.locator(".card-name")).to_have_text(["<b>beginnings</b>"] if place else [])
        inner.get_by_role("button", name="by share").click()
        expect(cards).to_have_count(3)


def test_a_drawing_of_factors_of_a_corpus_is_bounded_however_large_the_corpus_and_says_what_it_leaves_out(
    tmp_path: Path, write_store: WriteStore
) -> None:
    store = write_store(tmp_path, *(([f" {i}"] * 700, 2) for i in range(3)), recorded=["activations"])
    factors = store.factors(24, [0, 1], method="pca")
    wide = replace(factors, tokens=np.tile(factors.tokens, 4), components=np.tile(factors.components, (4, 1)))
    wide = replace(wide, explained=np.tile(factors.explained, 4))
    payload = corpus_factors_payload(wide)
    assert payload["note"] == "all but the first 64 of 96 factors"
    cards = payload["factorization"]["cards"]
    assert len(cards) == 64
    for card in cards:
        for number, context in card["contexts"].items():
            at = [each["position"] for each in card["examples"] if each["generation_id"] == int(number)]
            assert context["first"] >= min(at) - AROUND
            assert len(context["text"]) <= 2 * APART + 2 * AROUND + 1
    assert factors_of_an_array_are_text()


def factors_of_an_array_are_text() -> bool:
    x = np.random.default_rng(0).random((9, 6), np.float32)
    return html_of(factorize(x, FactorOptions(2), layers=[0])) is None


def test_a_page_forbids_everything_that_is_not_in_it(full: actlake.Store) -> None:
    page = document("title", shown_of(full.generation(0)))
    assert f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'.replace("'", "&#39;") in page
    assert POLICY.startswith("default-src 'none'")
    assert "connect-src" not in POLICY
    assert not re.search(r"""(?:src|href)=["'](?!data:)""", page)


def test_no_text_of_a_store_ends_the_script_that_holds_it(full: actlake.Store) -> None:
    page = document("</title><script>", shown_of(full.generation(1)))
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert json.loads(data)[0]["payload"]["tokens"]["text"] == HOSTILE
    assert page.count("</script>") == 2
    assert page.count("<!--") == 0
    assert "<title>&lt;/title&gt;" in page


def test_a_generation_of_which_little_was_recorded_is_saved_with_what_there_is(
    tmp_path: Path, write_store: WriteStore
) -> None:
    bare = write_store(tmp_path / "bare", (["a", "b"], 1), recorded=[])
    assert save_page(bare, 0, tmp_path / "bare.html").views == ["Tokens"]
    some = write_store(tmp_path / "some", (["a", "b"], 1), recorded=["layer_predictions"])
    assert save_page(some, 0, tmp_path / "some.html").views == ["Layers"]
    assert html_of(bare.generation(0)) is not None


def test_what_a_bound_leaves_out_is_said(full: actlake.Store) -> None:
    generation = full.generation(0)
    saliency = saliency_payload(generation, generation.saliency(), room=2 * 4 * 6)
    assert saliency["note"] == "all but the first 2 of 3 outputs"
    assert saliency["saliency"]["outputs"] == [3, 4]
    activations = activations_payload(generation, generation.heat_map(1), room=5 * 4 * 6)
    assert activations["note"] == "all but the first 5 of 12 neurons"
    layers = layers_payload(generation, generation.layer_predictions(), room=8 * 12)
    assert layers["note"] == "of each cell all but the 1 likeliest of 2 tokens"
    assert saliency_payload(generation, generation.saliency())["note"] == ""


def test_a_notebook_gets_html_and_a_short_text(full: actlake.Store) -> None:
    generation = full.generation(0)
    for thing in (
        generation,
        generation.saliency(),
        generation.factors(2),
        generation.heat_map(0),
        generation.show("layers"),
    ):
        html = thing._repr_html_()
        assert html is not None
        assert 'sandbox="allow-scripts allow-downloads"' in html
        assert "tools" in unescape(html)
        assert len(repr(thing)) < 500
    assert repr(generation) == "Generation(0, 3 + 3 tokens of 'tiny-by-hand')"


def test_what_knows_no_generation_is_shown_as_text(full: actlake.Store) -> None:
    saliency = full.generation(0).saliency()
    assert saliency[:2]._repr_html_() is None
    assert (saliency * 2)._repr_html_() is None
    assert saliency[:2].scores is None
    np.testing.assert_array_equal(np.asarray(saliency[:2]), np.asarray(saliency)[:2])


def test_a_view_is_shown_with_what_is_pinned(full: actlake.Store) -> None:
    view = full.generation(0).show("saliency", by="word", output=4, detailed=True)
    assert isinstance(view, View)
    html = unescape(str(view._repr_html_()))
    assert '"state":{"output":4,"detailed":true' in html


def test_export_wants_rows_or_a_generation_and_not_both(full: actlake.Store, tmp_path: Path) -> None:
    for arguments in ([], ["tokens", "--generation", "0"], ["--generation", "0", "--format", "csv"]):
        done = CliRunner().invoke(cli, ["export", full.uri, *arguments, "-o", str(tmp_path / "x")])
        assert done.exit_code == 2
        assert not (tmp_path / "x").exists()
    done = CliRunner().invoke(cli, ["export", full.uri, "--generation", "7", "-o", str(tmp_path / "x.html")])
    assert done.exit_code == 1
    assert "no generation 7" in done.stderr
    assert not (tmp_path / "x.html").exists()


def test_a_drawing_of_many_characters_is_left_to_the_app(full: actlake.Store, monkeypatch: Any) -> None:
    monkeypatch.setattr("actlake.ui.notebook.MOST_CHARACTERS", 1000)
    assert html_of(full.generation(0)) is None


def test_several_drawings_have_names(full: actlake.Store) -> None:
    one = Shown("only", {"kind": "saliency"})
    assert 'role="tab"' not in document("t", [one])
    assert document("t", [one, Shown("<b>", {})]).count('role="tab"') == 2
