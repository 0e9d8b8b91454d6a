"""Where a store lies: the few operations that its files need, whatever keeps them.

Files are read through `pyarrow.fs` everywhere. Writing is each kind's own, because a commit needs a file that appears
whole or not at all and is never replaced, which `pyarrow.fs` does not offer. Object stores are in `objects.py`.
"""

import errno
import os
import re
import shutil
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, final
from urllib.parse import unquote

import pyarrow as pa
from pyarrow import fs

from ..errors import ActlakeError, CorruptFile, DiskFull, MissingFile, StoreReadOnly, UnsupportedLocation

_URI = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<rest>.*)", re.DOTALL)
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_RIGHT = {errno.EACCES, errno.EPERM, errno.EROFS}


@dataclass(frozen=True, slots=True)
class Entry:
    """A file of a folder, with its bytes and when it was written, in UTC."""

    name: str
    size: int
    modified: datetime


class Draft(ABC):
    """A file in the making, which no reader sees."""

    @abstractmethod
    def add(self, *pieces: bytes) -> None:
        """Append. Raises DiskFull or StoreReadOnly."""

    @abstractmethod
    def appear(self, path: str) -> bool:
        """Have the file, whole and kept safely, under a name of its folder, unless one of that name is there; says whether it is.

        Raises DiskFull or StoreReadOnly, and nothing appears then.
        """


class _Held(Draft):
    """A draft in memory."""

    def __init__(self, location: "Location") -> None:
        self._location, self._pieces = location, list[bytes]()

    def add(self, *pieces: bytes) -> None:
        self._pieces += pieces

    def appear(self, path: str) -> bool:
        return self._location.put_if_absent(path, *self._pieces)


class Location(ABC):
    """A folder or object-store prefix; paths are relative to it, with `/` between their parts.

    `uri` names it to people and to other processes (`Location.of(uri)`); no credential is ever in it.
    `root` is the same as `pyarrow.fs` wants it.
    """

    uri: str
    root: str
    is_local: bool

    @staticmethod
    def of(uri: str | os.PathLike[str]) -> "Location":
        """The location that a local path, or a `file://`, `s3://` or `gs://` URI names; nothing is created or asked.

        Raises UnsupportedLocation.
        """
        from .objects import GcsPrefix, S3Prefix  # they are made of what stands here

        text = os.fspath(uri)
        parts = _URI.match(text)
        if not parts:
            return LocalFolder(text, str(Path(text).expanduser().absolute()))
        match parts["scheme"].lower():
            case "file":
                path = re.sub("^localhost(?=/)", "", parts["rest"])
                if not path.startswith("/"):
                    raise UnsupportedLocation(text, "a file URI has three slashes and an absolute path")
                return LocalFolder(text, str(Path(unquote(path))))
            case "s3":
                return S3Prefix(text)
            case "gs" | "gcs":
                return GcsPrefix(text)
            case scheme:
                raise UnsupportedLocation(
                    f"{scheme}://…", "give a folder, or a URI that begins with s3://, gs:// or file://"
                )

    @property
    def filesystem(self) -> fs.FileSystem:
        """What `pyarrow` reads files with; paths in it begin with `root`."""
        return self._filesystem

    @abstractmethod
    def full(self, path: str) -> str:
        """Where a file lies, in words that people, and for a local one DuckDB, can use."""

    def open(self, path: str) -> pa.NativeFile:
        """A file for positioned reads, by any number of threads. Raises MissingFile, and CorruptFile for a link that leads
        out of the store.

        What fails later, as it is read, is an OSError; `read_error` says what it means.
        """
        self._check_inside(path)
        try:
            return self._filesystem.open_input_file(f"{self.root}/{path}")
        except FileNotFoundError as error:
            raise MissingFile(self.full(path)) from error
        except OSError as error:
            if problem := self._service_error(path, error):
                raise problem from error
            raise

    def read(self, path: str) -> bytes:
        """A whole file. Raises MissingFile."""
        with self.open(path) as file:
            try:
                return bytes(file.read())
            except OSError as error:
                raise self.read_error(path, error) from error

    def size(self, path: str) -> int | None:
        """Bytes of a file, or None when it is not there."""
        info = self._info(f"{self.root}/{path}")[0]
        return info.size if info.type == fs.FileType.File else None

    def entries(self, folder: str) -> list[Entry]:
        """The files in a folder, by name; none when the folder is not there."""
        try:
            infos = self._info(fs.FileSelector(f"{self.root}/{folder}", allow_not_found=True))
        except FileNotFoundError:  # another process makes the folder just now, which pyarrow takes for an error
            infos = []
        if not infos:
            self._check_place()
        files = [Entry(info.base_name, info.size, info.mtime) for info in infos if info.type == fs.FileType.File]
        return sorted(files, key=lambda entry: entry.name)

    def names(self, folder: str) -> list[str]:
        """Names of the files in a folder, sorted; none when the folder is not there."""
        return [entry.name for entry in self.entries(folder)]

    @abstractmethod
    def put_if_absent(self, path: str, *pieces: bytes) -> bool:
        """Make a file of these pieces appear whole, kept safely, unless one of that name is there; says whether it did.

        Raises DiskFull or StoreReadOnly, and makes nothing appear then.
        """

    @contextmanager
    def draft(self, folder: str) -> Iterator[Draft]:
        """A new file of a folder, in the making: what has not appeared when `with` ends is gone.

        A local one is on the disk as it grows; of an object store it is held in memory.
        """
        yield _Held(self)

    @abstractmethod
    def delete(self, path: str) -> None:
        """Remove a file; no error when it is gone already. Raises StoreReadOnly."""

    @abstractmethod
    def free_bytes(self) -> int | None:
        """Free space for a store here, or None where space has no limit. Raises UnsupportedLocation for a file."""

    def read_error(self, path: str, error: Exception) -> ActlakeError:
        """What it means that a file which is there could not be read: its service failed, or the file is damaged."""
        said = str(error).strip() or type(error).__name__
        return self._service_error(path, error) or CorruptFile(self.full(path), said.splitlines()[0])

    @property
    @abstractmethod
    def _filesystem(self) -> fs.FileSystem:
        """What reads the files."""

    @abstractmethod
    def _check_inside(self, path: str) -> None:
        """Raise CorruptFile when a file that is named as one of the store's lies elsewhere."""

    @abstractmethod
    def _check_place(self) -> None:
        """Raise StoreUnreachable when not even the place for a store is there: a bucket, which nobody but its owner makes."""

    @abstractmethod
    def _service_error(self, path: str, error: Exception) -> ActlakeError | None:
        """Ours for an error of the service that keeps the files; None when it is no such error."""

    def _info(self, what: str | fs.FileSelector) -> list[fs.FileInfo]:
        try:
            return self._filesystem.get_file_info(what if isinstance(what, fs.FileSelector) else [what])
        except OSError as error:
            if problem := self._service_error("", error):
                raise problem from error
            raise

    def __repr__(self) -> str:
        return f"<actlake.Location {self.uri!r}>"


