"""Long work on a page: a bar says how far it is, a button ends it, the page says so, and another can be begun."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from threading import Event

import actlake
import pytest
from actlake.ui import Server, serve
from actlake.ui.jobs import MOST_PASSES, PASSES
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.browser

N_TOKENS, D_FF = 1200, 512
LONG = "&".join(("k=64", "reruns=9", "negatives=split"))


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory, write_store: Callable[..., actlake.Store]) -> actlake.Store:
    """A generation of which 64 factors of both layers, ten times over, take many seconds."""
    return write_store(tmp_path_factory.mktemp("wide"), ([f" w{i}" for i in range(N_TOKENS)], 600), d_ff=D_FF)


@pytest.fixture(scope="module")
def server(wide: actlake.Store) -> Iterator[Server]:
    with serve(wide, port=0, block=False) as running:
        yield running


def test_factors_of_a_generation_are_cancelled_and_begun_again(page: Page, server: Server) -> None:
    page.goto(f"{server.url}generation?id=0&view=factors&{LONG}")
    cancel = page.get_by_role("button", name="Cancel")
    expect(cancel).to_be_visible()
    expect(page.locator("progress")).to_be_visible()
    cancel.click()
    expect(page.get_by_text("Cancelled: nothing was worked out")).to_be_visible()
    expect(cancel).to_be_hidden()
    expect(page.locator("progress")).to_be_hidden()
    expect(page.locator(".spark")).to_have_count(0)
    page.get_by_role("button", name="Begin again").click()
    expect(cancel).to_be_visible()
    expect(page.get_by_text("Cancelled")).to_be_hidden()
    page.get_by_label("factors (k)").fill("2")
    page.get_by_label("factors (k)").press("Enter")
    expect(page.locator(".spark")).to_have_count(2)
    expect(cancel).to_be_hidden()


def test_factors_of_the_corpus_are_cancelled_and_others_made(page: Page, server: Server, wide: actlake.Store) -> None:
    page.goto(f"{server.url}factors")
    cancel, start = page.get_by_role("button", name="Cancel"), page.get_by_role("button", name="Factorise")
    _ask(page, k=64, reruns=9)
    start.click()
    expect(page.get_by_text("Factorising …")).to_be_visible()
    expect(page.locator("progress")).to_have_attribute("value", re.compile("[1-9]"))
    expect(start).to_be_hidden()
    cancel.click()
    expect(page.get_by_text("Cancelled: nothing was kept.")).to_be_visible()
    expect(cancel).to_be_hidden()
    assert wide.refresh().factorizations().empty
    _ask(page, k=2, reruns=0)
    start.click()
    expect(page.get_by_role("link", name="factorization 0")).to_be_visible()
    expect(page.get_by_text("Cancelled")).to_be_hidden()
    assert wide.refresh().factorization(0).k == 2


def test_who_waits_for_others_is_told_and_can_leave_the_line(page: Page, server: Server, wide: actlake.Store) -> None:
    page.goto(f"{server.url}factors")
    known, done = len(wide.refresh().factorizations()), Event()
    others = [PASSES.submit(done.wait, 60) for _ in range(MOST_PASSES)]
    try:
        page.get_by_role("button", name="Factorise").click()
        expect(page.get_by_text("others are being worked out")).to_be_visible()
        page.get_by_role("button", name="Cancel").click()
        expect(page.get_by_text("Cancelled: nothing was kept.")).to_be_visible()
    finally:
        done.set()
        wait(others)
    assert len(wide.refresh().factorizations()) == known


def test_what_is_drawn_is_saved_from_a_generations_page(page: Page, server: Server, wide: actlake.Store) -> None:
    page.goto(f"{server.url}generation?id=0&view=factors&k=3&layers=1&positions=generated&negatives=clip")
    expect(page.locator(".spark")).to_have_count(3)
    page.get_by_role("button", name="Save to the store").click()
    link = page.get_by_role("link", name="factorization")
    expect(link).to_be_visible()
    link.click()
    expect(page.locator(".facts").first).to_contain_text("generation 0, layer 1, 600 generated tokens")
    (row,) = [row for _, row in wide.refresh().factorizations().iterrows() if row["k"] == 3]
    assert (row["negatives"], row["n_tokens"]) == ("clip", 600)


def _ask(page: Page, **numbers: int) -> None:
    labels = {"k": "factors (k)", "reruns": "reruns, for stability"}
    for name, value in numbers.items():
        page.get_by_label(labels[name]).fill(str(value))
        page.get_by_label(labels[name]).press("Enter")
