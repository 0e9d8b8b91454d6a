"""A capture from beginning to end: register the run, do the units that are missing, commit each, say that it is complete.

A run is identified by what it is: model, tokenizer, options and prompts. Its number and its generations' numbers are
reserved by its first commit, so the same command finds its run again, skips what is there and writes the same numbers.
"""

import hashlib
import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

import numpy as np
import pyarrow as pa

from ..errors import NotEnoughSpace
from ..store import (
    CapturedGeneration,
    CapturedTokens,
    Commit,
    DataFile,
    GradientTarget,
    Location,
    Log,
    Reader,
    Reservation,
    Snapshot,
    index,
    write_shard,
    write_table,
)
from ..store.schema import RUNS
from .generate import FinishReason, continuations, finish_reason
from .models import Model, load_model
from .options import CaptureOptions
from .plan import Plan, Work, byte_budget, make_plan
from .prompts import Prompt, prompts_from
from .replay import Recorded, replay, replay_encoder

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
    key = _key(model, plan, options)
    if not (log.exists() and key in log.snapshot().keys):
        check_space(location, model, plan, options)
    reservation = _register(log, key, _run_row(model, plan, options), len(plan.works))
    first = reservation.first_generation_id
    captured = _CapturedIds(location, reservation)
    done = captured.of(log.snapshot())
    n_captured, n_tokens, n_bytes = 0, 0, 0

    def report() -> None:
        if on_progress:
            on_progress(Progress(len(done), len(plan.works), n_tokens, n_bytes, time.monotonic() - started))

    def write(works: Sequence[Work], generations: Sequence[CapturedGeneration]) -> _Written:
        files = write_shard(location, generations, options.precision)
        snapshot = _commit_unit(log, captured, generations, files)
        if files[0].path not in snapshot.files:  # another process did some of it meanwhile
            return _Written(captured.of(snapshot), again=tuple(works))
        counts = (len(works), sum(g.n_tokens for g in generations), sum(file.bytes for file in files))
        return _Written(captured.of(snapshot), *counts)

    report()
    units, in_writing = deque(plan.units(options)), deque[Future[_Written]]()
    with ThreadPoolExecutor(1, thread_name_prefix="actlake-write") as writer:  # while the model does the next unit
        while units or in_writing:
            if units and (missing := [work for work in units.popleft() if first + work.prompt_index not in done]):
                generations = capture_unit(model, missing, plan.layers, options, reservation)
                in_writing.append(writer.submit(write, missing, generations))
            if in_writing and (not units or len(in_writing) > IN_WRITING):
                written = in_writing.popleft().result()
                done = written.done
                n_captured, n_tokens = n_captured + written.n_generations, n_tokens + written.n_tokens
                n_bytes += written.n_bytes
                if written.again:
                    units.append(written.again)
                report()
    _complete(log, key, reservation.run_id)
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


def capture_unit(
    model: Model, works: Sequence[Work], layers: Sequence[int], options: CaptureOptions, reservation: Reservation
) -> list[CapturedGeneration]:
    """Generate and replay one batch; nothing is written."""
    prompts = [work.token_ids for work in works]
    if not model.anatomy.is_causal:
        texts = replay_encoder(
            model, prompts, [work.targets for work in works], layers=layers, gradients=options.records("gradients")
        )
        return [
            _captured_generation(model, work, [], what, options, reservation)
            for work, what in zip(works, texts, strict=True)
        ]
    room = works[0].max_new_tokens
    completions = [list(work.completion_ids) for work in works]
    if room:
        completions = continuations(model, prompts, room, options.sampling, [work.prompt_index for work in works])
    recorded = replay(
        model,
        [[*prompt, *completion] for prompt, completion in zip(prompts, completions, strict=True)],
        [len(prompt) for prompt in prompts],
        layers=layers,
        gradients=_gradient_target(options),
        scores=options.records("gradient_scores"),
        gradient_tokens=options.gradient_tokens,
    )
    return [
        _captured_generation(model, work, completion, what, options, reservation)
        for work, completion, what in zip(works, completions, recorded, strict=True)
    ]


def _captured_generation(
    model: Model,
    work: Work,
    completion: Sequence[int],
    recorded: Recorded,
    options: CaptureOptions,
    reservation: Reservation,
) -> CapturedGeneration:
    text, ids = model.text, [*work.token_ids, *completion]
    char_start, char_end = text.spans(work.text, work.token_ids, completion)
    reason: FinishReason = "given" if work.completion_ids else "stop"
    if work.max_new_tokens:
        reason = finish_reason(completion, model.end_ids, options.max_new_tokens)
    return CapturedGeneration(
        generation_id=reservation.first_generation_id + work.prompt_index,
        run_id=reservation.run_id,
        prompt_index=work.prompt_index,
        prompt=work.text,
        completion=text.completion(completion) or " ".join(text.text_of(target).strip() for target in recorded.targets),
        n_prompt_tokens=len(work.token_ids),
        finish_reason=reason,
        metadata=work.prompt.metadata,
        tokens=CapturedTokens(
            token_id=np.array(ids, np.int32),
            token=[text.text_of(token_id) for token_id in ids],
            char_start=char_start,
            char_end=char_end,
            is_special=np.array([text.is_special(token_id) for token_id in ids]),
            logprob=recorded.logprob,
            rank=recorded.rank,
            entropy=recorded.entropy,
        ),
        embeddings=recorded.embeddings if options.records("embeddings") else None,
        activations=recorded.activations if options.records("activations") else None,
        gradients=recorded.gradients if options.records("gradients") else None,
        gradient_scores=recorded.gradients if options.records("gradient_scores") else None,
        masked=recorded.masked,
    )


