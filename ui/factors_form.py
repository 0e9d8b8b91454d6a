"""The form that makes factors of the corpus: a factorization runs in a thread of its own, can be cancelled, and is saved into the
store, where every session finds it.
"""

import asyncio
import logging
from collections.abc import Callable
from threading import Event
from typing import Any

import panel as pn
from markupsafe import Markup

from ..errors import ActlakeError, Cancelled
from ..queries import FACTOR_METHODS, NEGATIVES, POSITIONS, Store
from .address import MAX_FACTORS, MAX_RERUNS, parse_layers
from .controls import button, check, number, row, select, text
from .factor_words import FACTOR_METHOD_NAMES, NEGATIVE_NAMES, POSITION_NAMES
from .jobs import PASSES
from .page import html, problem

LOOK_AGAIN_S = 0.25
DEFAULTS = {"k": 10, "seed": 0, "reruns": 0}
STATUS = Markup('<p class="status" role="status">{}</p>')
SAVED = STATUS.format(Markup('Saved: <a href="./factors?id={0}">factorization {0}</a>'))


def factors_form(store: Store, heading: Callable[[Store], Markup]) -> list[Any]:
    """The list that `heading` gives, and under it the form; what it makes is in the list at once."""
    made = html(heading(store))
    methods = {FACTOR_METHOD_NAMES[method]: method for method in FACTOR_METHODS}
    positions = {POSITION_NAMES[which]: which for which in POSITIONS}
    negatives = {NEGATIVE_NAMES[how]: how for how in NEGATIVES}
    asked: dict[str, Any] = {
        "method": select("method", methods, FACTOR_METHODS[0], 100),
        "k": number("factors (k)", DEFAULTS["k"], 1, MAX_FACTORS, 90),
        "layers": text("layers", "", "all", 110),
        "positions": select("positions", positions, POSITIONS[0], 130),
        "where": text("tokens where (SQL)", "", "run_id = 0", 180),
        "negatives": select("negative values", negatives, NEGATIVES[0], 120),
        "seed": number("seed", DEFAULTS["seed"], 0, 2**31 - 1, 90),
        "reruns": number("reruns, for stability", DEFAULTS["reruns"], 0, MAX_RERUNS, 130),
        "scale_layers": check("layers count alike", False),
    }
    name = text("name", "", "optional", 180)
    start = button("Factorise", color="primary")
    stop = button("Cancel", visible=False)
    bar = pn.indicators.Progress(value=0, max=1000, visible=False, width=180, margin=(0, 0, 12, 0), align="end")
    said = html(Markup(""))
    cancel = Event()

    async def work(event: object) -> None:
        cancel.clear()
        start.visible, stop.visible, bar.visible, bar.value = False, True, True, -1
        at = [0, 0]

        def progress(done: int, total: int) -> None:
            at[:] = done, total

        try:
            options = {
                key: DEFAULTS.get(key) if widget.value is None else widget.value for key, widget in asked.items()
            }
            job = PASSES.submit(factorised, store, options, (name.value or "").strip() or None, cancel, progress)
            while not job.done():
                if cancel.is_set() and job.cancel():  # it stood in the line
                    raise Cancelled("the factorization")
                said.object = str(_status(cancel.is_set(), job.running()))
                bar.value = min(1000, 1000 * at[0] // at[1]) if at[1] else -1
                await asyncio.sleep(LOOK_AGAIN_S)
            saved = job.result()
            made.object = str(heading(store))
            said.object = str(SAVED.format(saved))
        except Cancelled:
            said.object = str(STATUS.format("Cancelled: nothing was kept."))
        except ActlakeError as error:
            said.object = str(problem(str(error)))
        except Exception:
            logging.getLogger(__name__).exception("a factorization failed")
            said.object = str(problem("The factorization failed; the log of `actlake serve` says why."))
        start.visible, stop.visible, bar.visible = True, False, False

    start.on_click(work)
    stop.on_click(lambda event: cancel.set())
    pn.state.on_session_destroyed(lambda context: cancel.set())
    title = html(Markup('<h2 class="section">A new factorization</h2>'))
    return [made, title, row(*asked.values(), name, start, stop, bar, margin=(6, 0)), said]


def _status(is_cancelled: bool, is_running: bool) -> Markup:
    if is_cancelled:
        return STATUS.format("Cancelling …")
    return STATUS.format("Factorising …" if is_running else "Waiting: two others are being worked out …")


def factorised(
    store: Store, options: dict[str, Any], name: str | None, cancel: Event, progress: Callable[[int, int], None]
) -> int:
    """Makes factors of the corpus, or of what the options select, and saves them; gives the number. Raises as `Store.factors`."""
    layers, where = parse_layers(options.pop("layers") or ""), (options.pop("where") or "").strip() or None
    factors = store.factors(layers=layers, where=where, cancel=cancel, on_progress=progress, **options)
    if cancel.is_set():  # of methods that do not look at it
        raise Cancelled("the factorization")
    return store.save(factors, name)
