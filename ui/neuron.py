"""A neuron's page: its statistics over the corpus, and where it is strongest, each time in the whole context.

The page is its address: filters are a form that leads to another address, so Back and links need nothing of their own.
"""

import asyncio
import logging
import random
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from threading import Event
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import pandas as pd
import panel as pn
from markupsafe import Markup
from panel.io.location import Location

from ..errors import ActlakeError, SeveralModels, number_ranges
from ..queries import Neuron, Store, token_condition
from .address import NeuronAddress
from .controls import button, row, text
from .drawing import Drawing
from .early import Early
from .examples import records
from .following import Following
from .jobs import LIGHT, PASSES, QUERIES
from .neuron_drawing import N_BINS, PER_BIN, QUANTILE_BINS, neuron_payload
from .opening import opening
from .page import WAITING, address_bar, copy_as, html, later, problem
from .runs import neuron_runs, run_to_name

N_RELATED = 12
MOST_KEPT = 16
MOST_LABELLED = 200
MOST_RUNS = 12
HOW = (
    "Choose one by its layer and number. A click in the Activations of a generation leads to its neuron, and so do the "
    "neurons of a factor."
)

Made = TypeVar("Made")

_kept: WeakKeyDictionary[Store, OrderedDict[tuple[str, int, NeuronAddress], Any]] = WeakKeyDictionary()


@dataclass(frozen=True)
class _Found:
    """What a page shows of a neuron, as a thread found it."""

    neuron: Neuron
    payload: dict[str, Any]
    label: str
    run: int | None


def neuron_page(store: Store) -> pn.Template:
    """The page at `/neuron?layer=4&neuron=1234`."""
    pn.extension()
    location = address_bar()
    try:
        address = NeuronAddress.parse(location.search)
    except ActlakeError as error:
        said, failed = html(Markup("")), error

        def say(markup: Markup) -> None:
            said.object = str(markup)

        return later("Neuron · actlake", [said], lambda: LIGHT.submit(missing, store, location.search, failed), say)
    shown = _Page(store, location, address)

    def found() -> _Found:
        neuron, run = neuron_at(store, address), run_to_name(store, address.run)
        return _Found(neuron, drawn_at(store, address), label_of(store, address), run)

    return later(
        title(address),
        shown.parts(),
        lambda: (QUERIES if condition(address) else LIGHT).submit(found),
        shown.fill,
        lambda error: missing(store, location.search, error),
    )


class _Page:
    """The parts of a neuron's page, empty until the neuron is found; what is chosen on them moves the address."""

    def __init__(self, store: Store, location: Location, address: NeuronAddress) -> None:
        self._store, self._location, self._address = store, location, address
        self._found: _Found | None = None
        self._heading, self._filters = html(Markup("")), html(Markup(""))
        self._drawing = Drawing(state={"log": address.log, "whole": address.whole})
        self._label = text("label, for everybody", "", "what this neuron seems to do", 300)
        self._said = html(Markup(""), align="end")
        self._ask = button("Find related neurons")
        self._following = Following("the search for related neurons")
        self._listed = html(Markup(""))
        self._copies = copy_as()
        self._label_row = row(self._label, self._said, margin=(16, 0, 0, 0))
        self._related_row = row(self._ask, self._following.stop, self._following.bar, margin=(14, 0, 0, 0))
        self._label_row.visible = self._related_row.visible = False

    def parts(self) -> list[Any]:
        """What the page shows, one under another."""
        drawn = [self._heading, self._filters, self._drawing]
        return [*drawn, self._label_row, self._related_row, self._listed, self._copies]

    def fill(self, found: _Found) -> None:
        """Shows what was found, and has the controls do what they say."""
        address, self._found = self._address, found
        self._heading.object = str(neuron_heading(found.neuron, address))
        self._filters.object = str(filter_form(address, found.run))
        self._drawing.draw(found.payload)
        self._label.value = found.label
        self._copies.param.update(python=as_python(self._store, address), sql=as_sql(found.neuron))
        self._label_row.visible = self._related_row.visible = True
        self._drawing.param.watch(self._drawn, "state")
        self._label.param.watch(self._keep, "value")
        self._ask.on_click(self._relate)
        if address.related:
            pn.state.execute(self._relate)
        pn.state.on_session_destroyed(lambda context: self._following.give_up())

    def _drawn(self, event: Any) -> None:
        self._move(log=bool(event.new.get("log")), whole=bool(event.new.get("whole")))

    def _move(self, **changes: Any) -> None:
        if (moved := replace(self._address, **changes)) != self._address:
            self._address = moved
            self._location.search = moved.query()
            self._copies.python = as_python(self._store, moved)

    async def _keep(self, event: Any) -> None:
        """Keep what people call the neuron, as soon as it is entered."""
        address = self._address
        numbers = {"layer": address.layer, "neuron": address.neuron, "run_id": address.run}
        try:
            await asyncio.wrap_future(LIGHT.submit(lambda: self._store.label(event.new.strip(), **numbers)))
            self._said.object = str(Markup('<p class="status" role="status">{}</p>').format("saved"))
        except ActlakeError as error:
            self._said.object = str(problem(str(error)))

    async def _relate(self, event: object = None) -> None:
        """Look for related neurons, a pass over the corpus."""
        assert self._found is not None, "the button is there when the neuron is"
        neuron, following = self._found.neuron, self._following
        self._ask.loading = True

        def begin(cancel: Event) -> "Future[pd.DataFrame]":
            return PASSES.submit(lambda: neuron.related(N_RELATED, cancel=cancel, on_progress=following.report))

        try:
            self._listed.object = str(related_markup(await following.result(begin), self._address))
            self._ask.visible = False
            self._move(related=True)
        except ActlakeError as error:
            self._listed.object = str(problem(str(error)))
        except Exception:
            logging.getLogger(__name__).exception("related neurons could not be found")
            self._listed.object = str(problem("Related neurons could not be found; the server's log says why."))
        self._ask.loading = False


