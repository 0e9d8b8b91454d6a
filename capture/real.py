"""Which positions of a padded batch are real: no others are worth arithmetic, nor memory."""

from collections.abc import Sequence
from itertools import accumulate

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Int32
from torch import Tensor


class Real:
    """The real positions of a batch, text after text."""

    def __init__(self, mask: Bool[Tensor, "batch pos"]) -> None:
        self.shape = mask.shape
        self.lengths: list[int] = mask.sum(1).tolist()
        self.starts = [0, *accumulate(self.lengths)][:-1]
        self.mask = mask
        places = mask.flatten().nonzero()[:, 0]
        self._n, self._places_on = len(places), {places.device: places}

    @classmethod
    def padded_at_left(cls, lengths: Sequence[int]) -> "Real":
        """Of texts of these lengths, padded to the longest."""
        width = max(lengths)
        return cls(torch.arange(width) >= torch.tensor([width - length for length in lengths])[:, None])

    @classmethod
    def first(cls, like: Tensor) -> "Real":
        """As if the first position of the first text alone were real: the least that an unembedding can be given."""
        mask = torch.zeros(like.shape[:2], dtype=torch.bool, device=like.device)
        mask[0, 0] = True
        return cls(mask)

    @property
    def is_whole(self) -> bool:
        """Whether nothing is padding."""
        return self._n == self.shape.numel()

    @property
    def last(self) -> "Real":
        """Of each text, its last real position alone."""
        return Real(self.mask & (self.mask.flip(1).cumsum(1).flip(1) == 1))

    @property
    def before_last(self) -> "Real":
        """Of each text, its real positions but for the last: those that something follows."""
        return Real(self.mask & ~self.last.mask)

    def packed(self, values: Float[Tensor, "batch pos width"]) -> Float[Tensor, "... width"]:
        """The rows of real positions, as one text; as they are where nothing is padding, or if they are of another batch (a
        step with a cache)."""
        if values.shape[:2] != self.shape or self.is_whole:
            return values
        return values.flatten(0, 1).index_select(0, self._places(values.device))[None]

    def spread(self, packed: Float[Tensor, "1 real width"]) -> Float[Tensor, "batch pos width"]:
        """What was made of `packed` values, where it belongs, and zeros elsewhere. Raises ValueError where it is not."""
        if packed.shape[:-1] != (1, self._n):
            raise ValueError(f"{tuple(packed.shape)} values are not a row for each of {self._n} real positions")
        whole = packed.new_zeros(self.shape.numel(), packed.shape[-1])
        return whole.index_copy_(0, self._places(packed.device), packed[0]).unflatten(0, self.shape)

    def rows(
        self, values: Float[Tensor, "... width"], at: Sequence[Int32[np.ndarray, "_"]] | None = None
    ) -> Float[Tensor, "rows width"]:
        """A row for each real position, text after text, or for these positions of each text: of values of the whole batch, or
        of `packed` ones, whatever their other axes. Raises ValueError where they are neither."""
        flat = values.reshape(-1, values.shape[-1])
        if len(flat) not in (self._n, self.shape.numel()):
            raise ValueError(f"the model gives {len(flat)} rows where {self._n} positions are real")
        is_packed = len(flat) == self._n
        if at is None:
            return flat if is_packed else flat.index_select(0, self._places(flat.device))
        numbers = torch.from_numpy(
            np.concatenate([np.add(s, a, dtype=np.int64) for s, a in zip(self.starts, at, strict=True)])
        )
        places = numbers.to(flat.device)
        return flat.index_select(0, places if is_packed else self._places(flat.device)[places])

    def _places(self, device: torch.device) -> Int[Tensor, "real"]:
        """Where in the flat batch real positions are."""
        if device not in self._places_on:
            self._places_on[device] = next(iter(self._places_on.values())).to(device)
        return self._places_on[device]
