"""A run says how it was made, and the command that it prints makes it again."""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import shlex
import subprocess
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import actlake
import pytest
import stores
from actlake.capture import CaptureOptions, Model, load_model
from actlake.cli import capture, cli
from actlake.errors import PromptsNotKept, RunNotFound
from actlake.store import Location, Log
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": " hé\n"}]
RECORDS: list[Any] = [
    " 1, 2, 3,",
    {"prompt": "One,", "kind": ["x", 1.5, None, {"é": 2**70}]},
    {"text": "as it stands", "completion": "not of a text", "messages": 3},
    {"prompt": "One,", "completion": " two<|end|>", "text": "d"},
    {"messages": CHAT, "n": 1},
    {"messages": [*CHAT, {"role": "assistant", "content": " yes "}]},
    "weird \x00 \x1b[31m \u2028 😀 \r\n <|end|> '\"$(exit 1)\\",
]
DEFAULTS = {option.name: option.default for option in capture.params}


def run(*arguments: object, given: str | None = None) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments], input=given)


def key_of(store: Path, run_id: int = 0) -> str:
    keys = [commit.key for commit in Log(Location.of(store)).commits() if commit.operation == "register"]
    return keys[run_id]


def assert_it_repeats(store: Path, run_id: int = 0, *, elsewhere: bool = False) -> str:
    """Do what the printed command does, in the store itself and maybe in another one; gives it."""
    said = json.loads(run("info", store, "--run", run_id, "--json").stdout)
    info, again = (shlex.split(part) for part in said["command"].split(" | "))
    assert info == ["actlake", "info", str(store), "--run", str(run_id), "--prompts"]
    assert again[:4] == ["actlake", "capture", f"{store}-again", "-"]
    prompts = run(*info[1:]).stdout
    assert hashlib.sha256(prompts.encode()).hexdigest() == said["row"]["generation_config"]["prompts"]["sha256"]
    there = run("capture", store, *again[3:], given=prompts)
    assert f"all {said['n_prompts']} generations were there already" in there.stdout, there.output
    if elsewhere:
        assert "captured" in run(*again[1:], given=prompts).stdout
        assert key_of(Path(f"{store}-again")) == key_of(store, run_id)
    return str(said["command"])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0.7, "top_k": 9, "top_p": 0.9, "seed": -3, "layers": [0, 2], "name": "a 'name'; $(exit 1)"},
        {"chat": True, "record": ["gradients"], "gradients": "scores", "gradient_target": "contrast", "index": False},
        {"record": [], "precision": "float32", "batch_size": 2, "ffn": "model.layers.{i}.mlp.down_proj"},
    ],
)
def test_the_printed_command_makes_the_same_run(toy_folder: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    actlake.capture(tmp_path / "a store", str(toy_folder), RECORDS, max_new_tokens=2, **options)
    command = assert_it_repeats(tmp_path / "a store", elsewhere="seed" in options)
    assert "--max-new-tokens 2" in command
    for name in ("seed", "batch_size", "index", "gradient_tokens"):
        assert (name in options) == bool(re.search(f"--(no-)?{name.replace('_', '-')}", command))


def test_ffnns_named_by_hand_on_a_model_in_hand_are_named_in_the_command(toy_folder: Path, tmp_path: Path) -> None:
    ffn = "model.layers.{i}.mlp.down_proj"
    actlake.capture(tmp_path / "s", load_model(str(toy_folder), ffn=ffn), ["a", "b"], record=[])
    assert f"--ffn '{ffn}'" in assert_it_repeats(tmp_path / "s")
    actlake.capture(tmp_path / "found", load_model(str(toy_folder)), ["a", "b"], record=[])
    assert "--ffn" not in assert_it_repeats(tmp_path / "found")


def test_masked_targets_and_the_prompts_of_an_encoder_come_back(model_saver: Any, tmp_path: Path) -> None:
    sizes = {"num_hidden_layers": 1, "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2}
    folder = model_saver(tmp_path / "bert", "BertConfig", kind="AutoModelForMaskedLM", **sizes)
    records = [
        {"text": "int <mask> a", "targets": ["a"]},
        {"text": "int <mask>"},
        {"prompt": "a <mask>", "text": "x"},
        "a",
    ]
    actlake.capture(tmp_path / "s", str(folder), records)
    assert list(actlake.open(tmp_path / "s").prompts(0)) == [*records[:3], {"prompt": "a"}]
    assert_it_repeats(tmp_path / "s")


TEXTS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=9)


@settings(max_examples=5)
@given(texts=st.lists(TEXTS, min_size=1, max_size=40))
def test_any_prompts_come_back_as_they_were(
    toy_model: Model, tmp_path_factory: pytest.TempPathFactory, texts: list[str]
) -> None:
    store, prompts = tmp_path_factory.mktemp("s") / "s", [{"text": text, "n": text} for text in texts]
    actlake.capture(store, toy_model, prompts, record=[])
    printed = run("info", store, "--run", 0, "--prompts").stdout
    assert [json.loads(line) for line in printed.splitlines()] == prompts


def test_python_makes_the_run_again_from_the_store_alone(toy_folder: Path, tmp_path: Path) -> None:
    model = load_model(str(toy_folder), dtype="bfloat16")
    actlake.capture(tmp_path / "s", model, RECORDS, max_new_tokens=2, record=["embeddings"])
    store = actlake.open(tmp_path / "s")
    made = store.run(0)
    assert made.options["dtype"] == "bfloat16"
    again = actlake.capture(tmp_path / "s", made.row["model"], store.prompts(0), **made.options)
    assert (again.run_id, again.n_captured) == (0, 0)
    assert_it_repeats(tmp_path / "s")


def test_info_says_everything_of_a_run(toy_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "p, line 3.txt").write_text(" 1, 2, 3,\nOne, two,\n")
    run(
        "capture",
        tmp_path / "s",
        tmp_path / "p, line 3.txt",
        "--prompt",
        "keys",
        "--model",
        toy_folder,
        "--max-new-tokens",
        2,
        "--device",
        "cpu",
    )
    done = run("info", tmp_path / "s", "--run", 0)
    assert done.exit_code == 0, done.output
    said = dict(line.split("  ", 1) for line in done.stdout.partition("\n\n")[0].splitlines())
    said = {name: value.strip() for name, value in said.items()}
    row = actlake.open(tmp_path / "s").run(0).row
    assert (said["model"], said["model_hash"], said["tokenizer_hash"]) == (
        str(toy_folder),
        row["model_hash"],
        row["tokenizer_hash"],
    )
    assert said["architecture"] == "LlamaForCausalLM: n_layers 3, d_model 16, d_ff 40, vocab_size 320"
    assert (said["device"], said["dtype"], said["attention"], said["seed"]) == ("cpu", "float32", "sdpa, causal", "0")
    assert said["prompts"].startswith("3, SHA-256 ")
    assert said["prompts"].endswith(f", from {tmp_path}/p, line 3.txt, 1 from no file")
    assert said["captured"].startswith("3 of 3 generations, ")
    assert said["generation"] == "max_new_tokens 2, temperature 0.0, top_k 0, top_p 1.0, chat False, end_ids [0]"
    assert {"actlake", "torch", "transformers", "python"} <= set(row["versions"])
    assert f"actlake info {tmp_path}/s --run 0 --prompts | actlake capture {tmp_path}/s-again - " in done.stdout
    assert "weights are compared when the model is loaded" in done.stdout


def test_what_a_run_is_does_not_hang_on_where_and_how_it_was_made(toy_model: Model, tmp_path: Path) -> None:
    first = actlake.capture(tmp_path / "s", toy_model, ["a", "b"], max_new_tokens=2)
    again = actlake.capture(
        tmp_path / "s",
        toy_model,
        [{"prompt": "a"}, "b"],
        max_new_tokens=2,
        batch_size=1,
        device="cpu",
        name="other",
        index=False,
    )
    assert (again.run_id, again.n_captured) == (first.run_id, 0)


def test_the_key_of_a_run_is_what_it_was_before_its_provenance_was_kept(toy_model: Model, tmp_path: Path) -> None:
    actlake.capture(tmp_path, toy_model, ["a", {"prompt": "b", "completion": "c", "n": 1}], max_new_tokens=2, seed=5)
    row = actlake.open(tmp_path).run(0).row
    how = ("max_new_tokens", "temperature", "top_k", "top_p", "chat", "end_ids", "dtype", "layers", "ffn")
    of_row = [row[name] for name in ("model_hash", "tokenizer_hash", "precision", "recorded", "gradient_target")]
    config = json.dumps({name: row["generation_config"][name] for name in how})
    prompts = [["a", True, {}], ["b", False, {"n": 1}, "c"]]
    identity = json.dumps([[*of_row, config, 5], prompts], sort_keys=True)
    assert key_of(tmp_path) == f"run/{hashlib.sha256(identity.encode()).hexdigest()}"


def test_other_versions_and_another_device_are_noted(toy_store: Path) -> None:
    made = actlake.open(toy_store).run(0)
    assert made.notes() == [
        f"weights are compared when the model is loaded: others than {made.row['model_hash'][:12]}… make another run"
    ]
    config = {**made.config, "device": "cuda:0", "device_name": "A GPU"}
    versions = {**made.row["versions"], "torch": "1.0", "python": "3.8.1", "nothing-of-that-name": "2"}
    other = replace(made, row={**made.row, "generation_config": config, "versions": versions})
    notes = other.notes()
    assert [note.partition(",")[0] for note in notes[:3]] == [
        "torch was 1.0",
        "python was 3.8.1",
        "nothing-of-that-name was 2",
    ]
    assert notes[2].endswith("not installed now")
    assert notes[3] == "it computed on cuda:0 (A GPU); another one rounds otherwise"
    assert "--device cuda:0" in other.command(DEFAULTS)


def test_a_run_of_an_older_store_says_what_is_known(toy_folder: Path, tmp_path: Path) -> None:
    prompts = [" 1, 2,", {"text": "x", "n": 1}]
    store = tmp_path / "s"
    actlake.capture(
        store, str(toy_folder), prompts, max_new_tokens=2, layers=[1], temperature=0.5, seed=4, gradients="scores"
    )
    stores.as_of_format(Location.of(store), 3)
    made = actlake.open(store).run(0)
    then = {
        name: value
        for name, value in made.config.items()
        if name not in ("device", "attn_implementation", "options", "prompts")
    }
    older = replace(made, row={**made.row, "generation_config": then})
    facts = dict(older.facts())
    assert (facts["device"], facts["prompts"]) == ("unknown (it was not kept then)", "unknown (it was not kept then)")
    assert "a device that was not kept" in older.notes()[0]
    command = shlex.split(older.command(DEFAULTS).partition(" | ")[2])
    there = CliRunner().invoke(
        cli, ["capture", str(store), *command[3:]], input=run("info", store, "--run", 0, "--prompts").stdout
    )
    assert "all 2 generations were there already" in there.stdout, there.output


def test_prompts_that_the_store_has_not_are_an_error_and_the_command_names_their_files(tmp_path: Path) -> None:
    stores.a_store(Location.of(tmp_path), units=1)
    store = actlake.open(tmp_path)
    with pytest.raises(PromptsNotKept, match="998 of its 1000 are not captured yet; finish it") as raised:
        store.prompts(0)
    assert str(pickle.loads(pickle.dumps(raised.value))) == str(raised.value)
    made = store.run(0)
    assert " PROMPTS --model toy " in made.command(DEFAULTS)
    config = {**made.config, "prompts": {"sha256": "x", "sources": ["my prompts.txt", "b.jsonl"]}}
    assert "-again 'my prompts.txt' b.jsonl --model toy " in replace(
        made, row={**made.row, "generation_config": config}
    ).command(DEFAULTS)
    assert "998 of its 1000 prompts are not in the store" in " ".join(made.notes())
    result = run("info", tmp_path, "--run", 0, "--prompts")
    assert (result.exit_code, result.stdout) == (1, "")


def test_the_command_of_an_unfinished_run_reads_standard_input_again_and_says_what_came_from_no_file(
    toy_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "p.txt").write_text("a\nb\n")
    options = ["--model", toy_folder, "--max-new-tokens", 1, "--record", "", "--batch-size", 1]
    run("capture", tmp_path / "s", "-", "--shard", "1/2", *options, given="a\nb\n")
    made = actlake.open(tmp_path / "s").run(0)
    again = shlex.split(made.command(DEFAULTS))
    assert again[:5] == ["actlake", "capture", f"{tmp_path}/s-again", "-", "--model"]
    assert "captured 1 generation (1 were there)" in run("capture", tmp_path / "s", *again[3:], given="a\nb\n").stdout
    run("capture", tmp_path / "t", tmp_path / "p.txt", "--prompt", "c", "--shard", "1/2", *options)
    made = actlake.open(tmp_path / "t").run(0)
    assert f"-again {tmp_path}/p.txt --prompt TEXT --model " in made.command(DEFAULTS)
    assert "1 of its prompts came from no file (--prompt, or Python): give them as they were" in " ".join(made.notes())


def test_chats_of_a_store_that_kept_no_sources_are_named(toy_folder: Path, tmp_path: Path) -> None:
    actlake.capture(tmp_path / "s", str(toy_folder), ["a", {"text": "b"}], max_new_tokens=1, chat=True)
    stores.as_of_format(Location.of(tmp_path / "s"), 3)
    with pytest.raises(PromptsNotKept, match="1 went through a chat template before"):
        actlake.open(tmp_path / "s").prompts(0)


def test_an_unknown_run_is_one_clear_error(toy_store: Path) -> None:
    for number in (1, -1):
        with pytest.raises(RunNotFound):
            actlake.open(toy_store).run(number)
        result = run("info", toy_store, f"--run={number}")
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr == f"actlake: no run {number}; this store holds runs 0 to 0\n"
    assert run("info", toy_store, "--prompts").exit_code == 2


def test_every_option_of_a_capture_is_one_of_the_command() -> None:
    names = {field.name for field in fields(CaptureOptions)}
    assert names <= {option.name for option in capture.params}


def test_a_word_with_control_characters_is_printed_as_escapes_that_a_shell_takes(toy_store: Path) -> None:
    name = "a\x1b[31m\n'\\ é\u2028"
    made = actlake.open(toy_store).run(0)
    config = {**made.config, "options": {"name": name}}
    command = replace(made, row={**made.row, "generation_config": config}).command(DEFAULTS)
    assert command.isprintable()
    (word,) = re.findall(r"--name (\$'.*?') --device", command)
    done = subprocess.run(
        ["bash", "-c", f"printf %s {word}"], capture_output=True, env={"LC_ALL": "C.UTF-8"}, check=True
    )
    assert done.stdout.decode() == name
