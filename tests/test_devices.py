"""Where models compute, and how values come to the host."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import actlake
import numpy as np
import pytest
import torch
from actlake.capture import Model, load_model
from actlake.capture.devices import BALANCED, HostCopies, name_of_devices
from actlake.capture.replay import EMBEDDINGS, replay
from actlake.capture.wanted import Wanted
from actlake.errors import InvalidOption
from torch import nn

PROMPTS = ["1, 2, 3,", "One, two"]


@pytest.fixture
def copies(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, str]]:
    """Of each HostCopies as it happens: `begun` or `waited for`, its number, and in which thread."""
    seen: list[tuple[str, int, str]] = []
    numbers: dict[int, int] = {}

    def noted(what: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def noting(self: HostCopies[int], *args: Any) -> Any:
            number = numbers.setdefault(id(self), len(numbers))
            seen.append((what, number, threading.current_thread().name.partition("_")[0]))
            kept.append(self)  # so that no other has its id
            return method(self, *args)

        return noting

    kept: list[object] = []
    monkeypatch.setattr(HostCopies, "__init__", noted("begun", HostCopies.__init__))
    monkeypatch.setattr(HostCopies, "arrays", noted("waited for", HostCopies.arrays))
    return seen


def test_a_model_that_is_spread_over_all_devices_gives_what_it_gives_on_one(toy_folder: Path, tmp_path: Path) -> None:
    stores = {}
    for device in ("cpu", BALANCED):
        record = ("embeddings", "gradients", "activations", "hidden_states", "layer_predictions")
        run = actlake.capture(
            tmp_path / device, str(toy_folder), PROMPTS, device=device, dtype="float32", record=record
        )
        assert run.n_captured == 2
        stores[device] = actlake.open(tmp_path / device)
    for table in ("tokens", "embeddings", "gradients", "activation_vectors", "hidden_states"):
        one, other = (store.sql(f"from {table} order by all").fetchall() for store in stores.values())
        assert one == other
    where = torch.device("cuda" if torch.cuda.is_available() else "cpu").type
    assert stores[BALANCED].run(0).config["device"].startswith((where, BALANCED))


def test_parameters_on_several_devices_are_named_balanced() -> None:
    on_two = nn.ModuleList([nn.Linear(1, 1), nn.Linear(1, 1, device="meta")])
    assert name_of_devices(on_two) == BALANCED
    assert name_of_devices(on_two[0]) == "cpu"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_copies_on_the_host_are_the_values_as_float32(dtype: torch.dtype) -> None:
    tensors = {layer: torch.randn(3, 5).to(dtype) for layer in range(4)}
    arrays = HostCopies(tensors).arrays()
    for layer, tensor in tensors.items():
        assert arrays[layer].dtype == np.float32
        assert np.array_equal(arrays[layer], tensor.float().numpy())


def test_a_device_that_is_not_there_is_named_beside_what_there_may_be(toy_folder: Path) -> None:
    with pytest.raises(InvalidOption, match=r"nowhere.*balanced"):
        load_model(str(toy_folder), device="nowhere")


@pytest.mark.parametrize("gradients", ["off", "vectors"], ids=["as it is written", "replayed"])
def test_what_a_batch_recorded_is_waited_for_by_the_thread_that_writes_it(
    toy_model: Model, tmp_path: Path, copies: list[tuple[str, int, str]], gradients: str
) -> None:
    assert toy_model.steps_agree
    copies.clear()
    actlake.capture(tmp_path / "s", toy_model, PROMPTS * 3, max_new_tokens=3, gradients=gradients, batch_size=2)
    begun = {number for what, number, thread in copies if (what, thread) == ("begun", "MainThread")}
    waited_for = {number for what, number, thread in copies if (what, thread) == ("waited for", "actlake-write")}
    assert len(waited_for) >= 6
    assert waited_for <= begun
    if gradients == "off":
        assert waited_for == begun


def test_gradients_leave_while_those_after_them_are_computed(
    toy_model: Model, copies: list[tuple[str, int, str]]
) -> None:
    text = list(range(20, 40))
    wanted = {tokens: Wanted(target="logit", gradient_tokens=tokens) for tokens in (20, 2000)}
    (few,) = replay(toy_model, [text], [5], wanted[20])()
    order = [(what, number) for what, number, _ in copies]
    of_gradients = range(
        2, len(order) // 2 - 1
    )  # after those of activations and hidden states, before those of predictions
    assert len(of_gradients) > 3
    for number in of_gradients[:-1]:
        assert order.index(("begun", number + 1)) < order.index(("waited for", number))
    (many,) = replay(toy_model, [text], [5], wanted[2000])()
    for one, other in zip(few.gradients, many.gradients, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5 * np.abs(other).max())


def test_a_batch_that_is_lost_on_its_way_to_the_host_is_done_again_in_halves(
    toy_model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert toy_model.steps_agree
    arrays = HostCopies.arrays

    def no_room(self: HostCopies[int]) -> Any:
        found = arrays(self)
        of_batch = found.get(EMBEDDINGS, np.empty(0))
        if len(of_batch) > 1 and threading.current_thread().name.startswith("actlake-write"):
            raise MemoryError
        return found

    monkeypatch.setattr(HostCopies, "arrays", no_room)
    how = {"max_new_tokens": 3, "gradients": "off", "precision": "float32"}
    run = actlake.capture(tmp_path / "s", toy_model, PROMPTS * 2, batch_size=4, **how)
    assert (run.n_captured, run.skipped, run.is_complete) == (4, (), True)
    monkeypatch.undo()
    actlake.capture(tmp_path / "whole", toy_model, PROMPTS * 2, batch_size=4, **how)
    for index in range(4):
        one, other = (actlake.open(tmp_path / name).generation(index) for name in ("s", "whole"))
        np.testing.assert_allclose(one.activations(), other.activations(), atol=1e-4)
