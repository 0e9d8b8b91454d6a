"""A store opened for reading: SQL over all of it, and its generations one by one."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from threading import Event
from typing import TYPE_CHECKING, Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow.dataset as pads

from ..errors import InvalidOption, PromptsNotKept, RunNotFound
from ..store import (
    TABLES,
    Batch,
    Footers,
    Location,
    Log,
    Positions,
    Reader,
    Snapshot,
    partly_indexed,
    save_factorization,
    save_label,
)
from ..store.neurons import Some, some_neurons
from ..store.shapes import shape_of
from .catalog import dot_command
from .connection import Database, empty_files
from .corpus_tokens import texts_of
from .export import export
from .factor_corpus import IN_MEMORY, factors_of_slice
from .factor_slice import Slice
from .factors import FactorMethod, FactorOptions, Factors, Negatives, Solver, Which
from .files import GLOB, StoreFiles
from .formats import Format
from .generation import Generation, generation_not_found
from .interchange import arrow_dataset, hugging_face_datasets
from .labels import labelled
from .limits import Limits
from .listing import Found, Order, find_generations, metadata_values
from .neuron import Neuron, neuron_of
from .neuron_values import NeuronReader
from .provenance import Provenance, parsed, prompt_record
from .responding import responding
from .sandbox import QueryResult, Sandbox
from .saved import factorization_of, factors_of
from .script import views_script
from .selection import selection_query
from .similarity import LayerSample, LayerValues, layer_similarity, neuron_similarity
from .work import Progress

if TYPE_CHECKING:
    from datasets import IterableDatasetDict


class Store:
    """A snapshot of a store, and what can be asked of it. Commits made later are seen after `refresh()`."""

    def __init__(self, uri: str | os.PathLike[str], *, at: int | None = None) -> None:
        """Open a store, as it was after commit `at` if one is named. Creates nothing.

        Raises StoreNotFound, CommitNotFound, CorruptLog or FormatTooNew.
        """
        self.location = Location.of(uri)
        self._log = Log(self.location)
        self._reader = Reader(self.location)
        self.snapshot = self._log.snapshot(at=at)
        self._at = at
        self._opened: Database | None = None
        self._sandbox: Sandbox | None = None
        self._neuron_reader: NeuronReader | None = None

    @property
    def uri(self) -> str:
        return self.location.uri

    @property
    def is_of_the_past(self) -> bool:
        """Whether it was opened `at` a commit: it shows no later one, and nothing can be saved through it."""
        return self._at is not None

    def refresh(self) -> "Store":
        """See what was committed since (not if the store was opened `at` a commit); what is in hand keeps what it saw."""
        if self._at is None:
            newest = self._log.snapshot(after=self.snapshot)
            if newest.version != self.snapshot.version:
                self.snapshot, self._opened = newest, None
                self._sandbox = self._sandbox and self._sandbox.over(newest, *self._known(newest))
        return self

    def sql(self, query: str, params: Sequence[Any] | Mapping[str, Any] | None = None) -> duckdb.DuckDBPyRelation:
        """A DuckDB relation over the tables and views (`.df()`, `.pl()`, `.arrow()`, `.fetchnumpy()` give its rows).

        This is all of DuckDB, in your process, with your rights; values go in `params` (`?` or `$name`).
        Raises QueryError, with DuckDB's message in one line; MissingFile or CorruptFile. An error while its rows are fetched is
        DuckDB's own, which does not name the file where a page's header is damaged; `reading` always does.
        """
        return self._database.sql(query, params)

    def reading(
        self, query: str, params: Sequence[Any] | Mapping[str, Any] | None = None
    ) -> AbstractContextManager[duckdb.DuckDBPyRelation]:
        """As `sql`, for rows that are fetched inside of `with`: errors then are QueryError, or CorruptFile with the file's name.

        Costs nothing more, unless a page cannot be read: then the files that the query can need are read to find it.
        """
        return self._database.reading(query, params)

    def connect(self) -> duckdb.DuckDBPyConnection:
        """A DuckDB connection with the tables and views, for what `sql` has no door to: your own frames, `register`, …"""
        return self._database.connect()

    def read_sql(
        self,
        query: str,
        params: Sequence[Any] | Mapping[str, Any] | None = None,
        *,
        limits: Limits = Limits(),  # noqa: B008  frozen
    ) -> QueryResult:
        """The rows of SQL that someone else wrote, as they come: one statement that reads, in a process of its own that
        can read this store's files, and nothing else. `.tables`, `.schema` and `.schema NAME` say what there is to ask.

        Raises QueryError, with DuckDB's message in one line, QueryStopped at a limit, QueryAborted; so does reading rows.
        Costs some 0.3 s, or milliseconds after `keep_spare`.
        """
        if asked := dot_command(query):
            query, params = asked
        return self._sandboxed().read(query, params, limits)

    def arrow(self, table: str) -> pads.Dataset:
        """A table's files as a `pyarrow.dataset.Dataset` (`.to_table`, `.to_batches`, `.scanner`, with filters and columns).

        Of a table that has no files it is empty. Raises InvalidOption, MissingFile, CorruptFile.
        """
        return arrow_dataset(self.location, self.snapshot, table)

    def to_datasets(self, tables: Sequence[str] | None = None) -> "IterableDatasetDict":
        """Tables (all, unless told) as streaming datasets of Hugging Face, by name: rows are dicts, a file is a shard.

        Nothing is copied; rows are read as they are asked for. Raises as `arrow` does, and MissingLibrary.
        """
        return hugging_face_datasets(self.location, self.snapshot, tables)

    def export(
        self,
        source: str,
        path: str | os.PathLike[str],
        format: Format | None = None,  # noqa: A002  as in DuckDB
    ) -> None:
        """Write a table, a view or a query's rows to one file: .parquet, .csv, .jsonl or .arrow, unless `format` is given.

        Rows are written as they come, and the file appears when it is whole. The query may only read; it runs here, with
        your rights, as in `sql`. Raises InvalidOption, QueryError, MissingFile, CorruptFile.
        """
        export(self._database, source, path, format)

    def views_script(self, *, relative: bool = False) -> str:
        """The SQL that makes this snapshot's tables, views and macros, with comments, in any DuckDB from 1.4, without actlake.

        `relative` names files as seen from the store's folder, where the script must then be run.
        """
        tail, some = self._known(self.snapshot)
        described = self._database.opened()
        return views_script(self.location, self.snapshot, tail, described, some_neurons=some, relative=relative)

    def keep_spare(self) -> None:
        """From now on have a started process wait for the next `read_sql`, which then costs milliseconds."""
        self._sandboxed().keep_spare()

    def close(self) -> None:
        """End the process that `keep_spare` keeps; a store that is not closed ends it with itself."""
        if self._sandbox:
            self._sandbox.close()

    def runs(self) -> pd.DataFrame:
        """The rows of `runs`, by run_id."""
        return self._frame("select * from runs order by run_id")

    def run(self, run_id: int) -> Provenance:
        """How a run was made, and what would make it again. Raises RunNotFound."""
        if not 0 <= run_id < len(self.snapshot.reservations):
            raise RunNotFound(run_id, len(self.snapshot.reservations))
        (row,) = self._reader.rows(self.snapshot, "runs", run_id=run_id).to_pylist()
        query = """
            select
                count(*),
                coalesce(sum(n_tokens), 0)::bigint,
                count(*) filter ($chat and source is null and n_tokens > n_prompt_tokens)
            from generations
            where run_id = $run
        """
        parsed_row = parsed(row)
        chat = bool(parsed_row["generation_config"].get("chat"))
        with self.reading(query, {"run": run_id, "chat": chat}) as counts:
            ((n_generations, n_tokens, n_unknown),) = counts.fetchall()
        n_prompts = self.snapshot.reservations[run_id].n_generations
        return Provenance(self.uri, parsed_row, n_prompts, n_generations, n_tokens, n_unknown)

    def prompts(self, run_id: int) -> Iterator[dict[str, Any]]:
        """The prompts of a run as they were given, in their order, for `actlake.capture`: the same prompts and options are the
        same run. Raises RunNotFound, or PromptsNotKept where the store has not all of them.
        """
        run = self.run(run_id)
        if not run.keeps_prompts:
            raise PromptsNotKept(run_id, run.n_prompts, run.n_prompts - run.n_generations, run.n_unknown_prompts)
        query = """
            select prompt, source, metadata, n_tokens > n_prompt_tokens as written
            from generations
            where run_id = ?
            order by prompt_index
        """
        return self._records(query, run_id)

    def _records(self, query: str, run_id: int) -> Iterator[dict[str, Any]]:
        with self.reading(query, [run_id]) as rows:
            for batch in rows.to_arrow_reader(1024):
                for row in batch.to_pylist():
                    yield prompt_record(**row)

    def generations(self) -> pd.DataFrame:
        """The rows of `generations` with their run's model, by generation_id."""
        return self._frame("""
            select generation_id, run_id, model, prompt, completion, n_prompt_tokens, n_tokens, finish_reason, metadata
            from generations join runs using (run_id)
            order by generation_id
        """)

    def find_generations(
        self,
        search: str = "",
        *,
        run_id: int | None = None,
        metadata: Mapping[str, str] | None = None,
        order_by: Order = "generation_id",
        descending: bool = False,
        limit: int = 25,
        offset: int = 0,
        characters: int = 400,
    ) -> Found:
        """A page of the generations that hold `search` in prompt, completion, model or metadata, whatever its case.

        `metadata` keeps those that carry these values at these keys (a value that is no text as its JSON). Gives `.rows`,
        at most `limit`, with the first `characters` of prompts and completions, and `.n`, how many there are in all; order_by
        "random" draws. Raises InvalidOption, RunNotFound. Cost: one pass over the texts, 50 ms for 20,000 generations.
        """
        return find_generations(self, search, run_id, metadata or {}, order_by, descending, limit, offset, characters)

    def metadata_values(self, n_values: int = 100) -> pd.DataFrame:
        """What prompts carry beside their text: columns key, value, n_generations; of each key its `n_values` commonest values.

        At most 50 keys, by name, and no value of more than 120 characters.
        """
        return metadata_values(self, n_values)

    def neighbours(self, generation_id: int) -> tuple[int | None, int | None]:
        """The numbers of the generations before and after one, None where there is none."""
        query = (
            "select max(generation_id) filter (generation_id < $id), min(generation_id) filter (generation_id > $id)"
        )
        with self.reading(f"{query} from generations", {"id": generation_id}) as rows:
            ((before, after),) = rows.fetchall()
        return before, after

    def generation(self, generation_id: int) -> Generation:
        """One generation. Raises GenerationNotFound."""
        rows = self._reader.rows(self.snapshot, "generations", generation_id=generation_id).to_pylist()
        if not rows:
            raise generation_not_found(generation_id, self.snapshot, self._reader)
        row = rows[0]
        (run,) = self._reader.rows(self.snapshot, "runs", run_id=row["run_id"]).to_pylist()
        layers = tuple(json.loads(run["generation_config"])["layers"])
        shape = shape_of(run)
        return Generation(
            **{**row, "metadata": json.loads(row["metadata"]), "source": json.loads(row["source"] or "null")},
            model=run["model"],
            recorded=frozenset(run["recorded"]),
            layers=shape.layers,
            neurons=shape.neurons if shape.layers else (),
            hidden_layers=(-1, *layers) if "hidden_states" in run["recorded"] else (),
            gradient_target=run["gradient_target"],
            _positions=Positions.of_run(run),
            _reader=self._reader,
            _snapshot=self.snapshot,
        )

    def texts(self, generation_ids: Sequence[int]) -> pd.DataFrame:
        """The tokens of whole generations, in order: generation_id, position, token, is_generated, is_special. A generation
        that is not there has none."""
        columns = ("token", "is_generated", "is_special")
        return texts_of(self.snapshot, self._reader, generation_ids, columns).to_pandas()

    def factorizations(self) -> pd.DataFrame:
        """The rows of `factorizations`, by factorization_id."""
        return self._frame("select * from factorizations order by factorization_id")

    def factors(
        self,
        k: int,
        layers: Sequence[int] | None = None,
        *,
        method: FactorMethod = "nmf",
        generations: Sequence[int] | None = None,
        where: str | None = None,
        positions: Which = "all",
        negatives: Negatives = "auto",
        scale_layers: bool = False,
        seed: int = 0,
        solver: Solver = "hals",
        reruns: int = 0,
        device: str = "auto",
        in_memory_bytes: int = IN_MEMORY,
        cancel: Event | None = None,
        on_progress: Progress | None = None,
    ) -> Factors:
        """`k` factors of the activations of these layers (all unless told) over a corpus, or these generations of it.

        `where` narrows tokens by a SQL condition on the columns of `tokens` and `generations`, which is confined as in
        `read_sql`; `positions` to the prompts' or the generated ones. More than `in_memory_bytes` of activations are streamed:
        memory then does not grow with the corpus, and `.tokens` is on disk. Otherwise as `Generation.factors`.
        Raises InvalidOption, GenerationNotFound, NotRecorded, UnknownLayer, QueryError, Cancelled.
        """
        options = FactorOptions(k, method, negatives, scale_layers, seed, solver, reruns, device)
        of = Slice.of(
            self.snapshot,
            self._reader,
            generations=generations,
            layers=layers,
            positions=positions,
            where=where,
            selected=None if where is None else self._tokens_where(where),
        )
        found = factors_of_slice(of, options, in_memory=in_memory_bytes, cancel=cancel, on_progress=on_progress)
        return replace(found, store=self)

    def _tokens_where(self, predicate: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Ids and positions of the tokens for which a condition that someone else wrote holds, in order. Raises QueryError."""
        query = selection_query(predicate)
        with self.read_sql(query, limits=Limits(rows=1 << 40, seconds=3600)) as rows:
            for batch in rows.to_arrow_reader():
                yield batch["generation_id"].to_numpy(), batch["position"].to_numpy()

    def factorization(self, factorization_id: int) -> Factors:
        """Factors that were saved. Raises FactorizationNotFound."""
        found = factors_of(factorization_id, self.snapshot, self._reader)
        return replace(found, store=self, factorization_id=factorization_id)

    def save(self, factors: Factors, name: str | None = None) -> int:
        """Keep factors in the tables `factorizations`, `factor_tokens` and `factor_neurons`; gives the factorization_id.

        They are of generations of this store, and the same factors saved again are another factorization. The store is then
        seen as it is now, as after `refresh()`. Raises InvalidOption for factors of anything else, or when the store was
        opened `at` a commit; GenerationNotFound; StoreReadOnly or DiskFull.
        """
        self._check_newest("save")
        factorization = factorization_of(factors, name, self.refresh().snapshot, self._reader)
        factorization_id = save_factorization(self._log, factorization)
        self.refresh()
        return factorization_id

    def label(
        self,
        label: str,
        *,
        factorization_id: int | None = None,
        factor: int | None = None,
        layer: int | None = None,
        neuron: int | None = None,
        run_id: int | None = None,
    ) -> None:
        """Call a saved factor (factorization_id, factor) or a neuron (layer, neuron; of one run, or of all) by a name, from now
        on and for all; an empty one takes it away. The store is then seen as it is now, as after `refresh()`.

        Raises InvalidOption, FactorizationNotFound, RunNotFound, UnknownLayer, UnknownNeuron; StoreReadOnly or DiskFull.
        """
        self._check_newest("label")
        named = {"factorization_id": factorization_id, "factor": factor}
        named |= {"layer": layer, "neuron": neuron, "run_id": run_id}
        save_label(self._log, label, labelled(label, self.refresh().snapshot, self._reader, **named))
        self.refresh()

    def labels(self) -> pd.DataFrame:
        """The rows of `labels`, the newest label of each thing: label, factorization_id, factor, run_id, layer, neuron,
        created_at; numbers that do not apply are missing."""
        numbers = ["factorization_id", "factor", "run_id", "layer", "neuron"]
        return self._frame(f"select * from labels order by {', '.join(numbers)}").astype(
            dict.fromkeys(numbers, "Int64")
        )

    def _check_newest(self, what: str) -> None:
        if self._at is not None:
            raise InvalidOption("at", self._at, f"a store as it was can only be read; open it without `at` to {what}")

    def batches(self, table: str, **wanted: int | tuple[int, int]) -> Iterator[Batch]:
        """All rows of a table with vectors (`activation_vectors`, `hidden_states`, `gradients`, …) as arrays, in its order.

        `wanted` narrows key columns to a value or a range (both ends included): `layer=4`, `generation_id=(10, 19)`. Each
        batch has `.keys`, a dict of arrays, and `.vectors`, a float32 matrix of at most some 4 MB; the next are
        read while one is looked at. Of `activation_vectors`, `.neurons` are the numbers of the matrix's columns.
        Raises InvalidOption; MissingFile or CorruptFile where a file is not as it should be.
        """
        described = TABLES.get(table)
        if described is None or described.vector is None:
            choices = ", ".join(name for name, each in TABLES.items() if each.vector)
            raise InvalidOption("table", table, f"choose one with vectors: {choices}")
        if unknown := set(wanted) - set(described.key):
            raise InvalidOption("wanted", sorted(unknown), f"{table} is narrowed by {', '.join(described.key)}")
        if table == "activation_vectors":
            return self._neurons.activations(wanted)
        return self._reader.batches(self.snapshot, table, wanted)

    def responding(
        self,
        predicate: str,
        layers: Sequence[int] | None = None,
        *,
        run_id: int | None = None,
        special: bool = False,
        cancel: Event | None = None,
        on_progress: Progress | None = None,
    ) -> pd.DataFrame:
        """Neurons by how much they prefer the positions where `predicate` holds, the greatest preference first.

        `predicate` is a SQL condition on the columns of `tokens` and `generations`: `"token = '.'"`, `"rank > 1"`,
        evaluated as in `read_sql`. Columns: layer, neuron, n_selected, mean_selected, mean_others, and
        effect_size: the difference of the means in pooled standard deviations (Cohen 1988, d). A position counts where
        the neuron was recorded. Over all runs that recorded these layers, unless `run_id` names one; special tokens are left out
        unless told. Cost: one pass over the layers' vectors; `cancel`, once set, ends it, and `on_progress` is told of tokens,
        once for each layer.

        Raises QueryError, QueryStopped, UnknownLayer, RunNotFound, Cancelled; SeveralModels where runs of several have such
        neurons; InvalidOption when the predicate holds nowhere, or everywhere.
        """
        options: dict[str, Any] = {"run_id": run_id, "special": special, "cancel": cancel, "on_progress": on_progress}
        return responding(self._neurons, self.read_sql, predicate, layers, **options)

    def neuron(
        self,
        layer: int,
        neuron: int,
        run_id: int | None = None,
        *,
        where: str | None = None,
        generated_only: bool = False,
        special: bool = False,
    ) -> Neuron:
        """A neuron over the corpus: `.stats`, `.histogram`, `.examples()`, `.quantile_examples()`, `.contexts()`, `.related()`.

        Over all runs that recorded it, unless `run_id` names one; special tokens are left out unless told. `where` is a SQL
        condition on the columns of `tokens` and `generations`, evaluated as in `read_sql`. Cost: a few milliseconds and 4 bytes a
        token, where it is indexed; the first of a snapshot reads which tokens there are.

        Raises UnknownLayer, UnknownNeuron, RunNotFound; SeveralModels where runs of several have such a neuron;
        QueryError, QueryStopped or QueryAborted for `where`.
        """
        neurons = self._neurons
        run_ids = neurons.runs_with(layer, neuron, run_id)
        return neuron_of(
            neurons,
            self.read_sql,
            layer,
            neuron,
            run_ids=run_ids,
            where=where,
            generated_only=generated_only,
            special=special,
        )

    def layer_similarity(
        self,
        layers: Sequence[int] | None = None,
        *,
        run_id: int | None = None,
        of: LayerValues = "activations",
        most_tokens: int = 1000,
        debiased: bool = False,
        special: bool = False,
        seed: int = 0,
        cancel: Event | None = None,
        on_progress: Progress | None = None,
    ) -> pd.DataFrame:
        """Linear CKA of each two layers (all that were recorded, unless told), as a square frame by layer: 1 where their values
        at the same tokens are the same up to rotation and scale.

        Over at most `most_tokens` tokens of one run, drawn from generations that are drawn, so that cost and memory do not
        grow with the corpus: 4 bytes × tokens × all values of a token. See `queries.similarity.cka_of_layers` for `debiased`.
        `cancel`, once set, ends it between generations and layers; `on_progress` is told of tokens read and layers compared.
        Raises RunNotFound, NotRecorded, UnknownLayer, Cancelled; InvalidOption where there are several runs and none is named.
        """
        asked = LayerSample(layers, run_id, of, most_tokens, special, seed)
        options: dict[str, Any] = {"debiased": debiased, "cancel": cancel, "on_progress": on_progress}
        return layer_similarity(self._neurons, self.generation, asked, **options)

    def neuron_similarity(
        self,
        layer: int,
        neurons: Sequence[int] | None = None,
        *,
        run_id: int | None = None,
        where: str | None = None,
        special: bool = False,
        cancel: Event | None = None,
        on_progress: Progress | None = None,
    ) -> pd.DataFrame:
        """The correlation (Pearson's r) of each two neurons of a layer (all that were recorded, unless told; at most 4,096), as a
        square frame by neuron. Over the tokens that `where` selects, as in `neuron`. Cost: one pass over the layer's vectors;
        `cancel`, once set, ends it, and `on_progress` is told of tokens.

        Raises UnknownLayer, UnknownNeuron, RunNotFound, QueryError, Cancelled; InvalidOption for too many neurons;
        SeveralModels.
        """
        options: dict[str, Any] = {"run_id": run_id, "where": where, "special": special}
        options |= {"cancel": cancel, "on_progress": on_progress}
        return neuron_similarity(self._neurons, self.read_sql, layer, neurons, **options)

    def size(self) -> pd.DataFrame:
        """For each table its files, rows and bytes on disk."""
        rows = [
            {
                "table": name,
                "files": len(files),
                "rows": sum(f.rows for f in files),
                "bytes": sum(f.bytes for f in files),
            }
            for name in TABLES
            for files in [self.snapshot.of(name)]
        ]
        return pd.DataFrame(rows)

    def __repr__(self) -> str:
        n_generations = sum(file.rows for file in self.snapshot.of("generations"))
        return f"<actlake.Store {self.uri!r}: {len(self.snapshot.reservations)} runs, {n_generations} generations>"

    def _frame(self, query: str) -> pd.DataFrame:
        with self.reading(query) as rows:
            return rows.df()

    @property
    def _database(self) -> Database:
        database = self._opened  # another thread may refresh
        if database is None:
            location, is_local = self.location, self.location.is_local
            files = StoreFiles(location, () if is_local else list(self.snapshot.files), empty_files())
            tail, some = self._known(self.snapshot)
            database = self._opened = Database(
                self.snapshot,
                tail,
                files,
                check=Footers(location),
                name_of=(lambda path: location.full(path).translate(GLOB)) if is_local else files.url,
                some_neurons=some,
            )
        return database

    @property
    def _neurons(self) -> NeuronReader:
        neurons = self._neuron_reader
        if neurons is None or neurons.snapshot is not self.snapshot:
            neurons = self._neuron_reader = NeuronReader(self.snapshot, self._reader)
        return neurons

    def _sandboxed(self) -> Sandbox:
        if self._sandbox is None:
            self._sandbox = Sandbox(self.location, self.snapshot, *self._known(self.snapshot))
        return self._sandbox

    def _known(self, snapshot: Snapshot) -> tuple[dict[str, tuple[int, ...]], list[Some]]:
        """What a Database is to know of a snapshot: files that are indexed in part, generations with some neurons alone."""
        return partly_indexed(snapshot, self._reader), some_neurons(snapshot, self._reader)
