"""A table, a view or a query as one file, which appears under its name when it is whole."""

import os
import re
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from ..errors import InvalidOption
from .connection import Database, check_reads_only
from .formats import Format, write_rows

SUFFIXES: Mapping[str, Format] = {
    ".parquet": "parquet",
    ".csv": "csv",
    ".jsonl": "json",
    ".ndjson": "json",
    ".arrow": "arrow",
    ".feather": "arrow",
}
"""The format of a file by its name."""

_NAME = re.compile(r"\w+(\.\w+)?")


def export(
    database: Database,
    source: str,
    path: str | os.PathLike[str],
    format: Format | None = None,  # noqa: A002  as in DuckDB
) -> None:
    """Write a table, a view or a query's rows to a file, as they come, in the format that its suffix says unless told.

    Raises InvalidOption, QueryError (a statement that does not only read is refused), MissingFile, CorruptFile.
    """
    target = Path(path)
    how = format or SUFFIXES.get(target.suffix.lower())
    if how is None:
        raise InvalidOption("path", os.fspath(path), f"end it in {', '.join(SUFFIXES)}, or name a format")
    if how not in SUFFIXES.values():  # a table to read shows only some of the rows
        raise InvalidOption("format", how, f"choose one of {', '.join(sorted(set(SUFFIXES.values())))}")
    query = f"from {source.strip()}" if _NAME.fullmatch(source.strip()) else source
    check_reads_only(database.opened().cursor(), query)
    with database.reading(query) as rows, whole_file(target) as output:
        write_rows(rows, output, how)


@contextmanager
def whole_file(path: Path, option: str = "output") -> Iterator[IO[bytes]]:
    """A file that appears under its name when it is whole; nothing of it stays when writing fails.

    Raises InvalidOption, naming `option`, when it cannot be written.
    """
    if path.exists() and not path.is_file():  # /dev/null, a pipe: nothing to keep whole
        with path.open("wb") as file:
            yield file
        return
    target = path.resolve()
    draft = target.with_name(f".{target.name}.{uuid.uuid4().hex}.draft")
    try:
        try:  # inside of the other: Ctrl-C can come as soon as the file is there
            file = draft.open("xb")
        except OSError as error:
            raise InvalidOption(option, os.fspath(path), f"it cannot be written: {error.strerror}") from error
        with file:
            yield file
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)
