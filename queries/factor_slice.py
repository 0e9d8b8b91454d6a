"""The tokens whose activations are factored, and their activations, a block of tokens at a time."""

import tempfile
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any, Self

import numpy as np
from jaxtyping import Float32, Int32, Int64

from ..errors import CorruptFile, GenerationNotFound, InvalidOption, NotRecorded, UnknownLayer, number_ranges
from ..store import Positions, Reader, Snapshot
from ..store.shapes import shape_of
from .factors import POSITIONS, Which, check_choice

BLOCK_BYTES = 1 << 26
"""Bytes of activations that are read at a time."""


class Spool:
    """Rows of one type that are kept in a temporary file, which has no name and ends with this object."""

    def __init__(self, dtype: Any, width: int = 0) -> None:
        self._dtype, self._width, self.n = np.dtype(dtype), width, 0
        self._file = tempfile.TemporaryFile(prefix="actlake-")  # noqa: SIM115  as long as the array
        weakref.finalize(self, self._file.close)  # an array of it has a handle of its own

    def append(self, rows: np.ndarray) -> None:
        self._file.seek(0, 2)
        self._file.write(np.ascontiguousarray(rows, self._dtype).data)
        self.n += len(rows)

    def array(self) -> np.ndarray:
        """All rows, on disk: what is looked at is in memory as long as there is room for it. Writing there changes them."""
        self._file.flush()
        shape = (self.n, self._width) if self._width else (self.n,)
        if not self.n:
            return np.empty(shape, self._dtype)
        return np.memmap(self._file, self._dtype, "r+", shape=shape)


