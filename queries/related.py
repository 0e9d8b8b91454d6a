"""Correlations of one neuron with others, over some tokens: one pass over the token-major vectors, in bounded memory."""

from collections.abc import Sequence
from threading import Event

import numpy as np
import pandas as pd
from jaxtyping import Float32, Int32, Int64

from ..store.neurons import some_neurons, with_neurons
from .corpus_tokens import token_numbers
from .neuron_values import NeuronReader
from .work import Progress, Work


class _Sums:
    """Sums over tokens of each neuron's activations x and of one neuron's, y, both less a shift that keeps them small."""

    def __init__(self) -> None:
        self.n, self.x, self.xx, self.xy, self.y, self.yy = (np.zeros(0) for _ in range(6))
        self.shift = np.zeros(0, np.float32)

    def add(
        self,
        x: Float32[np.ndarray, "tokens neurons"],
        y: Float32[np.ndarray, "tokens"],
        neurons: Int32[np.ndarray, "neurons"],
    ) -> None:
        """Count a batch in. Products are taken in single precision within it, sums over batches in double."""
        if (more := int(neurons[-1]) + 1 - len(self.n)) > 0:
            for name in ("n", "x", "xx", "xy", "y", "yy", "shift"):
                setattr(self, name, np.pad(getattr(self, name), (0, more)))
        new = self.n[neurons] == 0
        if new.any():
            self.shift[neurons[new]] = x[:, new].mean(axis=0)
        x = x - self.shift[neurons]
        self.n[neurons] += len(y)
        self.x[neurons] += x.sum(axis=0, dtype=np.float64)
        self.xx[neurons] += np.einsum("tn,tn->n", x, x)
        self.xy[neurons] += y @ x
        self.y[neurons] += y.sum(dtype=np.float64)
        self.yy[neurons] += np.square(y, dtype=np.float64).sum()

    def frame(self, layer: int) -> pd.DataFrame:
        """layer, neuron and Pearson's r of each neuron that changes."""
        n = np.maximum(self.n, 1)
        covariance = self.xy - self.x * self.y / n
        energies = [self.xx - self.x**2 / n, self.yy - self.y**2 / n]
        changes = (energies[0] > 1e-9 * self.xx) & (energies[1] > 1e-9 * self.yy)
        (neurons,) = np.nonzero(changes)
        r = covariance[neurons] / np.sqrt(energies[0][neurons] * energies[1][neurons])
        return pd.DataFrame(
            {"layer": np.int32(layer), "neuron": neurons.astype(np.int32), "correlation": np.clip(r, -1, 1)}
        )


def correlations(
    neurons: NeuronReader,
    places: Int64[np.ndarray, "tokens"],
    values: Float32[np.ndarray, "tokens"],
    layers: Sequence[int],
    run_ids: Sequence[int],
    *,
    cancel: Event | None = None,
    on_progress: Progress | None = None,
) -> pd.DataFrame:
    """layer, neuron and correlation of every neuron of these layers with `values`, which are of the tokens at `places` in the
    corpus; a neuron that does not change has none, and no row. `on_progress` is told of tokens, once for each layer. Raises
    UnknownLayer, InvalidOption, Cancelled.
    """
    for layer in layers:
        neurons.runs_with(layer, run_id=run_ids[0] if len(run_ids) == 1 else None)
    centred = (values - values.mean(dtype=np.float64)).astype(np.float32) if len(values) else values
    some = some_neurons(neurons.snapshot, neurons.reader)
    bounds = [neurons.snapshot.reservations[run_id].generation_ids for run_id in run_ids]
    generations = (min(ids.start for ids in bounds), max(ids.stop for ids in bounds) - 1)
    work = Work("the search for related neurons", len(places) * len(layers), cancel, on_progress)
    frames = []
    for layer in layers:
        sums = _Sums()
        wanted: dict[str, int | tuple[int, int]] = {"layer": layer, "generation_id": generations}
        keys = ("generation_id", "position")
        batches = neurons.reader.batches(neurons.snapshot, "activation_vectors", wanted, keys=keys)
        for batch in with_neurons(batches, some):
            work.go_on()
            at = neurons.tokens.places(token_numbers(*(batch.keys[name] for name in keys)))
            where = np.minimum(np.searchsorted(places, at), max(len(places) - 1, 0))
            rows = places[where] == at if len(places) else np.zeros(len(at), bool)
            if not rows.any():
                continue
            assert batch.neurons is not None, "activations are given with their neurons"
            x = batch.vectors if rows.all() else batch.vectors[rows]
            sums.add(x, centred[where[rows]], batch.neurons)
            work.did(len(x))
        frames.append(sums.frame(layer))
    work.end()
    return pd.concat(frames, ignore_index=True)
