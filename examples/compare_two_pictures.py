"""Show two pictures in one question.

The pictures are drawn here; paths, URLs and bytes do as well. nano tells two
pictures apart no better than chance: for good answers give a released model.

python examples/compare_two_pictures.py [MODEL]
"""

import sys

from minicpmv import load
from minicpmv.scenes import caption, render

chat = load(sys.argv[1] if len(sys.argv) > 1 else "nano")
first, second = render(seed=1, split="test"), render(seed=2, split="test")
print("First:", caption(first))
print("Second:", caption(second))

question = "What is different between the two pictures?"
print("Answer:", chat.ask(question, images=[first.image, second.image], max_new_tokens=60))
