"""Teach the form of the answer by examples: earlier turns of a conversation, each with its picture.

python examples/few_shot.py [MODEL]
"""

import sys

from minicpmv import load
from minicpmv.scenes import render

chat = load(sys.argv[1] if len(sys.argv) > 1 else "nano")
question = "How many shapes are there?"
messages = []
for seed in (11, 12):
    scene = render(seed, split="test", kind="few")
    messages.append({"role": "user", "content": [scene.image, question]})
    messages.append({"role": "assistant", "content": str(len(scene.figures))})

scene = render(seed=13, split="test", kind="few")
messages.append({"role": "user", "content": [scene.image, question]})
print("Answer:", chat.ask(messages, max_new_tokens=20))
print("Truth:", len(scene.figures))
