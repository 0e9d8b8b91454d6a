"""The app as a web server: its pages, and how they are served.

One process, on this machine's own address unless told otherwise; nothing is loaded from another host, and a
content-security policy holds the browser to that.
"""

import asyncio
import errno
import logging
import secrets
import socket
import threading
import webbrowser
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import panel as pn
from panel.io.server import get_server
from tornado.httputil import HTTPHeaders, HTTPServerRequest
from tornado.ioloop import IOLoop
from tornado.web import OutputTransform

from ..errors import InvalidOption, PortInUse
from ..queries import Store
from .access import Access
from .ask import Asker
from .corpus import corpus_page
from .corpus_factors import factors_early, factors_page
from .early import Make, install
from .gate import guard
from .generation import generation_early, generation_page
from .handlers import routes
from .jobs import cancel_all
from .neuron import neuron_early, neuron_page
from .page import NOT_MADE, html, page, problem
from .query import stop_all
from .sql import sql_page

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'self'",
        "object-src 'none'",
        "base-uri 'self'",
        "frame-ancestors 'none'",
        "form-action 'self'",
        "script-src 'self' 'unsafe-inline' 'wasm-unsafe-eval' blob:",
        "style-src 'self' 'unsafe-inline' blob:",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "connect-src 'self' blob: data:",
        "worker-src 'self' blob:",
    )
)


@dataclass(frozen=True)
class Seats:
    """How many people's pages there is room for: `most` at once, and one that nobody looks at goes after `unused_s` seconds."""

    most: int = 200
    unused_s: float = 15.0


Page = Callable[[Store], pn.Template]
PAGES: dict[str, Page] = {
    "/": corpus_page,
    "/generation": generation_page,
    "/neuron": neuron_page,
    "/factors": factors_page,
    "/sql": sql_page,
}
"""The app's pages by their route: `/` is the corpus, `/generation?id=N` one generation, `/neuron?layer=L&neuron=N` one neuron,
`/factors` the saved factorizations and `/factors?id=N` one."""

EARLY: dict[str, Make] = {"/generation": generation_early, "/neuron": neuron_early, "/factors": factors_early}
"""What of a page is sent before its session is made, by its route."""


def serve(
    store: Store,
    *,
    port: int = 5006,
    address: str = "127.0.0.1",
    open_browser: bool = False,
    block: bool = True,
    access: Access = Access(),  # noqa: B008  frozen
    model: str | None = None,
    seats: Seats = Seats(),
) -> "Server":
    """The running app of `store`. With `block` it returns when Ctrl-C has stopped it.

    Port 0 takes a free port; `.url` says where the app is. An address that other machines reach needs `access` with a password
    or an OAuth provider. With a `model` people can ask it from the corpus page. Raises PortInUse if something else listens
    there, InvalidOption for an address that this machine has not or that would let everybody in.
    """
    server = Server(store, port, address, access, model, seats)
    if open_browser:
        webbrowser.open(server.url)
    if block:
        server.wait()
    return server


