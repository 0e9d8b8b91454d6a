"""Factors that are streamed from a store: what memory would give, within bounds that are said."""

from __future__ import annotations

from pathlib import Path
from threading import Event
from typing import Any

import actlake
import numpy as np
import pytest
import stores
from actlake.errors import Cancelled, InvalidOption
from actlake.queries import FACTOR_METHODS, FactorMethod, FactorOptions, Factors, Negatives, Which
from actlake.queries.factor_corpus import factors_of_slice
from actlake.queries.factor_slice import Slice
from actlake.store import Location, verify
from sklearn.decomposition import NMF
from torch.utils.flop_counter import FlopCounterMode

BLOCK = 4 * 24 * 20
"""Bytes of 20 tokens of two layers."""

ON = ("cpu", "cpu:0")
"""Devices: arrays, and tensors that lie in the same memory."""


@pytest.fixture(scope="module")
def location(tmp_path_factory: pytest.TempPathFactory) -> Location:
    """Sixty generations of seven tokens."""
    location = Location.of(tmp_path_factory.mktemp("stores") / "store")
    stores.a_store(location, units=6, unit_size=10)
    return location


@pytest.fixture
def of(location: Location) -> Slice:
    store = actlake.open(location.uri)
    return Slice.of(store.snapshot, store._reader, generations=None, layers=(3, 0), positions="all")


def streamed(of: Slice, options: FactorOptions, **more: Any) -> Factors:
    return factors_of_slice(of, options, in_memory=0, block_bytes=BLOCK, **more)


def true_error(of: Slice, factors: Factors) -> float:
    x = np.concatenate([of.activations(rows) for rows in of.blocks()]).astype(np.float64)
    if factors.negatives == "split":
        x = np.concatenate([np.maximum(x, 0), np.maximum(-x, 0)], axis=1)
    x = np.maximum(x, 0) if factors.negatives == "clip" else x
    x -= 0 if factors.mean is None else factors.mean
    rest = x - factors.tokens.astype(np.float64) @ factors.components
    return float(np.linalg.norm(rest) / np.linalg.norm(x))


def test_blocks_are_the_generations_arrays(of: Slice, location: Location) -> None:
    store = actlake.open(location.uri)
    blocks = of.blocks(BLOCK)
    assert len(blocks) == 30
    assert {block.stop - block.start for block in blocks} == {14}  # whole generations
    for block in blocks[::7]:
        ids = np.unique(of.generation_id[block])
        expected = np.concatenate([store.generation(int(number)).activations((3, 0)) for number in ids])
        np.testing.assert_array_equal(of.activations(block), expected)


def test_generations_whose_files_overlap_are_in_order(tmp_path: Path) -> None:
    location = Location.of(tmp_path)
    stores.registered(location)
    for ids in ([0, 3], [1, 5], [2, 4]):  # as batches of like lengths are
        stores.capture_unit(location, ids)
    store = actlake.open(tmp_path)
    x = np.concatenate([store.generation(number).activations([3]) for number in range(6)])
    for where in (None, "true"):
        for in_memory in (0, 1 << 20):
            factors = store.factors(2, [3], method="pca", where=where, in_memory_bytes=in_memory)
            assert factors.generation_id.tolist() == np.repeat(range(6), stores.N_TOKENS).tolist()
            assert factors.position.tolist() == [*range(stores.N_TOKENS)] * 6
            np.testing.assert_allclose(factors.tokens, (x - factors.mean) @ factors.components.T, atol=1e-4)


def test_a_generation_that_is_larger_than_a_block_is_cut(of: Slice) -> None:
    blocks = of.blocks(4 * 24 * 3)
    assert [block.stop - block.start for block in blocks[:3]] == [3, 3, 1]
    x = np.concatenate([of.activations(block) for block in blocks[:3]])
    np.testing.assert_array_equal(x, of.activations(slice(0, 7)))


def test_the_streamed_nmf_is_as_good_as_scikit_learns_of_the_whole(of: Slice) -> None:
    x = np.concatenate([of.activations(rows) for rows in of.blocks()])
    x = np.concatenate([np.maximum(x, 0), np.maximum(-x, 0)], axis=1)
    reference = NMF(4, init="nndsvda", max_iter=1000, random_state=0).fit(x).reconstruction_err_ / np.linalg.norm(x)
    for seed in range(3):
        factors = streamed(of, FactorOptions(4, seed=seed))
        assert factors.error == pytest.approx(true_error(of, factors), rel=1e-4)
        assert factors.error <= 1.005 * reference


@pytest.mark.parametrize("method", FACTOR_METHODS)
@pytest.mark.parametrize("scale_layers", [False, True])
def test_what_is_streamed_is_what_memory_gives(of: Slice, method: FactorMethod, scale_layers: bool) -> None:
    options = FactorOptions(3, method, scale_layers=scale_layers)
    ours, theirs = streamed(of, options), factors_of_slice(of, options)
    assert (ours.negatives, ours.layers, ours.k) == (theirs.negatives, theirs.layers, theirs.k)
    assert ours.tokens.shape == theirs.tokens.shape
    assert ours.error <= theirs.error * 1.01
    assert ours.explained.sum() == pytest.approx(1 - ours.error**2, abs=1e-5)
    if not scale_layers:
        assert ours.error == pytest.approx(true_error(of, ours), rel=1e-4)
    if method == "pca":
        np.testing.assert_allclose(ours.explained, theirs.explained, rtol=1e-2)
    if theirs.mean is not None:
        np.testing.assert_allclose(ours.mean, theirs.mean, atol=1e-5)


