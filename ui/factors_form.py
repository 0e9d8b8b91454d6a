"""The form that makes factors of the corpus: a factorization runs in a thread of its own, can be cancelled, and is saved into the
store, where every session finds it.
"""

import logging
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from threading import Event
from typing import Any

import panel as pn
from markupsafe import Markup
from panel.io.location import Location

from ..errors import ActlakeError, Cancelled, number_ranges
from ..queries import FACTOR_METHODS, NEGATIVES, POSITIONS, Store
from .address import MAX_FACTORS, MAX_RERUNS, AskedFactors, parse_layers
from .controls import button, check, number, row, select, text
from .factor_words import FACTOR_METHOD_NAMES, NEGATIVE_NAMES, POSITION_NAMES, accepted
from .following import Following
from .jobs import MOST_PASSES, PASSES
from .opening import opening
from .page import copy_as, html, problem

FACTORISING, IN_LINE = "Factorising …", f"Waiting: {MOST_PASSES} others are being worked out …"
STATUS = Markup('<p class="status" role="status">{}</p>')
SAVED = STATUS.format(Markup('Saved: <a href="./factors?id={0}">factorization {0}</a>'))


def factors_form(store: Store, heading: Callable[[Store], Markup], location: Location) -> list[Any]:
    """The list that `heading` gives, and under it the form; what it makes is in the list at once.

    What the form asks for is the address, which fills it when it is opened; nothing begins by itself. Raises InvalidOption.
    """
    asked = AskedFactors.parse(location.search)
    made = html(heading(store))
    methods = {FACTOR_METHOD_NAMES[method]: method for method in FACTOR_METHODS}
    positions = {POSITION_NAMES[which]: which for which in POSITIONS}
    negatives = {NEGATIVE_NAMES[how]: how for how in NEGATIVES}
    widgets: dict[str, Any] = {
        "method": select("method", methods, asked.method, 100),
        "k": number("factors (k)", asked.k, 1, MAX_FACTORS, 90),
        "layers": text("layers", number_ranges(asked.layers or ()), "all", 110),
        "positions": select("positions", positions, asked.positions, 130),
        "where": text("tokens where (SQL)", asked.where, "run_id = 0", 180),
        "negatives": select("negative values", negatives, asked.negatives, 120),
        "seed": number("seed", asked.seed, 0, 2**31 - 1, 90),
        "reruns": number("reruns, for stability", asked.reruns, 0, MAX_RERUNS, 130),
        "scale_layers": check("layers count alike", asked.scale_layers),
        "name": text("name", asked.name, "optional", 180),
    }
    copies = copy_as(python=as_python(store, asked))
    wrong = ""

    def change(event: Any) -> None:
        """The form as it stands is the address, but for what a method refuses, which it sets back."""
        nonlocal asked, wrong
        try:
            now = AskedFactors(**{name: _read(name, widget.value) for name, widget in widgets.items()})
        except ActlakeError as error:
            wrong = said.object = str(problem(str(error)))
            return
        if said.object == wrong:
            wrong = said.object = ""
        settled = accepted(now.method, now.negatives, now.reruns) if now.method != asked.method else {}
        asked = replace(now, **settled)
        for other, value in settled.items():
            widgets[other].value = value
        if asked.query() != location.search:
            location.search = asked.query()
        copies.python = as_python(store, asked)

    for widget in widgets.values():
        widget.param.watch(change, "value")
    start = button("Factorise", color="primary")
    following = Following("the factorization")
    said = html(Markup(""))

    def begin(cancel: Event) -> "Future[int]":
        return PASSES.submit(factorised, store, asked, cancel, following.report)

    async def work(event: object) -> None:
        start.visible = False
        try:
            parse_layers(widgets["layers"].value or "")  # of layers that cannot be read the address says those before
            saved = await following.result(begin, lambda job: _say(said, FACTORISING if job.running() else IN_LINE))
            made.object = str(heading(store))
            said.object = str(SAVED.format(saved))
        except Cancelled:
            _say(said, "Cancelled: nothing was kept.")
        except ActlakeError as error:
            said.object = str(problem(str(error)))
        except Exception:
            logging.getLogger(__name__).exception("a factorization failed")
            said.object = str(problem("The factorization failed; the log of `actlake serve` says why."))
        start.visible = True

    start.on_click(work)
    pn.state.on_session_destroyed(lambda context: following.give_up())
    title = html(Markup('<h2 class="section">A new factorization</h2>'))
    return [made, title, row(*widgets.values(), start, following.stop, following.bar, margin=(6, 0)), said, copies]


def _say(pane: pn.pane.HTML, sentence: str) -> None:
    pane.object = str(STATUS.format(sentence))


def factorised(store: Store, asked: AskedFactors, cancel: Event, progress: Callable[[int, int], None]) -> int:
    """Makes factors of the corpus, or of what is asked of it, and saves them; gives the number. Raises as `Store.factors`."""
    factors = store.factors(asked.k, cancel=cancel, on_progress=progress, **asked.options())
    if cancel.is_set():  # of methods that do not look at it
        raise Cancelled("the factorization")
    return store.save(factors, asked.name.strip() or None)


def as_python(store: Store, asked: AskedFactors) -> str:
    """The calls that make and save what the form asks for."""
    usual, name = AskedFactors().options(), asked.name.strip()
    named = [f"{option}={value!r}" for option, value in asked.options().items() if value != usual[option]]
    lines = [
        f"{opening(store)}factors = store.factors({', '.join([str(asked.k), *named])})",
        f"factorization_id = store.save(factors{f', {name!r}' if name else ''})",
    ]
    return "\n".join(lines)


def _read(name: str, value: Any) -> Any:
    """What a widget says: one that was emptied what it says at first. Raises InvalidOption for layers that are none."""
    if name == "layers":
        return parse_layers(value or "")
    return getattr(AskedFactors(), name) if value is None else value
