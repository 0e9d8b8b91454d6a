"""Where the rounds of the fast NMF are computed: on the CPU by Numba, or on an accelerator by torch. The arithmetic is one.

torch is imported only for an accelerator that was asked for; reading a store does without it.
"""

import sys
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float, Float32

from ..errors import InvalidOption


class Steps(Protocol):
    """What a round needs beside products of matrices, which arrays and tensors spell alike."""

    def put(self, array: Float32[np.ndarray, "n m"]) -> Any:
        """A copy where it is computed with, or the array itself."""

    def take(self, matrix: Any) -> Float32[np.ndarray, "n m"]:
        """A matrix, back."""

    def descend(self, rows: Any, gram: Any, product: Any, n_sweeps: int) -> None:
        """Lower ‖X − W H‖ over H ≥ 0, `rows`, in place, by sweeps; from WᵀW and WᵀX."""

    def error(self, energy: float, gram: Any, product: Any, h: Any) -> float:
        """‖X − W H‖ from ‖X‖², WᵀW and WᵀX, without W H."""


def steps_on(device: str) -> Steps:
    """Steps on a device as torch names it; "auto" is CUDA where there is one and torch is loaded already, since loading it
    takes longer than most factorizations. Raises InvalidOption."""
    if device == "auto":
        torch = sys.modules.get("torch")
        device = "cuda" if torch is not None and torch.cuda.is_available() else "cpu"
    return OnCpu() if device == "cpu" else OnDevice(device)


class OnCpu:
    """Arrays, and Numba's sweeps."""

    def put(self, array: Float32[np.ndarray, "n m"]) -> Float32[np.ndarray, "n m"]:
        return np.ascontiguousarray(array)

    def take(self, matrix: Float32[np.ndarray, "n m"]) -> Float32[np.ndarray, "n m"]:
        return matrix

    def descend(self, rows: np.ndarray, gram: np.ndarray, product: np.ndarray, n_sweeps: int) -> None:
        from .descent import descend

        descend(rows, gram, product, n_sweeps)

    def error(self, energy: float, gram: np.ndarray, product: np.ndarray, h: np.ndarray) -> float:
        return error_of(energy, gram, product, h)


class OnDevice:
    """Tensors, in float32."""

    def __init__(self, device: str) -> None:
        import torch

        try:
            self._device = torch.empty(0, device=device).device
        except (RuntimeError, AssertionError) as error:
            how = f"{(str(error).splitlines() or ['torch has no such device'])[0]}; give auto or cpu"
            raise InvalidOption("device", device, how) from error

    def put(self, array: Float32[np.ndarray, "n m"]) -> Any:
        import torch

        return torch.tensor(array, device=self._device)

    def take(self, matrix: Any) -> Float32[np.ndarray, "n m"]:
        return matrix.cpu().numpy()

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
