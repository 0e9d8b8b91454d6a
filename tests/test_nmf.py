"""The fast NMF beside scikit-learn's, by hand and as laws."""

from __future__ import annotations

import ctypes.util
import subprocess
import sys
from threading import Event

import numpy as np
import pytest
import torch
from actlake.errors import Cancelled, InvalidOption
from actlake.queries import ICA, NMF, PCA, FactorOptions, KMeans, factorize
from actlake.queries.nmf import Rounds, singular_vectors, start
from actlake.queries.stability import stability
from actlake.queries.steps import WORTH_TORCH, OnDevice, device_of
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn import cluster, decomposition
from sklearn.base import clone

matrices = arrays(
    np.float32,
    st.tuples(st.integers(3, 12), st.integers(3, 30)),
    elements=st.floats(0, 100, width=32, allow_subnormal=False).map(lambda value: value if value > 1e-3 else 0.0),
)


def like_activations(seed: int, n: int = 60, m: int = 900) -> np.ndarray:
    """Values ≥ 0 of which a few columns hold most of the energy, as neurons do."""
    random = np.random.default_rng(seed)
    columns = random.lognormal(sigma=1.5, size=m)
    x = random.gamma(0.5, size=(n, 8)) @ random.gamma(0.3, size=(8, m)) + random.gamma(0.3, size=(n, m))
    return (x * columns).astype(np.float32)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")  # it goes on too long
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", ["uniform", "activations", "tall"])
def test_its_error_is_scikit_learns_or_at_most_half_a_percent_more(seed: int, kind: str) -> None:
    most = (
        1.02 if kind == "tall" else 1.005
    )  # both end in one of several minima; of many tokens and few neurons, in others
    x = {
        "uniform": np.random.default_rng(seed).random((50, 400), np.float32),
        "activations": like_activations(seed),
        "tall": like_activations(seed, 900, 40),
    }[kind]
    theirs = decomposition.NMF(6, init="nndsvda", max_iter=500, random_state=seed, tol=1e-4)
    theirs.fit(x)
    ours = NMF(6, random_state=seed).fit(x)
    assert ours.converged_
    assert ours.reconstruction_err_ <= most * theirs.reconstruction_err_


def test_a_matrix_of_rank_k_is_found_again() -> None:
    random = np.random.default_rng(0)
    w, h = random.random((30, 3), np.float32), random.random((3, 50), np.float32)
    w[:10, 0] = w[10:20, 1] = w[20:, 2] = 0  # so that there is one answer
    h[0, :15] = h[1, 15:30] = h[2, 30:] = 0
    model = NMF(3, tol=1e-9, max_iter=20000)
    found = model.fit_transform(w @ h)
    assert model.reconstruction_err_ < 1e-2 * np.linalg.norm(w @ h)
    alike = stability(h, [model.components_])
    assert (alike > 0.99).all()
    assert found.shape == (30, 3)


def test_two_tokens_of_two_kinds_are_two_factors() -> None:
    x = np.array([[3, 4, 0, 0], [6, 8, 0, 0], [0, 0, 0, 5]], np.float32)
    factors = factorize(x, FactorOptions(2), layers=[0])
    np.testing.assert_allclose(factors.components, [[0.6, 0.8, 0, 0], [0, 0, 0, 1]], atol=1e-3)
    np.testing.assert_allclose(factors.tokens, [[5, 0], [10, 0], [0, 5]], atol=2e-2)
    np.testing.assert_allclose(factors.explained, [125 / 150, 25 / 150], atol=1e-3)


@settings(max_examples=40, deadline=None)
@given(matrices, st.integers(1, 3), st.sampled_from(["nndsvda", "random"]))
def test_values_are_finite_and_not_negative_and_the_error_is_true(x: np.ndarray, k: int, init: str) -> None:
    model = NMF(k, init=init)
    w = model.fit_transform(x)
    for found in (w, model.components_):
        assert np.isfinite(found).all()
        assert (found >= 0).all()
    rest = np.linalg.norm(x.astype(np.float64) - w.astype(np.float64) @ model.components_)
    assert model.reconstruction_err_ == pytest.approx(rest, rel=1e-3, abs=1e-4 * float(np.linalg.norm(x)))
    assert model.reconstruction_err_ <= np.linalg.norm(x) * (1 + 1e-5)


