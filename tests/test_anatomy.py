"""Parts of a model are found by structure; what cannot be proved is refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import actlake
import numpy as np
import pytest
import torch
import transformers
from actlake.capture import Model, load_model
from actlake.capture.anatomy import Anatomy, find_anatomy
from actlake.capture.proof import check_anatomy
from actlake.errors import ModelNotFound, ModelRefused
from families import REFUSED, SIZES
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

SMALL = {
    "num_hidden_layers": 2, "hidden_size": 16, "intermediate_size": 40, "num_attention_heads": 4, "vocab_size": 97,
    "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0,
}  # fmt: skip
FOUND = {
    "gpt2": ("transformer.wte", "transformer.h.2.mlp.c_proj", "transformer.ln_f"),
    "gpt_neox": ("gpt_neox.embed_in", "gpt_neox.layers.2.mlp.dense_4h_to_h", "gpt_neox.final_layer_norm"),
    "llama": ("model.embed_tokens", "model.layers.2.mlp.down_proj", "model.norm"),
    "opt": ("model.decoder.embed_tokens", "model.decoder.layers.2.fc2", "model.decoder.final_layer_norm"),
}


def network(config: str, **changes: Any) -> nn.Module:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(getattr(transformers, config)(**{**SMALL, **changes})).eval()


def any_network(config: str, **changes: Any) -> Any:
    """As `network`; of an encoder–decoder, the encoder."""
    made = getattr(transformers, config)(**{**SMALL, **changes})
    if not made.is_encoder_decoder:
        return network(config, **changes)
    torch.manual_seed(0)
    return transformers.AutoModel.from_config(made).get_encoder().eval()


def ffn_inputs(model: Any, projection: nn.Module, generation: actlake.Generation) -> list[np.ndarray]:
    """What a module is given in each of its runs over one generation, alone."""
    given: list[np.ndarray] = []
    handle = projection.register_forward_pre_hook(lambda module, args: given.append(args[0][0].detach().numpy()))
    model(torch.tensor([generation.tokens["token_id"].tolist()]))
    handle.remove()
    return given


def test_the_parts_of_each_shape_are_found(any_model: Model) -> None:
    a = any_model.anatomy
    assert (a.embedding, a.ffn_outputs[2], a.final_norm) == FOUND[any_model.network.config.model_type]
    assert (a.n_layers, a.d_model, a.unembedding.split("_")[-1]) == (3, 16, a.unembedding.split("_")[-1])
    assert a.d_ff == {"gpt2": 64, "gpt_neox": 64, "llama": 40, "opt": 48}[any_model.network.config.model_type]


def test_more_than_ten_layers_stay_in_order_though_names_sort_otherwise() -> None:
    anatomy = find_anatomy(network("LlamaConfig", num_hidden_layers=12), "deep")
    assert anatomy.blocks == tuple(f"model.layers.{layer}" for layer in range(12))


def test_of_more_than_ten_layers_each_is_recorded_under_its_number(
    tmp_path: Path, model_saver: Callable[..., Path]
) -> None:
    saved = model_saver(tmp_path / "model", "LlamaConfig", 2.0, **{**SIZES, "num_hidden_layers": 12})
    model = load_model(str(saved))
    actlake.capture(tmp_path / "s", model, ["a, b"], max_new_tokens=2, precision="float32", layers=[11, 2, 10])
    generation = actlake.open(tmp_path / "s").generation(0)
    assert generation.layers == (2, 10, 11)
    for layer in generation.layers:
        (expected,) = ffn_inputs(model.network, model.network.model.layers[layer].mlp.down_proj, generation)
        np.testing.assert_allclose(generation.activations([layer]), expected, rtol=1e-4, atol=1e-5)


def test_an_ffnn_as_wide_as_the_model_is_not_taken_for_attention() -> None:
    anatomy = find_anatomy(network("LlamaConfig", intermediate_size=16), "square")
    assert anatomy.ffn_outputs[0] == "model.layers.0.mlp.down_proj"


def test_layers_that_share_an_ffnn_are_each_read(tmp_path: Path, model_saver: Callable[..., Path]) -> None:
    model = load_model(str(model_saver(tmp_path / "model", "LlamaConfig", **SIZES)))
    layers = model.network.model.layers
    layers[1].mlp = layers[0].mlp
    anatomy = find_anatomy(model.network, "shared")
    check_anatomy(model.network, anatomy, "shared")
    assert anatomy.ffn_outputs == ("model.layers.0.mlp.down_proj",) * 2
    actlake.capture(tmp_path / "s", replace(model, anatomy=anatomy), ["a, b"], max_new_tokens=3, precision="float32")
    generation = actlake.open(tmp_path / "s").generation(0)
    for layer, expected in enumerate(ffn_inputs(model.network, layers[0].mlp.down_proj, generation)):
        np.testing.assert_allclose(generation.activations([layer]), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("config", "changes", "projection"),
    [
        ("GPTNeoXConfig", {"intermediate_size": 16}, "gpt_neox.layers.1.mlp.dense_4h_to_h"),
        ("CohereConfig", {"intermediate_size": 16, "num_key_value_heads": 2}, "model.layers.1.mlp.down_proj"),
        ("Olmo2Config", {"intermediate_size": 16}, "model.layers.1.mlp.down_proj"),
        ("Gemma2Config", {"intermediate_size": 16, "head_dim": 4}, "model.layers.1.mlp.down_proj"),
        ("BloomConfig", {"n_head": 4}, "transformer.h.1.mlp.dense_4h_to_h"),
    ],
    ids=["parallel", "parallel, one norm", "norms after", "norms before and after", "residual inside"],
)
def test_whatever_stands_around_the_ffnn_it_is_told_from_attention(
    config: str, changes: dict[str, Any], projection: str
) -> None:
    model = network(config, **changes)
    anatomy = find_anatomy(model, config)
    check_anatomy(model, anatomy, config)
    assert anatomy.ffn_outputs[1] == projection


def test_blocks_that_do_not_run_are_not_taken_for_those_that_do() -> None:
    model = network("LlamaConfig")
    model.decoys = network("LlamaConfig", num_hidden_layers=5).model.layers
    assert find_anatomy(model, "decoys").blocks == ("model.layers.0", "model.layers.1")


class _Reversed(nn.ModuleList):
    """Layers that run from the last to the first."""

    def __getitem__(self, index: Any) -> Any:
        return list(self)[::-1] if isinstance(index, slice) else super().__getitem__(index)


def test_blocks_that_run_in_another_order_than_they_stand_in_are_refused() -> None:
    model = network("LlamaConfig", num_hidden_layers=12)
    model.model.layers = _Reversed(model.model.layers)
    with pytest.raises(ModelRefused, match="no list of modules that all run and in order"):
        find_anatomy(model, "reversed")


def test_a_block_that_does_not_run_at_all_is_refused() -> None:
    model = network("LlamaConfig", num_hidden_layers=3)
    model.config.num_hidden_layers = 2
    with pytest.raises(ModelRefused, match="its blocks were not found"):
        find_anatomy(model, "skipping")


def test_a_projection_that_runs_twice_in_a_layer_is_refused() -> None:
    model = transformers.BertLMHeadModel(transformers.BertConfig(**SMALL, is_decoder=True)).eval()
    anatomy = find_anatomy(model, "bert")
    for layer in model.bert.encoder.layer:
        layer.chunk_size_feed_forward = 3
    with pytest.raises(ModelRefused, match=r"layer\.0\.output\.dense ran 2 times in one forward pass, not 1"):
        check_anatomy(model, anatomy, "bert")


@pytest.mark.parametrize(
    ("config", "changes"),
    [
        ("XLMRobertaConfig", {"is_decoder": True}),  # positions are counted from the padding
        ("RecurrentGemmaConfig", {"num_key_value_heads": 2, "lru_width": 16, "num_hidden_layers": 3}),  # recurrent
    ],
)
def test_a_model_that_padding_at_the_left_changes_is_refused(config: str, changes: dict[str, Any]) -> None:
    model = network(config, **changes)
    with pytest.raises(ModelRefused, match="padding at the left changes the activations of layer 0"):
        check_anatomy(model, find_anatomy(model, config), config)


def test_a_model_without_an_ffnn_is_refused_with_what_was_found() -> None:
    with pytest.raises(ModelRefused, match=r"no projection is the output of a dense FFNN \(its linear maps: mixer\.in"):
        find_anatomy(network("MambaConfig"), "mamba")


@pytest.mark.parametrize("config", REFUSED)
def test_a_mixture_of_experts_is_refused_with_the_reason(config: str) -> None:
    model = any_network(config, **REFUSED[config])
    with pytest.raises(
        ModelRefused, match=r"it is a mixture of experts \(\S*\.experts holds 4\), which is not supported: a t"
    ):
        find_anatomy(model, config, is_causal=not model.config.is_encoder_decoder)


@pytest.mark.parametrize(
    ("config", "ffn"),
    [
        ("GraniteMoeSharedConfig", "model.layers.{i}.shared_mlp.output_linear"),
        ("Gemma4TextConfig", "model.layers.{i}.mlp.down_proj"),
    ],
)
def test_a_dense_ffnn_beside_experts_is_refused_named_by_hand_too(config: str, ffn: str) -> None:
    with pytest.raises(ModelRefused, match="it is a mixture of experts"):
        find_anatomy(network(config, **REFUSED[config]), config, ffn=ffn)


def test_attention_whose_weights_are_stacked_by_head_is_not_taken_for_experts() -> None:
    model = network("XLNetConfig", d_model=16, n_layer=2, n_head=4, d_inner=40)
    assert not any("experts" in name for name, _ in model.named_modules())
    with pytest.raises(ModelRefused) as raised:
        check_anatomy(model, find_anatomy(model, "xlnet"), "xlnet")
    assert "mixture of experts" not in str(raised.value)


class _Doubled(nn.Linear):
    """A projection that does not give its input times its weight."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * 2


