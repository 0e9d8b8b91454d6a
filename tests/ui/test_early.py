"""The early part of a page: there before its session, and replaced by it with nothing lost."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import actlake
import numpy as np
import pytest
from actlake.ui import Server, serve
from actlake.ui.early import Early, drawing_script, head
from markupsafe import Markup
from playwright.sync_api import Page, expect

OPEN_ROOTS = """
const attach = Element.prototype.attachShadow;
Element.prototype.attachShadow = function (options) { return attach.call(this, {...options, mode: "open"}); };
"""
SAID = """
window.said = [];  // what status or alert each frame shows, when it changes
requestAnimationFrame(function look() {
  const found = [];
  (function deep(root) {
    for (const one of root.querySelectorAll("*")) {
      const isSeen = one.checkVisibility({visibilityProperty: true, opacityProperty: true});
      if (isSeen && one.matches(".status, .problem")) found.push(one.className);
      if (one.shadowRoot) deep(one.shadowRoot);
    }
  })(document);
  if (window.said.at(-1) !== found.join(" ")) window.said.push(found.join(" "));
  requestAnimationFrame(look);
});
"""
NO_SESSION = "window.WebSocket = class { constructor() { this.readyState = 0; } close() {} };"


PRESS = (
    """const press = (name) => [...root.querySelectorAll("button")].find((one) => one.textContent === name).click();"""
)
TYPE = """const type = (label, text) => {
  const field = root.querySelector(`[aria-label="${label}"]`);
  field.focus();
  field.value = text;
  field.dispatchEvent(new Event("input"));
  return field; };"""


@pytest.fixture
def factors(tmp_path: Path, write_store: Callable[..., actlake.Store]) -> actlake.Store:
    """A store with a saved factorization, whose factors have another order by stability than by number."""
    store = write_store(tmp_path, *([([f"w{i}", " goes", " on", "."], 2) for i in range(7)]))
    store.save(store.factors(4, reruns=1))
    return store


def opened_after(page: Page, address: str, function: str) -> None:
    """Opens a page whose session waits until this has been done in its early part."""
    page.add_init_script(OPEN_ROOTS)
    page.route("**/panel/panel.min.js*", lambda route: (in_early(page, function), route.continue_()))
    page.goto(address)
    expect(page.locator("#early")).to_have_count(0)


def in_early(page: Page, function: str) -> Any:
    """What a function of the early part's root gives, once there are tokens in it."""
    return page.evaluate(
        f"""async () => {{
            const root = () => document.getElementById("early")?.shadowRoot;
            while (!root()?.querySelector(".token")) await new Promise(requestAnimationFrame);
            return ({function})(root());
        }}"""
    )


def first_piece(answer: Any) -> str:
    """What has come when the header's script is whole; the rest waits for the session."""
    came = b""
    while b"showEarly();</script>" not in came:
        came += answer.read1(1 << 16)
    return came.decode()


def test_the_first_piece_of_an_answer_comes_before_the_session(server: Server) -> None:
    with urllib.request.urlopen(f"{server.url}generation?id=0") as answer:
        first, rest = first_piece(answer), answer.read().decode()
    assert "<h1>Generation 0</h1>" in first
    assert '"kind": "saliency"' in first
    assert "data-root-id" not in first
    assert "data-root-id" in rest
    assert (first + rest).count("</main>") == 1


def test_tokens_are_drawn_and_alive_without_a_session(page: Page, server: Server, store: actlake.Store) -> None:
    page.add_init_script(OPEN_ROOTS + NO_SESSION)
    page.goto(f"{server.url}generation?id=0")
    expect(page.locator("#early .token")).to_have_count(store.generation(0).n_tokens)
    page.locator("#early .token[data-position='9']").hover()
    expect(page.locator("#early .token[data-position='9']")).to_have_class(re.compile("output"))


def test_what_is_pinned_before_the_session_is_pinned_after(page: Page, server: Server) -> None:
    click = "(root) => root.querySelector('.token[data-position=\"10\"]').click()"
    opened_after(page, f"{server.url}generation?id=0", click)
    expect(page.locator(".token[data-position='10']")).to_have_class(re.compile("pinned"))
    page.wait_for_url("**output=10**")


def test_what_is_chosen_of_a_neuron_before_the_session_is_drawn_after(page: Page, server: Server) -> None:
    heights = "bars => bars.map((bar) => bar.getAttribute('height'))"
    address = f"{server.url}neuron?layer=1&neuron=3"
    page.goto(f"{address}&log=1&whole=1")
    expect(page.locator("#early")).to_have_count(0)
    wanted = page.locator(".histogram-plot rect").evaluate_all(heights)
    opened_after(page, address, f"(root) => {{ {PRESS} press('log'); press('whole contexts'); }}")
    page.wait_for_url("**log=1&whole=1")
    for name in ("log", "whole contexts"):
        expect(page.get_by_role("button", name=name, exact=True)).to_have_attribute("aria-pressed", "true")
    assert page.locator(".histogram-plot rect").evaluate_all(heights) == wanted


