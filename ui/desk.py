"""The desk: where one drawing's work is done, in a thread, so that one person's factorisation never holds up another's page."""

import asyncio
import logging
from collections.abc import Callable
from threading import Event
from typing import Any

import panel as pn
from markupsafe import Markup

from ..errors import ActlakeError
from .controls import button
from .drawing import Drawing
from .page import html

LOOK_S = 0.25
"""How often the page says how far the work is; work that is sooner done shows no bar."""
CANCELLED = "Cancelled: nothing was worked out. Change what is asked, or begin again."


class Desk:
    """Where one drawing's work is done: a piece at a time; only the newest request's result is shown.

    `work` may look at `cancel`, and tell `report` how much is done of how much. `parts()` are what the page shows of it; of
    work that can be long, a bar and a button that cancels it.
    """

    def __init__(
        self, strip: Drawing, work: Callable[[], dict[str, Any]], doing: str, *, can_be_long: bool = False
    ) -> None:
        self.strip = strip
        self.status = html(Markup(""), align="end", visible=False)
        self.trouble = html(Markup(""), visible=False)
        self.bar = pn.indicators.Progress(
            value=0, max=1000, visible=False, width=160, margin=(0, 0, 12, 0), align="end"
        )
        self.stop = button("Cancel", visible=False)
        self.again = button("Begin again", visible=False)
        self.cancel = Event()
        """Set when what is worked on is no longer wanted; `work` may look at it."""
        self._work = work
        self._doing = doing
        self._can_be_long = can_be_long
        self._done = 0, 0
        self._newest = 0
        self._turn = asyncio.Lock()
        self.stop.on_click(self._give_up)
        self.again.on_click(self.start)

    def parts(self) -> list[Any]:
        """What stands among the controls: how the work is, and what can be done about it."""
        return [self.stop, self.bar, self.again, self.status] if self._can_be_long else [self.status]

    def report(self, done: int, total: int) -> None:
        """How much of the work is done; any thread may say it."""
        self._done = done, total

    async def start(self, event: object = None) -> None:
        """Does the work as the controls stand now; says on the page what went wrong, if it did."""
        self._newest += 1
        request = self._newest
        self._say(self._doing)
        self.again.visible = False
        self.strip.busy = True
        self.cancel.set()
        async with self._turn:
            if request != self._newest:
                return
            self.cancel = Event()
            self._done = 0, 0
            trouble, payload = "", None
            try:
                payload = await self._followed(request, asyncio.create_task(asyncio.to_thread(self._work)))
            except ActlakeError as error:
                trouble = str(error)
            except Exception:  # the page must say that the wait is over; why is for the log
                logging.getLogger(__name__).exception("working for a page failed")
                trouble = "this could not be worked out; the log of `actlake serve` says why"
        if request != self._newest:
            return
        if payload is not None:
            self.strip.draw(payload)
        self._rest(Markup('<p class="problem" role="alert">{}</p>').format(trouble) if trouble else Markup(""))

    async def _followed(self, request: int, work: "asyncio.Task[dict[str, Any]]") -> dict[str, Any]:
        """What the work gives; while it lasts, the bar says how far it is."""
        while not (await asyncio.wait({work}, timeout=LOOK_S))[0]:
            if request == self._newest and self._can_be_long:
                done, total = self._done
                self.bar.value = min(1000, 1000 * done // total) if total else -1
                self.stop.visible = self.bar.visible = True
        return work.result()

    def _give_up(self, event: object) -> None:
        """Nobody waits for the work any more; what can look at `cancel` ends soon, what cannot is not shown."""
        if self.strip.busy:
            self._newest += 1
            self.cancel.set()
            self._rest(Markup('<p class="status" role="status">{}</p>').format(CANCELLED))
            self.again.visible = True

    def _rest(self, said: Markup) -> None:
        """No more waiting: the drawing is there, or in its place what is said."""
        self._say("")
        self.stop.visible = self.bar.visible = False
        self.trouble.object = str(said)
        self.trouble.visible = bool(said)
        self.strip.visible = not said
        self.strip.busy = False

    def _say(self, text: str) -> None:
        self.status.object = str(Markup('<p class="status" role="status">{}</p>').format(text))
        self.status.visible = bool(text)
