"""The factors of the corpus: those that were saved, and the page of one factorization. `factors_form` makes more."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, Self, get_args
from urllib.parse import parse_qsl, urlencode

import panel as pn
from markupsafe import Markup
from panel.io.location import Location

from ..errors import ActlakeError, InvalidOption, number_ranges
from ..queries import Store, saved_factors, top_tokens_sql
from ..store.shapes import run_of_generation
from .address import MAX_FACTORS
from .drawing import Drawing
from .early import Early
from .examples import records
from .factor_cards import N_NEURONS, card
from .factor_words import FACTOR_METHOD_NAMES, NEGATIVE_NAMES, SCALE_NAMES, facts_of_saved, whose_tokens
from .factors_form import factors_form
from .jobs import LIGHT
from .opening import opening
from .page import address_bar, copy_as, facts_list, html, later, page, problem
from .runs import neuron_link

Sort = Literal["factor", "explained", "stability"]
EXAMPLES_OF_ALL, EXAMPLES_OF_ONE = 3, 20


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
            return page("Factors · actlake", *factors_form(store, list_heading, location))
    except ActlakeError as error:
        return page("Factors · actlake", html(problem(str(error))))
    shown = _Page(store, location, address)
    return later(
        f"Factorization {address.id} · actlake",
        shown.parts(),
        lambda: LIGHT.submit(lambda: (factorization_heading(store, address), factorization_payload(store, address))),
        shown.fill,
    )


class _Page:
    """The parts of a factorization's page, empty until it is read; what is chosen on them moves the address, and what is written
    is a label."""

    def __init__(self, store: Store, location: Location, address: FactorsAddress) -> None:
        assert address.id is not None, "a factorization has a number"
        self._store, self._location, self._address = store, location, address
        self._heading, self._said = html(Markup("")), html(Markup(""))
        self._drawing = Drawing(state={"sort": address.sort, "whole": address.whole})
        n = EXAMPLES_OF_ALL if address.factor is None else EXAMPLES_OF_ONE
        self._copies = copy_as(python=as_python(store, address), sql=top_tokens_sql(address.id, n, address.factor))

    def parts(self) -> list[Any]:
        """What the page shows, one under another."""
        return [self._heading, self._drawing, self._said, self._copies]

    def fill(self, found: tuple[Markup, dict[str, Any]]) -> None:
        """Shows the heading and the drawing."""
        heading, payload = found
        self._heading.object = str(heading)
        self._drawing.draw(payload)
        self._drawing.param.watch(self._name, "state")
        self._drawing.param.watch(self._move, "state")

    async def _name(self, event: Any) -> None:
        label = event.new.get("label")
        if label is None or label == (event.old or {}).get("label"):
            return
        text, factor = str(label["text"]).strip(), int(label["factor"])
        try:
            saving = LIGHT.submit(lambda: self._store.label(text, factorization_id=self._address.id, factor=factor))
            await asyncio.wrap_future(saving)
            self._said.object = str(Markup('<p class="status" role="status">{}</p>').format("label saved"))
        except ActlakeError as error:
            self._said.object = str(problem(str(error)))

    def _move(self, event: Any) -> None:
        sort, whole = event.new.get("sort", "factor"), bool(event.new.get("whole"))
        now = FactorsAddress(self._address.id, self._address.factor, sort, whole)
        if now.query() != self._location.search:
            self._location.search = now.query()


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
    shown = range(min(int(found.row["k"]), MAX_FACTORS)) if address.factor is None else [address.factor]
    explained, stability = (_kept(found.row, name) for name in ("explained", "stability"))
    cards = []
    for factor in shown:
        tokens = found.tokens[found.tokens["factor"] == factor].head(n)
        neurons = found.neurons[found.neurons["factor"] == factor].head(N_NEURONS)
        label, contexts = found.labels.get(factor, ""), found.contexts(factor)
        cards.append(card(factor, explained[factor], stability[factor], label, tokens, neurons, contexts))
    best = found.tokens["generation_id"].head(1).tolist()
    run = run_of_generation(store.snapshot, best[0]) if best else None  # all of its runs are of one model
    drawn = {"base": base, "cards": cards}
    return {"kind": "factorization", "factorization": drawn, "links": {"neuron": neuron_link(store, run)}}


def factorization_heading(store: Store, address: FactorsAddress) -> Markup:
    """The title and what is known of the factorization, with a link to each factor's own page."""
    assert address.id is not None, "a factorization has a number"
    row = saved_factors(store, address.id, 1, 0).row
    links = Markup(" ").join(
        Markup('<a href="./factors{}"{}>{}</a>').format(
            FactorsAddress(address.id, factor).query(),
            Markup(' aria-current="page"') if factor == address.factor else "",
            factor,
        )
        for factor in range(min(int(row["k"]), MAX_FACTORS))
    )
    every = Markup('<a href="./factors{}">all factors</a>').format(FactorsAddress(address.id).query())
    return Markup(
        '<div class="heading"><h1>{}</h1><nav class="turn"><a href="./factors">All factorizations</a></nav></div>'
        '{}<nav class="each" aria-label="factors">{} {}</nav>'
    ).format(
        row["name"] if isinstance(row["name"], str) else f"Factorization {address.id}",
        facts_list(facts_of_saved(row)),
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
            "<td>{3}</td><td>{4}</td><td>{5}</td><td>{6:,}</td><td>{7}</td><td>{8}</td><td>{9:.4f}</td>"
            "<td>{10:%Y-%m-%d %H:%M}</td></tr>"
        ).format(
            row["factorization_id"],
            row["name"] if isinstance(row["name"], str) else "–",
            FACTOR_METHOD_NAMES.get(row["method"], row["method"]),
            row["k"],
            number_ranges(row["layers"].tolist()),
            whose_tokens(row["slice"]),
            row["n_tokens"],
            NEGATIVE_NAMES.get(row["negatives"], row["negatives"]),
            SCALE_NAMES[bool(row["scale_layers"])],
            row["error"],
            row["created_at"],
        )
        for row in records(known[::-1])
    )
    columns = (
        "id",
        "name",
        "method",
        "k",
        "layers",
        "of",
        "tokens",
        "negative values",
        "scaling",
        "error",
        "made",
    )
    heads = Markup("").join(Markup("<th>{}</th>").format(name) for name in columns)
    return Markup(
        '<h1>Factors</h1><p class="lead">{} saved</p><div class="wide"><table class="list"><thead><tr>{}</tr></thead>'
        "<tbody>{}</tbody></table></div>"
    ).format(len(known), heads, rows)


def as_python(store: Store, address: FactorsAddress) -> str:
    """The calls that give what the page shows."""
    lines = [f"{opening(store)}factors = store.factorization({address.id})"]
    shown = "range(factors.k)" if address.factor is None else f"[{address.factor}]"
    n = EXAMPLES_OF_ALL if address.factor is None else EXAMPLES_OF_ONE
    lines.append(f"tokens = {{factor: factors.top_tokens(factor, {n}) for factor in {shown}}}")
    lines.append(f"neurons = {{factor: factors.top_neurons(factor, {N_NEURONS}) for factor in {shown}}}")
    return "\n".join(lines)


def _kept(row: Mapping[str, Any], name: str) -> Sequence[float | None]:
    """A number of each factor; None where the store does not have them, which pandas says in more than one way."""
    values = row[name]
    return [None] * int(row["k"]) if values is None or isinstance(values, float) else values