@dataclass(frozen=True)
class Slice:
    """Tokens, sorted by generation and position, and layers of which all of them have the activations of the same neurons."""

    generation_id: Int64[np.ndarray, "tokens"]
    position: Int32[np.ndarray, "tokens"]
    layers: tuple[int, ...]
    neuron: Int32[np.ndarray, "d_ff"]
    positions: Which
    where: str | None
    reader: Reader
    snapshot: Snapshot

    @classmethod
    def of(
        cls,
        snapshot: Snapshot,
        reader: Reader,
        *,
        generations: Sequence[int] | None,
        layers: Sequence[int] | None,
        positions: Which,
        where: str | None = None,
        selected: Iterator[tuple[np.ndarray, np.ndarray]] | None = None,
    ) -> Self:
        """The recorded tokens of these generations (all that have activations, unless told), and of these positions of them.

        `selected` has, in order, the ids and positions of the tokens for which `where` holds. Raises GenerationNotFound,
        NotRecorded, UnknownLayer; InvalidOption where runs of other neurons are among them.
        """
        check_choice("positions", positions, POSITIONS)
        rows = _Generations(snapshot, reader, generations)
        ids, places = Spool(np.int64), Spool(np.int32)
        runs: set[int] = set()
        for generation_id, place, of_runs in (
            rows.tokens(positions) if selected is None else rows.among(selected, positions)
        ):
            runs |= of_runs
            ids.append(generation_id)
            places.append(place)
        known, neuron = rows.shape(runs)
        asked = known if layers is None else tuple(dict.fromkeys(layers))
        if runs and (not asked or set(asked) - set(known)):
            raise UnknownLayer(sorted(set(asked) - set(known)), known)
        return cls(ids.array(), places.array(), asked, neuron, positions, where, reader, snapshot)

    def __len__(self) -> int:
        return len(self.generation_id)

    @property
    def n_columns(self) -> int:
        return len(self.layers) * len(self.neuron)

    @property
    def n_bytes(self) -> int:
        """Bytes of all activations."""
        return 4 * len(self) * self.n_columns

    def blocks(self, block_bytes: int = BLOCK_BYTES) -> list[slice]:
        """Rows that are read together: of whole generations, where one is not larger than a block."""
        size = max(1, block_bytes // max(1, 4 * self.n_columns))
        bounds, n = [0], len(self)
        while bounds[-1] < n:
            end = bounds[-1] + size
            if end < n:
                whole = int(np.searchsorted(self.generation_id, self.generation_id[end]))
                end = whole if whole > bounds[-1] else end
            bounds.append(min(end, n))
        return [slice(first, last) for first, last in pairwise(bounds)]

    def activations(self, rows: slice) -> Float32[np.ndarray, "tokens neurons"]:
        """The activations of those rows, [tokens, layers × d_ff]. Raises MissingFile or CorruptFile."""
        keys = _place(np.asarray(self.generation_id[rows]), np.asarray(self.position[rows]))
        out = np.empty((len(keys), len(self.layers), len(self.neuron)), np.float32)
        n_found = 0
        ids = np.unique(self.generation_id[rows]).tolist()
        for generations in _runs(ids):
            for layers in _runs(sorted(self.layers)):
                batches = self.reader.batches(
                    self.snapshot, "activation_vectors", {"generation_id": generations, "layer": layers}
                )
                for batch in batches:
                    wanted = _place(batch.keys["generation_id"], batch.keys["position"])
                    row = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
                    there = keys[row] == wanted
                    of_layers = batch.keys["layer"]
                    for layer in np.unique(of_layers[there]).tolist():
                        which = there & (of_layers == layer)
                        out[row[which], self.layers.index(layer)] = batch.vectors[which]
                        n_found += int(which.sum())
        if n_found != len(keys) * len(self.layers):
            what = f"{len(keys) * len(self.layers) - n_found} rows of activation_vectors are missing"
            raise CorruptFile(self.reader.location.uri, what)
        return out.reshape(len(keys), self.n_columns)


class _Generations:
    """What is known of generations and their runs before one token is read."""

    def __init__(self, snapshot: Snapshot, reader: Reader, asked: Sequence[int] | None) -> None:
        self._runs = {row["run_id"]: row for row in reader.rows(snapshot, "runs").to_pylist()}
        columns = ["generation_id", "run_id", "n_prompt_tokens", "n_tokens"]
        wanted = {} if not asked else {"generation_id": (min(asked), max(asked))}
        rows = reader.rows(snapshot, "generations", columns=columns, **wanted).sort_by(
            "generation_id"
        )  # files interleave
        there = [rows[name].to_numpy() for name in columns]
        if asked is None:
            recorded = [number for number, run in self._runs.items() if "activations" in run["recorded"]]
            keep = np.isin(there[1], recorded)
        else:
            numbers = np.unique(np.array(asked, np.int64))
            if missing := sorted(set(numbers.tolist()) - set(there[0].tolist())):
                ids = reader.rows(snapshot, "generations", columns=["generation_id"])["generation_id"].to_pylist()
                raise GenerationNotFound(missing[0], len(ids), max(ids, default=None))
            keep = np.isin(there[0], numbers)
        order = np.argsort(there[0][keep])  # a file may have generations that lie between those of another
        self._ids, self._run_ids, self._n_prompt, self._n = (values[keep][order] for values in there)

    def tokens(self, which: Which) -> Iterator[tuple[np.ndarray, np.ndarray, set[int]]]:
        """Of some generations at a time, ids and positions of their recorded tokens, and their runs."""
        recorded = {number: Positions.of_run(run) for number, run in self._runs.items()}
        for first in range(0, len(self._ids), 4096):
            some = slice(first, first + 4096)
            ids, places = [], []
            of = (self._ids[some], self._run_ids[some], self._n_prompt[some], self._n[some])
            for generation_id, run_id, n_prompt, n in zip(*(values.tolist() for values in of), strict=True):
                positions = recorded[run_id].of(n_prompt, n)
                if which != "all":
                    positions = positions[(positions < n_prompt) == (which == "prompt")]
                ids.append(np.full(len(positions), generation_id))
                places.append(positions)
            yield np.concatenate(ids), np.concatenate(places), set(of[1].tolist())

    def among(
        self, selected: Iterator[tuple[np.ndarray, np.ndarray]], which: Which
    ) -> Iterator[tuple[np.ndarray, np.ndarray, set[int]]]:
        """Those of the selected tokens, which are in order, that are recorded."""
        recorded = {number: Positions.of_run(run) for number, run in self._runs.items()}
        every = np.array([recorded[number].every for number in self._run_ids.tolist()])
        only_generated = np.array([recorded[number].only_generated for number in self._run_ids.tolist()], bool)
        for ids, positions in selected:
            place = np.minimum(np.searchsorted(self._ids, ids), max(len(self._ids) - 1, 0))
            keep = self._ids[place] == ids if len(self._ids) else np.zeros(len(ids), bool)
            ids, positions, place = ids[keep], positions[keep], place[keep]
            is_prompt = positions < self._n_prompt[place]
            keep = (positions % every[place] == 0) & ~(only_generated[place] & is_prompt)
            if which != "all":
                keep &= is_prompt == (which == "prompt")
            yield ids[keep], positions[keep], set(self._run_ids[place[keep]].tolist())

    def shape(self, run_ids: set[int]) -> tuple[tuple[int, ...], Int32[np.ndarray, "d_ff"]]:
        """The layers that all of these runs have, and their neurons."""
        shapes = {number: shape_of(self._runs[number]) for number in sorted(run_ids)}
        for number, shape in shapes.items():
            if not shape.layers:
                recorded = sorted(self._runs[number]["recorded"])
                raise NotRecorded("activations", recorded, int(self._ids[self._run_ids == number][0]))
        kinds = {(shape.d_ff, shape.some_neurons) for shape in shapes.values()}
        models = {self._runs[number]["model_hash"] for number in shapes}
        if len(kinds) > 1 or len(models) > 1:
            how = "factor those of one model and the same neurons: name generations, or where='run_id = …'"
            raise InvalidOption("runs", number_ranges(list(shapes)), f"they recorded other neurons or models; {how}")
        layers = set.intersection(*(set(shape.layers) for shape in shapes.values())) if shapes else set()
        neurons = next((shape.neurons for shape in shapes.values()), ())
        return tuple(sorted(layers)), np.array(neurons, np.int32)


def _runs(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """Ascending numbers as ranges, first and last."""
    places = groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0])
    groups = [[number for _, number in pairs] for _, pairs in places]
    return [(group[0], group[-1]) for group in groups]


def _place(generation_id: np.ndarray, position: np.ndarray) -> np.ndarray:
    """One number for each token, in their order."""
    return generation_id.astype(np.int64) << 32 | position.astype(np.int64)
