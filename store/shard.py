"""Shards: what one finished batch of generations becomes on disk, one Parquet file for each table.

Rows are sorted, and cut into row groups such that one generation of one layer is one small read. Files are encoded in
memory, hashed and written whole; no reader sees them before a commit names them.
"""

import hashlib
import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Bool, Float32, Int32

from .location import Location
from .log import DataFile
from .precision import Precision, rounded
from .schema import ACTIVATION_VECTORS, EMBEDDINGS, GENERATIONS, GRADIENTS, TOKENS, VECTOR, Table

MAX_ROWS_PER_GROUP = 8192


@dataclass(frozen=True)
class CapturedTokens:
    """The tokens of one generation, `n` of them; the columns of the `tokens` table (NaN and 0 at position 0)."""

    token_id: Int32[np.ndarray, "n"]
    token: Sequence[str]
    char_start: Int32[np.ndarray, "n"]
    char_end: Int32[np.ndarray, "n"]
    is_special: Bool[np.ndarray, "n"]
    logprob: Float32[np.ndarray, "n"]
    rank: Int32[np.ndarray, "n"]
    entropy: Float32[np.ndarray, "n"]


@dataclass(frozen=True)
class CapturedGeneration:
    """One generation of `n` tokens, `p` of them the prompt, and what was recorded of it (None where it was not).

    `activations` is by layer. `gradients[i]` is of the logit of output position `p + i` with respect to each of the
    embeddings before it.
    """

    generation_id: int
    run_id: int
    prompt_index: int
    prompt: str
    completion: str
    n_prompt_tokens: int
    finish_reason: str
    metadata: Mapping[str, Any]
    tokens: CapturedTokens
    embeddings: Float32[np.ndarray, "n d_model"] | None = None
    activations: Mapping[int, Float32[np.ndarray, "n d_ff"]] | None = None
    gradients: Sequence[Float32[np.ndarray, "_ d_model"]] | None = None

    @property
    def n_tokens(self) -> int:
        return len(self.tokens.token_id)


def write_shard(location: Location, generations: Sequence[CapturedGeneration], precision: Precision) -> list[DataFile]:
    """Write all tables of a batch; gives the files, for a commit to name.

    Raises PrecisionOverflow when a vector does not fit the precision, before anything is written.
    """
    generations = sorted(generations, key=lambda generation: generation.generation_id)
    tables = [(table, _rows(table, generations, precision)) for table in _RECORDS]
    return [write_table(location, table, rows) for table, rows in tables if rows is not None]


def write_table(location: Location, table: Table, rows: pa.Table) -> DataFile:
    """Write rows, sorted as the table wants, as one new file of it; gives the file, for a commit to name."""
    data = encode(table, rows)
    ranges = {name: _range(rows[name]) for name in table.key}
    first, last = ranges[table.key[0]]
    path = f"{table.name}/{first:09d}-{last:09d}-{uuid.uuid4().hex}.parquet"
    location.write(path, data)
    return DataFile(table.name, path, rows.num_rows, data.size, hashlib.sha256(data).hexdigest(), ranges)


def encode(table: Table, rows: pa.Table) -> pa.Buffer:
    """Rows as a Parquet file: zstd, vectors split by byte so that the bytes which rounding cleared cost nothing."""
    sink = pa.BufferOutputStream()
    vector = f"{table.vector}.list.element" if table.vector else None
    writer = pq.ParquetWriter(
        sink,
        table.arrow,
        compression="zstd",
        use_dictionary=[name for name in table.arrow.names if name != table.vector],
        use_byte_stream_split=[vector] if vector else False,
        write_statistics=list(table.arrow.names) if not table.vector else list(table.key),
        store_schema=False,
    )
    with writer:
        for group in _row_groups(table, rows):
            writer.write_table(group, row_group_size=MAX_ROWS_PER_GROUP)
    return sink.getvalue()


def _row_groups(table: Table, rows: pa.Table) -> Iterator[pa.Table]:
    """Slices in which no column of the table's `row_group` changes; all rows where it names none."""
    changes = np.zeros(max(rows.num_rows - 1, 0), bool)
    for name in table.row_group:
        values = rows[name].to_numpy()
        changes |= values[1:] != values[:-1]
    bounds = [0, *(np.flatnonzero(changes) + 1).tolist(), rows.num_rows]
    for start, end in pairwise(bounds):
        yield rows.slice(start, end - start)


