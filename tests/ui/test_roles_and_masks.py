"""What a chat and a masked language model's text look like on the strip: roles where they begin, and what fills a mask."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import actlake
import pytest
from actlake.ui import Server, serve
from families import SIZES
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.browser

CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1, 2,"}]
MASKED = "One, <mask>, three, <mask> four."


@pytest.fixture(scope="module")
def store(
    tmp_path_factory: pytest.TempPathFactory, toy_model: actlake.capture.Model, model_saver: Callable[..., Path]
) -> actlake.Store:
    folder = tmp_path_factory.mktemp("kinds")
    bert = model_saver(
        folder / "bert", "BertConfig", 4.0, kind="AutoModelForMaskedLM", max_position_embeddings=32, **SIZES
    )
    actlake.capture(folder / "store", toy_model, [{"messages": CHAT}], max_new_tokens=3, precision="float32")
    actlake.capture(folder / "store", actlake.capture.load_model(str(bert)), [MASKED], precision="float32")
    return actlake.open(folder / "store")


@pytest.fixture(scope="module")
def server(store: actlake.Store) -> Iterator[Server]:
    with serve(store, port=0, block=False) as running:
        yield running


@pytest.mark.parametrize("view", ["saliency", "factors&k=2"])
def test_a_role_is_said_where_it_begins_and_in_the_tooltip(
    page: Page, server: Server, store: actlake.Store, view: str
) -> None:
    page.goto(f"{server.url}generation?id=0&view={view}")
    expect(page.locator(".token").first).to_be_visible()
    expect(page.locator("#early")).to_have_count(0)
    assert page.locator(".role").all_text_contents() == ["system", "user", "assistant"]
    roles = store.generation(0).tokens["role"].tolist()
    for role in ("system", "user", "assistant"):
        begins = page.locator(".role", has_text=role).evaluate("label => label.nextElementSibling.dataset.position")
        assert int(begins) == roles.index(role)
        page.locator(f'.token[data-position="{begins}"]').hover()
        expect(page.get_by_role("tooltip")).to_contain_text(f"role{role}")
    mark = next(position for position, role in enumerate(roles) if not isinstance(role, str))
    page.locator(f'.token[data-position="{mark}"]').hover()
    expect(page.get_by_role("tooltip")).to_contain_text(f"position{mark}")
    expect(page.get_by_role("tooltip")).not_to_contain_text("role")


def test_a_mask_is_explained_by_the_tokens_on_both_of_its_sides(
    page: Page, server: Server, store: actlake.Store
) -> None:
    generation = store.generation(1)
    shares, masks = generation.saliency(), list(generation.output_positions)
    page.goto(f"{server.url}generation?id=1&detail=1")
    expect(page.locator(".token").first).to_be_visible()
    expect(page.locator("#early")).to_have_count(0)
    assert len(masks) == 2
    for row, mask in enumerate(masks):
        page.locator(f'.token[data-position="{mask}"]').hover()
        expect(page.locator(".token.output")).to_have_attribute("data-position", str(mask))
        told = page.locator(".note").all_text_contents()
        assert told == [f"{100 * share:.1f}%" for share in shares[row]]
        assert shares[row, :mask].max() > 0
        assert shares[row, mask + 1 :].max() > 0
    expect(page.locator(".readout")).to_contain_text("Strongest inputs to")
    expect(page.locator(".legend")).to_contain_text("masked")
    assert page.locator(".token.masked").count() == 2
