"""The app as a web server: its pages, and how they are served.

One process, on this machine's own address unless told otherwise; nothing is loaded from another host, and a
content-security policy holds the browser to that.
"""

import asyncio
import errno
import socket
import threading
import webbrowser
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Self

import panel as pn
from panel.io.server import get_server
from tornado.httputil import HTTPHeaders, HTTPServerRequest
from tornado.ioloop import IOLoop
from tornado.web import OutputTransform

from ..errors import InvalidOption, PortInUse
from ..queries import Store
from .corpus import corpus_page
from .early import Make, install
from .generation import generation_early, generation_page
from .handlers import routes
from .neuron import neuron_early, neuron_page
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


Page = Callable[[Store], pn.Template]
PAGES: dict[str, Page] = {
    "/": corpus_page,
    "/generation": generation_page,
    "/neuron": neuron_page,
    "/sql": sql_page,
}
"""The app's pages by their route: `/` is the corpus, `/generation?id=N` one generation, `/neuron?layer=L&neuron=N` one neuron."""

EARLY: dict[str, Make] = {"/generation": generation_early, "/neuron": neuron_early}
"""What of a page is sent before its session is made, by its route."""


def serve(
    store: Store,
    *,
    port: int = 5006,
    address: str = "127.0.0.1",
    open_browser: bool = False,
    block: bool = True,
) -> "Server":
    """The running app of `store`. With `block` it returns when Ctrl-C has stopped it.

    Port 0 takes a free port; `.url` says where the app is. Raises PortInUse if something else listens there,
    InvalidOption for an address that this machine has not.
    """
    server = Server(store, port, address)
    if open_browser:
        webbrowser.open(server.url)
    if block:
        server.wait()
    return server


class Server:
    """The app running in a thread of its own; as a context manager, stopped at the end of the block."""

    def __init__(self, store: Store, port: int, address: str) -> None:
        _check_free(address, port)
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
            server = _panel_server(held, port, self.address)
            server.start()
            started.set_result(server.port)
            await stopped.wait()
            server.stop()
            stop_all()
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


def _session(page: Page, held: Sequence[Store]) -> Callable[[], pn.Template]:
    return lambda: page(held[0])  # not functools.partial: Panel would show it instead of calling it


def _panel_server(held: Sequence[Store], port: int, address: str) -> Any:
    server = get_server(
        {route: _session(page, held) for route, page in PAGES.items()},
        port=port,
        address=address,
        loop=IOLoop.current(),
        extra_patterns=routes(held),
        title="actlake",
    )
    # Bokeh allows "localhost" only, and only a bound socket knows which port 0 became.
    hosts = {address, "localhost", "127.0.0.1"}
    server._tornado._websocket_origins |= {f"{host}:{server.port}" for host in hosts}
    server._tornado.transforms.append(SecurityHeaders)
    install(server._tornado, held, EARLY)
    return server


class SecurityHeaders(OutputTransform):
    """Adds the policy to every answer: a page loads nothing from another host, and no other site frames it."""

    def __init__(self, request: HTTPServerRequest) -> None:
        pass

    def transform_first_chunk(
        self, status_code: int, headers: HTTPHeaders, chunk: bytes, finishing: bool
    ) -> tuple[int, HTTPHeaders, bytes]:
        headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
        headers["Referrer-Policy"] = "same-origin"
        return status_code, headers, chunk
