"""Small video files written on the fly, whose frames bear their number in black and white."""

import io
import tempfile
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

NUM_BITS, BLOCK_PX = 12, 16
MILLISECOND = Fraction(1, 1000)


def numbered(number: int) -> Image.Image:
    """A strip of 12 squares: the bits of the number, lowest first, white for 1."""
    bits = [255 * (number >> bit & 1) for bit in range(NUM_BITS)]
    return Image.fromarray(np.kron(np.array([bits], np.uint8), np.ones((BLOCK_PX, BLOCK_PX))))


def number_of(frame: Image.Image) -> int:
    """What `numbered` drew."""
    assert frame.size == (NUM_BITS * BLOCK_PX, BLOCK_PX)
    row = np.asarray(frame.convert("L"))[BLOCK_PX // 2, BLOCK_PX // 2 :: BLOCK_PX]
    return sum(1 << bit for bit, value in enumerate(row) if value > 127)


def numbers_of(frames: Iterable[Image.Image]) -> list[int]:
    return [number_of(frame) for frame in frames]


def clip(
    num_frames: int = 30,
    fps: Fraction | int = 10,
    *,
    container: str = "mp4",
    codec: str = "libx264",
    pixels: str = "yuv420p",
    times_ms: Sequence[int] | None = None,
    codec_options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
) -> bytes:
    """A file of numbered frames; `times_ms` says when each is shown, else they come evenly."""
    folder = tempfile.TemporaryDirectory()  # "faststart" reads its file again, so it has a name
    path = Path(folder.name) / "clip"
    with folder, av.open(path, "w", format=container, options=container_options or {}) as output:
        stream: Any = output.add_stream(codec, rate=Fraction(fps), options=codec_options or {})
        stream.width, stream.height, stream.pix_fmt = NUM_BITS * BLOCK_PX, BLOCK_PX, pixels
        if times_ms is not None:
            stream.codec_context.time_base = MILLISECOND
        output.start_encoding()  # writes the header of a file without frames, too
        for index in range(num_frames):
            frame = av.VideoFrame.from_image(numbered(index).convert("RGB"))
            if times_ms is not None:
                frame.pts, frame.time_base = times_ms[index], MILLISECOND
            output.mux(stream.encode(frame))
        if num_frames:
            output.mux(stream.encode())
        output.close()
        return path.read_bytes()


def write_clip(path: Path, *args: Any, **kwargs: Any) -> Path:
    path.write_bytes(clip(*args, **kwargs))
    return path


def turned(data: bytes, matrix: tuple[int, int, int, int]) -> bytes:
    """An MP4 file whose picture track has this display matrix (a, b, c, d)."""
    a, b, c, d = (value << 16 for value in matrix)
    words = [a, b, 0, c, d, 0, 0, 0, 1 << 30]
    # Of a version 0 header: name, 4 bytes of flags, 36 bytes of other fields, the matrix.
    start = data.index(b"tkhd") + 4 + 40
    written = b"".join(word.to_bytes(4, "big", signed=True) for word in words)
    return data[:start] + written + data[start + len(written) :]


def sound() -> bytes:
    """An MP4 file with a sound track only."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as output:
        stream: Any = output.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 44100
        output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return file.getvalue()
