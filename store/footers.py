"""Files, held against what commits say of them: footers, which decide what a reader takes from the rest, and all bytes."""

import hashlib
import zlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pyarrow as pa

from ..errors import ActlakeError, CorruptFile, MissingFile
from .location import Location
from .log import DataFile, Log

_THREADS = 8
_FEW = 16
_PIECE = 1 << 24


def opened_file(location: Location, path: str, opened: Callable[[str], pa.NativeFile] | None = None) -> pa.NativeFile:
    """A file for positioned reads. Raises MissingFile, which says so when a commit removed it and `gc` deleted it."""
    try:
        return (opened or location.open)(path)
    except MissingFile as error:
        removed_by = None
        with suppress(ActlakeError):  # a damaged log has nothing to say of it
            removed_by = Log(location).removed_by(path)
        raise MissingFile(location.full(path), removed_by) from error


def footer_of(location: Location, file: DataFile, opened: Callable[[str], pa.NativeFile] | None = None) -> bytes:
    """A file's footer with its length and magic, after comparing the file's size and the footer's checksum.

    Raises MissingFile or CorruptFile.
    """
    full = location.full(file.path)
    with opened_file(location, file.path, opened) as source:
        size = source.size()
        if size != file.bytes:
            raise CorruptFile(full, f"it has {size} bytes, its commit says {file.bytes}")
        try:
            n_bytes = file.footer_bytes or 8 + int.from_bytes(bytes(source.read_at(4, size - 8)), "little")
            tail = bytes(source.read_at(n_bytes, size - n_bytes))
        except OSError as error:
            raise location.read_error(file.path, error) from error
    if file.footer_bytes and zlib.crc32(tail) != file.footer_crc32:
        raise CorruptFile(full, "its footer does not have the checksum that its commit says")
    return tail


def has_its_bytes(location: Location, file: DataFile, opened: Callable[[str], pa.NativeFile] | None = None) -> bool:
    """Whether a file has the checksum that its commit says; reads all of it. Raises MissingFile."""
    digest = hashlib.sha256()
    with opened_file(location, file.path, opened) as source:
        for start in range(0, file.bytes, _PIECE):
            digest.update(source.read_at(min(_PIECE, file.bytes - start), start))
    return digest.hexdigest() == file.sha256


class Footers:
    """Checks files on behalf of those who read footers themselves (DuckDB), each file once. Safe between threads."""

    def __init__(self, location: Location, opened: Callable[[str], pa.NativeFile] | None = None) -> None:
        """`opened` opens a path in the place of the location."""
        self._location, self._opened = location, opened
        self._checked: set[str] = set()

    def check(self, files: Iterable[DataFile], *, again: bool = False) -> None:
        """Raise MissingFile or CorruptFile if one of these files is not what its commit says, as far as its footer goes.

        `again` looks at those too that were right before.
        """
        new = [file for file in files if again or file.path not in self._checked]
        if len(new) <= _FEW:
            for file in new:
                footer_of(self._location, file, self._opened)
        else:
            with ThreadPoolExecutor(_THREADS) as threads:
                for _ in threads.map(lambda file: footer_of(self._location, file, self._opened), new):
                    pass
        self._checked.update(file.path for file in new)

    def check_bytes(self, files: Iterable[DataFile]) -> None:
        """Raise MissingFile or CorruptFile for the first file that does not have its checksum; reads all of them."""
        for file in files:
            if not has_its_bytes(self._location, file, self._opened):
                raise CorruptFile(self._location.full(file.path), "it does not have the checksum that its commit says")
