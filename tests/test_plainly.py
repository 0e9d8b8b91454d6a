"""What a caller switched on in torch around actlake changes nothing that is recorded or answered."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import actlake
import numpy as np
import pandas as pd
import pytest
import torch
from actlake.capture import Model, load_model

ALL = ("embeddings", "gradients", "activations", "hidden_states", "layer_predictions")
TABLES = ("tokens", "embeddings", "gradients", "activation_vectors", "hidden_states", "layer_predictions")
PROMPTS = [" 1, 2, 3,", "One, two,"]
HOW = {"max_new_tokens": 4, "precision": "float32"}

Mode = Callable[[], AbstractContextManager[object]]


@pytest.fixture(
    params=[lambda: torch.autocast("cpu", dtype=torch.bfloat16), torch.inference_mode, torch.no_grad],
    ids=["autocast", "inference mode", "no grad"],
)
def mode(request: pytest.FixtureRequest) -> Mode:
    return request.param


def contents(store: Path) -> list[list[tuple[object, ...]]]:
    opened = actlake.open(store)
    return [opened.sql(f"from {table} order by all").fetchall() for table in TABLES]


def test_a_capture_within_it_records_the_same(toy_folder: Path, toy_model: Model, tmp_path: Path, mode: Mode) -> None:
    actlake.capture(tmp_path / "outside", toy_model, PROMPTS, record=ALL, **HOW)
    with mode():
        actlake.capture(tmp_path / "within", toy_model, PROMPTS, record=ALL, **HOW)
        loaded = load_model(str(toy_folder))
        assert loaded.hash == toy_model.hash
    actlake.capture(tmp_path / "loaded within", loaded, PROMPTS, record=ALL, **HOW)
    assert contents(tmp_path / "within") == contents(tmp_path / "outside")
    assert contents(tmp_path / "loaded within") == contents(tmp_path / "outside")


def test_text_that_is_recorded_as_it_is_written_is_the_same(toy_model: Model, tmp_path: Path, mode: Mode) -> None:
    actlake.capture(tmp_path / "outside", toy_model, PROMPTS, gradients="off", **HOW)
    with mode():
        actlake.capture(tmp_path / "within", toy_model, PROMPTS, gradients="off", **HOW)
    one, other = (contents(tmp_path / name)[:4] for name in ("within", "outside"))
    assert one == other


def test_a_model_that_is_asked_within_it_answers_the_same(toy_model: Model, tmp_path: Path, mode: Mode) -> None:
    actlake.capture(tmp_path / "s", toy_model, PROMPTS, record=ALL, **HOW)
    generation = actlake.open(tmp_path / "s").generation(0)

    def answers() -> tuple[np.ndarray | None, pd.DataFrame, pd.DataFrame]:
        integrated = generation.integrated_gradients(toy_model, n_steps=3, target="contrast")
        return integrated.scores, generation.layer_predictions(toy_model), generation.watched(toy_model, [5, 6])

    outside = answers()
    with mode():
        within = answers()
    np.testing.assert_array_equal(within[0], outside[0])
    pd.testing.assert_frame_equal(within[1], outside[1])
    pd.testing.assert_frame_equal(within[2], outside[2])


def test_what_was_on_is_on_again_afterwards(toy_model: Model) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.inference_mode():
        with toy_model.plainly():
            assert not torch.is_autocast_enabled("cpu")
            assert not torch.is_inference_mode_enabled()
        assert torch.is_autocast_enabled("cpu")
        assert torch.is_inference_mode_enabled()
