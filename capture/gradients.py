"""Gradients of every explained token's target with respect to the embeddings that it was predicted from, from few graphs.

Rows of a batch do not touch each other, so one backward pass serves one output position of every row; several output
positions go through the graph at once as a batch of vector-Jacobian products. The unembedding is left out of them: what
it does at one position depends on that position alone, so a single backward pass through it gives the gradient at the
last hidden state for all outputs together, and the products start there. A causal model's output sees nothing after itself:
the earlier ones go through graphs of the texts cut short, where the forward pass that makes such a graph takes less than it
saves; and texts of different lengths each go alone, where padding them takes more than a forward pass for each.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from ..store import GradientTarget
from .devices import HostCopies
from .reach import Reach

FORWARD = 1.2
"""What a forward pass that keeps its graph takes, in products of one output over as many positions (decision 009)."""

BESIDE = 0.2
"""What a product takes at a position that its output does not see, where linear maps multiply nothing (decision 013)."""

N_SCORES = 4
"""What is kept of a gradient in its place where scores are wanted: the columns of `gradient_scores`."""

MAX_CUTS = 256
"""Places where outputs may be cut into groups: finding the best costs their number squared."""


@dataclass(frozen=True)
class Graph:
    """From the input embeddings, which are a leaf, to what the unembedding receives."""

    embedding: Float[Tensor, "batch pos d_model"]
    last_hidden: Float[Tensor, "batch pos d_last"]
    reach: Reach


@dataclass(frozen=True)
class Output:
    """A token that is explained: the position whose last hidden state predicts it, and how many embeddings that one sees."""

    at: int
    token_id: int
    n_inputs: int


@dataclass(frozen=True)
class _Step:
    """Outputs, at most one of each row, that one product serves."""

    rows: tuple[int, ...]
    outputs: tuple[Output, ...]

    @property
    def width(self) -> int:
        return max(output.n_inputs for output in self.outputs)


def written_outputs(ids: Sequence[int], n_prompt_tokens: int) -> list[Output]:
    """The tokens that a causal model wrote after its prompt: each sees what is before it."""
    return [Output(position - 1, ids[position], position) for position in range(n_prompt_tokens, len(ids))]


def masked_outputs(masked: Sequence[int], targets: Sequence[int], n_tokens: int) -> list[Output]:
    """The tokens at a text's masked positions: each sees the whole text."""
    return [Output(position, target, n_tokens) for position, target in zip(masked, targets, strict=True)]


def target_gradients(
    last_hidden: Float[Tensor, "batch pos d_last"],
    logits: Float[Tensor, "real vocab"],
    starts: Sequence[int],
    outputs: Sequence[Sequence[Output]],
    target: GradientTarget,
) -> Float[Tensor, "batch pos d_last"]:
    """For each output of each row, where it is predicted: ∂ target of its token / ∂ the hidden state there.

    `logits` are of all rows' real positions, and `starts` where each row's begin. Frees the graph between the two.
    """
    places = [(start + out.at, out.token_id) for start, of_row in zip(starts, outputs, strict=True) for out in of_row]
    rows, tokens = torch.tensor(places, device=logits.device).T
    values = logits[rows, tokens].float()
    if target == "logprob":
        values = values - logits[rows].float().logsumexp(-1)
    elif target == "contrast":
        first, second = logits.detach()[rows].topk(2).indices.T
        runner_up = torch.where(first == tokens, second, first)
        values = values - logits[rows, runner_up].float()
    (gradient,) = torch.autograd.grad(values.sum(), last_hidden)
    return gradient


