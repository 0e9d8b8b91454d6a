"""The app, driven in a real browser: what a person sees and does."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qsl, urlparse

import actlake
import numpy as np
import pytest
from actlake.ui import Server, serve
from playwright.sync_api import Browser, Locator, Page, expect

pytestmark = pytest.mark.browser

CLEAR = "rgba(0, 0, 0, 0)"


def opacity(colour: str) -> float:
    """How opaque a computed background colour is."""
    numbers = [float(number) for number in re.findall(r"[\d.]+", colour)]
    return numbers[3] if len(numbers) == 4 else 1.0


def backgrounds(page: Page) -> list[str]:
    return page.locator(".face").evaluate_all("faces => faces.map(face => getComputedStyle(face).backgroundColor)")


def token(page: Page, position: int) -> Locator:
    return page.locator(f".token[data-position='{position}']")


def expect_state(page: Page, **state: str) -> None:
    """The address comes to hold this state (the server sets it, so a moment after what it shows)."""
    page.wait_for_url(lambda url: dict(parse_qsl(urlparse(url).query)) == state)


def open_strip(page: Page, server: Server, query: str) -> None:
    page.goto(f"{server.url}generation{query}")
    expect(token(page, 0)).to_be_visible()


def test_the_corpus_leads_to_a_generation(page: Page, server: Server) -> None:
    page.goto(server.url)
    expect(page.get_by_text("33 generations in")).to_be_visible()
    page.locator(".listed").first.get_by_role("link", name="0", exact=True).click()
    expect(page.get_by_role("heading", name="Generation 0")).to_be_visible()
    expect(page.locator(".token")).to_have_count(14)


def test_what_a_model_was_captured_doing_is_shown(page: Page, toy_store: Path) -> None:
    store = actlake.open(toy_store)
    with serve(store, port=0, block=False) as running:
        for view in ("saliency", "factors&k=2"):
            open_strip(page, running, f"?id=0&view={view}")
            expect(page.locator(".token")).to_have_count(store.generation(0).n_tokens)
            assert any(opacity(colour) > 0.5 for colour in backgrounds(page))


def test_a_click_on_an_output_colours_the_tokens_before_it_by_their_shares(
    page: Page, server: Server, store: actlake.Store
) -> None:
    shares = store.generation(0).saliency()
    open_strip(page, server, "?id=0")
    before = backgrounds(page)
    token(page, 9).click()
    expect(token(page, 9)).to_have_class(re.compile("pinned"))
    after = backgrounds(page)
    assert after[:9] != before[:9]
    row = np.asarray(shares[9 - 6, :9])
    ceiling = np.ceil(np.sort(shares.max(axis=1))[4] * 20 - 1e-6) / 20  # the typical of eight outputs, in steps of 5 %
    np.testing.assert_allclose([opacity(colour) for colour in after[:9]], np.minimum(1, row / ceiling), atol=0.01)
    assert after[10:] == [CLEAR] * 4


def test_hovering_an_output_shows_it_and_a_pin_holds_it_until_escape(page: Page, server: Server) -> None:
    open_strip(page, server, "?id=0")
    token(page, 8).hover()
    expect(token(page, 8)).to_have_class(re.compile("output"))
    token(page, 8).click()
    token(page, 11).hover()
    expect(token(page, 8)).to_have_class(re.compile("output"))
    page.keyboard.press("Escape")
    token(page, 12).hover()
    expect(token(page, 12)).to_have_class(re.compile("output"))


def test_the_detailed_form_writes_the_percentages(page: Page, server: Server, store: actlake.Store) -> None:
    row = store.generation(0).saliency()[9 - 6, :9]
    open_strip(page, server, "?id=0&output=9")
    expect(page.locator(".note").first).to_be_hidden()
    page.get_by_role("button", name="Detailed").click()
    expect(page.locator(".note").first).to_be_visible()
    assert page.locator(".note").all_text_contents()[:9] == [f"{100 * share:.1f}%" for share in row]


def test_a_tooltip_tells_what_is_known_of_a_token(page: Page, server: Server, store: actlake.Store) -> None:
    generation = store.generation(0)
    open_strip(page, server, "?id=0&output=9")
    token(page, 4).hover()
    tip = page.get_by_role("tooltip")
    expect(tip).to_contain_text("token id104")
    expect(tip).to_contain_text(f"rank{int(generation.tokens['rank'][4])}")
    expect(tip).to_contain_text(f"{abs(generation.tokens['logprob'][4]):.4f}")
    expect(tip).to_contain_text(f"share of output 9{generation.saliency()[3, 4]:.6g}")


def test_another_method_gives_other_colours_and_a_signed_one_blue_and_orange(page: Page, server: Server) -> None:
    open_strip(page, server, "?id=0&output=13")
    before = backgrounds(page)
    page.get_by_label("method").select_option(label="gradient · input, signed")
    expect(page.locator(".legend")).to_contain_text("−")
    hues = {colour[: colour.rindex(",")] for colour in backgrounds(page)[:13] if opacity(colour) > 0}
    assert hues == {"rgba(179, 72, 0", "rgba(0, 90, 156"}
    assert backgrounds(page) != before
    expect_state(page, id="0", output="13", method="grad_dot_input")


def test_the_address_holds_the_state_and_restores_it(page: Page, server: Server, browser: Browser) -> None:
    open_strip(page, server, "?id=0")
    token(page, 10).click()
    page.get_by_role("button", name="Detailed").click()
    page.wait_for_url("**output=10**")
    page.wait_for_url("**detail=1**")
    colours = backgrounds(page)
    other = browser.new_page(viewport={"width": 1200, "height": 800})
    other.goto(page.url)
    expect(token(other, 10)).to_have_class(re.compile("pinned"))
    expect(other.locator(".note").first).to_be_visible()
    assert backgrounds(other) == colours
    other.close()


def test_back_and_forward_restore_what_was_pinned(page: Page, server: Server) -> None:
    open_strip(page, server, "?id=0")
    token(page, 8).click()
    page.wait_for_url("**output=8**")
    token(page, 12).click()
    page.wait_for_url("**output=12**")
    page.go_back()
    expect(token(page, 8)).to_have_class(re.compile("pinned"))
    page.go_forward()
    expect(token(page, 12)).to_have_class(re.compile("pinned"))
    page.go_back()
    expect(token(page, 8)).to_have_class(re.compile("pinned"))
    page.go_back()
    expect(page.locator(".token.pinned")).to_have_count(0)
    expect(token(page, 0)).to_be_visible()


def test_going_to_the_other_view_and_back_keeps_what_was_pinned(page: Page, server: Server) -> None:
    open_strip(page, server, "?id=0")
    token(page, 8).click()
    views = page.get_by_role("navigation", name="views")
    expect(views.get_by_role("link", name="Factors")).to_have_attribute("href", re.compile("output=8"))
    views.get_by_role("link", name="Factors").click()
    expect(page.locator(".spark")).to_have_count(5)
    page.get_by_role("link", name="Saliency").click()
    expect(token(page, 8)).to_have_class(re.compile("pinned"))


def test_hovering_a_sparkline_paints_the_tokens_with_its_factor(
    page: Page, server: Server, store: actlake.Store
) -> None:
    values = store.generation(0).factors(3).tokens
    open_strip(page, server, "?id=0&view=factors&k=3")
    before = backgrounds(page)
    page.locator(".spark").nth(1).hover()
    after = backgrounds(page)
    assert after != before
    np.testing.assert_allclose([opacity(c) for c in after], values[:, 1] / values[:, 1].max(), atol=0.01)
    token(page, 0).hover()
    expect(page.locator(".spark.shown")).to_have_count(0)
    assert backgrounds(page) == before


def test_a_click_pins_a_factor_and_the_address_restores_it(page: Page, server: Server) -> None:
    open_strip(page, server, "?id=0&view=factors&k=3")
    page.locator(".spark").nth(2).click()
    page.wait_for_url("**factor=2**")
    page.mouse.move(0, 0)
    colours = backgrounds(page)
    page.reload()
    expect(page.locator(".spark[aria-pressed=true]")).to_have_count(1)
    assert backgrounds(page) == colours


def test_other_factors_and_layers_are_worked_out_when_asked_for(page: Page, server: Server) -> None:
    open_strip(page, server, "?id=0&view=factors")
    page.get_by_label("factors (k)").fill("7")
    page.get_by_label("factors (k)").press("Enter")
    expect(page.locator(".spark")).to_have_count(7)
    error = page.locator(".reading").text_content() or ""
    page.get_by_label("layers").fill("1")
    page.get_by_label("layers").press("Enter")
    expect(page.locator(".reading")).not_to_have_text(error)
    expect_state(page, id="0", view="factors", k="7", layers="1")


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ("", "the address of a generation is /generation?id=NUMBER"),
        ("?id=<b>x", "id='<b>x' cannot be used"),
        ("?id=99", "no generation 99"),
        ("?id=0&output=3", "output=3 cannot be used: choose from 6-13"),
        ("?id=2&output=1", "output=1 cannot be used: nothing was generated here"),
        ("?id=0&view=factors&factor=5", "factor=5 cannot be used: choose from 0 to 4"),
    ],
)
def test_a_bad_address_is_one_clear_line_with_a_way_back(page: Page, server: Server, query: str, sentence: str) -> None:
    page.goto(f"{server.url}generation{query}")
    expect(page.get_by_role("alert")).to_contain_text(sentence)
    page.get_by_role("link", name="Back to the corpus").click()
    expect(page.locator(".listed").first).to_be_visible()


@pytest.mark.parametrize(("layers", "sentence"), [("9", "9"), ("one", "write numbers and ranges")])
def test_bad_layers_are_one_clear_line_and_good_ones_clear_it(
    page: Page, server: Server, layers: str, sentence: str
) -> None:
    open_strip(page, server, "?id=0&view=factors")
    page.get_by_label("layers").fill(layers)
    page.get_by_label("layers").press("Enter")
    expect(page.get_by_role("alert")).to_contain_text(sentence)
    page.get_by_label("layers").fill("0-1")
    page.get_by_label("layers").press("Enter")
    expect(page.locator(".spark")).to_have_count(5)
    expect(page.get_by_role("alert")).to_be_hidden()


def test_hostile_texts_are_shown_and_do_nothing(page: Page, server: Server) -> None:
    page.goto(server.url)
    expect(page.locator(".listed").nth(1)).to_contain_text("<script>window.hacked = 1</script>")
    assert page.evaluate("window.hacked") is None
    for view in ("saliency", "factors"):
        open_strip(page, server, f"?id=1&view={view}")
        expect(token(page, 1)).to_contain_text("<script>window.hacked")
        expect(token(page, 4)).to_contain_text("</pre><img")
        token(page, 4).hover()
        page.get_by_text("Text and metadata").click()
        expect(page.locator("pre").first).to_be_visible()
        assert page.evaluate("window.hacked") is None
        assert page.locator("img, .strip script").count() == 0


def test_a_prompt_without_a_completion_says_so(page: Page, server: Server) -> None:
    open_strip(page, server, "?id=2")
    expect(page.get_by_text("Nothing was generated here")).to_be_visible()


def test_what_was_not_recorded_is_one_clear_line(
    page: Page, tmp_path: Path, write_store: Callable[..., actlake.Store]
) -> None:
    store = write_store(tmp_path, (["a", "b", "c"], 1), recorded=["embeddings"])
    with serve(store, port=0, block=False) as running:
        for view in ("saliency", "factors"):
            page.goto(f"{running.url}generation?id=0&view={view}")
            expect(page.get_by_role("alert")).to_contain_text("record")


def test_an_empty_store_says_how_to_capture(
    page: Page, tmp_path: Path, write_store: Callable[..., actlake.Store]
) -> None:
    with serve(write_store(tmp_path), port=0, block=False) as running:
        page.goto(running.url)
        expect(page.get_by_text("No generations yet")).to_be_visible()
        expect(page.locator("pre")).to_contain_text("actlake capture")


def test_links_lead_to_the_generations_beside(page: Page, server: Server) -> None:
    open_strip(page, server, "?id=0&detail=1&output=9")
    expect(page.get_by_role("link", name="‹ Previous")).to_have_count(0)
    page.get_by_role("link", name="Next ›").click()
    expect(page.get_by_role("heading", name="Generation 1")).to_be_visible()
    expect_state(page, id="1", detail="1")


def test_no_page_asks_another_host_for_anything(page: Page, server: Server) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(server.url)
    expect(page.locator(".listed").first).to_be_visible()
    open_strip(page, server, "?id=0")
    open_strip(page, server, "?id=0&view=factors")
    page.goto(f"{server.url}sql?run=1&chart=histogram&x=rank&sql=select+rank+from+tokens")
    expect(page.locator(".bar-mark").first).to_be_attached()
    page.wait_for_load_state("networkidle")
    hosts = {urlparse(url).netloc for url in asked if urlparse(url).scheme not in ("data", "blob")}
    assert hosts == {f"127.0.0.1:{server.port}"}


def test_a_phone_shows_the_pages_without_scrolling_sideways(page: Page, server: Server) -> None:
    page.set_viewport_size({"width": 390, "height": 780})
    for path in ("", "generation?id=0&detail=1", "generation?id=0&view=factors"):
        page.goto(f"{server.url}{path}")
        expect(page.locator(".listed, .token").first).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
