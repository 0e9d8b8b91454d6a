"""Asking the model from the corpus page: a prompt becomes a generation of the store, one after another."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import actlake
import pandas as pd
import pytest
from actlake.errors import Cancelled, InvalidOption, ModelNotFound
from actlake.ui import serve
from actlake.ui.ask import MOST_CHARACTERS, Asker, asker_of
from actlake.ui.corpus import offered
from playwright.sync_api import Page, expect


@pytest.fixture
def asked_store(tmp_path: Path, toy_model: actlake.capture.Model) -> actlake.Store:
    actlake.capture(tmp_path / "store", toy_model, ["One, two,"], max_new_tokens=2, precision="float32")
    return actlake.open(tmp_path / "store")


@pytest.fixture
def asker(asked_store: actlake.Store, toy_folder: Path) -> Iterator[Asker]:
    asker = Asker(asked_store, str(toy_folder))
    yield asker
    asker.close()


def test_a_prompt_becomes_a_generation_and_the_same_prompt_is_the_same(
    asker: Asker, asked_store: actlake.Store
) -> None:
    first = asker.ask("1, 2, 3,", 4, 0.0)
    again = asker.ask("1, 2, 3,", 4, 0.0)
    generation = asked_store.generation if first.result.result(120) is None else asked_store.refresh().generation(1)
    assert (generation.prompt, generation.n_tokens - generation.n_prompt_tokens) == ("1, 2, 3,", 4)
    assert generation.metadata == {"asked": "in the app"}
    assert again.result.result(120) == first.result.result() == 1
    assert first.n_passes >= 4


@pytest.mark.parametrize(
    ("prompt", "tokens", "temperature", "sentence"),
    [
        (" \n", 4, 0, "write something"),
        ("x" * (MOST_CHARACTERS + 1), 4, 0, "more than"),
        ("a", 0, 0, "from 1 to"),
        ("a", 4, -1, "from 0 to 5"),
    ],
)
def test_a_prompt_that_cannot_be_asked_is_one_clear_error(
    asker: Asker, prompt: str, tokens: int, temperature: float, sentence: str
) -> None:
    with pytest.raises(InvalidOption, match=sentence):
        asker.ask(prompt, tokens, temperature)


def test_a_prompt_that_the_model_cannot_take_says_why_and_the_next_is_answered(asker: Asker) -> None:
    too_long = asker.ask("word " * 500, 4, 0.0)
    good = asker.ask("fine", 2, 0.0)
    assert good.result.result(120) > 0
    assert "64" in too_long.error()


def test_a_cancelled_prompt_leaves_no_generation(asker: Asker, asked_store: actlake.Store) -> None:
    asked = asker.ask("never", 40, 0.0)
    asked.cancel()
    with pytest.raises(Cancelled):
        asked.result.result(120)
    running = asker.ask("cut short", 40, 0.0)
    while running.n_passes < 20 and not running.result.done():  # past the passes that prove what is recorded
        pass
    running.cancel()
    with pytest.raises(Cancelled):
        running.result.result(120)
    assert asked_store.refresh().find_generations().n == 1
    assert len(asked_store.runs()) == 2  # the run was registered
    assert [run for run, _ in offered(asked_store)["runs"]] == [0]


def test_every_view_of_an_answer_has_something_to_show_and_neurons_count_it(
    asker: Asker, asked_store: actlake.Store
) -> None:
    number = asker.ask("One,\n two,", 3, 0.0).result.result(120)
    generation = asked_store.refresh().generation(number)
    assert generation.recorded >= {"activations", "gradients", "hidden_states", "layer_predictions"}
    n = sum((~asked_store.generation(each).tokens["is_special"]).sum() for each in (0, number))
    assert asked_store.neuron(1, 3).stats["n"] == n
    assert offered(asked_store)["runs"][1] == (1, "run 1: asked: One, two,")


def test_pages_that_use_the_model_at_once_see_what_each_would_alone(
    asker: Asker, tmp_path: Path, toy_model: actlake.capture.Model
) -> None:
    actlake.capture(tmp_path / "hidden", toy_model, [" 1, 2,"], max_new_tokens=3, record=["hidden_states"])
    generation = actlake.open(tmp_path / "hidden").generation(0)
    alone = generation.watched(toy_model, ["1", "2"], 1)
    writing = asker.ask("beside them", 20, 0.0)
    found = [asker.submit(lambda model: generation.watched(model, ["1", "2"], 1)) for _ in range(6)]
    for one in found:
        pd.testing.assert_frame_equal(one.result(120), alone)
    assert writing.result.result(120) > 0


def test_a_model_that_is_not_there_is_said_to_who_asks(asked_store: actlake.Store, tmp_path: Path) -> None:
    asker = Asker(asked_store, str(tmp_path / "no-model"))
    asked = asker.ask("hello", 2, 0.0)
    with pytest.raises(ModelNotFound):
        asked.result.result(120)
    assert "no-model" in asked.error()
    asker.close()
    assert asker_of(asked_store) is None


def test_a_store_of_the_past_cannot_be_asked_into(asked_store: actlake.Store) -> None:
    with pytest.raises(InvalidOption, match="could not be seen"):
        serve(actlake.open(asked_store.uri, at=1), port=0, block=False, model="any")


@pytest.mark.browser
def test_a_person_asks_and_sees_the_answer(page: Page, asked_store: actlake.Store, toy_folder: Path) -> None:
    prompt = "<img src=x onerror='window.hacked = 1'>"
    with serve(asked_store, port=0, block=False, model=str(toy_folder)) as running:
        page.goto(running.url)
        page.get_by_text("Ask /").click()
        page.get_by_role("button", name="Capture").click()
        expect(page.get_by_text("write something to continue")).to_be_visible()
        page.get_by_label("tokens").fill("3")
        page.get_by_label("prompt", exact=True).fill(prompt)
        page.keyboard.press("Control+Enter")
        expect(page.get_by_role("heading", name="Generation 1")).to_be_visible(timeout=60_000)
        expect(page.locator(".token").first).to_be_visible()
        assert page.evaluate("window.hacked") is None
        assert asked_store.refresh().generation(1).prompt == prompt
