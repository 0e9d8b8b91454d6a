"""The desk: where one drawing's work is done, in a thread, so that one person's factorisation never holds up another's page."""

import asyncio
import logging
from collections.abc import Callable
from threading import Event
from typing import Any

from markupsafe import Markup

from ..errors import ActlakeError
from .drawing import Drawing
from .page import html


class Desk:
    """Where one drawing's work is done: a piece at a time; only the newest request's result is shown."""

    def __init__(self, strip: Drawing, work: Callable[[], dict[str, Any]], doing: str) -> None:
        self.strip = strip
        self.status = html(Markup(""), align="end")
        self.trouble = html(Markup(""), visible=False)
        self.cancel = Event()
        """Set when what is worked on is no longer wanted; `work` may look at it."""
        self._work = work
        self._doing = doing
        self._newest = 0
        self._turn = asyncio.Lock()

    async def start(self, event: object = None) -> None:
        """Does the work as the controls stand now; says on the page what went wrong, if it did."""
        self._newest += 1
        request = self._newest
        self._say(self._doing)
        self.strip.busy = True
        self.cancel.set()
        async with self._turn:
            if request != self._newest:
                return
            self.cancel = Event()
            trouble, payload = "", None
            try:
                payload = await asyncio.to_thread(self._work)
            except ActlakeError as error:
                trouble = str(error)
            except Exception:  # the page must say that the wait is over; why is for the log
                logging.getLogger(__name__).exception("working for a page failed")
                trouble = "this could not be worked out; the log of `actlake serve` says why"
        if request != self._newest:
            return
        self._say("")
        self.trouble.object = str(Markup('<p class="problem" role="alert">{}</p>').format(trouble))
        self.trouble.visible = bool(trouble)
        self.strip.visible = not trouble
        self.strip.busy = False
        if payload is not None:
            self.strip.draw(payload)

    def _say(self, text: str) -> None:
        self.status.object = str(Markup('<p class="status" role="status">{}</p>').format(text))
