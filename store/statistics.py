"""Statistics of what is being captured, taken from the matrices in hand.

Those of a batch take a good part of the bytes that the batch takes, those of a segment's worth of tokens a few hundredths
(decision 017). So batch is added to batch in memory, and what there is then is one commit, which says that the batches' files are
counted. Where it is not made, the index step makes them from the files.
"""

import secrets
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate

import numpy as np
import pyarrow as pa
from jaxtyping import Float32, Int32

from .index import SEGMENT_TOKENS, segment_row
from .log import Commit, DataFile, Log
from .partials import Kind, Measured, added, by_kind, in_order, measured, partial_rows
from .precision import Precision, rounded
from .schema import ACTIVATION_VECTORS, NEURON_PARTIALS, SEGMENTS
from .shard import CapturedGeneration, write_tables
from .threads import threads

Statistics = Mapping[int, Sequence[Measured]]
"""By layer, the statistics of each kind of token."""


def kinds_of(generations: Sequence[CapturedGeneration]) -> list[Kind]:
    """The kinds of tokens of which generations, sorted by number, have activations."""
    at = [each.layer_positions for each in generations]
    lengths = [*map(len, at)]
    run_id = np.repeat([each.run_id for each in generations], lengths)
    is_special = np.concatenate([each.tokens.is_special[of_one] for each, of_one in zip(generations, at, strict=True)])
    generation_id = np.repeat([each.generation_id for each in generations], lengths)
    return by_kind(run_id, is_special, generation_id, np.concatenate(at))


def statistics_of(generations: Sequence[CapturedGeneration], precision: Precision) -> Statistics:
    """The statistics of the activations of generations, sorted by number, rounded to the precision.

    Cost: 7 ns a value on a core.
    """
    kinds, layers = kinds_of(generations), sorted(generations[0].activations or ())
    return {layer: _of_layer(layer, generations, kinds, precision) for layer in layers}


def _of_layer(
    layer: int, generations: Sequence[CapturedGeneration], kinds: Sequence[Kind], precision: Precision
) -> list[Measured]:
    from .kernels import turn_all

    matrices = [each.activations[layer] for each in generations if each.activations is not None]
    starts = [*accumulate(map(len, matrices), initial=0)]

    def read(neurons: slice) -> Float32[np.ndarray, "neurons tokens"]:
        out = np.empty((neurons.stop - neurons.start, starts[-1]), np.float32)
        for matrix, start in zip(matrices, starts, strict=False):
            turn_all(matrix[:, neurons], start, out)
        return rounded(out, precision)

    return measured(read, matrices[0].shape[1], starts[-1], kinds)


class Counting:
    """The statistics of batches that were committed, added up until they are committed too."""

    def __init__(self, log: Log, neurons: Int32[np.ndarray, "neurons"]) -> None:
        self._log, self._neurons = log, neurons
        self._begin()

    def _begin(self) -> None:
        self._segment_id = secrets.randbits(62)
        self._files: list[DataFile] = []
        self._rows: dict[int, pa.Table] = {}
        self._tokens: list[Kind] = []

    @property
    def n_tokens(self) -> int:
        return sum(len(kind.places) for kind in self._tokens)

    @property
    def is_due(self) -> bool:
        """Whether there are as many tokens as a segment has."""
        return self.n_tokens >= SEGMENT_TOKENS

    def adding(
        self, generations: Sequence[CapturedGeneration], statistics: Statistics
    ) -> Callable[[Sequence[DataFile]], None]:
        """Add up what there is and the statistics of generations, sorted by number. What it gives is to be called, before
        anything else is asked here, when these are committed, with their files."""
        kinds = kinds_of(generations)

        def with_layer(layer: int) -> pa.Table:
            of_kinds = zip(kinds, statistics[layer], strict=True)
            rows = [partial_rows(*of_kind, layer, self._neurons, self._segment_id) for of_kind in of_kinds]
            there = self._rows.get(layer)
            return in_order(rows) if there is None else added(pa.concat_tables([there, *rows]), self._segment_id)

        rows = dict(zip(statistics, threads().map(with_layer, statistics), strict=True)) if kinds else {}

        def committed(files: Sequence[DataFile]) -> None:
            if rows:
                self._rows = rows
                self._files += [file for file in files if file.table == ACTIVATION_VECTORS.name]
                self._tokens += kinds

        return committed

    def commit(self) -> None:
        """Commit what there is, unless another process has changed one of the files meanwhile. Raises DiskFull; then it is not
        committed, and forgotten."""
        if not self._files:
            return
        files, rows, tokens, segment_id = self._files, self._rows, self._tokens, self._segment_id
        self._begin()
        generation_id = np.concatenate([kind.generation_id for kind in tokens])
        position = np.concatenate([kind.position for kind in tokens])
        order = np.lexsort((position, generation_id))
        row = segment_row(segment_id, list(rows), len(self._neurons), generation_id[order], position[order])
        tables = [(SEGMENTS, row), *((NEURON_PARTIALS, of_layer) for of_layer in rows.values())]
        made = write_tables(self._log.location, tables)
        paths = [file.path for file in files]
        self._log.commit_over(files, Commit("count", f"count/{made[0].path}", made, counted=paths))
