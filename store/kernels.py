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


_MAGNITUDE, _INFINITE = np.uint32(0x7FFFFFFF), np.uint32(0x7F800000)
_BEYOND = np.uint32(0x7F7F8000)
"""The bits of the least float that is too large for a bfloat16."""


@compiled
def _nearest_bfloat16(bits):  # type: ignore[no-untyped-def]
    """A number, given and wanted as its bits, as the nearest bfloat16, ties to even."""
    is_odd = np.uint32(bits >> np.uint32(16) & np.uint32(1))
    return np.uint32(bits + np.uint32(np.uint32(0x7FFF) + is_odd)) & np.uint32(0xFFFF0000)


@compiled
def _special_bfloat16(bits):  # type: ignore[no-untyped-def]
    """As `_nearest_bfloat16`, for any float: every NaN becomes one, where a carry could have made it a number."""
    return np.uint32(0x7FC00000) if bits & _MAGNITUDE > _INFINITE else _nearest_bfloat16(bits)


@compiled
def _overflows(bits):  # type: ignore[no-untyped-def]
    """Whether a finite float would become infinite as a bfloat16."""
    magnitude = bits & _MAGNITUDE
    return (magnitude >= _BEYOND) & (magnitude < _INFINITE)


@compiled
def to_bfloat16(bits, out):  # type: ignore[no-untyped-def]
    """Round floats, given and wanted as their bits, uint32 [n], to the nearest bfloat16, ties to even; whether a finite one
    became infinite. `out` is other memory than `bits`."""
    greatest, overflows = np.uint32(0), False
    for i in range(len(bits)):  # several at a time, for there is no branch
        greatest = max(greatest, np.uint32(bits[i] & _MAGNITUDE))
        out[i] = _nearest_bfloat16(bits[i])
    if greatest >= _BEYOND:
        for i in range(len(bits)):
            out[i] = _special_bfloat16(bits[i])
            overflows |= _overflows(bits[i])
    return overflows


@compiled
def split_bfloat16(bits, planes):  # type: ignore[no-untyped-def]
    """As `to_bfloat16`, and put the upper two bytes, since the lower two are zero, into planes by significance, uint8 [2, n]."""
    greatest, overflows = np.uint32(0), False
    for i in range(len(bits)):
        greatest = max(greatest, np.uint32(bits[i] & _MAGNITUDE))
        value = _nearest_bfloat16(bits[i])
        planes[0, i], planes[1, i] = np.uint8(value >> np.uint32(16)), np.uint8(value >> np.uint32(24))
    if greatest >= _BEYOND:
        for i in range(len(bits)):
            value = _special_bfloat16(bits[i])
            planes[0, i], planes[1, i] = np.uint8(value >> np.uint32(16)), np.uint8(value >> np.uint32(24))
            overflows |= _overflows(bits[i])
    return overflows


_MOST, _SIGN = np.int32(0x7FFFFFFF), np.int32(-0x80000000)
_INFINITY, _NAN, _LAST = np.int32(0x7F800000), np.int32(0x7FC00000), 0xFFFFFFFF
"""As integers, floats above 0 are in their order, infinity is the last, and NaNs are beyond it."""


@compiled
def moments(values, mean, m2, least, greatest, n_active):  # type: ignore[no-untyped-def]
    """Of each row of values, float32 [n, tokens]: its mean, the sum of squared differences from it, its least and greatest value
    (NaN if it has one), and how many are above 0. All are [n]."""
    n, n_tokens = values.shape
    least, greatest = least.view(np.int32), greatest.view(np.int32)
    for row in range(n):
        total, squares = 0.0, 0.0
        for i in range(n_tokens):
            total += np.float64(values[row, i])
        middle = total / n_tokens
        for i in range(n_tokens):
            difference = np.float64(values[row, i]) - middle
            squares += difference * difference
        bits = values[row].view(np.int32)
        low, high, active, nans = _MOST, -_MOST, np.int32(0), np.int32(0)
        for i in range(n_tokens):
            value = bits[i]
            is_nan = np.int32((value & _MOST) > _INFINITY)
            nans += is_nan
            active += np.int32(value > np.int32(0)) & (np.int32(1) - is_nan)
            value = _in_order(value)
            low, high = min(low, value), max(high, value)
        mean[row], m2[row], n_active[row] = middle, squares, active
        least[row], greatest[row] = (_NAN, _NAN) if nans else (_in_order(low), _in_order(high))


@compiled
def _in_order(bits):  # type: ignore[no-untyped-def]
    """A float's bits as an integer, such that those below 0 are in their order too; and back."""
    return bits ^ ((bits >> np.int32(31)) & _MOST)


@compiled
def histogram(bits, shift, bins, counts, ends):  # type: ignore[no-untyped-def]
    """What a shift to the right leaves of the values of each row, as int32 [n, tokens], and how many there are of each: `bins`,
    ascending, and `counts`, row after row, and where each row's end in them, [n]. Both have room for one more."""
    n, n_tokens = bits.shape
    half = 1 << (31 - shift)
    found = np.zeros(2 * half, np.uint32)
    end = 0
    for row in range(n):
        low, high = _MOST, np.int32(0)
        for i in range(n_tokens):
            magnitude = bits[row, i] & _MOST
            low, high = min(low, magnitude), max(high, magnitude)
        for i in range(n_tokens):
            found[np.uint32(bits[row, i]) >> np.uint32(shift)] += np.uint32(1)
        for first in (0, half):  # those above 0, those below
            for place in range(first + (low >> shift), first + (high >> shift) + 1):
                bins[end], counts[end] = place, found[place]
                end += found[place] > 0
                found[place] = 0
        ends[row] = end


