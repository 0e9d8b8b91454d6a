"""Threads for the work of pages, so that no session waits for another's: many that are short, few that are long."""

from concurrent.futures import ThreadPoolExecutor
from threading import Event
from weakref import WeakSet

LIGHT = ThreadPoolExecutor(8, thread_name_prefix="actlake-page")
"""What takes milliseconds: a page of rows, a generation's tokens."""

DRAWINGS = ThreadPoolExecutor(6, thread_name_prefix="actlake-drawing")
"""What is drawn of one generation, but for its factors: milliseconds to a second."""

FACTORS = ThreadPoolExecutor(3, thread_name_prefix="actlake-factors")
"""Factors of one generation, which take a second or many, and memory; who comes fourth waits."""

MOST_QUERIES = 4
QUERIES = ThreadPoolExecutor(MOST_QUERIES, thread_name_prefix="actlake-query")
"""People's SQL, each in a process of its own; who comes fifth waits."""

DOWNLOADS = ThreadPoolExecutor(MOST_QUERIES, thread_name_prefix="actlake-download")
"""The same, of which all rows are sent, no faster than they are taken."""

MOST_PASSES = 2
PASSES = ThreadPoolExecutor(MOST_PASSES, thread_name_prefix="actlake-pass")
"""Passes over the corpus, which take seconds to hours: factorizations, related neurons; who comes third waits."""

_cancellations: "WeakSet[Event]" = WeakSet()


def cancellation() -> Event:
    """An event for long work to look at: it is set when nobody wants the work any more, or the server ends."""
    event = Event()
    _cancellations.add(event)
    return event


def cancel_all() -> None:
    """End every long work that looks at its event: the server ends."""
    for event in list(_cancellations):
        event.set()
