"""How far gradients reach: an output's are zero at every position after it, and what is zero need not be multiplied.

Many outputs of several texts go backward at once, each as wide as the batch. Where a map works on each position alone, the
rows that can be other than zero are packed into one matrix, and spread again.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float, Int
from torch import Tensor


class Reach:
    """Which rows of gradients `[output, text, position, width]` products that run now can make other than zero; None: all."""

    def __init__(self) -> None:
        self._shape: tuple[int, ...] = ()
        self._places: Int[Tensor, "rows"] | None = None
        self._others: Int[Tensor, "others"] | None = None
        self.width: int | None = None  # of the widest of them, if there is one

    @contextmanager
    def limited(self, n_inputs: Sequence[Sequence[int]], n_positions: int) -> Iterator[None]:
        """Within it, of each output (first axis) in each text the first `n_inputs` of its positions are reached."""
        widths = torch.tensor(n_inputs)[..., None]
        self._shape = (*widths.shape[:2], n_positions)
        reached = (torch.arange(n_positions) < widths).flatten()
        self._places, self._others = reached.nonzero()[:, 0], (~reached).nonzero()[:, 0]
        self.width = int(widths.max())
        try:
            yield
        finally:
            self._places = self._others = self.width = None

    def fits(self, gradients: Float[Tensor, "..."]) -> bool:
        """Whether gradients that have these axes are limited, and to less than all of them; all others must be zero."""
        if self._places is None or gradients.shape[:-1] != self._shape:
            return False
        return len(self._places) < gradients[..., 0].numel()

    def rows(self, gradients: Float[Tensor, "output text position width"]) -> Float[Tensor, "rows width"]:
        """Those that are reached, as one matrix."""
        return gradients.reshape(-1, gradients.shape[-1]).index_select(0, self._on(gradients.device))

    def shared(self, values: Float[Tensor, "text position width"]) -> Float[Tensor, "rows width"]:
        """What all outputs have in common, for each of those rows."""
        n_shared = self._shape[1] * self._shape[2]
        return values.reshape(n_shared, -1).index_select(0, self._on(values.device) % n_shared)

    def spread(self, rows: Float[Tensor, "rows width"]) -> Float[Tensor, "output text position width"]:
        """Rows where they belong, among zeros."""
        assert self._others is not None
        whole = rows.new_empty(*self._shape, rows.shape[-1])
        flat = whole.flatten(0, -2)
        flat.index_copy_(0, self._on(rows.device), rows)
        self._others = self._others.to(rows.device)
        flat.index_fill_(0, self._others, 0)
        return whole

    def _on(self, device: torch.device) -> Int[Tensor, "rows"]:
        assert self._places is not None
        self._places = self._places.to(device)
        return self._places
