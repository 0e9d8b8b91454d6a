"""The factors of the corpus: those that were saved, a form to make more, and the page of one factorization.

A factorization runs in a thread of its own, can be cancelled, and is saved into the store, where every session finds it.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from threading import Event
from typing import Any, Literal, Self, get_args
from urllib.parse import parse_qsl, urlencode

import numpy as np
import panel as pn
from markupsafe import Markup

from ..errors import ActlakeError, InvalidOption, number_ranges
from ..queries import FACTOR_METHODS, NEGATIVES, POSITIONS, Store, saved_factors, top_tokens_sql
from .address import parse_layers
from .drawing import Drawing
from .early import Early
from .examples import contexts_payload, examples_payload, records
from .jobs import FACTORS, LIGHT
from .page import CONTROL_CSS, address_bar, copy_as, css, html, page, problem

Sort = Literal["factor", "explained", "stability"]
MOST_FACTORS = 64
N_NEURONS = 8
EXAMPLES_OF_ALL, EXAMPLES_OF_ONE = 3, 20
LOOK_AGAIN_S = 0.25
WIDTH = "min(1180px, calc(100vw - 28px))"


@dataclass(frozen=True, slots=True)
class FactorsAddress:
    """What the page of factors shows: a saved factorization or, without `id`, the list of them; of it all factors or one."""

    id: int | None = None
    factor: int | None = None
    sort: Sort = "factor"
    whole: bool = False

    @classmethod
    def parse(cls, query: str) -> Self:
        """The address that a URL's query string says. Raises InvalidOption."""
        given = dict(parse_qsl(query.removeprefix("?")))
        said: dict[str, Any] = {}
        for name in ("id", "factor", "whole"):
            if text := given.get(name):
                if not (text.isascii() and text.isdecimal() and len(text) <= 18):
                    raise InvalidOption(name, text, "it must be a whole number, 0 or more")
                said[name] = int(text) if name != "whole" else text == "1"
        if (sort := given.get("sort")) is not None:
            if sort not in get_args(Sort):
                raise InvalidOption("sort", sort, f"choose one of {', '.join(get_args(Sort))}")
            said["sort"] = sort
        return cls(**said)

    def query(self) -> str:
        """The query string that says this address; options at their defaults are left out.

        >>> FactorsAddress(3, sort="explained").query()
        '?id=3&sort=explained'
        """
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        said = {name: int(value) if isinstance(value, bool) else value for name, value in values.items()}
        defaults = {each.name: each.default for each in fields(self)}
        return f"?{urlencode({name: value for name, value in said.items() if value != defaults[name]})}".rstrip("?")


def factors_page(store: Store) -> pn.Template:
    """The page at `/factors`, and at `/factors?id=N` of one factorization."""
    pn.extension()
    location = address_bar()
    try:
        address = FactorsAddress.parse(location.search)
        store.refresh()
        if address.id is None:
            return page("Factors · actlake", *list_parts(store))
        payload = factorization_payload(store, address)
        heading = factorization_heading(store, address)
    except ActlakeError as error:
        return page("Factors · actlake", html(problem(str(error))))
    state = {"sort": address.sort, "whole": address.whole}
    drawing = Drawing(state=state)
    drawing.draw(payload)
    said = html(Markup(""))

    async def name(event: Any) -> None:
        label = event.new.get("label")
        if label is None or label == (event.old or {}).get("label"):
            return
        text, factor = str(label["text"]).strip(), int(label["factor"])
        try:
            saved = LIGHT.submit(lambda: store.label(text, factorization_id=address.id, factor=factor))
            await asyncio.wrap_future(saved)
            said.object = str(Markup('<p class="status" role="status">{}</p>').format("label saved"))
        except ActlakeError as error:
            said.object = str(problem(str(error)))

    def move(event: Any) -> None:
        now = FactorsAddress(address.id, address.factor, event.new.get("sort", "factor"), bool(event.new.get("whole")))
        if now.query() != location.search:
            location.search = now.query()

    drawing.param.watch(name, "state")
    drawing.param.watch(move, "state")
    n = EXAMPLES_OF_ALL if address.factor is None else EXAMPLES_OF_ONE
    copies = copy_as(python=as_python(store.uri, address), sql=top_tokens_sql(address.id, n, address.factor))
    return page(f"Factorization {address.id} · actlake", html(heading), drawing, said, copies)


def factors_early(store: Store, query: str) -> Early:
    """The heading and the factors, before there is a session."""
    address = FactorsAddress.parse(query)
    store.refresh()
    if address.id is None:
        return Early("Factors · actlake", list_heading(store))
    state = {"sort": address.sort, "whole": address.whole}
    heading = factorization_heading(store, address)
    return Early(f"Factorization {address.id} · actlake", heading, lambda: factorization_payload(store, address), state)


