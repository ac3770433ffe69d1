"""`minicpmv serve` as a process: from its start line to its end."""

import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from minicpmv.errors import ArgumentError
from minicpmv.serve.server import bind, is_open_to_all, run
from minicpmv.serve.settings import ServeSettings
from minicpmv.serve.tls import check_pair

ROOT = Path(__file__).parents[2]
LONG = {
    "model": "nano",
    "messages": [{"role": "user", "content": "Tell me a long story."}],
    "max_tokens": 600,
    "ignore_eos": True,
}


@contextlib.contextmanager
def serving(*arguments, **environment):
    """The process, its port, and its further lines."""
    command = [sys.executable, "-m", "minicpmv", "serve", "--port", "0", *arguments]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        for line in process.stderr:
            found = re.search(r"serving .* at http://127\.0\.0\.1:(\d+)/v1", line)
            if found:
                break
        else:
            raise AssertionError("it never started")
        yield process, int(found[1])
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def send():
    """Sends a body to a port, and returns the connection."""
    with contextlib.ExitStack() as opened:

        def send(port, body):
            connection = http.client.HTTPConnection("127.0.0.1", port)
            opened.enter_context(contextlib.closing(connection))
            connection.request("POST", "/v1/chat/completions", json.dumps(body))
            return connection

        yield send


@pytest.fixture
def post(send):
    """Sends a body to a port, and returns the answer once it begins."""
    with contextlib.ExitStack() as opened:
        yield lambda port, body: opened.enter_context(send(port, body).getresponse())


def test_a_signal_loses_no_answer(send, post):
    with serving("--log-format", "json", "nano", MINICPMV_SERVED_MODEL_NAME="nano,other") as (
        process,
        port,
    ):
        assert json.load(post(port, {**LONG, "max_tokens": 2, "model": "other"}))["choices"]
        whole = send(port, LONG)
        stream = post(port, {**LONG, "stream": True})
        stream.readline()
        process.send_signal(signal.SIGTERM)
        assert "stopping" in process.stderr.readline() + process.stderr.readline()
        refused = post(port, LONG)
        assert (refused.status, refused.getheader("retry-after")) == (503, "5")
        assert json.load(refused)["error"]["code"] == "unavailable"
        assert stream.read().endswith(b"data: [DONE]\n\n")
        answer = json.load(whole.getresponse())
        assert answer["usage"]["completion_tokens"] == 600
        assert process.wait() == 0


def test_a_second_signal_ends_at_once(post):
    with serving("--grace", "600") as (process, port):
        stream = post(port, {**LONG, "stream": True, "max_tokens": 3000})
        stream.readline()
        process.send_signal(signal.SIGTERM)
        while "stopping" not in process.stderr.readline():
            pass
        # One signal may come twice, to the process and to its group: that is not a second one.
        stream.readline()
        while process.poll() is None:
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.1)
        assert process.returncode == 128 + signal.SIGTERM


def test_after_the_grace_a_stream_ends_with_an_error(post):
    with serving("--grace", "0", "--device", "cpu") as (process, port):
        with socket.create_connection(("127.0.0.1", port)) as raw:
            raw.sendall(b"nonsense\r\n\r\n")
            head, _, body = raw.makefile("rb").read().partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400 ")
        assert json.loads(body)["error"]["code"] == "invalid_http"
        with socket.create_connection(("127.0.0.1", port)) as raw:  # a body that is none
            raw.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\n")
            raw.sendall(b"Transfer-Encoding: chunked\r\n\r\nZZ\r\n")
            head, _, body = raw.makefile("rb").read().partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400 ")
        assert json.loads(body)["error"]["code"] == "invalid_http"
        stream = post(port, {**LONG, "stream": True, "max_tokens": 3000})
        stream.readline()
        process.send_signal(signal.SIGINT)
        text = stream.read().decode()
        assert '"code":"unavailable"' in text.rpartition("data: ")[2]
        assert process.wait() == 0


def test_a_port_in_use_is_one_line():
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"Port {port} of .* is in use") as caught:
            run(ServeSettings(port=port))
        assert "\n" not in str(caught.value)


def test_an_address_of_another_machine_is_named():
    with pytest.raises(OSError, match=r"192\.0\.2\.1:0 cannot be listened on"):
        bind("192.0.2.1", 0)
    with pytest.raises(OSError, match=r"--host is 'a\.invalid', which is no address"):
        bind("a.invalid", 0)


def test_files_for_https_are_looked_at_before_a_model_is_loaded(tmp_path):
    there = tmp_path / "a.pem"
    there.write_text("no certificate")
    missing = str(tmp_path / "b.pem")
    with pytest.raises(OSError, match=r"There is no file '.*b\.pem', for https"):
        run(ServeSettings(ssl_certfile=str(there), ssl_keyfile=missing))
    with pytest.raises(ArgumentError, match="holds nothing in PEM; expected a certificate"):
        run(ServeSettings(ssl_certfile=str(there), ssl_keyfile=str(there)))


def openssl(folder, *arguments):
    """Runs it in a folder."""
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes the files")
def test_what_is_wrong_with_files_for_https_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256")
    for name in "ab":
        made = ("-keyout", f"{name}.key", "-out", f"{name}.crt")
        openssl(tmp_path, "req", "-x509", "-nodes", *curve, *made, "-subj", "/CN=localhost")
    openssl(tmp_path, "pkey", "-in", "a.key", "-aes256", "-passout", "pass:1234", "-out", "c.key")
    check_pair("a.crt", "a.key")
    check_pair(None, None)
    with pytest.raises(ArgumentError, match=r"'c\.key' is protected by a pass phrase. Give one"):
        check_pair("a.crt", "c.key")
    with pytest.raises(ArgumentError, match=r"'a\.key' holds private key; expected a certif"):
        check_pair("a.key", "a.crt")
    with pytest.raises(ArgumentError, match=r"keyfile 'a\.crt' holds certificate; expected a priv"):
        check_pair("a.crt", "a.crt")
    with pytest.raises(ArgumentError, match="are no pair of certificate and key in PEM"):
        check_pair("a.crt", "b.key")
    Path("cut.crt").write_text(Path("a.crt").read_text()[:100])
    with pytest.raises(ArgumentError, match="are no pair of certificate and key in PEM"):
        check_pair("cut.crt", "a.key")


def test_a_public_address_without_a_key_is_told():
    assert is_open_to_all(ServeSettings(host="0.0.0.0"))
    assert not is_open_to_all(ServeSettings(host="0.0.0.0", api_key=("a",)))
    assert not any(is_open_to_all(ServeSettings(host=h)) for h in ("127.0.0.1", "::1"))


def test_a_folder_of_pictures_must_be_there(tmp_path):
    settings = ServeSettings(allowed_local_media_path=str(tmp_path / "none"))
    with pytest.raises(OSError, match="there is no such folder"):
        run(settings)
