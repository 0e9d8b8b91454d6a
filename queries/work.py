"""Long work as those who asked for it see it: it says how far it is, and ends when it is told."""

from collections.abc import Callable
from dataclasses import dataclass
from threading import Event

from ..errors import Cancelled

Progress = Callable[[int, int], None]
"""Is told how much is done and how much there is."""


@dataclass
class Work:
    """`n_all` steps of something that is long, of which `n_done` are done. `what` it is stands in the error."""

    what: str
    n_all: int
    cancel: Event | None = None
    on_progress: Progress | None = None
    n_done: int = 0

    def go_on(self) -> None:
        """Raises Cancelled if whoever asked for the work has set `cancel`."""
        if self.cancel is not None and self.cancel.is_set():
            raise Cancelled(self.what)

    def did(self, n: int) -> None:
        """So many steps more are done. Raises Cancelled."""
        self.n_done = min(self.n_done + n, self.n_all)
        if self.on_progress:
            self.on_progress(self.n_done, self.n_all)
        self.go_on()

    def end(self) -> None:
        """Nothing is left to do, whether or not there were as many steps as was thought."""
        if self.on_progress and self.n_done < self.n_all:
            self.on_progress(self.n_all, self.n_all)
        self.n_done = self.n_all