def test_what_is_chosen_and_named_of_factors_before_the_session_is_there_after(
    page: Page, factors: actlake.Store
) -> None:
    stability = factors.factorization(0).stability
    assert stability is not None
    with serve(factors, port=0, block=False) as running:
        do = "type('label of factor 1', 'ends').blur(); press('by stability'); press('whole contexts');"
        opened_after(page, f"{running.url}factors?id=0", f"(root) => {{ {PRESS} {TYPE} {do} }}")
        page.wait_for_url("**sort=stability&whole=1")
        for name in ("by stability", "whole contexts"):
            expect(page.get_by_role("button", name=name)).to_have_attribute("aria-pressed", "true")
        order = [int(number) for number in page.locator(".spark-number").all_text_contents()]
        assert order == np.argsort(-stability, kind="stable").tolist() != [0, 1, 2, 3]
        expect(page.get_by_label("label of factor 1")).to_have_value("ends")
        expect(page.get_by_text("label saved")).to_be_visible()
    assert factors.refresh().labels()["label"].tolist() == ["ends"]


def test_a_label_that_is_being_typed_when_the_session_comes_goes_on_in_its_box(
    page: Page, factors: actlake.Store
) -> None:
    with serve(factors, port=0, block=False) as running:
        do = f"(root) => {{ {TYPE} type('label of factor 2', 'half '); }}"
        opened_after(page, f"{running.url}factors?id=0", do)
        expect(page.get_by_label("label of factor 2")).to_be_focused()
        page.keyboard.press("End")
        page.keyboard.type("a name")
        assert factors.refresh().labels().empty
        page.keyboard.press("Enter")
        expect(page.get_by_text("label saved")).to_be_visible()
        expect(page.get_by_label("label of factor 2")).to_have_value("half a name")
    assert factors.refresh().labels()["label"].tolist() == ["half a name"]


def test_the_late_part_stands_where_the_early_one_stood(page: Page, server: Server) -> None:
    page.add_init_script(OPEN_ROOTS)
    places: list[Any] = []
    box = "(root) => [...root.querySelectorAll('h1, .token')].map((one) => one.getBoundingClientRect().top)"
    page.route("**/panel/panel.min.js*", lambda route: (places.append(in_early(page, box)), route.continue_()))
    page.goto(f"{server.url}generation?id=0")
    expect(page.locator("#early")).to_have_count(0)
    tops = page.locator("h1, .token").evaluate_all("all => all.map((one) => one.getBoundingClientRect().top)")
    assert np.abs(np.subtract(places[0], tops)).max() <= 2


def test_a_page_whose_drawing_cannot_be_made_begins_with_its_heading(server: Server) -> None:
    early = Early("title", Markup("<h1>heading</h1>"))
    sent = head("/generation", early, None)
    assert "<h1>heading</h1>" in sent
    assert 'id="early-data"' not in sent


def test_texts_cannot_leave_the_json_of_the_early_part() -> None:
    sent = head("/generation", Early("</title><script>", Markup("")), {"kind": "</script><script>window.hacked = 1"})
    assert "<script>window.hacked" not in sent
    assert "</title><script>" not in sent


def test_the_plain_script_holds_no_export() -> None:
    assert not re.search(r"^\s*(export|import)\b", drawing_script(), re.MULTILINE)
    assert drawing_script().startswith("globalThis.drawEarly = ")


def test_a_bad_address_is_said_in_the_first_piece(server: Server) -> None:
    with urllib.request.urlopen(f"{server.url}generation?id=99") as answer:
        assert "no generation 99" in first_piece(answer)


@pytest.mark.parametrize("query", ["?layer=1", "?layer=99&neuron=0"])
def test_what_the_early_part_says_is_wrong_stays_there(page: Page, server: Server, query: str) -> None:
    page.add_init_script(OPEN_ROOTS)
    page.add_init_script(SAID)
    page.goto(f"{server.url}neuron{query}")
    expect(page.locator("#early")).to_have_count(0)
    expect(page.locator("#late .problem")).to_be_visible()
    expect(page.locator(".strip.waiting:visible")).to_have_count(0)
    assert [said for said in page.evaluate("window.said") if said] == ["problem"]


def test_a_drawing_of_what_was_not_recorded_leaves_the_early_part_to_its_heading(
    tmp_path: Path, write_store: Callable[..., actlake.Store]
) -> None:
    store = write_store(tmp_path, (["a", "b", "c"], 1), recorded=["embeddings"])
    with (
        serve(store, port=0, block=False) as running,
        urllib.request.urlopen(f"{running.url}generation?id=0") as answer,
    ):
        first = first_piece(answer)
    assert "<h1>Generation 0</h1>" in first
    assert 'id="early-data"' not in first


def test_nothing_of_the_late_part_is_seen_before_its_turn(page: Page, server: Server) -> None:
    page.goto(f"{server.url}generation?id=0")
    expect(page.locator("#early")).to_have_count(0)
    expect(page.locator(".copies button").first).to_be_visible()
    seen = "one => one.checkVisibility({visibilityProperty: true, opacityProperty: true})"
    assert page.locator(".copies button").first.evaluate(seen)
    page.evaluate("document.getElementById('late').classList.add('waiting')")
    for part in (".copies button", ".token", ".facts", "select", ".texts summary"):
        assert not page.locator(part).first.evaluate(seen), part
