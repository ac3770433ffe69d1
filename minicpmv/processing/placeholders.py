"""The text around slices: tags, placeholders, image ids and newlines, as pure functions on strings.

One image with a 2 x 2 grid, `U` standing for `num_queries` fillers:

    one pair around the grid (2.5):   <image>U</image><slice><image>U</image><image>U</image>
                                      <image>U</image><image>U</image></slice>
    one pair per cell (2.6):
                                      <image_id>0</image_id><image>U</image><slice>U</slice><slice>U</slice>
                                      <slice>U</slice><slice>U</slice>
"""

import re
from dataclasses import dataclass

# What chat templates write in place of an image or a video. The first is also written by hand in
# released prompts.
IMAGE_MARKER = "(<image>./</image>)"
VIDEO_MARKER = "(<video>./</video>)"
MARKER = re.compile(f"{re.escape(IMAGE_MARKER)}|{re.escape(VIDEO_MARKER)}")


@dataclass(frozen=True)
class Tags:
    """The reserved strings of a release. `filler` is repeated where visual tokens go."""

    image_start: str = "<image>"
    image_end: str = "</image>"
    slice_start: str = "<slice>"
    slice_end: str = "</slice>"
    image_id_start: str = "<image_id>"
    image_id_end: str = "</image_id>"
    filler: str = "<unk>"


def image_placeholder(
    grid: tuple[int, int] | None,
    num_queries: int,
    *,
    tags: Tags = Tags(),
    tag_every_slice: bool,
    image_id: int | None = None,
) -> str:
    """Text that stands for one image in the prompt.

    Args:
        grid: (rows, cols) of the detail slices, None when the image is not cut.
        num_queries: fillers per slice.
        tag_every_slice: True for a `<slice>` pair around every cell, False for one pair around the
            whole grid with an `<image>` pair around every cell.
        image_id: the number written in front of the image, None for no number.
    """
    fillers = tags.filler * num_queries
    overview = f"{tags.image_start}{fillers}{tags.image_end}"
    text = overview
    if image_id is not None:
        text = f"{tags.image_id_start}{image_id}{tags.image_id_end}{overview}"
    if grid is None:
        return text
    rows, cols = grid
    if tag_every_slice:
        row = f"{tags.slice_start}{fillers}{tags.slice_end}" * cols
        return text + "\n".join([row] * rows)
    return f"{text}{tags.slice_start}" + "\n".join([overview * cols] * rows) + tags.slice_end
