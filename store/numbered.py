"""Commits whose rows carry a number of their own: one more than the greatest of the snapshot that the commit follows.

A writer that loses the number to another writes its files again under the next.
"""

import uuid
from collections.abc import Callable

from .log import Commit, DataFile, Log, Snapshot
from .schema import Table


def commit_numbered(log: Log, operation: str, table: Table, write: Callable[[int], list[DataFile]]) -> int:
    """Commit the files that `write` makes for a number, the next of the table's first key column; gives the number.

    Raises DiskFull or StoreReadOnly, leaving nothing.
    """
    key, number, files = f"{operation}/{uuid.uuid4().hex}", -1, list[DataFile]()

    def build(snapshot: Snapshot) -> Commit | None:
        nonlocal number, files
        if key in snapshot.keys:  # it arrived, though it seemed not to
            return None
        there = (file.ranges[table.key[0]][1] for file in snapshot.of(table.name))
        if number != (following := max(there, default=-1) + 1):
            for file in files:  # of the number that another took
                log.location.delete(file.path)
            number = following
            files = write(number)
        return Commit(operation, key, files)

    log.commit(build)
    return number
