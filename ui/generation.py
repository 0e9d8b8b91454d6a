"""A generation's page: its heading, the links to its views, the view that the address names, and its texts."""

import json
from dataclasses import replace
from typing import Any

import panel as pn
from markupsafe import Markup

from ..errors import ActlakeError, InvalidOption, number_ranges
from ..queries import Generation, Store
from .address import GenerationAddress, View
from .chosen import k_of
from .early import Early
from .page import address_bar, facts_list, html, page, problem
from .views import ViewOfGeneration, payload_of, state_of

CONTROLS = Markup('<div class="controls-to-come"></div>')
VIEW_NAMES: dict[View, str] = {
    "saliency": "Saliency",
    "factors": "Factors",
    "activations": "Activations",
    "layers": "Layers",
}


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

    def move(**changes: Any) -> GenerationAddress:
        nonlocal address
        if (moved := replace(address, **changes)) != address:
            address = moved
            location.search = address.query()
            tabs.object = str(view_tabs(address))
        return address

    view = ViewOfGeneration(store, generation, address, move)
    return page(
        f"Generation {address.id} · actlake",
        html(generation_heading(generation, address, beside)),
        tabs,
        *view.parts(),
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
    if address.view == "factors":
        return Early(title, markup)
    return Early(title, markup, lambda: payload_of(store, generation, address), state_of(address))


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
        '<div class="heading"><h1>Generation {}</h1><nav class="turn"><a href="./">Corpus</a>{}{}</nav></div>{}'
    ).format(
        address.id,
        _turn_link("‹ Previous", address, before),
        _turn_link("Next ›", address, after),
        facts_list(facts),
    )


def view_tabs(address: GenerationAddress) -> Markup:
    """The views as links; each holds the whole state, so going to another view and back loses nothing."""
    links = Markup("").join(
        Markup('<a href="./generation{}"{}>{}</a>').format(
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


def _check_pins(generation: Generation, address: GenerationAddress) -> None:
    """Raises InvalidOption when the address pins what the generation has not."""
    outputs = generation.output_positions
    if address.output is not None and address.output not in outputs:
        there = f"choose from {number_ranges(outputs)}" if outputs else "nothing was generated here"
        raise InvalidOption("output", address.output, there)
    k = k_of(generation, address)
    if address.factor is not None and address.factor >= k:
        raise InvalidOption("factor", address.factor, f"choose from 0 to {k - 1}")


def _turn_link(name: str, address: GenerationAddress, generation_id: int | None) -> Markup:
    if generation_id is None:
        return Markup('<span class="none">{}</span>').format(name)
    beside = replace(address, id=generation_id, output=None, factor=None, cell=None)
    return Markup('<a href="./generation{}">{}</a>').format(beside.query(), name)
