"""Statistics of what is being captured, taken from the matrices in hand.

Those of a batch take a good part of the bytes that the batch takes, those of a segment's worth of tokens a few hundredths
(decision 017). So batch is added to batch in memory, and what there is then is one commit, which says that the batches' files are
counted. Where it is not made, the index step makes them from the files.
"""

import secrets
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pyarrow as pa
from jaxtyping import Float32, Int32

from .index import SEGMENT_TOKENS, segment_row
from .log import Commit, DataFile, Log
from .partials import Kind, Measured, by_kind, in_order, measured, partial_rows, total
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

    Cost: 3 ns a value on a core.
    """
    kinds, layers = kinds_of(generations), sorted(generations[0].activations or ())
    return {layer: _of_layer(layer, generations, kinds, precision) for layer in layers}


def _of_layer(
    layer: int, generations: Sequence[CapturedGeneration], kinds: Sequence[Kind], precision: Precision
) -> list[Measured]:
    from .kernels import transpose

    matrices = [each.activations[layer] for each in generations if each.activations is not None]
    n_tokens, n_neurons = sum(map(len, matrices)), matrices[0].shape[1]

    def read(neurons: slice) -> Float32[np.ndarray, "neurons tokens"]:
        values = rounded(np.concatenate([matrix[:, neurons] for matrix in matrices]), precision)
        out = np.empty(values.shape[::-1], np.float32)
        transpose(values, out)
        return out

    return measured(read, n_neurons, n_tokens, kinds)


class Counting:
    """The statistics of batches that were committed, added up until they are committed too."""

    def __init__(self, log: Log, neurons: Int32[np.ndarray, "neurons"]) -> None:
        self._log, self._neurons = log, neurons
        self._begin()

    def _begin(self) -> None:
        self._files: list[DataFile] = []
        self._sums: dict[tuple[int, bool], _Sum] = {}

    @property
    def is_due(self) -> bool:
        """Whether there are as many tokens as a segment has."""
        return sum(len(kind.places) for kind, _ in self._sums.values()) >= SEGMENT_TOKENS

    def adding(
        self, generations: Sequence[CapturedGeneration], statistics: Statistics
    ) -> Callable[[Sequence[DataFile]], None]:
        """Add up what there is and the statistics of generations, sorted by number. What it gives is to be called, before
        anything else is asked here, when these are committed, with their files."""
        sums = dict(self._sums)
        for number, kind in enumerate(kinds_of(generations) if statistics else ()):
            key, new = (kind.run_id, kind.is_special), {layer: of[number] for layer, of in statistics.items()}
            sums[key] = _together(sums[key], (kind, new)) if key in sums else (kind, new)

        def committed(files: Sequence[DataFile]) -> None:
            self._sums = sums
            self._files += [file for file in files if sums and file.table == ACTIVATION_VECTORS.name]

        return committed

    def commit(self) -> None:
        """Commit what there is, unless another process has changed one of the files meanwhile. Raises DiskFull; then it is not
        committed, and forgotten."""
        if not self._files:
            return
        files, sums, segment_id = self._files, [*self._sums.values()], secrets.randbits(62)
        self._begin()
        layers = [*sums[0][1]]
        generation_id, position = (
            np.concatenate([getattr(kind, name) for kind, _ in sums]) for name in ("generation_id", "position")
        )
        order = np.lexsort((position, generation_id))
        row = segment_row(segment_id, layers, len(self._neurons), generation_id[order], position[order])

        def rows(layer: int) -> pa.Table:
            of_kinds = ((kind, of_kind[layer]) for kind, of_kind in sums)
            return in_order([partial_rows(*each, layer, self._neurons, segment_id) for each in of_kinds])

        made = write_tables(
            self._log.location, [(SEGMENTS, [row]), *((NEURON_PARTIALS, map(rows, [layer])) for layer in layers)]
        )
        paths = [file.path for file in files]
        self._log.commit_over(files, Commit("count", f"count/{made[0].path}", made, counted=paths))


_Sum = tuple[Kind, Mapping[int, Measured]]
"""Tokens of a kind, and their statistics by layer."""


def _together(there: _Sum, new: _Sum) -> _Sum:
    (kind, of_kind), (more, of_more) = there, new
    of_both = threads().map(lambda layer: total([kind, more], [of_kind[layer], of_more[layer]]), of_kind)
    return kind.and_also(more), dict(zip(of_kind, of_both, strict=True))
