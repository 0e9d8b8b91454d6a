"""Which positions of a padded batch are real. The unembedding, which can be a quarter of a small model, gets no others."""

from itertools import accumulate

import torch
from jaxtyping import Bool, Float
from torch import Tensor


class Real:
    """The real positions of a batch, text after text."""

    def __init__(self, mask: Bool[Tensor, "batch pos"]) -> None:
        self.shape = mask.shape
        self.lengths: list[int] = mask.sum(1).tolist()
        self.starts = [0, *accumulate(self.lengths)][:-1]
        self._mask = mask
        self._places = mask.flatten().nonzero()[:, 0]

    @classmethod
    def first(cls, like: Tensor) -> "Real":
        """As if the first position of the first text alone were real: the least that an unembedding can be given."""
        mask = torch.zeros(like.shape[:2], dtype=torch.bool, device=like.device)
        mask[0, 0] = True
        return cls(mask)

    @property
    def last(self) -> "Real":
        """Of each text, its last real position alone."""
        return Real(self._mask & (self._mask.flip(1).cumsum(1).flip(1) == 1))

    @property
    def before_last(self) -> "Real":
        """Of each text, its real positions but for the last: those that something follows."""
        return Real(self._mask & ~self.last._mask)

    def packed(self, values: Float[Tensor, "batch pos width"]) -> Float[Tensor, "... width"]:
        """The rows of real positions, as one text; as they are where nothing is padding, or if they are of another batch (a
        step with a cache)."""
        if values.shape[:2] != self.shape or len(self._places) == self.shape.numel():
            return values
        return values.flatten(0, 1).index_select(0, self._places.to(values.device))[None]

    def rows(self, values: Float[Tensor, "batch pos width"]) -> Float[Tensor, "real width"]:
        """What was made of `packed` values, a row for each real position. Raises ValueError where it is not."""
        rows = self.packed(values).flatten(0, 1)
        if len(rows) != len(self._places):
            raise ValueError(f"the model gives {len(rows)} rows where {len(self._places)} positions are real")
        return rows
