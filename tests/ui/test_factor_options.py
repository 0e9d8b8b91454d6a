"""The options of a generation's factors: what a method refuses is taken back, and what was worked out is said."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from urllib.parse import parse_qs, urlparse

import actlake
import pytest
from actlake.errors import InvalidOption
from actlake.queries import FACTOR_METHODS, NEGATIVES, FactorOptions
from actlake.ui import Server, serve
from actlake.ui.factor_words import accepted
from playwright.sync_api import Page, expect

RERUNS = "reruns, for stability"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, write_store: Callable[..., actlake.Store]) -> Iterator[Server]:
    written = ([f" w{i}" for i in range(14)], 6)
    with serve(write_store(tmp_path_factory.mktemp("options"), written), port=0, block=False) as running:
        yield running


def opened(page: Page, server: Server, query: str) -> None:
    page.goto(f"{server.url}generation?id=0&view=factors{query}")
    expect(page.locator("#early")).to_have_count(0)
    expect(page.locator(".spark").first).to_be_visible()


def expect_address(page: Page, **said: str) -> None:
    wanted = {"id": ["0"], "view": ["factors"]} | {name: [value] for name, value in said.items()}
    page.wait_for_url(lambda url: parse_qs(urlparse(url).query) == wanted)


def facts(page: Page) -> dict[str, str]:
    """What is said of the factors that are drawn."""
    last = page.locator("dl.facts").last
    return dict(zip(*(last.locator(name).all_text_contents() for name in ("dt", "dd")), strict=True))


@pytest.mark.browser
def test_reruns_can_be_asked_for_and_given_up(page: Page, server: Server) -> None:
    opened(page, server, "&k=3")
    expect(page.locator(".spark-stability")).to_have_count(0)
    reruns = page.get_by_label(RERUNS)
    for number, n_shown in (("2", 3), ("0", 0)):
        reruns.fill(number)
        reruns.press("Enter")
        expect(page.locator(".spark-stability")).to_have_count(n_shown)
        expect_address(page, k="3", **({"reruns": number} if n_shown else {}))


@pytest.mark.browser
def test_another_method_takes_back_what_it_refuses(page: Page, server: Server) -> None:
    opened(page, server, "&k=3&reruns=2&negatives=split&seed=4")
    page.get_by_label("method").select_option("PCA")
    expect_address(page, k="3", factor_method="pca", seed="4")
    expect(page.get_by_label(RERUNS)).to_have_value("0")
    expect(page.get_by_label("negative values")).to_have_value("automatic")
    expect(page.locator("dl.facts").last).to_contain_text("PCA")
    page.get_by_label("negative values").select_option("kept")
    expect_address(page, k="3", factor_method="pca", negatives="keep", seed="4")
    page.get_by_label("method").select_option("NMF")
    expect_address(page, k="3", seed="4")
    expect(page.locator("dl.facts").last).to_contain_text("NMF")
    expect(page.get_by_role("alert")).to_have_count(0)
    page.go_back()
    expect_address(page, k="3", factor_method="pca", negatives="keep", seed="4")
    expect(page.get_by_label("method")).to_have_value("PCA")


@pytest.mark.browser
def test_it_is_said_how_what_is_drawn_was_worked_out(page: Page, server: Server) -> None:
    opened(page, server, "&k=2&layers=1&scale=1&positions=generated")
    shown = facts(page)
    assert shown.pop("iterations").isdecimal()
    assert shown == {
        "method": "NMF",
        "of": "layer 1, 8 generated tokens",
        "negative values": "split off (chosen automatically)",
        "scaling": "layers count alike",
    }
    for negatives in ("split off", "clipped to 0"):
        page.get_by_label("negative values").select_option(negatives)
        expect(page.locator("dl.facts").last.locator("dd").nth(2)).to_have_text(negatives)
    layers = page.get_by_label("layers, of")
    layers.fill("9")
    layers.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("no layer 9")
    expect(page.get_by_text("layers count alike", exact=True).locator("visible=true")).to_have_count(1)  # the box


@pytest.mark.parametrize("method", FACTOR_METHODS)
@pytest.mark.parametrize("negatives", NEGATIVES)
@pytest.mark.parametrize("reruns", [0, 3])
def test_options_are_kept_where_the_method_takes_them(method: str, negatives: str, reruns: int) -> None:
    options = accepted(method, negatives, reruns)  # type: ignore[arg-type]
    FactorOptions(1, method, **options)  # type: ignore[arg-type]
    try:
        FactorOptions(1, method, negatives, reruns=reruns)  # type: ignore[arg-type]
    except InvalidOption:
        assert options != {"negatives": negatives, "reruns": reruns}
    else:
        assert options == {"negatives": negatives, "reruns": reruns}
