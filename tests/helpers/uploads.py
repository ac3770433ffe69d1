"""Files that people attach."""

import io

from PIL import Image


def png(width=64, height=48, colour="red"):
    data = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(data, "PNG")
    return data.getvalue()


def pdf(num_pages):
    """A document of blank pages, each of another height."""
    pages = [Image.new("RGB", (200, 100 + 10 * index), "white") for index in range(num_pages)]
    data = io.BytesIO()
    pages[0].save(data, "PDF", save_all=True, append_images=pages[1:])
    return data.getvalue()
