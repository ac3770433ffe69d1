"""Ask about a video file: one frame a second is used, at most 64.

Without a file a clip is written in which a ball rolls from left to right. nano was hardly trained
on videos: for good answers give a released model.

pip install "minicpmv[video]"
python examples/video_file.py [MODEL [FILE]]
"""

import sys
import tempfile
from pathlib import Path

import av
from PIL import Image, ImageDraw

from minicpmv import load


def write_clip(path: Path) -> None:
    with av.open(str(path), "w") as file:
        stream = file.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 224
        for number in range(40):
            picture = Image.new("RGB", (224, 224), "white")
            left = 5 + 4 * number
            ImageDraw.Draw(picture).ellipse((left, 90, left + 40, 130), fill="red")
            file.mux(stream.encode(av.VideoFrame.from_image(picture)))
        file.mux(stream.encode())


with tempfile.TemporaryDirectory() as folder:
    clip = Path(sys.argv[2] if len(sys.argv) > 2 else f"{folder}/ball.mp4")
    if len(sys.argv) < 3:
        write_clip(clip)
    chat = load(sys.argv[1] if len(sys.argv) > 1 else "nano")
    answer = chat.ask("What colour is the circle?", videos=[clip], fps=1, max_new_tokens=60)
    print("Answer:", answer)
