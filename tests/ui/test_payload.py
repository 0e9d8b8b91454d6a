"""What the strip is given to draw, and the table of the corpus: asked for without a browser."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable

import actlake
import numpy as np
import pytest
from actlake.queries import FACTOR_METHODS, METHODS, FactorMethod, Method
from actlake.ui.corpus import corpus_heading, empty_corpus
from actlake.ui.generation import generation_texts
from actlake.ui.strip import factors_payload, saliency_payload

WriteStore = Callable[..., actlake.Store]


def float32(text: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), "<f4")


@pytest.mark.parametrize("method", METHODS)
def test_the_shares_that_are_drawn_are_the_shares_of_the_generation(store: actlake.Store, method: Method) -> None:
    generation = store.generation(0)
    shares = generation.saliency(method)
    drawn = saliency_payload(generation, shares)["saliency"]
    assert drawn["signed"] == (method == "grad_dot_input")
    assert drawn["outputs"] == list(range(6, 14))
    drawn_shares = float32(drawn["shares"]).reshape(8, 14)
    np.testing.assert_array_equal(drawn_shares[:, :13], shares.astype(np.float32))
    assert not drawn_shares[:, 13].any()


def test_the_factors_that_are_drawn_are_the_factors_of_the_generation(store: actlake.Store) -> None:
    generation = store.generation(0)
    factors = generation.factors(3, layers=[1])
    drawn = factors_payload(generation, factors)["factors"]
    assert (drawn["k"], drawn["layers"], drawn["error"]) == (3, [1], factors.error)
    np.testing.assert_array_equal(float32(drawn["values"]).reshape(14, 3), factors.tokens)


@pytest.mark.parametrize("method", FACTOR_METHODS)
def test_factors_explain_the_variance_where_a_mean_was_taken_and_the_energy_elsewhere(
    store: actlake.Store, method: FactorMethod
) -> None:
    generation = store.generation(0)
    factors = generation.factors(2, method=method)
    drawn = factors_payload(generation, factors)["factors"]
    assert drawn["explained_of"] == ("energy" if factors.mean is None else "variance")


def test_a_payload_is_json_and_says_null_where_nothing_predicted_a_token(store: actlake.Store) -> None:
    generation = store.generation(0)
    payload = saliency_payload(generation, generation.saliency())
    tokens = json.loads(json.dumps(payload, allow_nan=False))["tokens"]
    assert tokens["text"][:3] == [" 1", ",", " 2"]
    assert tokens["id"][:3] == [100, 101, 102]
    assert tokens["generated"] == [False] * 6 + [True] * 8
    assert tokens["logprob"][0] is None
    assert tokens["rank"][0] is None
    assert tokens["logprob"][1] < 0
    assert tokens["rank"][1] >= 1


def test_a_prompt_without_a_completion_has_no_row_of_shares(store: actlake.Store) -> None:
    generation = store.generation(2)
    assert saliency_payload(generation, generation.saliency())["saliency"]["shares"] == ""


def test_texts_of_the_store_are_escaped_in_markup(store: actlake.Store) -> None:
    markup = generation_texts(store.generation(1))
    assert "<script>" not in markup
    assert "<img" not in markup
    assert "&lt;script&gt;" in markup
    assert "&lt;b&gt;" in corpus_heading("<b>", 3)


def test_an_empty_corpus_says_how_to_capture_into_it() -> None:
    assert "actlake capture &#39;my corpus&#39; --model smollm2-135m" in empty_corpus("my corpus")
