"""One neuron's activations at all tokens of a snapshot, as an array: from the neuron-major projection, and what it has not yet
from the token-major vectors."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Int32, Int64, Shaped

from ..errors import RunNotFound, SeveralModels, UnknownLayer, UnknownNeuron
from ..store import Batch, Reader, Shape, Snapshot, partly_indexed
from ..store.neurons import Some, some_neurons, with_neurons
from ..store.shapes import run_of, shape_of
from .corpus_tokens import CorpusTokens, texts_of, token_numbers

MOST_TEXTS = 1 << 22
"""Tokens whose texts are kept; of a larger corpus those of the generations that are asked for are read each time."""


@dataclass(frozen=True)
class Run:
    """What has to be known of a run: its model, and the shape of what it recorded."""

    model: str
    model_hash: str
    shape: Shape


@dataclass(frozen=True)
class NeuronValues:
    """A neuron's activations where they were recorded: the places of those tokens in the corpus, ascending, and the values."""

    places: Int64[np.ndarray, "tokens"]
    values: Float32[np.ndarray, "tokens"]


class NeuronReader:
    """Reads neurons of one snapshot. What all neurons share is read once and kept: 22 bytes a token, and each text once.

    Safe between threads: at worst two of them read the same.
    """

    def __init__(self, snapshot: Snapshot, reader: Reader) -> None:
        self.snapshot, self.reader = snapshot, reader

    @cached_property
    def tokens(self) -> CorpusTokens:
        return CorpusTokens.of(self.snapshot, self.reader)

    def texts(self, places: Int64[np.ndarray, "some"]) -> Shaped[np.ndarray, "some"]:
        """The texts of the tokens at these places in the corpus. All texts are kept, unless it has too many tokens."""
        if len(self.tokens) <= MOST_TEXTS:
            codes, texts = self._kept_texts
            return texts[codes[places]]
        rows = texts_of(self.snapshot, self.reader, np.unique(self.tokens.numbers[places] >> 32).tolist())
        numbers = token_numbers(*(rows[name].to_numpy() for name in ("generation_id", "position")))
        there: np.ndarray = rows["token"].to_numpy()
        return there[np.searchsorted(numbers, self.tokens.numbers[places])]

    @cached_property
    def _kept_texts(self) -> tuple[Int32[np.ndarray, "tokens"], Shaped[np.ndarray, "_"]]:
        """The number of each token's text, and the texts."""
        rows = self.reader.rows(self.snapshot, "tokens", columns=["generation_id", "position", "token"])
        texts = rows["token"].combine_chunks().dictionary_encode()
        numbers = token_numbers(*(rows[name].to_numpy() for name in ("generation_id", "position")))
        codes = np.empty(len(numbers), np.int32)
        codes[self.tokens.places(numbers)] = texts.indices.to_numpy()
        return codes, texts.dictionary.to_numpy(zero_copy_only=False)

    @cached_property
    def runs(self) -> dict[int, Run]:
        """Every run by its number."""
        columns = ["run_id", "model", "model_hash", "d_model", "d_ff", "recorded", "generation_config"]
        rows: list[dict[str, Any]] = self.reader.rows(self.snapshot, "runs", columns=columns).to_pylist()
        return {row["run_id"]: Run(row["model"], row["model_hash"], shape_of(row)) for row in rows}

    @cached_property
    def _some_neurons(self) -> list[Some]:
        return some_neurons(self.snapshot, self.reader)

    @cached_property
    def _partly_indexed(self) -> dict[str, tuple[int, ...]]:
        return partly_indexed(self.snapshot, self.reader)

    def runs_with(self, layer: int, neuron: int | None = None, run_id: int | None = None) -> tuple[int, ...]:
        """The runs that recorded a neuron (or any of its layer), which must be of one model: a neuron of another model is
        another neuron.

        Raises UnknownLayer, UnknownNeuron, RunNotFound; SeveralModels where runs of several have it.
        """
        asked = self._asked(run_id)
        with_layer = {number: run for number, run in asked.items() if layer in run.shape.layers}
        if not with_layer:
            raise UnknownLayer([layer], sorted({each for run in asked.values() for each in run.shape.layers}))
        found = {number: run for number, run in with_layer.items() if neuron is None or neuron in run.shape.neurons}
        if not found:
            widest = max((run.shape for run in with_layer.values()), key=lambda shape: len(shape.neurons))
            raise UnknownNeuron([neuron or 0], widest.d_ff, widest.some_neurons)
        return self._of_one_model(found)

    def runs_with_any(
        self, layers: Sequence[int] | None, run_id: int | None = None
    ) -> tuple[tuple[int, ...], list[int]]:
        """The runs that recorded any of these layers (or any at all), which must be of one model, and the layers, ascending.

        Raises UnknownLayer, RunNotFound; SeveralModels where runs of several have them.
        """
        asked = self._asked(run_id)
        known = sorted({layer for run in asked.values() for layer in run.shape.layers})
        wanted = known if layers is None else sorted(set(layers))
        if not wanted or set(wanted) - set(known):
            raise UnknownLayer(sorted(set(wanted) - set(known)), known)
        found = {number: run for number, run in asked.items() if set(wanted) & set(run.shape.layers)}
        return self._of_one_model(found), wanted

    def _asked(self, run_id: int | None) -> dict[int, Run]:
        if run_id is not None and run_id not in self.runs:
            raise RunNotFound(run_id, len(self.runs))
        return {number: run for number, run in self.runs.items() if run_id in (None, number)}

    def _of_one_model(self, found: Mapping[int, Run]) -> tuple[int, ...]:
        by_model: dict[tuple[str, str], list[int]] = {}
        for number, run in found.items():
            by_model.setdefault((run.model, run.model_hash), []).append(number)
        if len({model_hash for _, model_hash in by_model}) > 1:
            raise SeveralModels([(model, tuple(numbers)) for (model, _), numbers in by_model.items()])
        return tuple(found)

    def in_runs(self, run_ids: Sequence[int]) -> Bool[np.ndarray, "tokens"]:
        """Whether each token is of one of these runs."""
        marks = np.zeros(len(self.tokens), bool)
        for run_id in run_ids:
            ids = self.snapshot.reservations[run_id].generation_ids
            marks[self.tokens.of_generations(ids.start, ids.stop)] = True
        return marks

    def activations(self, wanted: Mapping[str, int | tuple[int, int]]) -> Iterator[Batch]:
        """The rows of `activation_vectors` with these keys as arrays, each batch with the numbers of its neurons."""
        batches = self.reader.batches(self.snapshot, "activation_vectors", wanted)
        return with_neurons(batches, self._some_neurons)

    def values(self, layer: int, neuron: int) -> NeuronValues:
        """A neuron's activations in all runs. Cost: 4 bytes a token, read and decoded; of tokens that are not indexed,
        their whole vectors of the layer."""
        values = np.empty(len(self.tokens), np.float32)
        there = np.zeros(len(self.tokens), bool)
        for segment, of_segment in self._segments(layer, neuron):
            values[segment], there[segment] = of_segment, True
        for batch in with_neurons(self._unindexed(layer), self._some_neurons):
            assert batch.neurons is not None, "activations are given with their neurons"
            (column,) = np.nonzero(batch.neurons == neuron)
            if len(column):
                numbers = token_numbers(batch.keys["generation_id"], batch.keys["position"])
                places = self.tokens.places(numbers)
                values[places], there[places] = batch.vectors[:, column[0]], True
        if there.all():
            return NeuronValues(np.arange(len(values)), values)
        return NeuronValues(np.flatnonzero(there), values[there])

    def _segments(self, layer: int, neuron: int) -> Any:
        batches = self.reader.batches(self.snapshot, "neuron_vectors", {"layer": layer, "neuron": neuron})
        for batch in batches:
            for segment_id, vector in zip(batch.keys["segment_id"].tolist(), batch.vectors, strict=True):
                yield self._places_of_segments[segment_id], vector

    def _unindexed(self, layer: int) -> Any:
        tail = {
            path: self.snapshot.files[path]
            for path, layers in self._partly_indexed.items()
            if layer not in layers and layer in self.runs[run_of(self.snapshot, self.snapshot.files[path])].shape.layers
        }
        return self.reader.batches(Snapshot(files=tail), "activation_vectors", {"layer": layer})

    @cached_property
    def _places_of_segments(self) -> dict[int, Int64[np.ndarray, "_"]]:
        """Where the tokens of each segment that has vectors stand."""
        places, with_vectors = {}, {file.ranges["segment_id"] for file in self.snapshot.of("neuron_vectors")}
        for file in self.snapshot.of("segments"):
            if file.ranges["segment_id"] not in with_vectors:
                continue
            alone = Snapshot(files={file.path: file})
            rows = self.reader.rows(alone, "segments", columns=["segment_id", "generation_id", "position"])
            (segment_id,) = rows["segment_id"].to_pylist()
            columns = (rows[name].combine_chunks().flatten().to_numpy() for name in ("generation_id", "position"))
            places[segment_id] = self.tokens.places(token_numbers(*columns))
        return places
