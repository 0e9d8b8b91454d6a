"""A completion that is supplied is recorded as if the model had written it."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import actlake
import numpy as np
import pytest
from actlake.capture import Model
from actlake.errors import InvalidPrompt, PromptTooLong
from actlake.store import Location, verify
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

PROMPTS = [" 1, 2, 3,", "One, two,", "keys Austria"]


def test_what_the_model_wrote_is_recorded_alike_when_it_is_supplied(toy_model: Model, tmp_path: Path) -> None:
    how: dict[str, Any] = {"max_new_tokens": 6, "precision": "float32", "index": False}
    actlake.capture(tmp_path / "written", toy_model, PROMPTS, **how)
    written = [actlake.open(tmp_path / "written").generation(i) for i in range(3)]
    records = [{"prompt": g.prompt, "completion": g.completion, "n": i} for i, g in enumerate(written)]
    actlake.capture(tmp_path / "supplied", toy_model, records, **how)
    supplied = [actlake.open(tmp_path / "supplied").generation(i) for i in range(3)]
    n_same = 0
    for theirs, ours in zip(written, supplied, strict=True):
        assert (ours.prompt, ours.completion, ours.finish_reason) == (theirs.prompt, theirs.completion, "given")
        if ours.tokens["token_id"].tolist() != theirs.tokens["token_id"].tolist():
            continue  # the same text can be cut in several ways
        n_same += 1
        assert ours.tokens["is_generated"].tolist() == theirs.tokens["is_generated"].tolist()
        np.testing.assert_allclose(ours.tokens["logprob"][1:], theirs.tokens["logprob"][1:], atol=1e-5)
        np.testing.assert_allclose(ours.activations(), theirs.activations(), atol=1e-5)
        np.testing.assert_allclose(ours.gradients(), theirs.gradients(), atol=1e-5)
    assert n_same
    assert [json.loads(json.dumps(dict(g.metadata))) for g in supplied] == [{"n": 0}, {"n": 1}, {"n": 2}]


def test_any_completion_has_gradients_and_shares_for_each_of_its_tokens(toy_model: Model, tmp_path: Path) -> None:
    records = [
        {"prompt": "One,", "completion": " keys Austria"},
        {"prompt": "One,", "completion": " two"},
        {"prompt": "One,"},
        {"text": "One, two"},
        {"prompt": "a", "completion": None},
    ]
    run = actlake.capture(tmp_path, toy_model, records, max_new_tokens=3)
    store = actlake.open(tmp_path)
    first = store.generation(0)
    tokens = first.tokens
    assert first.text == "One, keys Austria"
    cut = [first.text[start:end] for start, end in zip(tokens["char_start"], tokens["char_end"], strict=True)]
    assert "".join(cut[first.n_prompt_tokens :]) == " keys Austria"
    assert first.saliency().shape == (first.n_tokens - first.n_prompt_tokens, first.n_tokens - 1)
    np.testing.assert_allclose(first.saliency().sum(axis=1), 1, atol=1e-5)
    assert [store.generation(i).finish_reason for i in range(5)] == ["given", "given", "length", "stop", "length"]
    assert store.generation(3).n_tokens == store.generation(3).n_prompt_tokens
    assert verify(Location.of(tmp_path), deep=True).ok
    again = actlake.capture(tmp_path, toy_model, records, max_new_tokens=3)
    assert (again.run_id, again.n_captured) == (run.run_id, 0)
    other = actlake.capture(tmp_path, toy_model, [records[0] | {"completion": " two"}, *records[1:]], max_new_tokens=3)
    assert other.run_id != run.run_id


def marked_words(how: str, **more: Any) -> Any:
    """A tokenizer that marks a word's beginning and puts such a mark before the text, as Llama 2's and Mistral's do."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    if how == "normalizer":
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=how, split=False)
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=200, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False)
    tokenizer.train_from_iterator(["One, two, three and two. The keys <user> <assistant> so on ."] * 3, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>", **more)


@pytest.mark.parametrize("how", ["normalizer", "always", "first"])
@pytest.mark.parametrize(
    ("prompt", "completion"),
    [
        ("One, tw", "o, three"),
        ("One,", " two"),
        ("One, ", "two"),
        ("One,", "  two "),
        ("One, two", " "),
        ("The k", "ey"),
    ],
)
def test_a_completion_is_kept_as_it_is_by_a_tokenizer_that_puts_a_space_before_a_text(
    toy_model: Model, tmp_path: Path, how: str, prompt: str, completion: str
) -> None:
    model = replace(toy_model, tokenizer=marked_words(how))
    actlake.capture(tmp_path, model, [{"prompt": prompt, "completion": completion}], record=[])
    generation = actlake.open(tmp_path).generation(0)
    assert (generation.prompt, generation.completion) == (prompt, completion)
    assert "".join(generation.tokens["token"][generation.tokens["is_generated"]]) == completion


@pytest.mark.parametrize("how", ["normalizer", "always", "first"])
def test_a_supplied_answer_of_a_chat_is_kept_as_it_is_too(toy_model: Model, tmp_path: Path, how: str) -> None:
    template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{{ end }}"
    question, answer = {"role": "user", "content": "One, tw"}, {"role": "assistant", "content": "o, three"}
    model = replace(toy_model, tokenizer=marked_words(how, chat_template=template))
    actlake.capture(tmp_path, model, [{"messages": [question, answer]}], record=[])
    generation = actlake.open(tmp_path).generation(0)
    assert (generation.prompt, generation.completion) == ("<user>One, tw", "o, three")


def test_a_completion_that_the_tokenizer_cannot_say_is_refused(toy_model: Model, tmp_path: Path) -> None:
    model = replace(toy_model, tokenizer=marked_words("first"))
    with pytest.raises(InvalidPrompt, match=r"prompt 2: the tokenizer of .* makes ' two<unk>' of ' two😀'"):
        actlake.capture(tmp_path / "s", model, ["good", {"prompt": "One,", "completion": " two😀"}])
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("record", "problem"),
    [({"completion": 3}, '"completion" is not a text'), ({"completion": "\ud800"}, "half a character")],
)
def test_a_bad_completion_is_named(toy_model: Model, tmp_path: Path, record: dict[str, Any], problem: str) -> None:
    with pytest.raises(InvalidPrompt, match=f"prompt 2: .*{problem}"):
        actlake.capture(tmp_path / "s", toy_model, ["good", {"prompt": "a"} | record])
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("record", "problem"),
    [
        (
            {"prompt": "a", "completion": "!" * 64},
            "the prompt and its completion have 65 tokens .* shorten them to 64 tokens",
        ),
        (
            {"text": "!" * 65},
            "the text has 65 tokens and the model's context holds 64; shorten it to 64 tokens or fewer",
        ),
        (
            {"prompt": "!" * 64},
            "the prompt has 64 tokens .* so nothing could follow it; shorten it to 63 tokens or fewer",
        ),
    ],
)
def test_what_leaves_the_context_is_counted_and_what_fits_is_said(
    toy_model: Model, tmp_path: Path, record: dict[str, Any], problem: str
) -> None:
    assert toy_model.context == 64
    with pytest.raises(PromptTooLong, match=f"prompt 1: {problem}") as raised:
        actlake.capture(tmp_path / "s", toy_model, [record])
    assert str(pickle.loads(pickle.dumps(raised.value))) == str(raised.value)
    shorter = {name: text.replace("!", "", 1) for name, text in record.items()}
    assert actlake.capture(tmp_path / "s", toy_model, [shorter], record=[]).n_captured == 1
