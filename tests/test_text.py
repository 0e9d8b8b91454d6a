"""Tokens as text: their bytes, and the characters that each covers."""

from typing import Any

import pytest
from actlake.capture import Model
from actlake.capture.text import TokenText
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

WORDS = "hé 😀 – ünï <x> the keys 1, 2,\n\t🏳️‍🌈"


@pytest.fixture(scope="module")
def sentencepiece() -> Any:
    """Pieces with word marks and byte fallback, a start token, and a normalizer that changes the text, as Llama 2's."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *"abcdefghijklmnopqrstuvwxyz"]
    tokenizer = Tokenizer(models.BPE({p: i for i, p in enumerate(pieces)}, [], unk_token="<unk>", byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


@given(prompt=st.text(min_size=1).filter(lambda t: t.isprintable()), completion=st.text())
def test_the_spans_of_a_byte_level_tokenizer_cover_the_text_in_order(
    toy_model: Model, prompt: str, completion: str
) -> None:
    text = toy_model.text
    prompt_ids, completion_ids = (toy_model.tokenizer(part)["input_ids"] for part in (prompt, completion))
    starts, ends = text.spans(prompt, prompt_ids, completion_ids)
    whole = prompt + text.completion(completion_ids)
    assert text.completion(completion_ids) == completion
    covered = 0
    for start, end, token_id in zip(starts, ends, [*prompt_ids, *completion_ids], strict=True):
        assert start <= covered <= end  # no gap; a character of several tokens belongs to all of them
        covered = end
        assert text.bytes_of(token_id) in whole[start:end].encode()
    assert covered == len(whole)


def test_bytes_that_are_not_a_character_are_shown_as_hexadecimal(toy_model: Model) -> None:
    ids = toy_model.tokenizer("😀")["input_ids"]
    assert "".join(toy_model.text.text_of(i) for i in ids) == "<0xF0><0x9F><0x98><0x80>"


def test_a_completion_that_ends_within_a_character_says_so(toy_model: Model) -> None:
    ids = toy_model.tokenizer("a😀")["input_ids"][:-1]
    assert toy_model.text.completion(ids) == "a\ufffd\ufffd\ufffd"
    starts, ends = toy_model.text.spans("b", toy_model.tokenizer("b")["input_ids"], ids)
    assert (starts[-1], ends[-1]) == (4, 5)


def test_sentencepiece_tokens_read_as_text_and_the_start_token_covers_nothing(sentencepiece: Any) -> None:
    text = TokenText(sentencepiece)
    prompt = "ab é"
    ids = sentencepiece(prompt)["input_ids"]
    assert [text.text_of(i) for i in ids] == ["<s>", " ", "a", "b", " ", "<0xC3>", "<0xA9>"]
    starts, ends = text.spans(prompt, ids, sentencepiece("cd", add_special_tokens=False)["input_ids"])
    assert (starts[0], ends[0]) == (0, 0)
    assert (starts[2], ends[2]) == (0, 1)
    assert ends[6] == 4
    assert (starts[-1], ends[-1]) == (6, 7)


def test_special_tokens_are_known_and_left_out_of_the_completion(toy_model: Model) -> None:
    end = toy_model.end_ids[0]
    assert toy_model.text.is_special(end)
    assert toy_model.text.completion([*toy_model.tokenizer("ab")["input_ids"], end]) == "ab"
    starts, ends = toy_model.text.spans("x", toy_model.tokenizer("x")["input_ids"], [end])
    assert (starts[-1], ends[-1]) == (1, 1)


def test_a_word_level_tokenizer_is_read_too() -> None:
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="b"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    text = TokenText(PreTrainedTokenizerFast(tokenizer_object=tokenizer))
    starts, ends = text.spans("a b", [0, 1], [0])
    assert (starts.tolist(), ends.tolist()) == ([0, 2, 3], [1, 3, 4])
