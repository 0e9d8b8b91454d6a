"""What of a Panel server is answered, and to whom.

Panel and Bokeh mount routes that the app does not need: one imports whatever module an address names, others make sessions for
scripts of other pages. Here is the list of what stays. Nothing is answered under a name that the server does not go by: a name
that another site has led to this machine (DNS rebinding) makes that site's requests look like the app's own.
"""

import logging
from typing import Any

from bokeh.server.tornado import BokehTornado
from bokeh.server.util import check_allowlist
from bokeh.server.views.ico_handler import IcoHandler
from bokeh.server.views.multi_root_static_handler import MultiRootStaticHandler
from bokeh.server.views.static_handler import StaticHandler
from bokeh.server.views.ws import WSHandler
from bokeh.util.token import get_session_id
from tornado.httputil import HTTPServerRequest, split_host_and_port
from tornado.routing import Matcher, Rule
from tornado.web import RequestHandler

from .access import is_loopback
from .early import DrawingScript, is_full
from .guarded import Guarded

OPEN = (IcoHandler, StaticHandler, MultiRootStaticHandler, DrawingScript)
"""What anybody gets: files of the libraries and of the app, which say nothing of a store."""

MISDIRECTED = "actlake does not answer as {!r}; if that is its name, begin it with --allow-origin {}\n"


def guard(application: BokehTornado, most_sessions: int) -> None:
    """Has a Panel server's Tornado application answer to its own names alone, on the app's routes alone."""
    router = application.wildcard_router
    kept = [Rule(_Foreign(application), _Misdirected)]
    for rule in router.rules:
        if issubclass(rule.target, WSHandler):
            rule.target = type("Socket", (_Socket, rule.target), {"most_sessions": most_sessions})
        if issubclass(rule.target, (_Socket, Guarded, *OPEN)):
            kept.append(rule)
    router.rules[:] = kept


class _Foreign(Matcher):
    """Requests for a host that is none of those whose pages may open sockets here, nor this machine as itself, on whatever port:
    a tunnel to it may begin at another."""

    def __init__(self, application: BokehTornado) -> None:
        self._application = application

    def match(self, request: HTTPServerRequest) -> dict[str, Any] | None:
        host = request.host.lower()
        own = is_loopback(split_host_and_port(host)[0].strip("[]"))
        return None if own or check_allowlist(host, list(self._application.websocket_origins)) else {}


class _Misdirected(RequestHandler):
    def prepare(self) -> None:
        self.set_status(421)
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        host = self.request.host
        self.finish(MISDIRECTED.format(host, host))


class _Socket(WSHandler):
    """The socket of a page whose session is there, or, after it was away for long, is made again while there is room."""

    most_sessions: int

    async def _async_open(self, token: str) -> None:
        known = any(session.id == get_session_id(token) for session in self.application_context.sessions)
        if not known and is_full(self.application, self.most_sessions):
            logging.getLogger(__name__).warning(
                "a socket was closed: as many people look at the store as there is room for"
            )
            self.close()
            return
        await super()._async_open(token)
