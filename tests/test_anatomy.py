"""Parts of a model are found by structure; what cannot be proved is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from actlake.capture import Model, load_model
from actlake.capture.anatomy import Anatomy, check_anatomy, find_anatomy
from actlake.errors import ModelNotFound, ModelRefused
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


def test_the_parts_of_each_shape_are_found(any_model: Model) -> None:
    a = any_model.anatomy
    assert (a.embedding, a.ffn_outputs[2], a.final_norm) == FOUND[any_model.network.config.model_type]
    assert (a.n_layers, a.d_model, a.unembedding.split("_")[-1]) == (3, 16, a.unembedding.split("_")[-1])
    assert a.d_ff == {"gpt2": 64, "gpt_neox": 64, "llama": 40, "opt": 48}[any_model.network.config.model_type]


def test_more_than_ten_layers_stay_in_order_though_names_sort_otherwise() -> None:
    anatomy = find_anatomy(network("LlamaConfig", num_hidden_layers=12), "deep")
    assert anatomy.blocks == tuple(f"model.layers.{layer}" for layer in range(12))


def test_an_ffnn_as_wide_as_the_model_is_not_taken_for_attention() -> None:
    anatomy = find_anatomy(network("LlamaConfig", intermediate_size=16), "square")
    assert anatomy.ffn_outputs[0] == "model.layers.0.mlp.down_proj"


@pytest.mark.parametrize(
    ("config", "changes"),
    [("MixtralConfig", {"num_local_experts": 4, "num_key_value_heads": 2}), ("MambaConfig", {})],
)
def test_a_model_without_a_dense_ffnn_is_refused_with_what_was_found(config: str, changes: dict[str, Any]) -> None:
    with pytest.raises(ModelRefused, match=r"no projection is the output of a dense FFNN \(its linear maps: "):
        find_anatomy(network(config, **changes), config)


def test_a_dense_ffnn_that_is_one_of_several_experts_is_refused() -> None:
    model = network("Llama4TextConfig", num_key_value_heads=2, head_dim=4, num_local_experts=4)
    with pytest.raises(ModelRefused, match=r"in layer 0, .*feed_forward does not give what .*shared_expert.* gives"):
        check_anatomy(model, find_anatomy(model, "shared"), "shared")


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


def test_a_second_load_has_the_same_hashes_and_another_weight_another(toy_folder: Path, toy_model: Model) -> None:
    again = load_model(str(toy_folder))
    assert (again.hash, again.tokenizer_hash) == (toy_model.hash, toy_model.tokenizer_hash)
    with torch.no_grad():
        next(again.network.parameters())[0, 0] += 1
    changed = Model(again.name, again.network, again.tokenizer, again.anatomy, again.end_ids)
    assert changed.hash != toy_model.hash
