"""Pictures for tests."""

import io

import torch
from PIL import Image


def picture(height: int, width: int, seed: int = 0, mode: str = "RGB") -> Image.Image:
    """A picture with areas, edges and noise; the same for the same arguments."""
    generator = torch.Generator().manual_seed(seed)
    areas = torch.rand(1, 3, 4, 4, generator=generator)
    pixels = torch.nn.functional.interpolate(areas, (height, width), mode="nearest")[0]
    pixels = pixels + 0.1 * torch.rand(3, height, width, generator=generator)
    pixels = (pixels.clamp(0, 1) * 255).to(torch.uint8).permute(1, 2, 0)
    return Image.fromarray(pixels.numpy()).convert(mode)


def png_of(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "png")
    return buffer.getvalue()


PNG = png_of(picture(60, 80))
