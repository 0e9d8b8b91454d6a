"""The commit log: what the store holds, as a list of numbered JSON documents.

A commit adds and removes files of several tables at once. It is put under the next number only if that number is free,
so writers of several processes race for it, and one that loses folds what came before it and tries the next. Files that
no commit names do not exist for a reader; a crash leaves at most some of those. Now and then the state is written out as
a checkpoint, so that opening a store does not read its whole history.
"""

import gc
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ..errors import CommitNotFound, CorruptLog, DiskFull, FormatTooNew, MissingFile, StoreNotFound
from . import readme
from .location import Location
from .ranges import parse_ranges
from .schema import FORMAT

LOG = "_log"
CHECKPOINTS = f"{LOG}/checkpoints"
CHECKPOINT_EVERY = 128
_FILE = re.compile(r"(?P<table>\w+)/(?!\.)[^/\\\0]+", re.ASCII)
_NAME = re.compile(r"\d{20}\.json")

Range = tuple[int, int]


@dataclass(frozen=True, slots=True)
class DataFile:
    """A Parquet file that a commit names.

    `ranges` has the least and the greatest value of each integer key column, both included: a reader that wants one
    generation or one layer leaves the other files closed. `footer_crc32` is of the file's last `footer_bytes` bytes, which
    decide what a reader takes from the rest (0 bytes: not known). `indexed` names the layers, as `0,3-5`, whose
    vectors the neuron-major projection has too, with their statistics; of a file that is `counted`, the statistics of all
    layers are there, whether or not the vectors are.
    """

    table: str
    path: str
    rows: int
    bytes: int
    sha256: str
    footer_bytes: int = 0
    footer_crc32: int = 0
    ranges: Mapping[str, Range] = field(default_factory=dict)
    indexed: str = ""
    counted: bool = False

    def __post_init__(self) -> None:
        _check_path(self.path, self.table)

    @property
    def indexed_layers(self) -> tuple[int, ...]:
        return parse_ranges(self.indexed) if self.indexed else ()

    @classmethod
    def parse(cls, entry: Mapping[str, Any]) -> "DataFile":
        return cls(**{**entry, "ranges": {name: (first, last) for name, (first, last) in entry["ranges"].items()}})


@dataclass(frozen=True, slots=True)
class Reservation:
    """The numbers that a run has for itself: its own, and its prompts' generation ids."""

    run_id: int
    first_generation_id: int
    n_generations: int

    @property
    def generation_ids(self) -> range:
        return range(self.first_generation_id, self.first_generation_id + self.n_generations)


@dataclass(frozen=True)
class Commit:
    """One change of the store. `key` names the work that it does: a second commit of the same key is a no-op.

    `indexed` has token-major files whose vectors came into the projection: their paths, and all layers that it has of them; none
    if it was dropped, and their statistics with it. `counted` are the paths of those whose statistics came into it.
    `parent` is the checksum of the commit before it, and `checksum` its own: the log is a chain, so a commit of
    another store, or of another history of this one, does not fit in.
    """

    operation: str
    key: str
    add: Sequence[DataFile] = ()
    remove: Sequence[str] = ()
    reserve: Reservation | None = None
    indexed: Mapping[str, str] = field(default_factory=dict)
    counted: Sequence[str] = ()
    created_at: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="milliseconds"))
    parent: str = ""
    checksum: str = ""

    def following(self, snapshot: "Snapshot") -> "Commit":
        """The commit as the next one after a snapshot."""
        commit = replace(self, parent=snapshot.checksum)
        return replace(commit, checksum=_checksum(commit._body(snapshot.version + 1)))

    def document(self, version: int) -> bytes:
        """The commit as it is stored: JSON, with a checksum of everything else in it."""
        return json.dumps({**self._body(version), "checksum": self.checksum}, indent=1).encode()

    def _body(self, version: int) -> dict[str, Any]:
        body = {"format": FORMAT, "version": version, **asdict(self)}
        del body["checksum"]
        return body

    @classmethod
    def parse(cls, data: bytes, path: str, version: int) -> "Commit":
        """The commit that a document holds. Raises CorruptLog or FormatTooNew."""
        try:
            body = json.loads(data)
            found, checksum = int(body.pop("format")), body.pop("checksum")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CorruptLog(path, "it is not a commit document") from error
        if found > FORMAT:
            raise FormatTooNew(path, found, FORMAT, str(body.get("needs", "a newer version")))
        if checksum != _checksum({"format": found, **body}):
            raise CorruptLog(path, "its checksum does not match its content")
        if body.pop("version") != version:
            raise CorruptLog(path, "it holds a commit of another number")
        try:
            files = tuple(map(DataFile.parse, body["add"]))
            for removed in body["remove"]:
                _check_path(removed)
        except ValueError as error:
            raise CorruptLog(path, str(error)) from error
        reserve = Reservation(**body["reserve"]) if body["reserve"] else None
        given = {"add": files, "reserve": reserve, "checksum": checksum}
        # formats before 6 have no `counted`
        given |= {name: tuple(body.get(name, ())) for name in ("remove", "counted")}
        return cls(**{**body, **given})


