"""The desk: where one drawing's work is done, in a thread, so that one person's factorisation never holds up another's page."""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Future
from threading import Event
from typing import Any

from markupsafe import Markup

from ..errors import ActlakeError, Cancelled
from .controls import button
from .drawing import Drawing
from .following import Following
from .page import html

CANCELLED = "Cancelled: nothing was worked out. Change what is asked, or begin again."
Payload = dict[str, Any]


class Desk:
    """Where one drawing's work is done: a piece at a time; only the newest request's result is shown.

    `begin` starts the work in a thread; it is told of an event to look at, and may tell `following.report` how far it is.
    `parts()` are what the page shows of it; of work that can be long, a bar and a button that cancels it.
    """

    def __init__(
        self, strip: Drawing, begin: Callable[[Event], "Future[Payload]"], doing: str, *, can_be_long: bool = False
    ) -> None:
        self.strip = strip
        self.status = html(Markup(""), align="end", visible=False)
        self.trouble = html(Markup(""), visible=False)
        self.again = button("Begin again", visible=False)
        self.following = Following("the work")
        self._begin = begin
        self._doing = doing
        self._can_be_long = can_be_long
        self._newest = 0
        self._turn = asyncio.Lock()
        self.again.on_click(self.start)

    def parts(self) -> list[Any]:
        """What stands among the controls: how the work is, and what can be done about it."""
        following = self.following
        return [following.stop, following.bar, self.again, self.status] if self._can_be_long else [self.status]

    async def start(self, event: object = None) -> None:
        """Does the work as the controls stand now; says on the page what went wrong, if it did."""
        self._newest += 1
        request = self._newest
        self._say(self._doing)
        self.again.visible = self.trouble.visible = False
        self.strip.busy = True
        self.following.give_up()
        async with self._turn:
            if request != self._newest:
                return
            said, payload, given_up = Markup(""), None, False
            try:
                payload = await self.following.result(self._begin)
            except Cancelled:
                given_up = True
                said = Markup('<p class="status" role="status">{}</p>').format(CANCELLED)
            except ActlakeError as error:
                said = _trouble(str(error))
            except Exception:  # the page must say that the wait is over; why is for the log
                logging.getLogger(__name__).exception("working for a page failed")
                said = _trouble("this could not be worked out; the log of `actlake serve` says why")
        if request != self._newest:
            return
        if payload is not None:
            self.strip.draw(payload)
        self.again.visible = given_up
        self._rest(said)

    def _rest(self, said: Markup) -> None:
        """No more waiting: the drawing is there, or in its place what is said."""
        self._say("")
        self.trouble.object = str(said)
        self.trouble.visible = bool(said)
        self.strip.visible = not said
        self.strip.busy = False

    def _say(self, text: str) -> None:
        self.status.object = str(Markup('<p class="status" role="status">{}</p>').format(text))
        self.status.visible = bool(text)


def _trouble(sentence: str) -> Markup:
    return Markup('<p class="problem" role="alert">{}</p>').format(sentence)
