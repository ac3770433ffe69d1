"""A conversation as model inputs without pixels, from the sizes of its pictures.

What `apply_chat_template` gives with `return_pixel_values=False`, in less than half the time: no
keywords of transformers' processors are merged and checked, since there are none.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from .batching import markers_of
from .image_settings import check_effect
from .keywords import MiniCPMVTextKwargs
from .processor import MiniCPMVProcessor
from .turns import Looked, Prompts, with_bare_pictures

# Set in the files of a tokenizer, they would cut or pad a prompt; a side matters to batches alone.
_OF_TEXT = frozenset(MiniCPMVTextKwargs.__annotations__) - {"padding_side"}
_SETTINGS = frozenset(("max_slice_nums", "use_image_id"))


def planned_inputs(
    processor: Any, messages: Sequence[dict[str, Any]], settings: Mapping[str, Any]
) -> dict[str, torch.Tensor] | None:
    """The inputs of one conversation that is to be answered.

    Args:
        messages: in the form of `Processor.question`.
        settings: keywords of the processor.

    Returns:
        `input_ids`, `attention_mask`, `mm_token_type_ids` (1, seq); with pictures `target_sizes`
        (num_slices, 2) and `slices_per_image` (num_images,). None where only `apply_chat_template`
        can tell: for other processors, pictures that are not open, other settings than
        `max_slice_nums` and `use_image_id`, and templates that do not write each picture in its
        place.

    Raises:
        ValueError: as of `apply_chat_template`.
    """
    if not isinstance(processor, MiniCPMVProcessor) or processor.compat == "released":
        return None
    if not _SETTINGS.issuperset(settings) or not _OF_TEXT.isdisjoint(
        processor.tokenizer.init_kwargs
    ):
        return None
    looked = []
    for block in _media_of(messages):
        images = block[block["type"]]
        images = images if isinstance(images, list) else [images]
        if not all(isinstance(image, Image.Image) for image in images):
            return None
        looked.append(_looked(processor, block, images))
    prompts = Prompts(processor, [with_bare_pictures(message) for message in messages])
    prompts.show(looked, {name: value for name, value in settings.items() if value is not None})
    end = len(messages)
    (text,) = processor.prompts_of(prompts.messages, [(end, True)])
    if markers_of(text) != [picture.kind for picture in looked]:
        return None
    tokens = prompts.tokens(text, end)
    ids = np.array([tokens.encoded.ids], np.int64)
    inputs = {
        "input_ids": ids,
        "attention_mask": np.ones_like(ids),
        "mm_token_type_ids": tokens.mask[None],
    }
    sizes = [image.target_sizes for picture in prompts.sliced for image in picture]
    if sizes:
        inputs["slices_per_image"] = np.array(list(map(len, sizes)), np.int64)
        inputs["target_sizes"] = np.concatenate(sizes)
    return {name: torch.from_numpy(values) for name, values in inputs.items()}


def _media_of(messages: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for message in messages:
        content = message.get("content")
        for block in content if isinstance(content, list) else ():
            if block["type"] in ("image", "video"):
                yield block


def _looked(
    processor: MiniCPMVProcessor, block: dict[str, Any], images: Sequence[Image.Image]
) -> Looked:
    """The sizes of a picture's images once they are upright, and its own limit of slices.

    Raises:
        ValueError: an image has no RGB form, or the limit would have no effect.
    """
    own = processor.image_processor
    limit = block.get("max_slice_nums")
    if limit is not None and limit > 1:
        check_effect(processor.release, {"max_slice_nums": limit})
    sizes = []
    for image in images:
        shown = own.process_image(image, own.do_convert_rgb, own.input_data_format)
        sizes.append((shown.height, shown.width))
    return Looked(tuple(sizes), block["type"], max_slice_nums=limit)
