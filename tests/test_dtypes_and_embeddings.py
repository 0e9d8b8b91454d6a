"""Whatever a model computes in, by whichever attention, and however it makes its embeddings: what is recorded is the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import actlake
import numpy as np
import pytest
import torch
from actlake.capture import Model, load_model
from actlake.capture.models import DType
from actlake.store import Location, verify
from families import SIZES, T5_SIZES, WIDE_HEADS

PROMPT = "One, two, three, four"


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_a_model_in_any_type_is_proved_and_recorded_as_it_computes(
    any_folder: Path, tmp_path: Path, dtype: DType
) -> None:
    model = load_model(str(any_folder), dtype=dtype)
    assert model.dtype == dtype
    actlake.capture(tmp_path / "s", model, [PROMPT, "a"], max_new_tokens=3, precision="float32", batch_size=1)
    assert verify(Location.of(tmp_path / "s"), deep=True).ok
    generation = actlake.open(tmp_path / "s").generation(0)
    given: list[np.ndarray] = []
    handle = model.network.get_submodule(model.anatomy.ffn_outputs[1]).register_forward_pre_hook(
        lambda module, args: given.append(args[0].detach().float().numpy())
    )
    ids = torch.tensor([generation.tokens["token_id"].tolist()])
    model.network(ids)
    handle.remove()
    recorded = generation.activations([1])
    np.testing.assert_array_equal(recorded, torch.from_numpy(recorded).to(getattr(torch, dtype)).float().numpy())
    np.testing.assert_allclose(recorded, given[0].reshape(recorded.shape), rtol=0, atol=1e-6 * np.abs(recorded).max())


def test_a_model_in_bfloat16_keeps_its_bits_in_a_run_of_bfloat16(any_folder: Path, tmp_path: Path) -> None:
    model = load_model(str(any_folder), dtype="bfloat16")
    for precision in ("bfloat16", "float32"):
        actlake.capture(tmp_path / precision, model, [PROMPT], max_new_tokens=3, precision=precision)
    rounded, exact = (actlake.open(tmp_path / name).generation(0) for name in ("bfloat16", "float32"))
    np.testing.assert_array_equal(rounded.activations(), exact.activations())
    np.testing.assert_array_equal(rounded.embeddings(), exact.embeddings())
    of_float32 = torch.from_numpy(exact.gradients()).bfloat16().float().numpy()  # gradients are computed in float32
    np.testing.assert_array_equal(rounded.gradients(), of_float32)


@pytest.mark.parametrize("config", ["LlamaConfig", "GPT2Config", "BertConfig"])
def test_attention_by_eager_and_by_sdpa_gives_the_same(
    config: str, model_saver: Callable[..., Path], tmp_path: Path
) -> None:
    kind = "AutoModelForMaskedLM" if config == "BertConfig" else "AutoModelForCausalLM"
    model = load_model(str(model_saver(tmp_path / "model", config, 4.0, kind=kind, **SIZES)))
    given = {}
    for way in ("eager", "sdpa"):
        model.network.set_attn_implementation(way)
        assert model.network.config._attn_implementation == way
        prompts = [f"{PROMPT} <mask>", "a <mask>"]
        actlake.capture(tmp_path / way, model, prompts, max_new_tokens=3, precision="float32", batch_size=2)
        given[way] = actlake.open(tmp_path / way).generation(1)
    eager, sdpa = given["eager"], given["sdpa"]
    assert eager.tokens["token_id"].tolist() == sdpa.tokens["token_id"].tolist()
    np.testing.assert_allclose(eager.activations(), sdpa.activations(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(eager.gradients(), sdpa.gradients(), rtol=1e-3, atol=1e-4)


EMBEDDINGS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "plain": ("LlamaConfig", "AutoModelForCausalLM", {"tie_word_embeddings": False}),
    "tied": ("LlamaConfig", "AutoModelForCausalLM", {"tie_word_embeddings": True}),
    "scaled after the module": ("GemmaConfig", "AutoModelForCausalLM", WIDE_HEADS),
    "scaled inside the module": ("Gemma3TextConfig", "AutoModelForCausalLM", {**WIDE_HEADS, "sliding_window": 8}),
    "multiplied by a setting": ("GraniteConfig", "AutoModelForCausalLM", {"embedding_multiplier": 3.0}),
    "positions are added": ("GPT2Config", "AutoModelForCausalLM", {}),
    "projected": ("OPTConfig", "AutoModelForCausalLM", {"ffn_dim": 40, "word_embed_proj_dim": 8}),
    "token types are added": ("BertConfig", "AutoModelForMaskedLM", {}),
    "token types are added, projected": ("ElectraConfig", "AutoModelForMaskedLM", {"embedding_size": 8}),
}


@pytest.mark.parametrize("how", EMBEDDINGS)
def test_the_embedding_that_is_recorded_is_the_one_that_the_gradient_is_of(
    how: str, model_saver: Callable[..., Path], tmp_path: Path
) -> None:
    """Against the gradient of the embedding's weights: of a token that is read once, gradient times input is the same for
    its row as for its embedding, whatever the module scales."""
    config, kind, sizes = EMBEDDINGS[how]
    model = load_model(str(model_saver(tmp_path / "model", config, 4.0, kind=kind, **{**SIZES, **sizes})))
    prompt = f"{PROMPT} <mask>" if "Masked" in kind else PROMPT
    actlake.capture(tmp_path / "s", model, [prompt], max_new_tokens=1, precision="float32")
    generation = actlake.open(tmp_path / "s").generation(0)
    token_ids = generation.tokens["token_id"].tolist()
    if model.anatomy.is_causal:
        output, read = len(token_ids) - 1, token_ids[:-1]
        predicted, target = output - 1, token_ids[-1]
    else:
        output = predicted = token_ids.index(model.mask_id)
        read = token_ids
    table, unembedding = (
        model.network.get_submodule(name) for name in (model.anatomy.embedding, model.anatomy.unembedding)
    )
    unembedding.weight = torch.nn.Parameter(unembedding.weight.detach().clone(), requires_grad=False)  # untied
    weight = table.weight.requires_grad_()
    logits = model.network(torch.tensor([read])).logits[0, predicted]
    logits[target if model.anatomy.is_causal else int(logits.argmax())].backward()
    expected = (weight.grad * weight).detach().numpy()
    product = generation.gradients(output) * generation.embeddings()[: len(read)]
    once = [position for position, token_id in enumerate(read) if read.count(token_id) == 1]
    assert len(once) > 3
    for position in once:
        np.testing.assert_allclose(
            product[position], expected[read[position]], rtol=1e-4, atol=1e-4 * np.abs(expected).max()
        )


def test_the_embedding_of_an_encoder_decoder_is_its_shared_one(
    model_saver: Callable[..., Path], tmp_path: Path
) -> None:
    sizes = {**T5_SIZES, "decoder_start_token_id": 0}
    model = load_model(str(model_saver(tmp_path / "m", "T5Config", kind="AutoModelForSeq2SeqLM", **sizes)))
    actlake.capture(tmp_path / "s", model, ["a b"], record=["embeddings"], precision="float32")
    generation = actlake.open(tmp_path / "s").generation(0)
    rows = model.network.get_input_embeddings().weight[generation.tokens["token_id"].tolist()]
    np.testing.assert_array_equal(generation.embeddings(), rows.detach().numpy())


def test_padding_is_never_recorded(any_model: Model, tmp_path: Path) -> None:
    """Even if what fills a batch is a token of the text."""
    filled = replace(any_model, end_ids=tuple(any_model.tokenizer("a")["input_ids"]))
    actlake.capture(tmp_path / "s", filled, ["a", f"{PROMPT}{PROMPT}"], max_new_tokens=2, batch_size=2)
    store = actlake.open(tmp_path / "s")
    n = store.generations()["n_tokens"].tolist()
    counts = "select count(*) from {} where generation_id = 0"
    assert n[0] < n[1]
    for table, expected in (("tokens", n[0]), ("embeddings", n[0]), ("activation_vectors", 3 * n[0])):
        assert store.sql(counts.format(table)).fetchall() == [(expected,)]
