"""The four views of a generation's page: what each has to choose from, and what it gives the drawing."""

import asyncio
import json
import logging
import shlex
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from threading import Event
from typing import Any

import panel as pn
from markupsafe import Markup

from ..errors import ActlakeError, InvalidOption, NotRecorded, number_ranges
from ..queries import (
    BYS,
    FACTOR_METHODS,
    METHODS,
    NEGATIVES,
    NEURON_ORDERS,
    POSITIONS,
    FactorMethod,
    Factors,
    Generation,
    Method,
    Store,
)
from .address import (
    MAX_CLUSTERS,
    MAX_DRAWN,
    MAX_FACTORS,
    MAX_RERUNS,
    MAX_WATCHED,
    GenerationAddress,
    View,
    parse_layers,
)
from .ask import asker_of
from .chosen import clusters_of, has_to_be_computed, k_of, layer_of
from .controls import button, check, number, row, select, text
from .desk import Desk, Payload
from .drawing import Drawing
from .factor_words import FACTOR_METHOD_NAMES, NEGATIVE_NAMES, POSITION_NAMES, accepted, facts_of_drawn
from .jobs import DRAWINGS, FACTORS, cancellation
from .maps import activations_payload, layers_payload
from .page import copy_as, facts_list, html
from .reproduce import python_of, sql_of
from .runs import neuron_link
from .strip import factors_payload, saliency_payload

Move = Callable[..., GenerationAddress]

METHOD_NAMES: dict[Method, str] = {
    "grad_x_input": "gradient × input, L2 norm",
    "grad_x_input_l1": "gradient × input, L1 norm",
    "grad_dot_input": "gradient · input, signed",
    "grad_norm": "gradient norm",
}
BY_NAMES = {"token": "tokens", "word": "words", "line": "lines"}
ORDER_NAMES = {"neuron": "as numbered", "agglomerative": "agglomerative clusters", "kmeans": "k-means clusters"}
ROOM = 24_000_000
"""Most bytes of a matrix that a session holds and a page is sent; what is left out is said in the drawing."""
NOT_SAVED = "this could not be saved; the log of `actlake serve` says why"


def payload_of(store: Store, generation: Generation, address: GenerationAddress) -> dict[str, Any]:
    """What the drawing of an address is given, no more than a session has room for. Raises what the analysis raises."""
    if address.view == "saliency":
        return saliency_payload(generation, generation.saliency(address.method, address.by), room=ROOM)
    if address.view == "factors":
        return factors_payload(generation, factors_of(generation, address))
    if address.view == "activations":
        link = neuron_link(store, generation.run_id)
        return activations_payload(generation, _heat_map(generation, address), neuron_link=link, room=ROOM)
    return layers_payload(generation, generation.layer_predictions())


def watched_payload_of(generation: Generation, address: GenerationAddress, model: Any) -> dict[str, Any]:
    """The layers' drawing with the tokens that are watched, at the pinned cell's position or the prompt's last; what was
    not recorded of layers is worked out by the model, from hidden states."""
    predictions = generation.layer_predictions(model if has_to_be_computed(generation) else None)
    if not address.watch:
        return layers_payload(generation, predictions)
    position = address.cell[1] if address.cell else generation.n_prompt_tokens - 1
    return layers_payload(generation, predictions, generation.watched(model, address.watch, position), position)


def state_of(address: GenerationAddress) -> dict[str, Any]:
    """What is pinned in the drawing of an address."""
    if address.view == "saliency":
        return {"output": address.output, "detailed": address.detail}
    if address.view == "factors":
        return {"factor": address.factor}
    return {"cell": address.cell and list(address.cell)} if address.view == "layers" else {}


def factors_of(generation: Generation, address: GenerationAddress, **options: Any) -> Factors:
    """The factors that an address asks for."""
    return generation.factors(
        k_of(generation, address),
        address.layers,
        method=address.factor_method,
        positions=address.positions,
        negatives=address.negatives,
        scale_layers=address.scale,
        seed=address.seed,
        reruns=address.reruns,
        **options,
    )


