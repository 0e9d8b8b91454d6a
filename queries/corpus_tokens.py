"""The tokens of a snapshot as arrays: in which order they come, which runs they are of, and what filters go by."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Int64

from ..store import Reader, Snapshot

_COLUMNS = ("generation_id", "position", "is_special", "is_generated")
_NEAR = 64
"""Generations that are no further apart than this are read together: a row group holds more."""


def token_numbers(generation_id: np.ndarray, position: np.ndarray) -> Int64[np.ndarray, "tokens"]:
    """One number for each token, in the order of generations and positions."""
    return generation_id.astype(np.int64) << 32 | position.astype(np.int64)


@dataclass(frozen=True)
class CorpusTokens:
    """Every token of a snapshot by its number, ascending, and what filters go by. Ten bytes a token."""

    numbers: Int64[np.ndarray, "tokens"]
    is_special: Bool[np.ndarray, "tokens"]
    is_generated: Bool[np.ndarray, "tokens"]

    @classmethod
    def of(cls, snapshot: Snapshot, reader: Reader) -> "CorpusTokens":
        rows = reader.rows(snapshot, "tokens", columns=_COLUMNS)
        generation_id, position, is_special, is_generated = (rows[name].to_numpy() for name in _COLUMNS)
        numbers = token_numbers(generation_id, position)
        order = np.argsort(numbers, kind="stable")
        return cls(numbers[order], is_special[order], is_generated[order])

    def __len__(self) -> int:
        return len(self.numbers)

    def places(self, numbers: Int64[np.ndarray, "some"]) -> Int64[np.ndarray, "some"]:
        """Where those tokens, all of which are there, stand."""
        if len(numbers) == len(self.numbers) and np.array_equal(numbers, self.numbers):
            return np.arange(len(numbers))
        return np.searchsorted(self.numbers, numbers)

    def marked(self, numbers: Int64[np.ndarray, "some"]) -> Bool[np.ndarray, "tokens"]:
        """Whether each token is one of those."""
        marks = np.zeros(len(self.numbers), bool)
        marks[self.places(np.sort(numbers))] = True
        return marks

    def of_generations(self, first: int, end: int) -> slice:
        """The tokens of generations from `first`, without `end`."""
        bounds = np.searchsorted(self.numbers, [first << 32, end << 32])
        return slice(int(bounds[0]), int(bounds[1]))


def texts_of(
    snapshot: Snapshot, reader: Reader, generation_ids: Iterable[int], columns: Sequence[str] = ("token",)
) -> pa.Table:
    """generation_id, position and these columns of all tokens of some generations, in order. Reads the row groups that have
    them, once each."""
    wanted = np.unique(np.fromiter(generation_ids, np.int64))
    names = ["generation_id", "position", *columns]
    parts = []
    for ids in np.split(wanted, np.flatnonzero(np.diff(wanted) > _NEAR) + 1) if len(wanted) else []:
        rows = reader.rows(snapshot, "tokens", columns=names, generation_id=(int(ids[0]), int(ids[-1])))
        parts.append(rows.filter(pa.array(np.isin(rows["generation_id"].to_numpy(), ids))))
    if not parts:
        return reader.rows(snapshot, "tokens", columns=names, generation_id=-1)
    return pa.concat_tables(parts).sort_by([("generation_id", "ascending"), ("position", "ascending")])
