"""Inputs that do not belong together are named errors, not numbers."""

import torch


def check_slices(
    pixel_values: torch.Tensor, target_sizes: torch.Tensor | None, patch_size: int
) -> None:
    if target_sizes is None:
        raise ValueError("pixel_values need target_sizes, one row (height, width) per slice.")
    if pixel_values.ndim != 4 or pixel_values.shape[2] != patch_size or not len(pixel_values):
        raise ValueError(
            f"pixel_values has shape {tuple(pixel_values.shape)}; expected (num_slices, channels, "
            f"{patch_size}, {patch_size} * max_patches), as MiniCPMVProcessor returns them. "
            "For text alone, leave it out."
        )
    if target_sizes.shape != (len(pixel_values), 2):
        raise ValueError(
            f"target_sizes has shape {tuple(target_sizes.shape)} and pixel_values "
            f"{len(pixel_values)} rows; both need one row per slice, target_sizes two columns."
        )
    longest = int(target_sizes.prod(dim=1).max())
    if longest * patch_size > pixel_values.shape[3]:
        raise ValueError(
            f"target_sizes tells of a slice of {longest} patches, and pixel_values holds "
            f"{pixel_values.shape[3] // patch_size} per slice."
        )
