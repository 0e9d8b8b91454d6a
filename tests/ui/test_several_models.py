"""A store of two models: a neuron of another model is another neuron, so every way to one says of which run it is."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import actlake
import pytest
from actlake.ui import Server, serve
from actlake.ui.address import GenerationAddress
from actlake.ui.runs import neuron_link, run_to_name
from actlake.ui.views import payload_of
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.browser

MARKUP = "<img src=x onerror='window.hacked = 1'>"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, write_store: Callable[..., actlake.Store]) -> actlake.Store:
    """Runs 0 and 2 are of one model, run 1 is of another, of which factorization 0 is; 1 is of runs 0 and 2."""
    folder = tmp_path_factory.mktemp("two")
    written = [([f"w{i}", " goes", " on", "."], 2) for i in range(3)]
    write_store(folder, *written, run={"run_id": 0, "model": "one", "model_hash": "1"})
    write_store(folder, *written, run={"run_id": 1, "model": f"other {MARKUP}", "model_hash": "2"}, first=3)
    store = write_store(folder, *written, run={"run_id": 2, "model": "one", "model_hash": "1"}, first=6)
    store.save(store.factors(2, generations=[3, 4, 5]), "of the other")
    store.save(store.factors(2, generations=[0, 1, 2, 6, 7, 8]), "of the one")
    return store


@pytest.fixture(scope="module")
def running(store: actlake.Store) -> Iterator[Server]:
    with serve(store, port=0, block=False) as server:
        yield server


def opened(page: Page, server: Server, address: str) -> None:
    page.goto(f"{server.url}{address}")
    expect(page.locator("#early")).to_have_count(0)


def test_a_link_to_a_neuron_names_a_run_where_there_are_several_models(
    store: actlake.Store, tmp_path: Path, write_store: Callable[..., actlake.Store]
) -> None:
    assert (run_to_name(store, 1), run_to_name(store, None)) == (1, None)
    heat_map = GenerationAddress.parse("?id=4&view=activations")
    payload = payload_of(store, store.generation(4), heat_map)
    assert payload["links"]["neuron"] == neuron_link(store, 1) == "neuron?layer={layer}&neuron={neuron}&run=1"
    alike = write_store(tmp_path, (["a", "b"], 1), run={"model_hash": "1"})
    assert neuron_link(alike, 0) == "neuron?layer={layer}&neuron={neuron}"
    write_store(tmp_path, (["c", "d"], 1), run={"run_id": 1, "model_hash": "1"}, first=1)
    assert run_to_name(alike.refresh(), 1) is None
    unlike = {"run_id": 2, "model_hash": "2"}
    write_store(tmp_path, (["e", "f"], 1), run=unlike, recorded=["embeddings", "gradients"], first=2)
    assert run_to_name(alike.refresh(), 1) is None
    write_store(tmp_path, (["g", "h"], 1), run=unlike | {"run_id": 3}, first=3)
    assert run_to_name(alike.refresh(), 1) == 1


@pytest.mark.parametrize(("number", "runs"), [(0, {"1"}), (1, {"0", "2"})])
def test_the_neurons_of_a_factor_lead_to_their_pages(page: Page, running: Server, number: int, runs: set[str]) -> None:
    opened(page, running, f"factors?id={number}")
    link = page.locator(".factor-card").nth(1).locator(".card-neurons a").first
    (run,) = re.findall(r"&run=(\d)$", link.get_attribute("href") or "")
    assert run in runs
    link.click()
    expect(page.get_by_role("heading", name="Layer")).to_be_visible()
    expect(page.locator(".facts")).to_contain_text(f"runs{run}")


def test_an_address_without_a_run_leads_to_the_neuron_of_each_model(page: Page, running: Server) -> None:
    opened(page, running, "neuron?layer=1&neuron=3&token=goes")
    expect(page.get_by_role("alert")).to_contain_text("runs 0,2 are of one; run 1 is of other")
    expect(page.get_by_role("listitem")).to_have_count(2)
    assert page.get_by_role("listitem").all_text_contents() == ["one run 2 run 0", f"other {MARKUP} run 1"]
    assert page.evaluate("window.hacked") is None
    page.get_by_role("link", name="run 1").click()
    page.wait_for_url("**/neuron?layer=1&neuron=3&run=1&token=goes")
    expect(page.get_by_role("heading", name="Layer 1 · neuron 3")).to_be_visible()


def test_the_box_keeps_the_run_that_is_looked_at_and_so_does_clear(page: Page, running: Server) -> None:
    opened(page, running, "neuron?layer=1&neuron=3&run=1&token=goes")
    page.get_by_label("neuron", exact=True).fill("4")
    page.get_by_role("button", name="Go").click()
    page.wait_for_url("**/neuron?layer=1&neuron=4&run=1")
    expect(page.get_by_role("heading", name="Layer 1 · neuron 4")).to_be_visible()
    expect(page.get_by_role("link", name="clear")).to_have_attribute("href", "./neuron?layer=1&neuron=4&run=1")


@pytest.mark.parametrize("address", ["neuron", "neuron?layer=9&neuron=3&run=1", "neuron?layer=1&neuron=3"])
def test_where_a_neuron_is_asked_for_a_run_can_be_chosen(page: Page, running: Server, address: str) -> None:
    opened(page, running, address)
    offered = page.locator("#runs option")
    expect(offered).to_have_count(3)
    assert offered.all_text_contents() == ["run 0 of one", f"run 1 of other {MARKUP}", "run 2 of one"]
    for label, value in {"layer": "0", "neuron": "5", "run": "2"}.items():
        page.get_by_label(label, exact=True).fill(value)
    page.get_by_role("button", name="Go").click()
    page.wait_for_url("**/neuron?layer=0&neuron=5&run=2")
    expect(page.get_by_role("heading", name="Layer 0 · neuron 5")).to_be_visible()


def test_in_a_store_of_one_model_a_run_that_is_not_there_is_left(
    page: Page, tmp_path: Path, write_store: Callable[..., actlake.Store]
) -> None:
    with serve(write_store(tmp_path, (["a", "b", "c"], 1)), port=0, block=False) as server:
        opened(page, server, "neuron?layer=1&neuron=3&run=9")
        expect(page.get_by_role("alert")).to_contain_text("no run 9")
        page.get_by_role("button", name="Go").click()
        page.wait_for_url("**/neuron?layer=1&neuron=3")
        expect(page.get_by_role("heading", name="Layer 1 · neuron 3")).to_be_visible()
