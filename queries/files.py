"""The files of a snapshot as a file system that DuckDB reads: these files, from the store's location, and nothing else.

DuckDB seeks and then reads on a handle that all of its threads share, which gives a thread another one's bytes on an
ordinary Python file. Here the position belongs to the thread, and every read names its own.
"""

import os
import threading
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any, NoReturn

import pyarrow as pa
from fsspec import AbstractFileSystem

from ..errors import ActlakeError
from ..store.location import Location

PROTOCOL = "actlake"

GLOB = str.maketrans({"[": "[[]", "*": "[*]", "?": "[?]"})
_WRITTEN = datetime.fromtimestamp(0, UTC)  # of every file: they never change


class StoreFiles(AbstractFileSystem):  # type: ignore[misc]  # fsspec is untyped
    """A read-only file system of the given paths, relative to the location; no other path is there.

    `failure` is the last error that a read met: DuckDB reports one of Python's as a traceback.
    """

    protocol = PROTOCOL
    cachable = False

    def __init__(self, location: Location, paths: Collection[str], empty: Mapping[str, bytes] | None = None) -> None:
        """`empty` has files that are in no store, by their paths."""
        super().__init__()
        self._empty = empty or {}
        self.failure: ActlakeError | OSError | None = None
        self._location = location
        self._paths = {name: path for path in (*paths, *self._empty) for name in (path, path.translate(GLOB))}
        self._sizes: dict[str, int] = {}

    def url(self, path: str) -> str:
        """What DuckDB's `read_parquet` wants to be given; it takes a path for a pattern, so these are escaped."""
        return f"{PROTOCOL}://{path.translate(GLOB)}"

    def open(self, path: str, mode: str = "rb", **_: Any) -> "StoreFile":
        """A file for reading by many threads. Raises FileNotFoundError for any path but those given, PermissionError
        for a mode that writes, MissingFile, and CorruptFile for a link that leads out of the store."""
        if mode != "rb":
            self._refuse()
        return StoreFile(self, self.native(path), partial(self._location.read_error, self._known(path)))

    def native(self, path: str) -> pa.NativeFile:
        """As `open`, without a position of its own."""
        name = self._known(path)
        if name in self._empty:
            self._sizes[name] = len(self._empty[name])
            return pa.BufferReader(self._empty[name])
        try:
            file = self._location.open(name)
        except (ActlakeError, OSError) as error:
            self.failure = error
            raise
        self._sizes[name] = file.size()
        return file

    def size(self, path: str) -> int:
        name = self._known(path)
        if name not in self._sizes:
            self.open(path).close()
        return self._sizes[name]

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        return {"name": self._known(path), "size": self.size(path), "type": "file"}

    def exists(self, path: str, **_: Any) -> bool:
        return self._name(path) is not None

    def isfile(self, path: str) -> bool:
        return self.exists(path)

    def isdir(self, path: str) -> bool:
        return False

    def glob(self, path: str, **_: Any) -> list[str]:
        """The file of that name, escaped or not; patterns find nothing."""
        name = self._name(path)
        return [] if name is None else [name]

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        return [self.info(path) if detail else self._known(path)]

    def modified(self, path: str) -> datetime:
        return _WRITTEN

    created = modified

    def _name(self, path: str) -> str | None:
        return self._paths.get(path.removeprefix(f"{PROTOCOL}://"))

    def _known(self, path: str) -> str:
        name = self._name(path)
        if name is None:
            raise FileNotFoundError(f"{path!r} is no file of this store")
        return name

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        self.failure = PermissionError("a store's files are only read here")
        raise self.failure

    mkdir = makedirs = rmdir = rm = rm_file = _rm = mv = move = rename = _refuse
    cp_file = copy = put = put_file = pipe = pipe_file = touch = start_transaction = upload = _refuse


class StoreFile:
    """An open file whose position is each thread's own."""

    def __init__(self, files: StoreFiles, file: pa.NativeFile, explain: Callable[[Exception], ActlakeError]) -> None:
        self._files, self._file, self._explain = files, file, explain
        self._position = threading.local()

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self.tell(), os.SEEK_END: self._file.size()}[whence]
        self._position.value = start + offset
        return self.tell()

    def tell(self) -> int:
        return getattr(self._position, "value", 0)

    def read(self, size: int = -1) -> bytes:
        start = self.tell()
        try:
            data = self._file.read_at(self._file.size() - start if size < 0 else size, start)
        except OSError as error:
            self._files.failure = self._explain(error)
            raise self._files.failure from error
        self._position.value = start + len(data)
        return data

    def close(self) -> None:
        self._file.close()
