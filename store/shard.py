"""Shards: what one finished batch of generations becomes on disk, one Parquet file for each table.

Rows are sorted, and cut into row groups such that one generation of one layer is one small read. Files are encoded and hashed
as they are written; no reader sees them before a commit names them.
"""

import json
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import wait
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float32, Int32, Shaped

from .location import Location
from .log import DataFile
from .parquet import encode, list_column
from .precision import Precision
from .schema import (
    ACTIVATION_VECTORS,
    EMBEDDINGS,
    GENERATIONS,
    GRADIENT_SCORES,
    GRADIENTS,
    HIDDEN_STATES,
    LAYER_PREDICTIONS,
    TOKENS,
    Table,
)
from .threads import threads


@dataclass(frozen=True)
class CapturedTokens:
    """The tokens of one generation, `n` of them; the columns of the `tokens` table.

    Nothing predicted position 0, nor what is not masked in a masked language model's text: there the rank is 0.
    """

    token_id: Int32[np.ndarray, "n"]
    token: Sequence[str]
    char_start: Int32[np.ndarray, "n"]
    char_end: Int32[np.ndarray, "n"]
    is_special: Bool[np.ndarray, "n"]
    logprob: Float32[np.ndarray, "n"]
    rank: Int32[np.ndarray, "n"]
    entropy: Float32[np.ndarray, "n"]
    role: Sequence[str | None] | None = None


@dataclass(frozen=True)
class CapturedPredictions:
    """What a model would say at each of `n` positions after one layer: `k` tokens, the likeliest first, and how likely the
    one is that came next.

    Where nothing came next the rank is 0.
    """

    rank: Int32[np.ndarray, "n"]
    probability: Float32[np.ndarray, "n"]
    top_token_ids: Int32[np.ndarray, "n k"]
    top_tokens: Shaped[np.ndarray, "n k"]
    top_probabilities: Float32[np.ndarray, "n k"]


