"""The tables for other libraries, as they lie in their files: Arrow datasets, and streaming datasets of Hugging Face."""

import importlib
from collections.abc import Iterator, Sequence
from functools import reduce
from operator import and_
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from ..errors import InvalidOption, MissingLibrary
from ..store.footers import Footers
from ..store.location import Location
from ..store.log import DataFile, Snapshot
from ..store.schema import TABLES, VECTOR

if TYPE_CHECKING:
    from datasets import IterableDatasetDict

_BATCH_ROWS = 256  # a row of `activation_vectors` can have 100 kB


def arrow_dataset(location: Location, snapshot: Snapshot, table: str) -> pads.Dataset:
    """A table's files as a dataset, with what the log knows of each: a filter on key columns leaves the others closed.

    Raises InvalidOption for a name that is no table, MissingFile or CorruptFile for a file whose footer is damaged. Where a
    column is a list, but no vector, the files are read whole and any damage is found: pyarrow by itself may cut a list short
    (decision 008).
    """
    if table not in TABLES:
        raise InvalidOption("table", table, f"choose one of {', '.join(TABLES)} (views and queries: `sql`, `export`)")
    files, footers = snapshot.of(table), Footers(location)
    footers.check(files)
    if any(pa.types.is_list(column.type) and column.type != VECTOR for column in TABLES[table].columns):
        footers.check_bytes(files)
    return _dataset(location, table, files)


def hugging_face_datasets(
    location: Location, snapshot: Snapshot, tables: Sequence[str] | None = None
) -> "IterableDatasetDict":
    """Tables as streaming datasets, by name; a file is a shard of its dataset. Rows are read when one is iterated.

    Raises as `arrow_dataset` does; MissingLibrary without Hugging Face's `datasets`.
    """
    try:
        datasets = importlib.import_module("datasets")
    except ImportError as error:
        raise MissingLibrary("datasets", "to_datasets", "datasets") from error
    uri = location.root if location.is_local else location.uri
    found = {}
    for table in TABLES if tables is None else tables:
        arrow_dataset(location, snapshot, table)
        files: list[DataFile | None] = [*snapshot.of(table)]
        found[table] = datasets.IterableDataset.from_generator(
            _rows,
            features=datasets.Features.from_arrow_schema(TABLES[table].arrow),
            gen_kwargs={"uri": uri, "table": table, "files": files or [None]},  # no shard at all is refused
        )
    return datasets.IterableDatasetDict(found)


def _rows(uri: str, table: str, files: Sequence[DataFile | None]) -> Iterator[dict[str, Any]]:
    """The rows of some files; its arguments, and so a dataset, can be sent to other processes."""
    there = [file for file in files if file]
    for batch in _dataset(Location.of(uri), table, there).to_batches(batch_size=_BATCH_ROWS):
        yield from batch.to_pylist()


def _dataset(location: Location, table: str, files: Sequence[DataFile]) -> pads.Dataset:
    parquet = pads.ParquetFileFormat()
    fragments = [
        parquet.make_fragment(f"{location.root}/{file.path}", location.filesystem, partition_expression=_holds(file))
        for file in files
    ]
    return pads.FileSystemDataset(fragments, TABLES[table].arrow, parquet, location.filesystem)


def _holds(file: DataFile) -> pc.Expression:
    """What is true of all rows of a file."""
    bounds = [(pc.field(n) >= first) & (pc.field(n) <= last) for n, (first, last) in file.ranges.items()]
    return reduce(and_, bounds, pc.scalar(True))
