"""Tokens put together to words and lines, and the saliency of those."""

from __future__ import annotations

from pathlib import Path

import actlake
import numpy as np
import pytest
from actlake.errors import InvalidOption
from actlake.queries import METHODS
from actlake.queries.saliency import SaliencyMatrix, merged
from actlake.queries.words import BYS, By, token_groups, within
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays


def texts_of(pieces: list[str], by: By, special: frozenset[int] = frozenset()) -> list[str]:
    """The texts of the groups of a text that was cut into these pieces."""
    lengths = np.array([len(piece) for piece in pieces], np.int64)
    ends = np.cumsum(lengths)
    starts = ends - lengths
    text = "".join(pieces)
    is_special = np.array([number in special for number in range(len(pieces))], bool)
    groups = token_groups(text, starts, ends, is_special, by)
    assert [position for first, last in groups for position in range(first, last + 1)] == list(range(len(pieces)))
    return ["".join(pieces[first : last + 1]) for first, last in groups]


@pytest.mark.parametrize(
    ("pieces", "words"),
    [
        (["The", " key", "s", " to", " the", " cab", "inet"], ["The", " keys", " to", " the", " cabinet"]),
        (["don", "'", "t", " go", "."], ["don't", " go", "."]),
        ([" ", "3", ".", "14", ",", " 2"], [" 3.14", ",", " 2"]),
        (["in", "t x", "_", "y", "=", "=", "1"], ["int x_y", "=", "=", "1"]),
        (["a", "\n", "\n", "  ", "b"], ["a", "\n", "\n", "  b"]),
        (["well", "-", "known", " "], ["well", "-", "known", " "]),
        (["歐", "盟國", "家", "的"], ["歐", "盟國", "家", "的"]),
        (["nai", "\u0308", "ve", " caf", "é"], ["nai\u0308ve", " café"]),
        (["אי", "רופה", " היא"], ["אירופה", " היא"]),
        (["x"], ["x"]),
        ([], []),
    ],
)
def test_words_are_those_of_the_text(pieces: list[str], words: list[str]) -> None:
    assert texts_of(pieces, "word") == words


def test_tokens_that_share_a_character_are_one_word() -> None:
    starts, ends = (
        np.array([0, 1, 1, 2, 2, 2]),
        np.array([1, 2, 2, 3, 3, 4]),
    )  # "a", two bytes of é, three of 盟, one with 國
    groups = token_groups("aé盟國", starts, ends, np.zeros(6, bool), "word")
    assert groups == [(0, 2), (3, 5)]


def test_special_tokens_stand_alone() -> None:
    pieces = ["<s>", "<s>", "Hel", "lo", "</s>"]
    assert texts_of(pieces, "word", frozenset({0, 1, 4})) == ["<s>", "<s>", "Hello", "</s>"]
    assert texts_of(pieces, "line", frozenset({0, 1, 4})) == ["<s>", "<s>", "Hello", "</s>"]


def test_a_line_ends_with_the_token_that_has_its_newline() -> None:
    pieces = ["One", " two", ".\n", "Three", "\n", "\n", "four"]
    assert texts_of(pieces, "line") == ["One two.\n", "Three\n", "\n", "four"]


@given(st.lists(st.text(min_size=1, max_size=4), max_size=12), st.sampled_from(BYS))
def test_groups_follow_one_another_and_hold_every_token_once(pieces: list[str], by: By) -> None:
    found = texts_of(pieces, by)
    assert "".join(found) == "".join(pieces)
    if by == "token":
        assert found == pieces
    if by == "line":
        assert all("\n" not in line.rstrip("\n") or any("\n" in piece[:-1] for piece in pieces) for line in found)


def test_groups_are_cut_to_the_positions_that_are_there() -> None:
    groups = [(0, 1), (2, 4), (5, 5), (6, 9)]
    assert within(groups, range(3, 8)) == [(3, 4), (5, 5), (6, 7)]
    assert within(groups, [0, 2, 4, 9]) == [(0, 0), (2, 2), (4, 4), (9, 9)]
    assert within(groups, []) == []


