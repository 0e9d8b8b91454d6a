"""The corpus page: the generations of the store, searched, filtered, sorted, and a page of them at a time.

A session holds the rows that it shows and no others; each step is one bounded query, in a thread.
"""

import asyncio
import json
import logging
import shlex
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, ClassVar, TypedDict
from weakref import WeakKeyDictionary

import panel as pn
import param
from markupsafe import Markup
from panel.custom import JSComponent

from ..errors import ActlakeError
from ..queries import Store, find_generations_sql, runs_with_generations
from .address import CorpusAddress
from .ask import asker_of
from .ask_box import ask_box
from .jobs import LIGHT
from .modules import STATIC, joined
from .opening import opening
from .page import address_bar, copy_as, html, page, problem

CORPUS_CSS = STATIC / "corpus.css"
PAGE_SIZE = 25
SHOWN_CHARACTERS = 240
VALUES_OFFERED = 100

Values = dict[str, list[tuple[str, int]]]
_offered: WeakKeyDictionary[Store, tuple[int, "Offered"]] = WeakKeyDictionary()


class Offered(TypedDict):
    """What the filters have to choose from."""

    runs: list[tuple[int, str]]
    values: Values


def corpus_page(store: Store) -> pn.Template:
    """The page at `/`: the corpus as the store's newest commit has it."""
    pn.extension()
    location = address_bar()
    try:
        n_all = n_generations(store.refresh())
        address = CorpusAddress.parse(location.search)
    except ActlakeError as error:
        return page("actlake", html(problem(str(error))))
    asker = asker_of(store)
    box = [ask_box(asker)] if asker else []
    if not n_all:
        return page("actlake", *box, html(empty_corpus(store.uri)))
    listing = Listing()
    copies = copy_as(python=as_python(store, address), sql=as_sql(address))
    begun: Future[dict[str, Any]] | None = LIGHT.submit(listed, store, address, n_all)
    newest = 0

    async def show(asked: CorpusAddress, *, settled: bool) -> None:
        nonlocal begun, newest
        newest += 1
        turn, listing.busy = newest, True
        work, begun = begun or LIGHT.submit(listed, store, asked, n_all), None
        payload = await asyncio.wrap_future(work)
        if turn != newest:
            return
        listing.busy = False
        listing.payload = json.dumps(payload)
        copies.param.update(python=as_python(store, asked), sql=as_sql(asked))
        if settled:
            location.search = asked.query()

    async def start() -> None:
        await show(address, settled=False)

    async def look(event: Any) -> None:
        await show(CorpusAddress.of(json.loads(event.new)), settled=event.name == "asked")

    pn.state.onload(start)
    listing.param.watch(look, ["asked", "typing"])
    return page("actlake", html(corpus_heading(store.uri, n_all)), *box, listing, copies)


class Listing(JSComponent):
    """The search, the filters and the table; `static/corpus.js` says what its payload is."""

    payload = param.String(default="")
    busy = param.Boolean(default=False)
    asked = param.String(default="")
    typing = param.String(default="")

    _esm = joined("corpus")
    _stylesheets: ClassVar[list[str]] = [CORPUS_CSS.read_text(encoding="utf-8")]

    def __init__(self, **params: Any) -> None:
        super().__init__(sizing_mode="stretch_width", margin=0, **params)  # type: ignore[no-untyped-call]


def listed(store: Store, address: CorpusAddress, n_all: int) -> dict[str, Any]:
    """What the page shows at an address: the payload of `Listing`, with a sentence where something went wrong."""
    payload: dict[str, Any] = {
        "asked": address.body(),
        "random": f"random{replace(address, page=1, sort='generation_id', descending=False).query()}",
        "rows": [],
        "runs": [],
        "values": {},
        "n": 0,
        "page": 1,
        "pages": 1,
        "message": "",
        "problem": "",
    }
    try:
        payload |= offered(store)
        found = store.find_generations(address.search, characters=SHOWN_CHARACTERS, **_page_of(address))
    except ActlakeError as error:
        return payload | {"problem": str(error)}
    except Exception:  # the page must say that the wait is over; why is for the log
        logging.getLogger(__name__).exception("listing generations failed")
        return payload | {"problem": "the generations could not be listed; the log of `actlake serve` says why"}
    return payload | {
        "rows": json.loads(found.rows.drop(columns=["metadata", "run_id"]).to_json(orient="records")),
        "n": found.n,
        "page": address.page,
        "pages": max(1, -(-found.n // PAGE_SIZE)),
        "message": f"{found.n:,} of {n_all:,} generations" if address.narrows else "",
    }


def offered(store: Store) -> Offered:
    """The runs to choose from, and the keys of the corpus's metadata with the commonest values of each; worked out once for
    each commit."""
    version = store.snapshot.version
    if (known := _offered.get(store)) and known[0] == version:
        return known[1]
    values: Values = {}
    for key, value, n in store.metadata_values(VALUES_OFFERED).itertuples(index=False):
        values.setdefault(key, []).append((value, int(n)))
    runs = runs_with_generations(store)
    named = zip(runs["run_id"], runs["name"], runs["model"], strict=True)
    found: Offered = {
        "runs": [(int(run_id), f"run {run_id}: {name or model}") for run_id, name, model in named],
        "values": values,
    }
    _offered[store] = version, found
    return found


def n_generations(store: Store) -> int:
    """How many generations there are, by the log alone."""
    return sum(file.rows for file in store.snapshot.of("generations"))


def as_python(store: Store, address: CorpusAddress) -> str:
    """The call that gives the page's rows."""
    options: dict[str, Any] = {
        "run_id": address.run,
        "metadata": dict(address.metadata) or None,
        "order_by": address.sort if address.sort != "generation_id" else None,
        "descending": address.descending or None,
        "offset": (address.page - 1) * PAGE_SIZE or None,
    }
    given = [repr(address.search)] if address.search else []
    given += [f"{name}={value!r}" for name, value in options.items() if value is not None]
    return f"{opening(store)}found = store.find_generations({', '.join(given)})\nfound.rows"


def as_sql(address: CorpusAddress) -> str:
    """The statement that gives the page's rows."""
    return find_generations_sql(address.search, **_page_of(address))


def _page_of(address: CorpusAddress) -> dict[str, Any]:
    """What an address asks of `find_generations` beside the search."""
    return {
        "run_id": address.run,
        "metadata": dict(address.metadata),
        "order_by": address.sort,
        "descending": address.descending,
        "limit": PAGE_SIZE,
        "offset": (address.page - 1) * PAGE_SIZE,
    }


def corpus_heading(uri: str, n: int) -> Markup:
    """The title line and how many generations there are."""
    counted = f"{n:,} generation{'' if n == 1 else 's'}"
    return Markup('<h1>Corpus</h1><p class="lead">{} in {}</p>').format(counted, uri)


def empty_corpus(uri: str) -> Markup:
    """What the page says when there is nothing to list: how to capture."""
    command = f"actlake capture {shlex.quote(uri)} --model smollm2-135m --prompt ' 1, 2, 3,'"
    return Markup(
        '<section class="empty"><h1>No generations yet</h1>'
        "<p>{} holds none. Capture some, then reload this page:</p><pre>{}</pre></section>"
    ).format(uri, command)