def _gradient_target(options: CaptureOptions) -> GradientTarget | None:
    wanted = options.records("gradients") or options.records("gradient_scores")
    return options.gradient_target if wanted else None


def _key(model: Model, plan: Plan, options: CaptureOptions) -> str:
    """What the run is, as one word: the same for the same model, tokenizer, options and prompts."""
    prompts = [
        [work.text, work.max_new_tokens > 0, dict(work.prompt.metadata), *filter(None, [work.prompt.completion])]
        for work in plan.works
    ]
    row = _run_row(model, plan, options)
    same = ("model_hash", "tokenizer_hash", "precision", "recorded", "gradient_target", "generation_config", "seed")
    identity = json.dumps([[row[name] for name in same], prompts], sort_keys=True)
    return f"run/{hashlib.sha256(identity.encode()).hexdigest()}"


def _run_row(model: Model, plan: Plan, options: CaptureOptions) -> dict[str, Any]:
    """The row of `runs`, without the number that the store gives it."""
    anatomy = model.anatomy
    how = {
        "max_new_tokens": options.max_new_tokens,
        "temperature": options.temperature,
        "top_k": options.top_k,
        "top_p": options.top_p,
        "chat": options.chat,
        "end_ids": model.end_ids,
        "dtype": model.dtype,
        "layers": plan.layers,
        "ffn": anatomy.ffn,
        **({} if anatomy.is_causal else {"attention": "bidirectional"}),
    }
    libraries = ("actlake", "torch", "transformers", "tokenizers", "pyarrow")
    return {
        "name": options.name or model.name,
        "model": model.name,
        "model_revision": model.revision,
        "model_hash": model.hash,
        "tokenizer_hash": model.tokenizer_hash,
        "architecture": type(model.network).__name__,
        "n_layers": anatomy.n_layers,
        "d_model": anatomy.d_model,
        "d_ff": anatomy.d_ff,
        "vocab_size": anatomy.vocab_size,
        "precision": options.precision,
        "recorded": list(options.recorded),
        "gradient_target": _gradient_target(options),
        "generation_config": json.dumps(how),
        "seed": options.seed,
        "versions": json.dumps({library: metadata.version(library) for library in libraries}),
        "created_at": datetime.now(UTC).replace(tzinfo=None),
        "status": "capturing",
    }


def _register(log: Log, key: str, row: Mapping[str, Any], n_generations: int) -> Reservation:
    """The numbers of the run: those that it has already, or new ones."""

    def build(snapshot: Snapshot) -> Commit | None:
        if key in snapshot.keys:
            return None
        reservation = Reservation(snapshot.next_run_id, snapshot.next_generation_id, n_generations)
        rows = pa.Table.from_pylist([{**row, "run_id": reservation.run_id}], schema=RUNS.arrow)
        return Commit("register", key, [write_table(log.location, RUNS, rows)], reserve=reservation)

    reservation = log.read(log.commit(build).keys[key]).reserve
    assert reservation is not None, "a run is registered with its numbers"
    return reservation


def _commit_unit(
    log: Log, captured: "_CapturedIds", generations: Sequence[CapturedGeneration], files: Sequence[DataFile]
) -> Snapshot:
    """Commit a unit, or delete its files if another process has committed some of it meanwhile; the snapshot after."""
    ids = {generation.generation_id for generation in generations}
    key = f"generations/{hashlib.sha256(json.dumps(sorted(ids)).encode()).hexdigest()}"
    snapshot = log.commit(lambda s: None if ids & captured.of(s) else Commit("capture", key, files))
    for file in files:
        if file.path not in snapshot.files:
            log.location.delete(file.path)
    return snapshot


def _complete(log: Log, key: str, run_id: int) -> None:
    """Replace the run's row by one that says that it is complete."""
    reader = Reader(log.location)

    def build(snapshot: Snapshot) -> Commit | None:
        if f"{key}/complete" in snapshot.keys:
            return None
        for old in snapshot.of(RUNS.name, run_id=run_id):  # one of them has it, and other runs too after a compaction
            rows = reader.rows(Snapshot(files={old.path: old}), RUNS.name).to_pylist()
            if run_id in [row["run_id"] for row in rows]:
                break
        said = [row | {"status": "complete"} if row["run_id"] == run_id else row for row in rows]
        new = write_table(log.location, RUNS, pa.Table.from_pylist(said, schema=RUNS.arrow))
        return Commit("complete", f"{key}/complete", [new], remove=[old.path])

    log.commit(build)


class _CapturedIds:
    """Which of a run's generations a snapshot holds; each file is read once. What was captured once stays so."""

    def __init__(self, location: Location, reservation: Reservation) -> None:
        self._reader = Reader(location)
        self._ids = reservation.generation_ids
        self._found: set[int] = set()
        self._paths: set[str] = set()

    def of(self, snapshot: Snapshot) -> set[int]:
        if not self._ids:
            return set()
        for file in snapshot.of("generations", generation_id=(self._ids.start, self._ids.stop - 1)):
            if file.path not in self._paths:
                rows = self._reader.rows(Snapshot(files={file.path: file}), file.table, columns=["generation_id"])
                self._found |= set(rows["generation_id"].to_pylist()) & set(self._ids)
                self._paths.add(file.path)
        return set(self._found)
