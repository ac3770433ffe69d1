import base64
import http.server
import io
import struct
import threading
import warnings
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from minicpmv.media.image import image_from_array, load_image, to_rgb
from minicpmv.media.policy import MediaPolicy, use_policy

from ..helpers.pictures import PNG, picture


def white_png(width: int, height: int) -> bytes:
    """A PNG of one bit per pixel, small however large the image is."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    packer = zlib.compressobj(1)
    row = b"\0" + b"\xff" * ((width + 7) // 8)
    data = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    signature = b"\x89PNG\r\n\x1a\n"
    return signature + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def pixels(image: Image.Image) -> list:
    return np.asarray(image).reshape(-1, len(image.getbands())).tolist()


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/gone.png":
            self.send_error(404)
            return
        self.send_response(200)
        self.end_headers()
        if self.path == "/slow.png":
            self.wfile.write(PNG[:100])
            self.wfile.flush()
            self.server.released.wait()
        elif self.path == "/page":
            self.wfile.write(b"<!doctype html><html>no picture here</html>")
        else:
            self.wfile.write(PNG)

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.released = threading.Event()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.released.set()
    server.shutdown()
    thread.join()
    server.server_close()


def test_an_image_comes_from_anywhere(tmp_path, server):
    path = tmp_path / "a picture.png"
    path.write_bytes(PNG)
    encoded = base64.b64encode(PNG).decode()
    expected = np.asarray(picture(60, 80))
    with path.open("rb") as file:
        sources = [
            picture(60, 80),
            path,
            str(path),
            path.as_uri(),
            PNG,
            bytearray(PNG),
            io.BytesIO(PNG),
            file,
            f"data:image/png;base64,{encoded}",
            encoded,
            f"{server}/picture.png",
        ]
        for source in sources:
            np.testing.assert_array_equal(np.asarray(load_image(source)), expected)


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("text.jpg", b"This is a text.\n", "holds text"),
        ("empty.png", b"", "is empty"),
        ("cut.png", PNG[: len(PNG) // 2], "PNG image of 80 x 60 pixels, but its data is damaged"),
        ("header.png", PNG[:20], "begins like a PNG image, but its header is damaged"),
        ("page.png", b"<!DOCTYPE html><html>", "a web page"),
        ("scan.png", b"%PDF-1.7 ...", "a PDF document"),
        ("clip.png", b"\0\0\0\x18ftypmp42....", "holds an MP4 or QuickTime video, not an image"),
        ("photo.png", b"\0\0\0\x18ftypheic....", "HEIC"),
        ("drawing.png", b"<?xml version='1.0'?><svg>", "an SVG drawing"),
        ("noise.png", bytes(range(200, 256)), "unknown data that starts with c8 c9"),
    ],
)
def test_what_is_no_image_is_named(tmp_path, name, content, found):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=found) as error:
        load_image(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_damaged_image_opened_by_the_user_is_named(tmp_path):
    path = tmp_path / "cut.png"
    path.write_bytes(PNG[: len(PNG) // 2])
    with Image.open(path) as image, pytest.raises(ValueError, match=r"cut\.png.*damaged"):
        load_image(image)


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("missing.png", FileNotFoundError, "'missing.png' does not exist"),
        (
            "What is this? " * 100,
            FileNotFoundError,
            r"What is.*\(1400 characters\)' does not exist",
        ),
        ("a\0b", FileNotFoundError, "does not exist"),
        ("", ValueError, "path of an image is empty"),
        (b"", ValueError, "0 bytes"),
        (3, ValueError, "cannot be read from int"),
        (None, ValueError, "cannot be read from NoneType"),
        (io.StringIO("text"), ValueError, "'rb'"),
        ("data:image/png;base64,@@", ValueError, "base64"),
        ("data:image/png,abc", ValueError, "looks like"),
        ("http://127.0.0.1:1/a.png", OSError, "cannot be fetched: .*refused"),
        ("http://[::1/a.png", OSError, "cannot be fetched"),
    ],
)
def test_what_cannot_be_opened_is_named(source, error, message):
    with pytest.raises(error, match=message):
        load_image(source)


def test_a_directory_is_named(tmp_path):
    with pytest.raises(IsADirectoryError, match="is a directory"):
        load_image(tmp_path)


@pytest.mark.parametrize(
    ("path", "error", "message"),
    [("/gone.png", OSError, "answered 404"), ("/page", ValueError, "a web page")],
)
def test_a_url_without_an_image_is_named(server, path, error, message):
    with pytest.raises(error, match=message):
        load_image(server + path)


def test_a_server_that_stops_is_not_waited_for(server):
    policy = MediaPolicy(timeout_s=0.2)
    with use_policy(policy), pytest.raises(OSError, match="timed out"):
        load_image(f"{server}/slow.png")


def test_a_download_has_a_limit(server):
    policy = MediaPolicy(max_download_bytes=100)
    with use_policy(policy), pytest.raises(ValueError, match="larger than"):
        load_image(f"{server}/picture.png")


def test_a_hundred_megapixels_open_without_a_warning():
    limit = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image = load_image(white_png(10000, 10000))
    assert image.size == (10000, 10000)
    assert limit == Image.MAX_IMAGE_PIXELS


def test_a_decompression_bomb_is_refused():
    with pytest.raises(ValueError, match=r"600,000,000 pixels; the limit is 400,000,000"):
        load_image(white_png(30000, 20000))


MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV")
DEEP_MODES = ("I", "F", "I;16")


@pytest.mark.parametrize("mode", MODES + DEEP_MODES)
def test_every_mode_becomes_rgb(mode):
    image = to_rgb(Image.new(mode, (3, 2)))
    assert (image.mode, image.size) == ("RGB", (3, 2))


def test_lab_says_what_to_do():
    with pytest.raises(ValueError, match=r"LAB.*Save it as RGB"):
        to_rgb(Image.new("LAB", (2, 2)))


def test_transparent_pixels_show_white():
    image = Image.new("RGBA", (3, 1), (255, 0, 0, 255))
    image.putpixel((1, 0), (255, 0, 0, 0))
    image.putpixel((2, 0), (0, 0, 0, 128))
    assert pixels(to_rgb(image)) == [[255, 0, 0], [255, 255, 255], [127, 127, 127]]
    assert pixels(to_rgb(image, "released")) == [[255, 0, 0], [255, 0, 0], [0, 0, 0]]


def test_a_transparent_colour_shows_white(tmp_path):
    palette = Image.new("P", (2, 1))
    palette.putpalette([255, 0, 0, 0, 255, 0])
    palette.putpixel((1, 0), 1)
    palette.save(tmp_path / "palette.png", transparency=0)
    assert pixels(to_rgb(load_image(tmp_path / "palette.png"))) == [[255, 255, 255], [0, 255, 0]]
    Image.new("RGB", (1, 1), (1, 2, 3)).save(tmp_path / "key.png", transparency=(1, 2, 3))
    assert pixels(to_rgb(load_image(tmp_path / "key.png"))) == [[255, 255, 255]]


def test_opaque_alpha_changes_nothing():
    image = picture(20, 30)
    np.testing.assert_array_equal(np.asarray(to_rgb(image.convert("RGBA"))), np.asarray(image))


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_exif_orientation_is_applied(tmp_path, suffix):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright
    path = tmp_path / f"photo.{suffix}"
    Image.new("RGB", (40, 20)).save(path, exif=exif)
    assert to_rgb(load_image(path)).size == (20, 40)
    assert to_rgb(load_image(path), "released").size == (40, 20)


def test_sixteen_bits_are_scaled_to_eight(tmp_path):
    values = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
    Image.fromarray(values).save(tmp_path / "depth.png")
    image = to_rgb(load_image(tmp_path / "depth.png"))
    assert np.asarray(image)[..., 0].ravel().tolist() == list(range(256))


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.full((2, 3), 7, np.uint8), ("L", 7)),
        (np.full((2, 3), True), ("L", 255)),
        (np.full((2, 3), 65535, np.uint16), ("L", 255)),
        (np.full((2, 3, 1), 200, np.int64), ("L", 200)),
        (np.full((2, 3, 2), 9, np.uint8), ("LA", (9, 9))),
        (np.full((2, 3, 3), 0.5), ("RGB", (128, 128, 128))),
        (np.full((3, 2, 5), 100.0, np.float32), ("RGB", (100, 100, 100))),
        (np.full((2, 5, 4), 3, np.uint8), ("RGBA", (3, 3, 3, 3))),
        (torch.full((3, 2, 3), 4, dtype=torch.uint8), ("RGB", (4, 4, 4))),
        (torch.full((3, 2, 5), 1.0, dtype=torch.bfloat16), ("RGB", (255, 255, 255))),
    ],
)
def test_arrays_are_images(array, expected):
    image = image_from_array(array)
    assert (image.mode, image.getpixel((0, 0))) == expected
    assert image.height == 2


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.full((2, 2), 300), "from 300 to 300"),
        (np.full((2, 2), -0.5), "from -0.5"),
        (np.full((2, 2), np.nan), "from nan"),
        (np.zeros((2, 2, 7)), "is not one image"),
        (np.zeros(5), "is not one image"),
        (np.zeros((0, 3, 3)), "no pixels"),
    ],
)
def test_arrays_that_are_no_images_are_named(array, message):
    with pytest.raises(ValueError, match=message):
        image_from_array(array)


def test_damaged_data_never_ends_in_a_bare_error_of_pillow(tmp_path):
    generator = np.random.default_rng(0)
    for suffix in ("png", "jpg", "gif", "bmp", "tif", "webp"):
        path = tmp_path / f"a.{suffix}"
        picture(24, 32).save(path)
        original = path.read_bytes()
        for _ in range(25):
            damaged = bytearray(original)
            for position in generator.integers(0, len(damaged), 6):
                damaged[position] = generator.integers(256)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    to_rgb(load_image(bytes(damaged)))
                except ValueError as error:
                    assert str(error).startswith("The image given as")  # noqa: PT017


def test_file_objects_are_read_from_where_they_stand():
    file = io.BytesIO(b"junk" + PNG)
    file.seek(4)
    assert load_image(file).size == (80, 60)