@settings(max_examples=25, deadline=None)
@given(matrices, st.integers(-6, 6), st.randoms(use_true_random=False))
def test_scale_and_order_of_tokens_change_the_values_and_not_the_error(
    x: np.ndarray, power: int, random: object
) -> None:
    plain = factorize(x, FactorOptions(2), layers=[0])
    scaled = factorize(x * np.float32(2.0**power), FactorOptions(2), layers=[0])
    order = np.array(random.sample(range(len(x)), len(x)))  # type: ignore[attr-defined]
    turned = factorize(x[order], FactorOptions(2), layers=[0])
    assert scaled.error == pytest.approx(plain.error, abs=2e-2)
    assert turned.error == pytest.approx(plain.error, abs=2e-2)
    assert plain.explained.sum() == pytest.approx(1 - plain.error**2, abs=1e-4) or not x.any()


def test_a_round_never_raises_the_error() -> None:
    x, errors = like_activations(1), []
    for n in range(1, 12):
        errors.append(NMF(5, max_iter=n, tol=0).fit(x).reconstruction_err_)
    assert errors == sorted(errors, reverse=True)


def test_new_rows_get_the_best_weights() -> None:
    x = like_activations(2)
    model = NMF(4, tol=1e-7).fit(x)
    w = model.transform(x)
    rest = np.linalg.norm(x - model.inverse_transform(w))
    assert rest <= model.reconstruction_err_ * (1 + 1e-4)


def test_the_singular_vectors_are_numpys() -> None:
    for shape in ((20, 90), (90, 20)):
        x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        u, s, v = singular_vectors(x, 4, np.float64)
        expected = np.linalg.svd(x, compute_uv=False)[:4]
        np.testing.assert_allclose(s, expected, rtol=1e-5)
        np.testing.assert_allclose(u.T @ x @ v.T, np.diag(s), atol=1e-3)


@pytest.mark.parametrize("wrong", [-1.0, np.nan, np.inf])
def test_what_is_not_finite_or_negative_is_refused(wrong: float) -> None:
    x = np.ones((4, 5), np.float32)
    x[2, 3] = wrong
    with pytest.raises(InvalidOption, match="NMF needs finite values, 0 or more"):
        NMF(2).fit(x)


def test_it_ends_in_the_middle_when_it_is_told() -> None:
    cancel, said = Event(), list[int]()

    def report(done: int, total: int) -> None:
        said.append(done)
        if done == 3:
            cancel.set()

    with pytest.raises(Cancelled):
        NMF(4, tol=0, cancel=cancel, on_progress=report).fit(like_activations(0))
    assert said == [1, 2, 3]


class TestTheOtherEstimators:
    def test_pca_is_scikit_learns(self) -> None:
        x = like_activations(3)
        ours, theirs = PCA(4).fit(x), decomposition.PCA(4, svd_solver="full").fit(x)
        np.testing.assert_allclose(np.abs(ours.components_ @ theirs.components_.T), np.eye(4), atol=1e-3)
        np.testing.assert_allclose(ours.mean_, theirs.mean_, rtol=1e-4)

    def test_ica_finds_what_scikit_learn_finds(self) -> None:
        random = np.random.default_rng(0)
        sources = random.laplace(size=(2000, 3)).astype(np.float32)
        x = sources @ random.standard_normal((3, 20)).astype(np.float32)
        model = ICA(3)
        found = model.fit_transform(x)
        alike = np.abs(np.corrcoef(found.T, sources.T)[:3, 3:])
        assert (np.sort(alike, axis=1)[:, -1] > 0.98).all()
        np.testing.assert_allclose(model.inverse_transform(found), x, atol=1e-2)

    def test_kmeans_finds_scikit_learns_clusters(self) -> None:
        random = np.random.default_rng(1)
        x = (random.standard_normal((90, 6)) + 12 * np.repeat(np.eye(3, 6), 30, axis=0)).astype(np.float32)
        found = KMeans(3).fit_transform(x).argmax(axis=1)
        theirs = cluster.KMeans(3, n_init=4, random_state=0).fit(x).labels_
        assert len({*zip(found.tolist(), theirs.tolist(), strict=True)}) == 3

    @pytest.mark.parametrize("estimator", [NMF(3, random_state=1), PCA(3), ICA(3), KMeans(3)])
    def test_they_have_scikit_learns_shape(self, estimator: NMF | PCA | ICA | KMeans) -> None:
        x = like_activations(4)
        twin = clone(estimator)
        assert twin.get_params() == estimator.get_params()
        values = twin.fit_transform(x)
        assert (values.shape, twin.components_.shape) == ((60, 3), (3, 900))
        assert twin.transform(x).shape == (60, 3)
        assert twin.set_params(n_components=2).fit(x).components_.shape == (2, 900)
        with pytest.raises(InvalidOption, match="the parameters are n_components"):
            twin.set_params(depth=2)


