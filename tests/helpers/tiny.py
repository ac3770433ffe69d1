"""Tiny random models of each release, and batches for them."""

from typing import Any

import torch
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

import minicpmv.auto  # noqa: F401
from minicpmv.model.configuration import MiniCPMVConfig
from minicpmv.releases import RELEASES

VERSIONS = list(RELEASES)


# Ids of the tiny models' tags; text is drawn from below.
IMAGE, IMAGE_START, IMAGE_END, SLICE_START, SLICE_END, PAD = 91, 92, 93, 94, 95, 0


NUM_TEXT_IDS = 90


def tiny_config(version: str, **changes: Any) -> MiniCPMVConfig:
    """A config of that release's shape, in small; `changes` win, dicts of the parts are merged."""
    text = {
        "model_type": RELEASES[version].text_model_type,
        "vocab_size": 96,
        "hidden_size": 128,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": PAD,
    }
    if text["model_type"] == "minicpm":
        text |= {
            "scale_emb": 3,
            "scale_depth": 1.4,
            "dim_model_base": 32,
            "tie_word_embeddings": False,
        }
    text |= changes.pop("text_config", {})
    vision = {
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "image_size": 40,
        "patch_size": 4,
    } | changes.pop("vision_config", {})
    fields = {
        "query_num": 4,
        "image_size": 16,
        "patch_size": 4,
        "drop_vision_last_layer": False,
        "image_token_id": IMAGE,
        "image_start_id": IMAGE_START,
        "image_end_id": IMAGE_END,
        "slice_start_id": SLICE_START,
        "slice_end_id": SLICE_END,
    } | changes
    config_class = CONFIG_MAPPING[RELEASES[version].model_type]
    return config_class(version=version, text_config=text, vision_config=vision, **fields)


def tiny_model(
    version: str, auto_class: Any = AutoModelForCausalLM, seed: int = 0, **changes: Any
) -> Any:
    """A random model of that release's shape, the same at every call.

    Weights are drawn wide enough for every part to move the logits.
    """
    torch.manual_seed(seed)
    model = auto_class.from_config(tiny_config(version, **changes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.1)
            else:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def strips(
    shapes: list[tuple[int, int]], seed: int = 0, max_patches: int | None = None
) -> torch.Tensor:
    """Random pixels of slices of so many patches: (num_slices, 3, 4, 4 * max_patches), padded."""
    patch_size = 4
    max_patches = max_patches or max(height * width for height, width in shapes)
    pixels = torch.zeros(len(shapes), 3, patch_size, patch_size * max_patches)
    for row, (height, width) in zip(pixels, shapes, strict=True):
        generator = torch.Generator().manual_seed(10000 * seed + 100 * height + width)
        length = height * width * patch_size
        row[..., :length] = torch.rand(3, patch_size, length, generator=generator) * 2 - 1
    return pixels


def tiny_batch(
    samples: list[list[tuple[int, int]]], seed: int = 0, num_queries: int = 4
) -> dict[str, torch.Tensor]:
    """Inputs of a tiny model, from one list of slice shapes per sample.

    Texts differ in length, are padded on the left, and hold the placeholder as an ordinary token,
    too. A slice of one shape is the same picture wherever it stands.
    """
    rows = []
    for index, shapes in enumerate(samples):
        ids = [3 + index]
        for position in range(len(shapes)):
            start, end = (IMAGE_START, IMAGE_END) if position == 0 else (SLICE_START, SLICE_END)
            ids += [start, *[IMAGE] * num_queries, end]
        generator = torch.Generator().manual_seed(seed * 1000 + sum(ids))
        text = torch.randint(3, NUM_TEXT_IDS, (6 + 3 * index,), generator=generator).tolist()
        text[2] = IMAGE  # typed by the user: no tags around it, so no place for a picture
        rows.append(ids + text)
    longest = max(map(len, rows))
    input_ids = torch.tensor([[PAD] * (longest - len(row)) + row for row in rows])
    opens = (input_ids == IMAGE_START) | (input_ids == SLICE_START)
    closes = (input_ids == IMAGE_END) | (input_ids == SLICE_END)
    is_inside = (opens.cumsum(1) - closes.cumsum(1)) > 0
    inputs = {
        "input_ids": input_ids,
        "attention_mask": torch.tensor(
            [[0] * (longest - len(row)) + [1] * len(row) for row in rows]
        ),
        "mm_token_type_ids": ((input_ids == IMAGE) & is_inside).long(),
    }
    shapes = [shape for sample in samples for shape in sample]
    if shapes:
        inputs |= {
            "pixel_values": strips(shapes, seed),
            "target_sizes": torch.tensor(shapes),
        }
    return inputs


# Three samples: an image with two detail slices, an image of one slice, text alone.
SAMPLES = [[(3, 4), (2, 5), (1, 3)], [(4, 2)], []]
NUM_SLICES = [3, 1, 0]


def bounds(mm_token_type_ids, num_queries=4):
    """`image_bound` of placeholder masks: [start, end) per slice."""
    starts = [row.nonzero()[::num_queries, 0] for row in mm_token_type_ids]
    return [torch.stack([start, start + num_queries], dim=1) for start in starts]


def sample_of(inputs, index, num_slices=tuple(NUM_SLICES)):
    """Sample `index` of a batch, without the padding of its text or of its slices."""
    is_text = inputs["attention_mask"][index].bool()
    alone = {
        name: inputs[name][index : index + 1, is_text]
        for name in ("input_ids", "attention_mask", "mm_token_type_ids")
    }
    rows = slice(sum(num_slices[:index]), sum(num_slices[: index + 1]))
    if num_slices[index]:
        sizes = inputs["target_sizes"][rows]
        length = int(sizes.prod(dim=1).max()) * 4
        alone |= {"pixel_values": inputs["pixel_values"][rows, ..., :length], "target_sizes": sizes}
    return alone
