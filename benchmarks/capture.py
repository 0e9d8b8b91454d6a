"""Measures capture of embeddings and activations against what the model alone takes, and its memory.

    python benchmarks/capture.py [--rounds 2] [--prompts 64] [--max-new-tokens 40] [--threads 2] [--memory-prompts 400]

On the built-in model: a whole capture of prompts over plain batched `generate()` of the same prompts in the same batches;
of given texts over a bare forward pass over the same batches, with the logits that capture needs; where the CPU time of a
batch goes; and the greatest memory of a capture on a tiny model, for as many and ten times as many prompts. Each round does
every way in turn; what the model alone does has a process of its own, with nothing of a capture in it, as those run it who do
not capture. A ratio is of two that stand beside each other, in wall and in CPU time. Figures are medians, with the least and
the greatest.
"""

import argparse
import hashlib
import multiprocessing
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from actlake.capture import CaptureOptions, Model, Plan, Prompt, capture_plan, load_model, make_plan
from actlake.capture.builtin import NAME, builtin_folder
from actlake.capture.generate import Sampling, continuations
from actlake.capture.plan import Work
from actlake.capture.procedure import Procedure, choose
from actlake.capture.replay import replay
from actlake.capture.steps import write_and_record
from actlake.capture.wanted import Wanted
from actlake.store import Location, index
from actlake.store.parquet import encode, list_column
from actlake.store.schema import ACTIVATION_VECTORS
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

RECORD = ("embeddings", "activations")
Times = tuple[float, float]
"""Seconds on the clock, and of the CPU."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--max-new-tokens", type=int, default=40)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--memory-prompts", type=int, default=400, help="0 leaves memory out")
    args = parser.parse_args()
    job = Job.of(args.threads, args.prompts, args.max_new_tokens)
    units = job.batches(job.written)
    n_prompt = sum(len(work.token_ids) for work in job.written.works)
    print(
        f"{args.prompts} prompts of {n_prompt} tokens, {args.max_new_tokens} new ones each; batches of {[*map(len, units)]}; "
        f"{job.procedure}"
    )
    print(f"{args.threads} threads, load {os.getloadavg()[0]:.1f}\n")
    job.warm_up()
    with multiprocessing.get_context("spawn").Pool(
        1, begin_alone, (args.threads, args.prompts, args.max_new_tokens)
    ) as alone:
        report_ratio("generate()", job, job.written, args.rounds, lambda: alone.apply(alone_generating))
        report_ratio("a forward pass of given texts", job, job.given, args.rounds, lambda: alone.apply(alone_reading))
    report_parts(job.model, job.written, job.options, job.procedure)
    if args.memory_prompts:
        report_memory(args.memory_prompts)


@dataclass(frozen=True)
class Job:
    """What is measured: prompts to continue and the same as texts, in batches, on the built-in model."""

    model: Model
    written: Plan
    given: Plan
    options: CaptureOptions
    procedure: Procedure

    @classmethod
    def of(cls, threads: int, n_prompts: int, max_new_tokens: int) -> "Job":
        torch.set_num_threads(threads)
        model = load_model(NAME)
        options = CaptureOptions(max_new_tokens=max_new_tokens, record=RECORD, index=False)
        written, given = (
            make_plan(
                model, [Prompt(text, "a prompt", generate=generate) for text in some_prompts(model, n_prompts)], options
            )
            for generate in (True, False)
        )
        return cls(model, written, given, options, choose(model, written.layers, options, written.longest))

    def batches(self, plan: Plan) -> list[Sequence[Work]]:
        return list(plan.units(self.options, self.procedure))

    def warm_up(self) -> None:
        few = make_plan(self.model, [Prompt("Two words", "a prompt")], self.options)
        with tempfile.TemporaryDirectory() as folder:
            capture_plan(Location.of(folder), self.model, few, self.options)


def some_prompts(model: Model, n: int) -> list[str]:
    """Texts of 20 to 80 tokens, of words."""
    rng, words = random.Random(4), ("the", "of", "model", "token", "layer", "number", "from", "language", "is", "and")
    return [" ".join(rng.choices(words, k=rng.randrange(20, 81))) for _ in range(n)]


_alone: Job
"""In the process that runs the model alone: what it runs."""


def begin_alone(threads: int, n_prompts: int, max_new_tokens: int) -> None:
    global _alone
    _alone = Job.of(threads, n_prompts, max_new_tokens)
    generate(_alone.model, _alone.batches(_alone.written)[-1])


def alone_generating() -> Times:
    return timed(lambda: [generate(_alone.model, unit) for unit in _alone.batches(_alone.written)])


def alone_reading() -> Times:
    return timed(lambda: [forward(_alone.model, unit) for unit in _alone.batches(_alone.given)])


@torch.inference_mode()
def generate(model: Model, unit: Sequence[Work]) -> None:
    """The library's plain batched `generate()` of a batch, greedy."""
    texts = [work.token_ids for work in unit]
    width = max(map(len, texts))
    ids = torch.tensor([[model.pad_id] * (width - len(text)) + list(text) for text in texts])
    mask = torch.arange(width) >= torch.tensor([width - len(text) for text in texts])[:, None]
    model.network.generate(
        input_ids=ids,
        attention_mask=mask.long(),
        max_new_tokens=unit[0].max_new_tokens,
        do_sample=False,
        pad_token_id=model.pad_id,
        eos_token_id=list(model.end_ids),
    )


