"""What "copy as" copies runs as it stands and gives what the view draws."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import actlake
import actlake.capture
import numpy as np
import pandas as pd
import pytest
from actlake.ui.address import GenerationAddress
from actlake.ui.maps import activations_payload, layers_payload
from actlake.ui.opening import opening
from actlake.ui.reproduce import python_of, sql_of
from actlake.ui.strip import factors_payload, saliency_payload
from actlake.ui.views import payload_of, watched_payload_of


def run(python: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(python, names)
    return names


def drawn(store: actlake.Store, query: str) -> tuple[GenerationAddress, actlake.Generation, dict[str, Any]]:
    """What an address draws."""
    address = GenerationAddress.parse(query)
    generation = store.generation(address.id)
    return address, generation, payload_of(store, generation, address)


@pytest.mark.parametrize(
    "query", ["?id=0", "?id=0&method=grad_dot_input", "?id=1&by=word", "?id=0&by=line&method=grad_norm"]
)
def test_the_code_of_saliency_gives_its_shares(store: actlake.Store, query: str) -> None:
    address, generation, payload = drawn(store, query)
    shares = run(python_of(store, generation, address))["shares"]
    assert saliency_payload(generation, shares) == payload
    sql = sql_of(generation, address)
    assert bool(sql) == (address.by == "token")
    if sql:
        told = store.sql(sql).fetchnumpy()
        np.testing.assert_allclose(
            told["share"], shares[told["output_position"] - 6, told["input_position"]], rtol=1e-9
        )


@pytest.mark.parametrize(
    "query",
    [
        "?id=0&view=factors",
        "?id=2&view=factors",
        "?id=0&view=factors&k=3&layers=1",
        "?id=0&view=factors&factor_method=pca&positions=generated",
        "?id=0&view=factors&k=2&scale=1&seed=3&negatives=clip&reruns=2",
    ],
)
def test_the_code_of_factors_gives_them(store: actlake.Store, query: str) -> None:
    address, generation, payload = drawn(store, query)
    factors = run(python_of(store, generation, address))["factors"]
    assert factors_payload(generation, factors) == payload
    assert sql_of(generation, address) == ""


@pytest.mark.parametrize(
    "query",
    [
        "?id=0&view=activations",
        "?id=0&view=activations&order=kmeans&clusters=3&layer=0&most=7",
        "?id=0&view=activations&order=agglomerative&most=5",
        "?id=0&view=activations&order=kmeans&clusters=64",
        "?id=0&view=activations&clusters=64&most=3",
    ],
)
def test_the_code_of_the_heat_map_gives_it(store: actlake.Store, query: str) -> None:
    address, generation, payload = drawn(store, query)
    heat_map = run(python_of(store, generation, address))["heat_map"]
    assert activations_payload(generation, heat_map) | {"links": payload["links"]} == payload
    told = store.sql(sql_of(generation, address)).fetchnumpy()
    activations = np.full((14, 12), np.nan, np.float32)
    activations[told["position"], told["neuron"]] = told["activation"]
    np.testing.assert_array_equal(activations, generation.activations([heat_map.layer]))


def test_the_code_of_layers_gives_their_predictions(tmp_path: Path, write_store: Callable[..., actlake.Store]) -> None:
    store = write_store(tmp_path, (["a", "b", "c", "d"], 2), recorded=["layer_predictions"])
    address, generation, payload = drawn(store, "?id=0&view=layers")
    predictions = run(python_of(store, generation, address))["predictions"]
    assert layers_payload(generation, predictions) == payload
    told = store.sql(sql_of(generation, address)).df()
    pd.testing.assert_frame_equal(told, predictions[list(told.columns)], check_dtype=False)


@pytest.fixture(scope="module", params=[["hidden_states"], ["hidden_states", "layer_predictions"]])
def asked_store(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, toy_model: actlake.capture.Model
) -> actlake.Store:
    """A store of hidden states, without predictions and with them."""
    folder = tmp_path_factory.mktemp("asked")
    actlake.capture(folder, toy_model, [" 1, 2,"], max_new_tokens=3, record=request.param)
    return actlake.open(folder)


@pytest.mark.parametrize(
    ("query", "position"),
    [("?id=0&view=layers", None), ("?id=0&view=layers&watch=1%0A2&cell=2.1", 1), ("?id=0&view=layers&watch=2", 3)],
)
@pytest.mark.parametrize("is_served", [True, False])
def test_the_code_of_what_the_model_says_now_gives_it(
    asked_store: actlake.Store,
    toy_model: actlake.capture.Model,
    toy_folder: Path,
    query: str,
    position: int | None,
    is_served: bool,
) -> None:
    address = GenerationAddress.parse(query)
    generation = asked_store.generation(0)
    payload = watched_payload_of(generation, address, toy_model)
    made = run(python_of(asked_store, generation, address, str(toy_folder) if is_served else None))
    again = layers_payload(generation, made["predictions"], made.get("watched"), position or 0)
    assert again == payload
    assert (payload["layers"]["watched"] is None) == (position is None)
    assert bool(sql_of(generation, address)) == ("layer_predictions" in generation.recorded)
    if position is not None:
        assert payload["layers"]["watched"]["position"] == position
        watch = list(address.watch)
        shown = generation.show("layers", model=toy_model, watch=watch, position=position)
        assert "watched" in str(shown._repr_html_())


def test_what_is_copied_from_a_store_of_the_past_opens_it_at_that_commit(store: actlake.Store) -> None:
    past = actlake.open(store.uri, at=store.snapshot.version)
    assert opening(past) == f"import actlake\n\nstore = actlake.open({store.uri!r}, at={store.snapshot.version})\n"
    assert opening(store) == f"import actlake\n\nstore = actlake.open({store.uri!r})\n"
