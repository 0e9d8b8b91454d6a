"""SQL that someone else wrote: each query in a process of its own, which reads the store, answers and is gone.

DuckDB's settings alone bound neither what one function allocates nor how long one fetch takes, so what stops a query is
the end of its process. Rows come through a socket as an Arrow stream, as they are or as lines of text that the process
made of them; the request, the form that is wanted and errors are lines of JSON; nothing is unpickled.
`sandbox_child.py` is the other end.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from io import FileIO
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self

import pyarrow as pa
from pyarrow import ipc

from ..errors import (
    ActlakeError,
    CorruptFile,
    InvalidOption,
    MissingFile,
    QueryAborted,
    QueryCancelled,
    QueryError,
    QueryStopped,
    StoreUnreachable,
)
from ..store.location import Location
from ..store.log import Snapshot
from .limits import Limits
from .lines import LineForm, rows_of
from .neurons import Some

if TYPE_CHECKING:
    import pandas as pd

Params = Sequence[Any] | Mapping[str, Any] | None

# The packages are there without having run their __init__, which imports pandas and more for half a second.
START = """
import sys
from importlib.util import module_from_spec, spec_from_file_location
channel, root, *sys.path = sys.argv[1:]
sys.modules["numpy"] = None  # pyarrow does without, and starts faster
for name in ("actlake", "actlake.store", "actlake.queries"):
    folder = root + name.removeprefix("actlake").replace(".", "/")
    sys.modules[name] = module_from_spec(
        spec_from_file_location(name, folder + "/__init__.py", submodule_search_locations=[folder])
    )
