"""The SQL page in a real browser: queries run, stop, are drawn and are given as files, and nothing of them is markup."""

from __future__ import annotations

import csv
import http.client
import io
import socket
import time
import xml.etree.ElementTree as ET
from concurrent.futures import wait
from contextlib import ExitStack
from pathlib import Path
from threading import Event
from urllib.parse import parse_qs, quote, urlparse

import actlake
import pyarrow.parquet as pq
import pytest
from actlake.ui import Server, serve
from actlake.ui.jobs import MOST_QUERIES, QUERIES
from actlake.ui.query import SHOWN_ROWS, Query
from downloads import file_of
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.browser

HACK = "<img src=x onerror='window.hacked = 1'>"
ENDLESS = "select count(*) from range(100000000000) a, range(1000) b where a.range % 7 = b.range"


def run(page: Page, server: Server, sql: str) -> None:
    page.goto(f"{server.url}sql")
    page.get_by_label("SQL", exact=True).fill(sql)
    page.keyboard.press("Control+Enter")


def fetch(server: Server, path: str, **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.request("GET", path, headers={"Connection": "close"} | headers)
    response = connection.getresponse()
    try:
        return response.status, response.read()
    finally:
        connection.close()


def test_a_query_runs_by_keyboard_and_its_link_shows_the_same(page: Page, server: Server) -> None:
    run(page, server, "select position, token from tokens where generation_id = 0 order by position")
    expect(page.get_by_text("14 rows in")).to_be_visible()
    cells = page.locator("tbody tr").nth(1).locator("td").all_text_contents()
    assert cells == ["1", ","]
    page.reload()
    expect(page.get_by_text("14 rows in")).to_be_visible()
    assert "run=1" in page.url


def test_a_query_that_was_not_run_waits_for_who_opens_its_link(page: Page, server: Server) -> None:
    page.goto(f"{server.url}sql?sql=select+42+as+answer")
    expect(page.get_by_label("SQL", exact=True)).to_have_value("select 42 as answer")
    expect(page.locator(".table").nth(1)).to_contain_text("generations")
    expect(page.locator("tbody")).to_have_count(0)


def test_an_error_is_one_line_and_the_next_query_clears_it(page: Page, server: Server) -> None:
    run(page, server, "selec 1")
    expect(page.get_by_role("alert")).to_contain_text("Parser Error")
    run_again = page.get_by_label("SQL", exact=True)
    run_again.fill("copy (select 1) to 'x'")
    run_again.press("Control+Enter")
    expect(page.get_by_role("alert")).to_contain_text("only statements that read")
    run_again.fill("select 1 as one")
    run_again.press("Control+Enter")
    expect(page.get_by_text("1 row in")).to_be_visible()
    expect(page.get_by_role("alert")).to_be_hidden()


def test_stop_ends_a_query_that_would_run_for_ever(page: Page, server: Server) -> None:
    run(page, server, ENDLESS)
    expect(page.get_by_text("running …")).to_be_visible()
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_role("alert")).to_have_text("stopped")
    expect(page.get_by_role("button", name="Run")).to_be_enabled()


def test_stop_takes_a_query_out_of_the_line(page: Page, server: Server) -> None:
    done = Event()
    others = [QUERIES.submit(done.wait, 60) for _ in range(MOST_QUERIES)]
    try:
        run(page, server, "select 42 as answer")
        expect(page.get_by_text("waiting for its turn")).to_be_visible()
        page.get_by_role("button", name="Stop").click()
        expect(page.get_by_text("stopped")).to_be_visible()
    finally:
        done.set()
        wait(others)
    page.get_by_label("SQL", exact=True).focus()
    page.keyboard.press("Control+Enter")
    expect(page.get_by_text("1 row in")).to_be_visible()


