"""A loaded model, as far as questions about a stored generation need one: `actlake.capture.Model` is what answers them."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args, runtime_checkable

import numpy as np

from ..errors import InvalidOption
from ..store import CapturedPredictions

if TYPE_CHECKING:
    from torch import Tensor

Lens = Literal["normed", "raw"]
LENSES: tuple[Lens, ...] = get_args(Lens)
"""How predictions are made of a layer's hidden states: with the model's final norm, or without."""


@runtime_checkable
class AskedModel(Protocol):
    """A model that is given to an analysis."""

    @property
    def name(self) -> str: ...
    @property
    def hash(self) -> str: ...
    @property
    def is_causal(self) -> bool: ...
    @property
    def pad_id(self) -> int: ...
    @property
    def anatomy(self) -> Any: ...

    def plainly(self) -> AbstractContextManager[None]:
        """While it computes: what a caller switched on in torch is off."""

    def lens_predictions(
        self, layer: int, hidden: np.ndarray, targets: Sequence[int], lens: Lens = "normed"
    ) -> CapturedPredictions:
        """What it would say at hidden states, float32 [rows, d_model], after a layer, and of a target at each (-1: none)."""

    def lens_ranks(
        self, layer: int, hidden: np.ndarray, token_ids: Sequence[int], lens: Lens = "normed"
    ) -> tuple[np.ndarray, np.ndarray]:
        """Ranks and probabilities of tokens there, [rows, tokens]."""

    def token_ids_of(self, tokens: Sequence[str | int]) -> list[int]:
        """The numbers of tokens given by text or number. Raises InvalidOption."""

    def embedded(self, token_ids: Sequence[int]) -> "Tensor":
        """Input embeddings, float32 [pos, d_model]."""

    def logits_of(self, token_ids: Sequence[int], embeddings: "Tensor") -> "Tensor":
        """Logits, [rows, pos, vocab], where embeddings, [rows, pos, d_model], stand for those of the tokens."""


def check_is_of(model: AskedModel, name: str, model_hash: str) -> None:
    """Raise InvalidOption unless `model` is the one that a run was captured with: the same weights, or, as the same weights in
    another type have another hash, the same name."""
    if model.name != name and model.hash != model_hash:
        raise InvalidOption("model", model.name, f"the generation was captured from {name}, which has other weights")


def check_lens(lens: str) -> None:
    """Raise InvalidOption for an unknown lens."""
    if lens not in LENSES:
        raise InvalidOption("lens", lens, f"choose one of {', '.join(LENSES)}")
