"""The units of a run that one call does: each is captured, written while the model does the next one, and committed."""

import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np

from ..errors import ActlakeError, DiskFull
from ..store import CapturedGeneration, DataFile, Log, Reservation, write_shard
from ..store.memory import kept_memory
from ..store.statistics import Counting, statistics_of
from .allowance import Allowance, check_space_left
from .devices import Arriving
from .faults import OF_MODEL, OF_WRITING, Skips, by_halves, free_memory, not_finite, said
from .models import Model
from .options import CaptureOptions
from .plan import Plan, Work
from .procedure import Procedure
from .registration import CapturedIds, commit_unit
from .unit import CapturedBatch, capture_unit

IN_WRITING = 1
"""Batches that wait to be on disk while the model does the next one.

On a CPU the model waits while a batch is encoded: each of its operations is as slow as its slowest thread, and threads that
encode would take the core of one of them (docs/benchmarks.md).
"""


@dataclass(frozen=True)
class Progress:
    """How far a capture is: generations in the store of all that this call sees to, and what it added."""

    n_done: int
    n_total: int
    n_tokens: int
    n_bytes: int
    seconds: float


class Units:
    """What a call has still to do, what is being written for it, and what it did."""

    def __init__(
        self,
        log: Log,
        model: Model,
        plan: Plan,
        options: CaptureOptions,
        reservation: Reservation,
        procedure: Procedure,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> None:
        self._started, self._on_progress = time.monotonic(), on_progress
        self._log, self._model, self._plan, self._options = log, model, plan, options
        self.reservation, self._procedure = reservation, procedure
        self._units = deque(options.part.units(plan.units(options, procedure)))
        self.n_wanted = sum(map(len, self._units))
        self._wanted: Collection[int] = reservation.generation_ids
        if self.n_wanted < len(plan.works):
            self._wanted = {self._id_of(work) for unit in self._units for work in unit}
        self._captured = CapturedIds(log.location, reservation)
        self._done, self._n_done = set[int](), 0
        self._captured.see(log.snapshot())
        self._add_done(self._captured.new())
        self._allowance = Allowance(options.most_bytes, log.location, reservation)
        self._in_writing = deque[Future[_Written]]()
        neurons = np.arange(model.anatomy.d_ff) if plan.neurons is None else np.array(plan.neurons)
        self._counting = Counting(log, neurons.astype(np.int32))
        self.skips = Skips(model, self.n_wanted)
        self.n_captured, self.n_tokens, self.n_bytes = 0, 0, 0

    def check_space(self) -> None:
        """Raise TooManyBytes or NotEnoughSpace when there is no room for what is missing of the whole run."""
        if missing := self._missing(self._plan.works):
            written = self._allowance.written(self._log.snapshot())
            check_space_left(self._log.location, self._model, self._plan, self._options, missing, written)

    def check_bytes(self, more: int) -> None:
        """Raise TooManyBytes when so many bytes more are too many."""
        self._allowance.check(self._log.snapshot(), more)

    def do(self) -> set[int]:
        """Do what is missing; gives the ids of generations of the whole run that the store has then.

        Raises what is no prompt's fault, after what is being written is committed.
        """
        self._report()
        with kept_memory(), ThreadPoolExecutor(1, thread_name_prefix="actlake-write") as writer:
            while self._units or self._in_writing:
                if self._units and (missing := self._missing(self._units.popleft())):
                    for captured in by_halves(missing, self._capture, self._skip, faults=OF_MODEL, settle=self._settle):
                        self._begin_to_write(writer, *captured)
                        del captured  # the next batch takes its memory
                self._collect(most=IN_WRITING if self._units else 0)
            self._commit_statistics()
        self._captured.see(self._log.snapshot())
        self._add_done(self._captured.new())
        return self._done

    def _missing(self, works: Sequence[Work]) -> list[Work]:
        return [work for work in works if self._id_of(work) not in self._done]

    def _id_of(self, work: Work) -> int:
        return self.reservation.first_generation_id + work.prompt_index

    def _add_done(self, ids: set[int]) -> None:
        """Count generations that the store has, none of which was counted."""
        self._done |= ids
        self._n_done += sum(generation_id in self._wanted for generation_id in ids)

    def _capture(self, works: Sequence[Work]) -> tuple[Sequence[Work], Arriving[CapturedBatch]]:
        arriving = capture_unit(self._model, works, self._plan, self._options, self.reservation, self._procedure)
        return works, arriving

    def _begin_to_write(
        self, writer: ThreadPoolExecutor, works: Sequence[Work], arriving: Arriving[CapturedBatch]
    ) -> None:
        is_encoded = threading.Event()
        writing = writer.submit(self._write, works, arriving, is_encoded.set)
        writing.add_done_callback(lambda _: is_encoded.set())
        self._in_writing.append(writing)
        if self._model.device.type == "cpu":
            is_encoded.wait()

    def _write(
        self,
        works: Sequence[Work],
        arriving: Arriving[CapturedBatch],
        on_encoded: Callable[[], object],
    ) -> "_Written":
        """Write and commit those whose values are all finite, in a thread of its own, where they are waited for too."""
        written = _Written()
        try:
            batch = arriving()
        except OF_MODEL as error:
            if isinstance(error, ActlakeError):
                raise
            return _Written(lost=works, reason=said(error))

        def write(part: Sequence[CapturedGeneration]) -> None:
            add: Callable[[Sequence[DataFile]], None] | None = None

            def encoded() -> None:
                nonlocal add
                statistics = batch.statistics if len(part) == len(batch.generations) else None
                if statistics is None:
                    statistics = statistics_of(part, self._options.precision)
                if self._counting.is_due:
                    self._commit_statistics()
                add = self._counting.adding(part, statistics)
                on_encoded()

            files = write_shard(self._log.location, part, self._options.precision, encoded)
            size = sum(file.bytes for file in files)
            is_there = commit_unit(
                self._log, self._captured, part, files, lambda snapshot: self._allowance.check(snapshot, size, files)
            )
            written.done |= self._captured.new()
            if not is_there:  # another process did some of it meanwhile
                written.again.extend(generation.prompt_index for generation in part)
                return
            written.n_generations += len(part)
            written.n_tokens += sum(generation.n_tokens for generation in part)
            written.n_bytes += size
            if add:
                add(files)

        def skip(generation: CapturedGeneration, reason: str) -> None:
            written.skipped[generation.prompt_index] = reason

        faults = {each.prompt_index: not_finite(each) for each in batch.generations}
        written.skipped |= {index: fault for index, fault in faults.items() if fault}
        if finite := [each for each in batch.generations if not faults[each.prompt_index]]:
            list(by_halves(finite, write, skip, faults=OF_WRITING))
        return written

    def _commit_statistics(self) -> None:
        with suppress(DiskFull):  # the index step makes them then, when there is room
            self._counting.commit()

    def _collect(self, most: int = 0) -> None:
        """Wait until at most so many batches are being written, and count the others."""
        while len(self._in_writing) > most:
            written = self._in_writing.popleft().result()
            self._add_done(written.done)
            self.n_captured += written.n_generations
            self.n_tokens += written.n_tokens
            self.n_bytes += written.n_bytes
            if written.lost:
                self._halve(written.lost, written.reason)
            if written.again:
                self._units.append(tuple(self._plan.works[index] for index in written.again))
            self._report()
            for prompt_index, reason in written.skipped.items():
                self._skip(self._plan.works[prompt_index], reason)

    def _halve(self, works: Sequence[Work], reason: str) -> None:
        """Do a batch, whose values did not arrive, again in halves; a single prompt is left out."""
        free_memory()
        half = len(works) // 2
        if half:
            self._units.extend([tuple(works[:half]), tuple(works[half:])])
        else:
            self._skip(works[0], reason)

    def _settle(self) -> None:
        self._collect()
        free_memory()

    def _skip(self, work: Work, reason: str) -> None:
        self.skips.add(work, reason, n_there=len(self._done))

    def _report(self) -> None:
        if self._on_progress:
            seconds = time.monotonic() - self._started
            self._on_progress(Progress(self._n_done, self.n_wanted, self.n_tokens, self.n_bytes, seconds))


@dataclass
class _Written:
    """What became of a batch: generations that the store was then found to have, what was added, the prompts that are to be done
    again, and why others could not be written; or a whole batch that was lost on its way here, and why."""

    done: set[int] = field(default_factory=set)
    n_generations: int = 0
    n_tokens: int = 0
    n_bytes: int = 0
    again: list[int] = field(default_factory=list)
    lost: Sequence[Work] = ()
    reason: str = ""
    skipped: dict[int, str] = field(default_factory=dict)
