import base64
import http.server
import io
import sys
import threading
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from PIL import Image

from minicpmv.media import clip as clips
from minicpmv.media import video
from minicpmv.media.frames import Timeline, choose_indices
from minicpmv.media.policy import MediaPolicy, use_policy
from minicpmv.media.video import VideoFile
from minicpmv.processing import MiniCPMVVideoProcessor
from minicpmv.processing.placeholders import IMAGE_MARKER, VIDEO_MARKER

from ..helpers.clips import clip, number_of, numbered, numbers_of, sound, turned, write_clip
from ..helpers.golden import CHECKPOINTS
from ..helpers.pictures import picture
from ..helpers.processors import inputs_of, user


def published(num_frames, fps, most=64):
    """The frame indices of `encode_video` in the model card of 2.6."""
    indices = list(range(0, num_frames, round(fps)))
    if len(indices) > most:
        gap = len(indices) / most
        indices = [indices[int(i * gap + gap / 2)] for i in range(most)]
    return indices


@pytest.mark.parametrize(
    ("num_frames", "fps"),
    [
        (1, 30),
        (7, 10),
        (30, 10),
        (31, 10),
        (640, 10),
        (650, 10),
        (1000, 3),
        (3000, 1),
        (90, Fraction(5, 2)),
        (75, Fraction(15, 2)),
        (200, Fraction(30000, 1001)),
    ],
)
def test_frames_are_those_of_the_published_snippet(num_frames, fps):
    file = VideoFile(clip(num_frames, fps, codec="mpeg4"))
    assert numbers_of(file) == published(num_frames, fps)
    assert len(file) == len(published(num_frames, fps))


@pytest.mark.parametrize(
    ("container", "codec", "options"),
    [
        ("mp4", "libx264", {"bf": "2", "g": "8"}),
        ("mp4", "mpeg4", {"g": "1"}),
        ("mov", "libx264", {"g": "250"}),
        ("matroska", "libx264", {"bf": "3", "g": "12"}),
        ("matroska", "libx265", {"x265-params": "log-level=none:keyint=10"}),
        ("webm", "libvpx", {"auto-alt-ref": "1", "lag-in-frames": "16"}),
        ("webm", "libvpx-vp9", {}),
        ("avi", "mpeg4", {"bf": "2"}),
        ("avi", "libx264", {"bf": "2"}),
        ("mpegts", "libx264", {"bf": "2", "g": "9"}),
        ("flv", "flv", {}),
        ("h264", "libx264", {"bf": "2"}),
    ],
)
def test_every_container_gives_the_same_frames(container, codec, options):
    # Raw streams do not say how fast they play; ffmpeg takes 25 frames a second.
    fps = 25 if container == "h264" else 10
    data = clip(64, fps, container=container, codec=codec, codec_options=options)
    assert numbers_of(VideoFile(data)) == published(64, fps)
    assert numbers_of(VideoFile(data, num_frames=5)) == [6, 19, 32, 44, 57]


