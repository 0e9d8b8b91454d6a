"""The command line: answers, one clear line for bad input, and exit codes."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from actlake.cli import cli
from actlake.queries import examples
from click.testing import CliRunner, Result

Run = Callable[..., Result]


@pytest.fixture
def run() -> Run:
    return lambda *args: CliRunner().invoke(cli, [str(arg) for arg in args])


def assert_one_line(result: Result, code: int, *said: str) -> None:
    assert result.exit_code == code
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("actlake: ")
    for words in said:
        assert words in line


def test_capture_and_ask(run: Run, toy_folder: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "p.txt"
    prompts.write_text(" 1, 2, 3,\nOne, two,\n")
    store = tmp_path / "store"
    command = [
        "capture",
        store,
        prompts,
        "--model",
        toy_folder,
        "--prompt",
        "keys",
        "--max-new-tokens",
        3,
        "--layers",
        "0,2",
    ]
    done = run(*command)
    assert done.exit_code == 0, done.stderr
    assert "captured 3 generations" in done.stdout
    assert "all 3 generations were there already" in run(*command).stdout
    assert json.loads(run(*command, "--json").stdout)["n_captured"] == 0
    answer = run(
        "sql", store, "select layer, count(*) as n from activations group by layer order by layer", "--format", "json"
    )
    counts = [json.loads(line) for line in answer.stdout.splitlines()]
    n_tokens = json.loads(
        run("sql", store, "select sum(n_tokens)::int as n from generations", "--format", "json").stdout
    )["n"]
    assert counts == [{"layer": 0, "n": 40 * n_tokens}, {"layer": 2, "n": 40 * n_tokens}]
    assert run("verify", store, "--deep").stdout.startswith("ok: ")


def test_a_dry_run_prints_bytes_per_table_and_writes_nothing(run: Run, toy_folder: Path, tmp_path: Path) -> None:
    result = run("capture", tmp_path / "s", "--model", toy_folder, "--prompt", "One, two,", "--dry-run")
    assert result.exit_code == 0
    for table in ("tokens", "embeddings", "gradients", "activation_vectors", "all"):
        assert table in result.stdout
    assert not (tmp_path / "s").exists()
    as_json = run(
        "capture", tmp_path / "s", "--model", toy_folder, "--prompt", "One", "--dry-run", "--json", "--record", ""
    )
    assert set(json.loads(as_json.stdout)["bytes"]) == {"generations", "tokens"}


def test_info_says_what_is_there(run: Run, toy_store: Path) -> None:
    text = run("info", toy_store).stdout
    assert "LlamaForCausalLM" in text
    assert "activation_vectors" in text
    said = json.loads(run("info", toy_store, "--json").stdout)
    assert said["runs"][0]["generations"] == 5
    assert {table["table"]: table["rows"] for table in said["tables"]}["generations"] == 5


def test_sql_writes_csv_json_and_parquet(run: Run, toy_store: Path, tmp_path: Path) -> None:
    query = "select generation_id, prompt, [1, 2] as list from generations order by 1"
    rows = list(csv.reader(io.StringIO(run("sql", toy_store, query, "--format", "csv").stdout)))
    assert rows[0] == ["generation_id", "prompt", "list"]
    assert rows[4] == ["3", "hé 😀 – ünï", "[1, 2]"]
    lines = run("sql", toy_store, query, "--format", "json").stdout.splitlines()
    assert json.loads(lines[3]) == {"generation_id": 3, "prompt": "hé 😀 – ünï", "list": [1, 2]}
    assert run("sql", toy_store, query, "--format", "parquet", "-o", tmp_path / "x.parquet").exit_code == 0
    assert pq.read_table(tmp_path / "x.parquet")["list"].to_pylist()[0] == [1, 2]


def test_a_table_shows_control_characters_as_escapes(run: Run, toy_store: Path) -> None:
    text = run("sql", toy_store, "select 'a\x1b[31mred' as x, ' b' as y, 'c\nd' as z, null as n").stdout
    assert "\x1b" not in text
    assert '" b"' in text
    assert "NULL" in text
    assert len(text.splitlines()) == 3


@pytest.mark.parametrize(
    "query",
    [
        "copy tokens to '/tmp/actlake-never.csv'",
        "with z as (copy (select 1) to '/tmp/actlake-never.csv') select * from z",
        "create table x as select 1",
        "install httpfs",
        "set threads = 1",
        "attach ':memory:' as other",
        "explain analyze copy (select 1) to '/tmp/actlake-never.csv'",
        "pragma version",
    ],
)
def test_sql_that_does_not_only_read_is_refused(run: Run, toy_store: Path, query: str) -> None:
    assert_one_line(run("sql", toy_store, query), 1, "only statements that read")
    assert not Path("/tmp/actlake-never.csv").exists()


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("selec 1", "Parser Error"),
        ("select nothing from tokens", "token"),
        ("from tokes", "tokens"),
        ("select 1; select 2", "one SQL statement"),
        ("", "one SQL statement"),
        ("from read_csv('/etc/passwd')", "disabled"),
        ("select token::int from tokens", "Conversion Error"),
        ("from saliency_by('magic')", "no saliency method magic"),
    ],
)
def test_a_sql_error_is_one_line(run: Run, toy_store: Path, query: str, said: str) -> None:
    result = run("sql", toy_store, query)
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert said in line


def test_a_missing_store_is_one_line(run: Run, tmp_path: Path) -> None:
    for command in (["info"], ["verify"], ["serve"], ["sql", "select 1"]):
        assert_one_line(run(command[0], tmp_path / "none", *command[1:]), 1, "no store at", "actlake capture")
    assert not (tmp_path / "none").exists()


def test_a_file_where_the_store_should_be_is_one_line(run: Run, toy_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    result = run("capture", tmp_path / "file", "--model", toy_folder, "--prompt", "a")
    assert_one_line(result, 1, "a file of that name is in the way")
    assert (tmp_path / "file").read_text() == "mine"


def test_bad_prompts_are_one_line_with_file_and_line(run: Run, toy_folder: Path, tmp_path: Path) -> None:
    bad = tmp_path / "p.jsonl"
    bad.write_text('{"prompt": "a"}\n{"prompt": \n')
    capture = ["capture", tmp_path / "s", "--model", toy_folder]
    assert_one_line(run(*capture, bad), 1, "p.jsonl, line 2", "not JSON")
    assert_one_line(run(*capture, "--prompt", ""), 1, "empty")
    assert_one_line(run(*capture, "--prompt", "x" * 80), 1, "80 tokens", "64")
    assert_one_line(run(*capture, tmp_path / "none.txt"), 1, "none.txt")
    assert not (tmp_path / "s").exists()


def test_an_unknown_model_and_layer_are_one_line(run: Run, toy_folder: Path, tmp_path: Path) -> None:
    assert_one_line(
        run("capture", tmp_path / "s", "--model", tmp_path / "none", "--prompt", "a"), 1, "cannot load model"
    )
    wrong_layer = run("capture", tmp_path / "s", "--model", toy_folder, "--prompt", "a", "--layers", "9")
    assert_one_line(wrong_layer, 1, "no layer 9; there are layers 0-2")


def test_wrong_usage_is_exit_code_2(run: Run, toy_folder: Path, tmp_path: Path) -> None:
    capture = ["capture", tmp_path / "s", "--model", toy_folder]
    assert run(*capture).exit_code == 2
    assert run("capture", tmp_path / "s", "--prompt", "a").exit_code == 2
    assert run("nonsense").exit_code == 2
    assert run(*capture, "--prompt", "a", "--precision", "float8").exit_code == 2
    assert_one_line(run(*capture, "--prompt", "a", "--layers", "1-"), 2, "layers='1-'", "0,3-5")
    assert_one_line(run(*capture, "--prompt", "a", "--record", "thoughts"), 2, "record")
    assert_one_line(run(*capture, "--prompt", "a", "--batch-size", "some"), 2, "batch_size")


def test_debug_shows_the_traceback(run: Run, tmp_path: Path) -> None:
    result = run("info", tmp_path / "none", "--debug")
    assert result.exit_code == 1
    assert "Traceback" in result.stderr
    assert "StoreNotFound" in result.stderr


def test_a_damaged_store_fails_verification_with_exit_code_1(run: Run, toy_store: Path, tmp_path: Path) -> None:
    import shutil

    store = Path(shutil.copytree(toy_store, tmp_path / "s"))
    next((store / "tokens").iterdir()).unlink()
    result = run("verify", store)
    assert result.exit_code == 1
    assert "missing" in result.stderr
    assert json.loads(run("verify", store, "--json").stdout)["ok"] is False


@pytest.mark.parametrize(
    "command", ["demo", "capture", "info", "sql", "export", "views", "saliency", "neuron", "verify", "serve"]
)
def test_every_command_has_help_with_an_example(run: Run, command: str) -> None:
    text = run(command, "--help").stdout
    assert f"actlake {command}" in text.split("\n", 1)[1]


def test_a_connection_joins_a_frame_of_ones_own(toy_store: Path) -> None:
    import actlake
    import pandas as pd

    mine = pd.DataFrame({"generation_id": [1, 3], "label": ["x", "y"]})
    connection = actlake.open(toy_store).connect()
    assert connection.sql("select label from mine join generations using (generation_id) order by 1").fetchall() == [
        ("x",),
        ("y",),
    ]
    assert len(mine) == 2


def test_the_example_questions_have_answers(toy_store: Path) -> None:
    import actlake

    for example in examples():
        assert actlake.open(toy_store).sql(example.sql).fetchall()


def test_the_module_runs_as_a_program_and_a_closed_pipe_ends_it_quietly(toy_store: Path) -> None:
    command = f"{sys.executable} -m actlake sql {toy_store} 'from activations' --format csv | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    assert done.stdout == "generation_id,position,layer,neuron,activation\n"
    assert done.stderr == ""
