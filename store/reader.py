"""Reading rows by row group, for arrays: only the groups that hold a generation (and layers), footers read once.

SQL goes through DuckDB; this is the path for a page or a factorisation that wants one generation as a matrix.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float32

from ..errors import CorruptFile, MissingFile
from .location import Location
from .log import DataFile, Snapshot
from .schema import TABLES


class Reader:
    """Rows of the files at a location. Keeps the footers of the files that it read last; safe between threads."""

    def __init__(self, location: Location, max_footers: int = 512) -> None:
        self.location = location
        self._footer = lru_cache(maxsize=max_footers)(self._read_footer)

    def rows(self, snapshot: Snapshot, table: str, *, columns: Sequence[str] | None = None, **wanted: int) -> pa.Table:
        """Rows with these values of key columns (`generation_id=3, layer=0`), in the table's order; maybe none.

        Raises MissingFile or CorruptFile, with the file's path.
        """
        schema = TABLES[table].arrow
        names = list(columns or schema.names)
        parts = [self._matching(file, names, wanted) for file in snapshot.of(table, **wanted)]
        return pa.concat_tables([pa.schema([schema.field(name) for name in names]).empty_table(), *parts])

    def vectors(self, snapshot: Snapshot, table: str, **wanted: int) -> Float32[np.ndarray, "rows width"]:
        """The vectors of those rows as a float32 matrix, a row each."""
        column = TABLES[table].vector
        assert column, f"{table} has no vector column"
        rows = self.rows(snapshot, table, columns=[column], **wanted)
        if not rows.num_rows:
            return np.empty((0, 0), np.float32)
        return np.concatenate([_matrix(chunk) for chunk in rows[column].chunks if len(chunk)])

    def _matching(self, file: DataFile, columns: Sequence[str], wanted: dict[str, int]) -> pa.Table:
        keys = [name for name in wanted if name not in columns]
        try:
            footer = self._footer(file.path)
            groups = [group for group in range(footer.num_row_groups) if _may_hold(footer.row_group(group), wanted)]
            with self.location.open(file.path) as source:
                rows = pq.ParquetFile(source, metadata=footer).read_row_groups(groups, columns=[*columns, *keys])
        except (pa.ArrowInvalid, OSError) as error:
            if isinstance(error, MissingFile):
                raise
            raise CorruptFile(self.location.full(file.path), _first_line(error)) from error
        for name, value in wanted.items():
            matches = rows[name].to_numpy() == value
            if not matches.all():
                rows = rows.filter(pa.array(matches))
        return rows.select(list(columns))

    def _read_footer(self, path: str) -> pq.FileMetaData:
        with self.location.open(path) as source:
            return pq.read_metadata(source)


def _may_hold(group: pq.RowGroupMetaData, wanted: dict[str, int]) -> bool:
    for column in map(group.column, range(group.num_columns)):
        value, statistics = wanted.get(column.path_in_schema), column.statistics
        known = value is not None and statistics is not None and statistics.has_min_max
        if known and not statistics.min <= value <= statistics.max:
            return False
    return True


def _matrix(chunk: pa.ListArray) -> Float32[np.ndarray, "rows width"]:
    return chunk.flatten().to_numpy().reshape(len(chunk), -1)


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
