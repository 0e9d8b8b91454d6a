"""Rounding of recorded vectors to a run's precision.

Vectors are always stored as 32-bit floats; rounding leaves zero bytes that compress to almost nothing.
"""

from typing import Literal, get_args

import numpy as np
from jaxtyping import Float32

from ..errors import InvalidOption, PrecisionOverflow

Precision = Literal["bfloat16", "float16", "float32"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

BYTES_PER_VALUE: dict[Precision, float] = {"bfloat16": 1.5, "float16": 2.0, "float32": 3.7}
"""Roughly what one value takes in a file (measured: docs/benchmarks.md), for the budget of a run."""


def rounded(
    values: Float32[np.ndarray, "..."], precision: Precision, *, what: str = "the run"
) -> Float32[np.ndarray, "..."]:
    """`values` rounded to the nearest value that `precision` holds, ties to even; float32, same shape.

    Infinities and NaNs stay as they are. Raises PrecisionOverflow when a finite value would become infinite; `what`
    names the values in that message.

    >>> rounded(np.array([1.00390625, 1.01171875], np.float32), "bfloat16")
    array([1.      , 1.015625], dtype=float32)
    """
    if precision == "float32":
        return values
    if precision == "float16":
        with np.errstate(over="ignore"):
            result = values.astype(np.float16).astype(np.float32)
    elif precision == "bfloat16":
        result = _bfloat16(values)
    else:
        raise InvalidOption("precision", precision, f"choose one of {', '.join(PRECISIONS)}")
    overflown = np.isinf(result) & np.isfinite(values)
    if overflown.any():
        raise PrecisionOverflow(what, float(values[overflown][0]), precision)
    return result


def _bfloat16(values: Float32[np.ndarray, "..."]) -> Float32[np.ndarray, "..."]:
    bits = np.ascontiguousarray(values).view(np.uint32)
    keeps_upper_half = (bits + (np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1)))) & np.uint32(0xFFFF0000)
    result = keeps_upper_half.view(np.float32)
    nans = np.isnan(values)
    if nans.any():  # a NaN's rounding carry could make it an infinity or a number
        result = np.where(nans, np.float32(np.nan), result)
    return result
