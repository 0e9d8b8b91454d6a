"""The pages of the corpus's factors: made, cancelled, found again by others, looked at, named."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event

import actlake
import numpy as np
import pandas as pd
import pytest
import stores
from actlake.queries import saved_factors
from actlake.store import Location
from actlake.ui import Server, serve
from actlake.ui.address import AskedFactors
from actlake.ui.corpus_factors import FactorsAddress, as_python, factorization_payload
from actlake.ui.factor_words import facts_of_saved
from actlake.ui.factors_form import as_python as made_as_python
from actlake.ui.factors_form import factorised
from downloads import csv_rows, file_of
from playwright.sync_api import Page, expect

NAME = "<img src=x onerror='window.hacked = 1'> of everything"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, write_store: Callable[..., actlake.Store]) -> actlake.Store:
    written = [([f"w{i}", " goes", " on", "."], 2) for i in range(7)]
    store = write_store(tmp_path_factory.mktemp("saved"), *written, shards=3)
    store.save(store.factors(3, reruns=1), NAME)
    return store


@pytest.fixture(scope="module")
def running(saved: actlake.Store) -> Iterator[Server]:
    with serve(saved, port=0, block=False) as server:
        yield server


def opened_page(page: Page, server: Server, query: str = "") -> None:
    page.goto(f"{server.url}factors{query}")
    expect(page.locator("#early")).to_have_count(0)


@pytest.mark.browser
def test_a_factorization_is_made_here_saved_and_found_by_others(
    page: Page, tmp_path: Path, write_store: Callable[..., actlake.Store]
) -> None:
    store = write_store(tmp_path, *([([f"w{i}", " goes", " on"], 2) for i in range(4)]))
    with serve(store, port=0, block=False) as server:
        opened_page(page, server)
        expect(page.get_by_text("No factorization has been saved yet")).to_be_visible()
        page.get_by_label("factors (k)").fill("2")
        page.get_by_label("layers", exact=True).fill("1")
        page.get_by_label("name").fill("one layer")
        page.get_by_label("name").press("Enter")
        page.get_by_role("button", name="Factorise").click()
        expect(page.get_by_role("link", name="factorization 0")).to_be_visible()
        opened_page(page, server)
        page.get_by_role("link", name="one layer").click()
        expect(page.locator(".factor-card")).to_have_count(2)
    made = actlake.open(tmp_path).factorization(0)
    assert (made.k, made.layers) == (2, (1,))


@pytest.mark.browser
def test_what_cannot_be_factored_is_one_clear_line(page: Page, running: Server) -> None:
    opened_page(page, running)
    page.get_by_label("layers", exact=True).fill("9")
    page.get_by_label("layers", exact=True).press("Enter")
    page.get_by_role("button", name="Factorise").click()
    expect(page.get_by_role("alert")).to_contain_text("no layer 9")
    expect(page.get_by_role("button", name="Factorise")).to_be_visible()


@pytest.mark.browser
def test_what_the_form_asks_for_is_its_address_which_fills_it_and_begins_nothing(
    page: Page, running: Server, saved: actlake.Store
) -> None:
    n_saved = len(saved.refresh().factorizations())
    opened_page(page, running)
    for label, value in {
        "factors (k)": "2",
        "layers": "1",
        "tokens where (SQL)": "token != '.'",
        "name": "a & b",
    }.items():
        page.get_by_label(label, exact=True).fill(value)
        page.get_by_label(label, exact=True).press("Enter")
    page.get_by_label("reruns, for stability").fill("3")
    page.get_by_label("reruns, for stability").press("Enter")
    page.get_by_role("checkbox").check()
    page.get_by_label("negative values").select_option("split off")
    page.wait_for_url("**negatives=split**")
    page.get_by_label("method").select_option("PCA")
    wanted = AskedFactors(2, (1,), "pca", where="token != '.'", scale_layers=True, name="a & b")
    page.wait_for_url(f"**/factors{wanted.query()}")
    expect(page.get_by_label("reruns, for stability")).to_have_value("0")
    copied = page.get_by_role("button", name="copy as Python")
    expect(copied).to_have_attribute("data-copy", made_as_python(saved, wanted))
    page.reload()
    expect(page.locator("#early")).to_have_count(0)
    expect(page.get_by_label("tokens where (SQL)")).to_have_value("token != '.'")
    expect(page.get_by_label("layers", exact=True)).to_have_value("1")
    expect(page.get_by_label("method")).to_have_value("PCA")
    expect(page.get_by_role("checkbox")).to_be_checked()
    expect(page.get_by_role("button", name="Factorise")).to_be_visible()
    assert len(saved.refresh().factorizations()) == n_saved
    page.get_by_role("button", name="Factorise").click()
    expect(page.get_by_role("link", name=f"factorization {n_saved}")).to_be_visible()
    assert saved.refresh().factorizations().iloc[n_saved][["name", "k"]].tolist() == ["a & b", 2]


@pytest.mark.browser
def test_layers_that_cannot_be_read_are_one_clear_line_and_make_nothing(page: Page, running: Server) -> None:
    opened_page(page, running, "?k=2")
    layers = page.get_by_label("layers", exact=True)
    layers.fill("one")
    layers.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("one")
    page.get_by_role("button", name="Factorise").click()
    expect(page.get_by_role("alert")).to_contain_text("one")
    layers.fill("0")
    layers.press("Enter")
    expect(page.get_by_role("alert")).to_have_count(0)
    page.wait_for_url("**/factors?k=2&layers=0")


@pytest.mark.parametrize(
    "asked",
    [
        AskedFactors(),
        AskedFactors(2, (1,), "kmeans", "generated", "token != '.'", seed=3, name=" 'a' "),
        AskedFactors(3, (0, 1), negatives="clip", scale_layers=True, reruns=1),
    ],
)
def test_the_python_of_the_form_makes_and_saves_what_the_form_does(
    tmp_path: Path, write_store: Callable[..., actlake.Store], asked: AskedFactors
) -> None:
    assert AskedFactors.parse(asked.query()) == asked
    store = write_store(tmp_path, *[([f"w{i}", " goes", " on", "."], 2) for i in range(7)])
    number = factorised(store, asked, Event(), lambda done, total: None)
    made: dict[str, object] = {}
    exec(made_as_python(store, asked), made)
    assert made["factorization_id"] == number + 1
    unlike = "exclude (factorization_id, created_at)"
    for query in (f"select * {unlike} from factorizations", "from factor_tokens", "from factor_neurons"):
        rows = [
            store.refresh().sql(f"from ({query} where factorization_id = {one}) order by all").df()
            for one in (number, number + 1)
        ]
        pd.testing.assert_frame_equal(*(each.drop(columns="factorization_id", errors="ignore") for each in rows))


@pytest.mark.browser
def test_factors_are_shown_with_their_strongest_tokens_and_neurons(
    page: Page, running: Server, saved: actlake.Store
) -> None:
    found = saved_factors(saved, 0, 8)
    opened_page(page, running, "?id=0")
    expect(page.get_by_role("heading", name=NAME)).to_be_visible()
    assert page.evaluate("window.hacked") is None
    for factor in range(3):
        card = page.locator(".factor-card").nth(factor)
        best = found.tokens[found.tokens["factor"] == factor].iloc[0]
        expect(card.locator(".example-value").first).to_have_text(f"{best.value:.3f}")
        expect(card.locator(".token.chosen").first).to_have_attribute("data-position", f"{best.position:.0f}")
        neuron = found.neurons[found.neurons["factor"] == factor].iloc[0]
        expect(card.locator(".card-neurons a").first).to_have_attribute(
            "href", f"./neuron?layer={neuron.layer:.0f}&neuron={neuron.neuron:.0f}"
        )
        expect(card.locator(".card-fact").first).to_have_text(
            f"explained share {100 * found.row['explained'][factor]:.2f}%"
        )


@pytest.mark.browser
def test_the_csv_of_a_factorization_holds_the_tokens_and_the_neurons_of_its_cards(
    page: Page, running: Server, saved: actlake.Store
) -> None:
    opened_page(page, running, "?id=0")
    whole = saved.factorization(0)
    told = csv_rows(file_of(page, "save the data shown as CSV"))
    wanted = pd.concat([whole.top_tokens(factor, 3) for factor in range(3)])
    assert [int(row["factor"]) for row in told] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    for name in ("generation_id", "position"):
        assert [int(row[name]) for row in told] == wanted[name].tolist()
    texts = ["w", " goes", " on", "."]
    assert [row["token"].rstrip("0123456") for row in told] == [texts[position] for position in wanted["position"]]
    np.testing.assert_allclose([float(row["value"]) for row in told], wanted["value"], rtol=1e-6)
    np.testing.assert_allclose([float(row["explained"]) for row in told[::3]], whole.explained)
    told = csv_rows(file_of(page, "save the neurons as CSV"))
    wanted = pd.concat([whole.top_neurons(factor, 8) for factor in range(3)])
    assert [(int(row["layer"]), int(row["neuron"])) for row in told] == list(
        zip(wanted["layer"], wanted["neuron"], strict=True)
    )
    np.testing.assert_allclose([float(row["weight"]) for row in told], wanted["weight"], rtol=1e-6)


@pytest.mark.browser
def test_a_label_is_kept_and_the_order_is_in_the_address(page: Page, running: Server, saved: actlake.Store) -> None:
    opened_page(page, running, "?id=0")
    page.get_by_label("label of factor 1").fill("<b>ends</b>")
    page.get_by_label("label of factor 1").press("Enter")
    expect(page.get_by_text("label saved")).to_be_visible()
    page.get_by_role("button", name="by stability").click()
    page.wait_for_url("**sort=stability**")
    page.reload()
    expect(page.get_by_label("label of factor 1")).to_have_value("<b>ends</b>")
    expect(page.get_by_role("button", name="by stability")).to_have_attribute("aria-pressed", "true")
    stability = [float(text.split()[-1]) for text in page.get_by_text("stability 0").all_text_contents()]
    assert stability == sorted(stability, reverse=True)
    page.go_back()
    expect(page.get_by_role("button", name="by number")).to_have_attribute("aria-pressed", "true")
    assert saved.refresh().labels()["label"].tolist() == ["<b>ends</b>"]


@pytest.mark.browser
def test_a_picture_of_a_factorization_has_its_labels(page: Page, running: Server) -> None:
    opened_page(page, running, "?id=0")
    page.get_by_label("label of factor 2").fill("numbers of a list")
    drawn = ET.fromstring(file_of(page, "save as an SVG picture"))
    assert "numbers of a list" in "".join(drawn.itertext())


@pytest.mark.browser
@pytest.mark.parametrize(
    ("query", "sentence"),
    [("?id=99", "99"), ("?id=x", "whole number"), ("?id=0&factor=9", "0 to 2"), ("?k=0", "from 1 to 64")],
)
def test_a_bad_address_is_one_clear_line(page: Page, running: Server, query: str, sentence: str) -> None:
    opened_page(page, running, query)
    expect(page.get_by_role("alert")).to_contain_text(sentence)


@pytest.mark.browser
def test_what_is_known_of_how_a_factorization_was_made_is_said(
    page: Page, running: Server, saved: actlake.Store
) -> None:
    where = "token != '<b>'"
    options = {"negatives": "split", "where": where, "positions": "prompt", "seed": 7}
    number = saved.save(saved.factors(2, layers=[1], scale_layers=True, reruns=2, **options))
    row = saved.factorizations().iloc[number]
    opened_page(page, running, f"?id={number}")
    facts = dict(zip(*(page.locator(f".facts {name}").all_text_contents() for name in ("dt", "dd")), strict=True))
    assert facts == {
        "method": "NMF",
        "k": "2",
        "of": f"generations 0 to 6, layer 1, 14 prompt tokens where {where}",
        "relative error": f"{row['error']:.4f}",
        "negative values": "split off",
        "scaling": "layers count alike",
        "seed": "7",
        "reruns": "2",
        "iterations": str(row["n_iterations"]),
        "solver": "actlake's HALS (init nndsvda, tol 0.0001, max_iter 500)",
        "made": f"{row['created_at']:%Y-%m-%d %H:%M} UTC",
        "with": ", ".join(f"{library} {version}" for library, version in json.loads(row["versions"]).items()),
    }
    assert "scikit-learn" in facts["with"]
    opened_page(page, running)
    heads, cells = (
        page.locator(f"table.list {name}").all_text_contents() for name in ("th", "tbody tr:first-child td")
    )
    said = dict(zip(heads, cells, strict=True))
    assert said["of"] == f"generations 0 to 6, prompt tokens where {where}"
    assert (said["negative values"], said["scaling"]) == ("split off", "layers count alike")
    expect(page.locator("table.list tbody tr").last).to_contain_text("generations 0 to 6")


def test_what_an_older_format_did_not_keep_is_unknown(tmp_path: Path) -> None:
    location = Location.of(tmp_path)
    stores.a_store(location)
    stores.save_factors(location)
    stores.as_of_format(location, 4)
    known = actlake.open(tmp_path).factorizations()
    facts = facts_of_saved(known.to_dict("records")[0])
    assert facts["reruns"] == facts["solver"] == facts["with"] == "unknown (it was not kept then)"


def test_the_python_to_copy_gives_what_the_page_shows(saved: actlake.Store) -> None:
    address = FactorsAddress(0)
    made: dict[str, object] = {}
    exec(as_python(saved, address), made)
    cards = factorization_payload(saved, address)["factorization"]["cards"]
    tokens = made["tokens"]
    assert isinstance(tokens, dict)
    for card in cards:
        examples = [(one["generation_id"], one["position"]) for one in card["examples"]]
        frame = tokens[card["factor"]]
        assert examples == list(zip(frame["generation_id"], frame["position"], strict=True))