def test_number_and_rate_of_frames():
    data = clip(100)
    assert numbers_of(VideoFile(data, num_frames=4)) == [12, 37, 62, 87]
    assert numbers_of(VideoFile(data, num_frames=1)) == [50]
    assert numbers_of(VideoFile(data, num_frames=100)) == list(range(100))
    with pytest.warns(UserWarning, match="has 100 frames, fewer than the 1000 asked for"):
        assert numbers_of(VideoFile(data, num_frames=1000)) == list(range(100))
    assert numbers_of(VideoFile(data, fps=2)) == list(range(0, 100, 5))
    assert numbers_of(VideoFile(data, fps=0.5)) == [0, 20, 40, 60, 80]
    assert numbers_of(VideoFile(data, fps=0.01)) == [0]
    with pytest.warns(UserWarning, match="has 10 frames per second, fewer than the 1000 asked for"):
        assert len(VideoFile(data, fps=1000)) == 64
    with pytest.warns(
        UserWarning, match="takes 10 s, which at 8 frames per second is more than the 64"
    ):
        assert len(VideoFile(data, fps=8)) == 64


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_frames": 0}, "num_frames is 0; it must be a whole number, at least 1"),
        ({"num_frames": 2.5}, "num_frames is 2.5"),
        ({"fps": 0}, "fps is 0; it must be a number above 0"),
        ({"fps": float("nan")}, "fps is nan"),
        ({"fps": "fast"}, "fps is 'fast'"),
        ({"fps": 2, "num_frames": 3}, "num_frames=3 and fps=2: .* Give one"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(ValueError, match=message):
        VideoFile("clip.mp4", **settings)


@pytest.mark.parametrize("container", ["mp4", "matroska"])
def test_of_a_variable_rate_the_frame_on_display_is_taken(container):
    # Ten frames in the first second, then one at 1.5 s, 4 s and 6.2 s.
    times_ms = [*range(0, 1000, 100), 1500, 4000, 6200]
    file = VideoFile(clip(13, 10, container=container, times_ms=times_ms))
    assert numbers_of(file) == [0, 9, 10, 11]  # at 0, 1, 2 and 3, 4 to 6 seconds
    assert numbers_of(VideoFile(file.source, fps=2)) == [0, 5, 9, 10, 11]
    # The middles of two halves of 6.3 s or so.
    assert numbers_of(VideoFile(file.source, num_frames=2)) == [10, 11]
    # Where that many are asked for, none stands for two moments.
    numbers = numbers_of(VideoFile(file.source, num_frames=6))
    assert len(set(numbers)) == 6
    assert numbers == sorted(numbers)


def test_a_little_jitter_counts_as_an_even_rate():
    random = np.random.default_rng(0)
    times_ms = [100 * i + int(random.integers(-30, 31)) for i in range(60)]
    times_ms[0] = 0
    file = VideoFile(clip(60, 10, container="matroska", times_ms=times_ms))
    assert numbers_of(file) == [0, 10, 20, 30, 40, 50]


def test_times_need_not_begin_at_zero():
    times_ms = [5000 + 100 * i for i in range(30)]
    file = VideoFile(clip(30, 10, container="matroska", times_ms=times_ms))
    assert numbers_of(file) == [0, 10, 20]


def test_a_long_gap_costs_nothing():
    """A damaged time far in the future makes no list of seconds."""
    timeline = Timeline(np.array([0.0, 1.0, 1e12]), 1e12 + 1, 3e-12)
    assert choose_indices(timeline) == [1]


def test_a_file_without_its_length_in_the_header():
    class Pipe(io.RawIOBase):
        """Cannot be wound back, so the writer leaves the length open."""

        def __init__(self):
            self.data = bytearray()

        def writable(self):
            return True

        def write(self, part):
            self.data += bytes(part)
            return len(part)

    pipe = Pipe()
    with av.open(pipe, "w", format="matroska", options={"live": "1"}) as output:
        stream = output.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 192, 16, "yuv420p"
        for index in range(30):
            frame = av.VideoFrame.from_image(numbered(index).convert("RGB"))
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    data = bytes(pipe.data)
    with av.open(io.BytesIO(data)) as container:
        assert container.duration is None
        assert container.streams.video[0].frames == 0
    assert numbers_of(VideoFile(data)) == [0, 10, 20]
    fragmented = {"movflags": "frag_keyframe+empty_moov"}
    assert numbers_of(VideoFile(clip(30, container_options=fragmented))) == [0, 10, 20]


@pytest.mark.parametrize(
    ("matrix", "turn"),
    [
        ((0, 1, -1, 0), Image.Transpose.ROTATE_270),  # a phone held upright
        ((-1, 0, 0, -1), Image.Transpose.ROTATE_180),
        ((0, -1, 1, 0), Image.Transpose.ROTATE_90),
        ((-1, 0, 0, 1), Image.Transpose.FLIP_LEFT_RIGHT),
    ],
)
def test_frames_are_turned_upright(matrix, turn):
    data = clip(3, codec="mpeg4")
    (plain,), (frame,) = VideoFile(data), VideoFile(turned(data, matrix))
    assert frame.size == plain.transpose(turn).size
    assert frame.tobytes() == plain.transpose(turn).tobytes()


@pytest.mark.parametrize("pixels", ["yuv420p10le", "gray", "yuv444p", "yuvj420p"])
def test_frames_are_rgb_of_8_bit(pixels):
    (frame,) = VideoFile(clip(1, codec="libx264", pixels=pixels))
    assert frame.mode == "RGB"
    assert frame.getextrema()[0][0] < 30
    assert number_of(frame) == 0
    data = clip(30, codec="libx264", pixels=pixels)
    assert numbers_of(VideoFile(data)) == [0, 10, 20]


@pytest.mark.parametrize("format_id", ["GIF", "WEBP", "PNG"])
def test_an_animation_is_a_video(format_id):
    """One frame a second, and four of a shorter animation."""

    def animation(num_frames, duration_ms):
        frames = [numbered(index).convert("RGB") for index in range(num_frames)]
        file = io.BytesIO()
        frames[0].save(
            file, format_id, save_all=True, append_images=frames[1:], duration=duration_ms
        )
        return file.getvalue()

    assert numbers_of(VideoFile(animation(40, 100))) == [0, 10, 20, 30]
    assert numbers_of(VideoFile(animation(8, 100))) == [0, 2, 4, 6]
    assert numbers_of(VideoFile(animation(2, 100))) == [0, 1]
    assert numbers_of(VideoFile(animation(3, [100, 4000, 100]))) == [0, 1]
    assert numbers_of(VideoFile(animation(40, 100), num_frames=3)) == [6, 20, 33]
    assert len(VideoFile(animation(70, 1000))) == 64


def picture_bytes(format_id):
    file = io.BytesIO()
    picture(30, 30).save(file, format_id)
    return file.getvalue()


def cut(data, part=0.6):
    return data[: int(len(data) * part)]


FAST_START = {"movflags": "faststart"}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: b"", "is empty .0 bytes"),
        (lambda: b"no video at all" * 400, "cannot be read as a video: it holds text. Give"),
        (lambda: b"#EXTM3U\n#EXTINF:10,\nfile:///etc/hostname\n#EXT-X-ENDLIST\n", "holds text"),
        (lambda: bytes(range(256)) * 20, "holds unknown data"),
        (lambda: picture_bytes("PNG"), "is a single picture. Show it as an image"),
        (lambda: picture_bytes("JPEG"), "is a single picture"),
        (lambda: picture_bytes("GIF"), "is a single picture"),
        (lambda: sound(), "has no pictures: it holds audio only"),
        (lambda: clip(0), "has no pictures|has no frames"),
        (lambda: clip(0, container="avi", codec="mpeg4"), "has no frames"),
        (
            lambda: clip(0, container="matroska"),
            "has no pictures|has no frames|cannot be read as a video",
        ),
        (lambda: cut(clip(60)), "holds an MP4 or QuickTime video, damaged or unfinished. Give"),
        (
            lambda: cut(clip(60, container_options=FAST_START)),
            "is cut short: it declares 60 frames and",
        ),
        (
            lambda: cut(clip(60, container="matroska")),
            r"is cut short: it declares 6.0 s and ends after",
        ),
        (
            lambda: cut(clip(60, container="avi", codec="mpeg4")),
            "is cut short|RIFF file.*, damaged or unfinished",
        ),
    ],
)
def test_what_is_no_whole_video_is_named(make, message):
    data = make()
    with pytest.raises(ValueError, match=message) as caught:
        list(VideoFile(data))
    assert str(caught.value).startswith(f"The video given as {len(data)} bytes ")
    assert "\n" not in str(caught.value)