def factorization_payload(store: Store, address: FactorsAddress, base: str | None = "./") -> dict[str, Any]:
    """What `static/factorization.js` draws of a saved factorization: its factors with their strongest tokens and neurons."""
    assert address.id is not None, "a factorization has a number"
    n = EXAMPLES_OF_ALL if address.factor is None else EXAMPLES_OF_ONE
    found = saved_factors(store, address.id, max(n, N_NEURONS), address.factor)
    shown = range(min(int(found.row["k"]), MOST_FACTORS)) if address.factor is None else [address.factor]
    cards = []
    for factor in shown:
        tokens = found.tokens[found.tokens["factor"] == factor].head(n)
        places = list(zip(tokens["generation_id"].tolist(), tokens["position"].tolist(), strict=True))
        neurons = found.neurons[found.neurons["factor"] == factor].head(N_NEURONS)
        cards.append(
            {
                "factor": factor,
                "explained": _each(found.row["explained"], factor),
                "stability": _each(found.row["stability"], factor),
                "label": found.labels.get(factor, ""),
                "examples": examples_payload(tokens, "value"),
                "contexts": contexts_payload(found.contexts(factor), "value", places),
                "neurons": [
                    {"layer": row["layer"], "neuron": row["neuron"], "weight": row["weight"]}
                    for row in records(neurons)
                ],
            }
        )
    return {"kind": "factorization", "factorization": {"base": base, "cards": cards}}


def factorization_heading(store: Store, address: FactorsAddress) -> Markup:
    """The title and what is known of the factorization, with a link to each factor's own page."""
    assert address.id is not None, "a factorization has a number"
    row = saved_factors(store, address.id, 1, 0).row
    facts = {
        "method": row["method"],
        "k": row["k"],
        "layers": number_ranges(row["layers"].tolist()),
        "tokens": f"{row['n_tokens']:,}",
        "relative error": f"{row['error']:.4f}",
        "negatives": row["negatives"],
        "of": row["slice"],
        "seed": row["seed"],
        "iterations": f"{row['n_iterations']}{'' if row['converged'] else ', not converged'}",
    }
    links = Markup(" ").join(
        Markup('<a href="./factors{}"{}>{}</a>').format(
            FactorsAddress(address.id, factor).query(),
            Markup(' aria-current="page"') if factor == address.factor else "",
            factor,
        )
        for factor in range(min(int(row["k"]), MOST_FACTORS))
    )
    every = Markup('<a href="./factors{}">all factors</a>').format(FactorsAddress(address.id).query())
    return Markup(
        '<div class="heading"><h1>{}</h1><nav class="turn"><a href="./factors">All factorizations</a></nav></div>'
        '<dl class="facts">{}</dl><nav class="each" aria-label="factors">{} {}</nav>'
    ).format(
        row["name"] if isinstance(row["name"], str) else f"Factorization {address.id}",
        Markup("").join(Markup("<div><dt>{}</dt><dd>{}</dd></div>").format(*fact) for fact in facts.items()),
        every,
        links,
    )


def list_heading(store: Store) -> Markup:
    """The saved factorizations, each a link to its page."""
    known = store.factorizations()
    if known.empty:
        return Markup(
            '<h1>Factors</h1><p class="lead">No factorization has been saved yet. Make one here, or with '
            "<code>store.save(store.factors(20, layers=[4]))</code>.</p>"
        )
    rows = Markup("").join(
        Markup(
            '<tr><td><a href="./factors?id={0}">{0}</a></td><td><a href="./factors?id={0}">{1}</a></td><td>{2}</td>'
            "<td>{3}</td><td>{4}</td><td>{5:,}</td><td>{6:.4f}</td><td>{7:%Y-%m-%d %H:%M}</td></tr>"
        ).format(
            row["factorization_id"],
            row["name"] if isinstance(row["name"], str) else "–",
            row["method"],
            row["k"],
            number_ranges(row["layers"].tolist()),
            row["n_tokens"],
            row["error"],
            row["created_at"],
        )
        for row in records(known[::-1])
    )
    heads = Markup("").join(
        Markup("<th>{}</th>").format(name)
        for name in ("id", "name", "method", "k", "layers", "tokens", "error", "made")
    )
    return Markup(
        '<h1>Factors</h1><p class="lead">{} saved</p><div class="wide"><table class="list"><thead><tr>{}</tr></thead>'
        "<tbody>{}</tbody></table></div>"
    ).format(len(known), heads, rows)