class TestStability:
    def test_the_same_components_in_another_order_and_sign_are_stable(self) -> None:
        components = np.random.default_rng(0).standard_normal((4, 30)).astype(np.float32)
        np.testing.assert_allclose(stability(components, [-3 * components[[2, 0, 3, 1]]]), 1, atol=1e-6)

    def test_each_component_is_matched_once(self) -> None:
        components = np.eye(2, 3, dtype=np.float32)
        both_alike = np.array([[1, 0, 0], [1, 0, 0]], np.float32)
        np.testing.assert_allclose(stability(components, [both_alike]), [1, 0])

    def test_it_is_the_mean_over_reruns(self) -> None:
        components = np.eye(2, 3, dtype=np.float32)
        other = np.array([[0, 0, 1], [0, 1, 0]], np.float32)
        np.testing.assert_allclose(stability(components, [components, other]), [0.5, 1])


@pytest.mark.parametrize("k", [1, 5])
def test_tensors_take_the_steps_that_arrays_take(k: int) -> None:
    x = like_activations(3)
    energy = float(np.square(x, dtype=np.float64).sum())
    first = start(x, k, "nndsvda", np.random.default_rng(0))
    for rounds in range(1, 12):
        on_cpu, on_tensors = Rounds(0, rounds), Rounds(0, rounds, on=OnDevice("cpu"))
        w, h = on_cpu.run(x, first[0].copy(), first[1].copy(), energy)
        w_of_tensors, h_of_tensors = on_tensors.run(x, first[0].copy(), first[1].copy(), energy)
        product = w @ h
        assert np.abs(w_of_tensors @ h_of_tensors - product).max() <= 1e-4 * product.max()


def test_a_silent_factor_stays_silent_on_tensors() -> None:
    x = np.eye(3, 5, dtype=np.float32)
    w, h = np.zeros((3, 2), np.float32), np.zeros((2, 5), np.float32)
    w[:, 0], h[0] = 1, 1
    w, h = Rounds(1e-9, 5, on=OnDevice("cpu")).run(x, w, h, 3.0)
    assert np.isfinite(w).all()
    assert np.isfinite(h).all()


def test_a_device_that_is_not_there_is_said() -> None:
    with pytest.raises(InvalidOption, match="give auto or cpu"):
        factorize(like_activations(0), FactorOptions(2, device="abacus"), layers=[0])


A_LIBRARY = ctypes.util.find_library("c")


@pytest.mark.parametrize(
    ("n_bytes", "driver", "loaded"),
    [(WORTH_TORCH - 1, A_LIBRARY, False), (WORTH_TORCH, "libabacus.so.1", False), (WORTH_TORCH, A_LIBRARY, True)],
    ids=["little work", "no driver", "much work and a driver"],
)
def test_a_gpu_is_looked_for_with_torch_where_a_driver_is_and_it_is_worth_it(
    n_bytes: int, driver: str, loaded: bool
) -> None:
    code = (
        "import sys; from actlake.queries.steps import device_of\n"
        "print(device_of('auto', int(sys.argv[1]), sys.argv[2]), 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(n_bytes), driver], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["cuda" if loaded and torch.cuda.is_available() else "cpu", str(loaded)]


def test_a_device_that_was_asked_for_is_taken_for_any_work() -> None:
    assert [device_of(name, 1) for name in ("cpu", "cuda:1")] == ["cpu", "cuda:1"]
