"""A generation's page: its tokens, coloured by saliency or by factors.

Saliency and factors are worked out in a thread, so that one person's factorisation never holds up another's page.
"""

import asyncio
import json
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import panel as pn
from markupsafe import Markup

from ..errors import ActlakeError, InvalidOption, number_ranges
from ..queries import METHODS, Generation, Method, Store
from .address import MAX_FACTORS, GenerationAddress, View, parse_layers
from .drawing import Drawing
from .early import Early
from .page import CONTROL_CSS, address_bar, css, html, page, problem
from .strip import factors_payload, saliency_payload

METHOD_NAMES: dict[Method, str] = {
    "grad_x_input": "gradient × input, L2 norm",
    "grad_x_input_l1": "gradient × input, L1 norm",
    "grad_dot_input": "gradient · input, signed",
    "grad_norm": "gradient norm",
}
DEFAULT_K = 5
CONTROLS = Markup('<div class="controls-to-come"></div>')
VIEW_NAMES: dict[View, str] = {"saliency": "Saliency", "factors": "Factors"}


def generation_page(store: Store) -> pn.Template:
    """The page at `/generation?id=N`; a bad address is one line that says so."""
    pn.extension()
    location = address_bar()
    try:
        address = GenerationAddress.parse(location.search)
        generation = store.refresh().generation(address.id)
        _check_pins(generation, address)
        beside = store.neighbours(address.id)
    except ActlakeError as error:
        return page("actlake", html(problem(str(error))))

    tabs = html(view_tabs(address))

    def move(**changes: Any) -> None:
        nonlocal address
        if (moved := replace(address, **changes)) == address:
            return
        address = moved
        location.search = address.query()
        tabs.object = str(view_tabs(address))

    view = {"saliency": saliency_view, "factors": factors_view}[address.view]
    return page(
        f"Generation {address.id} · actlake",
        html(generation_heading(generation, address, beside)),
        tabs,
        *view(generation, address, move),
        html(generation_texts(generation)),
    )


def generation_early(store: Store, query: str) -> Early:
    """The heading and the drawing of `/generation?id=N`, before there is a session; factors only where they take no time."""
    address = GenerationAddress.parse(query)
    generation = store.refresh().generation(address.id)
    _check_pins(generation, address)
    heading = generation_heading(generation, address, store.neighbours(address.id))
    markup = heading + view_tabs(address) + CONTROLS
    title = f"Generation {address.id} · actlake"
    if address.view == "saliency":
        state = {"output": address.output, "detailed": address.detail}
        return Early(title, markup, lambda: saliency_payload(generation, generation.saliency(address.method)), state)
    return Early(title, markup)


def saliency_view(generation: Generation, address: GenerationAddress, move: Callable[..., None]) -> list[Any]:
    """The method to choose, and the strip."""
    strip = Drawing(state={"output": address.output, "detailed": address.detail})
    method = pn.widgets.Select(
        label="method",
        options={METHOD_NAMES[name]: name for name in METHODS},
        value=address.method,
        width=230,
        margin=0,
        stylesheets=[css(CONTROL_CSS)],
    )

    def work() -> dict[str, Any]:
        return saliency_payload(generation, generation.saliency(cast(Method, method.value)))

    desk = Desk(strip, work, "Working out saliency …")
    method.param.watch(lambda event: move(method=event.new), "value")
    method.param.watch(desk.start, "value")
    strip.param.watch(
        lambda event: move(output=event.new.get("output"), detail=bool(event.new.get("detailed"))), "state"
    )
    pn.state.onload(desk.start)
    return [_controls(method, desk.status), desk.trouble, strip]


def factors_view(generation: Generation, address: GenerationAddress, move: Callable[..., None]) -> list[Any]:
    """How many factors, of which layers, and the strip."""
    strip = Drawing(state={"factor": address.factor})
    k = pn.widgets.IntInput(
        label="factors (k)",
        value=_k(generation, address),
        start=1,
        end=MAX_FACTORS,
        width=100,
        margin=0,
        stylesheets=[css(CONTROL_CSS)],
    )
    recorded = number_ranges(generation.layers)
    layers = pn.widgets.TextInput(
        label=f"layers, of {recorded}" if recorded else "layers",
        value=number_ranges(address.layers or ()),
        placeholder="all",
        width=160,
        margin=0,
        stylesheets=[css(CONTROL_CSS)],
    )

    def work() -> dict[str, Any]:
        return factors_payload(generation, generation.factors(k.value or 0, parse_layers(layers.value or "")))

    def choose(event: object) -> None:
        try:
            move(k=k.value, layers=parse_layers(layers.value or ""), factor=None)
        except ActlakeError:
            return  # the desk says what is wrong; the address stays at the last good choice
        strip.state = {"factor": None}

    desk = Desk(strip, work, "Factorising …")
    for control in (k, layers):
        control.param.watch(choose, "value")
        control.param.watch(desk.start, "value")
    strip.param.watch(lambda event: move(factor=event.new.get("factor")), "state")
    pn.state.onload(desk.start)
    return [_controls(k, layers, desk.status), desk.trouble, strip]