def _range(column: pa.ChunkedArray) -> tuple[int, int]:
    values = column.to_numpy()
    return int(values.min()), int(values.max())


def _rows(table: Table, generations: Sequence[CapturedGeneration], precision: Precision) -> pa.Table | None:
    parts = [part for generation in generations if (part := _RECORDS[table](generation, precision)) is not None]
    return pa.concat_tables(parts) if parts else None


def _generation_rows(generation: CapturedGeneration, _: Precision) -> pa.Table:
    names = [name for name in GENERATIONS.arrow.names if name != "metadata"]
    row = {name: getattr(generation, name) for name in names} | {"metadata": json.dumps(dict(generation.metadata))}
    return pa.Table.from_pylist([row], schema=GENERATIONS.arrow)


def _token_rows(generation: CapturedGeneration, _: Precision) -> pa.Table:
    n, tokens = generation.n_tokens, generation.tokens
    position = np.arange(n, dtype=np.int32)
    first = position == 0  # nothing predicted it
    return _table(
        TOKENS,
        generation_id=np.full(n, generation.generation_id),
        position=position,
        token_id=tokens.token_id,
        token=pa.array(tokens.token, pa.string()),
        char_start=tokens.char_start,
        char_end=tokens.char_end,
        is_generated=position >= generation.n_prompt_tokens,
        is_special=tokens.is_special,
        logprob=pa.array(tokens.logprob, mask=first),
        rank=pa.array(tokens.rank, mask=first),
        entropy=pa.array(tokens.entropy, mask=first),
    )


def _embedding_rows(generation: CapturedGeneration, precision: Precision) -> pa.Table | None:
    if generation.embeddings is None:
        return None
    n = generation.n_tokens
    return _table(
        EMBEDDINGS,
        generation_id=np.full(n, generation.generation_id),
        position=np.arange(n),
        embedding=_vectors(generation.embeddings, precision, f"an embedding of generation {generation.generation_id}"),
    )


def _gradient_rows(generation: CapturedGeneration, precision: Precision) -> pa.Table | None:
    if not generation.gradients:
        return None
    outputs = np.arange(generation.n_prompt_tokens, generation.n_tokens)
    return _table(
        GRADIENTS,
        generation_id=np.full(outputs.sum(), generation.generation_id),
        output_position=np.repeat(outputs, outputs),
        input_position=np.concatenate([np.arange(output) for output in outputs]),
        gradient=_vectors(
            np.concatenate(generation.gradients), precision, f"a gradient of generation {generation.generation_id}"
        ),
    )


def _activation_rows(generation: CapturedGeneration, precision: Precision) -> pa.Table | None:
    if generation.activations is None:
        return None
    n = generation.n_tokens
    return pa.concat_tables(
        _table(
            ACTIVATION_VECTORS,
            generation_id=np.full(n, generation.generation_id),
            position=np.arange(n),
            layer=np.full(n, layer),
            activation=_vectors(
                values, precision, f"an activation of generation {generation.generation_id}, layer {layer}"
            ),
        )
        for layer, values in sorted(generation.activations.items())
    )


_RECORDS = {
    GENERATIONS: _generation_rows,
    TOKENS: _token_rows,
    EMBEDDINGS: _embedding_rows,
    GRADIENTS: _gradient_rows,
    ACTIVATION_VECTORS: _activation_rows,
}


def _table(table: Table, **columns: np.ndarray | pa.Array) -> pa.Table:
    return pa.table(columns).select(table.arrow.names).cast(table.arrow)


def _vectors(values: Float32[np.ndarray, "rows width"], precision: Precision, what: str) -> pa.ListArray:
    """Rows of a matrix as a list column, not copied."""
    rows, width = values.shape
    flat = pa.array(rounded(values, precision, what=what).reshape(-1))
    return pa.ListArray.from_arrays(np.arange(rows + 1, dtype=np.int32) * width, flat, type=VECTOR)
