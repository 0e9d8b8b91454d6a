"""Whether the neuron-major projection has what it says: every token of an indexed file once, all neurons of it, the same values.

Values are compared without holding either side: each token has a digest, the sum of its activations' bits times a random
number for each neuron, which adds up row by row from the token-major vectors and neuron by neuron from the projection.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import numpy as np
from jaxtyping import Float32, UInt64

from .index import Segment, segments
from .log import Snapshot
from .positions import Positions
from .reader import Reader, Wanted
from .schema import ACTIVATION_VECTORS, GENERATIONS, NEURON_PARTIALS, NEURON_VECTORS, PROJECTION, RUNS, SEGMENTS
from .shapes import Shape, run_of, run_of_generation, shapes

_BATCH_BYTES = 1 << 24


def projection_problems(snapshot: Snapshot, reader: Reader, *, deep: bool) -> Iterator[str]:
    """What is wrong with the projection, a sentence each. Raises MissingFile or CorruptFile."""
    there = segments(snapshot, reader)
    known = {segment.segment_id for segment in there}
    if len(known) != len(there):
        yield "a segment of the projection is there twice"
    for table in PROJECTION:
        for file in snapshot.of(table.name):
            if file.ranges["segment_id"][0] not in known:
                yield f"{reader.location.full(file.path)} is of a segment that is not in segments"
    of_runs = shapes(snapshot, reader)
    yield from _wrong_tokens(snapshot, reader, there, of_runs)
    for segment in there:
        held = Snapshot(files={file.path: file for file in segment.files})
        first = int(_tokens(held, reader)[0] >> 32)
        neurons = np.array(of_runs[run_of_generation(snapshot, first)].neurons)
        yield from _wrong_rows(held, reader, segment, neurons)
        if deep and segment.has_vectors:
            for layer in segment.layers:
                yield from _wrong_values(snapshot, held, reader, segment, layer, neurons)


def _wrong_tokens(
    snapshot: Snapshot, reader: Reader, there: list[Segment], of_runs: Mapping[int, Shape]
) -> Iterator[str]:
    """Segments that have a generation in part, and layers of generations that the projection, or the statistics, have not just
    once."""
    recorded = _recorded(snapshot, reader)
    projected, with_statistics = _ByLayer(list), _ByLayer(list)
    for segment in there:
        tokens = _tokens(Snapshot(files={file.path: file for file in segment.files}), reader)
        generations = np.unique(tokens >> 32)
        whole = len(tokens) == segment.n_tokens and bool((np.diff(tokens) > 0).all())
        expected = [np.empty(0, np.int32)]
        expected += [recorded[generation]() for generation in generations.tolist() if generation in recorded]
        if not whole or not np.array_equal(tokens & 0xFFFFFFFF, np.concatenate(expected)):
            yield f"segment {segment.segment_id} has not just the tokens of whole generations"
        for layer in segment.layers:
            if segment.has_vectors:
                projected[layer].append(generations)
            if segment.has_statistics:
                with_statistics[layer].append(generations)
    indexed, counted = _ByLayer(list), _ByLayer(list)
    for file in snapshot.of(ACTIVATION_VECTORS.name):
        held = reader.rows(
            Snapshot(files={file.path: file}), file.table, columns=["generation_id"], layer=file.ranges["layer"][0]
        )
        generations = np.unique(held["generation_id"])
        for layer in file.indexed_layers:
            indexed[layer].append(generations)
        for layer in of_runs[run_of(snapshot, file)].layers if file.counted else file.indexed_layers:
            counted[layer].append(generations)
    for has, says, what in ((projected, indexed, "projection"), (with_statistics, counted, "statistics")):
        yield from _not_once(has, says, what)


_ByLayer = defaultdict[int, list[np.ndarray]]


def _not_once(has: _ByLayer, says: _ByLayer, what: str) -> Iterator[str]:
    """Layers of generations that are not just once among those that there are, or whose files say otherwise."""
    for layer in sorted({*has, *says}):
        there, said = (np.sort(np.concatenate([np.empty(0, np.int64), *of[layer]])) for of in (has, says))
        if not np.array_equal(there, said):
            twice = there[1:][np.diff(there) == 0]
            odd = np.concatenate([twice, np.setxor1d(there, said)])
            yield f"layer {layer} of generation {odd.min()} is not just once in the {what}, or its file says otherwise"


def _recorded(snapshot: Snapshot, reader: Reader) -> dict[int, Callable[[], np.ndarray]]:
    """At which positions each generation has activations, to be worked out."""
    of_runs = {run["run_id"]: Positions.of_run(run) for run in reader.rows(snapshot, RUNS.name).to_pylist()}
    columns = ["generation_id", "run_id", "n_prompt_tokens", "n_tokens"]
    rows = reader.rows(snapshot, GENERATIONS.name, columns=columns).to_pylist()
    return {
        row["generation_id"]: partial(of_runs[row["run_id"]].of, row["n_prompt_tokens"], row["n_tokens"])
        for row in rows
    }


def _wrong_rows(held: Snapshot, reader: Reader, segment: Segment, neurons: np.ndarray) -> Iterator[str]:
    """Layers of a segment of which it has not every neuron once, or whose statistics are not of all its tokens."""
    vectors = reader.rows(held, NEURON_VECTORS.name, columns=["layer", "neuron"])
    partials = reader.rows(held, NEURON_PARTIALS.name, columns=["layer", "neuron", "n"])
    columns = {name: vectors[name].to_numpy() for name in ("layer", "neuron")}
    counted = {name: partials[name].to_numpy() for name in ("layer", "neuron", "n")}
    for layer in segment.layers:
        found = np.sort(columns["neuron"][columns["layer"] == layer])
        if segment.has_vectors and (len(neurons) != segment.d_ff or not np.array_equal(found, neurons)):
            yield f"segment {segment.segment_id} has not each neuron of layer {layer} once"
        of_layer = counted["layer"] == layer
        sums = np.bincount(counted["neuron"][of_layer], counted["n"][of_layer], minlength=neurons[-1] + 1)
        expected = np.bincount(neurons, np.full(len(neurons), segment.n_tokens))
        if segment.has_statistics and not np.array_equal(sums, expected):
            yield f"segment {segment.segment_id} has not the statistics of all its tokens in layer {layer}"
    if {*columns["layer"].tolist(), *counted["layer"].tolist()} - set(segment.layers):
        yield f"segment {segment.segment_id} has more layers than it says"


def _wrong_values(
    snapshot: Snapshot, held: Snapshot, reader: Reader, segment: Segment, layer: int, neurons: np.ndarray
) -> Iterator[str]:
    """Tokens of a segment whose activations are not those of the token-major vectors."""
    weights = np.random.default_rng().integers(0, 1 << 63, neurons[-1] + 1, np.uint64) | np.uint64(1)
    tokens = _tokens(held, reader)
    digests = np.zeros(len(tokens), np.uint64)
    for batch in reader.batches(held, NEURON_VECTORS.name, {"layer": layer}, keys=["neuron"], batch_bytes=_BATCH_BYTES):
        if batch.vectors.shape[1] != len(tokens):
            yield f"segment {segment.segment_id} has vectors of another length in layer {layer}"
            return
        digests += _sums(batch.vectors.T, weights[batch.keys["neuron"]])
    bounds = (int(tokens[0] >> 32), int(tokens[-1] >> 32))
    keys = ["generation_id", "position"]
    wanted: Wanted = {"layer": layer, "generation_id": bounds}
    for batch in reader.batches(snapshot, ACTIVATION_VECTORS.name, wanted, keys=keys, batch_bytes=_BATCH_BYTES):
        where = _numbers(*(batch.keys[name] for name in keys))
        place = np.minimum(np.searchsorted(tokens, where), len(tokens) - 1)
        mine = tokens[place] == where
        if mine.any():
            digests[place[mine]] -= _sums(batch.vectors[mine], weights[neurons])
    for token in tokens[np.flatnonzero(digests)[:1]].tolist():
        what = f"the activations of layer {layer}, generation {token >> 32}, position {token & 0xFFFFFFFF}"
        yield f"{what}, are others in segment {segment.segment_id} than in activation_vectors"


def _tokens(held: Snapshot, reader: Reader) -> np.ndarray:
    """The tokens of a segment as numbers."""
    rows = reader.rows(held, SEGMENTS.name, columns=["generation_id", "position"])
    return _numbers(*(rows[name].combine_chunks().flatten().to_numpy() for name in ("generation_id", "position")))


def _numbers(generation_id: np.ndarray, position: np.ndarray) -> np.ndarray:
    return generation_id.astype(np.int64) << 32 | position.astype(np.int64)


def _sums(values: Float32[np.ndarray, "tokens neurons"], weights: UInt64[np.ndarray, "neurons"]) -> np.ndarray:
    """For each token the sum of its activations' bits times their neurons' weights, modulo 2**64."""
    total = np.zeros(len(values), np.uint64)
    for start in range(0, len(weights), 64):  # few at a time: 64-bit copies of them are made
        part = np.ascontiguousarray(values[:, start : start + 64]).view(np.uint32)
        total += (part * weights[start : start + 64]).sum(axis=1, dtype=np.uint64)
    return total
