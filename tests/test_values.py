"""What a capture stores against independent computation, on one model of each shape of FFNN.

The oracle runs one text at a time, without padding, hooks on the FFNN's output projection, or batched gradients.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import actlake
import numpy as np
import pytest
import torch
from actlake.capture import Model, load_model
from actlake.errors import InvalidOption
from actlake.queries.saliency import check_method
from sklearn.decomposition import NMF

CLOSE = {"rtol": 1e-5, "atol": 1e-6}


@pytest.fixture(scope="session")
def any_store(any_model: Model, toy_prompts: list[Any], tmp_path_factory: pytest.TempPathFactory) -> actlake.Store:
    path = tmp_path_factory.mktemp("stores") / "any"
    actlake.capture(path, any_model, toy_prompts, max_new_tokens=7, precision="float32", batch_size=3)
    return actlake.open(path)


@pytest.fixture(scope="session")
def both_kinds(toy_model: Model, toy_prompts: list[Any], tmp_path_factory: pytest.TempPathFactory) -> actlake.Store:
    """A run that kept vectors of gradients, and the same that kept scores."""
    path = tmp_path_factory.mktemp("stores") / "kinds"
    for gradients in ("vectors", "scores"):
        options = {"precision": "float32", "batch_size": 3, "gradients": gradients}
        actlake.capture(path, toy_model, toy_prompts, max_new_tokens=6, **options)
    return actlake.open(path)


@pytest.fixture(params=range(5))
def generation(any_store: actlake.Store, request: pytest.FixtureRequest) -> actlake.Generation:
    return any_store.generation(request.param)


def ids_of(generation: actlake.Generation) -> torch.Tensor:
    return torch.tensor([generation.tokens["token_id"].tolist()])


def test_embeddings_are_the_models_input_embeddings(any_model: Model, generation: actlake.Generation) -> None:
    expected = any_model.network.get_input_embeddings()(ids_of(generation))[0]
    np.testing.assert_allclose(generation.embeddings(), expected.numpy(), **CLOSE)


def test_the_first_hidden_state_of_a_llama_is_the_recorded_embedding(toy_model: Model, opened: actlake.Store) -> None:
    generation = opened.generation(1)
    with torch.no_grad():
        hidden = toy_model.network(ids_of(generation), output_hidden_states=True).hidden_states
    np.testing.assert_allclose(generation.embeddings(), hidden[0][0].numpy(), **CLOSE)


def test_what_a_block_adds_after_attention_is_the_recorded_activation_times_the_output_weight(
    toy_model: Model, opened: actlake.Store
) -> None:
    generation, attended = opened.generation(1), []
    layers = toy_model.network.model.layers
    handles = [
        layer.post_attention_layernorm.register_forward_pre_hook(lambda _, a: attended.append(a[0])) for layer in layers
    ]
    with torch.no_grad():
        hidden = toy_model.network.model(ids_of(generation), output_hidden_states=True).hidden_states
    for handle in handles:
        handle.remove()
    for index, layer in enumerate(layers[:-1]):  # the last hidden state is given after the final norm
        added = hidden[index + 1][0] - attended[index][0]
        written = generation.activations([index]) @ layer.mlp.down_proj.weight.numpy().T
        np.testing.assert_allclose(written, added.numpy(), rtol=1e-4, atol=1e-4)


def _neurons_by_hand(network: Any, ids: torch.Tensor) -> list[np.ndarray]:
    """Activations by each architecture's formula, from the input of its FFNN."""
    kind = network.config.model_type
    inputs: list[torch.Tensor] = []

    def take(_: object, args: tuple[torch.Tensor, ...]) -> None:
        inputs.append(args[0].detach())

    if kind == "gpt2":
        ffns = [block.mlp for block in network.transformer.h]
        formula = [lambda x, f=f: f.act(x @ f.c_fc.weight + f.c_fc.bias) for f in ffns]
    elif kind == "llama":
        ffns = [block.mlp for block in network.model.layers]
        formula = [
            lambda x, f=f: torch.nn.functional.silu(x @ f.gate_proj.weight.T) * (x @ f.up_proj.weight.T) for f in ffns
        ]
    elif kind == "gpt_neox":
        ffns = [block.mlp for block in network.gpt_neox.layers]
        formula = [
            lambda x, f=f: torch.nn.functional.gelu(x @ f.dense_h_to_4h.weight.T + f.dense_h_to_4h.bias) for f in ffns
        ]
    else:
        ffns = [block.fc1 for block in network.model.decoder.layers]
        formula = [lambda x, f=f: torch.relu(x @ f.weight.T + f.bias) for f in ffns]
    handles = [ffn.register_forward_pre_hook(take) for ffn in ffns]
    with torch.no_grad():
        network(ids)
    for handle in handles:
        handle.remove()
    return [neurons(x).reshape(ids.shape[1], -1).numpy() for neurons, x in zip(formula, inputs, strict=True)]


