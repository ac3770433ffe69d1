"""Ask a question about a picture.

python examples/ask_about_a_picture.py [PICTURE [QUESTION [MODEL]]]
"""

import sys
from pathlib import Path

from minicpmv import load

picture, question, model, *_ = [*sys.argv[1:], None, None, None]
chat = load(model or "nano")
answer = chat.ask(
    question or "How many circles are there?",
    images=[picture or Path(__file__).with_name("scene.png")],
)
print(answer)
print(f"{answer.num_input_tokens} tokens in, {answer.num_output_tokens} out", file=sys.stderr)
