"""What "copy as" copies runs as it stands and gives the numbers of the view."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import actlake
import actlake.capture
import numpy as np
import pandas as pd
import pytest
from actlake.ui.address import GenerationAddress
from actlake.ui.reproduce import python_of, sql_of
from actlake.ui.views import factors_of, k_of, layer_of, watched_payload_of


def run(python: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(python, names)
    return names


def code_of(store: actlake.Store, address: GenerationAddress) -> tuple[str, str]:
    generation = store.generation(address.id)
    k, layer = k_of(generation, address), layer_of(generation, address)
    return python_of(store.uri, address, k, layer), sql_of(address, layer)


@pytest.mark.parametrize(
    "query", ["?id=0", "?id=0&method=grad_dot_input", "?id=1&by=word", "?id=0&by=line&method=grad_norm"]
)
def test_the_code_of_saliency_gives_its_shares(store: actlake.Store, query: str) -> None:
    address = GenerationAddress.parse(query)
    shown = store.generation(address.id).saliency(address.method, address.by)
    python, sql = code_of(store, address)
    np.testing.assert_array_equal(run(python)["shares"], shown)
    assert bool(sql) == (address.by == "token")
    if sql:
        told = store.sql(sql).fetchnumpy()
        np.testing.assert_allclose(told["share"], shown[told["output_position"] - 6, told["input_position"]], rtol=1e-9)


@pytest.mark.parametrize(
    "query",
    [
        "?id=0&view=factors&k=3&layers=1",
        "?id=0&view=factors&factor_method=pca&positions=generated",
        "?id=0&view=factors&k=2&scale=1&seed=3&negatives=clip&reruns=2",
    ],
)
def test_the_code_of_factors_gives_them(store: actlake.Store, query: str) -> None:
    address = GenerationAddress.parse(query)
    shown = factors_of(store.generation(0), address)
    python, sql = code_of(store, address)
    factors = run(python)["factors"]
    np.testing.assert_array_equal(factors.tokens, shown.tokens)
    assert (factors.stability is None) == (address.reruns == 0)
    assert sql == ""


@pytest.mark.parametrize(
    "query", ["?id=0&view=activations", "?id=0&view=activations&order=kmeans&clusters=3&layer=0&most=7"]
)
def test_the_code_of_the_heat_map_gives_its_activations(store: actlake.Store, query: str) -> None:
    address = GenerationAddress.parse(query)
    python, sql = code_of(store, address)
    heat_map = run(python)["heat_map"]
    generation = store.generation(0)
    layer = layer_of(generation, address)
    shown = generation.heat_map(layer, address.order, n_clusters=address.clusters, most=address.most)
    np.testing.assert_array_equal(heat_map.values, shown.values)
    np.testing.assert_array_equal(heat_map.neurons, shown.neurons)
    told = store.sql(sql).fetchnumpy()
    activations = np.full((14, 12), np.nan, np.float32)
    activations[told["position"], told["neuron"]] = told["activation"]
    np.testing.assert_array_equal(activations, generation.activations([layer]))


def test_the_code_of_layers_gives_its_predictions(tmp_path: Path, write_store: Callable[..., actlake.Store]) -> None:
    store = write_store(tmp_path, (["a", "b", "c", "d"], 2), recorded=["layer_predictions"])
    address = GenerationAddress.parse("?id=0&view=layers")
    shown = store.generation(0).layer_predictions()
    python, sql = code_of(store, address)
    pd.testing.assert_frame_equal(run(python)["predictions"], shown)
    pd.testing.assert_frame_equal(store.sql(sql).df(), shown[list(store.sql(sql).columns)], check_dtype=False)


def test_watched_tokens_are_drawn_with_their_ranks_at_the_pinned_cell(
    tmp_path: Path, toy_model: actlake.capture.Model
) -> None:
    actlake.capture(tmp_path, toy_model, [" 1, 2,"], max_new_tokens=3, record=["hidden_states"])
    generation = actlake.open(tmp_path).generation(0)
    address = GenerationAddress.parse("?id=0&view=layers&watch=1%0A2&cell=2.1")
    assert address.watch == ("1", "2")
    drawn = watched_payload_of(generation, address, toy_model)["layers"]["watched"]
    expected = generation.watched(toy_model, ["1", "2"], 1)
    ranks = np.frombuffer(base64.b64decode(drawn["ranks"]), "<i4").reshape(2, 3)
    assert (drawn["tokens"], drawn["layers"], drawn["position"]) == (["1", "2"], [0, 1, 2], 1)
    for row, token in zip(ranks, ["1", "2"], strict=True):
        assert row.tolist() == expected[expected["token"] == token].sort_values("layer")["rank"].tolist()
    assert "gen.watched(load_model(gen.model), ['1', '2'], 1)" in python_of("store", address, 5, 0)
    shown = generation.show("layers", model=toy_model, watch=["1", "2"], position=1)
    assert shown.watched is not None
    assert "watched" in str(shown._repr_html_())
