"""Finding generations: searched, filtered, sorted and paged, against plain Python over the same rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import actlake
import pyarrow as pa
import pytest
from actlake.errors import InvalidOption, RunNotFound
from actlake.store import TABLES, Commit, Location, Log, Reservation, write_table
from hypothesis import given, settings
from hypothesis import strategies as st

ODD_KEYS = ["topic", 'a "quoted" key', "$.path", "/slash", "<b>key</b>", "", "it's"]


def texts_store(path: Path, rows: list[dict[str, Any]], models: tuple[str, ...] = ("tiny",)) -> actlake.Store:
    """A store of generations without tokens: as many runs as models, the rows dealt to them in turn."""
    location = Location.of(path)
    log = Log(location)
    per_run = [rows[run :: len(models)] for run in range(len(models))]
    first = 0
    for run_id, (model, mine) in enumerate(zip(models, per_run, strict=True)):
        run = dict.fromkeys(TABLES["runs"].arrow.names, "") | {
            "run_id": run_id,
            "model": model,
            **dict.fromkeys(("n_layers", "d_model", "d_ff", "vocab_size", "seed"), 1),
            "precision": "float32",
            "recorded": [],
            "generation_config": '{"layers": []}',
            "created_at": datetime(2026, 1, 1),
        }
        file = write_table(location, TABLES["runs"], pa.Table.from_pylist([run], schema=TABLES["runs"].arrow))
        reserve = Reservation(run_id, first, len(mine))
        log.commit(
            lambda _, file=file, key=f"run/{run_id}", reserve=reserve: Commit("register", key, [file], reserve=reserve)
        )
        filled = [
            {
                "generation_id": first + i,
                "run_id": run_id,
                "prompt_index": i,
                "prompt": row["prompt"],
                "completion": row.get("completion", ""),
                "n_prompt_tokens": row.get("n_prompt_tokens", 1),
                "n_tokens": row.get("n_prompt_tokens", 1) + row.get("n_generated", 0),
                "finish_reason": row.get("finish_reason", "length"),
                "metadata": json.dumps(row.get("metadata", {})),
                "source": None,
            }
            for i, row in enumerate(mine)
        ]
        if filled:
            table = pa.Table.from_pylist(filled, schema=TABLES["generations"].arrow)
            files = [write_table(location, TABLES["generations"], table)]
            log.commit(lambda _, files=files, key=f"rows/{run_id}": Commit("append", key, files))
        first += len(mine)
    return actlake.open(path)


@pytest.fixture(scope="module")
def found_in(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """`find_generations` of a store of 60 generations of two runs, as the numbers that it gives and how many there are."""
    rows = [
        {
            "prompt": f"Prompt {i} {'ünï' if i % 7 == 0 else ''}",
            "completion": f"{'YES' if i % 2 else 'no'} {i}%_",
            "n_prompt_tokens": i % 5 + 1,
            "n_generated": i % 3,
            "metadata": {ODD_KEYS[i % len(ODD_KEYS)]: "x" if i % 2 else {"deep": [i % 3]}, "number": i % 4},
        }
        for i in range(60)
    ]
    store = texts_store(tmp_path_factory.mktemp("listing"), rows, ("first/model", "second/model"))

    def find(*args: Any, **options: Any) -> tuple[list[int], int]:
        found = store.find_generations(*args, **({"limit": 100} | options))
        return found.rows["generation_id"].tolist(), found.n

    find.store = store  # type: ignore[attr-defined]
    return find


@settings(deadline=None, max_examples=40)
@given(
    search=st.sampled_from(["", "yes", "7", "ÜNÏ", "%_", "SECOND/", "deep", "'", "nothing is so"]),
    run_id=st.sampled_from([None, 0, 1]),
    number=st.sampled_from([None, "0", "3", "9"]),
    key=st.sampled_from([None, *ODD_KEYS]),
    order_by=st.sampled_from(["generation_id", "prompt", "n_generated", "n_prompt_tokens", "completion", "model"]),
    descending=st.booleans(),
    limit=st.integers(0, 9),
    offset=st.integers(0, 70),
)
def test_what_is_found_is_what_plain_python_finds(
    found_in: Any,
    search: str,
    run_id: Any,
    number: Any,
    key: Any,
    order_by: Any,
    descending: bool,
    limit: int,
    offset: int,
) -> None:
    wanted = ({} if number is None else {"number": number}) | ({} if key is None else {key: "x"})
    every = found_in.store.generations().assign(n_generated=lambda f: f.n_tokens - f.n_prompt_tokens).to_dict("records")

    def carries(row: dict[str, Any]) -> bool:
        carried = json.loads(row["metadata"])
        texts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in carried.items()}
        return all(texts.get(k) == v for k, v in wanted.items())

    kept = [
        row
        for row in every
        if (run_id is None or row["run_id"] == run_id)
        and any(search.lower() in row[c].lower() for c in ("prompt", "completion", "model", "metadata"))
        and carries(row)
    ]
    kept.sort(key=lambda row: row["generation_id"])
    kept.sort(key=lambda row: row[order_by], reverse=descending)
    expected = [row["generation_id"] for row in kept][offset : offset + limit]
    options = {"metadata": wanted, "order_by": order_by, "descending": descending, "limit": limit, "offset": offset}
    assert found_in(search, run_id=run_id, **options) == (expected, len(kept))


def test_a_random_one_is_one_of_those_that_are_asked_for(found_in: Any) -> None:
    drawn = {found_in("yes", order_by="random", limit=1)[0][0] for _ in range(20)}
    assert len(drawn) > 3
    assert drawn <= set(found_in("yes")[0])


def test_texts_come_as_their_beginnings(found_in: Any) -> None:
    rows = found_in.store.find_generations(characters=4, limit=1).rows
    assert (rows["prompt"][0], rows["completion"][0]) == ("Prom", "no 0")


def test_the_values_of_metadata_are_counted(found_in: Any) -> None:
    values = found_in.store.metadata_values()
    numbers = values[values["key"] == "number"]
    assert dict(zip(numbers["value"], numbers["n_generations"], strict=True)) == dict.fromkeys("0123", 15)
    assert set(values["key"]) == {*ODD_KEYS, "number"}
    assert '{"deep":[0]}' in set(values["value"]) | {v.replace(" ", "") for v in values["value"]}
    assert found_in.store.metadata_values(1)["key"].value_counts().max() == 1


@pytest.mark.parametrize("options", [{"order_by": "1; drop"}, {"limit": -1}, {"limit": 10**9}, {"offset": -1}])
def test_a_page_that_cannot_be_is_refused(found_in: Any, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidOption):
        found_in(**options)


def test_a_run_that_is_not_there_is_refused(found_in: Any) -> None:
    with pytest.raises(RunNotFound):
        found_in(run_id=2)


def test_an_empty_store_finds_nothing(tmp_path: Path) -> None:
    store = texts_store(tmp_path, [])
    assert store.find_generations().n == 0
    assert store.metadata_values().empty
