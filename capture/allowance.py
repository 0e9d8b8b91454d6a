"""What a run may write (`max_bytes`, and what the disk has), held against what it may come to and what it has written."""

from collections.abc import Sequence
from dataclasses import replace

from ..errors import NotEnoughSpace, TooManyBytes
from ..store import TABLES, DataFile, Location, Reservation, Snapshot
from ..store.schema import PROJECTION
from .models import Model
from .options import CaptureOptions
from .plan import Plan, Work, byte_budget

OF_GENERATIONS = "generation_id"
"""Files of tables with this column in their key are counted."""


def check_space(location: Location, model: Model, plan: Plan, options: CaptureOptions) -> None:
    """Raise TooManyBytes when a run may take more than it is allowed, NotEnoughSpace when the store's disk has less."""
    _check(location, sum(byte_budget(model, plan, options).values()), options.most_bytes)


def check_space_left(
    location: Location, model: Model, plan: Plan, options: CaptureOptions, missing: Sequence[Work], written: int
) -> None:
    """The same of a run that is begun, for the work that is missing and the index of all; `written` bytes of it are there."""
    whole, rest = (byte_budget(model, each, options) for each in (plan, replace(plan, works=missing)))
    budget = whole | {table: size for table, size in rest.items() if TABLES[table] not in PROJECTION}
    _check(location, sum(budget.values()), options.most_bytes, written)


def _check(location: Location, needed: int, most: int | None, written: int | None = None) -> None:
    if most is not None and (in_all := (written or 0) + needed) > most:
        raise TooManyBytes(most, in_all, written)
    free = location.free_bytes()
    if free is not None and needed > free:
        raise NotEnoughSpace(location.uri, needed, free)


class Allowance:
    """The bytes that a run may write, None for any number, by whichever processes."""

    def __init__(self, most: int | None, location: Location, reservation: Reservation) -> None:
        self._most, self._location, self._reservation = most, location, reservation

    def written(self, snapshot: Snapshot) -> int:
        """The bytes of the run that a snapshot has."""
        return sum(_share(file, self._reservation) for file in snapshot.files.values())

    def check(self, snapshot: Snapshot, more: int, files: Sequence[DataFile] = ()) -> None:
        """Raise TooManyBytes, with these files deleted, if `more` bytes than a snapshot has are too many."""
        if self._most is None:
            return
        if (written := self.written(snapshot)) + more > self._most:
            for file in files:
                self._location.delete(file.path)
            raise TooManyBytes(self._most, written + more, written)


def _share(file: DataFile, reservation: Reservation) -> int:
    """A file's bytes, of which a compacted one has some of other runs, as if they were spread evenly over its generations."""
    ids = reservation.generation_ids
    if OF_GENERATIONS not in file.ranges or "factorization_id" in file.ranges or not ids:
        return 0
    first, last = file.ranges[OF_GENERATIONS]
    within = min(last, ids.stop - 1) - max(first, ids.start) + 1
    return round(file.bytes * max(0, within) / (last - first + 1))
