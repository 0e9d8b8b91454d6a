"""Where the steps of the fast NMF are computed: on the CPU by Numba, or on an accelerator by torch. The arithmetic is one.

torch is imported only for an accelerator, and to look for one only where the work is worth it and a driver is there; reading
a store does without it.
"""

import ctypes
import sys
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float, Float32, Float64

from ..errors import InvalidOption

WORTH_TORCH = 1 << 28
"""Bytes of X from which "auto" loads torch to look for a GPU: the CPU takes some seconds then, as does the loading."""

DRIVER = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
"""What NVIDIA's driver installs, and torch's CUDA needs."""


class Steps(Protocol):
    """What the solver needs beside products, sums and transposes of matrices, which arrays and tensors spell alike."""

    def put(self, array: Float[np.ndarray, "n m"]) -> Any:
        """A copy where it is computed with, or the array itself."""

    def take(self, matrix: Any) -> Float[np.ndarray, "n m"]:
        """A matrix, back."""

    def single(self, matrix: Any) -> Any:
        """A matrix as float32."""

    def double(self, matrix: Any) -> Any:
        """A matrix as float64."""

    def descend(self, rows: Any, gram: Any, product: Any, n_sweeps: int) -> None:
        """Lower ‖X − W H‖ over H ≥ 0, `rows`, in place, by sweeps; from WᵀW and WᵀX, all in float32."""

    def error(self, energy: float, gram: Any, product: Any, h: Any) -> float:
        """‖X − W H‖ from ‖X‖², WᵀW and WᵀX, without W H."""


def device_of(asked: str, n_bytes: int, driver: str = DRIVER) -> str:
    """The device that was asked for; of "auto" CUDA or the CPU.

    It is CUDA where torch finds one. torch is asked if it is loaded already, or if X has at least `WORTH_TORCH` bytes
    and the driver's library can be loaded.
    """
    if asked != "auto":
        return asked
    if "torch" not in sys.modules and (n_bytes < WORTH_TORCH or not _can_be_loaded(driver)):
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _can_be_loaded(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def steps_on(device: str) -> Steps:
    """Steps on a device as torch names it, as `device_of` gives it. Raises InvalidOption."""
    return OnCpu() if device == "cpu" else OnDevice(device)


class OnCpu:
    """Arrays, and Numba's sweeps."""

    def put(self, array: Float[np.ndarray, "n m"]) -> Float[np.ndarray, "n m"]:
        return np.ascontiguousarray(array)

    def take(self, matrix: Float[np.ndarray, "n m"]) -> Float[np.ndarray, "n m"]:
        return matrix

    def single(self, matrix: np.ndarray) -> Float32[np.ndarray, "n m"]:
        return matrix.astype(np.float32, copy=False)

    def double(self, matrix: np.ndarray) -> Float64[np.ndarray, "n m"]:
        return matrix.astype(np.float64, copy=False)

    def descend(self, rows: np.ndarray, gram: np.ndarray, product: np.ndarray, n_sweeps: int) -> None:
        from .descent import descend

        descend(rows, gram, product, n_sweeps)

    def error(self, energy: float, gram: np.ndarray, product: np.ndarray, h: np.ndarray) -> float:
        return error_of(energy, gram, product, h)


class OnDevice:
    """Tensors; sums in float64, which a device must have."""

    def __init__(self, device: str) -> None:
        import torch

        try:
            self._device = torch.empty(0, dtype=torch.float64, device=device).device
        except (RuntimeError, AssertionError, TypeError) as error:
            how = f"{(str(error).splitlines() or ['torch has no such device'])[0]}; give auto or cpu"
            raise InvalidOption("device", device, how) from error

    def put(self, array: Float[np.ndarray, "n m"]) -> Any:
        import torch

        return torch.tensor(array, device=self._device)

    def take(self, matrix: Any) -> Float[np.ndarray, "n m"]:
        return matrix.cpu().numpy()

    def single(self, matrix: Any) -> Any:
        return matrix.float()

    def double(self, matrix: Any) -> Any:
        return matrix.double()

    def descend(self, rows: Any, gram: Any, product: Any, n_sweeps: int) -> None:
        scales = gram.diagonal().tolist()
        for _ in range(n_sweeps):
            for j, scale in enumerate(scales):
                if scale > 0:
                    rows[j] = (rows[j] + (product[j] - gram[j] @ rows) / scale).clamp_min_(0)

    def error(self, energy: float, gram: Any, product: Any, h: Any) -> float:
        within = float((gram.double() * (h @ h.T).double()).sum())
        return float(np.sqrt(max(energy - 2 * float((product.double() * h.double()).sum()) + within, 0.0)))


def error_of(
    energy: float,
    gram: Float[np.ndarray, "k k"],
    product: Float[np.ndarray, "k m"],
    h: Float32[np.ndarray, "k m"],
) -> float:
    """‖X − W H‖ from ‖X‖², WᵀW and WᵀX, without W H."""
    within = float(np.vdot(gram.astype(np.float64), (h @ h.T).astype(np.float64)))
    return float(np.sqrt(max(energy - 2 * float(np.vdot(product, h)) + within, 0.0)))