from actlake.queries import sandbox_child
sandbox_child.main(int(channel))
"""
_LONGEST_LINE = 16 * 2**20  # bytes; what the process says of itself is shorter
_QUIET = {"JE_ARROW_MALLOC_CONF": "background_thread:false", "ARROW_DEFAULT_MEMORY_POOL": "system"}
_LOADER = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
_CREDENTIALS = ("AWS_", "GOOGLE_", "AZURE_", "SSL_CERT_", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "HOME")
_ERRORS = {kind.__name__: kind for kind in (CorruptFile, MissingFile, QueryError, QueryStopped, StoreUnreachable)}


class Sandbox:
    """Answers queries over one snapshot, each in a new process. Safe between threads."""

    def __init__(
        self,
        location: Location,
        snapshot: Snapshot,
        partly_indexed: Mapping[str, Sequence[int]],
        some_neurons: Some = (),
    ) -> None:
        self._location = location
        self._document = store_document(location, snapshot, partly_indexed, some_neurons)
        self._keeps_spare = False
        self._spare: _Child | None = None
        self._lock = threading.Lock()

    def read(self, query: str, params: Params = None, limits: Limits = Limits()) -> "QueryResult":  # noqa: B008  frozen
        """The rows of one statement that reads, as they come. Raises QueryError, QueryStopped, QueryAborted."""
        with self._lock:
            child, self._spare = self._spare, None
        result = QueryResult(child or self._start(), query, params, limits)
        if self._keeps_spare:
            self.keep_spare()
        return result

    def keep_spare(self) -> None:
        """From now on have the next query's process started already: a query then costs milliseconds, and memory is
        held (about 100 MB) while nobody asks."""
        self._keeps_spare = True
        with self._lock:
            if self._spare is None or not self._spare.is_alive():
                self._spare = self._start()

    def over(
        self, snapshot: Snapshot, partly_indexed: Mapping[str, Sequence[int]], some_neurons: Some = ()
    ) -> "Sandbox":
        """The same over another snapshot; this one is closed."""
        other = Sandbox(self._location, snapshot, partly_indexed, some_neurons)
        if self._keeps_spare:
            other.keep_spare()
        self.close()
        return other

    def close(self) -> None:
        """End the spare process; queries that run go on."""
        self._keeps_spare = False
        with self._lock:
            spare, self._spare = self._spare, None
        if spare:
            spare.end()

    def _start(self) -> "_Child":
        return _Child(self._location, self._document)


class QueryResult:
    """Rows of a query, read once, as Arrow record batches while the query runs. Its process is gone when they are read,
    when a limit is reached, or when it is closed.

    Reaching a limit is an error after the rows so far, never a silent cut.
    """

    def __init__(self, child: "_Child", query: str, params: Params, limits: Limits) -> None:
        self._child, self._limits = child, limits
        self._was_read = False
        self._timer = threading.Timer(limits.seconds, child.stop, [QueryStopped("seconds", limits.seconds)])
        self._timer.daemon = True
        try:
            child.send(json.dumps({"query": query, "params": _jsonable(params), "limits": asdict(limits)}))
            self._timer.start()
            header = self._line()
        except BaseException:
            self.close()
            raise
        self.columns: tuple[str, ...] = tuple(header["columns"])
        self.types: tuple[str, ...] = tuple(header["types"])

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        """The rows. Raises QueryError, QueryStopped, QueryCancelled or QueryAborted where they end too early."""
        _, batches = self._stream()
        yield from batches

    def lines(self, form: LineForm) -> Iterator[pa.RecordBatch]:
        """The rows as `line_batches` gives them, made by the query's process, within its memory."""
        return self._stream(form)[1]

    def to_arrow_reader(self, batch_size: int = 0) -> pa.RecordBatchReader:
        """The rows as a stream; `batch_size`, as a DuckDB relation has it, is at most what comes at a time anyway."""
        return pa.RecordBatchReader.from_batches(*self._stream())

    def fetchall(self) -> list[tuple[Any, ...]]:
        """All rows, as Python values."""
        return [row for batch in self._collect()[1] for row in rows_of(batch)]

    def to_arrow_table(self) -> pa.Table:
        schema, batches = self._collect()
        return pa.Table.from_batches(batches, schema)

    def df(self) -> "pd.DataFrame":
        return self.to_arrow_table().to_pandas()

    def cancel(self) -> None:
        """End the query, from any thread; who reads it gets QueryCancelled."""
        self._child.stop(QueryCancelled())

    def close(self) -> None:
        self._timer.cancel()
        self._child.stop(QueryCancelled())
        self._child.end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def _collect(self) -> tuple[pa.Schema, list[pa.RecordBatch]]:
        schema, batches = self._stream()
        kept, size = [], 0
        for batch in batches:
            size += batch.nbytes
            if size > self._limits.memory_bytes:
                self.close()
                raise QueryStopped("memory_bytes", self._limits.memory_bytes)
            kept.append(batch)
        return schema, kept

    def _stream(self, form: LineForm | None = None) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
        if self._was_read:
            raise QueryError("these rows were read already, and are kept nowhere; ask again")
        self._was_read = True
        with self._explained():
            self._child.send(json.dumps({"form": form}))
            self._line()
            reader = ipc.open_stream(self._child.answers)
        return reader.schema, self._batches(reader)

    def _batches(self, reader: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
        left = self._limits.rows
        with self._explained():
            for batch in reader:
                if batch.num_rows > left:
                    if left:
                        yield batch.slice(0, left)
                    raise QueryStopped("rows", self._limits.rows)
                left -= batch.num_rows
                yield batch
            self._line()
        self.close()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Close on any error; one that means that the answer is cut short becomes its reason."""
        try:
            yield
        except BaseException as error:
            cut = isinstance(error, OSError | ValueError) and not isinstance(error, ActlakeError)
            reason = self._child.early_end(self._limits) if cut else error
            self.close()
            raise reason from (error if cut else None)

    def _line(self) -> dict[str, Any]:
        """The next line of JSON; raises the error that it holds."""
        try:
            line = self._child.answers.readline(_LONGEST_LINE)
        except (OSError, ValueError):  # closed meanwhile, by another thread
            line = b""
        if not line.endswith(b"\n"):
            raise self._child.early_end(self._limits)
        body: dict[str, Any] = json.loads(line)
        if "error" in body:
            name, *args = body["error"]
            raise _ERRORS[name](*args) if name in _ERRORS else QueryError(" ".join(map(str, args)))
        return body


class _Child:
    """A started process that waits for its one request, and then for the form in which its rows are wanted."""

    def __init__(self, location: Location, document: bytes) -> None:
        self._reason: ActlakeError | None = None
        self._socket, theirs = socket.socketpair()
        last_words, errors = os.pipe()
        os.set_blocking(last_words, False)
        os.set_blocking(errors, False)  # what does not fit is dropped: nobody reads it before the end
        self._last_words = FileIO(last_words)
        try:
            with theirs, tempfile.TemporaryFile() as store:
                store.write(document)
                store.seek(0)
                self._process = subprocess.Popen(
                    _command(theirs.fileno()),
                    stdin=store,
                    stdout=subprocess.DEVNULL,
                    stderr=errors,
                    env=_environment(location),
                    cwd="/",
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,  # Ctrl-C is for the parent, which ends this
                )
        finally:
            os.close(errors)
        self.answers: IO[bytes] = self._socket.makefile("rb")
        self.end = weakref.finalize(self, _end, self._process, self.answers, self._socket, self._last_words)

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def send(self, line: str) -> None:
        with suppress(OSError):  # it is gone: reading says why
            self._socket.sendall(f"{line}\n".encode(), getattr(socket, "MSG_NOSIGNAL", 0))

    def stop(self, reason: ActlakeError) -> None:
        """Kill the process; who reads its answer is told the reason, the first that there was."""
        self._reason = self._reason or reason
        self._process.kill()

    def early_end(self, limits: Limits) -> ActlakeError:
        """Why the answer is cut short."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=1)
        if self._reason:
            return self._reason
        self._process.kill()
        code, said = self._process.wait(), ""
        with suppress(OSError, ValueError):
            said = (self._last_words.readall() or b"").decode(errors="replace").strip()
        if "bad_alloc" in said or "MemoryError" in said:
            return QueryStopped("memory_bytes", limits.memory_bytes)
        return QueryAborted(code, said.splitlines()[-1] if said else "")


def store_document(
    location: Location, snapshot: Snapshot, partly_indexed: Mapping[str, Sequence[int]], some_neurons: Some = ()
) -> bytes:
    """What the other process needs to know of a snapshot: a line of JSON, and the snapshot as a checkpoint has it."""
    uri = location.root if location.is_local else location.uri
    said = {"uri": uri, "partly_indexed": partly_indexed, "some_neurons": some_neurons}
    return json.dumps(said).encode() + b"\n" + snapshot.checkpoint()


def _end(process: "subprocess.Popen[bytes]", *files: socket.socket | IO[bytes] | FileIO) -> None:
    process.kill()
    process.wait()
    for file in files:
        file.close()


def _command(channel: int) -> list[str]:
    path = [os.path.abspath(folder) for folder in sys.path]
    return [sys.executable, "-I", "-S", "-X", "utf8", "-c", START, str(channel), str(Path(__file__).parents[1]), *path]


def _environment(location: Location) -> dict[str, str]:
    """Nothing of ours, unless the store cannot be reached without."""
    names = _LOADER if location.is_local else (*_LOADER, *_CREDENTIALS)
    return _QUIET | {name: value for name, value in os.environ.items() if name.upper().startswith(names)}


def _jsonable(params: Params) -> Any:
    try:
        body = json.dumps(params, default=_plain)
    except (TypeError, ValueError) as error:
        raise InvalidOption("params", params, "give text, numbers, lists or None; cast in SQL: ?::timestamp") from error
    return json.loads(body)


def _plain(value: Any) -> Any:
    """A NumPy number as Python's."""
    if hasattr(value, "item"):
        return value.item()
    raise TypeError
