"""What a run is, and where the store has it: its key, its row, its numbers, and which of its generations are there.

A run is identified by what it is: model, tokenizer, options and prompts. Its number and its generations' numbers are
reserved by its first commit, so the same command finds its run again, skips what is there and writes the same numbers.
"""

import hashlib
import json
import platform
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from importlib import metadata
from itertools import count, takewhile
from typing import Any

import pyarrow as pa
import torch

from ..store import CapturedGeneration, Commit, DataFile, Location, Log, Reader, Reservation, Snapshot, write_table
from ..store.schema import RUNS
from .devices import name_of_devices
from .models import Model
from .options import OF_A_CALL, CaptureOptions
from .plan import Plan, Work
from .procedure import Procedure, of_run
from .prompts import sources


def run_key(model: Model, plan: Plan, options: CaptureOptions) -> str:
    """What the run is, as one word: the same for the same model, tokenizer, options and prompts."""
    row = _row(model, options, _how(model, plan, options))
    same = ("model_hash", "tokenizer_hash", "precision", "recorded", "gradient_target", "generation_config", "seed")
    identity = hashlib.sha256(f"[{_json([row[name] for name in same])}, [".encode())
    for number, work in enumerate(plan.works):  # one JSON list, of which no more than a prompt is in memory
        identity.update(f"{', ' if number else ''}{_json(_identity(work))}".encode())
    identity.update(b"]]")
    return f"run/{identity.hexdigest()}"


def _json(value: object) -> str:
    return json.dumps(value, sort_keys=True)


def _identity(work: Work) -> list[Any]:
    prompt = work.prompt
    beside = filter(None, [prompt.completion, prompt.messages])
    return [work.text, work.max_new_tokens > 0, dict(prompt.metadata), *beside]


def run_row(model: Model, plan: Plan, options: CaptureOptions) -> dict[str, Any]:
    """The row of `runs`, without the number that the store gives it.

    Its `generation_config` says, beside what the run is, how it came about.
    """
    device = model.device
    of_prompts = hashlib.sha256()
    for work in plan.works:
        of_prompts.update(f"{json.dumps({**work.prompt.record, **work.prompt.metadata})}\n".encode())
    given = {each.name: getattr(options, each.name) for each in fields(options) if each.name not in OF_A_CALL}
    given["ffn"] = options.ffn or (model.anatomy.ffn if model.ffn else None)
    files, n_given = sources(work.prompt for work in plan.works)
    beside = {
        "device": name_of_devices(model.network),
        **({"device_name": torch.cuda.get_device_name(device)} if device.type == "cuda" else {}),
        "attn_implementation": getattr(model.network.config, "_attn_implementation", None),
        "options": {
            name: list(v) if isinstance(v, Sequence) and not isinstance(v, str) else v for name, v in given.items()
        },
        "prompts": {"sha256": of_prompts.hexdigest(), "sources": files, "n_given": n_given},
    }
    return _row(model, options, _how(model, plan, options) | beside)


def _how(model: Model, plan: Plan, options: CaptureOptions) -> dict[str, Any]:
    """What of the run's options, and of what they meant for this model, makes it another run."""
    anatomy = model.anatomy
    return {
        "max_new_tokens": options.max_new_tokens,
        "temperature": options.temperature,
        "top_k": options.top_k,
        "top_p": options.top_p,
        "chat": options.chat,
        "end_ids": model.end_ids,
        "dtype": model.dtype,
        "layers": plan.layers,
        "ffn": anatomy.ffn,
        **({"lens": options.lens} if options.records("layer_predictions") else {}),
        **({} if plan.neurons is None else {"neurons": plan.neurons}),
        **plan.positions.config,
        **({} if anatomy.is_causal else {"attention": "bidirectional"}),
    }


def _row(model: Model, options: CaptureOptions, config: Mapping[str, Any]) -> dict[str, Any]:
    anatomy = model.anatomy
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
        "gradient_target": options.target,
        "generation_config": json.dumps(config),
        "seed": options.seed,
        "versions": json.dumps(
            {library: metadata.version(library) for library in libraries} | {"python": platform.python_version()}
        ),
        "created_at": datetime.now(UTC).replace(tzinfo=None),
        "status": "capturing",
    }


def newest_key(snapshot: Snapshot, key: str) -> str | None:
    """The key under which a snapshot has the run: that of its newest beginning, None where it has none."""
    there = list(takewhile(snapshot.keys.__contains__, _beginnings(key)))
    return there[-1] if there else None


