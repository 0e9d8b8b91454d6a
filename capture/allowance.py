"""What a run may write (`max_bytes`), held against what it has written, batch by batch."""

from collections.abc import Sequence

from ..errors import TooManyBytes
from ..store import DataFile, Location, Reservation, Snapshot

OF_GENERATIONS = "generation_id"
"""Files of tables with this column in their key are counted."""


class Allowance:
    """The bytes that a run may write, None for any number, and those that it has; what other calls of it wrote is counted in."""

    def __init__(self, most: int | None, location: Location, snapshot: Snapshot, reservation: Reservation) -> None:
        self.most, self._location = most, location
        self.written = sum(_share(file, reservation) for file in snapshot.files.values())

    def check(self, more: int, files: Sequence[DataFile] = ()) -> None:
        """Raise TooManyBytes, with these files deleted, if `more` bytes are too many."""
        if self.most is not None and self.written + more > self.most:
            for file in files:
                self._location.delete(file.path)
            raise TooManyBytes(self.most, self.written + more, self.written)

    def add(self, more: int) -> None:
        """Count what was committed."""
        self.written += more


def _share(file: DataFile, reservation: Reservation) -> int:
    """A file's bytes, of which a compacted one has some of other runs, as if they were spread evenly over its generations."""
    ids = reservation.generation_ids
    if OF_GENERATIONS not in file.ranges or "factorization_id" in file.ranges or not ids:
        return 0
    first, last = file.ranges[OF_GENERATIONS]
    within = min(last, ids.stop - 1) - max(first, ids.start) + 1
    return round(file.bytes * max(0, within) / (last - first + 1))