class Desk:
    """Where one strip's work is done: in a thread, a piece at a time; only the newest request's result is shown."""

    def __init__(self, strip: Drawing, work: Callable[[], dict[str, Any]], doing: str) -> None:
        self.strip = strip
        self.status = html(Markup(""), align="end")
        self.trouble = html(Markup(""), visible=False)
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
        async with self._turn:
            if request != self._newest:
                return
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


def generation_heading(
    generation: Generation, address: GenerationAddress, beside: tuple[int | None, int | None]
) -> Markup:
    """The title, the links to the generations beside it, and what is known of it in one line."""
    before, after = beside
    facts = {
        "model": generation.model,
        "run": generation.run_id,
        "tokens": f"{generation.n_prompt_tokens} prompt + {generation.n_tokens - generation.n_prompt_tokens} generated",
        "finish": generation.finish_reason or "–",
        "recorded": ", ".join(sorted(generation.recorded)) or "tokens only",
    }
    if "activations" in generation.recorded:
        if not isinstance(generation.neurons, range):
            facts["neurons"] = number_ranges(generation.neurons)
        if (n := len(generation.layer_positions)) < generation.n_tokens:
            facts["activations at"] = f"{n} of {generation.n_tokens} positions"
    return Markup(
        '<div class="heading"><h1>Generation {}</h1><nav class="turn"><a href="/">Corpus</a>{}{}</nav></div>'
        '<dl class="facts">{}</dl>'
    ).format(
        address.id,
        _turn_link("‹ Previous", address, before),
        _turn_link("Next ›", address, after),
        Markup("").join(Markup("<div><dt>{}</dt><dd>{}</dd></div>").format(*fact) for fact in facts.items()),
    )


def view_tabs(address: GenerationAddress) -> Markup:
    """The views as links; each holds the whole state, so going to another view and back loses nothing."""
    links = Markup("").join(
        Markup('<a href="/generation{}"{}>{}</a>').format(
            replace(address, view=view).query(),
            Markup(' aria-current="page"') if view == address.view else "",
            name,
        )
        for view, name in VIEW_NAMES.items()
    )
    return Markup('<nav class="tabs" aria-label="views">{}</nav>').format(links)


def generation_texts(generation: Generation) -> Markup:
    """Prompt, completion and metadata as they are, closed until asked for."""
    metadata = json.dumps(generation.metadata, ensure_ascii=False, indent=2)
    texts = {"prompt": generation.prompt, "completion": generation.completion, "metadata": metadata}
    return Markup('<details class="texts"><summary>Text and metadata</summary>{}</details>').format(
        Markup("").join(Markup("<h2>{}</h2><pre>{}</pre>").format(*text) for text in texts.items())
    )


def _k(generation: Generation, address: GenerationAddress) -> int:
    n = len(generation.layer_positions) if "activations" in generation.recorded else generation.n_tokens
    return address.k or max(1, min(DEFAULT_K, n))


def _check_pins(generation: Generation, address: GenerationAddress) -> None:
    """Raises InvalidOption when the address pins what the generation has not."""
    outputs = generation.output_positions
    if address.output is not None and address.output not in outputs:
        there = f"choose from {number_ranges(outputs)}" if outputs else "nothing was generated here"
        raise InvalidOption("output", address.output, there)
    k = _k(generation, address)
    if address.factor is not None and address.factor >= k:
        raise InvalidOption("factor", address.factor, f"choose from 0 to {k - 1}")


def _turn_link(name: str, address: GenerationAddress, generation_id: int | None) -> Markup:
    if generation_id is None:
        return Markup('<span class="none">{}</span>').format(name)
    beside = replace(address, id=generation_id, output=None, factor=None)
    return Markup('<a href="/generation{}">{}</a>').format(beside.query(), name)


def _controls(*parts: Any) -> pn.Row:
    wrapping = {"flex-wrap": "wrap", "gap": "10px 18px", "align-items": "flex-end"}
    return pn.Row(*parts, styles=wrapping, margin=(0, 0, 14, 0), sizing_mode="stretch_width")