MATRICES = arrays(np.float64, st.tuples(st.integers(1, 6), st.integers(6, 9)), elements=st.floats(-9, 9, width=16))
CUTS = st.sets(st.integers(0, 9))


@given(MATRICES, CUTS, st.booleans())
def test_shares_of_groups_sum_to_1_and_scores_add_up(scores: np.ndarray, cuts: set[int], signed: bool) -> None:
    outputs, inputs = scores.shape
    scores = scores if signed else np.abs(scores)
    ends = sorted({*cuts, inputs})
    groups = list(zip([0, *(end + 1 for end in ends)], ends, strict=False))
    positions = list(range(inputs - outputs + 1, inputs + 1))
    found = merged(SaliencyMatrix(scores, "grad_x_input", "logit"), groups, positions, "word")
    assert found.groups is not None
    assert found.scores is not None
    for r, (first, last) in enumerate(found.groups.rows):
        rows = scores[[positions.index(p) for p in range(first, last + 1)]]
        for c, (start, end) in enumerate(found.groups.columns):
            assert found.scores[r, c] == pytest.approx(rows[:, start : end + 1].sum(), abs=1e-9)
    sums = np.abs(np.asarray(found)).sum(axis=1)
    np.testing.assert_allclose(sums[np.abs(found.scores).sum(axis=1) > 0], 1)
    assert found.scores.sum() == pytest.approx(scores.sum(), abs=1e-9)
    assert (found.target, found.by) == ("logit", "word")


@pytest.mark.parametrize("method", METHODS)
def test_saliency_by_token_is_saliency_and_by_word_has_its_sums(opened: actlake.Store, method: str) -> None:
    for number in (0, 1, 3, 4):
        generation = opened.generation(number)
        tokens, words = generation.saliency(method), generation.saliency(method, by="word")
        assert tokens.groups is not None
        assert words.groups is not None
        assert tokens.groups.rows == [(p, p) for p in range(generation.n_prompt_tokens, generation.n_tokens)]
        assert tokens.groups.columns == [(p, p) for p in range(generation.n_tokens - 1)]
        assert words.shape == (len(words.groups.rows), len(words.groups.columns))
        assert words.scores is not None
        assert tokens.scores is not None
        assert words.scores.sum() == pytest.approx(tokens.scores.sum())
        assert words.groups.rows[0][0] == generation.n_prompt_tokens
        assert words.groups.columns[-1][1] == generation.n_tokens - 2
        assert tokens.target == words.target == "logit"
        np.testing.assert_allclose(np.abs(np.asarray(words)).sum(axis=1), 1)


def test_what_nothing_is_known_by_is_an_error() -> None:
    with pytest.raises(InvalidOption, match="choose one of token, word, line"):
        texts_of(["a"], "sentence")  # type: ignore[arg-type]


def test_the_target_of_a_run_is_told(tmp_path: Path, toy_folder: Path) -> None:
    for target in ("logprob", "contrast"):
        options = {"max_new_tokens": 3, "gradient_target": target, "record": ("embeddings", "gradients")}
        actlake.capture(tmp_path / target, str(toy_folder), ["One, two,"], **options)
        generation = actlake.open(tmp_path / target).generation(0)
        assert generation.gradient_target == target
        assert generation.saliency(by="line").target == target
    actlake.capture(tmp_path / "scores", str(toy_folder), ["One, two,"], max_new_tokens=3, gradients="scores")
    assert actlake.open(tmp_path / "scores").generation(0).saliency("grad_norm", "word").target == "logit"


def test_a_text_without_outputs_has_no_rows(opened: actlake.Store) -> None:
    matrix = opened.generation(2).saliency(by="word")
    assert matrix.groups is not None
    assert len(matrix) == len(matrix.groups.rows) == 0
