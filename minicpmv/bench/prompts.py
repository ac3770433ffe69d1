"""Prompts and pictures that no cache has seen: each round draws its own."""

import random
from typing import Any

import numpy as np
from PIL import Image

# Tokenizers of random models have each as a token; those of real models one or two.
_TEXT = """\
a about above after again all also and any are as at back bad before big bird black blue book
both box bread bright broken brown but by call can car cat chair child circle city clean cold
colour come corner count cup cut day deep dog door down draw dry each early east edge egg end
every eye face far fast few field fire first fish flat floor flower fly food foot for four
full game garden girl glass go gold good grass great green grey ground group hair half hand
hard hat head heavy high hill hold home horse hot house how ice if in iron island it job jump
keep key kind king lake lamp land large last late leaf left letter light line list little
long look loud low man many map mark milk moon more morning mouth move music name near neck
new next night no north nose not now number of oil old on one open orange other out over page
paint paper part path people picture piece place plant plate point poor pot press print put
question quick quiet rain read red rest rice rich right ring river road rock roof room root
round row run sail salt same sand sea seat second see seven shape sharp sheep ship shop short
show side sign silver sing six size sky slow small smoke snow soft some song south space
square stand star stone stop street strong sugar summer sun table tail tall ten text that
thick thin thing three time to top town tree triangle true turn two under up wall warm watch
water wave we west wet what wheel where which white who wide wind window winter wood word
work year yellow young
"""
WORDS = _TEXT.split()


def words(count: int, seed: int) -> str:
    """So many words at random."""
    return " ".join(random.Random(seed).choices(WORDS, k=count))


def prompt_of(processor: Any, num_tokens: int, seed: int) -> str:
    """A question whose whole prompt has `num_tokens` tokens, or a few less where words are long."""

    def length(count: int) -> int:
        message = {"role": "user", "content": words(count, seed)}
        inputs = processor.apply_chat_template(
            [[message]], add_generation_prompt=True, tokenize=True, return_dict=True
        )
        return int(inputs["input_ids"].shape[1])

    low, high = 1, max(2, num_tokens)
    while low < high:  # the most words that fit
        middle = (low + high + 1) // 2
        low, high = (middle, high) if length(middle) <= num_tokens else (low, middle - 1)
    return words(low, seed)


def picture(side: int, seed: int) -> Image.Image:
    """A square of noise, `side` pixels wide."""
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return Image.fromarray(pixels)