def test_a_video_comes_from_a_url(tmp_path):
    """It is fetched once, however often it is read."""
    requests = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            requests.append(self.path)
            self.send_response(200 if self.path == "/clip.mp4" else 404)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args):
            pass

    data = clip(30)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}"
        file = VideoFile(f"{url}/clip.mp4")
        assert len(file) == 3
        assert numbers_of(file) == numbers_of(file) == [0, 10, 20]
        assert requests == ["/clip.mp4"]
        with pytest.raises(OSError, match=r"Video http.*/film.mp4 cannot be fetched: .* 404"):
            len(VideoFile(f"{url}/film.mp4"))
        server.shutdown()
        thread.join()


def test_paths_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"Video '.*nowhere.mp4' does not exist"):
        len(VideoFile(tmp_path / "nowhere.mp4"))
    with pytest.raises(IsADirectoryError, match=r"is a directory. Name one video file"):
        len(VideoFile(str(tmp_path)))
    with pytest.raises(ValueError, match="A video cannot be read from int"):
        len(VideoFile(5))


def damaged(data, start, length):
    noise = bytes((7 * i) % 256 for i in range(length))
    return data[:start] + noise + data[start + length :]


def test_damage_in_the_middle_costs_only_what_it_hits():
    data = clip(100, codec="mpeg4", codec_options={"g": "10"}, container_options=FAST_START)
    place = data.index(b"mdat") + (len(data) - data.index(b"mdat")) // 2
    with pytest.warns(UserWarning, match=r"is damaged: \d+ of the frames"):
        numbers = numbers_of(VideoFile(damaged(data, place, 40)))
    assert len(numbers) == 10
    assert numbers[:4] == [0, 10, 20, 30]
    assert numbers[-3:] == [70, 80, 90]
    place = data.index(b"mdat") + 8
    with pytest.raises(ValueError, match=r"is damaged: .* cannot be decoded|is damaged: none of"):
        list(VideoFile(damaged(data, place, len(data) - place)))