def neuron_early(store: Store, query: str) -> Early:
    """The whole page but for what changes the store, before there is a session; of a neuron at some tokens, which have to be
    found first, the title alone."""
    try:
        address = NeuronAddress.parse(query)
        if condition(address):
            return Early(title(address), WAITING)
        found = neuron_at(store, address)
    except ActlakeError as error:
        return Early("Neuron · actlake", missing(store, query, error))
    markup = neuron_heading(found, address) + filter_form(address, run_to_name(store, address.run))
    state = {"log": address.log, "whole": address.whole}
    return Early(title(address), markup, lambda: drawn_at(store, address), state)


def neuron_at(store: Store, address: NeuronAddress) -> Neuron:
    """The neuron at the tokens that the address selects. Raises as `Store.neuron` does."""

    def found() -> Neuron:
        return store.neuron(
            address.layer,
            address.neuron,
            address.run,
            where=condition(address),
            generated_only=address.generated,
        )

    return _once(store, "neuron", replace(address, n=1, seed=0), found)


def drawn_at(store: Store, address: NeuronAddress) -> dict[str, Any]:
    """What is drawn of the neuron at the address. Raises as `Store.neuron` does."""
    return _once(store, "drawn", address, lambda: neuron_payload(neuron_at(store, address), address))


def _once(store: Store, what: str, address: NeuronAddress, make: Callable[[], Made]) -> Made:
    """What was made for the address, of the store as it is now; the last are kept, for a page asks twice."""
    kept = _kept.setdefault(store, OrderedDict())
    key = (what, store.refresh().snapshot.version, replace(address, log=False, whole=False, related=False))
    if (made := kept.get(key)) is None:
        kept[key] = made = make()
        while len(kept) > MOST_KEPT:
            kept.popitem(last=False)
    return made


def condition(address: NeuronAddress) -> str | None:
    """The filters of an address as one SQL condition."""
    metadata = {address.key: address.value} if address.key else None
    return token_condition(address.token, metadata, address.where)


def neuron_heading(neuron: Neuron, address: NeuronAddress) -> Markup:
    """The title, the links to the neurons beside it, a box that leads to any, and what is shown in one line."""
    numbers = neuron.neurons
    place = numbers.index(address.neuron)
    chance = replace(address, neuron=random.choice(numbers), related=False)
    facts = {
        "model": neuron.model,
        "runs": number_ranges(neuron.run_ids),
        "at": "generated tokens" if neuron.generated_only else "all tokens but special ones",
        "there are": f"{len(neuron.layers)} layers of {len(numbers):,} neurons",
    }
    if neuron.where:
        facts["where"] = neuron.where
    links = (
        _link("‹ Previous", address, numbers[place - 1] if place else None)
        + Markup('<a href="./neuron{}">Random</a>').format(chance.query())
        + _link("Next ›", address, numbers[place + 1] if place + 1 < len(numbers) else None)
    )
    return Markup(
        '<div class="heading"><h1>Layer {} · neuron {}</h1>{}<nav class="turn">{}</nav></div><dl class="facts">{}</dl>'
    ).format(
        address.layer,
        address.neuron,
        go_form(address),
        links,
        Markup("").join(Markup("<div><dt>{}</dt><dd>{}</dd></div>").format(*fact) for fact in facts.items()),
    )


