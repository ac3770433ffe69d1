"""Hundreds of hostile requests to the server over the bundled model: one clear error for each.

`tests/suites/hostile.py` sends thousands to a server that runs.
"""

import socket
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from minicpmv.serve.app import create_app
from minicpmv.serve.settings import ServeSettings

from ..helpers.hostile import CHAT, Case, Trap, cases, complaint
from ..helpers.media_requests import encoded
from ..helpers.media_server import MediaServer

NUM_CASES = 400


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    settings = ServeSettings(device="cpu", dtype="float32", max_num_seqs=2, max_queue=2)
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        yield client


def wrong(client: TestClient, case: Case) -> str | None:
    answer = client.post(case.path, content=case.body, headers=case.headers)
    kind = answer.headers.get("content-type", "")
    found = complaint(answer.status_code, kind, answer.text, case.path)
    return None if found is None else f"{case.name}: {found} for {case.path} {case.body[:300]!r}"


@pytest.fixture
def no_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Resolve numbers and this machine's own names; no other name is asked for."""
    resolve = socket.getaddrinfo
    own = ("localhost", "localhost.", socket.gethostname().lower())

    def resolved(host: str, *args: Any, **kwargs: Any) -> Any:
        if str(host).lower() in own:
            return resolve(host, *args, **kwargs)
        return resolve(host, *args, **{**kwargs, "flags": socket.AI_NUMERICHOST})

    monkeypatch.setattr("minicpmv.media.download.socket.getaddrinfo", resolved)


@pytest.mark.usefixtures("no_names")
def test_every_hostile_request_has_one_clear_error(client: TestClient, tmp_path: Path) -> None:
    file = tmp_path / "secret.png"
    file.write_bytes(encoded("red"))
    with MediaServer() as trap:
        found = [wrong(client, case) for case in cases(14, NUM_CASES, Trap(trap.port, str(file)))]
        asked = trap.asked
    assert [each for each in found if each is not None] == []
    assert asked == []
    alive = client.post(
        CHAT,
        json={"model": "nano", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1},
    )
    assert alive.status_code == 200


def test_the_trap_and_the_file_are_there_to_be_touched(tmp_path: Path) -> None:
    """What the server may not reach, others can: or the test would prove nothing."""
    with MediaServer() as trap:
        trap.files["/a.png"] = encoded("red")
        with urllib.request.urlopen(trap.url("/a.png")) as answer:
            assert answer.read() == encoded("red")
        assert trap.asked == ["/a.png"]
