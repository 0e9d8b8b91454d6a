"""A walk over every page and view, on a captured store, on a hostile one and on the real model's: each is whole and quiet."""

from __future__ import annotations

import http.client
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from functools import cache
from pathlib import Path
from urllib.parse import quote, urljoin, urlparse

import actlake
import pytest
from actlake.capture.builtin import NAME
from actlake.errors import InvalidOption
from actlake.ui import Server, app, serve
from actlake.ui.app import PAGES, Seats
from playwright.sync_api import Error, Locator, Page, expect

pytestmark = pytest.mark.browser

RECORD = ("embeddings", "gradients", "activations", "hidden_states", "layer_predictions")
MARKUP = "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>"
HOSTILE = [
    MARKUP,
    "\"'`&amp;&#39;</style></textarea></template>",
    "\x00\x07\x1b[31m\x7f",
    "\u202e\u2067\u200f\u0301",
    "<0xE2><0x82>",
    "\ufffd\ufffe\U0001f468\u200d",
    "w" * 3000,
    "{{ 7 * 7 }}{% raw %}${7 * 7}",
    "</script><!--]]>",
    "\r\n\t\u2028",
]
HOSTILE_RUN = {"model": f"{MARKUP}{{{{ 7 * 7 }}}}", "name": f"\"'{MARKUP}\u202e{'n' * 300}"}
QUERY = "select position, rank, token, prompt from tokens join generations using (generation_id) order by all limit 30"
WALK = {
    "": ".listed",
    "generation?id=0": ".token",
    "generation?id=0&view=factors&k=2": ".spark",
    "generation?id=0&view=activations": "canvas",
    "generation?id=0&view=layers": "canvas",
    "neuron?layer=1&neuron=3&related=1": ".histogram-plot",
    "factors": "table.list tbody tr",
    "factors?id=0": ".factor-card",
    f"sql?run=1&chart=scatter&x=position&y=rank&sql={quote(QUERY)}": "tbody tr",
}
"""The pages and views by their addresses, each with its main drawing."""

WATCH = """addEventListener("securitypolicyviolation", (event) =>
  console.error(`the policy forbids ${event.violatedDirective} ${event.blockedURI}`))"""
EVERY = """const every = (root) => [...root.querySelectorAll("*")].flatMap(
  (one) => [one, ...(one.shadowRoot ? every(one.shadowRoot) : [])]);"""
FOREIGN = f"""() => {{ {EVERY}
  return every(document).filter((one) => ["IMG", "IFRAME", "OBJECT", "EMBED", "image"].includes(one.tagName)
      || (one.tagName === "SCRIPT" && one.type !== "application/json" && one.textContent.includes("window.hacked"))
      || [...one.attributes].some(({{name}}) => name === "onerror")).map((one) => one.outerHTML.slice(0, 200)); }}"""
LINKS = f"() => {{ {EVERY} return every(document).filter((one) => one.tagName === 'A').map((one) => one.href); }}"
IS_DRAWN = """(one) => {
  const {width, height} = one.getBoundingClientRect();
  if (width < 10 || height < 10) return false;
  if (!(one instanceof HTMLCanvasElement)) return one.textContent.trim() !== "" || one.childElementCount > 0;
  const pixels = new Uint32Array(one.getContext("2d").getImageData(0, 0, one.width, one.height).data.buffer);
  return new Set(pixels).size > 2;
}"""
CONTROLS = f"""() => {{ {EVERY}
  window.reached ??= new Set();
  return every(document).filter((one) => one.matches("a[href], button, input, select, textarea, [tabindex]")
    && one.tabIndex >= 0 && !one.disabled && one.type !== "hidden"
    && one.checkVisibility({{visibilityProperty: true}}) && one.getBoundingClientRect().width > 0
    && !window.reached.has(one)).map((one) => one.outerHTML.slice(0, 200)); }}"""
REACH = """() => {
  let at = document.activeElement;
  while (at?.shadowRoot?.activeElement) at = at.shadowRoot.activeElement;
  window.reached.add(at); }"""
BACKGROUND = "() => getComputedStyle(document.body).backgroundColor"
SHOWN = f"""() => {{ {EVERY} return every(document.getElementById("late")).flatMap((one) =>
  ["SCRIPT", "STYLE"].includes(one.tagName) || !one.checkVisibility() ? [] : one.matches("input, select, textarea")
    ? [one.type === "checkbox" ? one.checked : one.value] : one.ariaPressed === "true" ? ["pressed", one.textContent]
    : [...one.childNodes].filter((node) => node.nodeType === 3).map((node) => node.data)).join("|"); }}"""
