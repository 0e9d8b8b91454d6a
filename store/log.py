"""The commit log: what the store holds, as a list of numbered JSON documents.

A commit adds and removes files of several tables at once. It is put under the next number only if that number is free,
so writers of several processes race for it, and one that loses folds what came before it and tries the next. Files that
no commit names do not exist for a reader; a crash leaves at most some of those.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from ..errors import CorruptLog, FormatTooNew, StoreNotFound
from . import readme
from .location import Location
from .schema import FORMAT

LOG = "_log"
_NAME = re.compile(r"\d{20}\.json")

Range = tuple[int, int]


@dataclass(frozen=True, slots=True)
class DataFile:
    """A Parquet file that a commit names.

    `ranges` has the least and the greatest value of each integer key column, both included: a reader that wants one
    generation or one layer leaves the other files closed.
    """

    table: str
    path: str
    rows: int
    bytes: int
    sha256: str
    ranges: Mapping[str, Range]

    def may_hold(self, **wanted: int | None) -> bool:
        """Whether rows with these key values (None for any) can be in the file."""
        return all(
            value is None or column not in self.ranges or self.ranges[column][0] <= value <= self.ranges[column][1]
            for column, value in wanted.items()
        )


@dataclass(frozen=True, slots=True)
class Reservation:
    """The numbers that a run has for itself: its own, and its prompts' generation ids."""

    run_id: int
    first_generation_id: int
    n_generations: int


@dataclass(frozen=True)
class Commit:
    """One change of the store. `key` names the work that it does: a second commit of the same key is a no-op."""

    operation: str
    key: str
    add: Sequence[DataFile] = ()
    remove: Sequence[str] = ()
    reserve: Reservation | None = None
    created_at: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="milliseconds"))

    def document(self, version: int) -> bytes:
        """The commit as it is stored: JSON, with a checksum of everything else in it."""
        body = {"format": FORMAT, "version": version, **asdict(self)}
        return json.dumps({**body, "checksum": _checksum(body)}, indent=1).encode()

    @classmethod
    def parse(cls, data: bytes, path: str, version: int, uri: str) -> "Commit":
        """The commit that a document holds. Raises CorruptLog or FormatTooNew."""
        try:
            body = json.loads(data)
            found, checksum = body.pop("format"), body.pop("checksum")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CorruptLog(path, "it is not a commit document") from error
        if found > FORMAT:
            raise FormatTooNew(uri, found, FORMAT, str(body.get("needs", "a newer version")))
        if checksum != _checksum({"format": found, **body}):
            raise CorruptLog(path, "its checksum does not match its content")
        if body.pop("version") != version:
            raise CorruptLog(path, "it holds a commit of another number")
        files = [
            DataFile(**{**entry, "ranges": {k: tuple(v) for k, v in entry["ranges"].items()}}) for entry in body["add"]
        ]
        reserve = Reservation(**body["reserve"]) if body["reserve"] else None
        return cls(**{**body, "add": tuple(files), "remove": tuple(body["remove"]), "reserve": reserve})


@dataclass(frozen=True)
class Snapshot:
    """What the store holds after a commit: immutable, so a reader that has it is not disturbed by later ones."""

    version: int = -1
    files: Mapping[str, DataFile] = field(default_factory=dict)
    keys: Mapping[str, int] = field(default_factory=dict)
    reservations: Sequence[Reservation] = ()

    def after(self, *commits: Commit) -> "Snapshot":
        """The snapshot that the commits following it make of this one."""
        files, keys, reservations = dict(self.files), dict(self.keys), list(self.reservations)
        for version, commit in enumerate(commits, self.version + 1):
            for path in commit.remove:
                files.pop(path, None)
            files |= {file.path: file for file in commit.add}
            keys[commit.key] = version
            if commit.reserve:
                reservations.append(commit.reserve)
        return Snapshot(self.version + len(commits), files, keys, tuple(reservations))

    @cached_property
    def _by_table(self) -> dict[str, list[DataFile]]:
        tables: dict[str, list[DataFile]] = {}
        for file in self.files.values():
            tables.setdefault(file.table, []).append(file)
        return tables

    def of(self, table: str, **wanted: int | None) -> list[DataFile]:
        """Files of a table that can hold rows with these key values (None for any), in order of their first rows."""
        files = [file for file in self._by_table.get(table, ()) if file.may_hold(**wanted)]
        return sorted(files, key=lambda file: (sorted(file.ranges.items()), file.path))

    @property
    def next_run_id(self) -> int:
        return len(self.reservations)

    @property
    def next_generation_id(self) -> int:
        return max((r.first_generation_id + r.n_generations for r in self.reservations), default=0)


class Log:
    """The log of the store at a location."""

    def __init__(self, location: Location) -> None:
        self.location = location

    def exists(self) -> bool:
        return bool(self._versions())

    def snapshot(self, after: Snapshot | None = None) -> Snapshot:
        """The newest snapshot; from an older one in hand, only later commits are read.

        Raises StoreNotFound when there is no commit, CorruptLog when one is damaged or missing.
        """
        snapshot = after or Snapshot()
        versions = self._versions()
        if not versions and snapshot.version < 0:
            raise StoreNotFound(self.location.uri)
        if versions and versions != list(range(versions[-1] + 1)):
            missing = min(set(range(versions[-1] + 1)) - set(versions))
            raise CorruptLog(self.location.full(_path(missing)), "it is missing")
        return snapshot.after(*(self.read(version) for version in versions[snapshot.version + 1 :]))

    def commits(self) -> Iterator[Commit]:
        """Every commit, oldest first."""
        for version in self._versions():
            yield self.read(version)

    def read(self, version: int) -> Commit:
        """One commit. Raises CorruptLog."""
        path = _path(version)
        return Commit.parse(self.location.read(path), self.location.full(path), version, self.location.uri)

    def commit(self, build: Callable[[Snapshot], Commit | None]) -> Snapshot:
        """Append the commit that `build` makes of the newest snapshot; gives the snapshot in which it is.

        `build` is called again when another writer was first, so what depends on the snapshot (numbers that it
        reserves) is made anew; it may give None when there is nothing to do. A commit whose key is there already is dropped.
        """
        snapshot = self.snapshot() if self.exists() else Snapshot()
        while True:
            commit = build(snapshot)
            if commit is None or commit.key in snapshot.keys:
                return snapshot
            version = snapshot.version + 1
            if not version:
                self.location.put_if_absent("README.md", readme.TEXT.encode())
            if self.location.put_if_absent(_path(version), commit.document(version)):
                return snapshot.after(commit)
            snapshot = self.snapshot(after=snapshot)

    def _versions(self) -> list[int]:
        return [int(name[:20]) for name in self.location.names(LOG) if _NAME.fullmatch(name)]


def _path(version: int) -> str:
    return f"{LOG}/{version:020d}.json"


def _checksum(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
