"""Where a store lies: the few operations that its files need, over `pyarrow.fs`.

Local folders are written through the operating system, because a commit needs a file that appears whole or not at all
and is never replaced, which `pyarrow.fs` does not offer. Object stores can be read; writing them needs their conditional put.
"""

import os
import shutil
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from pyarrow import fs

from ..errors import MissingFile, UnsupportedLocation


@dataclass(frozen=True)
class Location:
    """A folder or object-store prefix; paths are relative to it, with `/` between their parts."""

    uri: str
    filesystem: fs.FileSystem
    root: str

    @classmethod
    def of(cls, uri: str | os.PathLike[str]) -> "Location":
        """The location that a local path or a `pyarrow.fs` URI names; nothing is created.

        Raises UnsupportedLocation when the URI's scheme is unknown.
        """
        text = os.fspath(uri)
        if "://" not in text:
            return cls(text, fs.LocalFileSystem(), str(Path(text).expanduser().absolute()))
        try:
            filesystem, root = fs.FileSystem.from_uri(text)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
            raise UnsupportedLocation(text, f"{error}; give a folder or a URI that pyarrow.fs knows") from error
        return cls(text, filesystem, root)

    @property
    def is_local(self) -> bool:
        return isinstance(self.filesystem, fs.LocalFileSystem)

    def full(self, path: str) -> str:
        """The path as the file system, and DuckDB, want it."""
        return f"{self.root}/{path}"

    def open(self, path: str) -> pa.NativeFile:
        """A file for positioned reads. Raises MissingFile."""
        try:
            return self.filesystem.open_input_file(self.full(path))
        except FileNotFoundError as error:
            raise MissingFile(self.full(path)) from error

    def read(self, path: str) -> bytes:
        """A whole file. Raises MissingFile."""
        with self.open(path) as file:
            return bytes(file.read())

    def size(self, path: str) -> int | None:
        """Bytes of a file, or None when it is not there."""
        info = self.filesystem.get_file_info(self.full(path))
        return info.size if info.type == fs.FileType.File else None

    def names(self, folder: str) -> list[str]:
        """Names of the files in a folder, sorted; none when the folder is not there."""
        selector = fs.FileSelector(self.full(folder), allow_not_found=True)
        infos = self.filesystem.get_file_info(selector)
        return sorted(info.base_name for info in infos if info.type == fs.FileType.File)

    def write(self, path: str, data: bytes | pa.Buffer) -> None:
        """A new file, on the disk when this returns; nobody reads it before a commit names it."""
        target = self._writable(path)
        try:
            with open(target, "xb") as file:
                file.write(data)
                _to_disk(file.fileno())
        except BaseException:  # a full disk, Ctrl-C: half a file would only take room
            target.unlink(missing_ok=True)
            raise

    def put_if_absent(self, path: str, data: bytes) -> bool:
        """Make a file appear whole, unless one of that name is there; says whether it did."""
        target = self._writable(path)
        draft = target.with_name(f".{uuid.uuid4().hex}.draft")
        try:
            with open(draft, "xb") as file:
                file.write(data)
                _to_disk(file.fileno())
            os.link(draft, target)
        except FileExistsError:
            return False
        finally:
            draft.unlink(missing_ok=True)
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            _to_disk(folder)
        finally:
            os.close(folder)
        return True

    def delete(self, path: str) -> None:
        """Remove a file; no error when it is gone already."""
        with suppress(FileNotFoundError):
            self.filesystem.delete_file(self.full(path))

    def free_bytes(self) -> int | None:
        """Free space for a store here, or None where space has no limit."""
        if not self.is_local:
            return None
        folder = Path(self.root)
        while not folder.exists():
            folder = folder.parent
        return shutil.disk_usage(folder).free

    def _writable(self, path: str) -> Path:
        if not self.is_local:
            raise UnsupportedLocation(
                self.uri, "actlake writes to local folders only, for now; capture to one and copy it"
            )
        target = Path(self.full(path))
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise UnsupportedLocation(self.uri, "a file of that name is in the way; give a folder") from error
        return target


def _to_disk(descriptor: int) -> None:
    with suppress(OSError):  # some file systems cannot sync a folder
        os.fsync(descriptor)
