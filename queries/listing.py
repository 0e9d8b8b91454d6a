"""Generations by what they say and carry, a bounded page of them at a time: what a list of thousands is made of.

Every value is bound; the words of the statement are chosen from those here, never taken from the asker.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import pandas as pd

from ..errors import InvalidOption, RunNotFound
from .comments import literal

if TYPE_CHECKING:
    from .database import Store

Order = Literal[
    "generation_id", "prompt", "completion", "n_prompt_tokens", "n_generated", "model", "finish_reason", "random"
]
ORDERS: tuple[Order, ...] = get_args(Order)
MOST_ROWS = 10_000
MOST_KEYS = 50
MOST_VALUE_CHARACTERS = 120

_COLUMNS = """
    generation_id, run_id, model, left(prompt, $characters) as prompt, left(completion, $characters) as completion,
    n_prompt_tokens, n_tokens - n_prompt_tokens as n_generated, finish_reason, metadata"""
_TEXTS = ("prompt", "completion", "model", "metadata")
_VALUES = """
    with pairs as (
        select unnest(map_entries(cast(metadata::json as map(varchar, json))), recursive := true)
        from generations
    ),
    counted as (
        select key, value ->> '$' as value, count(*) as n_generations
        from pairs
        group by all
    )
    select key, value, n_generations
    from counted
    where length(value) <= $characters
    qualify row_number() over (partition by key order by n_generations desc, value) <= $n_values
        and dense_rank() over (order by key) <= $n_keys
    order by key, n_generations desc, value
"""
_RUNS = """
    select run_id, name, model, count(*) as n_generations
    from runs
    join generations using (run_id)
    group by all
    order by run_id
"""


@dataclass(frozen=True)
class Found:
    """A page of the generations that were asked for, and how many there are in all.

    `rows`: generation_id, run_id, model, prompt and completion (their beginnings), n_prompt_tokens, n_generated,
    finish_reason, metadata (JSON).
    """

    rows: pd.DataFrame
    n: int


def find_generations(
    store: "Store",
    search: str,
    run_id: int | None,
    metadata: Mapping[str, str],
    order_by: Order,
    descending: bool,
    limit: int,
    offset: int,
    characters: int,
) -> Found:
    """What `Store.find_generations` gives."""
    conditions, values = _asked(store, search, run_id, metadata)
    if order_by not in ORDERS:
        raise InvalidOption("order_by", order_by, f"choose one of {', '.join(ORDERS)}")
    for option, value, most in (("limit", limit, MOST_ROWS), ("offset", offset, 2**62)):
        if not 0 <= value <= most:
            raise InvalidOption(option, value, f"give a whole number from 0 to {most}")
    window = {"characters": characters, "limit": limit, "offset": offset}
    counted = f"{_COLUMNS}, count(*) over () as n_found"
    with store.reading(_statement(counted, conditions, order_by, descending), values | window) as rows:
        frame = rows.df()
    if len(frame):
        n = int(frame["n_found"].iloc[0])
    else:  # nothing is there, or the page lies behind the last
        with store.reading(f"select count(*) {_FROM}{conditions}", values) as rows:
            ((n,),) = rows.fetchall()
    return Found(frame.drop(columns="n_found"), n)


def find_generations_sql(
    search: str = "",
    *,
    run_id: int | None = None,
    metadata: Mapping[str, str] | None = None,
    order_by: Order = "generation_id",
    descending: bool = False,
    limit: int = 25,
    offset: int = 0,
    characters: int = 400,
) -> str:
    """The statement that gives the rows of `Store.find_generations`, with its values written in, to copy and to change."""
    conditions, values = _conditions(search, run_id, metadata or {})
    values |= {"characters": characters, "limit": limit, "offset": offset}
    statement = _statement(_COLUMNS, conditions, order_by, descending)
    return re.sub(r"\$(\w+)", lambda name: _literal(values[name[1]]), statement)


_FROM = "\nfrom generations\njoin runs using (run_id)"


def _statement(columns: str, conditions: str, order_by: Order, descending: bool) -> str:
    order = "random()" if order_by == "random" else f"{order_by}{' desc' if descending else ''}"
    last = "" if order_by in ("random", "generation_id") else ", generation_id"
    return f"select{columns}{_FROM}{conditions}\norder by {order}{last}\nlimit $limit offset $offset"


def _conditions(search: str, run_id: int | None, metadata: Mapping[str, str]) -> tuple[str, dict[str, Any]]:
    """The where clause, and the values that it names."""
    values: dict[str, Any] = {}
    lines = []
    if run_id is not None:
        lines.append("run_id = $run_id")
        values["run_id"] = run_id
    if search:
        held = "\n        or ".join(f"contains(lower({name}), lower($search))" for name in _TEXTS)
        lines.append(f"({held})")
        values["search"] = search
    for i, (key, value) in enumerate(metadata.items()):
        lines.append(f"cast(metadata::json as map(varchar, json))[$key{i}] ->> '$' = $value{i}")
        values |= {f"key{i}": key, f"value{i}": value}
    return "".join(f"\n{'and' if i else 'where'} {line}" for i, line in enumerate(lines)), values


def _asked(store: "Store", search: str, run_id: int | None, metadata: Mapping[str, str]) -> tuple[str, dict[str, Any]]:
    if run_id is not None and not 0 <= run_id < (n_runs := len(store.snapshot.reservations)):
        raise RunNotFound(run_id, n_runs)
    return _conditions(search, run_id, metadata)


def _literal(value: str | int) -> str:
    return literal(value) if isinstance(value, str) else str(value)


def metadata_values(store: "Store", n_values: int) -> pd.DataFrame:
    """What `Store.metadata_values` gives."""
    values = {"n_values": n_values, "n_keys": MOST_KEYS, "characters": MOST_VALUE_CHARACTERS}
    with store.reading(_VALUES, values) as rows:
        return rows.df()


def runs_with_generations(store: "Store") -> pd.DataFrame:
    """The runs that have generations: run_id, name, model, n_generations. One whose capture was broken off at once has none."""
    with store.reading(_RUNS) as rows:
        found: pd.DataFrame = rows.df()
    return found
