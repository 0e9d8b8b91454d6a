"""Decoder families as tiny random models: what is captured is what a forward and backward per token gives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import actlake
import numpy as np
import pytest
import torch
from actlake.capture import Model, load_model

pytestmark = pytest.mark.slow

SIZES = {"num_hidden_layers": 2, "hidden_size": 16, "intermediate_size": 40, "num_attention_heads": 4}
GROUPED = {"num_key_value_heads": 2}
WIDE_HEADS = {**GROUPED, "head_dim": 4}
OLD_NAMES = {"n_layer": 2, "n_embd": 16, "n_head": 4}
FAMILIES: dict[str, dict[str, Any]] = {
    "ArceeConfig": GROUPED,
    "BertConfig": {"is_decoder": True},
    "BioGptConfig": {},
    "BitNetConfig": GROUPED,  # a norm between the activation and the output projection
    "BloomConfig": {"n_head": 4},  # the residual is added inside the FFNN
    "CTRLConfig": {**OLD_NAMES, "dff": 40},
    "CodeGenConfig": {**OLD_NAMES, "rotary_dim": 4},
    "Cohere2Config": WIDE_HEADS,
    "CohereConfig": GROUPED,  # scaled logits
    "Ernie4_5Config": GROUPED,
    "FalconConfig": {},  # adds in place
    "GPT2Config": {},
    "GPTBigCodeConfig": OLD_NAMES,
    "GPTJConfig": {**OLD_NAMES, "rotary_dim": 4},  # attention and FFNN in parallel
    "GPTNeoConfig": {"num_layers": 2, "attention_types": [[["global", "local"], 1]], "num_heads": 4, "window_size": 8},
    "GPTNeoXConfig": {},
    "Gemma2Config": {**WIDE_HEADS, "sliding_window": 8},  # soft-capped logits
    "Gemma3TextConfig": {**WIDE_HEADS, "sliding_window": 8},  # scales the embedding
    "GemmaConfig": WIDE_HEADS,
    "Glm4Config": WIDE_HEADS,
    "GraniteConfig": {**GROUPED, "logits_scaling": 3.0},
    "HeliumConfig": WIDE_HEADS,
    "Lfm2Config": GROUPED,  # convolutions in place of some attention
    "LlamaConfig": GROUPED,
    "MistralConfig": {**GROUPED, "sliding_window": 8},
    "MptConfig": {"n_layers": 2, "d_model": 16, "n_heads": 4},
    "NemotronConfig": GROUPED,
    "OPTConfig": {"ffn_dim": 40, "word_embed_proj_dim": 8},  # projects the embedding
    "Olmo2Config": {},
    "OlmoConfig": {},
    "OpenAIGPTConfig": OLD_NAMES,  # blocks give lists
    "PersimmonConfig": {},
    "Phi3Config": {},  # gate and up in one projection
    "PhiConfig": {},
    "Qwen2Config": GROUPED,
    "Qwen3Config": WIDE_HEADS,
    "SmolLM3Config": GROUPED,
    "StableLmConfig": GROUPED,
    "Starcoder2Config": GROUPED,
    "XGLMConfig": {"d_model": 16, "ffn_dim": 40, "num_layers": 2, "attention_heads": 4},
}
PROMPTS = [" 1, 2, 3,", "The countries of the European", "a"]


@pytest.fixture(scope="module", params=FAMILIES)
def family(
    request: pytest.FixtureRequest, model_saver: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Model, actlake.Store]:
    folder = tmp_path_factory.mktemp(request.param)
    sizes = {**SIZES, **FAMILIES[request.param]}
    model = load_model(str(model_saver(folder / "model", request.param, 4.0, **sizes)))
    actlake.capture(folder / "store", model, PROMPTS, max_new_tokens=4, precision="float32", batch_size=3)
    return model, actlake.open(folder / "store")


def test_gradients_and_logprobs_are_those_of_a_forward_and_backward_per_token(
    family: tuple[Model, actlake.Store],
) -> None:
    model, store = family
    embedding_module = model.network.get_submodule(model.anatomy.embedding)
    leaves: list[torch.Tensor] = []

    def leaf(module: object, args: object, output: torch.Tensor) -> torch.Tensor:
        leaves.append(output.detach().requires_grad_())
        return leaves[-1].clone()

    for index in range(len(PROMPTS)):
        generation = store.generation(index)
        ids = torch.tensor([generation.tokens["token_id"].tolist()])
        for position in range(generation.n_prompt_tokens, generation.n_tokens):
            handle = embedding_module.register_forward_hook(leaf)
            logits = model.network(ids[:, :position]).logits[0, -1]
            handle.remove()
            logits[ids[0, position]].backward()
            expected = leaves[-1].grad[0].numpy()
            assert np.abs(generation.gradients(position) - expected).max() <= 1e-5 * np.abs(expected).max()
            logprob = logits.detach().log_softmax(-1)[ids[0, position]].item()
            assert generation.tokens["logprob"][position] == pytest.approx(logprob, abs=1e-5)
            np.testing.assert_allclose(generation.embeddings()[:position], leaves[-1].detach()[0], rtol=1e-5, atol=1e-6)


def test_activations_times_the_output_weight_are_what_the_projection_gives_for_one_text_alone(
    family: tuple[Model, actlake.Store],
) -> None:
    model, store = family
    generation = store.generation(1)
    ids = torch.tensor([generation.tokens["token_id"].tolist()])
    for layer, name in enumerate(model.anatomy.ffn_outputs):
        projection, given = model.network.get_submodule(name), []
        handle = projection.register_forward_hook(
            lambda module, args, output, given=given: given.append(output.clone())
        )
        with torch.no_grad():
            model.network(ids)
        handle.remove()
        weight = projection.weight.T if isinstance(projection, torch.nn.Linear) else projection.weight
        product = torch.from_numpy(generation.activations([layer])) @ weight
        expected = given[0].reshape(len(product), -1)
        if getattr(projection, "bias", None) is not None:
            product = product + projection.bias
        assert (product - expected).abs().max() <= 1e-4 * expected.abs().max()
