"""Statistics of activations: what the kernels and PyTorch measure, and adding them up, against plain loops."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from actlake.capture.measuring import Measuring
from actlake.store.partials import EXAMPLES, Measured, added, by_kind, in_order, measured, partial_rows
from actlake.store.precision import PRECISIONS, Precision, rounded
from actlake.store.statistics import kinds_of, statistics_of
from hypothesis import given
from hypothesis import strategies as st
from stores import a_generation

Rows = list[dict[str, Any]]


def by_hand(values: np.ndarray, tokens: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """The statistics of a neuron, by a plain loop; its tokens are sorted."""
    bins = [int(value) >> 20 for value in values.view(np.uint32)]
    row: dict[str, Any] = {
        "n": len(values),
        "mean": float(values.astype(np.float64).mean()),
        "m2": float(((values.astype(np.float64) - values.astype(np.float64).mean()) ** 2).sum()),
        "min": float(values.min()),
        "max": float(values.max()),
        "n_active": sum(value > 0 for value in values.tolist()),
        "bins": sorted(set(bins)),
        "bin_counts": [bins.count(each) for each in sorted(set(bins))],
    }
    for sign, name in ((1, "positive"), (-1, "negative")):
        found = sorted((-sign * float(value), token) for value, token in zip(values, tokens, strict=True))
        found = [(activation, token) for activation, token in found if activation < 0][:EXAMPLES]
        row[f"{name}_generation_id"] = [token[0] for _, token in found]
        row[f"{name}_position"] = [token[1] for _, token in found]
        row[f"{name}_activation"] = [-sign * activation for activation, _ in found]
    return row


def assert_like(rows: Rows, expected: Rows) -> None:
    """The same rows, but for the last bits of moments."""
    assert len(rows) == len(expected)
    for row, wanted in zip(rows, expected, strict=True):
        for name in ("mean", "m2"):
            assert row[name] == pytest.approx(wanted[name], rel=1e-9, abs=1e-9)
        assert {name: row[name] for name in wanted if name not in ("mean", "m2")} == {
            name: value for name, value in wanted.items() if name not in ("mean", "m2")
        }


def rows_of(values: np.ndarray, run_id: np.ndarray, special: np.ndarray, tokens: list[tuple[int, int]]) -> pa.Table:
    generation_id, position = (np.array(each) for each in zip(*tokens, strict=True))
    kinds = by_kind(run_id, special, generation_id, position.astype(np.int32))
    found = measured(values.__getitem__, values.shape[0], values.shape[1], kinds)
    neurons = np.arange(len(values), dtype=np.int32)
    return in_order([partial_rows(*of_kind, 7, neurons, 1) for of_kind in zip(kinds, found, strict=True)])


def some_values(draw: np.random.Generator, n: int, n_tokens: int) -> np.ndarray:
    """Activations of many sizes, of which many are equal and some are 0."""
    values = draw.normal(size=(n, n_tokens)) * 10.0 ** draw.integers(-4, 4, (n, 1))
    return rounded((values * draw.integers(0, 2, values.shape)).astype(np.float32), "bfloat16")


@given(st.integers(0, 2**32), st.integers(1, 150), st.integers(1, 5), st.integers(1, 6))
def test_statistics_of_parts_add_up_to_those_of_all_and_are_those_of_a_plain_loop(
    seed: int, n_tokens: int, n: int, n_parts: int
) -> None:
    draw = np.random.default_rng(seed)
    values = some_values(draw, n, n_tokens)
    tokens = [(int(each) // 10, int(each) % 10) for each in np.sort(draw.choice(1000, n_tokens, replace=False))]
    special, run_id = draw.integers(0, 2, n_tokens).astype(bool), np.array([token[0] // 50 for token in tokens])
    part_of = draw.integers(0, n_parts, n_tokens)
    parts = []
    for part in np.unique(part_of).tolist():
        (which,) = np.nonzero(part_of == part)
        parts.append(rows_of(values[:, which], run_id[which], special[which], [tokens[i] for i in which]))
    together = added(pa.concat_tables(parts[::-1]), 5).to_pylist()
    expected = []
    for neuron in range(n):
        for run in np.unique(run_id).tolist():
            for is_special in (False, True):
                (which,) = np.nonzero((run_id == run) & (special == is_special))
                if len(which):
                    key = {"layer": 7, "neuron": neuron, "segment_id": 5, "run_id": run, "is_special": is_special}
                    expected.append(key | by_hand(values[neuron, which], [tokens[i] for i in which]))
    assert_like(together, expected)
    whole = rows_of(values, run_id, special, tokens).to_pylist()
    assert_like(whole, [row | {"segment_id": 1} for row in expected])


@pytest.mark.parametrize("precision", PRECISIONS)
def test_what_is_measured_where_it_was_computed_is_what_is_measured_as_it_is_written(precision: Precision) -> None:
    draw = np.random.default_rng(3)
    lengths = [40 - 7 * number for number in range(4)]
    activations = [{layer: some_values(draw, n, 300) for layer in (1, 3)} for n in lengths]
    generations = [
        replace(a_generation(number, n, 2), activations=of_one)
        for number, (n, of_one) in enumerate(zip(lengths, activations, strict=True))
    ]
    for each in generations:
        each.tokens.is_special[:] = draw.integers(0, 2, each.n_tokens) == 0
    on_host = statistics_of(generations, precision)
    order = [2, 0, 3, 1]  # in which the batch has them
    token_ids = [[2 * number + int(each) for each in generations[number].tokens.is_special] for number in order]
    measuring = Measuring([order.index(number) for number in range(4)], lambda token_id: token_id % 2 == 1, precision)
    layers = {
        layer: torch.from_numpy(np.concatenate([generations[number].activations[layer] for number in order]))  # type: ignore[index]
        for layer in on_host
    }
    measuring.see(layers, token_ids)
    kinds, neurons = kinds_of(generations), np.arange(300, dtype=np.int32)
    for layer, of_layer in on_host.items():
        ours, theirs = (
            in_order([partial_rows(*each, layer, neurons, 0) for each in zip(kinds, of, strict=True)]).to_pylist()
            for of in (of_layer, measuring.statistics[layer])
        )
        assert_like(theirs, ours)


def test_the_statistics_of_more_neurons_are_those_of_some_and_the_others() -> None:
    values = some_values(np.random.default_rng(5), 9, 70)
    kinds = by_kind(np.zeros(70, int), np.zeros(70, bool), np.zeros(70, int), np.arange(70, dtype=np.int32))
    (whole,) = measured(values.__getitem__, 9, 70, kinds)
    parts = [measured(part.__getitem__, len(part), 70, kinds)[0] for part in (values[:4], values[4:])]
    neurons = np.arange(9, dtype=np.int32)
    assert partial_rows(kinds[0], Measured.joined(parts), 0, neurons, 0) == partial_rows(kinds[0], whole, 0, neurons, 0)


def test_tokens_that_are_added_up_keep_the_numbers_of_their_generations_to_the_last() -> None:
    generation_id, position = np.array([2**62 + 1, 2**62 + 3]), np.array([4, 2**31 - 1], np.int32)
    (kind,) = by_kind(np.zeros(2, int), np.zeros(2, bool), generation_id, position)
    (found,) = measured(np.array([[1.0, -2.0]], np.float32).__getitem__, 1, 2, [kind])
    (row,) = added(partial_rows(kind, found, 0, np.zeros(1, np.int32), 1), 2).to_pylist()
    assert (row["positive_generation_id"], row["negative_generation_id"]) == ([2**62 + 1], [2**62 + 3])
    assert (row["positive_position"], row["negative_position"]) == ([4], [2**31 - 1])
