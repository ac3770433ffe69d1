"""The text around slices: tags, placeholders, image ids and newlines, as pure functions on strings.

One image with a 2 x 2 grid, `U` standing for `num_queries` fillers:

    one pair around the grid (2.5):
        <image>U</image><slice><image>U</image><image>U</image>
        <image>U</image><image>U</image></slice>
    a pair around every cell (2.6):
        <image_id>0</image_id><image>U</image><slice>U</slice><slice>U</slice>
        <slice>U</slice><slice>U</slice>
"""

import re

# What chat templates write in place of an image or a video. The first is also written by hand in
# released prompts.
IMAGE_MARKER = "(<image>./</image>)"
VIDEO_MARKER = "(<video>./</video>)"
MARKER = re.compile(f"{re.escape(IMAGE_MARKER)}|{re.escape(VIDEO_MARKER)}")

# The reserved strings under the names of `preprocessor_config.json`; `unk` is repeated where visual
# tokens go.
RELEASED_TAGS = {
    "im_start": "<image>",
    "im_end": "</image>",
    "slice_start": "<slice>",
    "slice_end": "</slice>",
    "im_id_start": "<image_id>",
    "im_id_end": "</image_id>",
    "unk": "<unk>",
}


def image_placeholder(
    grid: tuple[int, int] | None,
    num_queries: int,
    *,
    tag_every_slice: bool,
    image_id: int | None = None,
    tags: dict[str, str] = RELEASED_TAGS,
) -> str:
    """Text that stands for one image in the prompt.

    Args:
        grid: (rows, cols) of the detail slices, None when the image is not cut.
        num_queries: fillers per slice.
        tag_every_slice: True for a `<slice>` pair around every cell, False for one pair around the
            whole grid with an `<image>` pair around every cell.
        image_id: the number written in front of the image, None for no number.
        tags: other strings under the same names.
    """
    fillers = tags["unk"] * num_queries
    overview = f"{tags['im_start']}{fillers}{tags['im_end']}"
    text = overview
    if image_id is not None:
        text = f"{tags['im_id_start']}{image_id}{tags['im_id_end']}{overview}"
    if grid is None:
        return text
    rows, cols = grid
    if tag_every_slice:
        row = f"{tags['slice_start']}{fillers}{tags['slice_end']}" * cols
        return text + "\n".join([row] * rows)
    lines = "\n".join([overview * cols] * rows)
    return f"{text}{tags['slice_start']}{lines}{tags['slice_end']}"
