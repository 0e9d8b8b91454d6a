"""The process that answers one query of a sandbox: it reads the store's files, writes rows to its socket, and ends.

It is started by `sandbox.py` with an empty environment, and imports what a query needs and no more: no package's
`__init__` of actlake runs, no pandas, no NumPy. What it may do is taken from it step by step: files and network before
it opens DuckDB, DuckDB's settings before it sees the query.
"""

import json
import os
import socket
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import IO, Any
from zoneinfo import TZPATH

import duckdb
import fsspec
import pyarrow as pa
from pyarrow import ipc

from ..errors import ActlakeError, QueryError, QueryStopped
from ..store.footers import Footers
from ..store.location import Location
from ..store.log import Snapshot
from .confine import landlock, limit_files_and_dumps, limit_memory_and_time
from .connection import Database, check_reads_only, empty_files
from .files import PROTOCOL, StoreFiles
from .limits import Limits
from .lines import LINES, LineForm, cut, line_batches
from .messages import query_error, says_of_no_file
from .plan import scans_of

BATCH_ROWS = 1024
"""Rows that leave the process at a time: few, because a row of `activation_vectors` can have 100 kB."""

MOST_TEXT = 2000  # characters of an error's text, or of a type's
MOST_NAMES = 1_000_000  # characters

_DUCKDB_SHARE = 0.75  # of the memory; the rest is for what DuckDB does not count: results, Arrow, the interpreter
_GRACE_S = 5.0  # the parent is the one that stops a query in time; these stop it when the parent cannot
_SYSTEM_FILES = ("/proc/self/cgroup", "/sys/fs/cgroup")  # DuckDB looks how much memory there is
_REMOTE_FILES = ("/etc", "/usr", "/lib", "/lib64", "/proc/self", "/dev/urandom", "~/.aws", "~/.config/gcloud")


Form = SimpleQueue[LineForm | None]


def main(channel_fd: int) -> None:
    """Read the store's description from standard input, then one request from the socket; answer it; end."""
    with socket.socket(fileno=channel_fd) as channel, channel.makefile("rb") as requests:
        location, snapshot, known = store_from(sys.stdin.buffer.read())
        confine(location)
        files = StoreFiles(location, list(snapshot.files), empty_files())
        check = Footers(location, files.native)
        database, problem = Database(snapshot, **known, files=files, check=check, name_of=files.url), None
        try:
            database.opened()
            scans_of("select 1")  # makes what plans are made over
        except Exception as error:
            problem = error
        request = json.loads(requests.readline() or "null")
        if request is None:  # a spare that nobody needs any more
            return
        form: Form = SimpleQueue()
        threading.Thread(target=_listen, args=(requests, form), daemon=True).start()
        limits = Limits(**request["limits"])
        with channel.makefile("wb") as output:
            try:
                if problem:
                    raise problem
                lock(database.opened(), limits)
                answer(database, request["query"], request["params"], form, output)
                _say(output)
            except Exception as error:
                if says_of_no_file(error):
                    error = named(error, database, request)
                said = error_of(error, files, limits, None if problem else database.opened())
                _say(output, error=[type(said).__name__, *map(_cut, said.args)])
        os._exit(0)  # DuckDB's threads and caches need no farewell


def store_from(document: bytes) -> tuple[Location, Snapshot, dict[str, Any]]:
    """The location, the snapshot and what a Database is to know of it, as `sandbox.store_document` wrote them down."""
    head, _, checkpoint = document.partition(b"\n")
    body = json.loads(head)
    return Location.of(body.pop("uri")), Snapshot.parse(checkpoint, "standard input"), body


def confine(location: Location) -> None:
    """Leave this process the store's files to read, and what its libraries need."""
    limit_files_and_dumps()
    folders = [Path(module.__file__ or "").parent for module in (os, duckdb, pa, fsspec)]
    readable = [*map(str, folders), str(Path(__file__).parent), *_SYSTEM_FILES, *TZPATH]
    if location.is_local:
        readable.append(location.root)
    else:
        readable += [os.path.expanduser(path) for path in _REMOTE_FILES]
    landlock(readable, network=not location.is_local)


