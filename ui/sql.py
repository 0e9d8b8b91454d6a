"""The SQL page: a question in SQL, in the sandbox, with the tables beside it, the rows, and a picture of them.

The address holds the query. `run=1` is in it once the query was run, and then opening the link runs it again: the sandbox only
reads, and within limits, so a link can cost no more than a person who presses Run.
"""

import asyncio
import json
import logging
from asyncio import FIRST_COMPLETED
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

import panel as pn
import param
from markupsafe import Markup
from panel.custom import JSComponent

from ..errors import ActlakeError
from ..queries import Store, examples
from .address import SqlAddress
from .jobs import LIGHT, QUERIES
from .modules import STATIC, joined
from .opening import opening
from .page import address_bar, copy_as, html, page, problem
from .query import LIMITS, SHOWN_ROWS, STOPPED, Query, tables_of

SQL_CSS = STATIC / "sql.css"
FIRST_QUERY = "select generation_id, n_tokens, prompt, completion\nfrom generations\norder by generation_id\nlimit 100"
PATIENCE_S = 0.3

_tables: WeakKeyDictionary[Store, tuple[int, str]] = WeakKeyDictionary()


def sql_page(store: Store) -> pn.Template:
    """The page at `/sql`."""
    pn.extension()
    location = address_bar()
    try:
        store.refresh()
        address = SqlAddress.parse(location.search)
    except ActlakeError as error:
        return page("SQL · actlake", html(problem(str(error))))
    desk = SqlDesk(
        sql=address.sql or FIRST_QUERY,
        view=json.dumps(address.view) if address.chart else "",
        examples=json.dumps([[example.question, example.sql] for example in examples(more=True)]),
        payload=json.dumps({"state": "idle", "message": ""}),
    )
    copies = copy_as(python=as_python(store, desk.sql), sql=desk.sql)
    described: Future[str] = LIGHT.submit(described_tables, store)
    LIGHT.submit(_ready, store)
    asked: Query | None = None
    job: Future[dict[str, Any]] | None = None

    async def run(sql: str) -> None:
        nonlocal asked, job
        stop()
        mine = asked = Query(store, sql)
        job = QUERIES.submit(mine.payload)
        work = asyncio.wrap_future(job)
        desk.payload = _doing("running …")
        turn: set[asyncio.Future[Any]] = {work, asyncio.wrap_future(mine.begun)}
        await asyncio.wait(turn, timeout=PATIENCE_S, return_when=FIRST_COMPLETED)
        if not mine.begun.done():
            desk.payload = _doing("waiting for its turn: other queries run …")
            await asyncio.wait(turn, return_when=FIRST_COMPLETED)
            if not work.cancelled():
                desk.payload = _doing("running …")
        try:
            payload = STOPPED if work.cancelled() else await work
        except Exception:  # the page must say that the wait is over; why is for the log
            logging.getLogger(__name__).exception("a query of a page failed")
            payload = {"state": "failed", "message": "this could not be run; the log of `actlake serve` says why"}
        if mine is asked:
            desk.payload = json.dumps(payload)

    async def ask(event: Any) -> None:
        nonlocal address
        sql = str(json.loads(event.new)["sql"])
        address = replace(address, sql=sql, run=True)
        location.search = address.query()
        copies.param.update(python=as_python(store, sql), sql=sql)
        await run(sql)

    def stop(event: object = None) -> None:
        if asked and job:
            asked.stop()
            job.cancel()  # of one that waits for its turn

    def show(event: Any) -> None:
        nonlocal address
        view = json.loads(event.new) if event.new else {"chart": ""}
        address = replace(address, chart=view["chart"], x=str(view.get("x", "")), y=str(view.get("y", "")))
        location.search = address.query()

    async def start() -> None:
        desk.tables = await asyncio.wrap_future(described)
        if address.run:
            await run(address.sql)

    pn.state.onload(start)
    pn.state.on_session_destroyed(lambda session_context: stop())
    desk.param.watch(ask, "asked")
    desk.param.watch(stop, "stopped")
    desk.param.watch(show, "view")
    return page("SQL · actlake", html(sql_heading(store.uri)), desk, copies)


class SqlDesk(JSComponent):
    """Editor, tables, rows and picture; `static/sql.js` says what it is given."""

    sql = param.String(default="")
    asked = param.String(default="")
    stopped = param.Integer(default=0)
    view = param.String(default="")
    tables = param.String(default="[]")
    examples = param.String(default="[]")
    payload = param.String(default="")

    _esm = joined("sql")
    _stylesheets: ClassVar[list[str]] = [SQL_CSS.read_text(encoding="utf-8")]

    def __init__(self, **params: Any) -> None:
        super().__init__(sizing_mode="stretch_width", margin=0, **params)  # type: ignore[no-untyped-call]


def described_tables(store: Store) -> str:
    """What there is to ask, as JSON; asked of the sandbox once for each commit."""
    version = store.snapshot.version
    known = _tables.get(store)
    if known is None or known[0] != version:
        known = _tables[store] = version, json.dumps(tables_of(store))
    return known[1]


def as_python(store: Store, sql: str) -> str:
    """The call that gives the query's rows."""
    quoted = f'"""\n{sql}\n"""' if '"""' not in sql and "\\" not in sql and not sql.endswith('"') else repr(sql)
    return f"{opening(store)}frame = store.read_sql({quoted}).df()"


def sql_heading(uri: str) -> Markup:
    """The title line, and what a query may."""
    return Markup(
        '<h1>SQL</h1><p class="lead">DuckDB over {}. A query reads and changes nothing; it may take {:.0f} s, and the page shows '
        "the first {:,} rows.</p>"
    ).format(uri, LIMITS.seconds, SHOWN_ROWS)


def _doing(message: str) -> str:
    return json.dumps({"state": "running", "message": message})


def _ready(store: Store) -> None:
    """Have the sandbox of the next query started."""
    try:
        store.keep_spare()
    except ActlakeError:
        logging.getLogger(__name__).exception("no process could be started ahead of a query")
