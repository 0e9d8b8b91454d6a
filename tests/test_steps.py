"""Text that is recorded as it is written, and how a run keeps that it was."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import actlake
import numpy as np
import pytest
import torch
from actlake.capture import CaptureOptions, Model, load_model, make_plan, memory, prompts_from
from actlake.capture.generate import Sampling, continuations
from actlake.capture.predictions import predictions
from actlake.capture.procedure import Procedure, choose
from actlake.capture.registration import register, run_key, run_row
from actlake.capture.replay import Recorded, replay
from actlake.capture.steps import steps_agree, write_and_record
from actlake.capture.wanted import Wanted
from actlake.store import Location, Log, verify
from families import SIZES

PROMPTS = [[5, 6, 7, 8, 9, 10, 11], [40], [90, 91, 92]]
VECTORS = ("embeddings", "activations")


def replayed(model: Model, prompts: list[list[int]], written: list[list[int]]) -> list[Recorded]:
    texts = [[*prompt, *completion] for prompt, completion in zip(prompts, written, strict=True)]
    layers = range(model.anatomy.n_layers)
    return replay(model, texts, [*map(len, prompts)], Wanted(layers))()


def assert_same(one: Recorded, other: Recorded) -> None:
    np.testing.assert_array_equal(one.embeddings, other.embeddings)
    np.testing.assert_allclose(one.logprob, other.logprob, atol=1e-4)
    np.testing.assert_array_equal(one.rank, other.rank)
    assert one.activations.keys() == other.activations.keys()
    for layer, activation in one.activations.items():
        np.testing.assert_allclose(activation, other.activations[layer], atol=1e-4 * np.abs(activation).max())


def test_predictions_are_those_of_the_distribution_in_double_precision() -> None:
    torch.manual_seed(5)
    logits, targets = 9 * torch.randn(40, 700), torch.randint(700, (40,))
    logits[7] = logits[7].where(torch.arange(700) == 3, -torch.inf)  # as sure as can be
    targets[7] = 3
    logprob, rank, entropy = predictions(logits, targets)
    expected = torch.distributions.Categorical(logits=logits.double())
    torch.testing.assert_close(logprob.double(), expected.log_prob(targets), rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(entropy.double(), expected.entropy(), rtol=1e-5, atol=1e-6)
    order = [sorted(row.tolist(), reverse=True) for row in logits]
    assert rank.tolist() == [
        row.index(float(logits[i, t])) + 1 for i, (row, t) in enumerate(zip(order, targets, strict=True))
    ]


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=1.0, top_k=50, seed=4)], ids=["greedy", "drawn"])
def test_what_is_recorded_as_text_is_written_is_what_the_replay_records(any_model: Model, sampling: Sampling) -> None:
    layers = range(any_model.anatomy.n_layers)
    written, stepped = write_and_record(any_model, PROMPTS, 9, sampling, [3, 1, 4], Wanted(layers))
    assert written == continuations(any_model, PROMPTS, 9, sampling, [3, 1, 4])
    for one, other in zip(stepped(), replayed(any_model, PROMPTS, written), strict=True):
        assert_same(one, other)


def test_every_text_ends_at_its_own_end_token_and_that_is_recorded_too(toy_model: Model) -> None:
    free = replace(toy_model, end_ids=())
    unended = continuations(free, PROMPTS, 8, Sampling(), range(3))
    for ends in [(unended[0][2],), (unended[0][0], unended[1][0], unended[2][1]), (unended[1][7],)]:
        model = replace(toy_model, end_ids=ends)
        written, recorded = write_and_record(model, PROMPTS, 8, Sampling(), range(3), Wanted([0, 2]))
        stepped = recorded()
        assert written == continuations(model, PROMPTS, 8, Sampling(), range(3))
        assert [len(one.logprob) for one in stepped] == [len(p) + len(w) for p, w in zip(PROMPTS, written, strict=True)]
        for one, other in zip(stepped, replayed(model, PROMPTS, written), strict=True):
            assert_same(one, replace(other, activations={layer: other.activations[layer] for layer in (0, 2)}))


def test_a_text_that_fills_the_context_is_recorded_to_its_last_token(any_model: Model) -> None:
    prompt = [list(range(20, 76))]
    written, recorded = write_and_record(any_model, prompt, 8, Sampling(), [0], Wanted(range(3)))
    (one,) = recorded()
    assert len(one.embeddings) == any_model.context == 64
    assert_same(one, replayed(any_model, prompt, written)[0])


def test_a_model_whose_cache_gives_other_values_is_not_relied_on(toy_model: Model) -> None:
    assert steps_agree(toy_model)

    def wrong(module: object, args: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
        return output * (1.01 if output.shape[1] == 1 else 1.0)

    handle = toy_model.network.model.layers[0].self_attn.v_proj.register_forward_hook(wrong)
    try:
        assert not steps_agree(toy_model)
        options = CaptureOptions(record=VECTORS)
        assert not choose(replace(toy_model), [0], options, 10).records_steps
    finally:
        handle.remove()


@pytest.mark.parametrize(("gradients", "in_steps"), [("off", True), ("scores", False), ("vectors", False)])
def test_text_is_replayed_where_gradients_are_wanted(
    toy_model: Model, tmp_path: Path, opened: actlake.Store, gradients: str, in_steps: bool
) -> None:
    actlake.capture(
        tmp_path / "s",
        toy_model,
        [" 1, 2, 3,", "One, two,"],
        max_new_tokens=6,
        precision="float32",
        gradients=gradients,
    )
    store = actlake.open(tmp_path / "s")
    assert json.loads(store.runs()["generation_config"][0])["records_steps"] == in_steps
    assert verify(Location.of(tmp_path / "s"), deep=True).ok
    for ours, theirs in [(0, 0), (1, 4)]:
        one, other = store.generation(ours), opened.generation(theirs)
        assert one.tokens["token_id"].tolist() == other.tokens["token_id"].tolist()
        np.testing.assert_allclose(one.activations(), other.activations(), atol=1e-4)
        np.testing.assert_allclose(one.embeddings(), other.embeddings(), atol=1e-6)
        np.testing.assert_allclose(one.tokens["logprob"][1:], other.tokens["logprob"][1:], atol=1e-4)


def with_free_memory(monkeypatch: pytest.MonkeyPatch, folder: Path, n_bytes: int) -> None:
    (folder / "meminfo").write_text(f"MemTotal: 9 kB\nMemAvailable:  {n_bytes // 1024} kB\n")
    monkeypatch.setattr(memory, "_MEMINFO", folder / "meminfo")


def sizes_of(model: Model, procedure: Procedure) -> list[int]:
    options = CaptureOptions(max_new_tokens=4, record=VECTORS)
    plan = make_plan(model, prompts_from(["a b c d"] * 40), options)
    return [len(unit) for unit in plan.units(options, procedure)]


def test_a_batch_is_as_large_as_memory_allows_up_to_what_gains(
    toy_model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = CaptureOptions(max_new_tokens=4, record=VECTORS)
    assert choose(toy_model, range(3), options, 10) == Procedure(4096, 64, records_steps=True)
    assert choose(toy_model, range(3), replace(options, record=("gradients",)), 10) == Procedure(512, 32, False, 2048)
    per_token = 4 * (4 * 3 * 40 + 2 * toy_model.anatomy.vocab_size + 2 * 3 * 16)
    with_free_memory(monkeypatch, tmp_path, 2 * 100 * per_token)
    assert choose(toy_model, range(3), options, 10).batch_tokens == 64
    assert sizes_of(toy_model, Procedure(64, 64)) == [6] * 6 + [4]  # of ten tokens each
    with_free_memory(monkeypatch, tmp_path, 0)
    assert sizes_of(toy_model, choose(toy_model, range(3), options, 10)) == [1] * 40


@pytest.mark.parametrize(("gradients", "kept"), [("vectors", 16), ("scores", 4)])
def test_a_batch_with_gradients_is_as_large_as_memory_has_room_for_its_graph(
    toy_model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gradients: str, kept: int
) -> None:
    options = CaptureOptions(max_new_tokens=4, gradients=gradients)
    in_a_block = 7 * 40 + 8 * 16 + 3 * 4 * 10
    of_recorded = 4 * 3 * 40 + 2 * toy_model.anatomy.vocab_size + 2 * 3 * 16
    of_gradients = 4 * in_a_block + 3 * 10 * kept + 2 * toy_model.anatomy.vocab_size
    with_free_memory(monkeypatch, tmp_path, 2 * 100 * 4 * (of_recorded + of_gradients))
    procedure = choose(toy_model, range(3), options, 10)
    assert (procedure.batch_tokens, procedure.batch_texts, procedure.records_steps) == (64, 32, False)
    with_free_memory(monkeypatch, tmp_path, 0)
    assert choose(toy_model, range(3), options, 10).batch_tokens == 1


def test_elsewhere_than_on_a_cpu_a_batch_with_gradients_has_as_many_tokens_as_positions_go_back_at_once(
    toy_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda device: None)
    monkeypatch.setattr(Model, "device", torch.device("meta"))
    assert choose(toy_model, range(3), CaptureOptions(gradients="scores"), 10).batch_tokens == memory.MOST_ELSEWHERE


def test_batches_of_an_encoder_without_gradients_are_those_of_a_decoder(
    tmp_path: Path, model_saver: Callable[..., Path]
) -> None:
    saved = model_saver(tmp_path / "model", "BertConfig", kind="AutoModelForMaskedLM", **SIZES)
    model = load_model(str(saved))
    assert choose(model, range(2), CaptureOptions(record=VECTORS), 10) == Procedure(4096, 64, records_steps=False)
    assert choose(model, range(2), CaptureOptions(), 10) == Procedure(512, 32, False, 2048)


def files_of(store: Path) -> list[tuple[int, int]]:
    files = Log(Location.of(store)).snapshot().of("generations")
    return sorted(file.ranges["generation_id"] for file in files)


def test_a_run_that_goes_on_has_the_batches_with_which_it_began(
    toy_model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts, how = ["a b c d"] * 12, {"max_new_tokens": 4, "record": VECTORS, "precision": "float32", "index": False}

    def stop(progress: Any) -> None:
        if progress.n_done:
            raise KeyboardInterrupt

    actlake.capture(tmp_path / "whole", toy_model, prompts, **how)
    with pytest.raises(KeyboardInterrupt):
        actlake.capture(tmp_path / "s", toy_model, prompts, batch_size=2, on_progress=stop, **how)
    with_free_memory(monkeypatch, tmp_path, 0)
    actlake.capture(tmp_path / "s", toy_model, prompts, **how)
    assert files_of(tmp_path / "whole") == [(0, 11)]
    done = files_of(tmp_path / "s")
    assert done[-1] == (done[-2][1] + 1, 11)
    assert done[-1][0] <= 6, "what was left is one batch, though no memory is free"


def test_shards_with_less_memory_give_the_gradients_that_one_process_gives(
    toy_model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = [f"{'and so on ' * index}{index}," for index in range(4)]
    how: dict[str, Any] = {"max_new_tokens": 20, "record": ["gradients"], "precision": "float32", "batch_size": 2}
    actlake.capture(tmp_path / "one", toy_model, prompts, **how)
    actlake.capture(tmp_path / "s", toy_model, prompts, shard="1/2", **how)
    with_free_memory(monkeypatch, tmp_path, 0)
    actlake.capture(tmp_path / "s", toy_model, prompts, shard="2/2", **how)
    (config,) = actlake.open(tmp_path / "s").runs()["generation_config"]
    assert json.loads(config)["gradient_tokens"] == 2048
    one, other = (actlake.open(tmp_path / name) for name in ("one", "s"))
    for index in range(4):
        np.testing.assert_array_equal(one.generation(index).gradients(), other.generation(index).gradients())
    actlake.capture(tmp_path / "t", toy_model, prompts, **how)
    (config,) = actlake.open(tmp_path / "t").runs()["generation_config"]
    assert json.loads(config)["gradient_tokens"] == 1, "what fits when the run registers"


def test_a_run_that_says_nothing_of_how_it_is_done_goes_on_as_it_was_begun(toy_model: Model, tmp_path: Path) -> None:
    options = CaptureOptions(max_new_tokens=4, record=VECTORS)
    plan = make_plan(toy_model, prompts_from(["a b c d"] * 40), options)
    key, log = run_key(toy_model, plan, options), Log(Location.of(tmp_path / "s"))
    register(log, key, run_row(toy_model, plan, options), 40, lambda: Silent())
    actlake.capture(tmp_path / "s", toy_model, ["a b c d"] * 40, max_new_tokens=4, record=VECTORS)
    (config,) = actlake.open(tmp_path / "s").runs()["generation_config"]
    assert "records_steps" not in json.loads(config)
    assert files_of(tmp_path / "s") == [(0, 31), (32, 39)]


class Silent(Procedure):
    """As runs were registered before they kept their procedure."""

    def beside(self, generation_config: str) -> str:
        return generation_config
