"""Garbage collection: files that no reader can need any more are deleted.

Those are files that a commit removed, and files that no commit ever named (a crash left them), once they are older than a grace
period: a reader may hold an older snapshot, and a capture writes files before it commits them.
"""

import time
from dataclasses import dataclass
from datetime import UTC, datetime

from ..errors import InvalidOption
from .location import Location
from .log import CHECKPOINTS, LOG, Log, Snapshot
from .schema import TABLES

GRACE_S = 24 * 3600.0


@dataclass(frozen=True)
class Collected:
    """Files that were deleted (or would be), and those that are too young."""

    paths: tuple[str, ...]
    n_bytes: int
    n_kept: int

    def sentence(self, *, dry_run: bool = False) -> str:
        """What was done, for people."""
        kept = f"; {self.n_kept} more are within the grace period" if self.n_kept else ""
        verb = "would delete" if dry_run else "deleted"
        return f"{verb} {len(self.paths)} files, {self.n_bytes / 1e6:.3g} MB{kept}"


def gc(location: Location, *, grace_s: float = GRACE_S, dry_run: bool = False) -> Collected:
    """Delete files that the newest snapshot does not name and that have not been wanted for `grace_s` seconds.

    A snapshot of an earlier commit (`actlake.open(uri, at=…)`) may miss files afterwards, and says so. Raises StoreNotFound,
    or CorruptLog: nothing is deleted when the log cannot be read whole.
    """
    if grace_s < 0:
        raise InvalidOption("grace", grace_s, "give a time of 0 or more")
    there = [
        (f"{folder}/{entry.name}".lstrip("/"), entry)
        for folder in (*TABLES, LOG, CHECKPOINTS, "")
        for entry in location.entries(folder)
    ]
    log = Log(location)
    snapshot = log.snapshot()  # after looking what is there: what was committed meanwhile is not garbage
    removed_at = _removed_at(log)
    now, doomed, n_bytes, n_kept = time.time(), [], 0, 0
    for path, entry in there:
        if not _is_garbage(path, snapshot):
            continue
        if now - removed_at.get(path, entry.modified.timestamp()) < grace_s:
            n_kept += 1
            continue
        doomed.append(path)
        n_bytes += entry.size
    if not dry_run:
        for path in doomed:
            location.delete(path)
    return Collected(tuple(doomed), n_bytes, n_kept)


def _is_garbage(path: str, snapshot: Snapshot) -> bool:
    if path.partition("/")[0] in TABLES:
        return path not in snapshot.files
    return path.endswith(".draft")  # half a commit, of a process that was killed


def _removed_at(log: Log) -> dict[str, float]:
    """When each file that a commit removed was removed, in seconds since 1970."""
    return {path: _seconds(commit.created_at) for commit in log.commits() for path in commit.remove}


def _seconds(created_at: str) -> float:
    moment = datetime.fromisoformat(created_at)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