FOLLOWED: set[str] = set()
OVERFLOW = "() => document.documentElement.scrollWidth - window.innerWidth"


@pytest.fixture(scope="module")
def captured(toy_model: actlake.capture.Model, tmp_path_factory: pytest.TempPathFactory) -> actlake.Store:
    return _captured(toy_model, tmp_path_factory.mktemp("walk"))


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory, write_store: Callable[..., actlake.Store]) -> actlake.Store:
    """Every text that a store has, its runs' and its people's too, is hostile."""
    metadata = {text: text[::-1] for text in HOSTILE} | {"{{ key }}": HOSTILE, MARKUP: {MARKUP: None}}
    written = [(HOSTILE, 4, metadata, [1]), (HOSTILE[::-1], 5, {MARKUP: MARKUP})]
    recorded = ["embeddings", "gradients", "activations", "layer_predictions"]
    store = write_store(tmp_path_factory.mktemp("hostile"), *written, recorded=recorded, run=HOSTILE_RUN)
    return _named(store, "".join(HOSTILE))


@pytest.fixture(scope="module")
def app_of(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Server]]:
    """Gives the app of a store by the store's name, the same each time."""
    with ExitStack() as running:

        @cache
        def app_of(name: str) -> Server:
            if name == NAME:
                store = _captured(actlake.capture.load_model(NAME), tmp_path_factory.mktemp("real"))
            else:
                store = request.getfixturevalue(name)
            return running.enter_context(serve(store, port=0, block=False, seats=Seats(most=500, unused_s=5)))

        yield app_of


@pytest.fixture(params=["captured", "hostile", pytest.param(NAME, marks=pytest.mark.slow)])
def server(request: pytest.FixtureRequest, app_of: Callable[..., Server]) -> Server:
    return app_of(request.param)


@pytest.fixture
def quiet_server(app_of: Callable[..., Server]) -> Server:
    return app_of("captured")


@pytest.fixture
def page(page: Page) -> Page:
    page.add_init_script(WATCH)
    return page


def test_the_walk_misses_no_page() -> None:
    assert {f"/{path.partition('?')[0]}" for path in WALK} == set(PAGES)


@pytest.mark.parametrize("path", WALK)
def test_a_page_is_whole_quiet_and_harmless(page: Page, server: Server, path: str) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("websocket", lambda socket: asked.append(socket.url))
    backgrounds = set()
    page.set_viewport_size({"width": 390, "height": 780})
    _open(page, server, path)
    for width in (390, 1280):
        page.set_viewport_size({"width": width, "height": 780})
        for scheme in ("dark", "light"):
            page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]  # one of its literals
            page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
            backgrounds.add(page.evaluate(BACKGROUND))
            assert page.evaluate(OVERFLOW) <= 0, (width, scheme)
            assert page.locator(WALK[path]).first.evaluate(IS_DRAWN)
    assert len(backgrounds) == 2
    assert page.evaluate("window.hacked") is None
    assert page.evaluate(FOREIGN) == []
    hosts = {urlparse(url).netloc for url in asked if urlparse(url).scheme not in ("data", "blob")}
    assert hosts == {f"127.0.0.1:{server.port}"}


@pytest.mark.parametrize("path", WALK)
def test_every_link_leads_to_a_page_and_tab_to_every_control(page: Page, quiet_server: Server, path: str) -> None:
    _open(page, quiet_server, path)
    _check_links(quiet_server, page)
    n = len(page.evaluate(CONTROLS))
    assert n > 5
    left = ["all"]
    for _ in range(3 * n):
        page.keyboard.press("Tab")
        page.evaluate(REACH)
        if not (left := page.evaluate(CONTROLS)):
            break
    assert left == []


@pytest.mark.parametrize(
    ("path", "act"),
    [
        ("", lambda page: _type(page.get_by_role("searchbox"), "One")),
        ("generation?id=0", lambda page: page.get_by_label("method").select_option(index=3)),
        ("generation?id=0", lambda page: page.get_by_role("link", name="Layers").click()),
        ("neuron?layer=1&neuron=3&related=1", lambda page: _type(page.get_by_label("token", exact=True), "1")),
        ("factors?id=0", lambda page: page.get_by_role("button", name="by stability").click()),
        ("sql", lambda page: _run(page, "select 6 * 7 as answer")),
    ],
)
def test_back_and_forward_restore_what_was_shown(
    page: Page, quiet_server: Server, path: str, act: Callable[[Page], object]
) -> None:
    _open(page, quiet_server, path)
    before = _shown(page)
    act(page)
    page.wait_for_url(lambda url: url != before[0])
    expect(page.locator("#early")).to_have_count(0)
    after = _shown(page)
    assert after[1] != before[1]
    for leave, wanted in ((page.go_back, before), (page.go_forward, after)):
        leave()
        _check_becomes(page, wanted)