def register(
    log: Log,
    key: str,
    row: Mapping[str, Any],
    n_generations: int,
    choose: Callable[[], Procedure],
    *,
    force: bool = False,
) -> tuple[str, Reservation, Procedure]:
    """The run's key in the store, its numbers and its procedure: those that it has already, or with `force`, or where it has
    none, new ones."""
    chosen: str | None = None

    def build(snapshot: Snapshot) -> Commit | None:
        nonlocal chosen
        chosen = newest_key(snapshot, key)
        if chosen and not force:
            return None
        chosen = next(begun for begun in _beginnings(key) if begun not in snapshot.keys)
        reservation = Reservation(snapshot.next_run_id, snapshot.next_generation_id, n_generations)
        config = choose().beside(row["generation_config"])
        new = {**row, "run_id": reservation.run_id, "generation_config": config}
        rows = pa.Table.from_pylist([new], schema=RUNS.arrow)
        return Commit("register", chosen, [write_table(log.location, RUNS, rows)], reserve=reservation)

    snapshot = log.commit(build)
    assert chosen is not None, "build was called"
    reservation = log.read(snapshot.keys[chosen]).reserve
    assert reservation is not None, "a run is registered with its numbers"
    _, rows = _rows_with(Reader(log.location), snapshot, reservation.run_id)
    procedure = of_run(next(row for row in rows if row["run_id"] == reservation.run_id))
    return chosen, reservation, procedure


def _beginnings(key: str) -> Iterator[str]:
    """The keys of a run that was begun once, and of its being begun anew."""
    yield key
    yield from (f"{key}/forced/{number}" for number in count(1))


def commit_unit(
    log: Log,
    captured: "CapturedIds",
    generations: Sequence[CapturedGeneration],
    files: Sequence[DataFile],
    check: Callable[[Snapshot], None],
) -> bool:
    """Commit a unit, or delete its files if another process has committed some of it meanwhile; gives whether it is committed.

    `check` is given the snapshot that the commit would follow, and may raise; the commit is not made then.
    """
    ids = {generation.generation_id for generation in generations}
    key = f"generations/{hashlib.sha256(json.dumps(sorted(ids)).encode()).hexdigest()}"

    def build(snapshot: Snapshot) -> Commit | None:
        captured.see(snapshot)
        if captured.has_any(ids):
            return None
        check(snapshot)
        return Commit("capture", key, files)

    snapshot = log.commit(build)
    captured.see(snapshot)
    for file in files:
        if file.path not in snapshot.files:
            log.location.delete(file.path)
    return files[0].path in snapshot.files


def complete(log: Log, key: str, run_id: int) -> None:
    """Replace the run's row by one that says that it is complete."""
    reader = Reader(log.location)

    def build(snapshot: Snapshot) -> Commit | None:
        if f"{key}/complete" in snapshot.keys:
            return None
        old, rows = _rows_with(reader, snapshot, run_id)
        said = [row | {"status": "complete"} if row["run_id"] == run_id else row for row in rows]
        new = write_table(log.location, RUNS, pa.Table.from_pylist(said, schema=RUNS.arrow))
        return Commit("complete", f"{key}/complete", [new], remove=[old.path])

    log.commit(build)


def _rows_with(reader: Reader, snapshot: Snapshot, run_id: int) -> tuple[DataFile, list[dict[str, Any]]]:
    """The file that has the run's row, and all rows of it: those of other runs too after a compaction."""
    for file in snapshot.of(RUNS.name, run_id=run_id):
        rows = reader.rows(Snapshot(files={file.path: file}), RUNS.name).to_pylist()
        if run_id in [row["run_id"] for row in rows]:
            break
    return file, rows


class CapturedIds:
    """Which of a run's generations the store has; each file is read once. What was captured once stays so."""

    def __init__(self, location: Location, reservation: Reservation) -> None:
        self._reader = Reader(location)
        self._ids = reservation.generation_ids
        self._found: set[int] = set()
        self._new: set[int] = set()
        self._paths: set[str] = set()
        self._last = ""

    def see(self, snapshot: Snapshot) -> None:
        """Learn what a snapshot has beyond those that were seen: of files that commits added since, which are its last."""
        paths = list(snapshot.files)[::-1]
        for path in takewhile(lambda path: path != self._last, paths):
            file = snapshot.files[path]
            if file.table == "generations" and file.path not in self._paths and self._may_hold(file):
                rows = self._reader.rows(Snapshot(files={file.path: file}), file.table, columns=["generation_id"])
                self._new |= {each for each in rows["generation_id"].to_pylist() if each in self._ids} - self._found
                self._found |= self._new
                self._paths.add(file.path)
        self._last = paths[0] if paths else ""

    def has_any(self, ids: Collection[int]) -> bool:
        return not self._found.isdisjoint(ids)

    def new(self) -> set[int]:
        """Those that were found since it was last asked."""
        new, self._new = self._new, set()
        return new

    def _may_hold(self, file: DataFile) -> bool:
        first, last = file.ranges.get("generation_id", (self._ids.start, self._ids.stop))
        return first < self._ids.stop and last >= self._ids.start
