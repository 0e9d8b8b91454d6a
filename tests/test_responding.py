"""Means and effect sizes of neurons at two kinds of positions, by hand and beside NumPy in double precision."""

from __future__ import annotations

import numpy as np
import pytest
from actlake.queries.responding import Moments

NEURONS = np.array([0, 2], np.int32)
"""Neuron 1 was not recorded."""


def test_a_neuron_whose_mean_is_thousands_of_deviations_has_its_effect_by_hand() -> None:
    moments = Moments()
    moments.add(np.array([[10003, 1], [9999, 5]], np.float32), np.array([True, False]), NEURONS)
    moments.add(np.array([[10001, 3], [10001, 7]], np.float32), np.array([True, False]), NEURONS)
    found = moments.frame(4)
    assert found["neuron"].tolist() == [0, 2]
    assert found["mean_selected"].tolist() == [10002, 2]
    assert found["mean_others"].tolist() == [10000, 6]
    # squared distances from the two means: 1 + 1 and 1 + 1, over 4 - 2 positions
    np.testing.assert_allclose(found["effect_size"], [2 / 2**0.5, -4 / 2**0.5], rtol=1e-12)


@pytest.mark.parametrize("mean", [0, 1e2, 1e4, -1e5])
@pytest.mark.parametrize("n_batches", [1, 7, 600])
def test_effects_are_those_of_double_precision_whatever_the_mean_and_the_batches(mean: float, n_batches: int) -> None:
    random = np.random.default_rng(0)
    x = (mean + random.standard_normal((3000, 2))).astype(np.float32)
    selected = random.random(3000) < 0.2
    x[selected] += 3
    moments = Moments()
    for some, which in zip(np.array_split(x, n_batches), np.array_split(selected, n_batches), strict=True):
        moments.add(some, which, NEURONS)
    a, b = x[selected].astype(np.float64), x[~selected].astype(np.float64)
    pooled = np.sqrt((len(a) * a.var(axis=0) + len(b) * b.var(axis=0)) / (len(x) - 2))
    found = moments.frame(0)
    np.testing.assert_allclose(found["effect_size"], (a.mean(axis=0) - b.mean(axis=0)) / pooled, rtol=1e-5)
    np.testing.assert_allclose(found["mean_selected"], a.mean(axis=0), rtol=1e-6, atol=1e-6)