@pytest.mark.parametrize("method", FACTOR_METHODS)
def test_the_same_seed_streams_the_same_factors(of: Slice, method: FactorMethod) -> None:
    one, two = (streamed(of, FactorOptions(3, method, seed=4)) for _ in range(2))
    np.testing.assert_array_equal(one.tokens, two.tokens)
    np.testing.assert_array_equal(one.components, two.components)


@pytest.mark.parametrize("negatives", ["clip", "split"])
@pytest.mark.parametrize("k", [1, 4])
def test_tensors_take_the_steps_that_arrays_take(of: Slice, negatives: Negatives, k: int) -> None:
    on_arrays, on_tensors = (streamed(of, FactorOptions(k, negatives=negatives, device=name)) for name in ON)
    assert on_tensors.n_iterations == on_arrays.n_iterations
    assert on_tensors.error == pytest.approx(on_arrays.error, rel=1e-5)
    product = on_arrays.tokens @ on_arrays.components
    assert np.abs(on_tensors.tokens @ on_tensors.components - product).max() <= 1e-3 * product.max()


def test_every_product_with_a_block_is_taken_on_the_device(of: Slice) -> None:
    with FlopCounterMode(display=False) as counted:
        factors = streamed(of, FactorOptions(1, negatives="clip", device=ON[1]))
    of_a_pass = 2 * 2 * len(of) * of.n_columns  # H Xᵀ and W X, each a multiplication and an addition
    assert counted.get_total_flops() >= of_a_pass * (factors.n_iterations + 1)


def test_the_values_of_tokens_are_on_disk_and_are_saved_from_there(location: Location, tmp_path: Path) -> None:
    stores.a_store(Location.of(tmp_path), units=2, unit_size=10)
    store = actlake.open(tmp_path)
    factors = store.factors(3, in_memory_bytes=0, reruns=1)
    for on_disk in (factors.tokens, factors.generation_id, factors.position):
        assert isinstance(on_disk, np.memmap)
    number = store.save(factors)
    loaded = store.factorization(number)
    np.testing.assert_array_equal(loaded.tokens, factors.tokens)
    np.testing.assert_array_equal(loaded.components, factors.components)
    assert loaded.parameters["streamed"]
    assert verify(store.location, deep=True).ok


def test_it_says_how_far_it_is_and_ends_when_it_is_told(of: Slice) -> None:
    said: list[tuple[int, int]] = []
    streamed(of, FactorOptions(3), on_progress=lambda *done: said.append(done))
    assert said == sorted(said)
    assert said[-1][0] == said[-1][1]
    cancel = Event()

    def after_some(done: int, total: int) -> None:
        if done > len(of):
            cancel.set()

    with pytest.raises(Cancelled):
        streamed(of, FactorOptions(3), cancel=cancel, on_progress=after_some)


def test_scikit_learns_solver_says_that_it_needs_memory(of: Slice) -> None:
    with pytest.raises(InvalidOption, match="needs all activations in memory"):
        streamed(of, FactorOptions(3, solver="sklearn"))


@pytest.mark.parametrize(
    "options", [FactorOptions(2, reruns=2), FactorOptions(2, "ica", reruns=1), FactorOptions(2, "kmeans", reruns=1)]
)
def test_reruns_say_how_stable_streamed_factors_are(of: Slice, options: FactorOptions) -> None:
    stability = streamed(of, options).stability
    assert stability is not None
    assert stability.shape == (2,)
    assert ((stability >= 0) & (stability <= 1)).all()


@pytest.mark.parametrize("positions", ["all", "generated"])
@pytest.mark.parametrize("method", FACTOR_METHODS)
def test_a_generation_that_memory_does_not_hold_is_streamed_as_a_corpus_is(
    location: Location, method: FactorMethod, positions: Which
) -> None:
    store = actlake.open(location.uri)
    generation, options = store.generation(8), {"method": method, "positions": positions, "reruns": method == "nmf"}
    ours = generation.factors(2, (3, 0), in_memory_bytes=0, **options)
    assert ours.parameters["streamed"]
    assert ours.generation is generation
    theirs = store.factors(2, (3, 0), generations=[8], in_memory_bytes=0, **options)
    for name in ("tokens", "components", "generation_id", "position", "neuron", "explained"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
    in_memory = generation.factors(2, (3, 0), **options)
    assert "streamed" not in in_memory.parameters
    assert ours.tokens.shape == in_memory.tokens.shape
    assert ours.position.tolist() == in_memory.position.tolist()
    assert ours.error <= in_memory.error * 1.01 + 1e-3
