"""Show an answer while it is being written, and stop when enough was read.

python examples/stream.py [MODEL]
"""

import sys
from pathlib import Path

from minicpmv import load

chat = load(sys.argv[1] if len(sys.argv) > 1 else "nano")
picture = Path(__file__).with_name("scene.png")

with chat.stream("Describe the image in one sentence.", images=[picture]) as stream:
    length = 0
    for text in stream:
        print(text, end="", flush=True)
        length += len(text)
        if length > 500:
            break  # leaving the block stops the model
print()
