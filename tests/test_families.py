"""Decoder families as tiny random models: what is captured is what a forward and backward per token gives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import actlake
import numpy as np
import pytest
import torch
from actlake.capture import Model, load_model
from actlake.capture.generate import Sampling, continuations
from actlake.capture.replay import replay
from actlake.capture.steps import steps_agree, write_and_record
from actlake.capture.wanted import Wanted
from actlake.store import RECORDS
from families import DECODERS, Family

pytestmark = pytest.mark.slow

REPLAYED = {
    "bamba": "gives logits of the prompts' last position alone",
    "falcon_h1": "gives logits of the prompts' last position alone",
    "openai-gpt": "has no key-value cache",
}
"""Families that are not recorded as they write, and why."""

PROMPTS = [" 1, 2, 3,", "The countries of the European", "a"]


@pytest.fixture(scope="module", params=DECODERS, ids=str)
def family(
    request: pytest.FixtureRequest, model_saver: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Model, actlake.Store]:
    kind: Family = request.param
    folder = tmp_path_factory.mktemp(kind.config)
    saved = model_saver(folder / "model", kind.config, 4.0, **kind.all_sizes)
    model = load_model(str(saved), ffn=kind.ffn if kind.by_hand else None)
    assert (model.network.config.model_type, model.anatomy.ffn) == (kind.model_type, kind.ffn)
    options = {"max_new_tokens": 4, "precision": "float32", "batch_size": 3, "record": RECORDS}
    actlake.capture(folder / "store", model, PROMPTS, **options)
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
            # these weights amplify rounding: in float64 either is off by up to 3e-5
            assert np.abs(generation.gradients(position) - expected).max() <= 5e-5 * np.abs(expected).max()
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


@torch.no_grad()
def test_hidden_states_are_those_of_transformers_and_the_last_layer_says_what_the_model_says(
    family: tuple[Model, actlake.Store],
) -> None:
    model, store = family
    n_layers = model.anatomy.n_layers
    for index in range(len(PROMPTS)):
        generation = store.generation(index)
        ids = torch.tensor([generation.tokens["token_id"].tolist()])
        output = model.network(ids, output_hidden_states=True)
        expected = torch.stack(output.hidden_states[:n_layers], dim=2)[0].numpy()  # the last comes after the final norm
        difference = np.abs(generation.hidden_states(range(-1, n_layers - 1)) - expected).max()
        assert difference <= 1e-4 * np.abs(expected).max()
        last = generation.layer_predictions().query(f"layer == {n_layers - 1}")
        probabilities = output.logits[0].double().softmax(-1)
        np.testing.assert_allclose(
            np.stack(last["top_probabilities"]), probabilities.topk(10).values, rtol=1e-3, atol=1e-6
        )
        assert last["rank"][:-1].tolist() == generation.tokens["rank"][1:].tolist()


def test_ffns_that_are_modules_are_given_real_positions_alone(family: tuple[Model, actlake.Store]) -> None:
    model, _ = family
    assert model.ffns_pack == any(model.anatomy.ffns)


def test_what_is_recorded_while_text_is_written_is_what_the_replay_records_or_it_is_not_relied_on(
    family: tuple[Model, actlake.Store],
) -> None:
    model, _ = family
    proved = model.network.config.model_type not in REPLAYED
    assert steps_agree(model) == proved
    if not proved:
        return
    prompts = [model.tokenizer(text)["input_ids"] for text in [" 1, 2, 3, 4, 5, 6", *PROMPTS]]
    layers, sampling = range(model.anatomy.n_layers), Sampling(temperature=0.7, seed=3)
    written, stepped = write_and_record(model, prompts, 12, sampling, range(4), Wanted(layers))
    assert written == continuations(model, prompts, 12, sampling, range(4))
    texts = [[*prompt, *completion] for prompt, completion in zip(prompts, written, strict=True)]
    whole = replay(model, texts, [*map(len, prompts)], Wanted(layers))()
    for one, other in zip(stepped(), whole, strict=True):
        pairs = [(one.activations[layer], other.activations[layer]) for layer in layers]
        for a, b in [*pairs, (one.embeddings, other.embeddings), (one.logprob, other.logprob)]:
            assert a.shape == b.shape
            assert np.abs(a - b).max() <= 1e-5 * np.abs(b).max()
        np.testing.assert_allclose(one.entropy, other.entropy, atol=1e-4)
        np.testing.assert_array_equal(one.rank, other.rank)
