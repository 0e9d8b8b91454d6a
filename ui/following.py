"""Long work as a page shows it: a bar says how far it is, a button gives it up."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from threading import Event
from typing import TypeVar

import panel as pn

from ..errors import Cancelled
from .controls import button
from .jobs import cancellation

LOOK_S = 0.2
"""How often the page says how far the work is; work that is sooner done shows neither bar nor button."""

Result = TypeVar("Result")


class Following:
    """One piece of work at a time, with its `bar` and the button that gives it up, `stop`.

    The work may look at `cancel`, and tell `report` how much is done of how much.
    """

    def __init__(self, what: str) -> None:
        """`what` the work is stands in Cancelled."""
        self.bar = pn.indicators.Progress(
            value=0, max=1000, visible=False, width=160, margin=(0, 0, 12, 0), align="end"
        )
        self.stop = button("Cancel", visible=False)
        self.cancel = cancellation()
        self._what = what
        self._done = 0, 0
        self.stop.on_click(lambda event: self.give_up())

    def give_up(self) -> None:
        """Nobody wants what is worked on now."""
        self.cancel.set()

    def report(self, done: int, total: int) -> None:
        """How much of the work is done; any thread may say it."""
        self._done = done, total

    async def result(
        self, begin: Callable[[Event], "Future[Result]"], looks: Callable[["Future[Result]"], None] = lambda job: None
    ) -> Result:
        """What the job gives that `begin` starts, told of the event that it may look at; `looks` is called meanwhile.

        Raises Cancelled soon after it was given up, whether or not the job looks: one that does not goes on, and is dropped.
        """
        self.cancel, self._done = cancellation(), (0, 0)
        cancel, job = self.cancel, begin(self.cancel)
        work = asyncio.wrap_future(job)
        try:
            while not (await asyncio.wait({work}, timeout=LOOK_S))[0]:
                if cancel.is_set():
                    work.cancel()
                    raise Cancelled(self._what)
                done, total = self._done
                self.bar.value = min(1000, 1000 * done // total) if total else -1
                self.stop.visible = self.bar.visible = True
                looks(job)
            return work.result()
        finally:
            self.stop.visible = self.bar.visible = False