@pytest.mark.parametrize("route", PAGES)
def test_a_page_that_fails_is_a_sentence_and_never_a_traceback(
    page: Page, captured: actlake.Store, monkeypatch: pytest.MonkeyPatch, route: str
) -> None:
    def fails(*given: object) -> object:
        raise KeyError("<b>a secret</b>")

    monkeypatch.setitem(app.PAGES, route, fails)
    monkeypatch.setitem(app.EARLY, route, fails)
    with serve(actlake.open(captured.uri), port=0, block=False) as running:
        answer = page.goto(f"{running.url.rstrip('/')}{route}")
        assert answer is not None
        assert answer.status == 200
        expect(page.get_by_role("alert")).to_contain_text(
            "this page could not be made; the log of `actlake serve` says why"
        )
        sent = answer.text() + page.content()
    assert "Traceback" not in sent
    assert "secret" not in sent


def test_half_of_a_character_is_one_clear_error(captured: actlake.Store) -> None:
    half, factors = "token = '\ud800'", captured.factors(1, layers=[1])
    for fails in (
        lambda: captured.save(factors, half),
        lambda: captured.label(half, layer=1, neuron=3),
        lambda: captured.neuron(1, 3, where=half),
        lambda: captured.factors(1, layers=[1], where=half),
    ):
        with pytest.raises(InvalidOption, match="half of a character"):
            fails()


def _captured(model: actlake.capture.Model, folder: Path) -> actlake.Store:
    prompts = [{"prompt": " 1, 2, 3,", "topic": "numbers"}, {"prompt": " One, two,", "topic": "words"}]
    actlake.capture(folder, model, prompts, max_new_tokens=6, record=RECORD, precision="float32")
    return _named(actlake.open(folder), "counting")


def _named(store: actlake.Store, name: str) -> actlake.Store:
    """The store with a factorization, a factor's label and a neuron's."""
    store.save(store.factors(2, layers=[1], reruns=1), name)
    store.label(name[:500], factorization_id=0, factor=0)
    store.label(name[:500], layer=1, neuron=3)
    return store


def _open(page: Page, server: Server, path: str) -> None:
    """Come to the page's whole: its late part is there, and its main drawing is seen."""
    page.goto(f"{server.url}{path}")
    expect(page.locator("#early")).to_have_count(0)
    expect(page.locator(WALK.get(path, "textarea")).first).to_be_visible()


def _check_links(server: Server, page: Page) -> None:
    """Every link of the page that was on none before leads to a page that shows something."""
    links = {url.partition("#")[0] for url in page.evaluate(LINKS)}
    assert len(links) > 3
    for url in sorted(links - FOLLOWED):
        status, text = _get(server, url)
        assert status == 200, url
        assert 'role="alert"' not in text, url
    FOLLOWED.update(links)


def _type(field: Locator, text: str) -> None:
    field.fill(text)
    field.press("Enter")


def _run(page: Page, sql: str) -> None:
    page.get_by_label("SQL", exact=True).fill(sql)
    page.keyboard.press("Control+Enter")


def _shown(page: Page) -> tuple[str, str]:
    """The address and every text of the page, once they stay as they are; how long a query took is not of it."""
    said = ("", "")
    while said != (said := _said(page)):
        page.wait_for_timeout(500)
    return said


def _said(page: Page) -> tuple[str, str]:
    return page.url, re.sub(r"in [\d.]+ m?s", "", page.evaluate(SHOWN))


def _check_becomes(page: Page, wanted: tuple[str, str]) -> None:
    """Wait until the page shows that; it may be loaded anew meanwhile."""
    for _ in range(60):
        with suppress(Error):  # of the page that is being left
            if _said(page) == wanted:
                return
        page.wait_for_timeout(250)
    assert _said(page) == wanted


def _get(server: Server, url: str) -> tuple[int, str]:
    """What a link of a page answers, its redirections followed."""
    parts = urlparse(url)
    assert parts.netloc == f"127.0.0.1:{server.port}", url
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.request("GET", url.removeprefix(server.url.rstrip("/")), headers={"Connection": "close"})
    response = connection.getresponse()
    text = response.read().decode(errors="replace")
    connection.close()
    if response.status in (301, 302):
        return _get(server, urljoin(url, response.headers["Location"]))
    return response.status, text