def go_form(address: NeuronAddress | None = None, runs: Mapping[int, str] | None = None) -> Markup:
    """A box that leads to any neuron: of one of `runs`, where some are given to choose from, else of the run looked at."""
    layer, neuron, run = ("", "", None) if address is None else (address.layer, address.neuron, address.run)
    if runs:
        options = Markup("").join(Markup('<option value="{}">{}</option>').format(*each) for each in runs.items())
        of = Markup(
            '<label>run <input name="run" inputmode="numeric" size="4" required list="runs" value="{}"></label>'
            '<datalist id="runs">{}</datalist>'
        ).format("" if run is None else run, options)
    else:
        of = Markup("") if run is None else Markup('<input type="hidden" name="run" value="{}">').format(run)
    return Markup(
        '<form class="asked go" action="./neuron">'
        '<label>layer <input name="layer" inputmode="numeric" size="3" required value="{}"></label>'
        '<label>neuron <input name="neuron" inputmode="numeric" size="6" required value="{}"></label>{}<button>Go</button></form>'
    ).format(layer, neuron, of)


def filter_form(address: NeuronAddress, kept_run: int | None = None) -> Markup:
    """The filters, as a form that leads to the address with them, and a link to the neuron without them, but of `kept_run`."""
    kept = {"layer": address.layer, "neuron": address.neuron}
    kept |= {name: 1 for name in ("log", "whole") if getattr(address, name)}
    texts = {
        "token": ("token", 12, "any"),
        "key": ("metadata key", 12, "any"),
        "value": ("is", 12, ""),
        "where": ("SQL condition", 28, "rank > 1 and entropy > 2"),
    }
    hidden = Markup("").join(
        Markup('<input type="hidden" name="{}" value="{}">').format(*pair) for pair in kept.items()
    )
    boxes = Markup("").join(
        Markup('<label>{}<input name="{}" size="{}" placeholder="{}" value="{}"></label>').format(
            said, name, size, holder, getattr(address, name)
        )
        for name, (said, size, holder) in texts.items()
    )
    run = Markup(
        '<label>run<input name="run" inputmode="numeric" size="4" placeholder="all" value="{}"></label>'
    ).format("" if address.run is None else address.run)
    n = Markup('<label>examples<input name="n" inputmode="numeric" size="3" value="{}"></label>').format(address.n)
    generated = Markup(
        '<label class="check"><input type="checkbox" name="generated" value="1"{}> generated only</label>'
    ).format(Markup(" checked") if address.generated else "")
    bare = NeuronAddress(address.layer, address.neuron, kept_run)
    clear = Markup('<a href="./neuron{}">clear</a>').format(bare.query())
    return Markup(
        '<form class="asked" action="./neuron" aria-label="filters">{}{}{}{}{}<button>Filter</button>{}</form>'
    ).format(hidden, run, boxes, n, generated, clear)


def missing(store: Store, query: str, error: ActlakeError) -> Markup:
    """The page of a neuron that cannot be shown: why, and a box that leads to another; of none, the way to one.

    Where neurons of several models are meant, there is a link to each; and in a store of several, a run to choose.
    """
    known = neuron_runs(store.refresh())
    runs = known.names if known.are_of_several_models else None
    if not query.removeprefix("?"):
        return Markup('<h1>Neurons</h1><p class="lead">{}</p>{}{}').format(HOW, go_form(runs=runs), labelled(store))
    try:
        asked = NeuronAddress.parse(query)
    except ActlakeError:
        asked = None
    of_each = of_each_model(asked, error) if asked and isinstance(error, SeveralModels) else Markup("")
    kept = asked if asked is None or runs else replace(asked, run=None)
    return Markup("<h1>Neuron</h1>{}{}{}").format(problem(str(error)), of_each, go_form(kept, runs))