@dataclass(frozen=True)
class Snapshot:
    """What the store holds after a commit: immutable, so a reader that has it is not disturbed by later ones."""

    version: int = -1
    files: Mapping[str, DataFile] = field(default_factory=dict)
    keys: Mapping[str, int] = field(default_factory=dict)
    reservations: Sequence[Reservation] = ()
    checksum: str = ""

    def after(self, *commits: Commit) -> "Snapshot":
        """The snapshot that the commits following it make of this one."""
        files, keys, reservations, checksum = dict(self.files), dict(self.keys), list(self.reservations), self.checksum
        for version, commit in enumerate(commits, self.version + 1):
            for path in commit.remove:
                files.pop(path, None)
            files |= {file.path: file for file in commit.add}
            for path, layers in commit.indexed.items():
                files[path] = replace(files[path], indexed=layers, counted=files[path].counted and bool(layers))
            files |= {path: replace(files[path], counted=True) for path in commit.counted}
            keys[commit.key] = version
            if commit.reserve:
                reservations.append(commit.reserve)
            checksum = commit.checksum
        return Snapshot(self.version + len(commits), files, keys, tuple(reservations), checksum)

    def of(self, table: str, **wanted: int | Range | None) -> list[DataFile]:
        """Files of a table, in order of their first rows, that can hold rows with these values of key columns.

        A value is a number, a range of them (both ends included), or None for any.
        """
        if table not in self._chosen_from:
            files = [file for file in self.files.values() if file.table == table]
            self._chosen_from[table] = _Files(files)
        return self._chosen_from[table].holding(wanted)

    @property
    def next_run_id(self) -> int:
        return len(self.reservations)

    @property
    def next_generation_id(self) -> int:
        return max((r.generation_ids.stop for r in self.reservations), default=0)

    @cached_property
    def _chosen_from(self) -> dict[str, "_Files"]:
        return {}

    def checkpoint(self) -> bytes:
        """The snapshot as it is stored: a line of JSON with the checksum of the next, and one with a list for each field."""
        names = list(DataFile.__dataclass_fields__)
        columns = {name: [getattr(file, name) for file in self.files.values()] for name in names}
        reservations = [asdict(reservation) for reservation in self.reservations]
        body = {"files": columns, "keys": self.keys, "reservations": reservations, "checksum": self.checksum}
        data = json.dumps(body, separators=(",", ":")).encode()
        head = {"format": FORMAT, "version": self.version, "sha256": hashlib.sha256(data).hexdigest()}
        return json.dumps(head).encode() + b"\n" + data + b"\n"

    @classmethod
    def parse(cls, data: bytes, path: str) -> "Snapshot":
        """The snapshot that a checkpoint holds. Raises CorruptLog or FormatTooNew."""
        first, _, second = data.partition(b"\n")
        try:
            head = json.loads(first)
            found, version, checksum = int(head["format"]), int(head["version"]), head["sha256"]
        except (ValueError, KeyError, TypeError) as error:
            raise CorruptLog(path, "it is not a checkpoint") from error
        if found > FORMAT:
            raise FormatTooNew(path, found, FORMAT, str(head.get("needs", "a newer version")))
        if hashlib.sha256(second[:-1]).hexdigest() != checksum:
            raise CorruptLog(path, "its checksum does not match its content")
        with _no_garbage():
            body = json.loads(second[:-1])
            columns = body["files"]
            columns.setdefault("counted", [False] * len(columns["path"]))  # formats before 6
            columns["ranges"] = [{name: (lo, hi) for name, (lo, hi) in ranges.items()} for ranges in columns["ranges"]]
            rows = zip(*(columns[name] for name in DataFile.__dataclass_fields__), strict=True)
            try:
                files = {file.path: file for file in (DataFile(*row) for row in rows)}
            except ValueError as error:
                raise CorruptLog(path, str(error)) from error
        reservations = tuple(Reservation(**entry) for entry in body["reservations"])
        return cls(version, files, body["keys"], reservations, body.get("checksum", ""))


