"""What NumPy takes several passes over memory for, in one: compiled by Numba, to run in threads without the GIL.

Importing this takes half a second, so those who need it import it then. The machine code is kept on disk, beside this file or
in the user's cache, where one of them can be written.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as machine code that needs no GIL, kept on disk where it can be."""
    how: Any = {"nogil": True, "error_model": "numpy", "fastmath": {"reassoc"}}  # sums may be taken in any order
    try:
        return njit(cache=True, **how)(function)
    except RuntimeError:  # it can be kept nowhere
        return njit(**how)(function)


@compiled
def merge(planes, bits, stride):  # type: ignore[no-untyped-def]
    """Put 32-bit values whose bytes lie in planes, uint8 [4, rows, width] by significance, into rows that begin `stride` apart
    in `bits`, uint32 [anything]."""
    _, rows, width = planes.shape
    for row in range(rows):
        out = bits[row * stride : row * stride + width]
        lower = np.uint8(0)
        for i in range(width):
            lower |= planes[0, row, i] | planes[1, row, i]
        if lower:
            for i in range(width):
                upper_half = np.uint32(planes[3, row, i]) << 24 | np.uint32(planes[2, row, i]) << 16
                out[i] = upper_half | np.uint32(planes[1, row, i]) << 8 | np.uint32(planes[0, row, i])
        else:
            for i in range(width):
                out[i] = np.uint32(planes[3, row, i]) << 24 | np.uint32(planes[2, row, i]) << 16


@compiled
def split(bits, planes):  # type: ignore[no-untyped-def]
    """Put the bytes of 32-bit values, uint32 [n], into planes by significance, uint8 [4, n]; whether a lower half is not zero."""
    lower = np.uint32(0)
    for i in range(len(bits)):
        value = bits[i]
        lower |= value & np.uint32(0xFFFF)
        planes[2, i] = (value >> np.uint32(16)) & np.uint32(0xFF)
        planes[3, i] = value >> np.uint32(24)
    if lower:
        for i in range(len(bits)):
            planes[0, i] = bits[i] & np.uint32(0xFF)
            planes[1, i] = (bits[i] >> np.uint32(8)) & np.uint32(0xFF)
    return lower != 0


_INFINITE = np.uint32(0x7F800000)


@compiled
def _nearest_bfloat16(bits):  # type: ignore[no-untyped-def]
    """A float, given and wanted as its bits, as the nearest bfloat16, ties to even; every NaN becomes one. And whether it was
    finite and became infinite."""
    magnitude = bits & np.uint32(0x7FFFFFFF)
    carry = np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))
    overflows = np.uint32(magnitude < _INFINITE) & np.uint32(magnitude + carry >= _INFINITE)
    result = (bits + carry) & np.uint32(0xFFFF0000)
    return np.uint32(0x7FC00000) if magnitude > _INFINITE else result, overflows  # a NaN's carry could make it a number


@compiled
def to_bfloat16(bits, out):  # type: ignore[no-untyped-def]
    """Round floats, given and wanted as their bits, uint32 [n], as `_nearest_bfloat16`; whether a finite one became infinite."""
    overflows = np.uint32(0)
    for i in range(len(bits)):
        out[i], too_large = _nearest_bfloat16(bits[i])
        overflows |= too_large
    return overflows != 0


@compiled
def split_bfloat16(bits, planes):  # type: ignore[no-untyped-def]
    """As `to_bfloat16`, and put the upper two bytes, since the lower two are zero, into planes by significance, uint8 [2, n]."""
    overflows = np.uint32(0)
    for i in range(len(bits)):
        value, too_large = _nearest_bfloat16(bits[i])
        overflows |= too_large
        planes[0, i] = (value >> np.uint32(16)) & np.uint32(0xFF)
        planes[1, i] = value >> np.uint32(24)
    return overflows != 0


@compiled
def moments(values, mean, m2, least, greatest, n_active):  # type: ignore[no-untyped-def]
    """Of each row of values, float32 [n, tokens]: its mean, the sum of squared differences from it, its least and greatest value
    (NaN if it has one), and how many are above 0. All are [n]."""
    n, n_tokens = values.shape
    for row in range(n):
        total, squares, active = 0.0, 0.0, 0
        low, high, nans = values[row, 0], values[row, 0], 0
        for i in range(n_tokens):
            value = values[row, i]
            total += value
            low, high = min(low, value), max(high, value)
            active += value > 0
            nans += value != value
        middle = total / n_tokens
        for i in range(n_tokens):
            difference = values[row, i] - middle
            squares += difference * difference
        mean[row], m2[row], n_active[row] = middle, squares, active
        least[row], greatest[row] = (np.nan, np.nan) if nans else (low, high)


@compiled
def histogram(bits, shift, counts):  # type: ignore[no-untyped-def]
    """Count, in int32 [n, bins], the values of each row, uint32 [n, tokens], by what a shift to the right leaves of them."""
    n, n_tokens = bits.shape
    for row in range(n):
        for i in range(n_tokens):
            counts[row, bits[row, i] >> shift] += 1


@compiled
def strongest(values, sign, tokens, n_found):  # type: ignore[no-untyped-def]
    """The places of the greatest values of each row, float32 [n, tokens], when multiplied by `sign`, as far as those are above 0;
    the greatest first, and among equals the earlier. They go into int64 [n, k], and how many there are into [n]."""
    n, n_tokens = values.shape
    k = tokens.shape[1]
    best = np.empty(k, values.dtype)
    for row in range(n):
        found, bound = 0, np.float32(0)
        for i in range(n_tokens):
            value = values[row, i] * sign
            if value > bound:
                place = found if found < k else k - 1
                while place > 0 and best[place - 1] < value:
                    best[place], tokens[row, place] = best[place - 1], tokens[row, place - 1]
                    place -= 1
                best[place], tokens[row, place] = value, i
                found = min(found + 1, k)
                if found == k:
                    bound = best[k - 1]
        n_found[row] = found


@compiled
def scatter(values, places, out):  # type: ignore[no-untyped-def]
    """Put columns of values, float32 [n, tokens], into the columns of `out`, float32 [n, more tokens], that `places` names."""
    n, n_tokens = values.shape
    for row in range(n):
        for i in range(n_tokens):
            out[row, places[i]] = values[row, i]


@compiled
def turn(values, places, out):  # type: ignore[no-untyped-def]
    """As `scatter`, for values of which columns lie together in memory."""
    n, n_tokens = values.shape
    tile = np.empty((64, 65), values.dtype)  # rows of `out` may share the same few lines of the cache, these do not
    for start in range(0, n_tokens, 64):
        width = min(64, n_tokens - start)
        for first in range(0, n, 64):
            height = min(64, n - first)
            for i in range(width):
                for row in range(height):
                    tile[row, i] = values[first + row, start + i]
            for row in range(height):
                for i in range(width):
                    out[first + row, places[start + i]] = tile[row, i]
