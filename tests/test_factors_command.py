"""`actlake factors`: what the library gives, as text and as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import actlake
import pytest
import stores
from actlake.cli import cli
from actlake.store import Location
from click.testing import CliRunner, Result


@pytest.fixture
def store(tmp_path: Path) -> actlake.Store:
    stores.a_store(Location.of(tmp_path / "store"), units=2)
    return actlake.open(tmp_path / "store")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["factors", *map(str, arguments)])


def test_it_prints_what_the_library_gives(store: actlake.Store) -> None:
    arguments = ("--generation", 1, "--generation", 3, "--k", 2, "--layers", "3", "--positions", "generated")
    result = run(store.uri, *arguments, "--reruns", 2, "--json")
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    factors = store.factors(2, [3], generations=[1, 3], positions="generated", reruns=2)
    assert (said["n_tokens"], said["error"], said["negatives"]) == (6, factors.error, "split")
    assert [row["explained"] for row in said["factors"]] == factors.explained.tolist()
    assert [row["stability"] for row in said["factors"]] == factors.stability.tolist()
    for number, row in enumerate(said["factors"]):
        assert row["neurons"] == factors.top_neurons(number, 5).to_dict("records")
        top = factors.top_tokens(number, 8).to_dict("records")
        assert row["tokens"] == [each | {"token": f"t{each['position']}"} for each in top]


def test_its_text_has_a_line_for_each_factor(store: actlake.Store) -> None:
    result = run(store.uri, "--k", 3, "--method", "pca", "--where", "rank > 1")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].startswith("20 tokens, layers [0, 3], pca, negatives keep: error 0.")
    assert [line.split()[0] for line in lines[3:]] == ["0", "1", "2"]
    assert "'t" in lines[3]
    assert len(store.refresh().factorizations()) == 0


def test_a_factor_of_which_no_token_has_any_has_a_line(tmp_path: Path) -> None:
    location = Location.of(tmp_path)
    stores.registered(location)
    stores.capture_unit(location, [0])
    result = run(location.uri, "--k", 7, "--layers", "3", "--method", "pca", "--json")  # of 7 tokens less their mean
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["factors"][6]["tokens"] == []
    assert run(location.uri, "--k", 7, "--layers", "3", "--method", "pca").exit_code == 0


def test_what_it_saves_is_in_the_store(store: actlake.Store) -> None:
    result = run(store.uri, "--k", 2, "--save", "a name")
    assert result.stdout.splitlines()[-1] == "saved as factorization 0"
    assert store.refresh().factorizations()["name"].tolist() == ["a name"]
    assert store.factorization(0).k == 2


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--k", "0"], 2, "k=0 cannot be used: give 1 or more"),
        (["--layers", "1"], 1, "no layer 1; there are layers 0,3"),
        (["--generation", "9"], 1, "no generation 9; this store holds 4"),
        (["--where", "nothing = 1"], 1, "nothing"),
        (["--method", "magic"], 2, "magic"),
    ],
)
def test_what_cannot_be_done_is_one_line(store: actlake.Store, arguments: list[str], code: int, said: str) -> None:
    result = run(store.uri, *arguments)
    assert result.exit_code == code
    assert said in result.output
