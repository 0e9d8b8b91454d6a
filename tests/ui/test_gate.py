"""What the app's server answers at all, under which names, and to whom."""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
import re
from collections.abc import Iterator
from pathlib import Path

import actlake
import pytest
from actlake.ui import Server, serve
from actlake.ui.access import Access
from actlake.ui.app import PAGES, Seats
from tornado.httpclient import HTTPRequest
from tornado.websocket import websocket_connect
from waiting import comes_true

ROUTES = [
    *(
        f"{page.rstrip('/')}{suffix}"
        for page in PAGES
        for suffix in ("/autoload.js?bokeh-autoload-element=x", "/metadata")
    ),
    "/components/panel.pane/HTML/_css/x",
]
"""What Panel mounts and the app does not need."""


def answer(server: Server, path: str, **headers: str) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    connection.request("GET", path, headers={"Connection": "close"} | headers)
    response = connection.getresponse()
    response.text = response.read().decode(errors="replace")  # type: ignore[attr-defined]
    connection.close()
    return response


def first_message(server: Server, token: str, **headers: str) -> str | bytes | None:
    """What a socket with this token is told first; None where it is closed."""

    async def told() -> str | bytes | None:
        said = {"Origin": server.url.rstrip("/")} | headers
        request = HTTPRequest(f"ws://127.0.0.1:{server.port}/sql/ws", headers=said)
        socket = await websocket_connect(request, subprotocols=["bokeh", token])
        message = first = await socket.read_message()
        socket.close()
        while message is not None:  # until the server has closed it too
            message = await socket.read_message()
        return first

    return asyncio.run(told())


@pytest.fixture(scope="module")
def guarded(store: actlake.Store) -> Iterator[Server]:
    with serve(store, port=0, block=False, access=Access(password="a word of many letters")) as running:
        yield running


@pytest.mark.parametrize("path", ROUTES)
def test_routes_that_the_app_does_not_need_are_not_there(server: Server, guarded: Server, path: str) -> None:
    assert answer(server, path).status == 404
    assert answer(guarded, path).status == 404


def test_no_address_imports_a_module(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "mine_to_import.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'w')")
    assert answer(server, "/components/mine_to_import/x/_css/x").status == 404
    assert not (tmp_path / "imported").exists()


@pytest.mark.parametrize("path", [*PAGES, "/random", "/sql.csv?sql=select+1", "/sql.parquet?sql=select+1"])
def test_a_stranger_is_sent_to_the_sign_in_from_every_route(guarded: Server, path: str) -> None:
    response = answer(guarded, path)
    assert (response.status, response.headers["Location"][:8]) == (302, "./login?")


@pytest.mark.parametrize("path", ["/", "/sql.csv?sql=select+1", "/static/js/bokeh.min.js", "/drawing.js", "/nothing"])
def test_nothing_is_answered_under_a_name_that_another_site_led_here(server: Server, path: str) -> None:
    for host in ("evil.example", f"evil.example:{server.port}", f"127.0.0.1.evil.example:{server.port}"):
        response = answer(server, path, Host=host, Origin=f"http://{host}")
        assert response.status == 421
        assert "--allow-origin" in response.text
    assert answer(server, path, Host=f"localhost:{server.port}").status == (404 if path == "/nothing" else 200)


def test_a_tunnel_may_begin_at_another_port_and_no_page_of_another_port_opens_a_socket(server: Server) -> None:
    page = answer(server, "/sql", Host="localhost:8080")
    assert page.status == 200
    (token,) = re.findall(r'"token":\s*"([^"]+)"', page.text)
    assert "ACK" in str(first_message(server, token, Host="localhost:8080", Origin="http://localhost:8080"))
    upgrade = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "a" * 24,
    }
    assert answer(server, "/sql/ws", **upgrade, Origin="http://localhost:8080").status == 403


def test_a_name_that_is_allowed_is_answered(store: actlake.Store) -> None:
    access = Access(origins=["lake.example.org", "other.example:8080"])
    with serve(store, port=0, block=False, access=access) as running:
        for host in ("lake.example.org", "other.example:8080"):
            assert answer(running, "/", Host=host).status == 200
        assert answer(running, "/", Host="other.example").status == 421


def test_nobody_chooses_the_session_of_anothers_page(server: Server) -> None:
    assert answer(server, "/sql?bokeh-session-id=mine").status == 400
    assert answer(server, "/sql?bokeh-token=mine").status == 400
    assert answer(server, "/sql", **{"Bokeh-Session-Id": "mine"}).status == 400


def test_a_socket_needs_a_token_that_this_server_signed(server: Server) -> None:
    (token,) = re.findall(r'"token":\s*"([^"]+)"', answer(server, "/sql").text)
    assert "ACK" in str(first_message(server, token))
    forged = base64.urlsafe_b64encode(json.dumps({"session_id": "mine", "session_expiry": 2**40}).encode()).decode()
    assert first_message(server, forged.rstrip("=")) is None


def test_a_socket_makes_no_session_where_there_is_no_room(store: actlake.Store) -> None:
    with serve(store, port=0, block=False, seats=Seats(most=1, unused_s=4)) as running:
        (token,) = re.findall(r'"token":\s*"([^"]+)"', answer(running, "/sql").text)
        assert comes_true(
            lambda: answer(running, "/").status == 200
        )  # the first one's seat: nobody looked at that page
        assert first_message(running, token) is None