def test_the_size_and_number_of_frames_have_limits():
    with use_policy(MediaPolicy(max_frames=2)), pytest.raises(ValueError, match="2 may be shown"):
        len(VideoFile(clip(30), num_frames=3))
    policy = MediaPolicy(max_pixels=1000)
    with (
        use_policy(policy),
        pytest.raises(ValueError, match="frames of 192 x 16 = 3,072 pixels; the limit is 1,000"),
    ):
        list(VideoFile(clip(3)))


def test_without_pyav_the_extra_is_named(monkeypatch, tmp_path):
    path = write_clip(tmp_path / "clip.mp4", 3)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(
        ImportError, match=r'clip.mp4. needs PyAV 15 or later, .* pip install "minicpmv\[video'
    ):
        len(VideoFile(path))


def test_a_long_video_needs_no_more_memory_than_a_short_one(monkeypatch):
    """Frames that are alive at once, and frames that are decoded to get at the chosen ones."""
    alive, most_alive, num_decoded = 0, 0, 0
    upright = clips._upright
    monkeypatch.setattr(video, "KEPT_BYTES", 0)

    class Counted:
        def __init__(self, image):
            nonlocal alive, most_alive, num_decoded
            alive, num_decoded = alive + 1, num_decoded + 1
            most_alive = max(most_alive, alive)
            self.image, self.width, self.height = image, image.width, image.height
            self.getbands = image.getbands

        def __del__(self):
            nonlocal alive
            alive -= 1

    monkeypatch.setattr(clips, "_upright", lambda frame: Counted(upright(frame)))
    decode = clips.Clip._frames
    num_frames = 0

    def counted_frames(self, *args):
        nonlocal num_frames
        for item in decode(self, *args):
            num_frames += 1
            yield item

    monkeypatch.setattr(clips.Clip, "_frames", counted_frames)
    data = clip(4000, codec="mpeg4", codec_options={"g": "12"})
    chosen = [number_of(counted.image) for counted in VideoFile(data)]
    assert chosen == published(4000, 10)
    assert (most_alive, num_decoded) in ((1, 64), (2, 64))
    assert num_frames <= 64 * 13  # from the key frame before each, not from the first frame


def test_jumping_to_key_frames_and_decoding_everything_give_the_same(monkeypatch):
    data = clip(300, codec="libx264", codec_options={"g": "25", "bf": "2"})
    jumped = [frame.tobytes() for frame in VideoFile(data, num_frames=9)]
    monkeypatch.setattr(clips, "_WITH_INDEX", ("none",))
    assert [frame.tobytes() for frame in VideoFile(data, num_frames=9)] == jumped


def test_sound_and_cover_pictures_are_passed_over(tmp_path):
    with av.open(str(tmp_path / "film.mkv"), "w") as output:
        audio = output.add_stream("aac", rate=44100)
        stream = output.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 192, 16, "yuv420p"
        for index in range(30):
            image = av.VideoFrame.from_image(numbered(index).convert("RGB"))
            output.mux(stream.encode(image))
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            frame.sample_rate, frame.pts = 44100, 1024 * index
            output.mux(audio.encode(frame))
        output.mux(stream.encode())
        output.mux(audio.encode())
    assert numbers_of(VideoFile(tmp_path / "film.mkv")) == [0, 10, 20]