def test_activations_are_those_of_the_architectures_formula(any_model: Model, generation: actlake.Generation) -> None:
    expected = _neurons_by_hand(any_model.network, ids_of(generation))
    for layer, neurons in enumerate(expected):
        scale = np.abs(neurons).max()
        np.testing.assert_allclose(generation.activations([layer]) / scale, neurons / scale, rtol=1e-5, atol=1e-5)


def test_gradients_are_those_of_a_forward_and_backward_per_token(
    any_model: Model, generation: actlake.Generation
) -> None:
    ids, network = ids_of(generation), any_model.network
    for position in range(generation.n_prompt_tokens, generation.n_tokens):
        embedding = network.get_input_embeddings()(ids[:, :position]).detach().requires_grad_()
        network(inputs_embeds=embedding).logits[0, -1, ids[0, position]].backward()
        expected = embedding.grad[0].numpy()
        difference = np.abs(generation.gradients(position) - expected).max()
        assert difference <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("target", ["logprob", "contrast"])
@pytest.mark.parametrize("temperature", [0.0, 2.0])
def test_gradients_of_other_targets_are_those_of_a_forward_and_backward_per_token(
    any_model: Model, toy_prompts: list[Any], tmp_path: Path, target: str, temperature: float
) -> None:
    options = {"gradient_target": target, "temperature": temperature, "precision": "float32", "batch_size": 3}
    actlake.capture(tmp_path / "s", any_model, toy_prompts, max_new_tokens=5, **options)
    store, network = actlake.open(tmp_path / "s"), any_model.network
    assert store.runs()["gradient_target"].tolist() == [target]
    for generation in (store.generation(0), store.generation(4)):
        ids = ids_of(generation)
        for position in range(generation.n_prompt_tokens, generation.n_tokens):
            embedding = network.get_input_embeddings()(ids[:, :position]).detach().requires_grad_()
            logits, token = network(inputs_embeds=embedding).logits[0, -1], int(ids[0, position])
            others = torch.cat([logits[:token], logits[token + 1 :]])
            wanted = logits.log_softmax(-1)[token] if target == "logprob" else logits[token] - others.max()
            wanted.backward()
            expected = embedding.grad[0].numpy()
            difference = np.abs(generation.gradients(position) - expected).max()
            assert difference <= 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("gradient_tokens", [1, 100, 100_000])
def test_gradients_of_many_outputs_are_those_of_a_forward_and_backward_per_token(
    any_model: Model, tmp_path: Path, gradient_tokens: int
) -> None:
    prompts = ["a", "One, two, three", " 1, 2"]
    options = {"precision": "float32", "batch_size": 3, "temperature": 1.0, "gradient_tokens": gradient_tokens}
    actlake.capture(tmp_path / "s", any_model, prompts, max_new_tokens=36, **options)
    store, network = actlake.open(tmp_path / "s"), any_model.network
    for generation in map(store.generation, range(len(prompts))):
        ids = ids_of(generation)
        for position in range(generation.n_prompt_tokens, generation.n_tokens, 5):
            embedding = network.get_input_embeddings()(ids[:, :position]).detach().requires_grad_()
            network(inputs_embeds=embedding).logits[0, -1, ids[0, position]].backward()
            expected = embedding.grad[0].numpy()
            assert generation.gradients(position).shape == (position, 16)
            assert np.abs(generation.gradients(position) - expected).max() <= 1e-5 * np.abs(expected).max()


