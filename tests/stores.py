"""Small stores for tests, made without a model: runs, shards and what is expected of them, all from numbers."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import actlake
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from actlake import Store
from actlake.store import (
    TABLES,
    CapturedGeneration,
    CapturedPredictions,
    CapturedTokens,
    Commit,
    Factorization,
    Location,
    Log,
    Reservation,
    index,
    save_factorization,
    verify,
    write_shard,
    write_table,
)
from actlake.store.parquet import encode
from actlake.store.schema import PROJECTION, RUNS

D_MODEL, D_FF, LAYERS = 8, 12, (0, 3)
N_TOKENS, N_PROMPT_TOKENS = 7, 4


def a_generation(generation_id: int, n: int = N_TOKENS, p: int = N_PROMPT_TOKENS) -> CapturedGeneration:
    """A generation whose every number follows from its id."""
    random = np.random.default_rng(generation_id)
    ints = np.arange(n, dtype=np.int32)
    floats = random.normal(size=n).astype(np.float32)
    return CapturedGeneration(
        generation_id=generation_id,
        run_id=0,
        prompt_index=generation_id,
        prompt=f"prompt {generation_id}",
        completion="c",
        n_prompt_tokens=p,
        finish_reason="length",
        metadata={"number": generation_id},
        tokens=CapturedTokens(ints, [f"t{i}" for i in ints], ints, ints + 1, ints == 0, floats, ints, floats),
        embeddings=random.normal(size=(n, D_MODEL)).astype(np.float32),
        activations={layer: random.normal(size=(n, D_FF)).astype(np.float32) for layer in LAYERS},
        hidden_states={layer: random.normal(size=(n, D_MODEL)).astype(np.float32) for layer in (-1, *LAYERS)},
        layer_predictions={layer: some_predictions(n) for layer in LAYERS},
        gradients=[random.normal(size=(t, D_MODEL)).astype(np.float32) for t in range(p, n)],
        gradient_scores=[random.normal(size=(t, 4)).astype(np.float32) for t in range(p, n)],
    )


def some_predictions(n: int) -> CapturedPredictions:
    """Two tokens at each of `n` positions, of which the first came next, but for the last."""
    ids = np.stack([np.arange(n), np.arange(n) + 1], axis=1).astype(np.int32)
    texts = np.array([f"t{token_id}" for token_id in ids.ravel()], object).reshape(ids.shape)
    came_next = np.arange(n) < n - 1
    probabilities = (0.5 / ids.clip(1)).astype(np.float32)
    return CapturedPredictions(came_next.astype(np.int32), probabilities[:, 0], ids, texts, probabilities)


def a_run(n_layers: int = 4) -> pa.Table:
    """The row of run 0."""
    row = {
        "run_id": 0,
        "name": "toy",
        "model": "toy",
        "model_revision": None,
        "model_hash": "0" * 64,
        "tokenizer_hash": "1" * 64,
        "architecture": "Toy",
        "n_layers": n_layers,
        "d_model": D_MODEL,
        "d_ff": D_FF,
        "vocab_size": 320,
        "precision": "float32",
        "recorded": ["embeddings", "gradients", "gradient_scores", "activations", "hidden_states", "layer_predictions"],
        "gradient_target": "logit",
        "generation_config": json.dumps({"layers": LAYERS}),
        "seed": 0,
        "versions": "{}",
        "created_at": datetime(2026, 1, 1),
        "status": "capturing",
    }
    return pa.Table.from_pylist([row], schema=RUNS.arrow)


def registered(location: Location, n_generations: int = 1000) -> Log:
    """A store with a run and no generation."""
    log = Log(location)
    log.commit(
        lambda s: Commit(
            "register", "run/0", [write_table(location, RUNS, a_run())], reserve=Reservation(0, 0, n_generations)
        )
    )
    return log


def capture_unit(location: Location, generation_ids: Sequence[int], precision: str = "float32") -> None:
    """Write and commit some generations, as a capture does with each of its batches; nothing if they are there."""
    log = Log(location)
    key = f"generations/{min(generation_ids)}-{max(generation_ids)}"
    if key not in log.snapshot().keys:
        files = write_shard(location, [a_generation(number) for number in generation_ids], precision)
        log.commit(lambda s: Commit("capture", key, files))


def a_store(location: Location, units: int = 2, unit_size: int = 2) -> Log:
    """A store with a run and some units of generations."""
    log = registered(location)
    for unit in range(units):
        capture_unit(location, range(unit * unit_size, (unit + 1) * unit_size))
    return log


def a_factorization(generation_id: int, k: int, layers: Sequence[int] = LAYERS) -> Factorization:
    """A factorization of a generation, whose every number follows from the generation's id."""
    random = np.random.default_rng(generation_id)
    return Factorization(
        name=f"of {generation_id}",
        method="nmf",
        layers=layers,
        slice={"generations": str(generation_id)},
        negatives="clip",
        scale_layers=False,
        seed=0,
        n_iterations=9,
        converged=True,
        error=0.5,
        versions={},
        generation_id=np.full(N_TOKENS, generation_id),
        position=np.arange(N_TOKENS, dtype=np.int32),
        values=random.random((N_TOKENS, k), np.float32),
        weights=random.random((k, len(layers) * D_FF), np.float32),
    )


