"""The snippet of the MiniCPM-V 2.6 model card: only the import and `trust_remote_code` are changed.

python examples/released_snippet.py [MODEL]
"""

import sys
from pathlib import Path

import torch
from PIL import Image

from minicpmv import AutoModel, AutoTokenizer

name = sys.argv[1] if len(sys.argv) > 1 else "nano"
model = AutoModel.from_pretrained(name, attn_implementation="sdpa", torch_dtype=torch.bfloat16)
model = model.eval()  # and .cuda() where there is a GPU
tokenizer = AutoTokenizer.from_pretrained(name)

image = Image.open(Path(__file__).with_name("scene.png")).convert("RGB")
question = "How many circles are there?"
msgs = [{"role": "user", "content": [image, question]}]

res = model.chat(image=None, msgs=msgs, tokenizer=tokenizer)
print(res)

res = model.chat(image=None, msgs=msgs, tokenizer=tokenizer, sampling=True, stream=True)
generated_text = ""
for new_text in res:
    generated_text += new_text
    print(new_text, flush=True, end="")
print()
