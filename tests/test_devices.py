from pathlib import Path

import actlake
import numpy as np
import pytest
import torch
from actlake.capture import load_model
from actlake.capture.devices import BALANCED, HostCopies, name_of_devices
from actlake.errors import InvalidOption
from torch import nn

PROMPTS = ["1, 2, 3,", "One, two"]


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