@torch.inference_mode()
def forward(model: Model, unit: Sequence[Work]) -> None:
    """A forward pass over a batch."""
    texts = [torch.tensor(work.token_ids) for work in unit]
    ids = torch.nn.utils.rnn.pad_sequence(texts, True, model.pad_id)
    mask = (torch.arange(ids.shape[1]) < torch.tensor([len(text) for text in texts])[:, None]).long()
    model.network(input_ids=ids, attention_mask=mask, use_cache=False)


def timed(work: Callable[[], object]) -> Times:
    cpu, wall = os.times(), time.perf_counter()
    work()
    wall, now = time.perf_counter() - wall, os.times()
    return wall, now.user + now.system - cpu.user - cpu.system


def report_ratio(what: str, job: Job, plan: Plan, rounds: int, bare: Callable[[], Times]) -> None:
    """Print what capturing a plan takes over what the model alone takes."""
    alone, captured, indexed = list[Times](), list[Times](), list[Times]()
    for _ in range(rounds):
        alone.append(bare())
        with tempfile.TemporaryDirectory() as folder:
            captured.append(timed(lambda f=folder: capture_plan(Location.of(f), job.model, plan, job.options)))
            indexed.append(add(captured[-1], timed(lambda f=folder: index(Location.of(f)))))
    for name, column in (("wall", 0), ("CPU", 1)):
        base = [times[column] for times in alone]
        print(f"{what}, {name} seconds".ljust(60), spread(base))
        for label, ways in (("capture", captured), ("capture and the index step", indexed)):
            these = [times[column] for times in ways]
            print(f"  {label}, {name} seconds".ljust(60), spread(these))
            print("    over it".ljust(60), spread([a / b for a, b in zip(these, base, strict=True)], "×"))
    print(flush=True)


