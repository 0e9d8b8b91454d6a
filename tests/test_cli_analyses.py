"""`actlake saliency` and `actlake neuron`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import actlake
import numpy as np
import pytest
from actlake.cli import cli
from actlake.queries import METHODS
from click.testing import CliRunner, Result

Run = Callable[..., Result]


@pytest.fixture
def run() -> Run:
    return lambda *args, **how: CliRunner().invoke(cli, [str(arg) for arg in args], **how)


@pytest.mark.parametrize("method", METHODS)
def test_saliency_as_json_is_that_of_the_library(run: Run, toy_store: Path, opened: actlake.Store, method: str) -> None:
    for by in ("token", "word"):
        said = json.loads(run("saliency", toy_store, 0, "--json", "--method", method, "--by", by).stdout)
        matrix = opened.generation(0).saliency(method, by=by)
        assert matrix.groups is not None
        assert (said["method"], said["target"], said["by"]) == (method, "logit", by)
        assert [row["shares"] for row in said["outputs"]] == np.asarray(matrix).tolist()
        assert [(each["first"], each["last"]) for each in said["inputs"]] == matrix.groups.columns
        texts = [each["text"] for each in said["inputs"]]
        assert "".join(texts) == "".join(opened.generation(0).tokens["token"].tolist()[:-1])


def test_saliency_of_one_output_is_a_strip_and_a_table(run: Run, toy_store: Path, opened: actlake.Store) -> None:
    generation = opened.generation(0)
    position = generation.n_prompt_tokens + 1
    said = run("saliency", toy_store, 0, "--output", position).stdout
    rows = [line.split() for line in said.splitlines() if line[:1].isdecimal()]
    assert [int(row[0]) for row in rows] == list(range(position))
    assert sum(float(row[-1]) for row in rows) == pytest.approx(100, abs=0.01)
    assert "\x1b" not in said
    in_colour = run("saliency", toy_store, 0, "--output", position, color=True).stdout
    assert "\x1b[48;2;" in in_colour
    plain = run("saliency", toy_store, 0, "--output", position, color=True, env={"NO_COLOR": "1"}).stdout
    assert "\x1b" not in plain


def test_every_written_token_has_a_line(run: Run, toy_store: Path, opened: actlake.Store) -> None:
    lines = [line for line in run("saliency", toy_store, 1, "--top", 2).stdout.splitlines() if "←" in line]
    assert [int(line.split()[0]) for line in lines] == list(opened.generation(1).output_positions)


def test_integrated_gradients_need_the_model(run: Run, toy_store: Path, toy_folder: Path) -> None:
    options = ["saliency", toy_store, 0, "--method", "integrated_gradients", "--output", 9, "--n-steps", 3]
    refused = run(*options)
    assert refused.exit_code == 2
    assert "name the one that was captured" in refused.stderr
    said = json.loads(run(*options, "--model", toy_folder, "--json").stdout)
    (row,) = said["outputs"]
    assert (said["method"], row["first"]) == ("integrated_gradients", 9)
    assert sum(map(abs, row["shares"])) == pytest.approx(1)
    assert "delta" in row


def test_a_neuron_as_json_is_that_of_the_library(run: Run, toy_store: Path, opened: actlake.Store) -> None:
    options = ["--where", "position > 1", "--generated-only", "--examples", 3, "--related", 2]
    said = json.loads(run("neuron", toy_store, 1, 7, "--json", *options).stdout)
    neuron = opened.neuron(1, 7, where="position > 1", generated_only=True)
    assert said["stats"] == dict(neuron.stats)
    assert said["histogram"] == neuron.histogram.to_dict("records")
    for sign in ("positive", "negative"):
        assert said["examples"][sign] == neuron.examples(sign, 3).to_dict("records")
    assert said["related"] == neuron.related(2).to_dict("records")
    empty = json.loads(run("neuron", toy_store, 1, 7, "--json", "--where", "false").stdout)
    assert (empty["stats"]["n"], empty["stats"]["mean"]) == (0, None)


def test_a_neuron_as_text_shows_examples_in_their_context(run: Run, toy_store: Path, opened: actlake.Store) -> None:
    said = run("neuron", toy_store, 1, 7, "--examples", 2, "--related", 3).stdout
    strongest = opened.neuron(1, 7).examples(n=1)
    assert f"«{strongest['token'][0]}»" in said
    assert said.count("«") == 4
    assert "go with it" in said
    assert "\x1b" not in said
    assert "no tokens" in run("neuron", toy_store, 1, 7, "--where", "false").stdout


def test_bad_questions_are_one_line(run: Run, toy_store: Path) -> None:
    for command, code, said in (
        (["saliency", toy_store, 99], 1, "99"),
        (["saliency", toy_store, 0, "--output", 0], 2, "choose from"),
        (["saliency", toy_store, 2, "--output", 0], 2, "nothing to explain"),
        (["neuron", toy_store, 9, 0], 1, "no layer 9"),
        (["neuron", toy_store, 0, 40], 1, "no neuron 40"),
        (["neuron", toy_store, 0, 0, "--run", 5], 1, "5"),
        (["neuron", toy_store, 0, 0, "--where", "nope = 1"], 1, "nope"),
    ):
        result = run(*command)
        assert result.exit_code == code, result.stderr
        (line,) = result.stderr.splitlines()
        assert line.startswith("actlake: ")
        assert said in line


def test_no_text_moves_the_cursor(run: Run, tmp_path: Path) -> None:
    import stores
    from actlake.store import Commit, Location, write_shard

    location = Location.of(tmp_path)
    log = stores.registered(location)
    made = stores.a_generation(0)
    hostile = ["\x1b[31m", "\n", "\r", "\u202e", "<script>", "\x00", "\ud800".encode("utf-16", "surrogatepass").hex()]
    made.tokens.token[:] = hostile
    log.commit(lambda _: Commit("capture", "x", write_shard(location, [made], "float32")))
    for command in (
        ["saliency", tmp_path, 0],
        ["saliency", tmp_path, 0, "--output", 5],
        ["neuron", tmp_path, 3, 1, "--special"],
    ):
        result = run(*command)
        assert result.exit_code == 0, result.stderr
        assert all(char.isprintable() or char == "\n" for char in result.stdout)