class Server:
    """The app running in a thread of its own; as a context manager, stopped at the end of the block."""

    def __init__(
        self,
        store: Store,
        port: int,
        address: str,
        access: Access = Access(),  # noqa: B008  frozen
        model: str | None = None,
        seats: Seats = Seats(),
    ) -> None:
        _check_free(address, port)
        access.check(address)
        self._access, self._seats = access, seats
        self._asker = Asker(store, model) if model else None
        self.address = address
        self._stop: Callable[[], object] = lambda: None
        self._ended = threading.Event()  # Ctrl-C in Thread.join makes Python before 3.13 take the thread for dead
        started: Future[int] = Future()
        self._thread = threading.Thread(target=self._run, args=(store, port, started), name="actlake-app", daemon=True)
        self._thread.start()
        self.port = started.result()

    @property
    def url(self) -> str:
        """Where a browser on this machine finds the app."""
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.address, self.address)
        return f"http://{host}:{self.port}/"

    def wait(self) -> None:
        """Returns when the app has stopped; Ctrl-C stops it."""
        try:
            self._ended.wait()
        except KeyboardInterrupt:
            self.stop()

    def stop(self) -> None:
        """Stops the app and frees its port. Stopping twice is no error."""
        if not self._ended.is_set():
            self._stop()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _run(self, store: Store, port: int, started: "Future[int]") -> None:
        held = [store]

        async def run() -> None:
            stopped = asyncio.Event()
            loop = asyncio.get_running_loop()
            self._stop = lambda: loop.call_soon_threadsafe(stopped.set)
            server = _panel_server(held, port, self.address, self._access, self._seats)
            server.start()
            started.set_result(server.port)
            await stopped.wait()
            server.stop()
            stop_all()
            cancel_all()
            if self._asker:
                self._asker.close()
            store.close()

        try:
            asyncio.run(run())
        except BaseException as error:
            if started.done():
                raise
            started.set_exception(error)
        finally:
            held.clear()  # Panel keeps the pages for ever; DuckDB complains of a store that outlives the program
            self._ended.set()


def _check_free(address: str, port: int) -> None:
    """Raises PortInUse, or InvalidOption when this machine has no such address or keeps the port for itself."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        socket.create_server((address, port), family=family).close()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise PortInUse(port) from error
        raise InvalidOption("address", f"{address}:{port}", (error.strerror or str(error)).lower()) from error


def _session(make: Page, held: Sequence[Store]) -> Callable[[], pn.Template]:
    def session() -> pn.Template:  # not functools.partial: Panel would show it instead of calling it
        try:
            return make(held[0])
        except Exception:  # the browser gets a page all the same; why is for the log
            logging.getLogger(__name__).exception("a page could not be made")
            return page("actlake", html(problem(NOT_MADE)))

    return session


def _panel_server(held: Sequence[Store], port: int, address: str, access: Access, seats: Seats) -> Any:
    server = get_server(
        {route: _session(make, held) for route, make in PAGES.items()},
        port=port,
        address=address,
        loop=IOLoop.current(),
        extra_patterns=routes(held),
        title="actlake",
        unused_session_lifetime_milliseconds=int(1000 * seats.unused_s),
        check_unused_sessions_milliseconds=int(1000 * min(seats.unused_s, 17)),
        include_headers=[],  # what a browser sends says who is there, and a page needs none of it
        include_cookies=[],
        sign_sessions=True,
        secret_key=secrets.token_bytes(32),
        **access.options(),
    )
    # Bokeh allows "localhost" only, and only a bound socket knows which port 0 became.
    server._tornado._websocket_origins |= {f"{host}:{server.port}" for host in _names_of(address)}
    server._tornado._websocket_origins |= {origin if ":" in origin else f"{origin}:80" for origin in access.origins}
    server._tornado.transforms.append(SecurityHeaders)
    install(server._tornado, held, EARLY, seats.most)
    guard(server._tornado, seats.most)
    return server


def _names_of(address: str) -> set[str]:
    """The hosts by which a browser reaches an address: of one that stands for all, every name that this machine knows it has."""
    names = {address, "localhost", "127.0.0.1", "::1"}
    if address in ("0.0.0.0", "::"):
        names |= {socket.gethostname(), socket.getfqdn()}
        with suppress(OSError):
            names |= {str(found[4][0]) for found in socket.getaddrinfo(socket.gethostname(), None)}
    return {f"[{name}]" if ":" in name else name.lower() for name in names}


class SecurityHeaders(OutputTransform):
    """Adds the policy to every answer: a page loads nothing from another host, and no other site frames it."""

    def __init__(self, request: HTTPServerRequest) -> None:
        pass

    def transform_first_chunk(
        self, status_code: int, headers: HTTPHeaders, chunk: bytes, finishing: bool
    ) -> tuple[int, HTTPHeaders, bytes]:
        headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
        headers["Referrer-Policy"] = "same-origin"
        headers["X-Content-Type-Options"] = "nosniff"
        return status_code, headers, chunk
