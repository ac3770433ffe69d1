"""The page and its server start and end together; ports are looked at before."""

import os
import signal
import socket
import sys
import urllib.request
from itertools import pairwise

import pytest

from minicpmv.child_servers import free_port
from minicpmv.serve.ui import launch
from minicpmv.serve.ui.launch import PageSettings, check_port, server_process

SERVER = """
import http.server, os, sys
class Healthy(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
        self.wfile.write(os.environ.get("MINICPMV_API_KEY", "").encode())
    def log_message(self, *words): pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Healthy).serve_forever()
"""


def test_addresses_that_people_type():
    assert PageSettings().address == "http://127.0.0.1:7860"
    assert PageSettings(host="0.0.0.0", port=80).address == "http://localhost:80"
    assert PageSettings(host="::1", ssl_certfile="x").address == "https://[::1]:7860"
    assert PageSettings(server_port=9).server_url == "http://127.0.0.1:9"
    assert PageSettings(base_url="http://host").server_url == "http://host"


def test_the_server_gets_the_models_and_flags():
    settings = PageSettings(("a", "b"), server_port=9, server_flags=("--dtype", "float32"))
    words = launch._command(settings)
    assert words[:4] == [sys.executable, "-m", "minicpmv", "serve"]
    assert words[4:6] == ["a", "b"]
    assert words[-2:] == ["--dtype", "float32"]
    assert words[words.index("--port") + 1] == "9"


def test_the_small_page_gets_what_the_large_one_knows():
    words = launch._streamlit_command(PageSettings(port=9, opens=True))
    assert words[words.index("--server.port") + 1] == "9"
    assert not {"--server.sslCertFile", "--server.baseUrlPath"} & set(words)
    settings = PageSettings(ssl_certfile="a.crt", ssl_keyfile="a.key", root_path="/talk")
    words = launch._streamlit_command(settings)
    given = dict(pairwise(words))
    assert given["--server.sslCertFile"] == "a.crt"
    assert given["--server.sslKeyFile"] == "a.key"
    assert given["--server.baseUrlPath"] == "/talk"


@pytest.mark.parametrize("run", [launch.run_page, launch.run_streamlit])
def test_a_certificate_that_is_not_there_is_named_before_anything_starts(run, monkeypatch):
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    settings = PageSettings(port=free_port(), ssl_certfile="a.crt", ssl_keyfile="a.key")
    with pytest.raises(OSError, match=r"There is no file 'a\.crt', for https"):
        run(settings)


def test_a_port_that_is_taken_is_named_with_what_to_do():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(OSError, match=f"--port {port} cannot be used: .*Choose another"):
            check_port("127.0.0.1", port, "--port")
        settings = PageSettings(server_port=port)
        advice = f"--base-url http://127.0.0.1:{port}"
        with pytest.raises(OSError, match=advice), server_process(settings):
            pass


def test_the_server_runs_inside_the_block_with_the_key(monkeypatch):
    port = free_port()
    monkeypatch.setattr(launch, "_command", lambda _: [sys.executable, "-c", SERVER, str(port)])
    with server_process(PageSettings(server_port=port, api_key="secret")) as process:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health") as response:
            assert response.read() == b"secret"
        assert process.poll() is None
    assert process.poll() is not None
    assert "MINICPMV_API_KEY" not in os.environ


def test_a_server_that_does_not_start_ends_the_page(monkeypatch):
    monkeypatch.setattr(launch, "_command", lambda _: [sys.executable, "-c", "raise SystemExit(3)"])
    settings = PageSettings(server_port=free_port())
    with pytest.raises(OSError, match="ended with exit code 3"), server_process(settings):
        pass


def test_a_running_server_is_left_alone():
    with server_process(PageSettings(base_url="http://127.0.0.1:9")) as process:
        assert process is None
