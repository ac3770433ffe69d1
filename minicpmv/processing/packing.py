"""Slices of images into prompt order, and inputs into the form that was asked for."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers.image_processing_utils import BatchFeature

from .pixels import pad_strips, unpadded

# Keys that hold the sizes of slices, by `MiniCPMVProcessor.size_names`.
SIZE_NAMES = {
    "target_sizes": ["target_sizes"],
    "spatial_shapes": ["spatial_shapes", "pixel_attention_mask"],
}


class Sliced(NamedTuple):
    """One image: its strips, padded to its longest, (num_slices, channels, patch_size, patch_size *
    max_patches), or [] where sizes alone were asked for; their sizes in patches (num_slices, 2),
    its (width, height), its grid."""

    pixel_values: Any
    target_sizes: np.ndarray
    image_size: tuple[int, int]
    grid: tuple[int, int]

    @property
    def strips(self) -> list[np.ndarray]:
        """Each slice without padding, contiguous."""
        views = unpadded(self.pixel_values, self.target_sizes) if len(self.pixel_values) else []
        return [np.ascontiguousarray(strip) for strip in views]


def pixels_of(images: Sequence[Sliced]) -> np.ndarray:
    """The strips of all images in one array, padded to the longest."""
    if len(images) == 1:
        return images[0].pixel_values
    return pad_strips([strip for image in images for strip in image.strips])


class ProcessorOutput(BatchFeature):
    """Model inputs that also answer to the released names, one entry per sample.

    `tgt_sizes` (num_slices, 2), `image_bound` (num_slices, 2) and `image_sizes`, the (width,
    height) of each picture, are found by these names but are not among the keys, so that
    `model(**inputs)` gets each thing once. So are `target_sizes` named `spatial_shapes`.

    Attributes:
        original_sizes: what `image_sizes` gives; None after the output has crossed processes.
    """

    original_sizes: list[list[tuple[int, int]]] | None = None

    def __getitem__(self, item: Any) -> Any:
        if not isinstance(item, str) or item in self.data:
            return super().__getitem__(item)
        if item == "target_sizes" and "spatial_shapes" in self.data:
            return self.data["spatial_shapes"]
        if item == "image_sizes" and self.original_sizes is not None:
            return self.original_sizes
        if item in ("tgt_sizes", "image_bound") and "mm_token_type_ids" in self.data:
            masks = self.data["mm_token_type_ids"]
            bounds = [bounds_of(np.asarray(mask)) for mask in masks]
            if item == "image_bound":
                return [_like(rows, masks) for rows in bounds]
            sizes = self.data.get("target_sizes", self.data.get("spatial_shapes"))
            sizes = np.zeros((0, 2), np.int64) if sizes is None else np.asarray(sizes)
            ends = np.cumsum([len(rows) for rows in bounds])
            return [_like(rows, masks) for rows in np.split(sizes, ends[:-1])]
        return super().__getitem__(item)


def bounds_of(mask: Any) -> np.ndarray:
    """Where placeholders stand: (num_slices, 2), first token and the one after the last."""
    edges = np.diff([0, *mask, 0])
    return np.stack([np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)], axis=1)


def _like(rows: np.ndarray, others: Any) -> Any:
    return torch.as_tensor(rows) if isinstance(others, torch.Tensor) else rows


def with_size_names(data: dict[str, Any], size_names: str) -> dict[str, Any]:
    """Inputs with `target_sizes` under the names of `MiniCPMVProcessor.size_names`.

    `pixel_attention_mask` (num_slices, max_patches) stands beside padded pixels: 1 at a slice's own
    patches, 0 at the padding behind them.
    """
    if size_names == "target_sizes":
        return data
    renamed = {("spatial_shapes" if key == "target_sizes" else key): data[key] for key in data}
    pixels = data.get("pixel_values")
    if pixels is not None and not isinstance(pixels, list):
        counts = np.asarray(data["target_sizes"]).prod(axis=1)
        mask = np.arange(pixels.shape[3] // pixels.shape[2]) < counts[:, None]
        renamed["pixel_attention_mask"] = mask.astype(np.int64)
    return renamed


def in_prompt_order(
    markers: Sequence[Sequence[str]], images: Sequence[Sliced], videos: Sequence[list[Sliced]]
) -> list[list[Sliced]]:
    """Images and frames of each sample as their markers stand in the prompt."""
    next_image, next_video = iter(images), iter(videos)
    samples = []
    for kinds in markers:
        sample: list[Sliced] = []
        for kind in kinds:
            sample += [next(next_image)] if kind == "image" else next(next_video)
        samples.append(sample)
    return samples


def released_layout_of(
    data: dict[str, list], samples: Sequence[Sequence[Sliced]], return_tensors: Any
) -> BatchFeature:
    """Nested lists as the released processors return them: per sample, then per slice."""
    out = BatchFeature(converted(data, return_tensors))
    out["image_bound"] = [
        to_tensor_type(bounds_of(mask), return_tensors) for mask in data["mm_token_type_ids"]
    ]
    out["pixel_values"] = [
        [to_tensor_type(strip, return_tensors) for image in sample for strip in image.strips]
        for sample in samples
    ]
    none = np.zeros((0, 2), np.int64)
    out["tgt_sizes"] = [
        to_tensor_type(
            np.concatenate([none, *(image.target_sizes for image in sample)]), return_tensors
        )
        for sample in samples
    ]
    out["image_sizes"] = [[image.image_size for image in sample] for sample in samples]
    return out


def rows_per_slice(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Model inputs with the released nested lists made into one row per slice.

    Args:
        inputs: `pixel_values` per sample a list of strips (3, patch_size, patch_size * patches),
            `tgt_sizes` per sample (num_slices, 2), `image_sizes`; anything else passes through.
    """
    inputs = dict(inputs)
    if "tgt_sizes" not in inputs:
        return inputs
    inputs.pop("image_sizes", None)
    sizes, strips = inputs.pop("tgt_sizes"), inputs.pop("pixel_values", None)
    if isinstance(sizes, list | tuple):
        rows = [torch.as_tensor(part).reshape(-1, 2) for part in sizes]
        sizes = torch.cat(rows) if rows else torch.zeros(0, 2, dtype=torch.long)
    if isinstance(strips, list | tuple):
        flat = [torch.as_tensor(strip) for sample in strips for strip in sample]
        longest = max((strip.shape[-1] for strip in flat), default=0)
        padded = [torch.nn.functional.pad(strip, (0, longest - strip.shape[-1])) for strip in flat]
        strips = torch.stack(padded) if padded else None
    if strips is not None and len(strips):
        inputs |= {"pixel_values": strips, "target_sizes": sizes}
    return inputs


