"""Runs work on one store in several processes at once: `workers.py STORE`, and on its input a JSON list of `[work, arguments]`.

It imports once and forks a process for each; a process that fails prints its traceback and ends with 1.
"""

import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import actlake
import duckdb
import numpy as np
import stores
from actlake.errors import MissingFile
from actlake.store import Commit, Location, Log, Reservation, compact, gc, index

GRACE_S = 5.0  # longer than any of these steps takes on a machine that has much else to do
GONE = ("`actlake gc` deleted it", "No such file", "No files found that match the pattern")
"""What is said of a file that `gc` took: by us, and by DuckDB when it went as it was opened, or just before."""
LAYER, NEURON = 3, 7


def commit(store: str, writer: int, n: int) -> None:
    """Commits that reserve numbers, one after the other."""
    log = Log(Location.of(store))
    for number in range(n):
        log.commit(
            lambda s, number=number: Commit(
                "register",
                f"{writer}/{number}",
                reserve=Reservation(s.next_run_id, s.next_generation_id, 1 + writer),
            )
        )


def capture(store: str, first: int, n: int) -> None:
    """Units of two generations."""
    for unit in range(n):
        stores.capture_unit(Location.of(store), [first + 2 * unit, first + 2 * unit + 1])
        time.sleep(0.02)
    Path(store, f"captured-{first}").touch()


def save(store: str, writer: int, n: int) -> None:
    """Factors that are saved one after the other; each is there at once, under its number."""
    opened = actlake.open(store)
    for number in range(n):
        factorization_id = opened.save(opened.generation(number % 2).factors(2 + number % 3), name=f"{writer}/{number}")
        query = "select name from factorizations where factorization_id = ?"
        assert opened.sql(query, [factorization_id]).fetchall() == [(f"{writer}/{number}",)]


def repeatedly(store: str, what: Callable[[Location], object], captures: int) -> None:
    """Until all captures are done, and then once more."""
    finished = False
    while not finished:
        finished = len(list(Path(store).glob("captured-*"))) == captures
        what(Location.of(store))
        time.sleep(0.01)


def check(store: actlake.Store) -> int:
    """What a snapshot says, by all paths, is what its generations say; gives how many there are."""
    query = "select generation_id from generations order by 1"
    generations = [number for (number,) in store.sql(query).fetchall()]
    n_tokens = stores.N_TOKENS * len(generations)
    assert store.sql("select count(*) from tokens").fetchall() == [(n_tokens,)]
    expected = [stores.a_generation(number).activations[LAYER][:, NEURON].tolist() for number in generations]
    for path in ("by_token", "by_neuron"):
        rows = store.sql(
            f"select activation from {path}.activations where layer = ? and neuron = ? order by generation_id, position",
            [LAYER, NEURON],
        ).fetchall()
        assert [value for (value,) in rows] == [value for values in expected for value in values], path
    if generations:
        last = stores.a_generation(generations[-1])
        np.testing.assert_array_equal(
            store.generation(generations[-1]).activations(), np.concatenate([*last.activations.values()], axis=1)
        )
    return len(generations)


def ask(store: actlake.Store) -> int | str:
    """What `check` gives, or what was said of a file that is gone."""
    try:
        return check(store)
    except (MissingFile, duckdb.IOException) as error:  # DuckDB's when it went after its footer was looked at
        return str(error)


def read(store: str, captures: int) -> None:
    """Open and ask, again and again: what is there grows, and is right; a file may be gone only if that took long."""
    seen: list[int] = []

    def once(_: Location) -> None:
        began = time.monotonic()
        answer = ask(actlake.open(store))
        if isinstance(answer, int):
            seen.append(answer)
        else:
            assert time.monotonic() - began > GRACE_S, answer

    repeatedly(store, once, captures)
    assert seen == sorted(seen)
    assert len(set(seen)) > 2, "the reader saw nothing change"


def hold(store: str, captures: int) -> None:
    """Open once, ask again and again: always the same, until `gc` takes its files, which is said."""
    began, held = time.monotonic(), actlake.open(store)  # a file may be removed as soon as its snapshot is read
    first: int | str | None = None

    def again(_: Location) -> None:
        nonlocal first
        answer = ask(held)
        first = answer if first is None else first
        if answer != first or isinstance(answer, str):
            assert any(said in str(answer) for said in GONE), answer
            assert time.monotonic() - began > GRACE_S, answer

    repeatedly(store, again, captures)


WORK: dict[str, Callable[..., None]] = {
    "commit": commit,
    "capture": capture,
    "save": save,
    "index": lambda store, captures: repeatedly(store, index, captures),
    "compact": lambda store, captures: repeatedly(store, compact, captures),
    "gc": lambda store, captures: repeatedly(store, lambda location: gc(location, grace_s=GRACE_S), captures),
    "read": read,
    "hold": hold,
}


def main() -> None:
    store, children = sys.argv[1], []
    stores.load_kernels()
    for work, arguments in json.loads(sys.stdin.read()):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                WORK[work](store, *arguments)
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(code)
        children.append(child)
    sys.exit(max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))


if __name__ == "__main__":
    main()
