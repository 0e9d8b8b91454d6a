"""What a model would say after each layer, asked later: what its capture would have recorded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import actlake
import numpy as np
import pandas as pd
import pytest
import torch
from actlake.capture import Model
from actlake.errors import InvalidOption, NotRecorded, UnknownLayer
from actlake.queries.asking import check_lens

PROMPTS = ["The keys to the", " 1, 2, 3,"]


@pytest.fixture(scope="module", params=["normed", "raw"])
def lens(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def store(any_model: Model, lens: str, tmp_path_factory: pytest.TempPathFactory) -> actlake.Store:
    path = tmp_path_factory.mktemp("store") / "s"
    record = ("hidden_states", "layer_predictions")
    options = {"max_new_tokens": 5, "record": record, "precision": "float32", "lens": lens}
    actlake.capture(path, any_model, PROMPTS, **options)
    return actlake.open(path)


def test_predictions_asked_later_are_those_that_the_capture_recorded(
    store: actlake.Store, any_model: Model, lens: str
) -> None:
    for number in range(len(PROMPTS)):
        generation = store.generation(number)
        recorded, later = generation.layer_predictions(), generation.layer_predictions(any_model, lens=lens)
        assert list(later.columns) == list(recorded.columns)
        for column in ("position", "layer", "rank"):
            pd.testing.assert_series_equal(later[column], recorded[column], check_dtype=False)
        np.testing.assert_allclose(later["probability"], recorded["probability"], rtol=1e-4, atol=1e-7)
        for column in ("top_token_ids", "top_tokens"):
            assert [list(row) for row in later[column]] == [list(row) for row in recorded[column]]
        tops = (np.stack(frame["top_probabilities"]) for frame in (later, recorded))
        np.testing.assert_allclose(*tops, rtol=1e-4, atol=1e-7)


def test_a_watched_token_has_the_rank_of_the_generated_one(store: actlake.Store, any_model: Model, lens: str) -> None:
    generation = store.generation(0)
    tokens, recorded = generation.tokens, generation.layer_predictions()
    for position in (2, generation.n_prompt_tokens - 1):
        following = int(tokens["token_id"][position + 1])
        found = generation.watched(any_model, [following, 7], position, lens=lens)
        assert found["layer"].tolist() == [0, 0, 1, 1, 2, 2]
        assert found["token_id"].tolist() == [following, 7] * 3
        row = recorded[recorded["position"] == position]
        of_following = found[found["token_id"] == following]
        assert of_following["rank"].tolist() == row["rank"].tolist()
        np.testing.assert_allclose(of_following["probability"], row["probability"], rtol=1e-4, atol=1e-7)


def test_after_the_last_layer_it_is_the_model_itself(store: actlake.Store, any_model: Model, lens: str) -> None:
    generation = store.generation(1)
    position = generation.n_prompt_tokens - 1
    ids = torch.tensor([generation.tokens["token_id"].tolist()])
    probabilities = any_model.network(input_ids=ids).logits[0, position].softmax(-1)
    found = generation.watched(any_model, list(range(20)), layers=[2], lens=lens)
    np.testing.assert_allclose(found["probability"], probabilities[:20].numpy(), rtol=1e-4)
    ranks = (probabilities[None] > probabilities[:20, None]).sum(-1) + 1
    assert found["rank"].tolist() == ranks.tolist()


def test_tokens_are_watched_by_their_texts(toy_model: Model, opened: actlake.Store, tmp_path: Path) -> None:
    actlake.capture(tmp_path / "s", toy_model, ["The keys to the"], max_new_tokens=3, record=("hidden_states",))
    generation = actlake.open(tmp_path / "s").generation(0)
    found = generation.watched(toy_model, ["k", "<"])
    assert found["token"].tolist() == ["k", "<"] * 3
    assert set(found["position"]) == {generation.n_prompt_tokens - 1}
    for ask, said in (
        (lambda: generation.watched(toy_model, ["cabinet"]), "it is 'c'"),
        (lambda: generation.watched(toy_model, [320]), "choose from 0 to"),
        (lambda: generation.watched(toy_model, []), "at least one"),
        (lambda: generation.watched(toy_model, ["k"], 99), "choose from 0-"),
        (lambda: check_lens("odd"), "choose one of normed, raw"),
    ):
        with pytest.raises(InvalidOption, match=said):
            ask()
    with pytest.raises(UnknownLayer):
        generation.watched(toy_model, ["k"], layers=[9])
    with pytest.raises(NotRecorded, match="hidden_states"):
        opened.generation(0).layer_predictions(toy_model)


def test_only_the_model_that_was_captured_answers(
    toy_model: Model, tmp_path: Path, model_saver: Callable[..., Path]
) -> None:
    actlake.capture(tmp_path / "s", toy_model, ["The keys"], max_new_tokens=2, record=("hidden_states",))
    sizes = {"num_hidden_layers": 3, "hidden_size": 16, "intermediate_size": 40, "num_attention_heads": 4}
    folder = model_saver(tmp_path / "m", "LlamaConfig", 2.0, **sizes, num_key_value_heads=2, max_position_embeddings=64)
    other = actlake.capture.load_model(str(folder))
    with pytest.raises(InvalidOption, match="has other weights"):
        actlake.open(tmp_path / "s").generation(0).layer_predictions(other)


def test_positions_that_were_not_recorded_are_not_asked_about(toy_model: Model, tmp_path: Path) -> None:
    options = {"max_new_tokens": 4, "record": ("hidden_states", "layer_predictions"), "every": 3, "layers": (0, 2)}
    actlake.capture(tmp_path / "s", toy_model, ["The keys to"], precision="float32", **options)
    generation = actlake.open(tmp_path / "s").generation(0)
    recorded, later = generation.layer_predictions(), generation.layer_predictions(toy_model)
    assert later[["position", "layer"]].to_numpy().tolist() == recorded[["position", "layer"]].to_numpy().tolist()
    np.testing.assert_array_equal(later["rank"], recorded["rank"])


def test_a_question_costs_one_pass_of_the_head_for_each_layer(
    store: actlake.Store, any_model: Model, lens: str
) -> None:
    generation, passes = store.generation(0), []
    generation.watched(any_model, [7], 2, lens=lens)  # proves once that the head can be asked
    handle = any_model.network.register_forward_hook(lambda *_: passes.append(1))
    try:
        generation.watched(any_model, [7], 2, lens=lens)
    finally:
        handle.remove()
    assert len(passes) == 3
