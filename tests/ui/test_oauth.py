"""Sign-in at an OAuth provider, which is a process of its own, in a real browser."""

from __future__ import annotations

import http.client
import json
import logging
import re
import subprocess
import sys
from base64 import urlsafe_b64decode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.cookies import SimpleCookie
from pathlib import Path
from urllib.parse import parse_qsl, urlencode, urlsplit

import actlake
import pytest
from actlake.errors import InvalidOption
from actlake.ui import Server, serve
from actlake.ui.access import Access
from oauth_provider import KEY, SECRET
from playwright.sync_api import Browser, BrowserContext, Page, expect

ALLOWED = ["@example.org"]


@contextmanager
def signing_in(store: actlake.Store, provider: str = "generic", **environment: str) -> Iterator[Server]:
    """The app behind a provider that sends people back to it, with this environment."""
    with (
        pytest.MonkeyPatch.context() as patch,
        subprocess.Popen(
            [sys.executable, Path(__file__).parents[1] / "oauth_provider.py"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        try:
            at = f"http://127.0.0.1:{int(process.stdout.readline())}"
            said = {"KEY": KEY, "SECRET": SECRET, "AUTHORIZE_URL": f"{at}/authorize", "TOKEN_URL": f"{at}/token"}
            for name, value in (said | {"USER_URL": f"{at}/userinfo"} | environment).items():
                patch.setenv(f"PANEL_OAUTH_{name}", value)
            access = Access(oauth_provider=provider, allowed_users=ALLOWED)
            with serve(store, port=0, block=False, access=access) as running:
                process.stdin.write(f"{running.url}login\n")
                process.stdin.close()
                yield running
        finally:
            process.kill()


@pytest.fixture(scope="module")
def guarded(store: actlake.Store) -> Iterator[Server]:
    with signing_in(store) as running:
        yield running


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    """A browser that has never been here."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    context.set_default_timeout(15_000)
    yield context
    context.close()


def sign_in(page: Page, who: str = "ann@example.org") -> None:
    page.get_by_label("who").fill(who)
    page.get_by_role("button", name="Sign in").click()


def ask(server: Server, path: str, cookie: str = "", **headers: str) -> http.client.HTTPResponse:
    return get(server.port, path, {"Cookie": cookie} | headers)


def get(port: int, path: str, headers: dict[str, str]) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("GET", path, headers={"Connection": "close"} | headers)
    response = connection.getresponse()
    response.text = response.read().decode(errors="replace")  # type: ignore[attr-defined]
    connection.close()
    return response


def answered(server: Server) -> tuple[str, str]:
    """Where the provider sends a person back to who has signed in there, and the cookie of the browser that began it."""
    begun = ask(server, "/login")
    provider = urlsplit(begun.headers["Location"])
    decided = get(provider.port, f"/decide?{provider.query}&who=ann%40example.org", {})
    back = urlsplit(decided.headers["Location"])
    return f"{back.path}?{back.query}", f"panel-oauth-state={given(begun)['panel-oauth-state']}"


def given(response: http.client.HTTPResponse) -> dict[str, str]:
    """The cookies that an answer sets, without those that it takes away."""
    cookies = SimpleCookie("; ".join(each.partition(";")[0] for each in response.headers.get_all("Set-Cookie") or []))
    return {name: cookie.value for name, cookie in cookies.items() if cookie.value}


def cookies_of(context: BrowserContext) -> str:
    return "; ".join(f"{cookie['name']}={cookie['value']}" for cookie in context.cookies())


@pytest.mark.browser
def test_a_person_signs_in_and_is_led_to_the_address_they_asked_for_which_lives(
    context: BrowserContext, guarded: Server
) -> None:
    page, sockets = context.new_page(), []
    page.on("websocket", lambda socket: sockets.append(socket))
    page.goto(f"{guarded.url}generation?id=0&output=8")
    expect(page).to_have_title("provider")
    sign_in(page)
    expect(page).to_have_url(f"{guarded.url}generation?id=0&output=8")
    expect(page.get_by_role("heading", name="Generation 0")).to_be_visible()
    expect(page.locator(".token").first).to_be_visible()
    page.goto(f"{guarded.url}?search=goes")
    expect(page.get_by_text("30 of 33 generations")).to_be_visible()  # it comes over the socket
    assert sockets
    assert ask(guarded, "/sql.csv?sql=select+42+as+n", cookies_of(context)).text == "n\n42\n"  # type: ignore[attr-defined]


@pytest.mark.browser
def test_cookies_are_kept_from_scripts_and_from_other_sites(context: BrowserContext, guarded: Server) -> None:
    page = context.new_page()
    page.goto(guarded.url)
    sign_in(page)
    expect(page.get_by_role("heading", name="Corpus")).to_be_visible()
    kept = [cookie for cookie in context.cookies() if cookie["domain"] == "127.0.0.1"]
    assert {"user", "access_token"} <= {cookie["name"] for cookie in kept}
    assert all(cookie["httpOnly"] and cookie["sameSite"] == "Lax" for cookie in kept)
    behind = ask(guarded, "/login", **{"X-Forwarded-Proto": "https"})
    assert all("Secure" in cookie for cookie in behind.headers.get_all("Set-Cookie"))


@pytest.mark.browser
def test_who_signs_out_stays_out_until_they_sign_in(context: BrowserContext, guarded: Server) -> None:
    page = context.new_page()
    page.goto(f"{guarded.url}generation?id=0")
    sign_in(page)
    expect(page.locator(".token").first).to_be_visible()
    page.goto(f"{guarded.url}logout")
    expect(page.get_by_text("You are signed out.")).to_be_visible()
    assert [cookie["name"] for cookie in context.cookies() if cookie["domain"] == "127.0.0.1"] == []
    page.get_by_role("link", name="Sign in").click()
    sign_in(page)
    expect(page.get_by_role("heading", name="Corpus")).to_be_visible()


@pytest.mark.browser
@pytest.mark.parametrize(
    ("decide", "sentence"),
    [
        (
            lambda page: page.get_by_role("button", name="Refuse").click(),
            "The provider refused the sign-in (access_denied).",
        ),
        (lambda page: sign_in(page, "eve@evil.example"), "eve@evil.example may not come in here."),
        (lambda page: sign_in(page, "<b>eve</b>"), "<b>eve</b> may not come in here."),
    ],
    ids=["refused", "not allowed", "markup"],
)
def test_a_sign_in_that_fails_is_one_clear_page_and_leaves_no_cookie(
    context: BrowserContext, guarded: Server, decide: Callable[[Page], None], sentence: str
) -> None:
    page = context.new_page()
    page.goto(f"{guarded.url}generation?id=0")
    decide(page)
    expect(page.get_by_role("status")).to_have_text(sentence)
    expect(page.get_by_role("link", name="Sign in")).to_be_visible()
    assert [cookie["name"] for cookie in context.cookies() if cookie["domain"] == "127.0.0.1"] == []
    assert ask(guarded, "/sql.csv?sql=select+1", cookies_of(context)).status == 302


def test_an_answer_counts_in_the_browser_that_asked_alone(guarded: Server) -> None:
    path, state = answered(guarded)
    forged = path.replace("state=", "state=x")
    for asked, cookie in ((path, ""), (forged, state), ("/login?code=of-somebody-else&state=", "")):
        refused = ask(guarded, asked, cookie)
        assert refused.status == 401
        assert "was not begun in this browser" in refused.text  # type: ignore[attr-defined]
        assert all('=""' in each for each in refused.headers.get_all("Set-Cookie"))
    assert ask(guarded, path, state).status == 302
    again = ask(guarded, path, state)
    assert (again.status, given(again)) == (401, {})


@pytest.mark.parametrize(
    "path", ["/", "/generation?id=0", "/neuron?layer=0&neuron=1", "/factors", "/sql?sql=select+1&run=1"]
)
def test_without_a_cookie_every_page_leads_to_the_sign_in_and_back(guarded: Server, path: str) -> None:
    response = ask(guarded, path)
    assert response.status == 302
    assert response.headers["Location"] == f"./login?{urlencode({'next': f'.{path}'})}"
    assert "tiny-by-hand" not in response.text  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "path", ["/sql.csv?sql=select+1", "/sql.parquet?sql=select+1", "/random", "/autoload.js?bokeh-autoload-element=1"]
)
@pytest.mark.parametrize("cookie", ["", "user=ann@example.org; access_token=x"])
def test_without_a_true_cookie_nothing_is_downloaded(guarded: Server, path: str, cookie: str) -> None:
    assert ask(guarded, path, cookie).status in (302, 403, 404)


def test_without_the_cookie_a_pages_socket_says_nothing(guarded: Server) -> None:
    cookies = "; ".join(f"{name}={value}" for name, value in given(ask(guarded, *answered(guarded))).items())
    token = ask(guarded, "/", cookies).text.partition('"token":"')[2].partition('"')[0]  # type: ignore[attr-defined]
    assert token

    def upgrade(cookie: str) -> int:
        headers = {
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Origin": guarded.url.rstrip("/"),
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "x" * 22 + "==",
            "Sec-WebSocket-Protocol": f"bokeh, {token}",
        }
        return ask(guarded, "/ws", cookie, **headers).status

    assert [upgrade(""), upgrade("user=ann@example.org; access_token=x"), upgrade(cookies)] == [403, 403, 101]


def test_behind_a_proxy_people_are_sent_back_to_the_address_that_was_told_and_into_its_folder(
    store: actlake.Store,
) -> None:
    with signing_in(store, REDIRECT_URI="https://lake.example.org/lake/login") as running:
        asked = ask(running, "/generation?id=2").headers["Location"].removeprefix(".")
        begun = ask(running, asked, **{"X-Forwarded-Proto": "https"})
        query = dict(parse_qsl(urlsplit(begun.headers["Location"]).query))
        assert query["redirect_uri"] == "https://lake.example.org/lake/login"
        assert json.loads(urlsafe_b64decode(query["state"]))["next_url"] == "./generation?id=2"
        assert all("Secure" in cookie for cookie in begun.headers.get_all("Set-Cookie"))


@pytest.mark.browser
@pytest.mark.parametrize(
    ("provider", "environment"),
    [("generic", {"SCOPE": "email"}), ("auth_code", {})],
    ids=["names from userinfo", "a challenge instead of a secret"],
)
def test_people_sign_in_without_an_id_token_and_without_a_secret(
    context: BrowserContext, store: actlake.Store, provider: str, environment: dict[str, str]
) -> None:
    with signing_in(store, provider, **environment) as running:
        page = context.new_page()
        page.goto(f"{running.url}generation?id=2")
        sign_in(page)
        expect(page).to_have_url(f"{running.url}generation?id=2")
        expect(page.locator(".token").first).to_be_visible()


def test_a_provider_that_does_not_answer_is_one_clear_page(store: actlake.Store) -> None:
    with signing_in(store, TOKEN_URL="http://127.0.0.1:1/token") as running:
        ended = ask(running, *answered(running))
        assert ended.status == 500
        assert "The sign-in could not be finished" in ended.text  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["code", "state", "error"])
def test_an_answer_that_hides_in_the_address_to_come_back_to_is_none(guarded: Server, name: str) -> None:
    response = ask(guarded, f"/login?{urlencode({'state': '', 'next': f'x?{name}=1'})}")
    assert response.status == 400
    assert not given(response)


def test_what_a_provider_gives_is_never_in_the_log(store: actlake.Store, caplog: pytest.LogCaptureFixture) -> None:
    with signing_in(store, USER_URL="", SCOPE="email") as running, caplog.at_level(logging.DEBUG):
        back, cookie = answered(running)
        assert ask(running, back, cookie).status == 401
        code = dict(parse_qsl(urlsplit(back).query))["code"]
    assert "gave no token or no name" in caplog.text
    assert "refresh_token" not in caplog.text
    assert code not in caplog.text


@pytest.mark.parametrize(("provider", "wanted"), [("auth0", "subdomain"), ("okta", "url"), ("azure", "tenant")])
def test_a_provider_with_a_place_for_each_customer_wants_it_named(
    provider: str, wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PANEL_OAUTH_KEY", KEY)
    monkeypatch.setenv("PANEL_OAUTH_SECRET", SECRET)
    access = Access(oauth_provider=provider, allowed_users=ALLOWED)
    with pytest.raises(InvalidOption, match=f"PANEL_OAUTH_EXTRA_PARAMS.*{wanted}"):
        access.check("127.0.0.1")
    monkeypatch.setenv("PANEL_OAUTH_EXTRA_PARAMS", f"{{'{wanted}': 'ours'}}")
    access.check("127.0.0.1")


def test_who_signs_in_is_in_no_page(store: actlake.Store, guarded: Server) -> None:
    back, cookie = answered(guarded)
    cookies = given(ask(guarded, back, cookie))
    page = ask(guarded, "/sql", "; ".join(f"{name}={value}" for name, value in cookies.items()))
    assert page.status == 200
    for token in re.findall(r"[\w-]{40,}", page.text):
        assert "user" not in urlsafe_b64decode(token + "=" * (-len(token) % 4)).decode(errors="replace")
