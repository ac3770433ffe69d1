"""Pictures that cannot be read, addresses nobody may ask, and paths nobody may open."""

import base64
import io
import random
import socket
import struct
import zlib
from functools import cache

from PIL import Image

Named = tuple[str, str]


def data_url(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


@cache
def _files() -> dict[str, bytes]:
    """Sound pictures, to be broken."""
    files = {}
    image = Image.effect_noise((40, 30), 50).convert("RGB")
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"):
        file = io.BytesIO()
        image.save(file, kind)
        files[kind] = file.getvalue()
    return files


def broken_pictures(chance: random.Random) -> list[Named]:
    """Name and address of pictures, none of which can be decoded."""
    kind, data = chance.choice(sorted(_files().items()))
    cut = data[: chance.randrange(1, len(data) * 3 // 4)]
    text = base64.b64encode(data).decode()
    place = chance.randrange(1, len(text) // 8)
    noise = chance.randbytes(chance.randrange(1, 300))
    others = {
        "SVG": b"<svg xmlns='http://www.w3.org/2000/svg'><rect width='%d'/></svg>",
        "SVG with a file": b"<?xml version='1.0'?><svg><image href='file:///etc/passwd%d'/></svg>",
        "HTML": b"<!doctype html><p>%d",
        "PDF": b"%%PDF-1.7 %d",
        "zip": b"PK\x03\x04 %d",
        "gzip": b"\x1f\x8b\x08 %d",
        "ELF": b"\x7fELF%d",
        "EPS": b"%%!PS-Adobe-3.0 EPSF-3.0\n%%%%BoundingBox: 0 0 9 %d\n",
        "WMF": b"\xd7\xcd\xc6\x9a\x00\x00 %d",
        "text": b"%d pictures",
        "playlist": b"#EXTM3U\n#EXTINF:%d,\nfile:///etc/passwd\n",
    }
    name, template = chance.choice(sorted(others.items()))
    header = chance.choice(
        ("image/png", "image/png;base64 ", "image/png;charset=utf-8", ";base32", "base64", "")
    )
    return [
        (f"{kind} cut short", data_url(cut)),
        (f"{kind} in damaged base64", data_url(b"")[:22] + text[:place] + "!" + text[place:]),
        (f"{kind} in base64 without its end", f"data:image/png;base64,{text[: place * 4 + 1]}"),
        (f"{kind} under another header", f"data:{header},{text}"),
        (f"{kind} twice", f"data:image/png;base64,{text},{text}"),
        ("noise", data_url(noise)),
        ("noise after a signature", data_url(data[:12] + noise)),
        (name, data_url(template % chance.randrange(10**6))),
        ("nothing", chance.choice(("data:image/png;base64,", "data:,", "data:", "", " ", "data"))),
        ("too many pixels", data_url(bomb(20_000 + chance.randrange(999), 20_000))),
        ("no pixels", data_url(bomb(chance.choice((0, 5)), 0))),
        (
            "a number of pixels beyond all",
            data_url(bomb(2**31 - 1 - chance.randrange(99), 2**31 - 1)),
        ),
        ("another scheme", f"{chance.choice(_SCHEMES)}{chance.randrange(999)}"),
    ]


_SCHEMES = (
    "ftp://example.org/", "gopher://127.0.0.1/", "javascript:alert(1)", "blob:x", "about:blank",
    "ws://127.0.0.1/", "jar:file:///x!", "smb://127.0.0.1/", "s3://bucket/", "dict://127.0.0.1:1/",
)  # fmt: skip


def broken_videos(chance: random.Random) -> list[Named]:
    """Name and address of videos, none of which can be decoded."""
    header = b"\x00\x00\x00\x18ftypisom\x00\x00\x00\x00isommp41"
    noise = chance.randbytes(chance.randrange(10, 300))
    return [
        ("a video without an index", data_url(header + noise, "video/mp4")),
        ("noise for a video", data_url(noise, "video/mp4")),
        ("a picture for a video", data_url(_files()["PNG"] + noise, "video/mp4")),
        ("a web video without frames", data_url(b"\x1aE\xdf\xa3" + noise, "video/webm")),
        ("a playlist", data_url(b"#EXTM3U\n#EXTINF:9,\nfile:///etc/passwd" + noise, "video/mp4")),
        ("no video", chance.choice(("", "data:video/mp4;base64,", "data:video/mp4,x"))),
    ]


def bomb(width: int, height: int) -> bytes:
    """A small PNG that declares so many pixels; it holds few of them."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    rows = zlib.compress(b"\0" * 5000)
    signature = b"\x89PNG\r\n\x1a\n"
    return signature + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def addresses(port: int) -> list[str]:
    """Ways to write this machine, its network and what only looks public; N is any number."""
    hosts = [
        "127.0.0.1", "127.1", "127.0.1", "127.255.255.254", "0", "0.0.0.0", "0x7f.0.0.1",
        "0x7f000001", "2130706433", "017700000001", "0177.0.0.1", "127.0.0.1.", "localhost",
        "LOCALHOST", "localhost.", "[::1]", "[::]", "[0:0:0:0:0:0:0:1]", "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]", "[::127.0.0.1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "[fe80::1]",
        "[fc00::1]", "[fec0::1]", "[ff02::1]", "[::1%25lo]", "10.0.0.1", "172.16.0.1",
        "192.168.0.1", "100.64.0.1", "169.254.169.254", "168.63.129.16", "192.0.2.1",
        "198.18.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255", "０ｘ７ｆ．１", "１２７.0.0.1",
        "①②⑦.0.0.1", "127。0。0。1", "127.0.0.%31", "%6c%6fcalhost", "127.0.0.1%2eexample.org",
        "[::ffff:a9fe:a9fe]", "user:word@127.0.0.1", "example.org@127.0.0.1",
        "example.org%40127.0.0.1", "example.org:80@127.0.0.1", "127.0.0.1\\@example.org",
        "ⓛocalhost", "ｌocalhost", socket.gethostname(),
    ]  # fmt: skip
    found = [f"http://{host}:{port}/N.png" for host in hosts]
    found += [f"https://{host}:{port}/N.png" for host in hosts[:12]]
    return [
        *found,
        f"HTTP://127.0.0.1:{port}/N",
        f"http:/127.0.0.1:{port}/N",
        f"http:127.0.0.1:{port}/N",
        f"http:\\\\127.0.0.1:{port}\\N",
        f"http:///127.0.0.1:{port}/N",
        f"//127.0.0.1:{port}/N",
        f" http://127.0.0.1:{port}/N",
        f"http://127.0.0.1:{port}/N ",
        f"\thttp://127.0.0.1:{port}/N",
        f"http://127.0.0.1:{port}\t/N",
        f"http://127.0.0.1\r\n:{port}/N",
        f"http://127.0.0.1:{port}/\r\nHost: example.org\r\n\r\nN",
        f"url:http://127.0.0.1:{port}/N",
        f"http://127.0.0.1:{port}#@example.org/N",
        f"http://127.0.0.1:{port}?@example.org/N",
        f"http://example.org@@127.0.0.1:{port}/N",
        "http://127.0.0.1:99999/N",
        "http://127.0.0.1:-1/N",
        "http://127.0.0.1:x/N",
        "http://[127.0.0.1]/N",
        "http://[::1/N",
        "http://]/N",
        "http:///N",
        "http://?N",
        "http://" + "a" * 70 + ".x/N",
        "http://" + "a." * 200 + "N",
        "http://xn--/N",
        "http://..../N",
    ]


def paths(file: str) -> list[str]:
    """Ways to name a file of the server."""
    return [
        file,
        f"file://{file}",
        f"FILE://{file}",
        f"file://localhost{file}",
        f"file://127.0.0.1{file}",
        f"file:{file}",
        f"file:/{file}",
        f"file:///{file}",
        f"file://{file.replace('/', '/./')}",
        f"file://{file.replace('/', '%2f')}",
        f"file://{file.replace('/', chr(92))}",
        f" {file}",
        f"data:{file}",
        f"image:{file}",
        f"/proc/self/root{file}",
        f"/../../..{file}",
        f"~/../..{file}",
        "/etc/passwd",
        "/proc/self/environ",
        "/dev/zero",
        "/dev/stdin",
        "file:///dev/zero",
        "../../../../etc/passwd",
        "./README.md",
        "README.md",
        "C:\\Windows\\win.ini",
        "\\\\127.0.0.1\\share\\a.png",
        "file:",
        "file://",
        "file:///",
        "~",
        ".",
        "/",
    ]
