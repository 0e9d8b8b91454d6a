"""One generation: its text, its tokens, and what was recorded of it as arrays."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float32

from ..errors import InvalidOption, NotRecorded, UnknownLayer
from ..store import Reader, Snapshot
from .factors import Factors, Negatives, nmf
from .saliency import Method, SaliencyMatrix, check_method, saliency_matrix, saliency_of_scores


@dataclass(frozen=True)
class Generation:
    """A prompt and what the model wrote after it; `n_tokens` positions, the first `n_prompt_tokens` of them the prompt."""

    generation_id: int
    run_id: int
    prompt_index: int
    prompt: str
    completion: str
    n_prompt_tokens: int
    n_tokens: int
    finish_reason: str
    metadata: Mapping[str, Any]
    model: str
    recorded: frozenset[str]
    layers: tuple[int, ...]
    _reader: Reader = field(repr=False, compare=False)
    _snapshot: Snapshot = field(repr=False, compare=False)

    @property
    def text(self) -> str:
        """Prompt and completion; the tokens' character offsets count in it."""
        return self.prompt + self.completion

    @property
    def tokens(self) -> pd.DataFrame:
        """The rows of `tokens`, by position, without generation_id."""
        rows = self._reader.rows(self._snapshot, "tokens", generation_id=self.generation_id)
        return rows.drop_columns(["generation_id"]).to_pandas()

    def embeddings(self) -> Float32[np.ndarray, "positions d_model"]:
        """The input embedding of each token. Raises NotRecorded."""
        return self._vectors("embeddings")

    def gradients(self, output_position: int | None = None) -> Float32[np.ndarray, "pairs d_model"]:
        """Gradients with respect to the embeddings before an output position, by input position.

        Without `output_position`, those of all output positions one after the other: `p` rows for position `p`, then
        `p + 1` for the next. Raises NotRecorded; InvalidOption for a position that the model did not write.
        """
        vectors = self._vectors("gradients")
        if output_position is None:
            return vectors
        outputs = self._outputs
        if output_position not in outputs:
            raise InvalidOption(
                "output_position", output_position, f"choose from {outputs.start} to {outputs.stop - 1}"
            )
        start = sum(range(self.n_prompt_tokens, output_position))
        return vectors[start : start + output_position]

    def activations(self, layers: Sequence[int] | None = None) -> Float32[np.ndarray, "positions neurons"]:
        """Activations, [positions, layers × d_ff], layer after layer in the order asked for (all, ascending, unless told).

        Raises NotRecorded, or UnknownLayer.
        """
        return self._reader.layers(self._snapshot, self.generation_id, self._known(layers))

    def saliency(self, method: Method = "grad_x_input") -> SaliencyMatrix:
        """Shares of each input in each generated token, [output positions, input positions]; a row sums to 1.

        Row `r` is output position `n_prompt_tokens + r`. From the stored gradients and embeddings, or from the scores that
        the run kept in their place. Raises NotRecorded when neither is there; InvalidOption.
        """
        if "gradient_scores" in self.recorded:
            check_method(method)
            rows = self._reader.rows(
                self._snapshot, "gradient_scores", columns=[method], generation_id=self.generation_id
            )
            return saliency_of_scores(rows[method].to_numpy(), self.n_prompt_tokens, self.n_tokens, method)
        bounds = np.cumsum([*self._outputs])[:-1]
        gradients = np.split(self._vectors("gradients"), bounds) if len(self._outputs) else []
        return saliency_matrix(gradients, self.embeddings(), method)

    def factors(
        self,
        k: int,
        layers: Sequence[int] | None = None,
        *,
        negatives: Negatives = "auto",
        scale_layers: bool = False,
        seed: int = 0,
    ) -> Factors:
        """`k` non-negative factors of the activations of these layers (all unless told): see `queries.factors.nmf`."""
        known = self._known(layers)
        activations = self.activations(known)
        return nmf(activations, k, layers=known, negatives=negatives, scale_layers=scale_layers, seed=seed)

    @property
    def _outputs(self) -> range:
        return range(self.n_prompt_tokens, self.n_tokens)

    def _known(self, layers: Sequence[int] | None) -> tuple[int, ...]:
        self._check_recorded("activations")
        asked = self.layers if layers is None else tuple(layers)
        if not asked or set(asked) - set(self.layers):
            raise UnknownLayer(sorted(set(asked) - set(self.layers)), self.layers)
        return asked

    def _vectors(self, what: Literal["embeddings", "gradients"]) -> Float32[np.ndarray, "rows width"]:
        self._check_recorded(what)
        return self._reader.vectors(self._snapshot, what, generation_id=self.generation_id)

    def _check_recorded(self, what: str) -> None:
        if what not in self.recorded:
            raise NotRecorded(what, sorted(self.recorded), self.generation_id)
