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
        overflows = bool((np.isinf(result) & np.isfinite(values)).any())
    elif precision == "bfloat16":
        from .kernels import to_bfloat16

        result = np.empty(values.shape, np.float32)
        bits = (np.ascontiguousarray(values).reshape(-1).view(np.uint32), result.reshape(-1).view(np.uint32))
        overflows = to_bfloat16(*bits)
    else:
        raise InvalidOption("precision", precision, f"choose one of {', '.join(PRECISIONS)}")
    if overflows:
        raise PrecisionOverflow(what, float(values[np.isinf(result) & np.isfinite(values)][0]), precision)
    return result
