"""A prompt that cannot be captured costs the run that prompt alone; what is no prompt's fault ends the run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import actlake
import pytest
import stores
import torch
from actlake.capture import Model, Progress
from actlake.capture.faults import HOPELESS, by_halves, said
from actlake.cli import cli
from actlake.errors import DiskFull, ModelFails, NothingCaptured, PrecisionOverflow
from actlake.store import Location, verify
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

PROMPTS = [f"{'xy ' * (index % 3)}{index}," for index in range(10)]
POISONED = [*PROMPTS[:3], "3, Z", *PROMPTS[4:]]


@contextmanager
def broken(model: Model, when: Any, output: Any) -> Iterator[None]:
    """The model with embeddings that `output` makes of them, where `when(token ids)` holds; `output` may raise."""

    def hook(module: torch.nn.Module, args: tuple[torch.Tensor, ...], embedding: torch.Tensor) -> torch.Tensor | None:
        chosen = when(args[0])
        return output(embedding, chosen) if bool(chosen.any()) else None

    handle = model.network.get_input_embeddings().register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def is_z(model: Model) -> Any:
    (z,) = model.tokenizer("Z")["input_ids"]
    return lambda ids: ids == z


def fails(embedding: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    raise RuntimeError("the model cannot take it\nat all")


@given(st.lists(st.booleans(), min_size=1, max_size=40))
def test_halving_gives_all_but_the_items_at_fault_in_their_order(at_fault: list[bool]) -> None:
    items, tries, settled, skipped = list(range(len(at_fault))), [], [], []

    def do(part: Sequence[int]) -> list[int]:
        tries.append(part)
        if any(at_fault[item] for item in part):
            raise ValueError("at fault")
        return list(part)

    parts = list(
        by_halves(items, do, lambda *skip: skipped.append(skip), faults=(ValueError,), settle=lambda: settled.append(0))
    )
    assert [item for part in parts for item in part] == [item for item in items if not at_fault[item]]
    assert skipped == [(item, "ValueError: at fault") for item in items if at_fault[item]]
    assert len(settled) == len(tries) - 1
    assert len(tries) <= 1 + sum(at_fault) * 2 * len(items).bit_length()


def test_an_item_that_fails_at_first_is_tried_again_by_itself() -> None:
    tries: list[Sequence[int]] = []

    def do(part: Sequence[int]) -> Sequence[int]:
        tries.append(part)
        if len(tries) < 3:
            raise MemoryError
        return part

    skipped: list[Any] = []
    assert list(by_halves([1], do, lambda *skip: skipped.append(skip), faults=(MemoryError,))) == []
    assert skipped == [(1, "out of memory")]
    tries[:] = [[0]]
    assert list(by_halves([1], do, lambda *skip: skipped.append(skip), faults=(MemoryError,))) == [[1]]


def test_a_full_disk_is_nobodys_fault() -> None:
    def do(part: Sequence[int]) -> None:
        raise DiskFull("x", 1, "No space left on device")

    with pytest.raises(DiskFull):
        list(by_halves([1, 2], do, lambda *skip: None, faults=(RuntimeError, ValueError, MemoryError)))


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (MemoryError(), "out of memory"),
        (
            RuntimeError(
                "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
                "allocate 4194304000 bytes. Error code 12 (Cannot allocate memory)"
            ),
            "out of memory (4194304000 bytes more were asked for)",
        ),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of …"),
            "out of memory (20.00 GiB more were asked for)",
        ),
        (IndexError("index out of range in self"), "IndexError: index out of range in self"),
        (PrecisionOverflow("an embedding", 1e5, "float16"), str(PrecisionOverflow("an embedding", 1e5, "float16"))),
    ],
)
def test_a_reason_is_one_line(error: Exception, line: str) -> None:
    assert said(error) == line


def test_a_prompt_on_which_the_model_fails_is_skipped_and_the_same_capture_does_it_later(
    toy_model: Model, tmp_path: Path
) -> None:
    reports: list[Progress] = []
    options: dict[str, Any] = {"max_new_tokens": 2, "batch_size": 8, "precision": "float32"}
    with broken(toy_model, is_z(toy_model), fails):
        run = actlake.capture(tmp_path / "s", toy_model, POISONED, on_progress=reports.append, **options)
    (skipped,) = run.skipped
    assert (skipped.prompt_index, skipped.where) == (3, "prompt 4")
    assert skipped.reason == "RuntimeError: the model cannot take it"
    assert (run.n_captured, run.n_wanted, run.n_there, run.is_complete) == (9, 10, 9, False)
    assert run.sentence().endswith("; 1 prompt was skipped")
    assert "were there" not in run.sentence()
    assert (reports[-1].n_done, reports[-1].n_total) == (9, 10)
    store = actlake.open(tmp_path / "s")
    assert store.runs()["status"].tolist() == ["capturing"]
    assert store.generations()["prompt"].tolist() == [p for p in POISONED if "Z" not in p]
    assert verify(Location.of(tmp_path / "s"), deep=True).ok
    again = actlake.capture(tmp_path / "s", toy_model, POISONED, **options)
    assert (again.run_id, again.n_captured, again.skipped, again.is_complete) == (run.run_id, 1, (), True)
    actlake.capture(tmp_path / "undisturbed", toy_model, POISONED, **options)
    stores.assert_same(actlake.open(tmp_path / "s"), actlake.open(tmp_path / "undisturbed"), rtol=1e-4, atol=1e-5)
    assert actlake.open(tmp_path / "s").runs()["status"].tolist() == ["complete"]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (float("nan"), "a log-probability is not a number"),
        (float("inf"), "not a"),
        (1e5, "holds 100000, which float16 cannot; capture with --precision bfloat16 or float32"),
    ],
)
def test_values_that_cannot_be_kept_are_not_and_the_others_of_the_batch_are_as_ever(
    toy_model: Model, tmp_path: Path, value: float, reason: str
) -> None:
    options: dict[str, Any] = {"max_new_tokens": 2, "batch_size": 8, "precision": "float16", "index": False}
    actlake.capture(tmp_path / "undisturbed", toy_model, POISONED, **options)
    with broken(toy_model, is_z(toy_model), lambda embedding, chosen: embedding.masked_fill(chosen[..., None], value)):
        run = actlake.capture(tmp_path / "s", toy_model, POISONED, **options)
    (skipped,) = run.skipped
    assert skipped.prompt_index == 3
    assert reason in skipped.reason
    again = actlake.capture(tmp_path / "s", toy_model, POISONED, **options)
    assert (run.n_captured, again.n_captured) == (9, 1)
    query = "from activations where generation_id != 3 order by all"
    tables = [actlake.open(tmp_path / name).sql(query).to_arrow_table() for name in ("s", "undisturbed")]
    assert tables[0].num_rows > 0
    assert tables[0].equals(tables[1])


def test_when_every_prompt_fails_the_run_ends_at_once(toy_model: Model, tmp_path: Path) -> None:
    with (
        broken(toy_model, lambda ids: torch.tensor(ids.shape[1] > 1), fails),
        pytest.raises(NothingCaptured, match=rf"the first {HOPELESS} prompts failed, .* prompt \d+: RuntimeError: the"),
    ):
        actlake.capture(tmp_path / "s", toy_model, [f"prompt {index}" for index in range(100)], max_new_tokens=1)
    with (
        broken(toy_model, is_z(toy_model), fails),
        pytest.raises(NothingCaptured, match="the prompt failed, so the run"),
    ):
        actlake.capture(tmp_path / "s", toy_model, ["Z"], max_new_tokens=1)
    assert actlake.open(tmp_path / "s").generations().empty


def test_a_model_that_fails_on_anything_ends_the_run_and_what_was_committed_stays(
    toy_model: Model, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"max_new_tokens": 1, "batch_size": 2, "index": False}
    n_passes = 0

    def is_broken(ids: torch.Tensor) -> torch.Tensor:
        nonlocal n_passes
        n_passes += 1
        return torch.tensor(n_passes > 4)

    with broken(toy_model, is_broken, fails), pytest.raises(ModelFails, match="fails on any text now, first on prompt"):
        actlake.capture(tmp_path / "s", toy_model, PROMPTS, **options)
    assert len(actlake.open(tmp_path / "s").generations()) == 4
    assert n_passes < 20
    assert actlake.capture(tmp_path / "s", toy_model, PROMPTS, **options).n_captured == 6


@pytest.fixture
def poisoned_folder(toy_folder: Path, toy_model: Model, tmp_path: Path) -> Path:
    """The toy model, with an embedding of Z that is no number."""
    folder = Path(shutil.copytree(toy_folder, tmp_path / "poisoned"))
    weights = load_file(folder / "model.safetensors")
    weights["model.embed_tokens.weight"][toy_model.tokenizer("Z")["input_ids"]] = torch.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_the_command_says_what_was_skipped_and_why_and_fails(poisoned_folder: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "p.txt"
    prompts.write_text("good\n" + "".join(f"{index} Z\n" for index in range(25)))
    command = ["capture", tmp_path / "s", prompts, "--model", poisoned_folder, "--max-new-tokens", 1, "--record", ""]
    done = CliRunner().invoke(cli, [*map(str, command)])
    assert done.exit_code == 1
    assert "captured 1 generation," in done.stdout
    assert done.stdout.endswith("; 25 prompts were skipped\n")
    lines = done.stderr.partition(" are free\n")[2].splitlines()  # the budget comes first
    assert lines[0] == f"  skipped {prompts}, line 2: a log-probability is not a number"
    assert len(lines) == 22
    assert lines[-2:] == [
        "  and 5 more (--json lists them all)",
        "actlake: 25 prompts were skipped and not captured; the same command tries again",
    ]
    done = CliRunner().invoke(cli, [*map(str, command), "--json"])
    assert done.exit_code == 1
    said = json.loads(done.stdout)
    assert (said["n_captured"], said["n_there"], len(said["skipped"])) == (0, 1, 25)
    assert said["skipped"][3] == {
        "prompt_index": 4,
        "where": f"{prompts}, line 5",
        "reason": "a log-probability is not a number",
    }


IN_LITTLE_MEMORY = """
import resource, sys
import actlake
from actlake.capture import load_model
store, folder, prompts, room = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
model = load_model(folder)
import json, pathlib
prompts = json.loads(pathlib.Path(prompts).read_text())
options = {"max_new_tokens": 2, "record": ["activations"], "layers": [0], "batch_size": 4, "index": False}
actlake.capture(store + "-warm", model, [prompts[0]["text"]], **options)  # what is loaded once is loaded
if room:
    held = int(next(line for line in open("/proc/self/status") if line.startswith("VmSize")).split()[1]) * 1024
    resource.setrlimit(resource.RLIMIT_AS, (held + room, resource.RLIM_INFINITY))
