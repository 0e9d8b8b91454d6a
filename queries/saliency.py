"""Input saliency of a generation, from its stored gradients and embeddings."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float, Float32, Float64

from ..errors import InvalidOption

Method = Literal["grad_x_input", "grad_norm", "grad_dot_input", "grad_x_input_l1"]
METHODS: tuple[Method, ...] = get_args(Method)

_SCORES: dict[Method, Callable[[Any, Any], Float64[np.ndarray, "inputs"]]] = {
    "grad_x_input": lambda gradient, embedding: np.linalg.norm(gradient * embedding, axis=-1),
    "grad_norm": lambda gradient, embedding: np.linalg.norm(gradient, axis=-1),
    "grad_dot_input": lambda gradient, embedding: (gradient * embedding).sum(-1),
    "grad_x_input_l1": lambda gradient, embedding: np.abs(gradient * embedding).sum(-1),
}


class SaliencyMatrix(np.ndarray):
    """Shares of saliency, [output positions, input positions], float64: a NumPy array that knows its scores.

    Row `r` is output position `n_prompt_tokens + r`, column `i` is input position `i`; what an output cannot see is 0. Of a
    masked language model row `r` is masked position number `r`, and there is a column for every position.
    A row sums to 1 (its absolute values, for the signed method; 0 where every score is). `scores` has the same shape,
    before dividing by the row's sum; `method` is the saliency method. A slice or a result of arithmetic is without them.
    """

    scores: Float64[np.ndarray, "outputs inputs"] | None
    method: Method | None

    def __new__(cls, scores: Float64[np.ndarray, "outputs inputs"], method: Method) -> "SaliencyMatrix":
        totals = np.abs(scores).sum(axis=1, keepdims=True)
        matrix = np.divide(scores, totals, out=np.zeros_like(scores), where=totals > 0).view(cls)
        matrix.scores, matrix.method = scores, method
        return matrix

    def __array_finalize__(self, source: object) -> None:
        self.scores, self.method = None, None


def saliency_matrix(
    gradients: Sequence[Float[np.ndarray, "_ d_model"]],
    embeddings: Float32[np.ndarray, "positions d_model"],
    method: Method = "grad_x_input",
) -> SaliencyMatrix:
    """Saliency of each output position over the input positions before it.

    `gradients[r]` is [inputs, d_model]: the gradient of that output's logit with respect to every embedding that it sees, the
    earlier ones, or all for a masked position. Sums are taken in double precision. Raises InvalidOption for an unknown method.
    Source: gradient × input, L2: Bastings & Filippova 2020, arXiv:2010.05607; Atanasova et al. 2020, arXiv:2009.13295.
    """
    check_method(method)
    x = embeddings.astype(np.float64)
    width = max([len(embeddings) - 1, *map(len, gradients)])
    scores = np.zeros((len(gradients), width))
    for row, gradient in zip(scores, gradients, strict=True):
        n_inputs = len(gradient)
        row[:n_inputs] = _SCORES[method](gradient.astype(np.float64), x[:n_inputs])
    return SaliencyMatrix(scores, method)


def saliency_of_scores(scores: Sequence[Float32[np.ndarray, "_"]], n_tokens: int, method: Method) -> SaliencyMatrix:
    """The same from scores that were kept in place of gradients, `scores[r]` those of one output position."""
    matrix = np.zeros((len(scores), max([n_tokens - 1, *map(len, scores)])))
    for row, of_output in zip(matrix, scores, strict=True):
        row[: len(of_output)] = of_output
    return SaliencyMatrix(matrix, method)


def check_method(method: str) -> None:
    """Raise InvalidOption for an unknown method."""
    if method not in METHODS:
        raise InvalidOption("method", method, f"choose one of {', '.join(METHODS)}")
