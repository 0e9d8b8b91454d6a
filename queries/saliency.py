"""Input saliency of a generation, from its stored gradients and embeddings."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Float, Float32, Float64

from ..errors import InvalidOption
from .display import Displayed
from .words import By, Group, within

Method = Literal["grad_x_input", "grad_norm", "grad_dot_input", "grad_x_input_l1"]
METHODS: tuple[Method, ...] = get_args(Method)

_SCORES: dict[Method, Callable[[Any, Any], Float64[np.ndarray, "inputs"]]] = {
    "grad_x_input": lambda gradient, embedding: np.linalg.norm(gradient * embedding, axis=-1),
    "grad_norm": lambda gradient, embedding: np.linalg.norm(gradient, axis=-1),
    "grad_dot_input": lambda gradient, embedding: (gradient * embedding).sum(-1),
    "grad_x_input_l1": lambda gradient, embedding: np.abs(gradient * embedding).sum(-1),
}


class Groups(NamedTuple):
    """The positions that each row and each column of a SaliencyMatrix is of: the first and the last."""

    rows: list[Group]
    columns: list[Group]


class SaliencyMatrix(Displayed, np.ndarray):
    """Shares of saliency, [output positions, input positions], float64: a NumPy array that knows its scores.

    Row `r` is output position `n_prompt_tokens + r`, column `i` is input position `i`; what an output cannot see is 0. Of a
    masked language model row `r` is masked position number `r`, and there is a column for every position.
    A row sums to 1 (its absolute values, for a signed method; 0 where every score is). `scores` has the same shape,
    before dividing by the row's sum; `method` is the saliency method; `target` is what of the outputs is explained (the run's
    `gradient_target`: logit, logprob or contrast), None where it is not known.

    `by` says what rows and columns are of: token, word or line; `groups.rows` and `groups.columns` have the positions of each.
    `deltas`, of integrated gradients, are by how much each row's scores miss the difference that they should add up to.
    `generation` is what it is of: a notebook draws its tokens.
    A slice or a result of arithmetic is without all of these.
    """

    scores: Float64[np.ndarray, "outputs inputs"] | None
    method: str | None
    target: str | None
    by: By | None
    groups: Groups | None
    deltas: Float64[np.ndarray, "outputs"] | None
    generation: Any

    def __new__(
        cls,
        scores: Float64[np.ndarray, "outputs inputs"],
        method: str,
        target: str | None = None,
        *,
        by: By = "token",
        groups: Groups | None = None,
        deltas: Float64[np.ndarray, "outputs"] | None = None,
    ) -> "SaliencyMatrix":
        totals = np.abs(scores).sum(axis=1, keepdims=True)
        matrix = np.divide(scores, totals, out=np.zeros_like(scores), where=totals > 0).view(cls)
        matrix.scores, matrix.method, matrix.target = scores, method, target
        matrix.by, matrix.groups, matrix.deltas = by, groups, deltas
        return matrix

    def __array_finalize__(self, source: object) -> None:
        self.scores, self.method, self.target, self.by, self.groups = (None,) * 5
        self.deltas = None
        self.generation = None


def merged(
    matrix: SaliencyMatrix, groups: Sequence[Group], output_positions: Sequence[int], by: By = "token"
) -> SaliencyMatrix:
    """The saliency of groups of outputs over groups of inputs: scores of tokens added up over both, then shares.

    So a row is about the sum of what is explained of its outputs, and of its outputs those with greater scores count more;
    what an output owes to an earlier one of its own group stays, in that group's column. Of several groups all positions that are
    rows, or columns, are taken; `output_positions` are the rows'.
    """
    assert matrix.scores is not None, "a slice of a SaliencyMatrix has no scores"
    rows, columns = within(groups, output_positions), within(groups, range(matrix.shape[1]))
    place = {position: row for row, position in enumerate(output_positions)}
    scores, deltas = matrix.scores, matrix.deltas
    if rows and columns:
        starts = [place[first] for first, _ in rows]
        deltas = None if deltas is None else np.add.reduceat(deltas, starts)
        scores = np.add.reduceat(np.add.reduceat(scores, starts, axis=0), [first for first, _ in columns], axis=1)
    how = matrix.method or ""
    return SaliencyMatrix(scores, how, matrix.target, by=by, groups=Groups(rows, columns), deltas=deltas)


def saliency_matrix(
    gradients: Sequence[Float[np.ndarray, "_ d_model"]],
    embeddings: Float32[np.ndarray, "positions d_model"],
    method: Method = "grad_x_input",
    target: str | None = None,
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
    return SaliencyMatrix(scores, method, target)


def saliency_of_scores(
    scores: Sequence[Float32[np.ndarray, "_"]], n_tokens: int, method: Method, target: str | None = None
) -> SaliencyMatrix:
    """The same from scores that were kept in place of gradients, `scores[r]` those of one output position."""
    matrix = np.zeros((len(scores), max([n_tokens - 1, *map(len, scores)])))
    for row, of_output in zip(matrix, scores, strict=True):
        row[: len(of_output)] = of_output
    return SaliencyMatrix(matrix, method, target)


def check_method(method: str) -> None:
    """Raise InvalidOption for an unknown method."""
    if method not in METHODS:
        raise InvalidOption("method", method, f"choose one of {', '.join(METHODS)}")
