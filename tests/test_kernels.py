"""What is compiled, against NumPy and PyTorch, for any bits."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from actlake.errors import PrecisionOverflow
from actlake.store import kernels, rounded
from actlake.store.pages import vector_page, vectors_in
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

bits = arrays(np.uint32, array_shapes(min_dims=2, max_dims=2, max_side=40), elements=st.integers(0, 2**32 - 1))
matrices = bits.map(lambda values: values.view(np.float32))


@given(bits, st.booleans())
def test_bits_that_were_split_into_planes_are_merged_again_anywhere_in_a_matrix(values: np.ndarray, half: bool) -> None:
    values = values & np.uint32(0xFFFF0000) if half else values
    planes = np.zeros((4, values.size), np.uint8)
    assert kernels.split(values.reshape(-1), planes) == bool((values & np.uint32(0xFFFF)).any())
    assert np.array_equal(planes[3], (values >> 24).reshape(-1))
    out = np.zeros((len(values), 2 * values.shape[1] + 1), np.uint32)
    kernels.merge(planes.reshape(4, *values.shape), out.reshape(-1), out.shape[1])
    assert np.array_equal(out[:, : values.shape[1]], values)
    assert not out[:, values.shape[1] :].any()


@given(matrices, st.booleans())
def test_a_page_gives_its_vectors_back_bit_for_bit(values: np.ndarray, repeats: bool) -> None:
    page = vector_page(values, repeats)
    out = np.zeros((len(values), values.shape[1] + 3), np.float32)
    vectors_in(b"".join([page.header, *page.pieces]), out[:, 1:-2])
    assert np.array_equal(out[:, 1:-2].view(np.uint32), values.view(np.uint32))
    assert not out[:, [0, -1, -2]].any()


@given(matrices)
def test_rounding_to_bfloat16_is_that_of_pytorch_or_an_error_where_it_would_be_infinite(values: np.ndarray) -> None:
    expected = torch.from_numpy(values.copy()).bfloat16().float().numpy()
    if (np.isinf(expected) & np.isfinite(values)).any():
        with pytest.raises(PrecisionOverflow, match="bfloat16"):
            rounded(values, "bfloat16")
    else:
        np.testing.assert_array_equal(rounded(values, "bfloat16"), expected)


@given(matrices.map(lambda values: np.where(np.abs(values) < 1e30, values, np.float32(np.nan))))
def test_statistics_are_those_of_numpy(values: np.ndarray) -> None:
    n, n_tokens = values.shape
    mean, m2, active = np.empty(n), np.empty(n), np.empty(n, np.int64)
    least, greatest = np.empty(n, np.float32), np.empty(n, np.float32)
    kernels.moments(values, mean, m2, least, greatest, active)
    exact = values.astype(np.float64)
    scale = float(np.nan_to_num(np.abs(exact)).max()) or 1.0
    np.testing.assert_allclose(mean / scale, exact.mean(axis=1) / scale, atol=1e-12)
    np.testing.assert_allclose(m2 / scale**2, exact.var(axis=1) * n_tokens / scale**2, atol=1e-9)
    np.testing.assert_array_equal(least, values.min(axis=1))
    np.testing.assert_array_equal(greatest, values.max(axis=1))
    np.testing.assert_array_equal(active, (values > 0).sum(axis=1))


@given(
    st.one_of(
        matrices,
        matrices.map(lambda values: (values.view(np.uint32) % 7 * 0.5 - 1).astype(np.float32)),  # many are equal
        matrices.map(lambda values: np.where(np.abs(values) < 1, values, np.float32(np.nan))),
    )
)
def test_histograms_and_the_strongest_are_those_of_numpy(values: np.ndarray) -> None:
    n, n_tokens = values.shape
    most = n * n_tokens + 1
    bins, counts, ends = np.empty(most, np.int32), np.empty(most, np.int64), np.empty(n, np.int64)
    kernels.histogram(values.view(np.int32), 20, bins, counts, ends)
    tokens, n_found = np.empty((2, n, 3), np.int64), np.empty((2, n), np.int64)
    activations = np.empty((2, n, 3), np.float32)
    kernels.strongest(values, bins, counts, ends, 20, tokens, activations, n_found)
    for row, start in enumerate([0, *ends[:-1].tolist()]):
        there, how_often = np.unique(values[row].view(np.uint32) >> 20, return_counts=True)
        assert bins[start : ends[row]].tolist() == there.tolist()
        assert counts[start : ends[row]].tolist() == how_often.tolist()
        for which, sign in enumerate((1, -1)):
            signed = sign * values[row]
            farthest = [i for i in np.argsort(-signed, kind="stable").tolist() if signed[i] > 0][:3]
            assert tokens[which, row, : n_found[which, row]].tolist() == farthest
            assert activations[which, row, : n_found[which, row]].tolist() == values[row, farthest].tolist()


@given(matrices, st.randoms(use_true_random=False))
def test_columns_are_put_where_they_belong(values: np.ndarray, draw) -> None:  # type: ignore[no-untyped-def]
    n, n_tokens = values.shape
    places = np.array(draw.sample(range(n_tokens + 5), n_tokens), np.int64)
    expected = np.zeros((n, n_tokens + 5), np.uint32)
    expected[:, places] = values.view(np.uint32)
    for put, given_as in ((kernels.scatter, values), (kernels.turn, np.ascontiguousarray(values.T).T)):
        out = np.zeros((n, n_tokens + 5), np.float32)
        put(given_as, places, out)
        assert np.array_equal(out.view(np.uint32), expected)
    out = np.zeros((n_tokens, n), np.float32)
    kernels.transpose(values, out)
    assert np.array_equal(out.view(np.uint32), values.T.view(np.uint32))


def test_where_nothing_can_be_kept_on_disk_it_is_compiled_each_time(tmp_path: Path) -> None:
    shutil.copy(kernels.__file__, tmp_path / "kernels.py")
    (tmp_path / "__pycache__").touch()  # a file, where a folder would have to be
    code = "import numpy as np, kernels; print(kernels.split(np.ones(3, np.uint32), np.empty((4, 3), np.uint8)))"
    nowhere = {"HOME": "/dev/null", "XDG_CACHE_HOME": "/dev/null"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=nowhere, capture_output=True, text=True, check=False
    )
    assert (done.stdout.strip(), done.stderr) == ("True", "")