def list_parts(store: Store) -> list[Any]:
    """The list, and the form that makes another factorization."""
    made = html(list_heading(store))
    sheets = {"margin": 0, "stylesheets": [css(CONTROL_CSS)]}
    asked: dict[str, Any] = {
        "k": pn.widgets.IntInput(label="factors (k)", value=10, start=1, end=MOST_FACTORS, width=90, **sheets),
        "layers": pn.widgets.TextInput(label="layers", placeholder="all", width=110, **sheets),
        "method": pn.widgets.Select(label="method", options=list(FACTOR_METHODS), width=100, **sheets),
        "positions": pn.widgets.Select(label="positions", options=list(POSITIONS), width=110, **sheets),
        "where": pn.widgets.TextInput(label="where (SQL)", placeholder="run_id = 0", width=180, **sheets),
        "negatives": pn.widgets.Select(label="negatives", options=list(NEGATIVES), width=90, **sheets),
        "scale_layers": pn.widgets.Checkbox(label="scale layers", **sheets),
        "seed": pn.widgets.IntInput(label="seed", value=0, start=0, width=80, **sheets),
        "reruns": pn.widgets.IntInput(label="reruns", value=0, start=0, end=10, width=80, **sheets),
    }
    name = pn.widgets.TextInput(label="name", placeholder="optional", width=180, **sheets)
    start = pn.widgets.Button(label="Factorise", color="primary", **sheets)
    stop = pn.widgets.Button(label="Cancel", visible=False, **sheets)
    bar = pn.indicators.Progress(value=0, max=1000, visible=False, width=220, margin=(14, 0))
    said = html(Markup(""))
    cancel = Event()

    async def work(event: object) -> None:
        cancel.clear()
        start.visible, stop.visible, bar.visible, bar.value = False, True, True, 0
        said.object = str(Markup('<p class="status" role="status">Factorising …</p>'))
        at = [0, 1]

        def progress(done: int, total: int) -> None:
            at[:] = done, max(total, 1)

        try:
            options = {key: widget.value for key, widget in asked.items()}
            job = FACTORS.submit(factorised, store, options, (name.value or "").strip() or None, cancel, progress)
            while not job.done():
                bar.value = min(1000, 1000 * at[0] // at[1])
                await asyncio.sleep(LOOK_AGAIN_S)
            number = job.result()
            made.object = str(list_heading(store))
            said.object = str(
                Markup(
                    '<p class="status" role="status">Saved: <a href="./factors?id={0}">factorization {0}</a></p>'
                ).format(number)
            )
        except ActlakeError as error:
            said.object = str(problem(str(error)))
        except Exception:
            logging.getLogger(__name__).exception("a factorization failed")
            said.object = str(problem("The factorization failed; the server's log says why."))
        start.visible, stop.visible, bar.visible = True, False, False

    start.on_click(work)
    stop.on_click(lambda event: cancel.set())
    pn.state.on_session_destroyed(lambda context: cancel.set())
    wrapping = {"flex-wrap": "wrap", "gap": "10px 14px", "align-items": "flex-end", "width": WIDTH}
    lines = (
        [asked[key] for key in ("k", "layers", "method", "positions", "where", "negatives")],
        [asked[key] for key in ("scale_layers", "seed", "reruns")] + [name, start, stop, bar],
    )
    rows = [pn.Row(*line, styles=wrapping, margin=(6, 0)) for line in lines]
    return [made, html(Markup('<h2 class="section">A new factorization</h2>')), *rows, said]


def factorised(
    store: Store, options: dict[str, Any], name: str | None, cancel: Event, progress: Callable[[int, int], None]
) -> int:
    """Makes factors of the corpus, or of what the options select, and saves them; gives the number. Raises as `Store.factors`."""
    layers, where = parse_layers(options.pop("layers") or ""), (options.pop("where") or "").strip() or None
    factors = store.factors(layers=layers, where=where, cancel=cancel, on_progress=progress, **options)
    return store.save(factors, name)


def as_python(uri: str, address: FactorsAddress) -> str:
    """The calls that give what the page shows."""
    lines = ["import actlake", "", f"store = actlake.open({uri!r})", f"factors = store.factorization({address.id})"]
    shown = "range(factors.k)" if address.factor is None else f"[{address.factor}]"
    n = EXAMPLES_OF_ALL if address.factor is None else EXAMPLES_OF_ONE
    lines.append(f"tokens = {{factor: factors.top_tokens(factor, {n}) for factor in {shown}}}")
    lines.append(f"neurons = {{factor: factors.top_neurons(factor, {N_NEURONS}) for factor in {shown}}}")
    return "\n".join(lines)


def _each(values: Sequence[float] | None, factor: int) -> float | None:
    known = values is not None and not isinstance(values, float) and np.isfinite(values[factor])
    return float(values[factor]) if values is not None and known else None
