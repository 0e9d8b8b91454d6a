"""A neuron's page: what it says is what the store says, its filters recompute everything, and its address is its state."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import actlake
import numpy as np
import pytest
from actlake.queries import token_condition
from actlake.ui import Server, serve
from actlake.ui.address import NeuronAddress
from actlake.ui.neuron import N_BINS, N_RELATED, as_python, as_sql, neuron_at, neuron_payload
from downloads import csv_rows, file_of
from playwright.sync_api import Page, expect

FILTERED = NeuronAddress(1, 3, token="prompt", generated=False, where="n_tokens = 4", n=4)


def opened_page(page: Page, server: Server, query: str) -> None:
    page.goto(f"{server.url}neuron{query}")
    expect(page.locator("#early")).to_have_count(0)


@pytest.mark.browser
def test_the_statistics_and_every_bar_are_those_of_the_store(page: Page, server: Server, store: actlake.Store) -> None:
    neuron = store.neuron(1, 3)
    opened_page(page, server, "?layer=1&neuron=3")
    facts = page.locator(".neuron-facts dd").all_text_contents()
    assert facts[0] == f"{neuron.stats['n']:,}"
    numbers = [float(text.replace("−", "-")) for text in facts[1:5]]
    np.testing.assert_allclose(numbers, [neuron.stats[name] for name in ("mean", "std", "min", "max")], rtol=1e-5)
    plot = page.locator(".histogram-plot")
    plot.focus()
    counted = 0
    for row in neuron.binned(N_BINS).head(3).itertuples():
        plot.press("ArrowRight")
        tip = page.get_by_role("tooltip")
        expect(tip).to_contain_text(f"from{float(f'{row.lower:.6g}')}".replace("-", "−"))
        expect(tip).to_contain_text(f"positions{row.n} of {neuron.n_tokens}")
        counted += row.n
    assert counted > 0


@pytest.mark.browser
def test_the_csv_of_a_neuron_holds_its_examples_its_histogram_and_its_statistics(
    page: Page, server: Server, store: actlake.Store
) -> None:
    neuron = store.neuron(1, 3)
    opened_page(page, server, "?layer=1&neuron=3&n=4")
    told = csv_rows(file_of(page, "save the data shown as CSV"))
    shown = {
        "greatest": neuron.examples("positive", 4),
        "least": neuron.examples("negative", 4),
        "random": neuron.quantile_examples(5, 2)[::-1],
    }
    assert [row["section"] for row in told] == ["greatest"] * 4 + ["least"] * 4 + ["random"] * 10
    for section, frame in shown.items():
        mine = [row for row in told if row["section"] == section]
        for name in ("bin", "lower", "upper", "generation_id", "position", "activation"):
            if name in frame:
                np.testing.assert_array_equal([float(row[name]) for row in mine], frame[name])
            else:
                assert {row[name] for row in mine} == {""}
        assert [row["token"] for row in mine] == frame["token"].tolist()
    bins = neuron.binned(N_BINS)
    told = csv_rows(file_of(page, "save the histogram as CSV"))
    for name in ("lower", "upper", "n"):
        np.testing.assert_allclose([float(row[name]) for row in told], bins[name], rtol=1e-12)
    assert json.loads(file_of(page, "save the statistics as JSON")) == [neuron.stats]


@pytest.mark.browser
def test_examples_are_coloured_by_the_neuron_on_one_scale(page: Page, server: Server, store: actlake.Store) -> None:
    neuron = store.neuron(1, 3)
    opened_page(page, server, "?layer=1&neuron=3")
    best = neuron.examples("positive", 1).iloc[0]
    first = page.locator(".example").first
    expect(first.locator(".example-value")).to_have_text(f"{best.activation:.3f}")
    expect(first.locator(".token.chosen")).to_have_attribute("data-position", str(best.position))
    context = neuron.context(int(best.generation_id))["activation"].to_numpy()
    colours = first.locator(".context .token").evaluate_all(
        "all => all.map((one) => getComputedStyle(one).backgroundColor)"
    )
    shown = neuron_payload(neuron)["neuron"]["contexts"]
    ids = [int(generation_id) for generation_id in shown]
    ceiling = np.nanmax(np.abs(neuron.contexts(ids)["activation"]))
    for value, colour in zip(context, colours, strict=True):
        red, _, blue, *opacity = map(float, re.findall(r"[\d.]+", colour))
        assert (opacity or [1.0])[0] == pytest.approx(abs(value) / ceiling, abs=0.01)
        assert (red > blue) == (value >= 0) or abs(value) / ceiling < 0.01


@pytest.mark.browser
def test_filters_recompute_everything_and_are_the_address(page: Page, server: Server, store: actlake.Store) -> None:
    opened_page(page, server, "?layer=1&neuron=3")
    page.get_by_label("token", exact=True).fill("goes")
    page.get_by_label("generated only").check()
    page.get_by_role("button", name="Filter").click()
    page.wait_for_url("**token=goes**generated=1**")
    expect(page.locator("#early")).to_have_count(0)
    wanted = store.neuron(1, 3, where="token = ' goes'", generated_only=True)
    assert wanted.n_tokens == 30
    expect(page.locator(".neuron-facts dd").first).to_have_text("30")
    expect(page.locator(".neuron-facts dd").nth(4)).to_have_text(f"{wanted.stats['max']:.6g}")
    assert set(page.locator(".token.chosen").all_text_contents()) == {"·goes"}
    page.go_back()
    expect(page.locator(".neuron-facts dd").first).to_have_text(f"{store.neuron(1, 3).n_tokens}")


@pytest.mark.browser
def test_what_is_switched_is_in_the_address_and_back_restores_it(page: Page, server: Server) -> None:
    opened_page(page, server, "?layer=1&neuron=3")
    page.get_by_role("button", name="log", exact=True).click()
    page.wait_for_url("**log=1**")
    page.reload()
    expect(page.get_by_role("button", name="log", exact=True)).to_have_attribute("aria-pressed", "true")
    page.go_back()
    expect(page.get_by_role("button", name="linear")).to_have_attribute("aria-pressed", "true")


@pytest.mark.browser
def test_a_label_is_kept_in_the_store_and_seen_by_the_next_who_looks(
    page: Page, tmp_path: Path, write_store: Callable[..., actlake.Store]
) -> None:
    label = "<img src=x onerror='window.hacked = 1'> commas"
    with serve(write_store(tmp_path, (["a", ",", "b"], 2)), port=0, block=False) as running:
        opened_page(page, running, "?layer=0&neuron=2")
        page.get_by_label("label, for everybody").fill(label)
        page.get_by_label("label, for everybody").press("Enter")
        expect(page.get_by_text("saved")).to_be_visible()
        opened_page(page, running, "?layer=0&neuron=2")
        expect(page.get_by_label("label, for everybody")).to_have_value(label)
        assert page.evaluate("window.hacked") is None
    assert actlake.open(tmp_path).labels()["label"].tolist() == [label]


@pytest.mark.browser
def test_related_neurons_are_found_when_asked_for_and_are_links(
    page: Page, server: Server, store: actlake.Store
) -> None:
    opened_page(page, server, "?layer=1&neuron=3")
    expect(page.locator(".related")).to_have_count(0)
    page.get_by_role("button", name="Find related neurons").click()
    nearest = store.neuron(1, 3).related(1).iloc[0]
    item = page.locator(".related li").first
    expect(item).to_contain_text(f"layer 1 · neuron {nearest.neuron:.0f}")
    expect(item).to_contain_text(f"{nearest.correlation:+.4f}")
    item.get_by_role("link").click()
    expect(page.get_by_role("heading", name=f"Layer 1 · neuron {nearest.neuron:.0f}")).to_be_visible()


@pytest.mark.browser
@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ("?layer=1", "the address of a neuron is /neuron?layer=NUMBER&neuron=NUMBER"),
        ("?layer=9&neuron=1", "no layer 9; there are layers 0-1"),
        ("?layer=1&neuron=12", "no neuron 12; each layer has neurons 0-11"),
        ("?layer=1&neuron=3&where=<b>", "Parser Error"),
    ],
)
def test_what_cannot_be_shown_is_one_clear_line_with_a_box_that_leads_on(
    page: Page, server: Server, query: str, sentence: str
) -> None:
    opened_page(page, server, query)
    expect(page.get_by_role("alert")).to_contain_text(sentence)
    page.get_by_label("layer", exact=True).fill("1")
    page.get_by_label("neuron", exact=True).fill("3")
    page.get_by_role("button", name="Go").click()
    expect(page.get_by_role("heading", name="Layer 1 · neuron 3")).to_be_visible()


@pytest.mark.browser
def test_the_neurons_of_the_header_are_a_box_and_those_with_labels(
    page: Page, tmp_path: Path, write_store: Callable[..., actlake.Store]
) -> None:
    store = write_store(tmp_path, ([" a", " b", " c"], 2))
    with serve(store, port=0, block=False) as running:
        page.goto(running.url)
        page.get_by_role("link", name="Neurons").click()
        expect(page.get_by_role("heading", name="Neurons")).to_be_visible()
        expect(page.get_by_role("alert")).to_have_count(0)
        expect(page.get_by_text("Labelled by people")).to_have_count(0)
        store.label("<b>ends</b>", layer=1, neuron=4)
        page.reload()
        expect(page.get_by_role("listitem")).to_have_text("layer 1 · neuron 4 <b>ends</b>")
        page.get_by_role("link", name="layer 1 · neuron 4").click()
        expect(page.get_by_role("heading", name="Layer 1 · neuron 4")).to_be_visible()


@pytest.mark.browser
def test_filters_that_leave_nothing_say_so(page: Page, server: Server) -> None:
    opened_page(page, server, "?layer=1&neuron=3&token=nowhere")
    expect(page.get_by_text("No token is selected")).to_be_visible()


@pytest.mark.parametrize("address", [FILTERED, replace(FILTERED, related=True, seed=3), NeuronAddress(0, 7)])
def test_the_python_to_copy_gives_what_the_page_shows(store: actlake.Store, address: NeuronAddress) -> None:
    made: dict[str, Any] = {}
    exec(as_python(store, address), made)
    shown = neuron_payload(neuron_at(store, address), address)["neuron"]
    assert made["stats"] == shown["stats"]
    assert made["histogram"]["n"].tolist() == shown["histogram"]["counts"]
    for frame, section in zip((made["greatest"], made["least"], made["drawn"][::-1]), shown["sections"], strict=True):
        columns = ["generation_id", "position", "activation"]
        examples = [tuple(example.values())[:3] for example in section["examples"]]
        assert list(frame[columns].itertuples(index=False, name=None)) == examples
    assert ("related" in made) == address.related
    if address.related:
        assert made["related"].equals(neuron_at(store, address).related(N_RELATED))


@pytest.mark.browser
def test_the_python_to_copy_has_the_related_neurons_once_they_are_shown(page: Page, server: Server) -> None:
    opened_page(page, server, "?layer=1&neuron=3")
    copy = page.get_by_role("button", name="copy as Python")
    expect(copy).not_to_have_attribute("data-copy", re.compile("related"))
    page.get_by_role("button", name="Find related neurons").click()
    expect(page.locator(".related li").first).to_be_visible()
    expect(copy).to_have_attribute("data-copy", re.compile(r"related = neuron\.related\(12\)"))


def test_the_sql_to_copy_gives_what_the_page_shows(store: actlake.Store) -> None:
    shown = neuron_at(store, FILTERED)
    rows = store.sql(as_sql(shown)).fetchall()
    np.testing.assert_array_equal([row[3] for row in rows], np.sort(shown.values)[::-1])
    best = shown.examples("positive", 1).iloc[0]
    assert rows[0][:2] == (best.generation_id, best.position)


@pytest.mark.parametrize(
    ("options", "n"),
    [
        ({}, 0), ({"token": "GOES"}, 30), ({"token": "\n"}, 1), ({"metadata": {"topic": "numbers"}}, 14),
        ({"metadata": {"<b>key</b>": "<img src=x onerror='window.hacked = 1'>"}}, 10),
        ({"token": "goes", "where": "generation_id = 4 or generation_id = 5"}, 2),
    ],
)  # fmt: skip
def test_a_condition_selects_the_tokens_that_it_names(store: actlake.Store, options: dict[str, object], n: int) -> None:
    condition = token_condition(**options)  # type: ignore[arg-type]
    query = "select count(*) from tokens join generations using (generation_id) where "
    assert store.sql(query + (condition or "false")).fetchall() == [(n,)]
