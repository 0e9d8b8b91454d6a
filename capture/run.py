"""A capture from beginning to end: register the run, do the units that are missing, commit each, say that it is complete."""

import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import NotEnoughSpace, TooManyBytes
from ..store import TABLES, Location, Log, Reader, index, partly_indexed
from ..store.schema import PROJECTION
from .allowance import check_space
from .faults import Skipped
from .models import Model, load_model
from .options import CaptureOptions
from .plainly import plainly
from .plan import Plan, byte_budget, make_plan
from .procedure import choose
from .prompts import Prompt, prompts_from
from .registration import complete, newest_key, register, run_key, run_row
from .shards import Shard
from .units import Progress, Units


@dataclass(frozen=True)
class Run:
    """A captured run: `n_captured` generations were added by this call, the others were there.

    Of its `n_generations` this call was to see to `n_wanted` (fewer with a shard); `n_there` are in the store now, and
    `skipped` are the prompts that could not be captured.
    """

    uri: str
    run_id: int
    first_generation_id: int
    n_generations: int
    n_captured: int
    n_tokens: int
    n_bytes: int
    seconds: float
    n_wanted: int
    n_there: int
    shard: str
    skipped: tuple[Skipped, ...] = ()

    @property
    def generation_ids(self) -> range:
        return range(self.first_generation_id, self.first_generation_id + self.n_generations)

    @property
    def is_complete(self) -> bool:
        return self.n_there == self.n_generations

    def sentence(self) -> str:
        """What was done, for people."""
        in_parts = self.shard != str(Shard())
        run = f"run {self.run_id} of {self.uri}{f', shard {self.shard}' if in_parts else ''}"
        there = self.n_wanted - self.n_captured - len(self.skipped)
        said = (
            f"{run}: captured {_generations(self.n_captured)}{f' ({there} were there)' if there else ''}, "
            f"{self.n_tokens} tokens, {self.n_bytes / 1e6:.3g} MB in {self.seconds:.1f} s"
        )
        if not self.n_wanted:
            said = f"{run}: nothing to do, the run has fewer batches than shards"
        elif there == self.n_wanted:
            said = f"{run}: all {_generations(there)} were there already"
        if self.skipped:
            said += f"; {len(self.skipped)} prompt{'s were' if len(self.skipped) > 1 else ' was'} skipped"
        if in_parts and not self.is_complete:
            said += f"; the run has {self.n_there} of {_generations(self.n_generations)}"
        return said


def _generations(number: int) -> str:
    return f"{number} generation{'s' * (number != 1)}"


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
    `options` are those of `CaptureOptions`: max_new_tokens, record, gradients, layers, lens, neurons, every, only_generated,
    max_bytes, precision, batch_size, ffn, device, dtype, temperature, top_k, top_p, seed, chat, gradient_target,
    gradient_tokens, name, index, shard, force.

    The same call on the same store finishes what is missing and writes nothing twice. Each batch is committed as it is
    done; `on_progress` is called after each. A prompt that cannot be captured is in `Run.skipped`, and costs no other.
    Raises ActlakeError; what was committed before stays.
    """
    chosen = CaptureOptions(**options)
    records = prompts_from(prompts)
    if isinstance(model, str):
        model = load_model(model, device=chosen.device, dtype=chosen.dtype, ffn=chosen.ffn)
    return capture_plan(Location.of(store), model, make_plan(model, records, chosen), chosen, on_progress)


@plainly()
def capture_plan(
    location: Location,
    model: Model,
    plan: Plan,
    options: CaptureOptions,
    on_progress: Callable[[Progress], None] | None = None,
) -> Run:
    """As `capture`, for a model and a plan in hand. Raises NotEnoughSpace or TooManyBytes before anything is written, or where
    the run is begun before any more is."""
    started, log = time.monotonic(), Log(location)
    key = run_key(model, plan, options)
    begun = _is_begun(log, key, options)
    if not begun:
        check_space(location, model, plan, options)
    key, units = _registered(log, key, model, plan, options, on_progress)
    if begun:
        units.check_space()
    done, reservation = units.do(), units.reservation
    if done.issuperset(reservation.generation_ids):
        complete(log, key, reservation.run_id)
    is_last = options.shard is None or len(done) == len(plan.works)
    if is_last and options.index and options.records("activations"):
        if partly_indexed(log.snapshot(), Reader(location)):
            budget = byte_budget(model, plan, options)
            units.check_bytes(sum(size for table, size in budget.items() if TABLES[table] in PROJECTION))
        index(location)
    return Run(
        location.uri,
        reservation.run_id,
        reservation.first_generation_id,
        len(plan.works),
        units.n_captured,
        units.n_tokens,
        units.n_bytes,
        seconds=time.monotonic() - started,
        n_wanted=units.n_wanted,
        n_there=len(done),
        shard=str(options.part),
        skipped=units.skips.left_out(done, reservation.first_generation_id),
    )


def refusal(location: Location, model: Model, plan: Plan, options: CaptureOptions) -> str | None:
    """Why `capture_plan` would begin nothing, or not go on with what is begun, for want of bytes; None where it would."""
    log, key = Log(location), run_key(model, plan, options)
    try:
        if not _is_begun(log, key, options):
            check_space(location, model, plan, options)
        else:
            _, units = _registered(log, key, model, plan, options)
            units.check_space()
    except (TooManyBytes, NotEnoughSpace) as error:
        return str(error)
    return None


def _is_begun(log: Log, key: str, options: CaptureOptions) -> bool:
    return not options.force and log.exists() and newest_key(log.snapshot(), key) is not None


def _registered(
    log: Log,
    key: str,
    model: Model,
    plan: Plan,
    options: CaptureOptions,
    on_progress: Callable[[Progress], None] | None = None,
) -> tuple[str, Units]:
    """The run's key in the store, and its units; nothing is written of one that is begun."""
    key, reservation, procedure = register(
        log,
        key,
        run_row(model, plan, options),
        len(plan.works),
        lambda: choose(model, plan.layers, options, plan.longest),
        force=options.force,
    )
    return key, Units(log, model, plan, options, reservation, procedure, on_progress)
