"""Several people at once: sessions end and leave nothing, and one person's work does not hold up another's page."""

from __future__ import annotations

import gc
import http.client
import statistics
import threading
from urllib.parse import quote

import actlake
import pytest
from actlake.ui import Server, serve
from actlake.ui.app import Seats
from actlake.ui.query import Query
from bokeh.document import Document
from playwright.sync_api import Page, expect
from waiting import comes_true

N_SESSIONS = 168
N_ROUNDS = 6


def get(server: Server, path: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.request("GET", path, headers={"Connection": "close"})
    response = connection.getresponse()
    response.read()
    connection.close()
    return response.status


def documents() -> int:
    gc.collect()
    return sum(type(each) is Document for each in gc.get_objects())


def resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


@pytest.mark.slow
def test_sessions_that_ended_leave_neither_documents_nor_memory(store: actlake.Store) -> None:
    paths = ["/", "/sql", "/generation?id=0", "/generation?id=0&view=factors"]
    before_any, grown = documents(), []
    with serve(store, port=0, block=False, seats=Seats(unused_s=0.5)) as running:
        for round_number in range(N_ROUNDS):
            before = resident_bytes()
            for number in range(N_SESSIONS // N_ROUNDS):
                assert get(running, paths[number % len(paths)]) == 200
            assert comes_true(lambda: documents() <= before_any), round_number
            grown.append((resident_bytes() - before) / (N_SESSIONS // N_ROUNDS))
    # Caches fill in the first round, and the allocator takes or gives megabytes in any; what stays of a session does so in all.
    a_session = statistics.median(grown[1:])
    print(f"{a_session / 1e3:.0f} kB a session stay, of rounds {[round(each / 1e3) for each in grown]}")
    assert a_session < 100_000


def test_a_query_that_runs_holds_up_no_page_of_another(store: actlake.Store) -> None:
    endless = Query(store, "select count(*) from range(100000000000) a, range(1000) b where a.range % 7 = b.range")
    with serve(store, port=0, block=False) as running:
        thread = threading.Thread(target=endless.payload)
        thread.start()
        endless.begun.result(20)
        assert get(running, "/") == 200
        assert thread.is_alive()
    thread.join(20)
    assert not thread.is_alive()  # the server's end was the query's


@pytest.mark.browser
def test_a_neurons_page_that_looks_for_its_tokens_holds_up_no_page_of_another(store: actlake.Store, page: Page) -> None:
    slow = "(select count(*) from range(100000000000) a, range(1000) b where a.range % 7 = b.range) > 0"
    with serve(store, port=0, block=False) as running:
        page.goto(f"{running.url}neuron?layer=1&neuron=3&where={quote(slow)}")
        expect(page.get_by_text("Loading")).to_be_visible()
        page.wait_for_function("globalThis.Bokeh?.documents.length > 0")
        for path in ("/", "/generation?id=0", "/neuron?layer=1&neuron=3", "/sql"):
            assert get(running, path) == 200
        expect(page.get_by_text("Loading")).to_be_visible()
