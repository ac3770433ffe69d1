"""Ask about a video, given as its frames: one a second is usual, at most 64.

Here a ball is drawn that rolls from left to right. nano was hardly trained on videos: for
good answers give a released model.

python examples/video_frames.py [MODEL]
"""

import sys

from PIL import Image, ImageDraw

from minicpmv import load


def frame(number: int) -> Image.Image:
    picture = Image.new("RGB", (224, 224), "white")
    left = 10 + 45 * number
    ImageDraw.Draw(picture).ellipse((left, 90, left + 40, 130), fill="red")
    return picture


chat = load(sys.argv[1] if len(sys.argv) > 1 else "nano")
frames = [frame(number) for number in range(4)]
question = "What colour is the circle?"
print("Answer:", chat.ask(question, videos=[frames], max_new_tokens=60))
