"""The FFNNs' output projections named by hand: read instead of searched for, proved all the same, part of the run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import actlake
import pytest
import torch
import transformers
from actlake.capture import Model, load_model
from actlake.capture.anatomy import find_anatomy
from actlake.capture.proof import check_anatomy
from actlake.cli import cli
from actlake.errors import InvalidOption, ModelRefused
from click.testing import CliRunner
from families import SIZES
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig

DOWN = "model.layers.{i}.mlp.down_proj"


def llama(**changes: Any) -> nn.Module:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(LlamaConfig(**{**SIZES, "vocab_size": 97, **changes})).eval()


class _Adapter(nn.Module):
    """A second, smaller FFNN behind the first."""

    def __init__(self, mlp: nn.Module) -> None:
        super().__init__()
        self.mlp, self.down, self.up = mlp, nn.Linear(16, 4), nn.Linear(4, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.mlp(x)
        return y + self.up(torch.relu(self.down(y)))


def with_adapters() -> nn.Module:
    model = llama()
    for layer in model.model.layers:
        layer.mlp = _Adapter(layer.mlp)
    return model


def test_named_by_hand_and_found_are_the_same() -> None:
    model = llama(num_hidden_layers=12)
    by_hand = find_anatomy(model, "llama", ffn=DOWN)
    check_anatomy(model, by_hand, "llama")
    assert by_hand == find_anatomy(model, "llama")
    assert by_hand.ffn_outputs == tuple(DOWN.replace("{i}", str(layer)) for layer in range(12))


def test_where_two_look_like_it_the_refusal_says_how_to_choose_and_the_choice_is_taken() -> None:
    torch.manual_seed(0)
    sizes = {**SIZES, "num_key_value_heads": 2, "head_dim": 4, "hidden_size_per_layer_input": 8, "vocab_size": 97}
    model = AutoModelForCausalLM.from_config(transformers.Gemma4TextConfig(**sizes)).eval()
    with pytest.raises(ModelRefused) as refused:
        find_anatomy(model, "gemma4")
    assert f"say which: --ffn '{DOWN}' or --ffn 'model.layers.{{i}}.per_layer_projection'" in str(refused.value)
    anatomy = find_anatomy(model, "gemma4", ffn=DOWN)
    check_anatomy(model, anatomy, "gemma4")
    assert (anatomy.ffn_outputs[1], anatomy.d_ff) == ("model.layers.1.mlp.down_proj", 40)


def test_a_module_that_gives_more_than_its_projection_is_refused_by_hand_too() -> None:
    model = with_adapters()
    with pytest.raises(ModelRefused, match=r"layers\.0\.mlp does not give what model\.layers\.0\.mlp\.mlp\.down_proj"):
        check_anatomy(model, find_anatomy(model, "adapted", ffn="model.layers.{i}.mlp.mlp.down_proj"), "adapted")


@pytest.mark.parametrize(
    ("projection", "reason"),
    [
        ("self_attn.o_proj", "takes from other positions, as attention's output projection does"),
        (
            "self_attn.q_proj",
            r"does not look like the output of an FFNN; found was 'model\.layers\.\{i\}\.mlp\.down_proj'",
        ),
        ("mlp.up_proj", "does not look like the output of an FFNN"),
        ("mlp.act_fn", "the module named by hand is not a linear map"),
        ("post_attention_layernorm", "the module named by hand is not a linear map"),
    ],
)
def test_a_wrong_module_is_refused(projection: str, reason: str) -> None:
    with pytest.raises(ModelRefused, match=reason):
        find_anatomy(llama(intermediate_size=16), "llama", ffn=f"model.layers.{{i}}.{projection}")


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        (
            "model.layers.3.mlp.down_proj",
            r"write \{i\} where the layer's number stands, as in model\.layers\.\{i\}\.mlp",
        ),
        ("down_proj", r"write \{i\}"),
        ("", r"write \{i\}"),
        (
            "transformer.h.{i}.mlp.c_proj",
            r"the model has no such module; its linear maps are model\.layers\.\{i\}\.self",
        ),
        ("model.layers.{i}{i}.mlp.down_proj", "the model has no such module"),
    ],
)
def test_a_pattern_that_names_nothing_is_one_clear_error(pattern: str, message: str) -> None:
    with pytest.raises(InvalidOption, match=message):
        find_anatomy(llama(), "llama", ffn=pattern)


def test_a_pattern_that_names_only_some_layers_is_refused() -> None:
    model = llama(num_hidden_layers=4)
    model.model.layers[2].mlp = _Adapter(model.model.layers[2].mlp)
    with pytest.raises(InvalidOption, match=r"layers 2 of model\.layers have no such module"):
        find_anatomy(model, "llama", ffn=DOWN)


def test_modules_that_do_not_run_are_refused() -> None:
    model = llama()
    model.decoys = llama().model.layers
    with pytest.raises(ModelRefused, match=r"decoys\.0\.mlp\.down_proj did not run"):
        find_anatomy(model, "decoys", ffn="decoys.{i}.mlp.down_proj")


def test_it_is_an_option_of_capture_and_part_of_what_the_run_says(
    toy_folder: Path, toy_model: Model, tmp_path: Path
) -> None:
    first = actlake.capture(tmp_path / "s", str(toy_folder), ["a"], max_new_tokens=2, ffn=DOWN)
    again = actlake.capture(tmp_path / "s", toy_model, ["a"], max_new_tokens=2)
    assert (first.n_captured, again.n_captured) == (1, 0), "the same modules were read, so it is the same run"
    (run,) = actlake.open(tmp_path / "s").runs()["generation_config"]
    assert json.loads(run)["ffn"] == DOWN


def test_a_model_in_hand_was_loaded_with_its_own(toy_model: Model, tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match=r"the model was loaded with model\.layers\.\{i\}\.mlp\.down_proj"):
        actlake.capture(tmp_path / "s", toy_model, ["a"], ffn="model.layers.{i}.mlp.up_proj")


def test_on_the_command_line_a_wrong_one_is_wrong_usage(toy_folder: Path, tmp_path: Path) -> None:
    arguments = ["capture", str(tmp_path / "s"), "--model", str(toy_folder), "--prompt", "a", "--ffn"]
    assert CliRunner().invoke(cli, [*arguments, "x"]).exit_code == 2
    said = CliRunner().invoke(cli, [*arguments, "h.{i}.c_proj"])
    assert (said.exit_code, "the model has no such module" in said.stderr) == (2, True)
    assert CliRunner().invoke(cli, [*arguments, DOWN]).exit_code == 0


def test_blocks_that_are_in_no_module_list_can_be_named(model_saver: Callable[..., Path], tmp_path: Path) -> None:
    model = load_model(str(model_saver(tmp_path / "m", "LlamaConfig", **SIZES))).network
    model.model.layers = nn.Sequential(*model.model.layers)
    with pytest.raises(ModelRefused, match="name the FFNNs' output projections by hand, as --ffn 'model"):
        find_anatomy(model, "sequential")
    anatomy = find_anatomy(model, "sequential", ffn=DOWN)
    check_anatomy(model, anatomy, "sequential")
    assert anatomy.blocks == ("model.layers.0", "model.layers.1")