@final
class LocalFolder(Location):
    """A folder of this machine, written through the operating system."""

    is_local = True
    _filesystem = fs.LocalFileSystem()

    def __init__(self, uri: str, root: str) -> None:
        self.uri, self.root = uri, root

    def full(self, path: str) -> str:
        return f"{self.root}/{path}"

    def put_if_absent(self, path: str, *pieces: bytes) -> bool:
        with self.draft(path.rpartition("/")[0]) as draft:
            draft.add(*pieces)
            return draft.appear(path)

    @contextmanager
    def draft(self, folder: str) -> Iterator[Draft]:
        place = Path(self.full(folder))
        path = place / f".{uuid.uuid4().hex}.draft"
        with _refusals(place):
            try:
                place.mkdir(parents=True, exist_ok=True)
            except (FileExistsError, NotADirectoryError) as error:
                raise self._file_in_the_way() from error
            file = path.open("xb", buffering=1 << 20)
        try:
            yield _OnDisk(self, path, file)
        finally:
            with suppress(OSError):  # what a full disk did not take is not wanted any more
                file.close()
            path.unlink(missing_ok=True)

    def delete(self, path: str) -> None:
        with _refusals(self.full(path)):
            Path(self.full(path)).unlink(missing_ok=True)

    def free_bytes(self) -> int | None:
        folder = Path(self.root)
        while not folder.exists():
            folder = folder.parent
        if not folder.is_dir():
            raise self._file_in_the_way()
        return shutil.disk_usage(folder).free

    def _file_in_the_way(self) -> UnsupportedLocation:
        return UnsupportedLocation(self.uri, "a file of that name is in the way; give a folder")

    def _check_inside(self, path: str) -> None:
        full, root = self.full(path), os.path.realpath(self.root)
        if os.path.commonpath([root, os.path.realpath(full)]) != root:
            raise CorruptFile(full, "it is a link that leads out of the store")

    def _check_place(self) -> None:
        pass  # a folder is made when it is written to

    def _service_error(self, path: str, error: Exception) -> ActlakeError | None:
        return None


class _OnDisk(Draft):
    """A draft in the folder where it is to appear."""

    def __init__(self, location: LocalFolder, path: Path, file: IO[bytes]) -> None:
        self._location, self._path, self._file, self._n_bytes = location, path, file, 0

    def add(self, *pieces: bytes) -> None:
        self._n_bytes += sum(map(len, pieces))
        with _refusals(self._path.parent, self._n_bytes):
            self._file.writelines(pieces)

    def appear(self, path: str) -> bool:
        target = Path(self._location.full(path))
        with _refusals(target, self._n_bytes):
            self._file.flush()
            os.fsync(self._file.fileno())
            try:
                os.link(self._path, target)
            except FileExistsError:
                return False
        _sync_folder(target.parent)
        return True


@contextmanager
def _refusals(path: str | os.PathLike[str], n_bytes: int = 0) -> Iterator[None]:
    """Turns what the system says of a write into one of our errors."""
    try:
        yield
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise DiskFull(os.fspath(path), n_bytes, os.strerror(error.errno)) from error
        if error.errno in _NO_RIGHT:
            raise StoreReadOnly(os.fspath(path), os.strerror(error.errno)) from error
        raise


def _sync_folder(folder: Path) -> None:
    with suppress(OSError):  # the file is there; some file systems cannot sync a folder
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
