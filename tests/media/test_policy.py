"""A policy lets nothing through that it forbids; all servers here are on the loopback address."""

import base64
import http.server
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from PIL import Image

import minicpmv
from minicpmv.media import download as downloads
from minicpmv.media.image import load_image
from minicpmv.media.policy import MediaPolicy, MediaRefusedError, is_public, use_policy
from minicpmv.media.source import is_video_file
from minicpmv.media.video import VideoFile, is_animation

from ..helpers.pictures import PNG, picture, png_of


@contextmanager
def serving(answer: Callable[[Any], None]) -> Iterator[str]:
    """The address of a server whose every GET is `answer(handler)`."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            answer(self)

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def give(body: bytes, status: int = 200, **headers: str) -> Callable[[Any], None]:
    def answer(handler):
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def refused(source: Any, policy: MediaPolicy, message: str) -> None:
    with use_policy(policy), pytest.raises(MediaRefusedError, match=message):
        load_image(source)


@pytest.mark.parametrize("form", ["{}", "file://{}"])
def test_remote_reads_no_file(tmp_path, form):
    path = tmp_path / "secret.png"
    path.write_bytes(PNG)
    refused(form.format(path), MediaPolicy.remote(), "files of this computer")
    refused(path, MediaPolicy.remote(), "files of this computer")
    with use_policy(MediaPolicy.remote()):
        with pytest.raises(MediaRefusedError, match="files of this computer"):
            len(VideoFile(form.format(path)))
        assert not is_animation(path)


def test_remote_tells_nothing_about_files(tmp_path):
    (tmp_path / "film").write_bytes(b"\x1aE\xdf\xa3")
    assert is_video_file(tmp_path / "film")
    with use_policy(MediaPolicy.remote()):
        assert not is_video_file(tmp_path / "film")
    messages = set()
    for name in ("film", "nowhere"):
        with use_policy(MediaPolicy.remote()), pytest.raises(MediaRefusedError) as caught:
            load_image(str(tmp_path / name))
        messages.add(str(caught.value).replace(name, "NAME"))
    assert len(messages) == 1


def test_folders_hold_links_too(tmp_path):
    inside, outside = tmp_path / "in", tmp_path / "out"
    for folder in (inside, outside):
        folder.mkdir()
        (folder / "a.png").write_bytes(PNG)
    (inside / "link.png").symlink_to(outside / "a.png")
    policy = MediaPolicy.remote(folders=[inside])
    with use_policy(policy):
        assert load_image(inside / "a.png").size == load_image(PNG).size
    for path in (outside / "a.png", inside / ".." / "out" / "a.png", inside / "link.png"):
        refused(path, policy, "none of the allowed folders")


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.1", "2130706433", "0x7f000001", "localhost", "[::1]", "[::ffff:127.0.0.1]",
     "10.0.0.1", "169.254.169.254", "100.100.100.200", "0.0.0.0", "224.0.0.1", "[fe80::1]",
     "[::8.8.8.8]", "[64:ff9b:1::808:808]",
     "[fd00:ec2::254]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "168.63.129.16"],
)  # fmt: skip
def test_remote_asks_no_private_address(host):
    refused(f"http://{host}/a.png", MediaPolicy.remote(), "private network|is refused")


def test_no_connection_is_made_to_a_private_address():
    asked = []
    with serving(lambda handler: asked.append(handler.path)) as url:
        refused(f"{url}/a.png", MediaPolicy.remote(), "private network")
    assert not asked


@pytest.mark.parametrize("target", ["http://10.0.0.1/a.png", "file:///etc/hostname", "ftp://a/b"])
def test_a_redirect_is_checked_like_the_first_address(target, monkeypatch):
    """The server itself counts as public here, so that only the redirect can be refused."""
    monkeypatch.setattr(
        downloads, "is_public", lambda address: is_public(address) or address.is_loopback
    )
    with serving(give(b"", 302, Location=target)) as url:
        refused(f"{url}/a.png", MediaPolicy.remote(), "private network|leads to")


def names_are(monkeypatch, *addresses: str) -> list[str]:
    """Let every name mean these addresses; returns the names that were resolved."""
    resolved = []

    def resolve(host, port, *args, **options):
        host = host if isinstance(host, str) else host.decode()
        numbers = [host]
        if not host[0].isdigit():
            resolved.append(host)
            numbers = addresses
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (number, port)) for number in numbers]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    return resolved


def test_a_name_is_resolved_once_and_the_checked_address_asked(monkeypatch):
    hosts = []

    def answer(handler):
        hosts.append(handler.headers["Host"])
        give(PNG)(handler)

    monkeypatch.setattr(downloads, "is_public", lambda address: True)
    with serving(answer) as url, use_policy(MediaPolicy.remote()):
        port = url.rsplit(":", 1)[1]
        resolved = names_are(monkeypatch, "127.0.0.1")
        load_image(f"http://pictures.example:{port}/a.png")
    assert resolved == ["pictures.example"]
    assert hosts == [f"pictures.example:{port}"]


def test_one_private_address_refuses_the_name(monkeypatch):
    names_are(monkeypatch, "93.184.216.34", "10.0.0.1")
    message = "two.example is an address of a private network"
    refused("http://two.example/a.png", MediaPolicy.remote(), message)


def test_hosts_and_schemes():
    policy = MediaPolicy(hosts=["images.example", ".cdn.example"], schemes=["https"])
    refused("http://images.example/a.png", policy, "http addresses may not be opened here")
    refused("https://example/a.png", policy, "the host example is none of the allowed ones")
    refused("https://cdn.example.org/a.png", policy, "none of the allowed ones")
    refused("data:image/png;base64,AAAA", policy, "data URLs and base64")
    policy.check_host("a.cdn.example", "Image")


def test_redirects_are_followed_and_counted():
    def answer(handler):
        steps = int(handler.path[1:])
        location = {"Location": f"/{steps - 1}"}
        (give(b"", 307, **location) if steps else give(PNG))(handler)

    with serving(answer) as url:
        assert load_image(f"{url}/3").tobytes() == load_image(PNG).tobytes()
        with pytest.raises(OSError, match="more than 5 redirects"):
            load_image(f"{url}/6")


def test_a_body_is_limited_while_it_is_read():
    sent = []

    def endless(handler):
        handler.send_response(200)
        handler.end_headers()
        while len(sent) < 10_000:
            try:
                handler.wfile.write(bytes(1 << 16))
            except OSError:
                return
            sent.append(1)

    policy = MediaPolicy(max_download_bytes=100_000)
    message = "larger than 100000 bytes"
    for answer in (endless, give(b"", Content_Length="10000000")):
        with (
            serving(answer) as url,
            use_policy(policy),
            pytest.raises(ValueError, match=message),
        ):
            load_image(f"{url}/a.png")
    assert len(sent) < 10_000


@pytest.mark.parametrize("part", ["head", "body", "nothing after the head"])
def test_a_server_that_drips_is_not_waited_for(part):
    over = threading.Event()

    def drip(handler):
        if part != "head":
            handler.send_response(200)
            handler.end_headers()
        if part == "nothing after the head":
            over.wait()
        while not over.is_set():
            try:
                handler.wfile.write(b"x")
            except OSError:
                return
            over.wait(0.02)

    policy = MediaPolicy(timeout_s=60, deadline_s=0.3)
    with serving(drip) as url, use_policy(policy):
        with pytest.raises(OSError, match=r"not complete after 0.3 s"):
            load_image(f"{url}/a.png")
        over.set()


def test_a_packed_answer_is_refused():
    packed = give(b"abc", Content_Encoding="gzip")
    with serving(packed) as url, pytest.raises(OSError, match=r"packed it \(gzip\)"):
        load_image(url)


def test_bytes_base64_and_files_have_a_limit(tmp_path):
    data = png_of(picture(64, 64))
    (tmp_path / "a.png").write_bytes(data)
    text = base64.b64encode(data).decode()
    with use_policy(MediaPolicy(max_bytes=100)):
        for source in (data, text, f"data:image/png;base64,{text}", tmp_path / "a.png"):
            with pytest.raises(ValueError, match="the limit is 100"):
                load_image(source)


def test_pixels_are_counted_before_they_are_decoded():
    with use_policy(MediaPolicy(max_pixels=1000)):
        with pytest.raises(ValueError, match="4,096 pixels; the limit is 1,000"):
            load_image(png_of(picture(64, 64)))
        with pytest.raises(ValueError, match="the limit is 1,000"):
            load_image(Image.new("RGB", (64, 64)))


@pytest.mark.parametrize(
    ("field", "value"),
    [("schemes", ["ftp"]), ("hosts", "a.example"), ("folders", "/tmp"), ("max_pixels", 0),
     ("max_frames", 1.5), ("timeout_s", 0), ("deadline_s", float("inf"))],
)  # fmt: skip
def test_a_field_without_a_sense_is_refused(field, value):
    with pytest.raises(ValueError, match=f"{field} (is|has) "):
        MediaPolicy(**{field: value})


def test_a_policy_holds_in_its_block_only():
    with use_policy(MediaPolicy(max_pixels=1)), pytest.raises(ValueError, match="limit is 1"):
        load_image(PNG)
    load_image(PNG)


def test_a_chat_and_the_processor_open_pictures_under_their_policy(tmp_path):
    (tmp_path / "a.png").write_bytes(PNG)
    path, remote = str(tmp_path / "a.png"), MediaPolicy.remote()
    chat = minicpmv.load("nano", device="cpu", media_policy=remote)
    message = "files of this computer"
    film = {"type": "video_url", "video_url": {"url": f"file://{path}"}}
    messages = [{"role": "user", "content": [film, {"type": "text", "text": "What?"}]}]
    calls = [
        lambda: chat.ask("What?", [path]),
        lambda: chat.ask(messages),
        lambda: chat.stream("What?", [path]),
        lambda: chat.batch([("What?", [path])]),
        lambda: chat.say("What?", [path]),
        lambda: chat.prepare([messages]),
        lambda: chat.processor.apply_chat_template(messages, tokenize=True, media_policy=remote),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=message):
            call()
    assert chat.ask("What?", [PNG], max_new_tokens=1).num_output_tokens == 1
