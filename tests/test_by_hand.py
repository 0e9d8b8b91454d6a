"""A model small enough to work out on paper.

Llama with one layer, d_model 2, one head, d_ff 3, ReLU. Queries and keys are 0, so attention takes the mean of what it
sees; values and output are the identity. The norms' epsilon is so large that they only scale, and their weight undoes it,
so they are the identity. With embeddings a = (1, 0), b = (0, 1), c = (1, 1):

    h_t  = x_t + mean(x_0 … x_t)
    gate = (h₀ + h₁, h₀ − h₁, h₁),  up = (h₁, h₀, h₀),  activation = relu(gate) · up
    y    = h + (activation₀, activation₁ + activation₂)
    logits of a, b, c, d = (0, y₁, y₀, −y₀)

After "ab": h_1 = (0, 1) + (½, ½) = (½, 1½); gate = (2, −1, 1½), up = (1½, ½, ½); activation = (3, 0, ¾);
y = (3½, 2¼); logits (0, 2¼, 3½, −3½): the model writes c. Its logit is f = h₀ + (h₀ + h₁) h₁, so
∂f/∂h = (1 + h₁, h₀ + 2 h₁) = (2½, 3½). h_1 = ½ x_0 + 1½ x_1 gives ∂f/∂x_0 = (1¼, 1¾), ∂f/∂x_1 = (3¾, 5¼), and
gradient × input has norms 1¼ and 5¼: shares 5/26 and 21/26.

The runner-up is b: y₁ = h₁ + h₁ h₀ here, so ∂y₁/∂h = (h₁, 1 + h₀) = (1½, 1½), and ∂(y₀ − y₁)/∂h = (1, 2).
∂ log-probability of c / ∂h = (1 − P(c) + P(d)) ∂y₀/∂h − P(b) ∂y₁/∂h.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import actlake
import numpy as np
import pytest
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

EPSILON = 1e12


@pytest.fixture(scope="module")
def paper_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("paper")
    _save_paper_model(folder / "model")
    return folder


@pytest.fixture(scope="module")
def paper(paper_folder: Path) -> actlake.Generation:
    return _captured(paper_folder, "store")


def _captured(folder: Path, name: str, **options: Any) -> actlake.Generation:
    actlake.capture(folder / name, str(folder / "model"), ["ab"], max_new_tokens=1, precision="float32", **options)
    return actlake.open(folder / name).generation(0)


def _save_paper_model(folder: Path) -> None:
    config = LlamaConfig(
        vocab_size=4, hidden_size=2, intermediate_size=3, num_hidden_layers=1, num_attention_heads=1,
        hidden_act="relu", rms_norm_eps=EPSILON, tie_word_embeddings=False, max_position_embeddings=16,
        bos_token_id=None, eos_token_id=None, pad_token_id=None,
    )  # fmt: skip
    network = LlamaForCausalLM(config)
    layer = network.model.layers[0]
    weights = {
        network.model.embed_tokens: [[1, 0], [0, 1], [1, 1], [2, 0]],
        layer.self_attn.q_proj: [[0, 0], [0, 0]],
        layer.self_attn.k_proj: [[0, 0], [0, 0]],
        layer.self_attn.v_proj: [[1, 0], [0, 1]],
        layer.self_attn.o_proj: [[1, 0], [0, 1]],
        layer.mlp.gate_proj: [[1, 1], [1, -1], [0, 1]],
        layer.mlp.up_proj: [[0, 1], [1, 0], [1, 0]],
        layer.mlp.down_proj: [[1, 0, 0], [0, 1, 1]],
        network.lm_head: [[0, 0], [0, 1], [1, 0], [-1, 0]],
    }
    identity = EPSILON**0.5
    norms = [layer.input_layernorm, layer.post_attention_layernorm, network.model.norm]
    with torch.no_grad():
        for module, weight in weights.items():
            module.weight.copy_(torch.tensor(weight, dtype=torch.float32))
        for norm in norms:
            norm.weight.fill_(identity)
    network.save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "b": 1, "c": 2, "d": 3}, unk_token="d"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)


def test_the_model_writes_the_token_that_paper_says(paper: actlake.Generation) -> None:
    assert (paper.prompt, paper.completion) == ("ab", "c")


def test_activations_are_those_of_the_paper_at_every_position(paper: actlake.Generation) -> None:
    expected = [[0, 4, 0], [3, 0, 0.75], [50 / 9, 0, 25 / 9]]
    np.testing.assert_allclose(paper.activations([0]), expected, rtol=1e-6)


def test_embeddings_are_those_of_the_paper_for_the_last_token_too(paper: actlake.Generation) -> None:
    np.testing.assert_array_equal(paper.embeddings(), [[1, 0], [0, 1], [1, 1]])


def test_hidden_states_and_predictions_are_those_of_the_paper(paper_folder: Path) -> None:
    generation = _captured(paper_folder, "stream", record=["hidden_states", "layer_predictions"])
    after = [[2, 4], [3.5, 2.25], [5 / 3 + 50 / 9, 5 / 3 + 25 / 9]]
    np.testing.assert_allclose(generation.hidden_states([-1])[:, 0], [[1, 0], [0, 1], [1, 1]], rtol=1e-6)
    np.testing.assert_allclose(generation.hidden_states([0])[:, 0], after, rtol=1e-6)
    predictions = generation.layer_predictions()
    logits = np.array([[0, y1, y0, -y0] for y0, y1 in after])
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert predictions["top_tokens"].map(list).tolist() == [list("bcad"), list("cbad"), list("cbad")]
    np.testing.assert_allclose(np.stack(predictions["top_probabilities"]), -np.sort(-probabilities), rtol=1e-5)
    assert predictions["rank"][:2].tolist() == [1, 1]
    np.testing.assert_allclose(predictions["probability"][:2], [probabilities[0, 1], probabilities[1, 2]], rtol=1e-5)
    assert predictions.iloc[2][["rank", "probability"]].isna().all()


def test_gradients_are_those_of_the_paper(paper: actlake.Generation) -> None:
    np.testing.assert_allclose(paper.gradients(2), [[1.25, 1.75], [3.75, 5.25]], rtol=1e-6)


def test_gradients_of_the_contrast_are_those_of_the_paper(paper_folder: Path) -> None:
    generation = _captured(paper_folder, "contrast", gradient_target="contrast")
    np.testing.assert_allclose(generation.gradients(2), [[0.5, 1], [1.5, 3]], rtol=1e-6)


def test_gradients_of_the_log_probability_are_those_of_the_paper(paper_folder: Path) -> None:
    _, p_b, p_c, p_d = np.exp([0, 2.25, 3.5, -3.5]) / np.exp([0, 2.25, 3.5, -3.5]).sum()
    at_h = (1 - p_c + p_d) * np.array([2.5, 3.5]) - p_b * np.array([1.5, 1.5])
    generation = _captured(paper_folder, "logprob", gradient_target="logprob")
    np.testing.assert_allclose(generation.gradients(2), [at_h / 2, at_h * 3 / 2], rtol=1e-5)


def test_saliency_is_that_of_the_paper(paper: actlake.Generation) -> None:
    np.testing.assert_allclose(paper.saliency().scores, [[1.25, 5.25]], rtol=1e-6)
    np.testing.assert_allclose(paper.saliency(), [[5 / 26, 21 / 26]], rtol=1e-6)


@pytest.mark.parametrize(
    ("method", "scores"),
    [
        ("grad_norm", [np.hypot(1.25, 1.75), np.hypot(3.75, 5.25)]),
        ("grad_dot_input", [1.25, 5.25]),
        ("grad_x_input_l1", [1.25, 5.25]),
    ],
)
def test_the_other_methods_are_those_of_the_paper(paper: actlake.Generation, method: str, scores: list[float]) -> None:
    np.testing.assert_allclose(paper.saliency(method).scores, [scores], rtol=1e-6)


def test_logprob_rank_and_entropy_follow_from_the_logits_of_the_paper(paper: actlake.Generation) -> None:
    logits = np.array([0, 2.25, 3.5, -3.5])
    logprobs = logits - np.log(np.exp(logits).sum())
    last = paper.tokens.iloc[2]
    assert last["logprob"] == pytest.approx(logprobs[2], rel=1e-6)
    assert last["rank"] == 1
    assert last["entropy"] == pytest.approx(-(np.exp(logprobs) * logprobs).sum(), rel=1e-6)
