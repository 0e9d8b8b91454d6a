"""What a capture writes, and that the same capture writes nothing twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import actlake
import numpy as np
import pytest
from actlake.capture import CaptureOptions, Model, byte_budget, make_plan, prompts_from
from actlake.errors import InvalidOption, InvalidPrompt, NotRecorded, PromptTooLong, UnknownLayer
from actlake.store import RECORDS, Location, verify


def test_generation_ids_follow_the_prompts_whatever_the_batches(opened: actlake.Store, toy_prompts: list[Any]) -> None:
    texts = [prompt if isinstance(prompt, str) else prompt.get("prompt", prompt.get("text")) for prompt in toy_prompts]
    assert opened.generations()["prompt"].tolist() == texts
    assert opened.generations()["generation_id"].tolist() == list(range(5))


def test_the_neighbours_of_a_generation_are_those_before_and_after(opened: actlake.Store) -> None:
    assert [opened.neighbours(index) for index in (0, 2, 4)] == [(None, 1), (1, 3), (3, None)]


def test_metadata_is_kept_as_json(opened: actlake.Store) -> None:
    assert opened.generation(1).metadata == {"kind": "list"}
    found = opened.sql("select generation_id from generations where metadata->>'kind' = 'text'").fetchall()
    assert found == [(2,)]


def test_a_text_is_captured_with_nothing_written(opened: actlake.Store) -> None:
    generation = opened.generation(2)
    assert generation.completion == ""
    assert generation.n_tokens == generation.n_prompt_tokens
    assert len(generation.gradients()) == 0
    assert generation.activations().shape == (generation.n_tokens, 3 * 40)
    assert generation.saliency().shape == (0, generation.n_tokens - 1)


def test_a_text_of_one_token_is_captured(toy_model: Model, tmp_path: Path) -> None:
    actlake.capture(tmp_path / "s", toy_model, [{"text": "a"}])
    generation = actlake.open(tmp_path / "s").generation(0)
    assert (generation.n_tokens, generation.saliency().shape, len(generation.activations())) == (1, (0, 0), 1)
    assert verify(Location.of(tmp_path / "s"), deep=True).ok


def test_the_text_is_what_the_tokens_offsets_say(opened: actlake.Store) -> None:
    for generation_id in range(5):
        generation = opened.generation(generation_id)
        for token in generation.tokens.itertuples():
            if "<0x" not in token.token and not token.is_special:
                assert generation.text[token.char_start : token.char_end] == token.token


def test_the_run_says_what_it_was(opened: actlake.Store, toy_folder: Path) -> None:
    run = opened.runs().iloc[0]
    assert (run["model"], run["architecture"], run["status"]) == (str(toy_folder), "LlamaForCausalLM", "complete")
    assert (run["n_layers"], run["d_model"], run["d_ff"], run["precision"]) == (3, 16, 40, "float32")
    assert json.loads(run["generation_config"])["max_new_tokens"] == 6
    assert json.loads(run["versions"]).keys() >= {"actlake", "torch", "transformers"}


def test_the_same_capture_again_writes_nothing(toy_model: Model, tmp_path: Path) -> None:
    first = actlake.capture(tmp_path / "s", toy_model, ["a", "b"], max_new_tokens=2)
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "s").rglob("*")}
    again = actlake.capture(tmp_path / "s", toy_model, ["a", "b"], max_new_tokens=2, batch_size=1)
    assert (first.n_captured, again.n_captured, again.run_id) == (2, 0, first.run_id)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "s").rglob("*")} == files


@pytest.mark.parametrize(
    "change",
    [
        {"max_new_tokens": 3},
        {"precision": "float32"},
        {"record": ["activations"]},
        {"layers": [1]},
        {"neurons": [1]},
        {"every": 2},
        {"only_generated": True},
        {"seed": 1},
        {"gradient_target": "contrast"},
        {"gradients": "scores"},
        {"gradients": "off"},
    ],
)
def test_other_options_are_another_run_with_its_own_numbers(
    toy_model: Model, tmp_path: Path, change: dict[str, Any]
) -> None:
    actlake.capture(tmp_path / "s", toy_model, ["a", "b"], max_new_tokens=2)
    other = actlake.capture(tmp_path / "s", toy_model, ["a", "b"], **{"max_new_tokens": 2, **change})
    assert (other.run_id, other.generation_ids, other.n_captured) == (1, range(2, 4), 2)
    assert verify(Location.of(tmp_path / "s"), deep=True).ok


@pytest.mark.parametrize("missing", RECORDS)
def test_what_was_not_recorded_is_an_error_that_says_how_to_record_it(
    toy_model: Model, tmp_path: Path, missing: str
) -> None:
    record = [what for what in RECORDS if what != missing]
    actlake.capture(tmp_path / "s", toy_model, ["ab"], max_new_tokens=2, record=record)
    store = actlake.open(tmp_path / "s")
    assert verify(Location.of(tmp_path / "s"), deep=True).ok
    with pytest.raises(NotRecorded, match=f"has no {missing}.*--record activations,embeddings,gradients"):
        getattr(store.generation(0), missing)()
    table = "activation_vectors" if missing == "activations" else missing
    assert store.sql(f"select count(*) from {table}").fetchall() == [(0,)]


def test_only_the_layers_asked_for_are_recorded(toy_model: Model, tmp_path: Path, opened: actlake.Store) -> None:
    actlake.capture(tmp_path / "s", toy_model, [" 1, 2, 3,"], max_new_tokens=6, precision="float32", layers=[2, 0])
    generation = actlake.open(tmp_path / "s").generation(0)
    assert generation.layers == (0, 2)
    np.testing.assert_allclose(generation.activations(), opened.generation(0).activations([0, 2]), rtol=1e-4, atol=1e-5)
    with pytest.raises(UnknownLayer, match="no layer 1; there are layers 0,2"):
        generation.activations([1])


def test_an_unknown_layer_is_refused_before_anything_is_written(toy_model: Model, tmp_path: Path) -> None:
    with pytest.raises(UnknownLayer, match="no layers 3,7; there are layers 0-2"):
        actlake.capture(tmp_path / "s", toy_model, ["a"], layers=[0, 3, 7])
    assert not (tmp_path / "s").exists()


def test_a_prompt_longer_than_the_context_is_refused_with_its_place(toy_model: Model, tmp_path: Path) -> None:
    path = tmp_path / "p.txt"
    path.write_text("a\n" + "x" * 70 + "\n")
    with pytest.raises(
        PromptTooLong, match=r"p\.txt, line 2: the prompt has 70 tokens and the model's context holds 64"
    ):
        actlake.capture(tmp_path / "s", toy_model, path)
    assert not (tmp_path / "s").exists()


def test_a_long_prompt_is_continued_to_the_end_of_the_context(toy_model: Model, tmp_path: Path) -> None:
    actlake.capture(tmp_path / "s", toy_model, ["x" * 60, "a"], max_new_tokens=10, record=["embeddings"])
    store = actlake.open(tmp_path / "s")
    assert store.generation(0).n_tokens <= 64
    assert store.generation(0).finish_reason in {"context", "stop"}
    assert store.generation(1).n_tokens <= 11


def test_an_end_token_ends_the_text_and_is_part_of_it(toy_model: Model, tmp_path: Path) -> None:
    network, (end,) = toy_model.network, toy_model.end_ids
    ids = toy_model.tokenizer(" 1, 2, 3,")["input_ids"]
    import torch

    with torch.no_grad():
        likeliest = int(network(torch.tensor([ids])).logits[0, -1].argmax())
    ending = Model(toy_model.name, network, toy_model.tokenizer, toy_model.anatomy, (end, likeliest))
    actlake.capture(tmp_path / "s", ending, [" 1, 2, 3,"], max_new_tokens=5)
    generation = actlake.open(tmp_path / "s").generation(0)
    assert (generation.n_tokens, generation.finish_reason) == (len(ids) + 1, "stop")
    assert generation.tokens["token_id"].tolist() == [*ids, likeliest]


def test_the_chat_template_is_put_around_a_prompt_and_not_around_a_text(toy_model: Model, tmp_path: Path) -> None:
    actlake.capture(tmp_path / "s", toy_model, ["hi", {"text": "hi"}], chat=True, max_new_tokens=2)
    assert actlake.open(tmp_path / "s").generations()["prompt"].tolist() == ["<user>hi<assistant>", "hi"]


def test_the_budget_is_near_what_is_written(toy_model: Model, tmp_path: Path) -> None:
    prompts = ["The countries of the European Union are: 1. Austria"] * 20
    options = CaptureOptions(max_new_tokens=20)
    plan = make_plan(toy_model, prompts_from(prompts), options)
    budget = byte_budget(toy_model, plan, options)
    actlake.capture(tmp_path / "s", toy_model, prompts, max_new_tokens=20)
    sizes = actlake.open(tmp_path / "s").size().set_index("table")["bytes"]
    assert 0.5 < sizes["gradients"] / budget["gradients"] < 1.3


def test_the_budget_of_scores_is_near_what_is_written(toy_model: Model, tmp_path: Path) -> None:
    prompts = ["The countries of the European Union are: 1. Austria"] * 40
    options = CaptureOptions(max_new_tokens=30, gradients="scores")
    budget = byte_budget(toy_model, make_plan(toy_model, prompts_from(prompts), options), options)
    actlake.capture(tmp_path / "s", toy_model, prompts, max_new_tokens=30, gradients="scores")
    sizes = actlake.open(tmp_path / "s").size().set_index("table")["bytes"]
    assert sizes["gradients"] == 0
    assert "gradients" not in budget
    assert 0.5 < sizes["gradient_scores"] / budget["gradient_scores"] < 1.3


def test_gradients_that_are_off_are_as_if_not_recorded(toy_model: Model, tmp_path: Path) -> None:
    run = actlake.capture(tmp_path / "s", toy_model, ["a"], max_new_tokens=2, gradients="off")
    same = actlake.capture(tmp_path / "s", toy_model, ["a"], max_new_tokens=2, record=["embeddings", "activations"])
    store = actlake.open(tmp_path / "s")
    assert (same.run_id, same.n_captured) == (run.run_id, 0)
    assert store.sql("select recorded, gradient_target from runs").fetchall() == [(["embeddings", "activations"], None)]
    with pytest.raises(NotRecorded, match="has no gradients"):
        store.generation(0).saliency()


def test_a_run_that_kept_scores_has_no_vectors_of_gradients(toy_model: Model, tmp_path: Path) -> None:
    actlake.capture(tmp_path / "s", toy_model, ["a"], max_new_tokens=2, gradients="scores", record=["gradients"])
    generation = actlake.open(tmp_path / "s").generation(0)
    assert generation.recorded == {"gradient_scores"}
    assert generation.saliency().shape == (2, generation.n_tokens - 1)
    with pytest.raises(NotRecorded, match="recorded gradient_scores; capture again with `--record gradients`"):
        generation.gradients()
    assert verify(Location.of(tmp_path / "s"), deep=True).ok


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "float8"}, "precision='float8' cannot be used: choose one of bfloat16, float16, float32"),
        ({"record": ["thoughts"]}, "any of embeddings, gradients, activations"),
        ({"max_new_tokens": 0}, "give 1 or more"),
        ({"batch_size": "many"}, "auto"),
        ({"gradients": "some"}, "choose one of vectors, scores, off"),
        ({"gradients": "scores", "record": ["activations"]}, "let `record` name gradients"),
        ({"gradient_tokens": 0}, "give 1 or more"),
        ({"gradient_target": "loss"}, "choose one of logit, logprob, contrast"),
        ({"temperature": -1}, "0 is greedy"),
        ({"neurons": []}, "name at least one"),
        ({"layers": []}, "layers=[] cannot be used: name at least one"),
        ({"every": 0}, "give 1 or more"),
        ({"max_bytes": "much"}, "give a size, as 512MB or 2GB"),
        ({"max_bytes": 0}, "give 1 or more"),
        ({"top_p": 0}, "above 0"),
    ],
)
def test_a_bad_option_is_one_clear_error(
    tmp_path: Path, toy_model: Model, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidOption) as raised:
        actlake.capture(tmp_path / "s", toy_model, ["a"], **options)
    assert message in str(raised.value)


def test_no_prompt_at_all_is_an_error(tmp_path: Path, toy_model: Model) -> None:
    with pytest.raises(InvalidPrompt, match="there is none"):
        actlake.capture(tmp_path / "s", toy_model, [])


def test_capture_is_a_function_and_a_package() -> None:
    assert callable(actlake.capture)
    assert actlake.capture.load_model