def output_gradients(
    at_hidden: Float[Tensor, "batch pos d_last"],
    whole: Graph,
    cut_short: Callable[[int], Graph],
    outputs: Sequence[Sequence[Output]],
    *,
    scores: bool,
    tokens_at_once: int,
) -> list[list[Float32[np.ndarray, "inputs width"]]]:
    """For each text, for each of its outputs, by ascending position, ∂ its target / ∂ each embedding that it sees.

    With `scores`, what `gradient_scores` has of each of those vectors instead.

    `at_hidden` is of `target_gradients`; `cut_short(width)` gives a graph of the texts' first `width` positions.
    `tokens_at_once` bounds memory: products over about that many positions are held together, and those before them while they
    are on their way to the host. Frees the graphs.
    """
    steps = _steps(outputs)
    gradients: list[dict[int, Float32[np.ndarray, "inputs width"]]] = [{} for _ in outputs]
    leaving: tuple[list[_Step], HostCopies[int]] | None = None

    def arrive() -> None:
        if leaving is None:
            return
        of_part, copies = leaving
        for product, step in zip(copies.arrays()[0], of_part, strict=True):
            for row, output in zip(step.rows, step.outputs, strict=True):
                gradients[row][output.at] = product[row, : output.n_inputs].copy()

    end = len(steps)
    for start in reversed(group_starts([step.width for step in steps])):
        graph = whole if end == len(steps) else cut_short(steps[end - 1].width)
        n_passes = ceil((end - start) / max(1, tokens_at_once // graph.last_hidden[..., 0].numel()))
        for number, part in enumerate(np.array_split(np.arange(start, end), n_passes), 1):
            of_part = [steps[index] for index in part]
            products = _products(graph, of_part, at_hidden, keep=number < n_passes)
            begun = HostCopies({0: _scores(products, graph.embedding.detach()) if scores else products})
            del products  # its memory is free when it is on the host
            arrive()
            leaving = of_part, begun
        end = start
    arrive()
    return [[of_row[at] for at in sorted(of_row)] for of_row in gradients]


def group_starts(widths: Sequence[int]) -> list[int]:
    """Where to cut outputs, of ascending widths, into groups that go through a graph of their widest: the first of each.

    They take the least time together. The last group's graph is there already.
    """
    n = len(widths)
    stride = max(1, ceil(n / MAX_CUTS))
    best: dict[int, tuple[float, list[int]]] = {0: (0.0, [])}
    for end in [*range(stride, n, stride), n]:
        forward = FORWARD if end < n else 0.0
        costs = {
            start: cost + (BESIDE * (end - start) + forward) * widths[end - 1] for start, (cost, _) in best.items()
        }
        start = min(costs, key=costs.__getitem__)
        best[end] = costs[start], [*best[start][1], start]
    return best[n][1]


def _scores(
    gradient: Float[Tensor, "step batch pos d_model"], embedding: Float[Tensor, "batch pos d_model"]
) -> Float32[Tensor, "step batch pos 4"]:
    """The columns of `gradient_scores`, summed in double precision."""
    g = gradient.double()
    g_x = g * embedding.double()
    return torch.stack([g_x.norm(dim=-1), g.norm(dim=-1), g_x.sum(-1), g_x.abs().sum(-1)], dim=-1).float()


def _steps(outputs: Sequence[Sequence[Output]]) -> list[_Step]:
    """The first output of each row together, then the second, and so on; by ascending width."""
    pairs = [
        [(row, of_row[number]) for row, of_row in enumerate(outputs) if number < len(of_row)]
        for number in range(max(map(len, outputs)))
    ]
    return sorted((_Step(*zip(*each, strict=True)) for each in pairs), key=lambda step: step.width)


def _products(
    graph: Graph, steps: Sequence[_Step], at_hidden: Float[Tensor, "batch all d_last"], *, keep: bool
) -> Float[Tensor, "step batch pos d_model"]:
    """Each step's gradients of its outputs; `keep` the graph for more."""
    batch, pos = graph.last_hidden.shape[:2]
    seeds = at_hidden.new_zeros(len(steps), *graph.last_hidden.shape)
    n_inputs = [[0] * batch for _ in steps]
    for index, step in enumerate(steps):
        for row, output in zip(step.rows, step.outputs, strict=True):
            seeds[index, row, output.at] = at_hidden[row, output.at]
            n_inputs[index][row] = output.n_inputs

    def product(seed: Float[Tensor, "batch pos d_last"]) -> Float[Tensor, "batch pos d_model"]:
        return torch.autograd.grad(graph.last_hidden, graph.embedding, seed, retain_graph=keep)[0]

    with graph.reach.limited(n_inputs, pos):
        products: Tensor = torch.func.vmap(product)(seeds)
    return products