def of_each_model(address: NeuronAddress, error: SeveralModels) -> Markup:
    """Links to the neurons of several models that an address without a run means: run by run, the newest first."""
    items = []
    for model, numbers in error.runs:
        newest = sorted(numbers, reverse=True)[:MOST_RUNS]
        links = Markup(" ").join(
            Markup('<a href="./neuron{}">run {}</a>').format(replace(address, run=run).query(), run) for run in newest
        )
        more = f" and {len(numbers) - len(newest)} more" if len(numbers) > len(newest) else ""
        items.append(Markup("<li><span>{}</span> <span>{}{}</span></li>").format(model, links, more))
    return Markup('<section class="related"><h2>Of which model?</h2><ol>{}</ol></section>').format(
        Markup("").join(items)
    )


def labelled(store: Store) -> Markup:
    """Links to the neurons that people have labelled, by layer."""
    labels = store.refresh().labels()
    mine = labels[labels["neuron"].notna() & (labels["label"] != "")].head(MOST_LABELLED)
    if mine.empty:
        return Markup("")
    items = Markup("").join(
        Markup('<li><a href="./neuron{}">layer {} · neuron {}</a> <span>{}</span></li>').format(
            NeuronAddress(
                int(row["layer"]), int(row["neuron"]), None if pd.isna(row["run_id"]) else int(row["run_id"])
            ).query(),
            row["layer"],
            row["neuron"],
            row["label"],
        )
        for row in mine.to_dict("records")
    )
    return Markup('<section class="related"><h2>Labelled by people</h2><ol>{}</ol></section>').format(items)


def related_markup(frame: pd.DataFrame, address: NeuronAddress) -> Markup:
    """Links to the neurons whose activations go with this one's."""
    items = Markup("").join(
        Markup('<li><a href="./neuron{}">layer {} · neuron {}</a> <b>{}</b></li>').format(
            NeuronAddress(row["layer"], row["neuron"], address.run).query(),
            row["layer"],
            row["neuron"],
            f"{row['correlation']:+.4f}",
        )
        for row in records(frame)
    )
    return Markup(
        '<section class="related"><h2>Related neurons of this layer, by correlation</h2><ol>{}</ol></section>'
    ).format(items)


def label_of(store: Store, address: NeuronAddress) -> str:
    """The neuron's newest label, of its run or of all."""
    labels = store.labels()
    mine = labels[(labels["layer"] == address.layer) & (labels["neuron"] == address.neuron)]
    own = mine[mine["run_id"] == address.run] if address.run is not None else mine[mine["run_id"].isna()]
    return str(own["label"].iloc[-1]) if len(own) else ""


def title(address: NeuronAddress) -> str:
    return f"Layer {address.layer}, neuron {address.neuron} · actlake"


def as_python(store: Store, address: NeuronAddress) -> str:
    """The calls that give what the page shows."""
    options: dict[str, Any] = {
        "run_id": address.run,
        "where": condition(address),
        "generated_only": address.generated or None,
    }
    given = [str(address.layer), str(address.neuron)]
    given += [f"{name}={value!r}" for name, value in options.items() if value is not None]
    lines = [
        f"{opening(store)}neuron = store.neuron({', '.join(given)})",
        f"stats, histogram = neuron.stats, neuron.binned({N_BINS})",
        f'greatest, least = neuron.examples("positive", {address.n}), neuron.examples("negative", {address.n})',
        f"drawn = neuron.quantile_examples({QUANTILE_BINS}, {PER_BIN}, seed={address.seed})",
        *([f"related = neuron.related({N_RELATED})"] if address.related else []),
    ]
    return "\n".join(lines)


def as_sql(neuron: Neuron) -> str:
    """The query that gives every value that the page is made of, the greatest first."""
    conditions = [
        f"layer = {neuron.layer}",
        f"neuron = {neuron.neuron}",
        f"run_id in ({', '.join(map(str, neuron.run_ids))})",
    ]
    conditions += [] if neuron.special else ["not is_special"]
    conditions += ["is_generated"] if neuron.generated_only else []
    conditions += [f"({neuron.where})"] if neuron.where else []
    where = "\n    and ".join(conditions)
    return f"""select generation_id, position, token, activation
from activations
join tokens using (generation_id, position)
join generations using (generation_id)
where {where}
order by activation desc, generation_id, position"""


def _link(name: str, address: NeuronAddress, neuron: int | None) -> Markup:
    if neuron is None:
        return Markup('<span class="none">{}</span>').format(name)
    return Markup('<a href="./neuron{}">{}</a>').format(replace(address, neuron=neuron, related=False).query(), name)
