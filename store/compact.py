"""Compaction: many small files of a table become few, in one commit that takes the old ones' place.

Readers of an older snapshot go on reading the old files until `gc` removes them.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from .location import Location
from .log import Commit, DataFile, Log, Snapshot
from .reader import Reader
from .schema import PROJECTION, TABLES, Table
from .shapes import Shape, run_of, shapes
from .shard import write_table

FILE_BYTES = 1 << 26
"""Files are put together up to this size; larger ones stay as they are."""

MAX_ROW_GROUPS = 4096
"""Row groups of a file that was put together, at most: a reader has to read what the footer says of each."""


@dataclass(frozen=True)
class Compacted:
    """What a compaction did."""

    n_before: int
    n_after: int
    n_bytes: int

    def sentence(self) -> str:
        """What was done, for people."""
        if self.n_before == self.n_after:
            return f"nothing to compact: {self.n_before} files"
        written = f"{self.n_bytes / 1e6:.3g} MB written"
        return f"{self.n_before} files became {self.n_after}; {written} (`actlake gc` removes the old ones)"


def compact(
    location: Location,
    *,
    file_bytes: int = FILE_BYTES,
    on_progress: Callable[[int, int], None] | None = None,
) -> Compacted:
    """Put small files together, those of one table and of runs whose vectors look the same; the projection is left to `index`.

    Other processes may capture, read, index and compact meanwhile. `on_progress` is called with files read and to
    read. Raises StoreNotFound; MissingFile or CorruptFile, which leave the store as it was.
    """
    log, reader = Log(location), Reader(location)
    snapshot = log.snapshot()
    n_before, n_bytes = len(snapshot.files), 0
    groups = list(_groups(snapshot, reader, file_bytes))
    n_done, n_all = 0, sum(map(len, groups))
    for group in groups:
        file = _together(location, reader, group)
        commit = Commit("compact", f"compact/{file.path}", [file], [source.path for source in group])
        snapshot, done = log.commit_over(group, commit)
        n_bytes += file.bytes if done else 0
        n_done += len(group)
        if on_progress:
            on_progress(n_done, n_all)
    return Compacted(n_before, len(snapshot.files), n_bytes)


def _groups(snapshot: Snapshot, reader: Reader, file_bytes: int) -> Iterator[list[DataFile]]:
    """Files that are to become one."""
    known = shapes(snapshot, reader)
    for table in TABLES.values():
        if table in PROJECTION:
            continue
        alike: dict[tuple[Shape | None, str, bool], list[DataFile]] = {}
        for file in snapshot.of(table.name):
            shape = known[run_of(snapshot, file)] if table.vector else None
            alike.setdefault((shape, file.indexed, file.counted), []).append(file)
        for files in alike.values():
            yield from _filled(table, [file for file in files if file.bytes < file_bytes // 2], file_bytes, reader)


def _filled(table: Table, files: Sequence[DataFile], file_bytes: int, reader: Reader) -> Iterator[list[DataFile]]:
    group: list[DataFile] = []
    size = n_groups = 0
    for file in files:
        row_groups = reader.n_row_groups(file) if table.row_group else 1
        if group and (size + file.bytes > file_bytes or n_groups + row_groups > MAX_ROW_GROUPS):
            if len(group) > 1:
                yield group
            group, size, n_groups = [], 0, 0
        group.append(file)
        size += file.bytes
        n_groups += row_groups
    if len(group) > 1:
        yield group


def _together(location: Location, reader: Reader, files: Sequence[DataFile]) -> DataFile:
    """Write the rows of several files as one."""
    table = TABLES[files[0].table]
    held = Snapshot(files={file.path: file for file in files})
    rows = reader.rows(held, table.name).sort_by([(name, "ascending") for name in table.sort or table.key])
    return write_table(location, table, rows, indexed=files[0].indexed, counted=files[0].counted)
