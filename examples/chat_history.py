"""A conversation: each question may refer to the pictures and answers before it.

python examples/chat_history.py [MODEL]
"""

import sys
from pathlib import Path

from minicpmv import load

chat = load(sys.argv[1] if len(sys.argv) > 1 else "nano")
picture = Path(__file__).with_name("scene.png")

questions = ["How many circles are there?", "What colour is the background?", "Is there a star?"]
for number, question in enumerate(questions):
    print("You:", question)
    print("Model: ", end="")
    for text in chat.say(question, images=[picture] if number == 0 else []):
        print(text, end="", flush=True)
    print()

print(len(chat.history), "messages; chat.history is a plain list, to keep or to edit")
chat.clear()