def lock(connection: duckdb.DuckDBPyConnection, limits: Limits) -> None:
    """Leave a connection the store's files, and bounded memory and time; nothing of it can be changed afterwards."""
    limit_memory_and_time(limits.memory_bytes, (limits.seconds + _GRACE_S) * (os.cpu_count() or 1))
    connection.execute("set memory_limit = ?", [f"{int(limits.memory_bytes * _DUCKDB_SHARE)}B"])
    connection.execute("set max_execution_time = ?", [int((limits.seconds + _GRACE_S) * 1000)])
    lock_settings(connection)


def lock_settings(connection: duckdb.DuckDBPyConnection) -> None:
    """DuckDB's own part of the sandbox: one file system, no extension, no Python variable, no setting to change."""
    connection.execute("set temp_directory = ''")
    connection.execute("set autoinstall_known_extensions = false")
    connection.execute("set autoload_known_extensions = false")
    connection.execute("set python_enable_replacements = false")
    connection.execute("set disabled_filesystems = 'LocalFileSystem'")
    connection.execute("set allowed_directories = [?]", [f"{PROTOCOL}://"])
    connection.execute("set enable_external_access = false")
    connection.execute("set lock_configuration = true")


def answer(
    database: Database,
    query: str,
    params: Sequence[Any] | Mapping[str, Any] | None,
    form: Form,
    output: IO[bytes],
) -> None:
    """Write a line with the columns, a line when the rows begin, and the rows as an Arrow stream, as they come.

    They begin when it is known in what form they are wanted: as they are, or as lines of text.
    """
    check_reads_only(database.opened().cursor(), query)
    relation = database.sql(query, params)
    columns, types = relation.columns, [_cut(str(kind)) for kind in relation.types]
    if sum(map(len, [*columns, *types])) > MOST_NAMES:
        said = f"its columns' names and types have more than {MOST_NAMES:,} characters"
        raise QueryError(f"{said}; ask for fewer columns, or name them with `as`")
    _say(output, columns=columns, types=types)
    wanted = form.get()
    reader = relation.to_arrow_reader(BATCH_ROWS)
    if wanted:
        _look_for_pandas()
    schema, batches = (LINES, line_batches(reader, wanted)) if wanted else (reader.schema, reader)
    _say(output)
    with ipc.new_stream(output, schema) as stream:
        for batch in batches:
            stream.write_batch(batch)
            output.flush()


def named(error: Exception, database: Database, request: Mapping[str, Any]) -> Exception:
    """The damaged file that a query met, if one is."""
    try:
        database.check_bytes(request["query"], request["params"])
    except ActlakeError as damaged:
        return damaged
    return error


def error_of(
    error: Exception, files: StoreFiles, limits: Limits, connection: duckdb.DuckDBPyConnection | None
) -> ActlakeError:
    """What went wrong, as one of ours."""
    if isinstance(error, ActlakeError):
        return error
    text = str(error)
    if isinstance(error, MemoryError | duckdb.OutOfMemoryException) or text.startswith("Out of Memory Error"):
        return QueryStopped("memory_bytes", limits.memory_bytes)
    if text.startswith("INTERRUPT Error"):
        return QueryStopped("seconds", limits.seconds)
    if isinstance(files.failure, ActlakeError):
        return files.failure
    if files.failure:  # DuckDB's text would be a traceback
        error = files.failure
    return query_error(error, connection)


def _cut(argument: Any) -> Any:
    return cut(argument, MOST_TEXT) if isinstance(argument, str) else argument


def _say(output: IO[bytes], **body: Any) -> None:
    output.write(f"{json.dumps(body)}\n".encode())
    output.flush()


def _look_for_pandas() -> None:
    """Have pyarrow do what it does once, at the first timestamp: it looks for pandas, which cannot be read here."""
    with suppress(OSError):
        pa.scalar(0, pa.timestamp("ns")).as_py()


def _listen(requests: IO[bytes], form: Form) -> None:
    """Take the form of the rows, and end when the parent's end of the socket closes: it is gone, or wants no more rows."""
    if line := requests.readline():
        form.put(json.loads(line)["form"])
        requests.read(1)
    os._exit(1)
