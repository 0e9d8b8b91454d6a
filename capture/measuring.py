"""Statistics of a batch's activations, taken where they are: on an accelerator, which has them at hand and is quick.

The CPU's are taken as they are written (`store.statistics`). Both give the same.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from ..store.partials import BIN, BIN_SHIFT, COUNT, EXAMPLES, PLACE, Lists, Measured
from ..store.precision import Precision

_VALUES = 1 << 24
"""Activations, and bins, that are looked at at once, at most (but those of one neuron at least)."""

_N_BINS = 1 << (32 - BIN_SHIFT)
_LAST = (1 << 32) - 1
_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


class Measuring:
    """What `see` is told of a batch's activations becomes statistics of each kind of token, by layer."""

    def __init__(self, order: Sequence[int], is_special: Callable[[int], bool], precision: Precision) -> None:
        """`order` has the texts by their generations' numbers."""
        self._order, self._is_special, self._dtype = order, is_special, _DTYPES[precision]
        self.statistics: dict[int, list[Measured]] = {}

    def see(self, rows: Mapping[int, Float[Tensor, "rows neurons"]], token_ids: Sequence[Sequence[int]]) -> None:
        """Be told of all activations of a batch, by layer: a row for each of these tokens, text after text."""
        ends = np.cumsum([*map(len, token_ids)])
        places = np.concatenate([np.arange(ends[text] - len(token_ids[text]), ends[text]) for text in self._order])
        special = np.array([self._is_special(each) for text in self._order for each in token_ids[text]], bool)
        kinds = [torch.from_numpy(places[of_kind]) for of_kind in (~special, special) if of_kind.any()]
        for layer, of_layer in rows.items():
            self.statistics[layer] = [_measured(of_layer, kind.to(of_layer.device), self._dtype) for kind in kinds]


def _measured(rows: Float[Tensor, "rows neurons"], places: Int64[Tensor, "n"], dtype: torch.dtype) -> Measured:
    """The statistics of the rows at these places, in their order."""
    at_once = max(1, _VALUES // max(len(places), _N_BINS))
    return Measured.joined([_of_some(some[places].to(dtype).float()) for some in rows.split(at_once, dim=1)])


def _of_some(values: Float32[Tensor, "n neurons"]) -> Measured:
    mean = values.double().mean(0)
    m2 = (values.double() - mean).square().sum(0)
    positive, negative = _strongest(values), _strongest(-values)
    bins, counts = _histogram(values)
    return Measured(
        mean=_array(mean),
        m2=_array(m2),
        min=_array(values.amin(0)),
        max=_array(values.amax(0)),
        n_active=_array((values > 0).sum(0)),
        bins=bins,
        bin_counts=counts,
        positive=positive[0],
        positive_activation=positive[1],
        negative=negative[0],
        negative_activation=Lists(-negative[1].values, negative[1].ends),
    )


def _histogram(values: Float32[Tensor, "n neurons"]) -> tuple[Lists, Lists]:
    """The bins that are not empty, and how many values are in each."""
    n_neurons = values.shape[1]
    shifted = values.contiguous().view(torch.int32) >> BIN_SHIFT
    bins = shifted & (_N_BINS - 1)  # without the signs that the shift brought in
    starts = torch.arange(0, n_neurons * _N_BINS, _N_BINS, device=values.device)
    counts = torch.bincount((bins + starts).flatten(), minlength=n_neurons * _N_BINS)
    held = counts.nonzero()[:, 0]
    ends = _array((counts.unflatten(0, (n_neurons, _N_BINS)) > 0).sum(1).cumsum(0))
    return Lists(_array(held % _N_BINS).astype(BIN), ends), Lists(_array(counts[held]).astype(COUNT), ends)


def _strongest(values: Float32[Tensor, "n neurons"]) -> tuple[Lists, Lists]:
    """Which values of each neuron are greatest, as far as they are above 0, and the values; among equals the earlier first."""
    earlier = torch.arange(_LAST, _LAST - len(values), -1, device=values.device)[:, None]
    keys = values.contiguous().view(torch.int32).long() << 32 | earlier  # floats above 0 are in the order of their bits
    best = torch.where(values > 0, keys, -1).topk(min(EXAMPLES, len(values)), dim=0).values
    tokens = _LAST - (best & _LAST)  # the first, where there is none
    found = _array((best >= 0).T)
    ends = found.sum(1).cumsum()
    return Lists(_array(tokens.T)[found].astype(PLACE), ends), Lists(_array(values.gather(0, tokens).T)[found], ends)


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.cpu().numpy()