def test_a_video_file_is_the_list_of_its_frames(processor, tmp_path):
    path = write_clip(tmp_path / "clip.mp4", 40)
    frames = list(VideoFile(path))
    assert len(frames) == 4
    expected = inputs_of(processor, user({"type": "video", "video": frames}, "What happens?"))
    data = path.read_bytes()
    url = f"data:video/mp4;base64,{base64.b64encode(data).decode()}"
    blocks = [
        {"type": "video", "video": str(path)},
        {"type": "video", "path": path},
        {"type": "video", "url": path.as_uri()},
        {"type": "video", "url": url},
        {"type": "video", "video": data},
        {"type": "video", "base64": base64.b64encode(data).decode()},
        {"type": "video_url", "video_url": {"url": url}},
        {"type": "video", "video": io.BytesIO(data)},
        VideoFile(path),
    ]
    for block in blocks:
        inputs = inputs_of(processor, user(block, "What happens?"))
        assert torch.equal(inputs["input_ids"], expected["input_ids"])
        assert torch.equal(inputs["pixel_values"], expected["pixel_values"])
    block = {"type": "video", "video": str(path)}
    for settings, count in (({"num_frames": 7}, 7), ({"fps": 2}, 8), ({}, 4)):
        assert len(inputs_of(processor, user(block), **settings)["pixel_values"]) == count
    own = VideoFile(path, num_frames=3)
    assert len(inputs_of(processor, user(own, block), fps=2)["pixel_values"]) == 3 + 8


def test_pictures_and_video_files_keep_their_order(processor_2_6, tmp_path):
    first, last = picture(30, 30, 1), picture(30, 30, 2)
    path = write_clip(tmp_path / "clip.mp4", 30)
    frames = list(VideoFile(path))
    prompt = f"{IMAGE_MARKER} {VIDEO_MARKER} {IMAGE_MARKER}"
    expected = processor_2_6(prompt, [first, last], videos=[frames])
    for videos in (path, str(path), [str(path)], [[path]], [path.read_bytes()], VideoFile(path)):
        inputs = processor_2_6(prompt, [first, last], videos=videos)
        assert torch.equal(inputs["pixel_values"], expected["pixel_values"])
        assert torch.equal(inputs["input_ids"], expected["input_ids"])
    two = processor_2_6([prompt, VIDEO_MARKER], [[first, last], []], videos=[path, frames])
    assert len(two["pixel_values"]) == 5 + 3
    with pytest.raises(ValueError, match="num_frames has no effect without a video"):
        processor_2_6("What?", num_frames=3)
    beside = processor_2_6(IMAGE_MARKER, first, num_frames=3)  # as transformers' suites pass it
    assert torch.equal(beside["input_ids"], processor_2_6(IMAGE_MARKER, first)["input_ids"])


def test_names_of_pictures_are_frames(processor_2_6, tmp_path):
    """A flat list of names is one video of pictures, or several videos."""
    for index in range(2):
        picture(30, 30, index).save(tmp_path / f"{index}.png")
    names = [str(tmp_path / f"{index}.png") for index in range(2)]
    assert len(processor_2_6(VIDEO_MARKER, videos=names)["pixel_values"]) == 2
    nameless = tmp_path / "nameless"
    nameless.write_bytes(clip(20))
    inputs = processor_2_6(VIDEO_MARKER * 2, videos=[nameless, str(nameless)])
    assert len(inputs["pixel_values"]) == 4
    with pytest.raises(ValueError, match=r"0.png' is a single picture"):
        inputs_of(processor_2_6, user({"type": "video", "video": names[0]}))
    with pytest.raises(ValueError, match=r"holds an MP4 or QuickTime video, not an image."):
        processor_2_6(IMAGE_MARKER, [nameless])


def test_video_processor_takes_files(tmp_path):
    video_processor = MiniCPMVVideoProcessor.from_pretrained(CHECKPOINTS["2.6"])
    path = write_clip(tmp_path / "clip.mp4", 30)
    expected = video_processor([list(VideoFile(path))], return_tensors="pt")
    for videos in (path, [str(path)], VideoFile(path)):
        inputs = video_processor(videos, return_tensors="pt")
        assert torch.equal(inputs["pixel_values"], expected["pixel_values"])
    assert len(video_processor(videos=[path, path], num_frames=4)["pixel_values"]) == 8
    assert len(video_processor(videos=path, fps=5)["pixel_values"]) == 15


def test_damaged_words_beside_the_pictures_do_no_harm():
    data = clip(30, codec="mpeg4")
    assert b"Lavf" in data
    assert numbers_of(VideoFile(data.replace(b"Lavf", b"\xffavf"))) == [0, 10, 20]
