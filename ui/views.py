"""The four views of a generation's page: what each has to choose from, and what it gives the drawing."""

from collections.abc import Callable, Sequence
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
from .desk import Desk
from .drawing import Drawing
from .maps import activations_payload, layers_payload
from .page import CONTROL_CSS, copy_as, css, html
from .reproduce import python_of, sql_of
from .strip import factors_payload, saliency_payload

Move = Callable[..., GenerationAddress]

METHOD_NAMES: dict[Method, str] = {
    "grad_x_input": "gradient × input, L2 norm",
    "grad_x_input_l1": "gradient × input, L1 norm",
    "grad_dot_input": "gradient · input, signed",
    "grad_norm": "gradient norm",
}
BY_NAMES = {"token": "tokens", "word": "words", "line": "lines"}
FACTOR_METHOD_NAMES: dict[FactorMethod, str] = {"nmf": "NMF", "pca": "PCA", "ica": "ICA", "kmeans": "k-means"}
POSITION_NAMES = {"all": "all", "prompt": "the prompt's", "generated": "generated ones"}
NEGATIVE_NAMES = {"auto": "automatic", "clip": "clipped to 0", "split": "split off", "keep": "kept"}
ORDER_NAMES = {"neuron": "as numbered", "agglomerative": "agglomerative clusters", "kmeans": "k-means clusters"}
DEFAULT_K = 5
NEURON_LINK = "neuron?layer={layer}&neuron={neuron}"


def payload_of(generation: Generation, address: GenerationAddress) -> dict[str, Any]:
    """What the drawing of an address is given. Raises what the analysis raises."""
    if address.view == "saliency":
        return saliency_payload(generation, generation.saliency(address.method, address.by))
    if address.view == "factors":
        return factors_payload(generation, factors_of(generation, address))
    if address.view == "activations":
        return activations_payload(generation, _heat_map(generation, address), neuron_link=NEURON_LINK)
    return layers_payload(generation, generation.layer_predictions())


def watched_payload_of(generation: Generation, address: GenerationAddress, model: Any) -> dict[str, Any]:
    """The layers' drawing with the tokens that are watched, at the pinned cell's position or the prompt's last; what was
    not recorded of layers is worked out by the model, from hidden states."""
    recorded = "layer_predictions" in generation.recorded
    predictions = generation.layer_predictions(None if recorded else model)
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


def k_of(generation: Generation, address: GenerationAddress) -> int:
    """How many factors an address asks for; as many as there can be, up to five, where it says nothing."""
    n = len(generation.layer_positions) if "activations" in generation.recorded else generation.n_tokens
    return address.k or max(1, min(DEFAULT_K, n))


