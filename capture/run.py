"""A capture from beginning to end: register the run, do the units that are missing, commit each, say that it is complete."""

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from ..errors import NotEnoughSpace
from ..store import CapturedGeneration, Location, Log, index, write_shard
from .models import Model, load_model
from .options import CaptureOptions
from .plan import Plan, Work, byte_budget, make_plan
from .procedure import choose
from .prompts import Prompt, prompts_from
from .registration import CapturedIds, commit_unit, complete, register, run_key, run_row
from .unit import capture_unit

IN_WRITING = 1
"""Batches that wait to be on disk while the model does the next one."""


@dataclass(frozen=True)
class Progress:
    """How far a capture is: generations in the store of all that there will be, and what this call added."""

    n_done: int
    n_total: int
    n_tokens: int
    n_bytes: int
    seconds: float


@dataclass(frozen=True)
class Run:
    """A captured run: `n_captured` generations were added by this call, the others were there."""

    uri: str
    run_id: int
    first_generation_id: int
    n_generations: int
    n_captured: int
    n_tokens: int
    n_bytes: int
    seconds: float

    @property
    def generation_ids(self) -> range:
        return range(self.first_generation_id, self.first_generation_id + self.n_generations)

    def sentence(self) -> str:
        """What was done, for people."""
        there = self.n_generations - self.n_captured
        if not self.n_captured:
            return f"run {self.run_id} of {self.uri}: all {self.n_generations} generations were there already"
        return (
            f"run {self.run_id} of {self.uri}: captured {self.n_captured} generation{'s' * (self.n_captured != 1)}"
            f"{f' ({there} were there)' if there else ''}, {self.n_tokens} tokens, "
            f"{self.n_bytes / 1e6:.3g} MB in {self.seconds:.1f} s"
        )


def capture(
    store: str | os.PathLike[str],
    model: str | Model,
    prompts: Iterable[str | Mapping[str, Any] | Prompt] | os.PathLike[str],
    *,
    on_progress: Callable[[Progress], None] | None = None,
    **options: Any,
) -> Run:
    """Let a model continue prompts, and record what happens inside it into a store, which is made if there is none.

    `model` is a Hugging Face id, a local folder, a .gguf file, `smollm2-135m`, or a Model in hand. `prompts` are texts,
    mappings with a `prompt` or `text` (other fields become metadata), or a path to a .txt or .jsonl file.
    `options` are those of `CaptureOptions`: max_new_tokens, record, gradients, layers, precision, batch_size, ffn, device,
    dtype, temperature, top_k, top_p, seed, chat, gradient_target, gradient_tokens, name, index.

    The same call on the same store finishes what is missing and writes nothing twice. Each batch is committed as it is
    done; `on_progress` is called after each. Raises ActlakeError; what was committed before stays.
    """
    chosen = CaptureOptions(**options)
    records = prompts_from(prompts)
    if isinstance(model, str):
        model = load_model(model, device=chosen.device, dtype=chosen.dtype, ffn=chosen.ffn)
    return capture_plan(Location.of(store), model, make_plan(model, records, chosen), chosen, on_progress)


def capture_plan(
    location: Location,
    model: Model,
    plan: Plan,
    options: CaptureOptions,
    on_progress: Callable[[Progress], None] | None = None,
) -> Run:
    """As `capture`, for a model and a plan in hand. Raises NotEnoughSpace before anything is written."""
    started, log = time.monotonic(), Log(location)
    key = run_key(model, plan, options)
    if not (log.exists() and key in log.snapshot().keys):
        check_space(location, model, plan, options)
    reservation, procedure = register(
        log, key, run_row(model, plan, options), len(plan.works), lambda: choose(model, plan.layers, options)
    )
    first = reservation.first_generation_id
    captured = CapturedIds(location, reservation)
    done = captured.of(log.snapshot())
    n_captured, n_tokens, n_bytes = 0, 0, 0

    def report() -> None:
        if on_progress:
            on_progress(Progress(len(done), len(plan.works), n_tokens, n_bytes, time.monotonic() - started))

    def write(works: Sequence[Work], generations: Sequence[CapturedGeneration]) -> _Written:
        files = write_shard(location, generations, options.precision)
        snapshot = commit_unit(log, captured, generations, files)
        if files[0].path not in snapshot.files:  # another process did some of it meanwhile
            return _Written(captured.of(snapshot), again=tuple(works))
        counts = (len(works), sum(g.n_tokens for g in generations), sum(file.bytes for file in files))
        return _Written(captured.of(snapshot), *counts)

    report()
    units, in_writing = deque(plan.units(options, procedure)), deque[Future[_Written]]()
    with ThreadPoolExecutor(1, thread_name_prefix="actlake-write") as writer:  # while the model does the next unit
        while units or in_writing:
            if units and (missing := [work for work in units.popleft() if first + work.prompt_index not in done]):
                generations = capture_unit(model, missing, plan.layers, options, reservation, procedure)
                in_writing.append(writer.submit(write, missing, generations))
            if in_writing and (not units or len(in_writing) > IN_WRITING):
                written = in_writing.popleft().result()
                done = written.done
                n_captured, n_tokens = n_captured + written.n_generations, n_tokens + written.n_tokens
                n_bytes += written.n_bytes
                if written.again:
                    units.append(written.again)
                report()
    complete(log, key, reservation.run_id)
    if options.index and options.records("activations"):
        index(location)
    seconds = time.monotonic() - started
    return Run(location.uri, reservation.run_id, first, len(plan.works), n_captured, n_tokens, n_bytes, seconds)


@dataclass(frozen=True)
class _Written:
    """What became of a unit: generations that the store has of the run now, what was added, what is to be done again."""

    done: set[int]
    n_generations: int = 0
    n_tokens: int = 0
    n_bytes: int = 0
    again: tuple[Work, ...] = ()


def check_space(location: Location, model: Model, plan: Plan, options: CaptureOptions) -> None:
    """Raise NotEnoughSpace when the store's disk has less room than the whole run may take."""
    needed, free = sum(byte_budget(model, plan, options).values()), location.free_bytes()
    if free is not None and needed > free:
        raise NotEnoughSpace(location.uri, needed, free)
