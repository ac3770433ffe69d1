"""Pixels as rows of patches."""

import numpy as np


def to_patches(pixels: np.ndarray, patch_size: int) -> np.ndarray:
    """(num_patches, channels * patch_size**2): each row one patch of the (height, width, channels)
    pixels, as the convolution sees it.
    """
    rows, cols = pixels.shape[0] // patch_size, pixels.shape[1] // patch_size
    pixels = pixels.reshape(rows, patch_size, cols, patch_size, 3)
    return pixels.transpose(0, 2, 4, 1, 3).reshape(rows * cols, -1)