def test_logprob_rank_and_entropy_are_those_of_log_softmax(any_model: Model, generation: actlake.Generation) -> None:
    ids, tokens = ids_of(generation), generation.tokens
    with torch.no_grad():
        logits = any_model.network(ids).logits[0].double()
    logprobs = logits.log_softmax(-1)
    assert tokens.loc[0, ["logprob", "rank", "entropy"]].isna().all()
    for position in range(1, generation.n_tokens):
        row, token_id = logprobs[position - 1], ids[0, position]
        assert tokens["logprob"][position] == pytest.approx(row[token_id].item(), abs=1e-4)
        assert tokens["rank"][position] == int((row > row[token_id]).sum()) + 1
        assert tokens["entropy"][position] == pytest.approx(-(row.exp() * row).sum().item(), abs=1e-4)


def test_greedy_text_is_what_plain_generation_writes(any_model: Model, generation: actlake.Generation) -> None:
    ids = ids_of(generation)
    p = generation.n_prompt_tokens
    if generation.n_tokens == p:
        assert generation.completion == ""
        return
    expected = any_model.network.generate(ids[:, :p], max_new_tokens=7, do_sample=False, eos_token_id=0, pad_token_id=0)
    assert ids[0].tolist() == expected[0].tolist()


def test_every_position_is_recorded_the_last_generated_token_included(generation: actlake.Generation) -> None:
    n, p = generation.n_tokens, generation.n_prompt_tokens
    assert len(generation.tokens) == len(generation.embeddings()) == len(generation.activations()) == n
    assert generation.saliency().shape == (n - p, n - 1)


METHODS = {
    "grad_x_input": lambda g, x: np.sqrt(((g * x) ** 2).sum(-1)),
    "grad_norm": lambda g, x: np.sqrt((g**2).sum(-1)),
    "grad_dot_input": lambda g, x: (g * x).sum(-1),
    "grad_x_input_l1": lambda g, x: np.abs(g * x).sum(-1),
}


@pytest.mark.parametrize("method", METHODS)
def test_saliency_in_sql_and_as_an_array_is_that_of_numpy(any_store: actlake.Store, method: str) -> None:
    rows = any_store.sql("select * from saliency_by(?) order by all", [method]).df()
    for generation_id, of_generation in rows.groupby("generation_id"):
        generation = any_store.generation(int(generation_id))
        matrix, x = generation.saliency(method), generation.embeddings().astype(np.float64)
        for output, of_output in of_generation.groupby("output_position"):
            scores = METHODS[method](generation.gradients(int(output)).astype(np.float64), x[: int(output)])
            shares = scores / np.abs(scores).sum()
            row = int(output) - generation.n_prompt_tokens
            assert of_output["input_position"].tolist() == list(range(int(output)))
            np.testing.assert_allclose(of_output["score"], scores, rtol=1e-6)
            np.testing.assert_allclose(of_output["share"], shares, rtol=1e-6, atol=1e-9)
            np.testing.assert_allclose(matrix.scores[row, : int(output)], scores, rtol=1e-6)
            np.testing.assert_allclose(matrix[row, : int(output)], shares, rtol=1e-6, atol=1e-9)
            assert not matrix[row, int(output) :].any()


@pytest.mark.parametrize("method", METHODS)
def test_saliency_of_runs_that_kept_scores_is_that_of_runs_that_kept_gradients(
    both_kinds: actlake.Store, method: str
) -> None:
    n = len(both_kinds.generations()) // 2
    rows = both_kinds.sql("select * from saliency_by(?) order by all", [method]).df()
    for generation_id in range(n):
        vectors, scores = both_kinds.generation(generation_id), both_kinds.generation(n + generation_id)
        expected, found = vectors.saliency(method), scores.saliency(method)
        np.testing.assert_allclose(
            found.scores, expected.scores, rtol=1e-5, atol=1e-6 * np.abs(expected.scores).max(initial=0)
        )
        in_sql = rows[rows["generation_id"] == n + generation_id]
        r, c = in_sql["output_position"] - scores.n_prompt_tokens, in_sql["input_position"]
        assert len(in_sql) == sum(range(scores.n_prompt_tokens, scores.n_tokens))
        np.testing.assert_allclose(in_sql["score"], found.scores[r, c], rtol=1e-6)
        np.testing.assert_allclose(in_sql["share"], found[r, c], rtol=1e-6)


