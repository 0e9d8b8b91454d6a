"""Runs what changes a store, in a process for each line of its input, to be killed: `{"what", "store", "event"}`.

It imports the store once and forks, so that a kill hits the operation and not the import of libraries. With an `event`
number the process kills itself before that many-th change of the file system; else whoever reads its pid may kill it. For
each line it prints the pid, and when the process has ended, its status and how many changes it had made.
"""

import json
import os
import signal
import sys
from collections.abc import Callable

import stores
from actlake.store import Location, compact, gc, index, log, save_factorization

log.CHECKPOINT_EVERY = 4
CHANGES = {"os.link", "os.remove", "os.mkdir"}

OPERATIONS: dict[str, Callable[[Location], object]] = {
    "commit": lambda location: stores.capture_unit(location, range(6, 9)),
    "index": index,
    "compact": compact,
    "gc": lambda location: gc(location, grace_s=0),
    "save": lambda location: save_factorization(log.Log(location), stores.a_factorization(0, k=2)),
}


def run(what: str, store: str, event: int | None, counted: int) -> None:
    """Do it, telling each change of the file system, and end."""
    n_changes = 0

    def on_event(name: str, arguments: tuple[object, ...]) -> None:
        nonlocal n_changes
        writes = name == "open" and set(str(arguments[1])) & set("wxa") and arguments[1] is not None
        if (writes or name in CHANGES) and str(arguments[0]).startswith(store):
            n_changes += 1
            os.write(counted, b".")
            if n_changes == event:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(on_event)
    OPERATIONS[what](Location.of(store))


def main() -> None:
    stores.load_kernels()
    for line in sys.stdin:
        order = json.loads(line)
        reading, counted = os.pipe()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                run(order["what"], order["store"], order["event"], counted)
                code = 0
            finally:
                sys.stderr.flush()
                os._exit(code)
        os.close(counted)
        print(child, flush=True)
        status = os.waitpid(child, 0)[1]
        print(status, len(os.read(reading, 1 << 16)), flush=True)
        os.close(reading)


if __name__ == "__main__":
    main()