def layer_of(generation: Generation, address: GenerationAddress) -> int:
    """The layer that an address asks for; the middle one of those recorded where it says nothing."""
    if address.layer is not None or not generation.layers:
        return address.layer or 0
    return generation.layers[len(generation.layers) // 2]


class ViewOfGeneration:
    """One view's controls and drawing; a change of a control moves the address and starts the work anew."""

    def __init__(self, store: Store, generation: Generation, address: GenerationAddress, move: Move) -> None:
        self.store, self.generation, self.address = store, generation, address
        self.asker = asker_of(store)
        self._move = move
        self.strip = Drawing(state=state_of(address))
        self.desk = Desk(self.strip, self._work, DOING[address.view])
        self.copies = copy_as()
        self._tell()
        self.strip.param.watch(self._pinned, "state")
        pn.state.onload(self.desk.start)

    def parts(self) -> list[Any]:
        """What the page shows of this view, one under another."""
        controls = CONTROLS[self.address.view](self)
        row = [_row(*controls, self.desk.status)] if controls else []
        return [*row, self.desk.trouble, self.strip, self.copies]

    def change(self, **changes: Any) -> None:
        """Move the address, and work out what it says now."""
        self.address = self._move(**changes)
        self._tell()

    async def choose(self, **changes: Any) -> None:
        """The same, and draw it."""
        self.change(**changes)
        await self.desk.start()

    def control(self, widget: Any, name: str, read: Callable[[Any], Any] = lambda value: value) -> Any:
        """A widget that writes one part of the address, and forgets what was pinned of the drawing before."""

        async def changed(event: Any) -> None:
            try:
                value = read(event.new)
            except ActlakeError as error:
                self.desk.trouble.object = str(Markup('<p class="problem" role="alert">{}</p>').format(str(error)))
                self.desk.trouble.visible = True
                self.strip.visible = False
                return
            pins = {"factor": None} if self.address.view == "factors" else {}
            if pins:
                self.strip.state = {"factor": None}
            await self.choose(**{name: value}, **pins)

        widget.param.watch(changed, "value")
        return widget

    def _work(self) -> dict[str, Any]:
        if self.address.view == "factors":
            return factors_payload(self.generation, factors_of(self.generation, self.address, cancel=self.desk.cancel))
        if self.address.view == "layers" and self.asker is not None:
            return watched_payload_of(self.generation, self.address, self.asker.model())
        return payload_of(self.generation, self.address)

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

    def _tell(self) -> None:
        k, layer = k_of(self.generation, self.address), layer_of(self.generation, self.address)
        self.copies.param.update(
            python=python_of(self.store.uri, self.address, k, layer), sql=sql_of(self.address, layer)
        )


DOING: dict[View, str] = {
    "saliency": "Working out saliency …",
    "factors": "Factorising …",
    "activations": "Reading activations …",
    "layers": "Reading predictions …",
}


def _saliency_controls(view: ViewOfGeneration) -> list[Any]:
    method = _select("method", {METHOD_NAMES[name]: name for name in METHODS}, view.address.method, 230)
    by = _select("explained by", {BY_NAMES[name]: name for name in BYS}, view.address.by, 110)
    return [view.control(method, "method"), view.control(by, "by")]


def _factor_controls(view: ViewOfGeneration) -> list[Any]:
    generation, address = view.generation, view.address
    recorded = number_ranges(generation.layers)
    names = {FACTOR_METHOD_NAMES[name]: name for name in FACTOR_METHODS}
    k = _number("factors (k)", k_of(generation, address), 1, MAX_FACTORS)
    layers = pn.widgets.TextInput(
        label=f"layers, of {recorded}" if recorded else "layers",
        value=number_ranges(address.layers or ()),
        placeholder="all",
        width=120,
        margin=0,
        stylesheets=[css(CONTROL_CSS)],
    )
    positions = _select("positions", {POSITION_NAMES[name]: name for name in POSITIONS}, address.positions, 130)
    negatives = _select("negative values", {NEGATIVE_NAMES[name]: name for name in NEGATIVES}, address.negatives, 120)
    scale = pn.widgets.Checkbox(
        label="layers count alike", value=address.scale, margin=(0, 0, 6, 0), stylesheets=[css(CONTROL_CSS)]
    )
    seed = _number("seed", address.seed, 0, 2**31 - 1)
    stability = _button("Check stability")
    save = _button("Save to the store")
    saved = html(Markup(""), align="end")

    async def check(event: object) -> None:
        await view.choose(reruns=min(MAX_RERUNS, 4))

    def keep(event: object) -> None:
        try:
            number = view.store.save(factors_of(generation, view.address))
        except ActlakeError as error:
            saved.object = str(Markup('<p class="status" role="alert">{}</p>').format(str(error)))
            return
        said = Markup('<p class="status" role="status">saved as factorization {}: <code>from factor_tokens where '
                      "factorization_id = {}</code></p>")  # fmt: skip
        saved.object = str(said.format(number, number))

    stability.on_click(check)
    save.on_click(keep)
    return [
        view.control(_select("method", names, address.factor_method, 100), "factor_method"),
        view.control(k, "k", lambda value: value or 1),
        view.control(layers, "layers", parse_layers),
        view.control(positions, "positions"),
        view.control(negatives, "negatives"),
        view.control(seed, "seed", lambda value: value or 0),
        view.control(scale, "scale"),
        stability,
        save,
        saved,
    ]


def _activation_controls(view: ViewOfGeneration) -> list[Any]:
    generation, address = view.generation, view.address
    layers: Sequence[int] = generation.layers or (0,)
    layer = _select("layer", {str(layer): layer for layer in layers}, layer_of(generation, address), 80)
    order = _select("order", {ORDER_NAMES[name]: name for name in NEURON_ORDERS}, address.order, 190)
    clusters = _number("clusters", address.clusters, 1, MAX_CLUSTERS)
    most = _number("neurons drawn", address.most, 1, MAX_DRAWN)
    return [
        view.control(layer, "layer"),
        view.control(order, "order"),
        view.control(clusters, "clusters", lambda value: value or 1),
        view.control(most, "most", lambda value: value or 1),
    ]


def _layer_controls(view: ViewOfGeneration) -> list[Any]:
    if view.asker is None or "hidden_states" not in view.generation.recorded:
        return []
    watch = pn.widgets.TextInput(
        label="watch tokens, as ·is, ·are (· is a space)",
        value=", ".join(token.replace(" ", "·") for token in view.address.watch),
        placeholder="none",
        width=260,
        margin=0,
        stylesheets=[css(CONTROL_CSS)],
    )
    return [view.control(watch, "watch", parse_watched)]


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
    layer = layer_of(generation, address)
    most = min(address.most, len(generation.neurons))
    return generation.heat_map(layer, address.order, n_clusters=min(address.clusters, most), most=address.most)


def _select(label: str, options: dict[str, Any], value: Any, width: int) -> pn.widgets.Select:
    return pn.widgets.Select(
        label=label, options=options, value=value, width=width, margin=0, stylesheets=[css(CONTROL_CSS)]
    )


def _number(label: str, value: int, start: int, end: int) -> pn.widgets.IntInput:
    return pn.widgets.IntInput(
        label=label, value=value, start=start, end=end, width=100, margin=0, stylesheets=[css(CONTROL_CSS)]
    )


def _button(name: str) -> pn.widgets.Button:
    return pn.widgets.Button(label=name, margin=0, align="end", stylesheets=[css(CONTROL_CSS)])


class _Row(pn.Row):
    """A row that wraps: Panel would make it, and the page, as wide as all that is in it."""

    def _compute_sizing_mode(self, children: Any, props: Any) -> dict[str, Any]:
        return {**super()._compute_sizing_mode(children, props), "min_width": 0}  # type: ignore[no-untyped-call]


def _row(*parts: Any) -> pn.Row:
    wrapping = {"flex-wrap": "wrap", "gap": "10px 18px", "align-items": "flex-end"}
    return _Row(*parts, styles=wrapping, margin=(0, 0, 14, 0), sizing_mode="stretch_width")
