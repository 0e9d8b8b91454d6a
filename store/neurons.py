"""Which neurons the vectors of activations are of: all of their layer, or those alone that their run recorded."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np

from .log import Snapshot
from .reader import Batch, Reader
from .shapes import shapes

Some = tuple[tuple[int, int], tuple[int, ...]]
"""Generations, the first and the last of them, and the neurons that were recorded of them."""


def some_neurons(snapshot: Snapshot, reader: Reader) -> list[Some]:
    """The generations of which not all neurons were recorded, in order; none in most stores."""
    known = shapes(snapshot, reader)
    return [
        ((ids.start, ids.stop - 1), neurons)
        for reservation in snapshot.reservations
        if (ids := reservation.generation_ids)
        if (shape := known.get(reservation.run_id)) and (neurons := shape.some_neurons) is not None
    ]


def with_neurons(batches: Iterable[Batch], some: Iterable[Some]) -> Iterator[Batch]:
    """Batches of activations, cut where other neurons begin, each with the numbers of its columns."""
    bounds = np.array([edge for (first, last), _ in some for edge in (first, last + 1)], np.int64)
    sets = [neurons for _, neurons in some]
    for batch in batches:
        place = np.searchsorted(bounds, batch.keys["generation_id"], side="right")  # odd within one of them
        place[place % 2 == 0] = 0
        for number in np.unique(place).tolist():
            rows = place == number
            neurons = np.array(sets[number // 2] if number else range(batch.vectors.shape[1]), np.int32)
            if rows.all():
                yield replace(batch, neurons=neurons)
            else:
                yield Batch({key: values[rows] for key, values in batch.keys.items()}, batch.vectors[rows], neurons)
