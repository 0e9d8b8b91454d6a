"""Factors beside scikit-learn's, on real activations: how much sooner, at which error; and the memory of streamed ones.

    python benchmarks/factors.py STORE [--rounds 3] [--k 10] [--memory FOLDER [--times 1,10,30] [--methods nmf,pca,ica,kmeans]]

STORE is one that `actlake demo --no-serve` wrote. Slices are of 128 tokens of it, from several generations; each is factored by
scikit-learn's NMF (coordinate descent from nndsvda, float32, at most 500 iterations) and by ours (solver="hals"), in turn, and
every ratio is of two CPU times of one round: other work on the machine does not count. `error` is ‖X − WH‖ over that of
scikit-learn. With --memory, corpora of one layer are written to FOLDER (2.1 GB), factored and saved in child processes, whose
peaks are told: the smallest fills its blocks, and the others are so many times as large.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import actlake
import numpy as np
import pyarrow as pa
from actlake.queries import NMF, FactorOptions, factorize
from actlake.queries.factor_slice import BLOCK_BYTES
from actlake.store import (
    CapturedGeneration,
    CapturedTokens,
    Commit,
    Location,
    Log,
    Reservation,
    write_shard,
    write_table,
)
from actlake.store.schema import RUNS

TOKENS, LAYERS, D_FF = 128, (4, 20), 1536
CORPUS, TOKENS_A_GENERATION = 24_576, 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--memory", type=Path, metavar="FOLDER")
    parser.add_argument(
        "--times", default="1,10,30", help="sizes of corpora, the first the one that others are measured by"
    )
    parser.add_argument("--methods", default="nmf,pca,ica,kmeans")
    parser.add_argument("--peak-of", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.peak_of:
        print(json.dumps(peak_of(asked.store, asked.peak_of)))
        return
    if asked.rounds:
        report_speed(actlake.open(asked.store), asked.rounds, asked.k)
    if asked.memory:
        report_memory(asked.memory, [int(times) for times in asked.times.split(",")], asked.methods.split(","))


def report_speed(store: actlake.Store, rounds: int, k: int) -> None:
    ids = store.generations()["generation_id"].tolist()
    x = np.concatenate([store.generation(number).activations() for number in ids])
    NMF(2).fit(np.random.default_rng(0).random((8, 600), np.float32))  # what is compiled is loaded
    print(f"{TOKENS} tokens, k = {k}; CPU seconds; ratios over {rounds} rounds: median (least to most)\n")
    print(f"{'slice':34} {'scikit-learn':>12} {'ours':>7}   {'times sooner':22} error")
    rows = range(0, len(x) - TOKENS + 1, TOKENS)
    kinds: dict[str, tuple[slice, str]] = {}
    for layer in LAYERS:
        kinds[f"layer {layer}, split"] = (slice(layer * D_FF, (layer + 1) * D_FF), "split")
    kinds |= {"all layers, clipped": (slice(None), "clip"), "all layers, split": (slice(None), "split")}
    for what, (columns, negatives) in kinds.items():
        for first in rows:
            part = np.ascontiguousarray(x[first : first + TOKENS, columns])
            report_slice(f"tokens {first}-{first + TOKENS - 1}, {what}", part, k, negatives, rounds)
        print()


def report_slice(what: str, x: np.ndarray, k: int, negatives: Any, rounds: int) -> None:
    n_layers = x.shape[1] // D_FF
    times: dict[str, list[float]] = {"sklearn": [], "hals": []}
    errors: dict[str, list[float]] = {"sklearn": [], "hals": []}
    for seed in range(rounds):
        for solver in ("sklearn", "hals"):
            options = FactorOptions(k, negatives=negatives, seed=seed, solver=solver)
            seconds, factors = timed(lambda options=options: factorize(x, options, layers=range(n_layers)))
            times[solver].append(seconds)
            errors[solver].append(factors.error)
    ratios = [theirs / ours for theirs, ours in zip(times["sklearn"], times["hals"], strict=True)]
    error = max(ours / theirs for theirs, ours in zip(errors["sklearn"], errors["hals"], strict=True))
    median = {solver: statistics.median(seconds) for solver, seconds in times.items()}
    ratio = f"{statistics.median(ratios):5.1f}× ({min(ratios):.1f} to {max(ratios):.1f})"
    print(
        f"{what:34} {median['sklearn']:12.3f} {median['hals']:7.3f}   {ratio:22} {100 * (error - 1):+.2f} %", flush=True
    )


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    started = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = work()
    return time.process_time() - started, result


def report_memory(folder: Path, times: list[int], methods: list[str]) -> None:
    """Peaks of processes that factor and save a corpus that fills its blocks, and others so many times as large, streamed."""
    filled = 4 * CORPUS * D_FF / BLOCK_BYTES
    print(f"blocks of {BLOCK_BYTES / 1e6:.0f} MB; the smallest corpus fills {filled:.2f} of them; k = 10\n")
    print(
        f"{'method':8} {'tokens':>9} {'activations':>12} {'peak':>8} {'of the first':>13} {'seconds':>8} {'CPU':>7} {'error':>7}"
    )
    for method in methods:
        peaks: list[int] = []
        for n in (CORPUS * each for each in times):
            corpus = folder / f"corpus-{n}"
            if not (corpus / "_log").exists():
                write_corpus(corpus, n)
            command = [sys.executable, __file__, str(corpus), "--peak-of", method]
            said = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            peaks.append(said["peak"])
            raw, peak = f"{4 * n * D_FF / 1e6:.0f} MB", f"{said['peak'] / 1e6:.0f} MB"
            print(
                f"{method:8} {n:9} {raw:>12} {peak:>8} {peaks[-1] / peaks[0]:12.3f}× {said['seconds']:8.1f} {said['cpu']:7.1f} "
                f"{said['error']:7.4f}",
                flush=True,
            )
        print()


def peak_of(store: str, method: Any) -> dict[str, Any]:
    started, cpu = time.perf_counter(), time.process_time()
    opened = actlake.open(store)
    factors = opened.factors(10, method=method, in_memory_bytes=1 << 24)
    opened.save(factors, name=f"{method}, {os.getpid()}")
    lines = Path("/proc/self/status").read_text().splitlines()  # getrusage would count the parent's
    peak = next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    seconds = time.perf_counter() - started
    return {"peak": peak, "seconds": seconds, "cpu": time.process_time() - cpu, "error": factors.error}


def write_corpus(folder: Path, n_tokens: int) -> None:
    """A corpus of one layer of which 12 directions make most of the energy."""
    location, n = Location.of(folder), n_tokens // TOKENS_A_GENERATION
    log, random = Log(location), np.random.default_rng(0)
    directions = random.standard_normal((12, D_FF), np.float32) ** 3
    row = dict.fromkeys(RUNS.arrow.names, 0) | dict.fromkeys(RUNS.arrow.names[1:7], "synthetic")
    row |= {"d_ff": D_FF, "precision": "bfloat16", "recorded": ["activations"], "gradient_target": None}
    row |= {"generation_config": json.dumps({"layers": [0]}), "versions": "{}", "status": "complete"}
    file = write_table(
        location, RUNS, pa.Table.from_pylist([row | {"created_at": datetime(2026, 1, 1)}], schema=RUNS.arrow)
    )
    log.commit(lambda _: Commit("register", "synthetic", [file], reserve=Reservation(0, 0, n)))
    for start in range(0, n, 64):
        generations = []
        for generation_id in range(start, min(start + 64, n)):
            present = random.exponential(size=(TOKENS_A_GENERATION, 12)).astype(np.float32)
            noise = random.standard_normal((TOKENS_A_GENERATION, D_FF), np.float32)
            ints, floats = np.arange(TOKENS_A_GENERATION, dtype=np.int32), np.zeros(TOKENS_A_GENERATION, np.float32)
            tokens = CapturedTokens(ints, ["t"] * len(ints), ints, ints, ints < 0, floats, ints, floats)
            values = {0: present @ directions + noise}
            generations.append(
                CapturedGeneration(
                    generation_id, 0, generation_id, "p", "", len(ints), "stop", {}, tokens, activations=values
                )
            )
        files = write_shard(location, generations, "bfloat16")
        log.commit(lambda _, key=f"{start}", files=files: Commit("capture", key, files))


if __name__ == "__main__":
    main()