def converted(data: Mapping[str, Any], return_tensors: Any) -> dict[str, Any]:
    """Everything as tensors, as arrays, or (None) as lists."""
    lengths = {len(ids) for ids in data["input_ids"]}
    if len(lengths) > 1 and return_tensors is not None:
        raise ValueError(
            f"Prompts of {min(lengths)} to {max(lengths)} tokens cannot become one tensor without "
            "padding. Use padding=True, or return_tensors=None."
        )
    return {
        name: [to_tensor_type(strip, return_tensors) for strip in values]
        if name == "pixel_values" and isinstance(values, list)
        else to_tensor_type(values, return_tensors)
        for name, values in data.items()
    }


def check_output(return_tensors: Any, padding_side: Any) -> None:
    """Raise ValueError for a kind of tensors or a side of padding that does not exist."""
    if getattr(return_tensors, "value", return_tensors) not in ("pt", "np", None):
        raise ValueError(f"return_tensors is {return_tensors!r}; it is 'pt', 'np' or None.")
    if padding_side not in ("left", "right"):
        raise ValueError(f"padding_side is {padding_side!r}; it is 'left' or 'right'.")


def to_tensor_type(values: Any, return_tensors: Any) -> Any:
    """One array as a tensor ("pt"), an array ("np") or a list (None)."""
    kind = getattr(return_tensors, "value", return_tensors)
    if kind is None:
        return list(values)
    return torch.as_tensor(np.asarray(values)) if kind == "pt" else np.asarray(values)
