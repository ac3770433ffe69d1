"""Ask many questions at once; a batch is faster than one question after the other.

python examples/batch.py [MODEL]
"""

import sys

from minicpmv import load
from minicpmv.scenes import render

chat = load(sys.argv[1] if len(sys.argv) > 1 else "nano")
scenes = [render(seed, split="test", kind="many") for seed in range(20, 24)]
requests = [("How many shapes are there?", [scene.image]) for scene in scenes]
requests.append("What is your name?")  # a question without a picture fits into the same batch

answers = chat.batch(requests, sampling=False, num_beams=1, max_new_tokens=20)
for scene, answer in zip(scenes, answers, strict=False):
    print(f"{answer}   (truth: {len(scene.figures)})")
