"""Measures the store and its queries beside their limits and peers, in one run: one neuron, one generation, one layer, appends.

    python benchmarks/store.py [--rounds 5] [--folder FOLDER] [--tokens 61440] [--synthetic-tokens 1048576]

The corpus is captured by the built-in model from the texts of Python's own documentation (half an hour, once: it is kept in
FOLDER); the synthetic one has one layer of random activations. Every figure is a median with the least and the greatest;
every ratio is of two things measured in turn, on as many threads. Files are in the page cache throughout.
"""

import argparse
import json
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from pydoc_data.topics import topics

import actlake
import numpy as np
import pyarrow as pa
import zstandard
from actlake.store import (
    CapturedGeneration,
    CapturedTokens,
    Commit,
    DataFile,
    Location,
    Log,
    Reader,
    Reservation,
    index,
    write_shard,
    write_table,
)
from actlake.store.pages import vector_page
from actlake.store.schema import RUNS
from actlake.store.threads import threads
from main_job import seconds, spread

LAYER, D_FF, TOKENS_A_GENERATION, MEMMAP_GENERATIONS = 4, 1536, 128, 48
NEURON = "select generation_id, position, activation from activations where layer = ? and neuron = ?"
TOKEN_MAJOR = "select generation_id, position, activation[? + 1] from activation_vectors where layer = ?"
EXAMPLES = "from neuron_examples where layer = ? and neuron = ?"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path("actlake-benchmark"))
    parser.add_argument("--tokens", type=int, default=61_440)
    parser.add_argument("--synthetic-tokens", type=int, default=1 << 20)
    asked = parser.parse_args()
    asked.folder.mkdir(exist_ok=True)
    corpus = captured(asked.folder / f"corpus-{asked.tokens}", asked.tokens)
    report_store("the built-in model", corpus)
    report_neuron(corpus, asked.folder, asked.rounds)
    report_generation(corpus, asked.folder, asked.rounds)
    report_layer(corpus, asked.rounds)
    report_append(corpus, asked.folder, asked.rounds)
    report_many_shards(asked.folder, asked.rounds)
    for n_tokens in (asked.synthetic_tokens // 16, asked.synthetic_tokens):
        large = synthetic(asked.folder / f"synthetic-{n_tokens}", n_tokens)
        report_store(f"synthetic, {n_tokens} tokens", large)
        report_neuron_alone(large, asked.rounds)


def captured(folder: Path, n_tokens: int) -> actlake.Store:
    """A corpus of given texts, embeddings and activations of all layers."""
    words = " ".join(" ".join(text.split()) for _, text in sorted(topics.items())).split(" ")
    texts = [" ".join(words[start : start + 60]) for start in range(0, len(words), 60)]
    prompts = [{"text": text} for text in texts[: n_tokens // 85]]
    started = time.perf_counter()
    run = actlake.capture(folder, "smollm2-135m", prompts, record=("embeddings", "activations"), index=False)
    after = time.perf_counter()
    done = index(Location.of(folder))
    if run.n_captured:
        print(
            f"captured in {after - started:.0f} s, indexed in {time.perf_counter() - after:.0f} s: {done.sentence()}\n"
        )
    return actlake.open(folder)


def synthetic(folder: Path, n_tokens: int) -> actlake.Store:
    """A corpus of one layer, of activations that are drawn."""
    if not (folder / "_log").exists():
        location, n = Location.of(folder), n_tokens // TOKENS_A_GENERATION
        log, random = Log(location), np.random.default_rng(0)
        drawn = random.standard_normal((8192, D_FF), dtype=np.float32) ** 3
        row = dict.fromkeys(RUNS.arrow.names, 0) | dict.fromkeys(RUNS.arrow.names[1:7], "synthetic")
        row |= {"d_ff": D_FF, "precision": "bfloat16", "recorded": ["activations"], "gradient_target": None}
        row |= {"generation_config": json.dumps({"layers": [LAYER]}), "versions": "{}", "status": "complete"}
        file = write_table(
            location, RUNS, pa.Table.from_pylist([row | {"created_at": datetime(2026, 1, 1)}], schema=RUNS.arrow)
        )
        log.commit(lambda _: Commit("register", "synthetic", [file], reserve=Reservation(0, 0, n)))
        for start in range(0, n, 32):
            generations = []
            for generation_id in range(start, min(start + 32, n)):
                first = int(random.integers(0, len(drawn) - TOKENS_A_GENERATION))
                values = drawn[first : first + TOKENS_A_GENERATION] * np.float32(random.uniform(0.5, 2))
                generations.append(generation(generation_id, {LAYER: values}))
            files = write_shard(location, generations, "bfloat16")
            log.commit(lambda _, key=f"{start}", files=files: Commit("capture", key, files))
        started = time.perf_counter()
        print(f"{index(location).sentence()} in {time.perf_counter() - started:.0f} s\n")
    return actlake.open(folder)


def generation(generation_id: int, activations: dict[int, np.ndarray]) -> CapturedGeneration:
    n = len(next(iter(activations.values())))
    ints, floats = np.arange(n, dtype=np.int32), np.zeros(n, np.float32)
    tokens = CapturedTokens(ints, ["t"] * n, ints, ints, ints < 0, floats, ints, floats)
    return CapturedGeneration(generation_id, 0, generation_id, "p", "", n, "stop", {}, tokens, activations=activations)


def report_store(what: str, store: actlake.Store) -> None:
    sizes = store.size().set_index("table")
    d_ff = int(store.runs()["d_ff"][0])
    n_values = sizes["rows"]["activation_vectors"] * d_ff
    major = sizes["bytes"]["activation_vectors"]
    projection = sizes["bytes"][["segments", "neuron_vectors", "neuron_partials"]].sum()
    n_tokens = sizes["rows"]["tokens"]
    print(
        f"{what}: {n_tokens} tokens, {n_values / 1e9:.2f} thousand million activations, {sizes['files']['segments']} segments"
    )
    print(
        f"  bytes a value, token-major           {major / n_values:8.3f}    ({major / n_values / 2:.3f}× raw bfloat16)"
    )
    print(f"  both projections and statistics      {(major + projection) / major:8.3f}× the token-major bytes")


def report_neuron(store: actlake.Store, folder: Path, rounds: int) -> None:
    """One neuron at all tokens, as SQL answers it, beside a memmap of neurons, a scan of token-major rows, and HF datasets."""
    import datasets

    Path(folder / "datasets").mkdir(exist_ok=True)
    datasets.disable_progress_bars()
    whole = np.concatenate([batch.vectors for batch in store.batches("activation_vectors", layer=LAYER)])
    by_neuron, by_token = folder / "neurons.npy", folder / "datasets" / f"layer-{len(whole)}"
    np.save(by_neuron, whole.T)
    memmap = np.load(by_neuron, mmap_mode="r")
    if not by_token.exists():
        rows = pa.FixedSizeListArray.from_arrays(pa.array(whole.reshape(-1)), D_FF)
        datasets.Dataset(datasets.table.InMemoryTable(pa.table({"activation": rows}))).save_to_disk(str(by_token))
    peer = datasets.load_from_disk(str(by_token)).with_format("numpy")
    random = np.random.default_rng(1)
    times: dict[str, list[float]] = {"sql": [], "memmap": [], "scan": [], "datasets": [], "examples": []}
    for number in range(rounds + 1):
        neuron = int(random.integers(D_FF))
        times["sql"].append(seconds(lambda n=neuron: store.sql(NEURON, [LAYER, n]).fetchnumpy()))
        times["memmap"].append(seconds(lambda n=neuron: np.array(memmap[n])))
        times["scan"].append(seconds(lambda n=neuron: store.sql(TOKEN_MAJOR, [n, LAYER]).fetchnumpy()))
        times["datasets"].append(seconds(lambda n=neuron: [b["activation"][:, n].copy() for b in peer.iter(4096)]))
        times["examples"].append(seconds(lambda n=neuron: store.sql(EXAMPLES, [LAYER, n]).fetchall()))
        if not number:  # connections and footers
            times = {name: [] for name in times}
    found = store.sql(NEURON, [LAYER, 7]).fetchnumpy()
    order = np.lexsort((found["position"], found["generation_id"]))
    assert sorted(found["activation"][order].tolist()) == sorted(whole[:, 7].tolist())
    print(f"one neuron, all {len(whole)} tokens, SQL             {spread(times['sql'], 1000, ' ms')}")
    print(f"  a row of a NumPy memmap, neuron-major (the limit)  {spread(times['memmap'], 1000, ' ms')}")
    print(f"  token-major Parquet scan                           {spread(times['scan'], 1000, ' ms')}")
    print(f"    over SQL                                         {ratio(times['scan'], times['sql'])}")
    print(f"  HF datasets, one row a token                       {spread(times['datasets'], 1000, ' ms')}")
    print(f"    over SQL                                         {ratio(times['datasets'], times['sql'])}")
    print(f"its examples of both signs                           {spread(times['examples'], 1000, ' ms')}\n")


def report_neuron_alone(store: actlake.Store, rounds: int) -> None:
    random = np.random.default_rng(1)
    times: dict[str, list[float]] = {"sql": [], "examples": []}
    for number in range(rounds + 1):
        neuron = int(random.integers(D_FF))
        times["sql"].append(seconds(lambda n=neuron: store.sql(NEURON, [LAYER, n]).fetchnumpy()))
        times["examples"].append(seconds(lambda n=neuron: store.sql(EXAMPLES, [LAYER, n]).fetchall()))
        if not number:
            times = {name: [] for name in times}
    n_tokens = int(store.size().set_index("table")["rows"]["tokens"])
    per_token = [1e6 * t / n_tokens for t in times["sql"]]
    print(f"  one neuron, all tokens, SQL                        {spread(times['sql'], 1000, ' ms')}")
    print(f"    a thousand tokens                                {spread(per_token, 1000, ' µs')}")
    print(f"  its examples of both signs                         {spread(times['examples'], 1000, ' ms')}\n")


def report_generation(store: actlake.Store, folder: Path, rounds: int) -> None:
    """All layers of a generation as an array, beside its rows of a token-major memmap; each time another generation."""
    generations = [store.generation(i) for i in range(MEMMAP_GENERATIONS)]
    bounds = np.cumsum([0, *(g.n_tokens for g in generations)])
    path = folder / "tokens.npy"
    np.save(path, np.concatenate([g.activations() for g in generations]))
    ours, memmaps = [], []
    for _ in range(rounds):
        memmap = np.load(path, mmap_mode="r")
        for number, g in enumerate(generations):
            memmaps.append(seconds(lambda n=number, m=memmap: np.array(m[bounds[n] : bounds[n + 1]])))
            ours.append(seconds(g.activations))
    n_tokens = int(np.median([g.n_tokens for g in generations]))
    print(f"one generation ({n_tokens} tokens), all layers, as an array    {spread(ours, 1000, ' ms')}")
    print(f"  its rows of a NumPy memmap, float32 (the limit)    {spread(memmaps, 1000, ' ms')}")
    print(f"    ours over it                                     {ratio(ours, memmaps)}\n")
    path.unlink()


def report_layer(store: actlake.Store, rounds: int) -> None:
    """One layer streamed as arrays, beside the decompression alone of the very pages that hold it: on one thread, and on all
    of them, which are given 16 pages at a time."""
    pages = list(pages_of(store, LAYER))

    def decode(some: list[bytes]) -> None:
        decompressor = zstandard.ZstdDecompressor()
        for page in some:
            decompressor.decompress(page)

    def decode_on_all() -> None:
        list(threads().map(decode, [pages[start : start + 16] for start in range(0, len(pages), 16)]))

    def stream() -> None:
        for batch in store.batches("activation_vectors", layer=LAYER):
            assert batch.vectors.shape[1] == D_FF

    stream()
    ours, one, all_of_them = [], [], []
    for _ in range(rounds):
        one.append(seconds(lambda: decode(pages)))
        all_of_them.append(seconds(decode_on_all))
        ours.append(seconds(stream))
    print(f"one layer of the corpus, streamed as arrays          {spread(ours, 1000, ' ms')}")
    print(f"  zstd decompression alone, one thread               {spread(one, 1000, ' ms')}")
    print(f"    of its speed                                     {ratio(one, ours)}")
    print(f"  zstd decompression alone, all threads              {spread(all_of_them, 1000, ' ms')}")
    print(f"    of its speed                                     {ratio(all_of_them, ours)}\n")


def pages_of(store: actlake.Store, layer: int) -> Iterator[bytes]:
    """The compressed pages of a layer's vectors."""
    from actlake.store import thrift

    location, reader = store.location, Reader(store.location)
    for group in reader._groups(store.snapshot, actlake.store.TABLES["activation_vectors"], {"layer": layer}):
        start, end = group.chunk("activation")
        with location.open(group.file.path) as source:
            chunk = bytes(source.read_at(end - start, start))
        at = 0
        while at < len(chunk):
            header, at = thrift.read_struct(chunk, at)
            yield chunk[at : at + header[3][1]]
            at += header[3][1]


def report_append(store: actlake.Store, folder: Path, rounds: int) -> None:
    """Writing and committing shards (two at a time, as a capture's writers do), beside the encoding of their vectors alone."""
    generations = []
    for number in range(24):
        g = store.generation(number)
        values = g.activations().reshape(g.n_tokens, len(g.layers), -1)
        generations.append(generation(number, {layer: np.ascontiguousarray(values[:, layer]) for layer in g.layers}))
    shards = [generations[start : start + 6] for start in range(0, 24, 6)]
    matrices = [matrix for g in generations for matrix in (g.activations or {}).values()]
    n_values = sum(matrix.size for matrix in matrices)
    appended, encoded, written = [], [], []
    for _ in range(rounds):
        encoded.append(seconds(lambda: list(threads().map(lambda m: vector_page(m, precision="bfloat16"), matrices))))
        location = Location.of(folder / "append")
        log = Log(location)

        def append(shard: list[CapturedGeneration], log: Log = log) -> None:
            files = write_shard(log.location, shard, "bfloat16")
            log.commit(lambda _: Commit("capture", files[0].path, files))

        with ThreadPoolExecutor(2) as writers:
            appended.append(seconds(lambda w=writers: list(w.map(append, shards))))
        files = [path.read_bytes() for path in (folder / "append").rglob("*.parquet")]
        written.append(
            seconds(lambda c=files, at=location: [at.put_if_absent(f"again/{i}", data) for i, data in enumerate(c)])
        )
        shutil.rmtree(folder / "append")
    print(f"append, {n_values / 1e6:.0f} million activations           {spread(appended, 1000, ' ms')}")
    print(f"  rounding and encoding them alone, on all threads   {spread(encoded, 1000, ' ms')}")
    print(f"    of its speed                                     {ratio(encoded, appended)}")
    print(f"  writing the same bytes to disk alone               {spread(written, 1000, ' ms')}")
    print(f"    both alone, one after the other, over it         {ratio(sums(encoded, written), appended)}\n")


def report_many_shards(folder: Path, rounds: int) -> None:
    """Opening a store of 10,000 shards of five tables each."""
    place = folder / "many-shards"
    if not place.exists():
        log = Log(Location.of(place))
        log.commit(lambda _: Commit("register", "run", reserve=Reservation(0, 0, 80_000)))
        for number in range(10_000):
            files = [
                DataFile(table, f"{table}/{number * 8:09d}-{number:032x}.parquet", 512, 33_000_000, f"{number:064x}", 900, number,
                         {"generation_id": (number * 8, number * 8 + 7), "position": (0, 70), "layer": (0, 29)})
                for table in ("generations", "tokens", "embeddings", "gradients", "activation_vectors")
            ]  # fmt: skip
            log.commit(lambda _, key=f"{number}", files=files: Commit("capture", key, files))
    opened = [seconds(lambda: actlake.open(place)) for _ in range(rounds)]
    store = actlake.open(place)
    chosen = [seconds(lambda: store.snapshot.of("activation_vectors", generation_id=77)) for _ in range(rounds + 1)][1:]
    print(f"open a store of 10,000 shards (50,000 files)         {spread(opened, 1000, ' ms')}")
    print(f"  choose one generation's files                      {spread(chosen, 1000, ' ms')}\n")


def sums(left: list[float], right: list[float]) -> list[float]:
    return [a + b for a, b in zip(left, right, strict=True)]


def ratio(above: list[float], below: list[float]) -> str:
    return spread([a / b for a, b in zip(above, below, strict=True)], unit="×")


if __name__ == "__main__":
    main()