def test_who_does_not_take_the_rows_holds_up_no_download_and_no_query(
    store: actlake.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actlake.ui.handlers.TAKEN_S", 1.0)
    many = f"/sql.csv?sql={quote('select repeat(chr(97 + i % 2), 1000) from range(1000000) t(i)')}"
    with serve(store, port=0, block=False) as running, ExitStack() as stack:
        for _ in range(MOST_QUERIES):
            deaf = stack.enter_context(socket.create_connection(("127.0.0.1", running.port)))
            deaf.sendall(f"GET {many} HTTP/1.1\r\nHost: 127.0.0.1:{running.port}\r\n\r\n".encode())
        assert Query(store, "select 42 as answer").payload()["rows"] == [[42]]
        assert fetch(running, "/sql.csv?sql=select+42+as+answer") == (200, b"answer\n42\n")


def test_names_and_values_of_a_query_are_never_markup(page: Page, server: Server) -> None:
    name = HACK.replace('"', '""')
    text = HACK.replace("'", "''")
    run(page, server, f"""select '{text}' as "{name}", 3 as "<script>window.hacked=2</script>", ['{text}'] as listed""")
    expect(page.get_by_text("1 row in")).to_be_visible()
    page.get_by_label("chart", exact=True).select_option("bar")
    page.get_by_label("y", exact=True).select_option(index=1)
    expect(page.locator(".bar-mark")).to_have_count(1)
    expect(page.locator("td").first).to_have_text(HACK)
    page.get_by_role("button", name="<script>").first.click()
    assert page.evaluate("window.hacked") is None
    assert page.locator("img").count() == 0


@pytest.mark.parametrize(
    ("kind", "marks"),
    [("line", ".line-mark"), ("bar", ".bar-mark"), ("scatter", ".dot-mark"), ("histogram", ".bar-mark")],
)
def test_a_chart_is_drawn_of_the_rows_and_kept_in_the_address(
    page: Page, server: Server, kind: str, marks: str
) -> None:
    sql = "select position, entropy from tokens where generation_id = 0"
    page.goto(f"{server.url}sql?run=1&chart={kind}&x=position&y=entropy&sql={quote(sql)}")
    expect(page.locator(marks).first).to_be_attached()
    expect(page.locator(".axis-name").first).to_have_text("position")
    scale = page.locator(".chart").evaluate("one => one.getBoundingClientRect().width / one.viewBox.baseVal.width")
    assert scale == pytest.approx(1, abs=0.01)  # texts are as large as the page's


def test_a_chosen_chart_is_in_the_address(page: Page, server: Server) -> None:
    run(page, server, "select position, entropy from tokens where generation_id = 0")
    page.get_by_label("chart", exact=True).select_option("scatter")
    page.wait_for_url("**chart=scatter**")
    assert parse_qs(urlparse(page.url).query)["y"] == ["entropy"]


def test_a_chart_is_saved_as_it_looks_as_png_and_as_svg(page: Page, server: Server) -> None:
    sql = "select position, entropy from tokens where generation_id = 0"
    page.goto(f"{server.url}sql?run=1&chart=bar&x=position&y=entropy&sql={quote(sql)}")
    page.get_by_role("button", name="dark theme").click()
    expect(page.locator(".bar-mark")).to_have_count(13)
    drawn = ET.fromstring(file_of(page, "save as an SVG picture"))
    marks = {element.tag.rpartition("}")[2]: element for element in drawn.iter()}
    looks = [(".bar-mark", "rect", "fill"), (".tick", "text", "fill"), (".grid-mark", "line", "stroke")]
    for selector, tag, name in looks:
        colour = page.locator(selector).last.evaluate("(one, name) => getComputedStyle(one)[name]", name)
        assert marks[tag].get(name) == colour
    card = page.locator(".place").evaluate("one => getComputedStyle(one).backgroundColor")
    assert drawn[0].get("fill") == card
    with page.expect_download() as download:
        page.get_by_role("button", name="save as a PNG picture").click()
    header = Path(download.value.path()).read_bytes()[:24]
    assert header[:8] == b"\x89PNG\r\n\x1a\n"
    assert [int.from_bytes(header[16:20], "big"), int.from_bytes(header[20:24], "big")] == [
        2 * int(drawn.attrib[side]) for side in ("width", "height")
    ]
    assert download.value.suggested_filename == "chart.png"


def test_a_table_and_a_column_are_inserted_by_a_click(page: Page, server: Server) -> None:
    page.goto(f"{server.url}sql")
    editor = page.get_by_label("SQL", exact=True)
    editor.fill("from ")
    editor.press("End")
    page.locator(".table summary", has_text="tokens").first.click()
    page.get_by_role("button", name="insert tokens").click()
    expect(editor).to_have_value("from tokens")


@pytest.mark.parametrize("path", ["sql.csv", "sql.parquet"])
def test_all_rows_are_given_as_a_file(server: Server, path: str) -> None:
    sql = "select range as n, 'a,\"b\n' as text from range(50000)"
    status, body = fetch(server, f"/{path}?sql={quote(sql)}")
    assert status == 200
    if path == "sql.csv":
        rows = list(csv.reader(io.StringIO(body.decode())))
        assert (len(rows), rows[0], rows[-1]) == (50_001, ["n", "text"], ["49999", 'a,"b\n'])
    else:
        table = pq.read_table(io.BytesIO(body))
        assert table["n"].to_pylist() == list(range(50_000))


def test_a_file_that_fails_is_refused_or_cut_so_that_a_browser_sees_it(server: Server) -> None:
    assert fetch(server, "/sql.csv?sql=selec") == (400, b'Parser Error: syntax error at or near "selec"\n')
    with pytest.raises(http.client.IncompleteRead):
        fetch(server, f"/sql.csv?sql={quote('select * from range(1000001)')}")
    status, _ = fetch(server, "/sql.csv?sql=select+1", **{"Sec-Fetch-Site": "cross-site"})
    assert status == 403


def test_a_page_gets_the_first_rows_and_says_so(store: actlake.Store) -> None:
    payload = Query(store, "select * from range(1000000)").payload()
    assert payload["message"].startswith("the first 1,000 rows")
    assert len(payload["rows"]) == SHOWN_ROWS
    odd = "select 2::hugeint ** 60 as big, 'nan'::float as nan, null as none, 1.5::decimal(4, 1) as d, true as yes, [1] as l"
    assert Query(store, odd).payload()["rows"][0][1:] == ["nan", None, 1.5, "true", "[1]"]


def test_a_query_that_is_stopped_before_it_begins_never_runs(store: actlake.Store) -> None:
    query = Query(store, ENDLESS)
    query.stop()
    begun = time.monotonic()
    assert query.payload() == {"state": "failed", "message": "stopped"}
    assert time.monotonic() - begun < 15
