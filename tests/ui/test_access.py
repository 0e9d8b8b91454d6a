"""Who may see the app, and what the server tells those who may not."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import actlake
import pytest
from actlake.errors import InvalidOption
from actlake.ui import Server, serve
from actlake.ui.access import ATTEMPTS, Access, password_from
from actlake.ui.app import Seats
from actlake.ui.oauth import is_allowed
from playwright.sync_api import Page, expect

PASSWORD = "correct horse"


@pytest.fixture(scope="module")
def locked(store: actlake.Store) -> Iterator[Server]:
    """The app behind a password, on every network of this machine."""
    with serve(store, port=0, address="0.0.0.0", block=False, access=Access(password=PASSWORD)) as running:
        yield running


def ask(server: Server, method: str, path: str, body: str = "", **headers: str) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    said = {"Connection": "close", "Content-Type": "application/x-www-form-urlencoded"} | headers
    connection.request(method, path, body, said)
    response = connection.getresponse()
    response.text = response.read().decode(errors="replace")  # type: ignore[attr-defined]
    connection.close()
    return response


def log_in(server: Server, password: str) -> http.client.HTTPResponse:
    return ask(server, "POST", "/login", urlencode({"password": password}))


@pytest.mark.parametrize("address", ["0.0.0.0", "::"])
def test_an_address_of_other_machines_is_refused_without_a_password(store: actlake.Store, address: str) -> None:
    with pytest.raises(InvalidOption, match="give --password-file or --oauth-provider"):
        serve(store, port=0, address=address, block=False)


def test_everybody_is_let_in_only_where_that_is_said(store: actlake.Store) -> None:
    with serve(store, port=0, address="0.0.0.0", block=False, access=Access(insecure=True)) as running:
        assert ask(running, "GET", "/").status == 200


@pytest.mark.parametrize(
    ("access", "sentence"),
    [
        (Access(password="short"), "8 characters or more"),
        (Access(password=PASSWORD, oauth_provider="github"), "or a password"),
        (Access(oauth_provider="nobody"), "choose one of"),
        (Access(oauth_provider="github"), "--allow-user"),
        (Access(oauth_provider="github", allowed_users=["ann"]), "PANEL_OAUTH_KEY and PANEL_OAUTH_SECRET"),
    ],
)
def test_an_access_that_cannot_work_is_one_clear_error(store: actlake.Store, access: Access, sentence: str) -> None:
    with pytest.raises(InvalidOption, match=sentence):
        serve(store, port=0, block=False, access=access)


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/generation?id=0",
        "/sql?sql=select+1&run=1",
        "/sql.csv?sql=select+1",
        "/random",
        "/autoload.js?bokeh-autoload-element=1",
    ],
)
def test_nothing_of_the_store_is_told_before_the_password(locked: Server, path: str) -> None:
    response = ask(locked, "GET", path)
    assert response.status in (302, 403, 404)
    assert "generations" not in response.text  # type: ignore[attr-defined]
    if response.status == 302:
        assert response.headers["Location"].startswith(("./login", "/login"))


def test_the_password_opens_and_a_wrong_one_does_not(store: actlake.Store) -> None:
    with serve(store, port=0, block=False, access=Access(password=PASSWORD)) as running:
        assert log_in(running, "wrong").status == 403
        came = log_in(running, PASSWORD)
        assert came.status == 302
        (cookie,) = (c for c in came.headers.get_all("Set-Cookie") if c.startswith("user="))
        assert "HttpOnly" in cookie
        assert "SameSite=Lax" in cookie
        inside = ask(running, "GET", "/sql.csv?sql=select+42+as+n", Cookie=cookie.split(";")[0])
        assert inside.text == "n\n42\n"  # type: ignore[attr-defined]
        forged = ask(running, "GET", "/sql.csv?sql=select+1", Cookie="user=user")
        assert forged.status == 302


def test_after_some_wrong_passwords_the_right_one_waits_too(store: actlake.Store) -> None:
    with serve(store, port=0, block=False, access=Access(password=PASSWORD)) as running:
        assert [log_in(running, f"guess {i}").status for i in range(ATTEMPTS)] == [403] * ATTEMPTS
        assert log_in(running, PASSWORD).status == 429


@pytest.mark.parametrize("following", ["//evil.example", "https://evil.example/", "\\\\evil.example"])
def test_the_login_leads_to_no_other_site(locked: Server, following: str) -> None:
    assert ask(locked, "GET", f"/login?{urlencode({'next': following})}").status == 400


@pytest.mark.browser
def test_a_person_comes_in_with_the_password_and_is_led_to_what_they_asked_for(page: Page, locked: Server) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{locked.url}generation?id=0")
    page.get_by_label("password").fill(PASSWORD)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Generation 0")).to_be_visible()
    expect(page.locator(".token").first).to_be_visible()
    assert all(url.startswith((locked.url, "data:", "blob:", "ws:")) for url in asked)
    page.goto(f"{locked.url}logout")
    expect(page.get_by_label("password")).to_be_visible()


@pytest.mark.parametrize(
    "path",
    [
        "/static/../../../../etc/passwd",
        "/static/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
        "/static//etc/passwd",
        "/static/extensions/panel/../../../../../etc/passwd",
        "/components/actlake.ui.sql/SqlDesk/_esm/../../../etc/passwd",
    ],
)
def test_no_path_leads_out_of_the_static_files(server: Server, path: str) -> None:
    response = ask(server, "GET", path)
    assert response.status in (400, 403, 404)
    assert "root:" not in response.text  # type: ignore[attr-defined]


def test_who_finds_no_room_is_told_so(store: actlake.Store) -> None:
    with serve(store, port=0, block=False, seats=Seats(most=3, unused_s=60)) as running:
        answers = [ask(running, "GET", "/") for _ in range(5)]
        assert [answer.status for answer in answers] == [200, 200, 200, 503, 503]
        assert "room" in answers[-1].text  # type: ignore[attr-defined]


def test_a_proxys_host_may_open_the_pages_socket_and_another_may_not(store: actlake.Store) -> None:
    def upgrade(server: Server, origin: str) -> int:
        headers = {
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "x" * 22 + "==",
        }
        return ask(server, "GET", "/ws", Origin=origin, **headers).status

    with serve(store, port=0, block=False, access=Access(origins=["app.example.org"])) as running:
        assert upgrade(running, "https://app.example.org") != 403
        assert upgrade(running, "https://evil.example") == 403


def test_a_password_comes_from_the_first_line_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text(f"{PASSWORD}\nnot this\n")
    assert password_from(file) == PASSWORD
    assert password_from(None, {"ACTLAKE_PASSWORD": PASSWORD}) == PASSWORD
    assert password_from(None, {}) is None
    file.write_text("\n")
    with pytest.raises(InvalidOption, match="it is empty"):
        password_from(file)
    with pytest.raises(InvalidOption, match="cannot be read"):
        password_from(tmp_path / "none")


def test_users_are_allowed_by_name_mail_or_domain() -> None:
    assert is_allowed("Ann@Example.org", ["ann@example.org"])
    assert is_allowed("ann", ["*"])
    assert not is_allowed("ann", ["@example.org"])
    assert not is_allowed("ann@evil-example.org", ["@example.org"])
    assert not is_allowed("ann", [])