class ViewOfGeneration:
    """One view's controls and drawing; a change of a control moves the address and starts the work anew."""

    def __init__(self, store: Store, generation: Generation, address: GenerationAddress, move: Move) -> None:
        self.store, self.generation, self.address = store, generation, address
        self.asker = asker_of(store)
        self._move = move
        self.strip = Drawing(state=state_of(address))
        self.desk = Desk(self.strip, self._begin, DOING[address.view], can_be_long=address.view == "factors")
        self.how = html(Markup(""), visible=False)
        self._made: tuple[GenerationAddress, Factors] | None = None
        self._widgets: dict[str, Any] = {}
        self.copies = copy_as()
        self._tell()
        self.strip.param.watch(self._pinned, "state")
        if address.view == "factors":
            self.strip.param.watch(self._say_how, ["payload", "visible"])
        pn.state.onload(self.desk.start)
        pn.state.on_session_destroyed(lambda context: self.desk.following.give_up())

    def parts(self) -> list[Any]:
        """What the page shows of this view, one under another."""
        controls = CONTROLS[self.address.view](self)
        line = [row(*controls, *self.desk.parts())] if controls else []
        return [*line, self.desk.trouble, self.how, self.strip, self.copies]

    def change(self, **changes: Any) -> None:
        """Move the address, and work out what it says now."""
        self.address = self._move(**changes)
        self._tell()

    async def choose(self, **changes: Any) -> None:
        """The same, and draw it."""
        self.change(**changes)
        await self.desk.start()

    def control(
        self,
        widget: Any,
        name: str,
        read: Callable[[Any], Any] = lambda value: value,
        *,
        settles: Callable[[Any], dict[str, Any]] = lambda value: {},
    ) -> Any:
        """A widget that writes one part of the address, and forgets what was pinned of the drawing before.

        `settles` gives what other parts of it must be then, which their widgets show.
        """
        self._widgets[name] = widget

        async def changed(event: Any) -> None:
            try:
                value = read(event.new)
            except ActlakeError as error:
                self.desk.trouble.object = str(Markup('<p class="problem" role="alert">{}</p>').format(str(error)))
                self.desk.trouble.visible = True
                self.strip.visible = False
                return
            if value == getattr(self.address, name) and self.strip.visible:
                return  # another widget has settled it
            pins = {"factor": None} if self.address.view == "factors" else {}
            if pins:
                self.strip.state = {"factor": None}
            settled = settles(value)
            self.change(**{name: value}, **settled, **pins)
            for other, at in settled.items():
                self._widgets[other].value = at
            await self.desk.start()

        widget.param.watch(changed, "value")
        return widget

    def factors(self, cancel: Event) -> Factors:
        """The factors that the address asks for; those that are drawn are not worked out again. Raises Cancelled."""
        asked, made = replace(self.address, factor=None), self._made
        if made is None or made[0] != asked:
            options = {"cancel": cancel, "on_progress": self.desk.following.report}
            made = self._made = asked, factors_of(self.generation, asked, **options)
        return made[1]

    def _begin(self, cancel: Event) -> "Future[Payload]":
        generation, asked = self.generation, self.address
        if asked.view == "factors":
            return FACTORS.submit(self._factorised, asked, cancel)
        needs_model = asked.watch or has_to_be_computed(generation)
        if asked.view == "layers" and self.asker is not None and needs_model:
            return self.asker.submit(lambda model: watched_payload_of(generation, asked, model))
        return DRAWINGS.submit(payload_of, self.store, generation, asked)

    def _factorised(self, asked: GenerationAddress, cancel: Event) -> Payload:
        factors = self.factors(cancel)
        return factors_payload(self.generation, factors) | {"how": facts_of_drawn(factors, asked.negatives)}

    async def _pinned(self, event: Any) -> None:
        state = event.new
        if self.address.view == "saliency":
            self.change(output=state.get("output"), detail=bool(state.get("detailed")))
        elif self.address.view == "factors":
            self.change(factor=state.get("factor"))
        elif self.address.view == "layers":
            before = self.address.cell
            self.change(cell=state.get("cell") and tuple(state["cell"]))
            if self.address.watch and self.address.cell != before:
                await self.desk.start()

    def _say_how(self, *events: Any) -> None:
        """How what is drawn was worked out."""
        facts = json.loads(self.strip.payload or "{}").get("how", {})
        self.how.object = str(facts_list(facts))
        self.how.visible = bool(facts) and self.strip.visible

    def _tell(self) -> None:
        model = self.asker.name if self.asker else None
        self.copies.param.update(
            python=python_of(self.store, self.generation, self.address, model),
            sql=sql_of(self.generation, self.address),
        )


DOING: dict[View, str] = {
    "saliency": "Working out saliency …",
    "factors": "Factorising …",
    "activations": "Reading activations …",
    "layers": "Reading predictions …",
}


def _saliency_controls(view: ViewOfGeneration) -> list[Any]:
    method = select("method", {METHOD_NAMES[name]: name for name in METHODS}, view.address.method, 230)
    by = select("explained by", {BY_NAMES[name]: name for name in BYS}, view.address.by, 110)
    return [view.control(method, "method"), view.control(by, "by")]


