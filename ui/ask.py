"""Asking the model: a prompt from the corpus page, captured into the store, one at a time.

The model is loaded once, in the thread that captures too, so whoever asks before it is there waits in the same line. A capture
is followed, and ended, by a hook on the network's forward pass: it runs once for each token that is written.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from textwrap import shorten
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

from ..errors import ActlakeError, Cancelled, InvalidOption
from ..queries import Store
from ..store import DEFAULT_RECORDS, Record

if TYPE_CHECKING:
    from ..capture import Model, Run

MOST_NEW_TOKENS = 512
MOST_CHARACTERS = 100_000
MOST_WAITING = 20
NAME_CHARACTERS = 60
RECORDED: tuple[Record, ...] = (*DEFAULT_RECORDS, "hidden_states", "layer_predictions")
"""What is recorded of a prompt, so that every view has something to show."""

Result = TypeVar("Result")

_askers: WeakKeyDictionary[Store, "Asker"] = WeakKeyDictionary()


class Asker:
    """A model that answers prompts into a store. `asker_of(store)` finds it again."""

    def __init__(self, store: Store, model: str) -> None:
        """Begins to load the model, in a thread. Raises InvalidOption for a store that can only be read."""
        if store.is_of_the_past:
            wanted = "the store was opened as it was after a commit, and what is asked could not be seen in it"
            raise InvalidOption("model", model, wanted)
        self.name = model
        self._uri = store.uri
        self._line = ThreadPoolExecutor(1, thread_name_prefix="actlake-ask")
        self._waiting: list[Asked] = []
        self._works: list[Future[Any]] = []
        self._model: Future[Model] = self._line.submit(self._load)
        _askers[store] = self

    def ask(self, prompt: str, max_new_tokens: int, temperature: float) -> "Asked":
        """Puts a prompt into the line. Raises InvalidOption for one that cannot be asked, or when the line is long."""
        if not prompt.strip():
            raise InvalidOption("prompt", prompt, "write something to continue")
        if len(prompt) > MOST_CHARACTERS:
            raise InvalidOption("prompt", f"{prompt[:40]}…", f"it has more than {MOST_CHARACTERS:,} characters")
        if not 1 <= max_new_tokens <= MOST_NEW_TOKENS:
            raise InvalidOption("max_new_tokens", max_new_tokens, f"give a whole number from 1 to {MOST_NEW_TOKENS}")
        if not 0 <= temperature <= 5:
            raise InvalidOption("temperature", temperature, "give a number from 0 to 5")
        self._waiting = [one for one in self._waiting if not one.result.done()]
        if len(self._waiting) >= MOST_WAITING:
            raise InvalidOption("prompt", f"{prompt[:40]}…", f"{MOST_WAITING} others wait already; ask again later")
        asked = Asked(self, prompt, max_new_tokens, temperature)
        self._waiting.append(asked)
        asked.result = self._line.submit(asked.answer)
        return asked

    def before(self, asked: "Asked") -> int:
        """How many prompts are answered before this one."""
        line = [one for one in self._waiting if not one.result.done()]
        return line.index(asked) if asked in line else 0

    @property
    def is_loading(self) -> bool:
        return not self._model.done()

    def submit(self, work: Callable[["Model"], Result]) -> "Future[Result]":
        """What `work` will give of the model, in the one thread that uses it: what is hooked into a network sees every pass of
        it, so two at once would record one another's. Its turn comes after those before it; a job that is cancelled leaves
        the line. The result raises what loading the model raised. Raises InvalidOption when the line is long.
        """
        self._works = [one for one in self._works if not one.done()]
        if len(self._works) >= MOST_WAITING:
            raise InvalidOption("view", "layers", f"{MOST_WAITING} others wait for the model already; try again later")
        job = self._line.submit(lambda: work(self._model.result()))
        self._works.append(job)
        return job

    @property
    def uri(self) -> str:
        return self._uri

    def close(self) -> None:
        """Ends what is asked; nobody can ask any more."""
        for one in self._waiting:
            one.cancel()
        for store in [store for store, asker in _askers.items() if asker is self]:
            del _askers[store]
        self._line.shutdown(wait=False, cancel_futures=True)

    def _load(self) -> "Model":
        from ..capture import load_model

        return load_model(self.name)


class Asked:
    """One prompt in the line; `result` comes to be the number of its generation."""

    result: "Future[int]"

    def __init__(self, asker: Asker, prompt: str, max_new_tokens: int, temperature: float) -> None:
        self._asker, self._prompt = asker, prompt
        self._options: dict[str, Any] = {"max_new_tokens": max_new_tokens, "temperature": temperature}
        self._cancelled = threading.Event()
        self.n_passes = 0

    @property
    def fraction(self) -> float:
        """About how much is done: the passes through the model, of one for each token and one that records."""
        return min(0.97, self.n_passes / (self._options["max_new_tokens"] + 2))

    def cancel(self) -> None:
        self._cancelled.set()

    def answer(self) -> int:
        """Captures the prompt; gives the number of its generation. Raises Cancelled, or what the capture raises."""
        if self._cancelled.is_set():
            raise Cancelled("the prompt")
        model = self._asker._model.result()
        hook = model.network.register_forward_pre_hook(lambda *_: self._passed())
        try:
            run = self._captured(model, RECORDED)
        except _Stopped:
            raise Cancelled("the prompt") from None
        finally:
            hook.remove()
        if run.skipped:
            raise InvalidOption("prompt", f"{self._prompt[:40]}…", str(run.skipped[0].reason))
        return run.first_generation_id

    def _captured(self, model: "Model", record: Sequence[Record]) -> "Run":
        """The run of this prompt alone; of a model whose residual stream cannot be recorded, without it."""
        from ..capture import capture

        prompt = {"prompt": self._prompt, "asked": "in the app"}
        name = f"asked: {shorten(self._prompt, NAME_CHARACTERS, placeholder=' …') or self._prompt[:NAME_CHARACTERS]}"
        try:
            return capture(self._asker.uri, model, [prompt], record=record, name=name, index=False, **self._options)
        except InvalidOption as error:
            if error.args[0] != "record" or record == DEFAULT_RECORDS:
                raise
            return self._captured(model, DEFAULT_RECORDS)

    def sentence(self) -> str:
        """How it stands, for who waits."""
        if self._asker.is_loading:
            return f"loading {self._asker.name} …"
        if n := self._asker.before(self):
            return f"waiting: {n} prompt{'s are' if n > 1 else ' is'} answered before"
        return "writing and recording …"

    def error(self) -> str:
        """What went wrong, in one line."""
        error = self.result.exception()
        if isinstance(error, ActlakeError):
            return str(error)
        logging.getLogger(__name__).error("asking the model failed", exc_info=error)
        return "this could not be answered; the log of `actlake serve` says why"

    def _passed(self) -> None:
        self.n_passes += 1
        if self._cancelled.is_set():
            raise _Stopped


class _Stopped(BaseException):
    """Ends a capture from within; no error of the model's, and so not one that the capture tries to live with."""


def asker_of(store: Store) -> Asker | None:
    """The model that a store's app may ask, if it was given one."""
    return _askers.get(store)