@compiled
def strongest(values, bins, counts, ends, shift, tokens, activations, n_found):  # type: ignore[no-untyped-def]
    """The values of each row, float32 [n, tokens], that are farthest above 0 and farthest below, the farthest first, among equals
    the earlier: their places in integers [2, n, k], the values in float32 [2, n, k], and how many there are in [2, n].

    `bins`, `counts` and `ends` are the rows' histograms: they tell from where on k values are, and only a few more.
    """
    n, n_tokens = values.shape
    k, half = tokens.shape[2], 1 << (31 - shift)
    words = np.zeros((n_tokens + 7) // 8, np.uint64)
    is_near, near = words.view(np.uint8), np.empty(n_tokens + 8, np.int64)
    best, n_best = np.empty((2, k + 1), np.int64), np.empty(2, np.int64)
    start = 0
    for row in range(n):
        bits, end = values[row].view(np.int32), ends[row]
        above = start  # where bins of values below 0 begin
        while above < end and bins[above] < half:
            above += 1
        high, low = _bound(bins, counts, start, above, k, half, shift), _bound(bins, counts, above, end, k, half, shift)
        for i in range(n_tokens):  # several at a time, for there is no branch
            is_near[i] = np.uint8(bits[i] >= high) | np.uint8(np.int32(bits[i] ^ _SIGN) >= low)
        n_near = 0
        for word in range(len(words)):
            if words[word]:
                for i in range(8 * word, 8 * word + 8):
                    near[n_near] = i
                    n_near += is_near[i]
        n_best[:] = 0
        for token in near[:n_near]:
            sign, magnitude = np.int64(bits[token] < 0), bits[token] & _MOST
            if magnitude <= _INFINITY:
                key, at = np.int64(magnitude) << 32 | (_LAST - token), n_best[sign]
                while at > 0 and best[sign, at - 1] < key:
                    best[sign, at] = best[sign, at - 1]
                    at -= 1
                best[sign, at] = key
                n_best[sign] = min(n_best[sign] + 1, k)
        for which in range(2):
            n_found[which, row] = n_best[which]
            for rank in range(n_best[which]):
                place = _LAST - (best[which, rank] & _LAST)
                tokens[which, row, rank], activations[which, row, rank] = place, values[row, place]
        start = end


@compiled
def _bound(bins, counts, start, end, k, half, shift):  # type: ignore[no-untyped-def]
    """The least magnitude, as bits, of the last bins of a histogram that have k values; of all but 0 where there are not
    so many. The bin of infinity is not counted, for NaNs may be in it."""
    reach, infinite = 0, _INFINITY >> shift
    for at in range(end - 1, start - 1, -1):
        place = bins[at] & (half - 1)
        reach += counts[at] if place < infinite else 0
        if reach >= k:
            return np.int32(max(place << shift, 1))
    return np.int32(1)


@compiled
def add_histograms(bins, counts, offsets, order, bounds, half, out_bins, out_counts, ends):  # type: ignore[no-untyped-def]
    """The sums of histograms that `histogram` made, of `2 * half` bins: of those from place `bounds[i]` to before `bounds[i + 1]`
    in `order`. What is in one begins at its `offsets`. Gives how many bins there are in all; there is room for one more."""
    found = np.zeros(2 * half, np.int64)
    end = 0
    for group in range(len(bounds) - 1):
        low, high = half, 0  # of the bins of magnitudes
        for place in range(bounds[group], bounds[group + 1]):
            for i in range(offsets[order[place]], offsets[order[place] + 1]):
                found[bins[i]] += counts[i]
                magnitude = bins[i] & (half - 1)
                low, high = min(low, magnitude), max(high, magnitude)
        for first in (0, half):
            for held in range(first + low, first + high + 1):
                out_bins[end], out_counts[end] = held, found[held]
                end += found[held] > 0
                found[held] = 0
        ends[group] = end
    return end


@compiled
def strongest_of(values, generation_id, position, offsets, order, bounds, chosen, n_found):  # type: ignore[no-untyped-def]
    """Of each such group of lists of activations, the places of those farthest from 0, among equals of the earlier token, in
    int64 [groups, k], and how many there are."""
    k = chosen.shape[1]
    for group in range(len(bounds) - 1):
        best, n_best = chosen[group], 0
        for place in range(bounds[group], bounds[group + 1]):
            for i in range(offsets[order[place]], offsets[order[place] + 1]):
                at, size = n_best, abs(values[i])
                while at > 0:
                    other = best[at - 1]
                    if abs(values[other]) != size:
                        is_before = abs(values[other]) > size
                    elif generation_id[other] != generation_id[i]:
                        is_before = generation_id[other] < generation_id[i]
                    else:
                        is_before = position[other] < position[i]
                    if is_before:
                        break
                    at -= 1
                if at < k:
                    n_best = min(n_best + 1, k)
                    for later in range(n_best - 1, at, -1):
                        best[later] = best[later - 1]
                    best[at] = i
        n_found[group] = n_best


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


@compiled
def transpose(values, out):  # type: ignore[no-untyped-def]
    """Put the rows of values, float32 [tokens, n], into the columns of `out`, float32 [n, tokens]."""
    n_tokens, n = values.shape
    whole = n_tokens - n_tokens % 16  # a line of the cache has so many
    for first in range(0, whole, 16):
        for row in range(n):
            for i in range(16):
                out[row, first + i] = values[first + i, row]
    for i in range(whole, n_tokens):
        for row in range(n):
            out[row, i] = values[i, row]