def _factor_controls(view: ViewOfGeneration) -> list[Any]:
    generation, address = view.generation, view.address
    recorded = number_ranges(generation.layers)
    names = {FACTOR_METHOD_NAMES[name]: name for name in FACTOR_METHODS}
    k = number("factors (k)", k_of(generation, address), 1, MAX_FACTORS)
    layers = text(f"layers, of {recorded}" if recorded else "layers", number_ranges(address.layers or ()), "all", 120)
    positions = select("positions", {POSITION_NAMES[name]: name for name in POSITIONS}, address.positions, 130)
    negatives = select("negative values", {NEGATIVE_NAMES[name]: name for name in NEGATIVES}, address.negatives, 120)
    scale = check("layers count alike", address.scale)
    seed = number("seed", address.seed, 0, 2**31 - 1)
    reruns = number("reruns, for stability", address.reruns, 0, MAX_RERUNS, 130)
    save = button("Save to the store")
    saved = html(Markup(""), align="end", visible=False)

    async def keep(event: object) -> None:
        save.disabled = True
        try:
            number = await asyncio.wrap_future(FACTORS.submit(lambda: view.store.save(view.factors(cancellation()))))
            said = Markup(
                '<p class="status" role="status">Saved: <a href="./factors?id={0}">factorization {0}</a></p>'
            ).format(number)
        except ActlakeError as error:
            said = Markup('<p class="status" role="alert">{}</p>').format(str(error))
        except Exception:  # the page must say that the wait is over; why is for the log
            logging.getLogger(__name__).exception("saving factors failed")
            said = Markup('<p class="status" role="alert">{}</p>').format(NOT_SAVED)
        saved.object, saved.visible, save.disabled = str(said), True, False

    def settled(method: FactorMethod) -> dict[str, Any]:
        return accepted(method, view.address.negatives, view.address.reruns)

    save.on_click(keep)
    return [
        view.control(select("method", names, address.factor_method, 100), "factor_method", settles=settled),
        view.control(k, "k", lambda value: value or 1),
        view.control(layers, "layers", parse_layers),
        view.control(positions, "positions"),
        view.control(negatives, "negatives"),
        view.control(seed, "seed", lambda value: value or 0),
        view.control(reruns, "reruns", lambda value: value or 0),
        view.control(scale, "scale"),
        save,
        saved,
    ]


def _activation_controls(view: ViewOfGeneration) -> list[Any]:
    generation, address = view.generation, view.address
    layers: Sequence[int] = generation.layers or (0,)
    layer = select("layer", {str(layer): layer for layer in layers}, layer_of(generation, address), 80)
    order = select("order", {ORDER_NAMES[name]: name for name in NEURON_ORDERS}, address.order, 190)
    clusters = number("clusters", address.clusters, 1, MAX_CLUSTERS)
    most = number("neurons drawn", address.most, 1, MAX_DRAWN)
    return [
        view.control(layer, "layer"),
        view.control(order, "order"),
        view.control(clusters, "clusters", lambda value: value or 1),
        view.control(most, "most", lambda value: value or 1),
    ]


def _layer_controls(view: ViewOfGeneration) -> list[Any]:
    if view.asker is None or "hidden_states" not in view.generation.recorded:
        return [html(unwatched(view))] if view.asker is None and view.address.watch else []
    watched = ", ".join(token.replace(" ", "·") for token in view.address.watch)
    watch = text("watch tokens, as ·is, ·are (· is a space)", watched, "none", 260)
    return [view.control(watch, "watch", parse_watched)]


def unwatched(view: ViewOfGeneration) -> Markup:
    """Why the tokens that a link watches are not drawn where no model is served, and how they would be."""
    named = ", ".join(f"“{token.replace(' ', '·')}”" for token in view.address.watch)
    if "hidden_states" in view.generation.recorded:
        how = Markup("serve the store with it, <code>actlake serve {} --model {}</code>.").format(
            shlex.quote(view.store.uri), shlex.quote(view.generation.model)
        )
    else:
        how = Markup("and its hidden states, which were not recorded (<code>--record hidden_states</code>).")
    said = '<p class="status" role="status">This link watches {}. Watching tokens needs the model: {}</p>'
    return Markup(said).format(named, how)


def parse_watched(text: str) -> tuple[str, ...]:
    """The tokens that a person wrote, with `·` for a space. Raises InvalidOption.

    >>> parse_watched("·key, ·keys,")
    (' key', ' keys')
    """
    tokens = tuple(part.strip().replace("·", " ") for part in text.split(",") if part.strip())
    if len(tokens) > MAX_WATCHED:
        raise InvalidOption("watch", text, f"at most {MAX_WATCHED} tokens are watched at once")
    return tokens


CONTROLS: dict[View, Callable[[ViewOfGeneration], list[Any]]] = {
    "saliency": _saliency_controls,
    "factors": _factor_controls,
    "activations": _activation_controls,
    "layers": _layer_controls,
}


def _heat_map(generation: Generation, address: GenerationAddress) -> Any:
    if not generation.layers:
        raise NotRecorded("activations", sorted(generation.recorded), generation.generation_id)
    clusters = clusters_of(generation, address)
    return generation.heat_map(layer_of(generation, address), address.order, n_clusters=clusters, most=address.most)
