"""Integrated gradients, beside a plain sum along the path in torch."""

from __future__ import annotations

import sys
from pathlib import Path
from threading import Event

import actlake
import numpy as np
import pytest
import torch
from actlake.capture import Model
from actlake.errors import Cancelled, InvalidOption, MissingLibrary
from actlake.queries.integrated import check_options


@pytest.fixture(scope="module")
def generation(toy_store: Path) -> actlake.Generation:
    return actlake.open(toy_store).generation(0)


def value_of(
    model: Model, generation: actlake.Generation, position: int, embedded: torch.Tensor, target: str
) -> torch.Tensor:
    """The target of the token at a position, of embeddings before it; Llama takes them as they are."""
    logits = model.network(inputs_embeds=embedded[None, :position]).logits[0, -1]
    token = int(generation.tokens["token_id"][position])
    if target == "logprob":
        logits = logits.log_softmax(-1)
    if target == "contrast":
        first, second = (
            model.network(input_ids=ids_of(generation)[None, :position]).logits[0, -1].topk(2).indices.tolist()
        )
        return logits[token] - logits[second if first == token else first]
    return logits[token]


def ids_of(generation: actlake.Generation) -> torch.Tensor:
    return torch.tensor(generation.tokens["token_id"].tolist())


def embeddings_of(model: Model, generation: actlake.Generation) -> torch.Tensor:
    return model.network.get_input_embeddings()(ids_of(generation)).detach()


@pytest.mark.parametrize("target", ["logit", "logprob", "contrast"])
def test_it_is_a_sum_of_gradients_along_the_path(toy_model: Model, generation: actlake.Generation, target: str) -> None:
    n_steps, position = 16, generation.n_prompt_tokens + 2
    options = {
        "n_steps": n_steps,
        "rule": "riemann_middle",
        "output_positions": [position],
        "target": target,
        "baseline": "zero",
    }
    found = generation.integrated_gradients(toy_model, **options)
    whole = embeddings_of(toy_model, generation)
    total = torch.zeros_like(whole)
    for step in range(n_steps):
        point = (whole * ((step + 0.5) / n_steps)).requires_grad_()
        total += torch.autograd.grad(value_of(toy_model, generation, position, point, target), point)[0] / n_steps
    expected = (total * whole).sum(-1).double().numpy()[: generation.n_tokens - 1]
    assert found.scores is not None
    np.testing.assert_allclose(found.scores[0], expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    assert (found.scores[0, position:] == 0).all()
    assert (found.method, found.target) == ("integrated_gradients", target)
    assert np.abs(np.asarray(found)).sum() == pytest.approx(1)


@pytest.mark.parametrize("baseline", ["zero", "mean", "pad"])
def test_scores_add_up_to_what_the_embeddings_make_of_the_target(
    toy_model: Model, generation: actlake.Generation, baseline: str
) -> None:
    found = generation.integrated_gradients(toy_model, n_steps=300, baseline=baseline)
    table, whole = toy_model.network.get_input_embeddings().weight.detach(), embeddings_of(toy_model, generation)
    start = {"zero": whole * 0, "mean": table.mean(0).expand_as(whole), "pad": table[0].expand_as(whole)}[baseline]
    assert found.scores is not None
    assert found.deltas is not None
    for row, position in enumerate(generation.output_positions):
        at, before = (float(value_of(toy_model, generation, position, e, "logit")) for e in (whole, start))
        assert found.scores[row].sum() - found.deltas[row] == pytest.approx(at - before, abs=2e-3 * max(1, abs(at)))
    few = generation.integrated_gradients(toy_model, n_steps=4, baseline=baseline)
    assert few.deltas is not None
    assert np.abs(found.deltas).mean() < np.abs(few.deltas).mean()


def test_words_and_some_outputs_can_be_asked_for(toy_model: Model, generation: actlake.Generation) -> None:
    positions = [generation.n_tokens - 1, generation.n_prompt_tokens]
    seen: list[tuple[int, int]] = []
    tokens = generation.integrated_gradients(
        toy_model, n_steps=5, output_positions=positions, on_progress=lambda *done: seen.append(done)
    )
    assert seen == [(1, 2), (2, 2)]
    assert tokens.groups is not None
    assert tokens.groups.rows == [(p, p) for p in sorted(positions)]
    words = generation.integrated_gradients(toy_model, n_steps=5, output_positions=positions, by="line")
    assert words.scores is not None
    assert tokens.scores is not None
    assert words.scores.sum() == pytest.approx(tokens.scores.sum(), rel=1e-6)


def test_it_ends_within_a_token_when_it_is_told(toy_model: Model, generation: actlake.Generation) -> None:
    cancel, n_passes, said = Event(), 0, []

    def count(*_: object) -> None:
        nonlocal n_passes
        n_passes += 1
        if n_passes == 3:
            cancel.set()

    hook = toy_model.network.register_forward_pre_hook(count)
    try:
        with pytest.raises(Cancelled, match="the attribution was cancelled"):
            generation.integrated_gradients(
                toy_model, n_steps=2000, cancel=cancel, on_progress=lambda *done: said.append(done)
            )
    finally:
        hook.remove()
    assert n_passes == 3
    assert said == []


def test_a_model_in_half_precision_is_computed_in_float32(toy_folder: Path, generation: actlake.Generation) -> None:
    half = actlake.capture.load_model(str(toy_folder), dtype="bfloat16")
    position = [generation.n_prompt_tokens]
    found = generation.integrated_gradients(half, n_steps=64, output_positions=position)
    assert found.deltas is not None
    assert found.scores is not None
    assert abs(found.deltas[0]) < 0.05 * np.abs(found.scores).sum()


@pytest.mark.parametrize("options", [{"n_steps": 0}, {"output_positions": [0]}])
def test_an_option_that_is_not_there_is_one_clear_error(
    toy_model: Model, generation: actlake.Generation, options: dict[str, object]
) -> None:
    with pytest.raises(InvalidOption, match=r"choose|give"):
        generation.integrated_gradients(toy_model, **options)


@pytest.mark.parametrize(
    "options", [(5, "one", "riemann_left"), (5, "zero", "simpson"), (True, "zero", "riemann_left")]
)
def test_a_path_that_is_not_there_is_one_clear_error(options: tuple[int, str, str]) -> None:
    with pytest.raises(InvalidOption, match=r"choose|give"):
        check_options(*options)


def test_without_captum_the_error_says_how_to_get_it(
    toy_model: Model, generation: actlake.Generation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(MissingLibrary, match=r"actlake\[captum\]"):
        generation.integrated_gradients(toy_model)