def test_a_projection_that_lies_is_refused() -> None:
    model = network("LlamaConfig")
    mlp = model.model.layers[1].mlp
    lying = _Doubled(40, 16, bias=False)
    lying.load_state_dict(mlp.down_proj.state_dict())
    mlp.down_proj = lying
    with pytest.raises(
        ModelRefused, match=r"in layer 1, model\.layers\.1\.mlp\.down_proj does not give its input times"
    ):
        check_anatomy(model, find_anatomy(model, "lying"), "lying")


def test_an_ffnn_that_changes_what_its_projection_gives_is_refused() -> None:
    model = network("LlamaConfig")
    model.model.layers[0].mlp.register_forward_hook(lambda module, args, output: output * 1.5)
    with pytest.raises(ModelRefused, match="in layer 0"):
        check_anatomy(model, find_anatomy(model, "scaled"), "scaled")


def test_a_model_that_padding_changes_is_refused() -> None:
    class Leaky(LlamaForCausalLM):
        def forward(self, input_ids: torch.Tensor, **kwargs: Any) -> Any:
            embeds = self.model.embed_tokens(input_ids)
            return super().forward(inputs_embeds=embeds + embeds.mean(1, keepdim=True), **kwargs)

    torch.manual_seed(0)
    model = Leaky(LlamaConfig(**SMALL)).eval()
    with pytest.raises(ModelRefused, match="padding changes the activations of layer 0"):
        check_anatomy(model, find_anatomy(model, "leaky"), "leaky")