def test_an_unknown_method_is_one_clear_error(both_kinds: actlake.Store) -> None:
    with pytest.raises(InvalidOption, match="choose one of grad_x_input"):
        check_method("magic")
    with pytest.raises(Exception, match="no saliency method magic; choose grad_x_input"):
        both_kinds.sql("from saliency_by('magic')").fetchall()


def test_the_saliency_view_is_gradient_times_input(any_store: actlake.Store) -> None:
    view = any_store.sql("select * from saliency order by all").df()
    macro = any_store.sql("select * from saliency_by('grad_x_input') order by all").df()
    np.testing.assert_allclose(view, macro, rtol=1e-12)


def test_a_layer_that_is_named_twice_is_there_once(opened: actlake.Store) -> None:
    generation = opened.generation(1)
    np.testing.assert_array_equal(generation.activations([2, 0, 2]), generation.activations([2, 0]))


@pytest.mark.parametrize("layers", [[0], [0, 2]])
def test_clipped_factors_are_scikit_learns_called_by_hand(opened: actlake.Store, layers: list[int]) -> None:
    generation = opened.generation(1)
    x = np.maximum(generation.activations(layers), 0)
    model = NMF(3, init="nndsvda", solver="cd", max_iter=500, random_state=0)
    product = model.fit_transform(x) @ model.components_
    factors = generation.factors(3, layers=layers, negatives="clip", solver="sklearn")
    np.testing.assert_allclose(factors.tokens @ factors.neurons, product, rtol=1e-4, atol=1e-5)
    assert factors.error == pytest.approx(np.linalg.norm(x - product) / np.linalg.norm(x), rel=1e-4)


def test_split_factors_are_scikit_learns_of_both_halves(opened: actlake.Store) -> None:
    generation = opened.generation(1)
    activations = generation.activations([1])
    x = np.concatenate([np.maximum(activations, 0), np.maximum(-activations, 0)], axis=1)
    model = NMF(2, init="nndsvda", solver="cd", max_iter=500, random_state=3)
    product = model.fit_transform(x) @ model.components_
    factors = generation.factors(2, layers=[1], negatives="split", seed=3, solver="sklearn")
    np.testing.assert_allclose(factors.tokens @ factors.components, product, rtol=1e-4, atol=1e-5)
    assert factors.neurons.shape == (2, activations.shape[1])


def test_negatives_are_split_where_they_hold_energy_and_clipped_where_not(any_store: actlake.Store) -> None:
    factors = any_store.generation(1).factors(2, layers=[0])
    gated = any_store.runs()["architecture"][0].startswith("Llama")
    assert factors.negatives == ("split" if gated else "clip")


def test_scaled_layers_have_equal_energy_in_the_factorisation(opened: actlake.Store) -> None:
    generation = opened.generation(1)
    blocks = [np.maximum(generation.activations([layer]), 0) for layer in (0, 2)]
    scaled = np.concatenate([block / np.linalg.norm(block) for block in blocks], axis=1)
    model = NMF(2, init="nndsvda", solver="cd", max_iter=500, random_state=0)
    product = model.fit_transform(scaled) @ model.components_
    factors = generation.factors(2, layers=[0, 2], negatives="clip", scale_layers=True, solver="sklearn")
    norms = np.repeat([np.linalg.norm(block) for block in blocks], blocks[0].shape[1])
    np.testing.assert_allclose(factors.tokens @ factors.neurons, product * norms, rtol=1e-3, atol=1e-3)
    assert factors.neurons.shape == (2, sum(block.shape[1] for block in blocks))