def save_factors(location: Location) -> None:
    """Save a factorization of generation 0 in both layers, and one of generation 1 in the second."""
    save_factorization(Log(location), a_factorization(0, k=2))
    save_factorization(Log(location), a_factorization(1, k=3, layers=LAYERS[1:]))


def assert_same(left: Store, right: Store, *, rtol: float = 0.0, atol: float = 0.0) -> None:
    """Two stores hold the same rows, with values that are exactly, or so nearly, the same; runs have times of their own, and
    segments numbers, so the projection is compared as it is read."""
    tables = {name: table for name, table in TABLES.items() if name != "runs" and table not in PROJECTION}
    queries = {name: f"select * from {name} order by {', '.join(table.key)}" for name, table in tables.items()}
    queries["by_neuron"] = "from by_neuron.activations order by generation_id, position, layer, neuron"
    for name, query in queries.items():
        ours, theirs = left.sql(query).to_arrow_table(), right.sql(query).to_arrow_table()
        if not rtol:
            assert ours.equals(theirs), name
            continue
        assert ours.num_rows == theirs.num_rows, name
        for column in ours.column_names:
            if "float" in str(ours.schema.field(column).type):
                values = (np.array(rows[column].to_pylist(), np.float64) for rows in (ours, theirs))
                np.testing.assert_allclose(*values, rtol=rtol, atol=atol, err_msg=name)
            else:
                assert ours[column].to_pylist() == theirs[column].to_pylist(), name


def assert_counted(store: str | Path) -> None:
    """A capture has made the statistics of all that it recorded, and they are those that its files have."""
    queries = [
        f"from {view}_by({special}) order by run_id, layer, neuron{rest}"
        for view, rest in (("neuron_stats", ""), ("neuron_examples", ", sign, rank"))
        for special in ("true", "false")
    ]
    location = Location.of(store)
    opened = actlake.open(store)
    assert opened.sql("select count(*) from uncounted_files").fetchall() == [(0,)]
    assert verify(location, deep=True).problems == ()
    made = [opened.sql(query).fetchall() for query in queries]
    index(location, rebuild=True)
    again = [actlake.open(store).sql(query).fetchall() for query in queries]
    assert made[0]
    for ours, theirs in zip(made, again, strict=True):
        assert len(ours) == len(theirs)
        for row, expected in zip(ours, theirs, strict=True):
            numbers = slice(4, 6) if isinstance(row[-1], list) else slice(0)  # mean and std, which are sums
            assert row[numbers] == pytest.approx(expected[numbers], rel=1e-9, abs=1e-12)
            assert (*row[: numbers.start], *row[numbers.stop :]) == (
                *expected[: numbers.start],
                *expected[numbers.stop :],
            )


def load_kernels() -> None:
    """Have what is compiled in this process, for those that it forks: loading it takes each of them half a second of a core."""
    from actlake.store import kernels
    from actlake.store.pages import vector_page, vectors_in
    from actlake.store.partials import added, by_kind, measured, partial_rows
    from actlake.store.precision import rounded

    values = rounded(np.ones((3, 8), np.float32), "bfloat16")
    page = vector_page(values)
    vectors_in(b"".join([page.header, *page.pieces]), values)
    places = np.arange(8)
    kinds = by_kind(np.zeros(8, np.int64), np.zeros(8, bool), places, places.astype(np.int32))
    (statistics,) = measured(values.__getitem__, 3, 8, kinds)
    added(partial_rows(*kinds, statistics, 0, np.arange(3, dtype=np.int32), 0), 0)
    kernels.transpose(np.ones((8, 3), np.float32), np.empty_like(values))
    kernels.scatter(values, places, np.empty_like(values))
    kernels.turn(np.ones((8, 5), np.float32)[:, :3].T, places, np.empty_like(values))


def as_of_format(location: Location, number: int) -> None:
    """Make a store in a folder one of an older format: files without the columns that came later, and a log that says so."""
    folder, files, parent = Path(location.root), {}, ""
    for path in Log(location).snapshot().files.values():
        table = TABLES[path.table]
        kept = tuple(column for column in table.columns if column.since <= number)
        old = replace(table, columns=kept)
        rows = pq.read_table(folder / path.path, partitioning=None).select(old.arrow.names)
        with (folder / path.path).open("wb") as rewritten:
            file = encode(old, [rows.cast(old.arrow)], rewritten.write)
        said = {"bytes": file.size, "sha256": file.sha256}
        files[path.path] = said | {"footer_bytes": file.footer_bytes, "footer_crc32": file.footer_crc32}
    for path in sorted((folder / "_log").glob("*.json")):
        body = json.loads(path.read_text()) | {"format": number, "parent": parent}
        body["add"] = [file | files.get(file["path"], {}) for file in body["add"]]
        if number < 6:
            if body.pop("counted"):  # a capture's statistics
                body["add"] = []
            assert {file.pop("counted") for file in body["add"]} <= {False}
        del body["checksum"]
        parent = hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
        path.write_text(json.dumps(body | {"checksum": parent}))
