"""Models that compute all positions of a text otherwise when it is longer than so many tokens (LongRoPE)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import actlake
import numpy as np
import pytest
import torch
from actlake.capture import CaptureOptions, Model, load_model, make_plan, prompts_from
from actlake.capture.procedure import Procedure
from actlake.capture.stretches import last_of_stretches
from actlake.errors import InvalidPrompt, PromptTooLong
from families import SIZES
from transformers import AutoModelForCausalLM, LlamaConfig, ModernBertConfig, ModernBertModel

LAST = 16
LONG = {
    "rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0, 1.0], "long_factor": [3.0, 9.0],
    "original_max_position_embeddings": LAST,
}  # fmt: skip
SPECIAL = ("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id")
WRITTEN = 4
TEXTS = ["e: ", "ABCDEFGH", "ABCDEFGHIJKL", "ABCDEFGHIJKLMNOPQ", "ABCDEFGHIJKLMNOPQRSTUVW"]
"""Of as many tokens as bytes: three that end at 16 tokens or before, and two that begin with more."""


@pytest.fixture(scope="module")
def long_rope(tmp_path_factory: pytest.TempPathFactory, model_saver: Callable[..., Path]) -> Model:
    sizes = {**SIZES, "max_position_embeddings": 64, "original_max_position_embeddings": LAST, "rope_parameters": LONG}
    return load_model(str(model_saver(tmp_path_factory.mktemp("model"), "Phi3Config", 8.0, **sizes)))


def per_token(model: Model, ids: list[int], n_prompt: int) -> list[np.ndarray]:
    """A forward and a backward pass for each written token."""
    gradients = []
    for position in range(n_prompt, len(ids)):
        x = model.network.get_input_embeddings()(torch.tensor([ids[:position]])).requires_grad_()
        logits = model.network(inputs_embeds=x, use_cache=False).logits
        gradients.append(torch.autograd.grad(logits[0, -1, ids[position]], x)[0][0].numpy())
    return gradients


def alone(model: Model, ids: list[int]) -> list[np.ndarray]:
    """The FFNNs' activations of a text that is read by itself."""
    given: list[np.ndarray] = []
    layers = model.network.model.layers
    handles = [
        layer.mlp.down_proj.register_forward_pre_hook(lambda module, args: given.append(args[0][0].numpy()))
        for layer in layers
    ]
    with torch.no_grad():
        model.network(torch.tensor([ids]), use_cache=False)
    for handle in handles:
        handle.remove()
    return given


@pytest.mark.parametrize("gradients", ["vectors", "off"], ids=["replayed", "recorded as it is written"])
@pytest.mark.parametrize("batch_size", [5, "auto"])
def test_a_text_beside_a_long_one_is_recorded_as_it_is_alone(
    long_rope: Model, tmp_path: Path, gradients: str, batch_size: Any
) -> None:
    how = {"max_new_tokens": WRITTEN, "precision": "float32", "gradients": gradients, "batch_size": batch_size}
    actlake.capture(tmp_path / "s", long_rope, TEXTS, **how)
    store = actlake.open(tmp_path / "s")
    for index, text in enumerate(TEXTS):
        generation = store.generation(index)
        ids = generation.tokens["token_id"].tolist()
        for layer, expected in enumerate(alone(long_rope, ids)):
            np.testing.assert_allclose(
                generation.activations([layer]), expected, atol=1e-4 * np.abs(expected).max(), err_msg=text
            )
        n_prompt = generation.n_prompt_tokens
        if gradients == "vectors":
            for position, expected in enumerate(per_token(long_rope, ids, n_prompt), n_prompt):
                found = generation.gradients(position)
                np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max(), err_msg=text)


def test_texts_of_two_stretches_share_no_batch(long_rope: Model) -> None:
    assert long_rope.last_of_stretches == (LAST,)
    options = CaptureOptions(max_new_tokens=WRITTEN)
    units = make_plan(long_rope, prompts_from(TEXTS), options).units(options, Procedure())
    assert [[len(work.token_ids) for work in unit] for unit in units] == [[3, 8, 12], [17, 23]]


@pytest.mark.parametrize(
    ("prompt", "room", "said"),
    [
        ("ABCDEFGHIJKLM", WRITTEN, "has 13 tokens and up to 4 would be written"),
        ({"prompt": "ABCDEFGHIJKL", "completion": "ABCDE"}, 9, "has 12 tokens and up to 5 would be written"),
    ],
)
def test_a_text_that_would_grow_from_one_stretch_into_the_next_is_refused(
    long_rope: Model, tmp_path: Path, prompt: Any, room: int, said: str
) -> None:
    with pytest.raises(InvalidPrompt, match=rf"{said}; .* more than 16 .*LongRoPE.*let a text end at 16 tokens"):
        actlake.capture(tmp_path / "s", long_rope, [prompt], max_new_tokens=room)
    assert not (tmp_path / "s").exists()
    actlake.capture(tmp_path / "s", long_rope, [{"text": "ABCDEFGHIJKLMNOPQ"}], max_new_tokens=4)


def test_stretches_are_found_by_the_type_of_layer_too() -> None:
    config = ModernBertConfig(**SIZES, vocab_size=50, **dict.fromkeys(SPECIAL, 0))
    config.rope_parameters["full_attention"] = LONG
    assert last_of_stretches(ModernBertModel(config)) == (LAST,)


def test_scaling_by_length_has_no_text_to_scale_because_the_context_ends_before(
    tmp_path: Path, model_saver: Callable[..., Path]
) -> None:
    rope = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}
    sizes = {**SIZES, "max_position_embeddings": LAST, "rope_parameters": rope}
    model = load_model(str(model_saver(tmp_path / "model", "LlamaConfig", 8.0, **sizes)))
    assert (model.last_of_stretches, model.context) == ((), LAST)
    with pytest.raises(PromptTooLong):
        actlake.capture(tmp_path / "s", model, TEXTS, max_new_tokens=WRITTEN)


def test_most_models_have_one_stretch() -> None:
    network = AutoModelForCausalLM.from_config(LlamaConfig(**SIZES, vocab_size=50))
    assert last_of_stretches(network) == ()