def test_a_model_that_sees_later_tokens_is_refused() -> None:
    torch.manual_seed(0)
    model = transformers.BertLMHeadModel(transformers.BertConfig(**SMALL)).eval()
    with pytest.raises(ModelRefused, match="later tokens change the activations of layer 0: the model is not causal"):
        check_anatomy(model, find_anatomy(model, "bert"), "bert")


def test_a_wrong_anatomy_is_refused() -> None:
    model = network("LlamaConfig", intermediate_size=16)
    right = find_anatomy(model, "x")
    wrong = tuple(name.replace("down_proj", "up_proj") for name in right.ffn_outputs)
    with pytest.raises(ModelRefused, match=r"does not give what model\.layers\.0\.mlp\.up_proj gives"):
        check_anatomy(model, Anatomy(**{**vars(right), "ffn_outputs": wrong}), "x")


@pytest.mark.parametrize("name", ["nobody/no-such-model", "no-such-model", "not an id", "./none", "/none", "none.gguf"])
def test_an_unknown_model_is_one_line_that_says_what_to_do(name: str) -> None:
    with pytest.raises(ModelNotFound) as raised:
        load_model(name)
    assert "folder or file" in str(raised.value) or "no such file" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_folder_without_a_model_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"no config\.json"):
        load_model(str(tmp_path))


def test_pickled_weights_are_refused(toy_folder: Path, tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((toy_folder / name).read_bytes())
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelNotFound, match="reads no pickled ones"):
        load_model(str(tmp_path))


def test_a_checkpoint_that_lacks_a_weight_is_refused(toy_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(toy_folder, tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        ModelRefused, match=r"lacks 1 of its weights, .* random: model\.layers\.1\.mlp\.up_proj\.weight"
    ):
        load_model(str(folder))


def test_a_second_load_has_the_same_hashes_and_another_weight_another(toy_folder: Path, toy_model: Model) -> None:
    again = load_model(str(toy_folder))
    assert (again.hash, again.tokenizer_hash) == (toy_model.hash, toy_model.tokenizer_hash)
    with torch.no_grad():
        next(again.network.parameters())[0, 0] += 1
    changed = Model(again.name, again.network, again.tokenizer, again.anatomy, again.end_ids)
    assert changed.hash != toy_model.hash