run = actlake.capture(store, model, prompts, **options)
print(json.dumps([run.n_captured, [[each.prompt_index, each.reason] for each in run.skipped]]))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="no other system bounds a process's memory like this")
def test_in_a_process_with_too_little_memory_the_text_that_is_too_long_is_skipped(
    model_saver: Any, tmp_path: Path
) -> None:
    folder = model_saver(
        tmp_path / "wide",
        "LlamaConfig",
        num_hidden_layers=1,
        hidden_size=16,
        intermediate_size=8192,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=16384,
    )
    texts = [{"text": f"short {index}"} for index in range(7)]
    texts.insert(3, {"text": " 1, 2, 3," * 700})
    prompts = tmp_path / "prompts.json"
    prompts.write_text(json.dumps(texts))

    def captured(room: int) -> Any:
        command = [sys.executable, "-c", IN_LITTLE_MEMORY, tmp_path / "s", folder, prompts, str(room)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    n_captured, [[prompt_index, reason]] = captured(room=150 << 20)
    assert (n_captured, prompt_index) == (7, 3)
    assert reason.startswith("out of memory")
    assert sorted(actlake.open(tmp_path / "s").generations()["generation_id"]) == [0, 1, 2, 4, 5, 6, 7]
    assert captured(room=0) == [1, []]
    assert actlake.open(tmp_path / "s").runs()["status"].tolist() == ["complete"]
    assert verify(Location.of(tmp_path / "s"), deep=True).ok
