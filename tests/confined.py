"""Runs calls on a store in a process that the system lets write little, or nothing: `confined.py HOW STORE CALL…`.

HOW is `read-only` (Landlock, or another user where the kernel has none), `room=BYTES` (a limit of a file's size, which every
system has) or `as-it-is`. For each call it prints a line of JSON: what came of it, or the error's class and message.
"""

import json
import os
import resource
import sys
from collections.abc import Callable

import actlake
import stores
from actlake.queries.confine import landlock, landlock_version
from actlake.store import Location, Log, compact, gc, index, log, save_factorization, verify

NOBODY = 65534

CALLS: dict[str, Callable[[Location], object]] = {
    "sql": lambda location: actlake.open(location.root).sql("select count(*) from activations").fetchall(),
    "read_sql": lambda location: list(actlake.open(location.root).read_sql("select count(*) from tokens").fetchall()),
    "generation": lambda location: actlake.open(location.root).generation(0).activations().shape,
    "verify": lambda location: [verify(location, deep=True).ok, len(verify(location).unreferenced)],
    "write_shard": lambda location: len(stores.write_shard(location, [stores.a_generation(90)], "float32")),
    "capture": lambda location: stores.capture_unit(location, range(20, 23)),
    "capture one": lambda location: stores.capture_unit(location, [20]),
    "capture with a checkpoint": lambda location: capture_with_a_checkpoint(location),
    "index": lambda location: index(location).n_tokens,
    "save": lambda location: save_factorization(Log(location), stores.a_factorization(0, k=2)),
    "compact": lambda location: compact(location).n_after,
    "gc": lambda location: len(gc(location, grace_s=0).paths),
    "new store": lambda location: stores.registered(Location.of(f"{location.root}/new")).newest(),
    "version": lambda location: Log(location).snapshot().version,
}


def capture_with_a_checkpoint(location: Location) -> list[str]:
    log.CHECKPOINT_EVERY = 1
    stores.capture_unit(location, [20])
    return Log(location).checkpoints()


def main(how: str, store: str, *calls: str) -> None:
    if how == "read-only":
        if landlock_version() > 0:
            landlock(["/"], network=True)
        elif os.getuid() == 0:  # whom permissions do not bind
            os.setuid(NOBODY)
    if how.startswith("room="):
        room = int(how.removeprefix("room="))
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
    for call in calls:
        try:
            said: object = {"gives": CALLS[call](Location.of(store))}
        except Exception as error:
            said = {"error": type(error).__name__, "says": str(error)}
        sys.stdout.write(f"{json.dumps(said)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