@contextmanager
def _no_garbage() -> Iterator[None]:
    """Many objects are made, and none is garbage; looking for some takes longer than making them."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class _Files:
    """The files of one table, sorted, with their ranges side by side so that thousands are chosen from at once."""

    def __init__(self, files: Sequence[DataFile]) -> None:
        self._files = sorted(files, key=lambda file: (*file.ranges.values(), file.path))
        columns = {name for file in files for name in file.ranges}
        self._ranges = {name: self._bounds(name) for name in columns}

    def holding(self, wanted: Mapping[str, int | Range | None]) -> list[DataFile]:
        may_hold: pa.Array | None = None
        for name, value in wanted.items():
            if value is None or name not in self._ranges:
                continue
            (first, last), (least, greatest) = value if isinstance(value, tuple) else (value, value), self._ranges[name]
            holds = pc.and_(pc.less_equal(least, last), pc.greater_equal(greatest, first))
            may_hold = holds if may_hold is None else pc.and_(may_hold, holds)
        if may_hold is None:
            return list(self._files)
        return [self._files[index] for index in pc.indices_nonzero(may_hold).to_pylist()]

    def _bounds(self, name: str) -> tuple[pa.Array, pa.Array]:
        everything = (-(1 << 63), (1 << 63) - 1)
        bounds = [file.ranges.get(name, everything) for file in self._files]
        return pa.array([first for first, _ in bounds], pa.int64()), pa.array([last for _, last in bounds], pa.int64())


class Log:
    """The log of the store at a location."""

    def __init__(self, location: Location) -> None:
        self.location = location
        self._newest: Snapshot | None = None

    def exists(self) -> bool:
        return bool(self._versions())

    def snapshot(self, after: Snapshot | None = None, *, at: int | None = None) -> Snapshot:
        """The newest snapshot, or that of commit `at`; from an older one in hand, only later commits are read.

        Raises StoreNotFound when there is no commit, CommitNotFound when there is none of that number, CorruptLog when
        one is damaged or missing.
        """
        if after is not None and after.version >= 0 and at is None:
            return self._folded(after, self._following(after.version))
        newest = self.newest()
        last = newest if at is None else at
        if not 0 <= last <= newest:
            raise CommitNotFound(last, newest)
        return self.replayed(self._checkpoint(last), last)

    def replayed(self, snapshot: Snapshot, to: int) -> Snapshot:
        """The snapshot of commit `to`, from an older one and the commits after it, without checkpoints. Raises CorruptLog."""
        return self._folded(snapshot, map(self.read, range(snapshot.version + 1, to + 1)))

    def newest(self) -> int:
        """The number of the newest commit. Raises StoreNotFound when there is none, CorruptLog when one before it is missing."""
        versions = self._versions()
        if not versions:
            raise StoreNotFound(self.location.uri)
        expected = 0
        for version in versions:
            for missing in range(expected, version):
                if self.location.size(_path(missing)) is None:  # else it came while the folder was listed
                    raise CorruptLog(self.location.full(_path(missing)), "it is missing")
            expected = version + 1
        return versions[-1]

    def commits(self) -> Iterator[Commit]:
        """Every commit, oldest first. Raises CorruptLog."""
        return map(self.read, range(self.newest() + 1))

    def read(self, version: int) -> Commit:
        """One commit. Raises CorruptLog."""
        path = _path(version)
        return Commit.parse(self.location.read(path), self.location.full(path), version)

    def removed_by(self, path: str) -> int | None:
        """The newest commit that removed a data file, or None when no commit did."""
        for version in reversed(range(self.newest() + 1)):
            if path in self.read(version).remove:
                return version
        return None

    def commit(self, build: Callable[[Snapshot], Commit | None]) -> Snapshot:
        """Append the commit that `build` makes of the newest snapshot; gives the snapshot in which it is.

        `build` is called again when another writer was first, so what depends on the snapshot (numbers that it
        reserves) is made anew; it may give None when there is nothing to do. A commit whose key is there already is dropped.
        Raises DiskFull after deleting the files that the commit was to add: they only take room.
        """
        snapshot = self._newest or (self.snapshot() if self.exists() else Snapshot())
        snapshot = self.snapshot(after=snapshot) if snapshot.version >= 0 else snapshot
        while True:
            commit = build(snapshot)
            if commit is None or commit.key in snapshot.keys:
                self._newest = snapshot
                return snapshot
            version = snapshot.version + 1
            if not version:
                self.location.put_if_absent("README.md", readme.TEXT.encode())
            commit = commit.following(snapshot)
            if self._put(version, commit):
                self._newest = snapshot = snapshot.after(commit)
                if version % CHECKPOINT_EVERY == CHECKPOINT_EVERY - 1:
                    with suppress(OSError):  # the commit is there; a checkpoint only makes opening quick
                        self.location.put_if_absent(_checkpoint_path(version), snapshot.checkpoint())
                return snapshot
            snapshot = self.snapshot(after=snapshot)

    def commit_over(self, sources: Sequence[DataFile], commit: Commit) -> tuple[Snapshot, bool]:
        """Append a commit whose files were made of `sources`; gives the snapshot after it, and whether it is in it.

        When another process has changed or removed a source meanwhile, nothing is committed and the files are deleted.
        """

        def build(snapshot: Snapshot) -> Commit | None:
            return commit if all(snapshot.files.get(source.path) == source for source in sources) else None

        snapshot = self.commit(build)
        done = commit.add[0].path in snapshot.files
        if not done:
            for file in commit.add:
                self.location.delete(file.path)
        return snapshot, done

    def checkpoints(self) -> list[str]:
        """Paths of the checkpoints, oldest first."""
        return [f"{CHECKPOINTS}/{name}" for name in self.location.names(CHECKPOINTS) if _NAME.fullmatch(name)]

    def read_checkpoint(self, path: str) -> Snapshot:
        """The snapshot that a checkpoint holds. Raises CorruptLog."""
        snapshot = Snapshot.parse(self.location.read(path), self.location.full(path))
        if _checkpoint_path(snapshot.version) != path:
            raise CorruptLog(self.location.full(path), "it holds a checkpoint of another commit")
        return snapshot

    def _checkpoint(self, at_most: int) -> Snapshot:
        """The newest checkpoint that can be read, of a commit up to that one; commits can make it again, so none is needed."""
        for path in reversed(self.checkpoints()):
            if path <= _checkpoint_path(at_most):
                with suppress(CorruptLog, FormatTooNew, MissingFile):
                    return self.read_checkpoint(path)
        return Snapshot()

    def _folded(self, snapshot: Snapshot, commits: Iterable[Commit]) -> Snapshot:
        """A snapshot and the commits after it. Raises CorruptLog when they are not one history."""
        following, checksum = [], snapshot.checksum
        for version, commit in enumerate(commits, snapshot.version + 1):
            if commit.parent != checksum and commit.parent and checksum:
                problem = f"it does not follow commit {version - 1}; one of them is of another store"
                raise CorruptLog(self.location.full(_path(version)), problem)
            following.append(commit)
            checksum = commit.checksum
        return snapshot.after(*following) if following else snapshot

    def _put(self, version: int, commit: Commit) -> bool:
        try:
            return self.location.put_if_absent(_path(version), commit.document(version))
        except DiskFull:
            for file in commit.add:
                self.location.delete(file.path)
            raise

    def _following(self, version: int) -> Iterator[Commit]:
        with suppress(MissingFile):
            while True:
                version += 1
                yield self.read(version)

    def _versions(self) -> list[int]:
        return [int(name[:20]) for name in self.location.names(LOG) if _NAME.fullmatch(name)]


def _check_path(path: str, table: str = "") -> None:
    """Raise ValueError unless it is the path of a file in the folder of that table, or of any."""
    match = _FILE.fullmatch(path)
    if not match or (table and match["table"] != table):
        raise ValueError(f"it names {path[:200]!r}, which is no TABLE/FILE of a store")


def _path(version: int) -> str:
    return f"{LOG}/{version:020d}.json"


def _checkpoint_path(version: int) -> str:
    return f"{CHECKPOINTS}/{version:020d}.json"


def _checksum(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