def test_a_bfloat16_store_holds_the_float32_values_rounded_as_torch_rounds(
    toy_model: Model, toy_prompts: list[Any], opened: actlake.Store, tmp_path: Path
) -> None:
    actlake.capture(tmp_path / "s", toy_model, toy_prompts, max_new_tokens=6, batch_size=2)
    for index in range(5):
        exact = opened.generation(index).activations()
        stored = actlake.open(tmp_path / "s").generation(index).activations()
        np.testing.assert_array_equal(stored, torch.from_numpy(exact).bfloat16().float().numpy())


def test_sampled_text_depends_on_the_seed_and_not_on_the_batch(
    toy_model: Model, toy_prompts: list[Any], tmp_path: Path
) -> None:
    def completions(name: str, **options: Any) -> list[str]:
        actlake.capture(tmp_path / name, toy_model, toy_prompts, temperature=1.0, record=[], **options)
        return actlake.open(tmp_path / name).generations()["completion"].tolist()

    one = completions("one", seed=1, batch_size=1)
    assert one == completions("three", seed=1, batch_size=3)
    assert one != completions("other", seed=2, batch_size=1)


def test_draws_follow_the_models_distribution(toy_model: Model, tmp_path: Path) -> None:
    n = 2000
    prompts = [" 1, 2"] * n
    actlake.capture(tmp_path / "s", toy_model, prompts, max_new_tokens=1, temperature=2.0, record=[], batch_size=500)
    drawn = actlake.open(tmp_path / "s").sql("select token_id from tokens where is_generated").fetchnumpy()["token_id"]
    ids = torch.tensor([toy_model.tokenizer(" 1, 2")["input_ids"]])
    with torch.no_grad():
        probability = (toy_model.network(ids).logits[0, -1] / 2.0).softmax(-1).numpy()
    counts = np.bincount(drawn, minlength=len(probability))
    deviations = (counts - n * probability) / np.sqrt(n * probability * (1 - probability) + 1)
    assert np.abs(deviations).max() < 5


@pytest.mark.parametrize("target", ["logit", "logprob", "contrast"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_gradients_of_a_half_precision_model_are_those_of_its_weights_in_float32(
    any_folder: Path, tmp_path: Path, dtype: Any, target: str
) -> None:
    model = load_model(str(any_folder), dtype=dtype)
    options = {"max_new_tokens": 20, "precision": "float32", "temperature": 1.0, "gradient_target": target}
    actlake.capture(tmp_path / "s", model, ["a", " 1, 2, 3,"], **options)
    wide = copy.deepcopy(model.network).float()
    for generation in map(actlake.open(tmp_path / "s").generation, range(2)):
        ids = ids_of(generation)
        for position in range(generation.n_prompt_tokens, generation.n_tokens, 4):
            embedding = wide.get_input_embeddings()(ids[:, :position]).detach().requires_grad_()
            logits, token = wide(inputs_embeds=embedding).logits[0, -1], int(ids[0, position])
            others = torch.cat([logits[:token], logits[token + 1 :]])
            {
                "logit": logits[token],
                "logprob": logits.log_softmax(-1)[token],
                "contrast": logits[token] - others.max(),
            }[target].backward()
            expected = embedding.grad[0].numpy()
            assert np.abs(generation.gradients(position) - expected).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_half_precision_model_is_recorded_near_the_float32_one(
    toy_folder: Path, opened: actlake.Store, tmp_path: Path, dtype: str
) -> None:
    text = opened.generation(1).text
    prompts = [{"text": text}, "One, two,"]
    for name in ("float32", dtype):
        actlake.capture(tmp_path / name, str(toy_folder), prompts, max_new_tokens=3, dtype=name, precision="float32")
    exact, half = (actlake.open(tmp_path / name).generation(0).activations() for name in ("float32", dtype))
    assert np.abs(half - exact).max() < 0.1 * np.abs(exact).max()
    generation = actlake.open(tmp_path / dtype).generation(1)
    np.testing.assert_allclose(generation.saliency().sum(axis=1), 1, rtol=1e-6)
