"""The app as a server: its port, its headers, its end."""

from __future__ import annotations

import http.client
import signal
import subprocess
import sys
import urllib.request

import actlake
import pytest
from actlake.errors import InvalidOption, PortInUse
from actlake.ui import Server, serve


def answer(server: Server, path: str) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    connection.request("GET", path, headers={"Connection": "close"})
    response = connection.getresponse()
    response.read()
    connection.close()
    return response


def test_a_port_that_is_taken_is_one_clear_error(store: actlake.Store, server: Server) -> None:
    with pytest.raises(PortInUse, match=f"port {server.port} is in use"):
        serve(store, port=server.port, block=False)


def test_a_stopped_app_frees_its_port(store: actlake.Store) -> None:
    running = serve(store, port=0, block=False)
    assert answer(running, "/").status == 200
    running.stop()
    running.stop()
    with serve(store, port=running.port, block=False) as again:
        assert answer(again, "/").status == 200


def test_the_app_prints_nothing(store: actlake.Store, capfd: pytest.CaptureFixture[str]) -> None:
    with serve(store, port=0, block=False) as running:
        assert answer(running, "/generation?id=0").status == 200
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("path", ["/", "/generation?id=0", "/generation?id=zzz", "/static/js/bokeh.min.js"])
def test_every_answer_forbids_what_comes_from_another_host(server: Server, path: str) -> None:
    response = answer(server, path)
    assert response.status == 200
    policy = response.headers["Content-Security-Policy"]
    assert "default-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "http" not in policy


def test_an_address_of_another_machine_is_one_clear_error(store: actlake.Store) -> None:
    with pytest.raises(
        InvalidOption, match=r"address='192\.0\.2\.1:0' cannot be used: cannot assign requested address"
    ):
        serve(store, port=0, address="192.0.2.1", block=False)


def test_ctrl_c_ends_the_app_quietly(store: actlake.Store) -> None:
    code = """if True:
        import sys, actlake
        from actlake.ui import serve
        server = serve(actlake.open(sys.argv[1]), port=0, block=False)
        print(server.port, flush=True)
        server.wait()
        print("ended")
    """
    command = [sys.executable, "-c", code, store.uri]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        with urllib.request.urlopen(f"http://127.0.0.1:{int(child.stdout.readline())}/generation?id=0") as response:
            assert response.status == 200
        child.send_signal(signal.SIGINT)
        assert child.communicate(timeout=30) == ("ended\n", "")
    assert child.returncode == 0
