"""What a pass over texts is to record of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int32
from torch import Tensor

from ..store import GradientTarget, Positions
from .stream import OfStream

See = Callable[[Mapping[int, Float[Tensor, "rows neurons"]], Sequence[Sequence[int]]], None]
"""By layer the activations of a batch, a row for each token that is recorded, text after text; and these tokens' ids."""


@dataclass(frozen=True)
class Wanted:
    """Embeddings always; activations of these `layers`, of these `neurons` (ascending; None: all), at these `positions`; what is
    wanted of the residual `stream`; gradients of a `target`, backward passes over `gradient_tokens` positions at a time, or with
    `scores` their scores, [inputs, 4], in their place. `see` is told of all activations while they are where they were
    computed."""

    layers: Sequence[int] = ()
    neurons: Sequence[int] | None = None
    positions: Positions = Positions()  # noqa: RUF009  frozen
    stream: OfStream = OfStream()  # noqa: RUF009  frozen
    target: GradientTarget | None = None
    scores: bool = False
    see: See | None = None
    gradient_tokens: int | Literal["auto"] = "auto"

    def at(self, n_prompt_tokens: Sequence[int], n_tokens: Sequence[int]) -> list[Int32[np.ndarray, "_"]]:
        """The positions of each text, whose numbers of tokens these are."""
        return [self.positions.of(p, n) for p, n in zip(n_prompt_tokens, n_tokens, strict=True)]
