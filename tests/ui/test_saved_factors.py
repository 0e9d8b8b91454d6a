"""What is read of a saved factorization, against the whole of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import actlake
import numpy as np
import pytest
from actlake.errors import FactorizationNotFound, InvalidOption
from actlake.queries import saved_factors, top_tokens_sql
from actlake.ui.corpus_factors import FactorsAddress, factorization_payload
from actlake.ui.factor_cards import corpus_factors_payload


@pytest.fixture
def saved(tmp_path: Path, write_store: Callable[..., actlake.Store]) -> actlake.Store:
    """A store whose files interleave, with factors of all of its layers."""
    written = [([f"w{i}", " goes", " on", "."], 2) for i in range(7)]
    store = write_store(tmp_path, *written, shards=3)
    store.save(store.factors(3, reruns=1), "all of it")
    store.label("a label", factorization_id=0, factor=1)
    return store


def test_the_strongest_tokens_and_neurons_are_those_of_the_whole(saved: actlake.Store) -> None:
    whole, found = saved.factorization(0), saved_factors(saved, 0, 5)
    for factor in range(3):
        for frame, wanted, value in (
            (found.tokens, whole.top_tokens(factor, 5), "value"),
            (found.neurons, whole.top_neurons(factor, 5), "weight"),
        ):
            mine = frame[frame["factor"] == factor]
            np.testing.assert_allclose(mine[value], wanted[value])
            assert mine[list(wanted)[:2]].to_numpy().tolist() == wanted[list(wanted)[:2]].to_numpy().tolist()
    assert found.labels == {1: "a label"}


@pytest.fixture
def by_hand(saved: actlake.Store) -> actlake.Store:
    """Factors 0 to 2 of factorization 1: some tokens and neurons alike, one token and one neuron, none."""
    factors = saved.factors(3, [1, 0])
    tokens, components = np.zeros_like(factors.tokens), np.zeros_like(factors.components)
    tokens[:, 0] = 0.5
    tokens[[1, 9, 10, 25], 0] = [-1, 1, 2, -1]
    tokens[6, 1] = 1
    n_neurons = len(factors.layers) * len(factors.neuron)
    d_ff, positive = n_neurons // 2, components[:, :n_neurons]
    positive[0, [3, d_ff + 1, d_ff + 2, 5]] = [1, 1, 2, 1]  # layer 1 stands before layer 0
    positive[1, 4] = 1
    assert saved.save(replace(factors, tokens=tokens, components=components)) == 1
    return saved


def test_among_equals_the_earlier_comes_first_and_what_is_0_is_not_among_the_strongest(by_hand: actlake.Store) -> None:
    whole, found = by_hand.factorization(1), saved_factors(by_hand, 1, 5)
    d_ff = len(whole.neuron)
    tokens = {
        0: [(2, 2, 2.0), (0, 1, -1.0), (2, 1, 1.0), (6, 1, -1.0), (0, 0, 0.5)],
        1: [(1, 2, 1.0)],
        2: [],
    }
    neurons = {0: [(0, 2, 2.0), (0, 1, 1.0), (1, 3, 1.0), (1, 5, 1.0)], 1: [(1, 4, 1.0)], 2: []}
    assert d_ff > 5
    for factor in range(3):
        for frame, of_whole, wanted in (
            (found.tokens, whole.top_tokens(factor, 5), tokens[factor]),
            (found.neurons, whole.top_neurons(factor, 5), neurons[factor]),
        ):
            mine = frame[frame["factor"] == factor].drop(columns="factor")
            assert list(mine.itertuples(index=False, name=None)) == wanted
            assert list(of_whole.itertuples(index=False, name=None)) == wanted
        assert by_hand.sql(top_tokens_sql(1, 5, factor)).fetchall() == [(factor, *row) for row in tokens[factor]]


def test_a_factor_of_which_no_token_has_any_is_a_card_without_examples(by_hand: actlake.Store) -> None:
    for payload in (
        factorization_payload(by_hand, FactorsAddress(1)),
        corpus_factors_payload(by_hand.factorization(1)),
    ):
        assert [len(card["examples"]) for card in payload["factorization"]["cards"]] == [3, 1, 0]
        assert payload["factorization"]["cards"][2]["contexts"] == {}


def test_contexts_have_the_factors_value_at_every_token(saved: actlake.Store) -> None:
    whole, found = saved.factorization(0), saved_factors(saved, 0, 2, factor=2)
    context = found.contexts(2)
    ids = sorted(set(found.tokens["generation_id"].tolist()))
    assert context["generation_id"].unique().tolist() == ids
    np.testing.assert_array_equal(context["value"], whole.tokens[np.isin(whole.generation_id, ids), 2])
    assert context["token"].tolist()[1:4] == [" goes", " on", "."]


def test_the_sql_to_copy_gives_the_same_tokens(saved: actlake.Store) -> None:
    rows = saved.sql(top_tokens_sql(0, 4, 1)).df()
    assert rows.equals(saved_factors(saved, 0, 4, 1).tokens)


def test_what_is_not_there_is_one_clear_error(saved: actlake.Store) -> None:
    with pytest.raises(FactorizationNotFound):
        saved_factors(saved, 5)
    with pytest.raises(InvalidOption, match="there are factors 0 to 2"):
        saved_factors(saved, 0, factor=3)
    with pytest.raises(InvalidOption, match="give a whole number from 1 to 100"):
        saved_factors(saved, 0, 0)
