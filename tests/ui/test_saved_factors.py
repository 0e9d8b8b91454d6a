"""What is read of a saved factorization, against the whole of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import actlake
import numpy as np
import pytest
from actlake.errors import FactorizationNotFound, InvalidOption
from actlake.queries import saved_factors, top_tokens_sql


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
