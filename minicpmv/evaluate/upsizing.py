"""Small pictures enlarged, as in the runs behind the cards of 2.6.

The released evaluation code drew the new width from one stream of random numbers for all pictures,
so it depended on which items were asked before. Here each picture has a seed of its own: the same
item is the same in every order, shard and process.
"""

import math
import random

from PIL import Image

AREA = 1344 * 1344  # pixels: nine slices of 448 x 448


def upsized(image: Image.Image, *seed: str | int) -> Image.Image:
    """The picture, or where it has less than 1344 x 1344 pixels a larger one of the same shape.

    The width is drawn evenly from its own up to the one with which the picture has that area.

    Args:
        seed: what tells this picture from all others, as the names of its page and its item.
    """
    width, height = image.size
    if width * height >= AREA:
        return image
    most = int(width * math.sqrt(AREA / (width * height)))
    drawn = random.Random("\0".join(map(str, seed))).randint(width, max(width, most))
    if drawn == width:
        return image
    return image.resize((drawn, max(1, int(drawn / width * height))), Image.Resampling.BICUBIC)