def report_parts(model: Model, plan: Plan, options: CaptureOptions, procedure: Procedure) -> None:
    """Print the CPU seconds of what a capture does to the plan's largest batch."""
    unit = max(plan.units(options, procedure), key=len)
    prompts, indices, n_new = [work.token_ids for work in unit], range(len(unit)), unit[0].max_new_tokens
    layers, kept = plan.layers, list[Any]()

    def arrived(written: tuple[Any, Callable[[], Any]]) -> tuple[Any, Any]:
        return written[0], written[1]()

    def keep(of: Callable[[], object]) -> Callable[[], None]:
        return lambda: kept.append(of())

    seconds = {
        "generate(), with room in its cache": timed(lambda: continuations(model, prompts, n_new, Sampling(), indices)),
        "… and what the model says of each token": timed(
            lambda: write_and_record(model, prompts, n_new, Sampling(), indices, Wanted(()))[1]()
        ),
        "… and activations": timed(
            keep(lambda: arrived(write_and_record(model, prompts, n_new, Sampling(), indices, Wanted(layers))))
        ),
    }
    ((completions, recorded),) = kept
    texts = [[*prompt, *written] for prompt, written in zip(prompts, completions, strict=True)]
    seconds["the replay, which recording in steps makes needless"] = timed(
        lambda: replay(model, texts, [*map(len, prompts)], Wanted(layers))()
    )
    matrices = [each.activations[layer] for each in recorded for layer in layers]
    columns: list[object] = []
    columns.extend(map(list_column, matrices))
    n = [len(matrix) for matrix in matrices]
    rows = pa.table(
        {
            "generation_id": [row // len(layers) for row, length in enumerate(n) for _ in range(length)],
            "position": [at for length in n for at in range(length)],
            "layer": [row % len(layers) for row, length in enumerate(n) for _ in range(length)],
            "activation": pa.chunked_array(columns),
        }
    ).cast(ACTIVATION_VECTORS.arrow)
    pieces: list[bytes] = []
    seconds["rounding, encoding and hashing"] = timed(
        lambda: encode(ACTIVATION_VECTORS, [rows], pieces.append, options.precision)
    )
    seconds["hashing alone"] = timed(lambda: [hashlib.sha256(piece) for piece in pieces])
    with tempfile.TemporaryDirectory() as folder:
        seconds["writing"] = timed(lambda: Location.of(folder).put_if_absent("file", *pieces))
    print(
        f"one batch: {len(unit)} texts, {sum(map(len, texts))} tokens, {sum(map(len, matrices)) * matrices[0].shape[1]} values"
    )
    for what, (wall, cpu) in seconds.items():
        print(f"  {what}".ljust(60), f"{cpu:8.2f} s CPU {wall:8.2f} s wall")
    print(flush=True)


def report_memory(n_prompts: int) -> None:
    """Print the greatest memory of captures of so many prompts and ten times as many, every second one a given text."""
    spawning = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model"
        tokenizer = AutoTokenizer.from_pretrained(builtin_folder())
        config = LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=64, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4
        )
        LlamaForCausalLM(config).save_pretrained(path)
        tokenizer.save_pretrained(path)
        peaks = []
        for n in (n_prompts, 10 * n_prompts):
            with spawning.Pool(1) as pool:
                peaks.append(pool.apply(peak_bytes, (str(path), str(Path(folder) / str(n)), n)))
        print(f"greatest memory, a tiny model, {n_prompts} prompts".ljust(60), f"{peaks[0] / 1e6:8.0f} MB")
        print(f"  {10 * n_prompts} prompts".ljust(60), f"{peaks[1] / 1e6:8.0f} MB")
        print("    over it".ljust(60), f"{peaks[1] / peaks[0]:8.2f}×")


def peak_bytes(model: str, store: str, n: int) -> int:
    loaded = load_model(model)
    options = CaptureOptions(max_new_tokens=8, record=RECORD)
    texts = some_prompts(loaded, n)
    prompts = [Prompt(text, "a prompt", generate=number % 2 == 0) for number, text in enumerate(texts)]
    capture_plan(Location.of(store), loaded, make_plan(loaded, prompts, options), options)
    lines = Path("/proc/self/status").read_text().splitlines()  # getrusage would count the parent's
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def add(a: Times, b: Times) -> Times:
    return a[0] + b[0], a[1] + b[1]


def spread(values: Sequence[float], unit: str = "") -> str:
    return f"{statistics.median(values):8.2f}{unit}  ({min(values):.2f} to {max(values):.2f})"


if __name__ == "__main__":
    main()
