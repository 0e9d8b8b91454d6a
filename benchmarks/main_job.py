"""Measures the main job on the built-in model: capture against plain generation, bytes per value, and latencies.

    python benchmarks/main_job.py [--rounds 3]

Every figure is of this run on this machine: the median of the rounds, with the least and the greatest. Capture and plain
`generate()` have the same batches of the same prompts, in turn, in one process.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import actlake
from actlake.capture import CaptureOptions, Model, Plan, capture_plan, load_model, make_plan, read_prompts
from actlake.capture.generate import continuations
from actlake.capture.procedure import Procedure
from actlake.store import Location

MAX_NEW_TOKENS = 32
BATCH_SIZE = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    model = load_model("smollm2-135m")
    with resources.as_file(resources.files("actlake.capture") / "demo.jsonl") as path:
        prompts = read_prompts(path)
    vectors = CaptureOptions(max_new_tokens=MAX_NEW_TOKENS, batch_size=BATCH_SIZE, record=("embeddings", "activations"))
    everything = CaptureOptions(max_new_tokens=MAX_NEW_TOKENS, batch_size=BATCH_SIZE)
    plan = make_plan(model, prompts, everything)
    with tempfile.TemporaryDirectory() as folder:
        stores = Path(folder)
        generate(model, plan, vectors)  # warm up
        times: dict[str, list[float]] = {"generate": [], "vectors": [], "everything": []}
        for number in range(rounds):
            times["generate"].append(seconds(lambda: generate(model, plan, vectors)))
            for name, options in (("vectors", vectors), ("everything", everything)):
                where = Location.of(stores / f"{name}{number}")
                times[name].append(seconds(lambda w=where, o=options: capture_plan(w, model, plan, o)))
        store = actlake.open(stores / "everything0")
        report_capture(times, store)
        report_sizes(store)
        report_latencies(stores / "everything0", rounds)


def generate(model: Model, plan: Plan, options: CaptureOptions) -> None:
    """Plain batched `generate()` of the plan's batches."""
    for unit in plan.units(options, Procedure()):
        indices = [work.prompt_index for work in unit]
        continuations(model, [work.token_ids for work in unit], unit[0].max_new_tokens, options.sampling, indices)


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def spread(values: list[float], scale: float = 1.0, unit: str = "") -> str:
    median, least, most = (scale * f(values) for f in (statistics.median, min, max))
    return f"{median:8.2f}{unit}  ({least:.2f} to {most:.2f})"


def report_capture(times: dict[str, list[float]], store: actlake.Store) -> None:
    ((n_tokens, n_outputs),) = store.sql("""
        select sum(n_tokens)::int, sum(n_tokens - n_prompt_tokens)::int from generations
    """).fetchall()
    print(f"12 prompts, {n_tokens} tokens, {n_outputs} of them generated, batches of {BATCH_SIZE}\n")
    print(f"plain generate()                            {spread(times['generate'], unit=' s')}")
    names = {"vectors": "embeddings and activations", "everything": "and gradients"}
    for name, what in names.items():
        ratios = [a / b for a, b in zip(times[name], times["generate"], strict=True)]
        print(f"capture, {what:34} {spread(times[name], unit=' s')}")
        print(f"{'':9}over generate(){'':19} {spread(ratios, unit='×')}")
    for_gradients = [a - b for a, b in zip(times["everything"], times["vectors"], strict=True)]
    print(f"gradients, output tokens a second           {spread([n_outputs / t for t in for_gradients])}\n")


def report_sizes(store: actlake.Store) -> None:
    sizes = store.size().set_index("table")
    run = store.runs().iloc[0]
    for table, width in (
        ("activation_vectors", run["d_ff"]),
        ("embeddings", run["d_model"]),
        ("gradients", run["d_model"]),
    ):
        per_value = sizes["bytes"][table] / (sizes["rows"][table] * width)
        print(f"bytes a value, {table:28} {per_value:8.2f}    ({per_value / 2:.2f}× raw bfloat16)")
    print()


def report_latencies(path: Path, rounds: int) -> None:
    n_generations = len(actlake.open(path).generations())
    longest = max(range(n_generations), key=lambda index: actlake.open(path).generation(index).n_tokens)
    n_tokens = actlake.open(path).generation(longest).n_tokens
    print(f"the longest generation, {n_tokens} tokens:")
    questions: dict[str, Callable[[], object]] = {
        "open the store and the generation": lambda: actlake.open(path).generation(longest).tokens,
        "its saliency matrix": lambda: actlake.open(path).generation(longest).saliency(),
        "one layer's activations": lambda: actlake.open(path).generation(longest).activations([4]),
        "all layers' activations": lambda: actlake.open(path).generation(longest).activations(),
        "five factors of one layer": lambda: actlake.open(path).generation(longest).factors(5, [4]),
        "five factors of all layers": lambda: actlake.open(path).generation(longest).factors(5),
    }
    for what, ask in questions.items():
        ask()
        n_asked = rounds if "all layers" in what else 5 * rounds
        print(f"  {what:41} {spread([seconds(ask) for _ in range(n_asked)], 1000, ' ms')}")


if __name__ == "__main__":
    main()