@dataclass(frozen=True)
class CapturedGeneration:
    """One generation of `n` tokens, `p` of them the prompt, and what was recorded of it (None where it was not).

    `activations`, `hidden_states` and `layer_predictions` are by layer, and of these `positions` alone, ascending, unless they
    are None. `gradients[i]` is of the target of output position `p + i` with respect to each of the embeddings before it; where
    `masked` gives positions, of the target of the token at masked position `masked[i]`, with respect to each of the `n`
    embeddings. `gradient_scores[i]` has its scores, by the columns of that table.
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
    activations: Mapping[int, Float32[np.ndarray, "m neurons"]] | None = None
    positions: Int32[np.ndarray, "m"] | None = None
    gradients: Sequence[Float32[np.ndarray, "_ d_model"]] | None = None
    gradient_scores: Sequence[Float32[np.ndarray, "_ 4"]] | None = None
    masked: Sequence[int] | None = None
    source: Mapping[str, Any] | None = None
    hidden_states: Mapping[int, Float32[np.ndarray, "m d_hidden"]] | None = None
    layer_predictions: Mapping[int, CapturedPredictions] | None = None

    @property
    def n_tokens(self) -> int:
        return len(self.tokens.token_id)

    @property
    def layer_positions(self) -> Int32[np.ndarray, "_"]:
        """The positions of what is by layer."""
        return np.arange(self.n_tokens, dtype=np.int32) if self.positions is None else self.positions


def write_shard(
    location: Location,
    generations: Sequence[CapturedGeneration],
    precision: Precision,
    on_encoded: Callable[[], object] | None = None,
) -> list[DataFile]:
    """Write all tables of a batch; gives the files, for a commit to name.

    `on_encoded` is called when all is computed, and only waiting for the disk or the network is left. Raises PrecisionOverflow
    when a vector does not fit the precision, or DiskFull, leaving nothing.
    """
    generations = sorted(generations, key=lambda generation: generation.generation_id)
    tables = ((table, _rows(table, generations)) for table in _RECORDS)
    with ExitStack() as drafts:
        files = [
            drafts.enter_context(_drafted(location, table, rows, precision=precision))
            for table, rows in tables
            if rows is not None
        ]
        if on_encoded:
            on_encoded()
        return all_or_none(location, (appear() for appear in files))


def all_or_none(location: Location, files: Iterable[DataFile]) -> list[DataFile]:
    """The files, as they are written; those that were are deleted when one cannot be, or on Ctrl-C."""
    written = []
    try:
        for file in files:
            written.append(file)
    except BaseException:
        for file in written:
            with suppress(OSError):
                location.delete(file.path)
        raise
    return written


def write_table(
    location: Location,
    table: Table,
    rows: pa.Table | Iterable[pa.Table],
    *,
    indexed: str = "",
    counted: bool = False,
    precision: Precision = "float32",
) -> DataFile:
    """Write rows, sorted as the table wants, as one new file of it; gives the file, for a commit to name.

    Of rows that come in parts one is held at a time; vectors are rounded to the precision. `indexed` names the layers of
    token-major vectors that the projection has already, `counted` says that it has their statistics. Raises PrecisionOverflow,
    leaving nothing.
    """
    with _drafted(location, table, rows, indexed=indexed, counted=counted, precision=precision) as appear:
        return appear()


def write_tables(location: Location, tables: Sequence[tuple[Table, Iterable[pa.Table]]]) -> list[DataFile]:
    """As `write_table`, several files, made in threads, as are their rows: all of them or none."""
    with ExitStack() as drafts:
        drafting = [threads().submit(drafts.enter_context, _drafted(location, table, rows)) for table, rows in tables]
        try:
            wait(drafting)
        finally:  # on Ctrl-C none may come after the others are gone
            for each in drafting:
                each.cancel()
            wait(drafting)
        return all_or_none(location, (appear.result()() for appear in drafting))


@contextmanager
def _drafted(
    location: Location,
    table: Table,
    rows: pa.Table | Iterable[pa.Table],
    *,
    indexed: str = "",
    counted: bool = False,
    precision: Precision = "float32",
) -> Iterator[Callable[[], DataFile]]:
    """As `write_table`, in two steps: within it all is encoded, and what it gives has the file appear."""
    n_rows, ranges = 0, dict[str, tuple[int, int]]()

    def seen() -> Iterator[pa.Table]:
        nonlocal n_rows
        for part in [rows] if isinstance(rows, pa.Table) else rows:
            n_rows += part.num_rows
            for name in table.key:
                lows, highs = zip(*filter(None, (ranges.get(name), _range(part[name]))), strict=True)
                ranges[name] = min(lows), max(highs)
            yield part
            del part  # before the next is made

    with location.draft(table.name) as draft:
        file = encode(table, seen(), draft.add, precision)

        def appear() -> DataFile:
            first, last = ranges[table.key[0]]
            path = f"{table.name}/{first:09d}-{last:09d}-{uuid.uuid4().hex}.parquet"
            if not draft.appear(path):
                raise FileExistsError(f"{location.full(path)!r} is there already")
            facts = (file.size, file.sha256, file.footer_bytes, file.footer_crc32)
            return DataFile(table.name, path, n_rows, *facts, ranges, indexed, counted)

        yield appear


def _range(column: pa.ChunkedArray) -> tuple[int, int]:
    values = column.to_numpy()
    return int(values.min()), int(values.max())


def _rows(table: Table, generations: Sequence[CapturedGeneration]) -> pa.Table | None:
    parts = [part for part in map(_RECORDS[table], generations) if part is not None]
    return pa.concat_tables(parts) if parts else None


def _generation_rows(generation: CapturedGeneration) -> pa.Table:
    row = {name: getattr(generation, name) for name in GENERATIONS.arrow.names}
    row |= {"metadata": json.dumps(dict(generation.metadata))}
    row |= {"source": json.dumps(dict(generation.source))} if generation.source else {}
    return pa.Table.from_pylist([row], schema=GENERATIONS.arrow)


def _token_rows(generation: CapturedGeneration) -> pa.Table:
    n, tokens = generation.n_tokens, generation.tokens
    position = np.arange(n, dtype=np.int32)
    unpredicted = position == 0 if generation.masked is None else tokens.rank == 0
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
        logprob=pa.array(tokens.logprob, mask=unpredicted),
        rank=pa.array(tokens.rank, mask=unpredicted),
        entropy=pa.array(tokens.entropy, mask=unpredicted),
        role=pa.array(tokens.role or [None] * n, pa.string()),
    )


def _embedding_rows(generation: CapturedGeneration) -> pa.Table | None:
    if generation.embeddings is None:
        return None
    n = generation.n_tokens
    return _table(
        EMBEDDINGS,
        generation_id=np.full(n, generation.generation_id),
        position=np.arange(n),
        embedding=list_column(generation.embeddings),
    )


def _gradient_rows(generation: CapturedGeneration) -> pa.Table | None:
    if not generation.gradients:
        return None
    return _table(
        GRADIENTS,
        **_pairs(generation),
        gradient=list_column(np.concatenate(generation.gradients)),
    )


def _gradient_score_rows(generation: CapturedGeneration) -> pa.Table | None:
    if not generation.gradient_scores:
        return None
    columns = np.concatenate(generation.gradient_scores).T
    names = [column.name for column in GRADIENT_SCORES.columns if not column.key]
    return _table(GRADIENT_SCORES, **_pairs(generation), **dict(zip(names, columns, strict=True)))


def _pairs(generation: CapturedGeneration) -> dict[str, np.ndarray]:
    """The keys of each output position with each position before it; of each masked position with all."""
    outputs = n_inputs = np.arange(generation.n_prompt_tokens, generation.n_tokens)
    if generation.masked is not None:
        outputs = np.array(generation.masked)
        n_inputs = np.full(len(outputs), generation.n_tokens)
    return {
        "generation_id": np.full(n_inputs.sum(), generation.generation_id),
        "output_position": np.repeat(outputs, n_inputs),
        "input_position": np.concatenate([np.arange(n) for n in n_inputs]),
    }


def _activation_rows(generation: CapturedGeneration) -> pa.Table | None:
    return _rows_by_layer(ACTIVATION_VECTORS, generation, generation.activations)


def _hidden_state_rows(generation: CapturedGeneration) -> pa.Table | None:
    return _rows_by_layer(HIDDEN_STATES, generation, generation.hidden_states)


def _rows_by_layer(
    table: Table,
    generation: CapturedGeneration,
    recorded: Mapping[int, Float32[np.ndarray, "n width"]] | None,
) -> pa.Table | None:
    if recorded is None or not len(generation.layer_positions):
        return None
    assert table.vector, f"{table.name} has no vector column"
    layers = sorted(recorded)
    vectors = [list_column(recorded[layer]) for layer in layers]
    return _table(table, **_layer_keys(generation, layers), **{table.vector: pa.chunked_array(vectors)})


def _prediction_rows(generation: CapturedGeneration) -> pa.Table | None:
    if generation.layer_predictions is None or not len(generation.layer_positions):
        return None
    layers = sorted(generation.layer_predictions)
    parts = [generation.layer_predictions[layer] for layer in layers]
    rank = np.concatenate([part.rank for part in parts])
    probability = np.concatenate([part.probability for part in parts])
    lists = {
        name: _lists(np.concatenate([getattr(part, name) for part in parts]))
        for name in ("top_token_ids", "top_tokens", "top_probabilities")
    }
    return _table(
        LAYER_PREDICTIONS,
        **_layer_keys(generation, layers),
        rank=pa.array(rank, mask=rank == 0),
        probability=pa.array(probability, mask=rank == 0),
        **lists,
    )


def _layer_keys(generation: CapturedGeneration, layers: Sequence[int]) -> dict[str, np.ndarray]:
    """The keys of each layer with each of its positions."""
    positions = generation.layer_positions
    n = len(positions)
    return {
        "generation_id": np.full(n * len(layers), generation.generation_id),
        "position": np.tile(positions, len(layers)),
        "layer": np.repeat(layers, n),
    }


def _lists(values: np.ndarray) -> pa.ListArray:
    """Rows of a matrix of numbers or texts as a column of lists."""
    rows, width = values.shape
    return pa.ListArray.from_arrays(np.arange(rows + 1, dtype=np.int32) * np.int32(width), pa.array(values.reshape(-1)))


_RECORDS = {
    GENERATIONS: _generation_rows,
    TOKENS: _token_rows,
    EMBEDDINGS: _embedding_rows,
    GRADIENTS: _gradient_rows,
    GRADIENT_SCORES: _gradient_score_rows,
    ACTIVATION_VECTORS: _activation_rows,
    HIDDEN_STATES: _hidden_state_rows,
    LAYER_PREDICTIONS: _prediction_rows,
}


def _table(table: Table, **columns: np.ndarray | pa.Array | pa.ChunkedArray) -> pa.Table:
    return pa.table(columns).select(table.arrow.names).cast(table.arrow)
