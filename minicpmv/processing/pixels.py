"""Pixels of an image to strips of patches: resize, cut, normalise, patchify.

The reference is Pillow's bicubic filter on 8-bit RGB, as the released models were trained and run.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image

from .slicing import SlicePlan

_PREMULTIPLIED = {"LA": "La", "RGBA": "RGBa"}


def resize(
    image: Image.Image, size: tuple[int, int], resample: Any = Image.Resampling.BICUBIC
) -> Image.Image:
    """The image at `size` = (height, width): the width first, then the height.

    The order is what the released models saw: Pillow up to 12 resizes so in one call. Pillow 13
    resizes some shrinking pictures the other way round, up to twenty grey levels away, because each
    pass rounds to 8 bit. One pass per call gives the same pixels under every version.
    """
    height, width = size
    premultiplied = _PREMULTIPLIED.get(image.mode)
    if premultiplied and image.size != (width, height):
        # As one call of Pillow does it: transparent pixels do not bleed into their neighbours.
        return resize(image.convert(premultiplied), size, resample).convert(image.mode)
    for step in ((width, image.height), (width, height)):
        if image.size != step:
            image = image.resize(step, resample)
    return image


def cut(
    image: Image.Image, plan: SlicePlan, resample: Any = Image.Resampling.BICUBIC
) -> list[Image.Image]:
    """The slices of `image` as `plan` says: the overview, then the cells row by row."""
    slices = [resize(image, plan.overview, resample)]
    if plan.grid is not None and plan.refined is not None and plan.cell is not None:
        refined = resize(image, plan.refined, resample)
        height, width = plan.cell
        for row in range(plan.grid[0]):
            for col in range(plan.grid[1]):
                left, top = col * width, row * height
                slices.append(refined.crop((left, top, left + width, top + height)))
    return slices


def pad_strips(strips: Sequence[np.ndarray]) -> np.ndarray:
    """Strips side by side in one array, with zeros to the length of the longest one."""
    if not strips:
        return np.zeros((0, 3, 0, 0), np.float32)
    channels, patch_size, _ = strips[0].shape
    longest = max(strip.shape[-1] for strip in strips)
    batch = np.zeros((len(strips), channels, patch_size, longest), np.float32)
    for row, strip in zip(batch, strips, strict=True):
        row[..., : strip.shape[-1]] = strip
    return batch


def unpadded(batch: np.ndarray, target_sizes: Iterable[Sequence[int]]) -> list[np.ndarray]:
    """Views of the strips of a batch, each as long as its (height, width) in patches says."""
    lengths = [rows * cols * batch.shape[2] for rows, cols in target_sizes]
    return [strip[..., :length] for strip, length in zip(batch, lengths, strict=True)]


def fitted(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Channels-first pixels of that (height, width): cut, or filled with zeros, right and below."""
    height, width = size
    image = image[:, :height, :width]
    missing = height - image.shape[1], width - image.shape[2]
    return np.pad(image, ((0, 0), (0, missing[0]), (0, missing[1]))) if any(missing) else image


@lru_cache(maxsize=16)
def value_table(
    channels: int,
    rescale_factor: float | None,
    mean: float | tuple[float, ...] | None,
    std: float | tuple[float, ...] | None,
) -> np.ndarray:
    """What each of the 256 values becomes, (channels, 256), rounded to float32 at each step."""
    values = np.arange(256, dtype=np.float32)
    if rescale_factor is not None:
        values = (np.arange(256) * rescale_factor).astype(np.float32)
    table = np.tile(values, (channels, 1))
    for name, setting in (("image_mean", mean), ("image_std", std)):
        if setting is None:
            continue
        per_channel = np.broadcast_to(np.asarray(setting, np.float32), (np.size(setting),))
        if len(per_channel) not in (1, channels):
            raise ValueError(
                f"{name} has {len(per_channel)} values and the image {channels} channels; "
                "give one per channel."
            )
        column = per_channel[:, None]
        table = table - column if name == "image_mean" else table / column
    return table


def normalise(image: Image.Image, table: np.ndarray) -> np.ndarray:
    pixels = np.asarray(image)
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    return np.stack([table[c][pixels[..., c]] for c in range(pixels.shape[-1])])


def strips_of(
    pieces: Sequence[Image.Image],
    sizes: Sequence[tuple[int, int]],
    patch_size: int,
    table: np.ndarray,
) -> np.ndarray:
    """The slices of one image as the model reads them: what `normalise`, `fitted`, `patchify` and
    `pad_strips` make of them one after the other, written once.

    Args:
        sizes: (height, width) in pixels of each slice, multiples of `patch_size`.
        table: from `value_table`.

    Returns:
        (num_slices, channels, patch_size, patch_size * max_patches), float32.
    """
    lengths = [height * width // patch_size for height, width in sizes]
    channels = len(table)
    batch = np.empty((len(sizes), channels, patch_size, max(lengths)), np.float32)
    for row, piece, (height, width), length in zip(batch, pieces, sizes, lengths, strict=True):
        strip = row[..., :length]
        row[..., length:] = 0
        if piece.size != (width, height):
            strip[:] = patchify(fitted(normalise(piece, table), (height, width)), patch_size)
            continue
        patches = _patches(
            np.asarray(piece).reshape(height, width, channels).transpose(2, 0, 1), patch_size
        )
        for values, indices, out in zip(table, patches, strip, strict=True):
            # `clip` writes into `out` itself; 8 bits are always inside the table.
            np.take(values, indices, out=out.reshape(indices.shape), mode="clip")
    return batch


def patchify(image: np.ndarray, patch_size: int) -> np.ndarray:
    """Channels-first pixels as one strip, (channels, patch_size, patch_size * patches)."""
    patches = _patches(image, patch_size)
    return np.ascontiguousarray(patches.reshape(*patches.shape[:2], -1))


def _patches(image: np.ndarray, patch_size: int) -> np.ndarray:
    """A view of channels-first pixels, (channels, patch_size, rows, cols, patch_size): joined, the
    last three axes are a strip, whose patches lie row by row."""
    channels, height, width = image.shape
    rows, cols = height // patch_size, width // patch_size
    return image.reshape(channels, rows, patch_size, cols, patch_size).transpose(0, 2, 1, 3, 4)
