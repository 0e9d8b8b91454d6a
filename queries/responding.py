"""Neurons that prefer the positions which a predicate selects: one pass over the token-major vectors, as matrices.

In SQL the same would be an unnest of every value of the corpus; here a batch of positions is one matrix product a moment.
"""

from collections.abc import Iterable, Sequence
from threading import Event

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float32, Int32, Int64

from ..errors import InvalidOption
from ..store import Batch
from .corpus_tokens import token_numbers
from .neuron_values import NeuronReader
from .selection import READ, selected_tokens
from .work import Progress, Work


class Moments:
    """Of the activations of a layer's neurons at the selected positions and at the others, each [2, neurons]: how many there are,
    their mean, and the sum of squares of their distances from it, which keeps its digits wherever the mean lies."""

    def __init__(self) -> None:
        self.n, self.mean, self.squares = (np.zeros((2, 0)) for _ in range(3))

    def add(
        self,
        activations: Float32[np.ndarray, "positions neurons"],
        selected: Bool[np.ndarray, "positions"],
        neurons: Int32[np.ndarray, "neurons"],
    ) -> None:
        """Count a batch in. Products are taken in single precision within it, around its mean; batches are merged in double
        (Chan, Golub & LeVeque 1983, doi:10.1080/00031305.1983.10483115)."""
        if not len(activations):
            return
        if (more := neurons[-1] + 1 - self.n.shape[1]) > 0:
            self.n, self.mean, self.squares = (
                np.pad(a, ((0, 0), (0, more))) for a in (self.n, self.mean, self.squares)
            )
        weights = np.stack([selected, ~selected]).astype(np.float32)
        n = weights.sum(axis=1, dtype=np.float64)[:, None]
        centre = activations.mean(axis=0)
        rest = activations - centre
        mean = (weights @ rest) / np.maximum(n, 1)
        squares = np.maximum(weights @ np.square(rest, out=rest) - n * mean**2, 0)
        before = self.n[:, neurons]
        share = n / np.maximum(before + n, 1)
        apart = mean + centre - self.mean[:, neurons]
        self.n[:, neurons] += n
        self.mean[:, neurons] += share * apart
        self.squares[:, neurons] += squares + share * before * apart**2

    def frame(self, layer: int) -> pd.DataFrame:
        """A row for each neuron that was recorded at positions of both kinds: means, and the difference of them in standard
        deviations (Cohen's d, pooled)."""
        (neurons,) = np.nonzero(self.n.all(axis=0))
        n, means, squares = (of[:, neurons] for of in (self.n, self.mean, self.squares))
        within = squares.sum(axis=0) / np.maximum(n.sum(axis=0) - 2, 1)
        difference = means[0] - means[1]
        with np.errstate(divide="ignore", invalid="ignore"):
            effect = np.where(difference == 0, 0.0, difference / np.sqrt(within))
        return pd.DataFrame(
            {
                "layer": np.int32(layer),
                "neuron": neurons.astype(np.int32),
                "n_selected": n[0].astype(np.int64),
                "mean_selected": means[0],
                "mean_others": means[1],
                "effect_size": effect,
            }
        )


def responding(
    neurons: NeuronReader,
    read_sql: READ,
    predicate: str,
    layers: Sequence[int] | None,
    *,
    run_id: int | None,
    special: bool,
    cancel: Event | None,
    on_progress: Progress | None,
) -> pd.DataFrame:
    """What `Store.responding` gives."""
    run_ids, asked = neurons.runs_with_any(layers, run_id)
    corpus, counts = neurons.tokens, neurons.in_runs(run_ids)
    if not special:
        counts &= ~corpus.is_special
    holds = corpus.marked(selected_tokens(read_sql, predicate, len(corpus)))[counts]
    n_selected = int(holds.sum())
    if n_selected in (0, len(holds)):
        where = "at no position" if n_selected == 0 else f"at all {n_selected} positions"
        raise InvalidOption("predicate", predicate, f"it holds {where}, so there is nothing to compare")
    bounds = [neurons.snapshot.reservations[number].generation_ids for number in run_ids]
    generations = (min(ids.start for ids in bounds), max(ids.stop for ids in bounds) - 1)
    wanted: dict[str, int | tuple[int, int]] = {"layer": (asked[0], asked[-1]), "generation_id": generations}
    work = Work("the search for responding neurons", len(holds) * len(asked), cancel, on_progress)
    found = moments(neurons.activations(wanted), corpus.numbers[counts], holds, work)
    frames = [frame for layer in asked if layer in found if len(frame := found[layer].frame(layer))]
    if not frames:
        where = "at none, or at all, of the positions whose activations were recorded"
        raise InvalidOption("predicate", predicate, f"it holds {where}, so there is nothing to compare")
    work.end()
    return pd.concat(frames, ignore_index=True).sort_values(
        "effect_size", ascending=False, ignore_index=True, kind="stable"
    )


def moments(
    batches: Iterable[Batch], known: Int64[np.ndarray, "tokens"], holds: Bool[np.ndarray, "tokens"], work: Work
) -> dict[int, Moments]:
    """The moments of each layer. `known` are the numbers of the tokens that count, ascending; others are left out. `holds` says
    whether the predicate holds there."""
    found: dict[int, Moments] = {}
    for batch in batches:
        work.go_on()
        wanted = token_numbers(batch.keys["generation_id"], batch.keys["position"])
        place = np.minimum(np.searchsorted(known, wanted), max(len(known) - 1, 0))
        counts = known[place] == wanted if len(known) else np.zeros(len(wanted), bool)
        layers = batch.keys["layer"]
        for layer in np.unique(layers).tolist():
            rows = counts & (layers == layer)
            if layer not in found:
                found[layer] = Moments()
            whole = rows.all()
            vectors = batch.vectors if whole else batch.vectors[rows]
            assert batch.neurons is not None, "activations are given with their neurons"
            found[layer].add(vectors, holds[place if whole else place[rows]], batch.neurons)
            work.did(len(vectors))
    return found
