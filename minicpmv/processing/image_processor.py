"""From an image to what the vision tower reads: resize, cut, normalise, patchify.

Other resizers than that of `pixels.py` change what can be read in a picture, so both class names
below mean this one implementation; torchvision is not needed.

1.0 and OmniLMM-12B squeeze every picture into one square and never cut it.

One row of `pixel_values` is one slice: its patches side by side, (channels, patch_size, patch_size
* patches), with zeros up to the longest slice of the call. `target_sizes` says how many patches are
real.
"""

from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from transformers.image_processing_backends import PilBackend
from transformers.image_processing_utils import BatchFeature
from transformers.processing_utils import ImagesKwargs, Unpack

from ..checkpoint.hub import HUB_KEYWORDS, Checkpoint
from ..errors import meant
from ..media.image import Compat, image_from_array, load_image, to_rgb
from ..releases import Release, release_of
from .batching import nested_images
from .file_checks import check_image_settings
from .image_settings import (
    check_effect,
    check_settings,
    defaults_of,
    hashable,
    normalise_keys,
    settings_without_file,
)
from .pixels import cut, pad_strips, strips_of, unpadded, value_table
from .placeholders import RELEASED_TAGS, image_placeholder
from .slicing import SlicePlan, plan_slices, plan_uncut

_CHANNEL_AXIS: dict[str | None, Literal["first", "last"] | None] = {
    None: None,
    "channels_first": "first",
    "channels_last": "last",
}


class MiniCPMVImageProcessorKwargs(ImagesKwargs, total=False):  # type: ignore[call-arg]
    """What a call may set; each is also an attribute and a key of `preprocessor_config.json`.

    max_slice_nums (`int`, *optional*, defaults to 9):
        Most detail slices of one image, at least 1.
    scale_resolution (`int`, *optional*, defaults to 448):
        Side in pixels of the square whose area a slice has.
    image_size (`int`, *optional*):
        Side in pixels of the square that every picture becomes, in releases that never cut.
    patch_size (`int`, *optional*, defaults to 14):
        Side of a patch in pixels.
    slice_mode (`bool`, *optional*, defaults to `True`):
        False takes the image as it is, neither resized nor cut. Rows and columns that fill no patch
            are left out; 2.0 fills the patch with zeros. Releases that never cut are always False.
    use_image_id (`bool`, *optional*):
        Whether the prompt numbers the images. None: as the release does.
    compat (`"released"`, *optional*):
        Reproduce released behaviour that loses data; see docs/differences.md.
    return_released_layout (`bool`, *optional*):
        Nested lists as the released processors return them.
    return_pixel_values (`bool`, *optional*, defaults to `True`):
        False returns sizes only: pictures are opened, and neither resized nor cut.
    return_row_col_info (`bool`, *optional*):
        Also `image_rows` and `image_cols`: per image the detail slices' grid, 1 x 1 when not cut.
    """

    max_slice_nums: int | None
    scale_resolution: int | None
    image_size: int | None
    patch_size: int | None
    slice_mode: bool | None
    use_image_id: bool | None
    compat: Literal["released"] | None
    return_released_layout: bool | None
    return_pixel_values: bool | None
    return_row_col_info: bool | None


class MiniCPMVImageProcessorPil(PilBackend):
    """Image processor of the MiniCPM-V family.

    Besides the call-time settings above it holds what the prompt needs to know:
    `image_feature_size` (queries per slice), the tags `im_start`, `im_end`, `slice_start`,
    `slice_end`, `im_id_start`, `im_id_end` and `unk`, and the `version` of the release.
    """

    valid_kwargs = MiniCPMVImageProcessorKwargs
    model_input_names = ["pixel_values", "target_sizes"]
    use_thumbnail = True  # trainers ask whether a picture that is cut has its overview beside it

    do_convert_rgb = True
    do_rescale = True
    do_normalize = True
    do_pad = True
    resample = Image.Resampling.BICUBIC
    image_mean = (0.5, 0.5, 0.5)
    image_std = (0.5, 0.5, 0.5)
    max_slice_nums: int | None = 9
    scale_resolution: int | None = 448
    image_size: int | None = None
    patch_size = 14
    slice_mode: bool | None = True
    use_image_id: bool | None = None
    compat: Compat = None

    image_feature_size = 64
    version: str | float = "2.6"
    im_start = RELEASED_TAGS["im_start"]
    im_end = RELEASED_TAGS["im_end"]
    slice_start = RELEASED_TAGS["slice_start"]
    slice_end = RELEASED_TAGS["slice_end"]
    im_id_start = RELEASED_TAGS["im_id_start"]
    im_id_end = RELEASED_TAGS["im_id_end"]
    unk = RELEASED_TAGS["unk"]

    def __init__(self, **kwargs: Unpack[MiniCPMVImageProcessorKwargs]) -> None:
        settings = normalise_keys(kwargs)
        release = release_of({"version": settings.get("version", self.version)})
        settings = defaults_of(release) | settings
        check_effect(release, settings)
        super().__init__(**settings)
        for name in ("version", "image_feature_size", *RELEASED_TAGS):
            setattr(self, name, getattr(self, name))  # so that they are written to the file
        if self.use_image_id is None:
            self.use_image_id = self.release.use_image_id
        check_settings(vars(self))

    @classmethod
    def get_image_processor_dict(
        cls, pretrained_model_name_or_path: Any, **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Settings from `preprocessor_config.json`; for releases without one, `config.json`."""
        try:
            with Checkpoint.at(pretrained_model_name_or_path, kwargs).naming_damage():
                return super().get_image_processor_dict(pretrained_model_name_or_path, **kwargs)
        except OSError:
            settings = settings_without_file(pretrained_model_name_or_path, **kwargs)
            if settings is None:
                raise
        unused = {*HUB_KEYWORDS, "image_processor_filename", "_from_auto", "_from_pipeline"}
        return settings, {key: value for key, value in kwargs.items() if key not in unused}

    @classmethod
    def from_dict(cls, image_processor_dict: dict[str, Any], **kwargs: Any) -> Any:
        check_image_settings(image_processor_dict)
        return super().from_dict(normalise_keys(image_processor_dict), **kwargs)

    def to_dict(self) -> dict[str, Any]:
        """Our attributes, with `norm_mean` and `norm_std` beside them as in released files."""
        released = super().to_dict()
        for name in ("return_released_layout", "return_pixel_values", "return_row_col_info"):
            released.pop(name, None)
        for ours, theirs in (("image_mean", "norm_mean"), ("image_std", "norm_std")):
            if ours in released:
                released[theirs] = released[ours]
        return released

    @property
    def release(self) -> Release:
        """What this release leaves unsaid in its files."""
        return release_of({"version": self.version})

    def fetch_images(self, image_url_or_urls: Any) -> Any:
        """Open whatever stands for an image, keeping the nesting; arrays and tensors pass."""
        if isinstance(image_url_or_urls, list | tuple):
            return [self.fetch_images(item) for item in image_url_or_urls]
        if isinstance(image_url_or_urls, np.ndarray | torch.Tensor):
            return image_url_or_urls
        return load_image(image_url_or_urls)

    def preprocess(
        self, images: Any, **kwargs: Unpack[MiniCPMVImageProcessorKwargs]
    ) -> BatchFeature:
        """Slices of all `images`, one row each, in the order given.

        Args:
            images: one image, a list, or a list of lists (one per sample). An image is anything
                `load_image` opens, or an array.

        Returns:
            pixel_values (num_slices, channels, patch_size, patch_size * max_patches), float32,
            normalised; with `do_pad=False` a list with one unpadded array per slice.
            target_sizes (num_slices, 2): height and width in patches.
            grids: per image (rows, cols) of the detail slices, (0, 0) when not cut.
            num_slices: per image.
            image_sizes: per image (width, height) after it was turned upright.
            With `return_released_layout=True` instead: `pixel_values` list per sample of strips,
            `tgt_sizes` array per sample, `image_sizes` per sample (width, height).

        Raises:
            TypeError: an unknown keyword.
            ValueError: an image cannot be read, or a setting is out of range.
        """
        unknown = sorted(set(kwargs) - set(self.valid_kwargs.__annotations__))
        if unknown:
            raise TypeError(
                f"{type(self).__name__} does not know {', '.join(map(repr, unknown))}."
                f"{meant(unknown[0], sorted(self.valid_kwargs.__annotations__))}"
            )
        check_settings(kwargs)
        check_effect(self.release, kwargs)
        # None means the processor's own setting, as in released calls.
        kwargs = {
            name: value for name, value in kwargs.items() if value is not None or name == "compat"
        }
        return super().preprocess(images, **kwargs)

    def _validate_preprocess_kwargs(self, **kwargs: Any) -> None:
        check_settings(kwargs)

    def _preprocess_image_like_inputs(self, images: Any, *args: Any, **kwargs: Any) -> BatchFeature:
        return self._preprocess(nested_images(images), **kwargs)

    def process_image(
        self,
        image: Any,
        do_convert_rgb: bool | None = True,
        input_data_format: Any = None,
        compat: Compat = None,
        **kwargs: Any,
    ) -> Image.Image:
        """The PIL image that is resized and cut: 8-bit RGB, unless `do_convert_rgb` is False."""
        image = self.fetch_images(image)
        if not isinstance(image, Image.Image):
            side = getattr(input_data_format, "value", input_data_format)
            if side not in _CHANNEL_AXIS:
                raise ValueError(
                    f"input_data_format is {side!r}; it is 'channels_first' or 'channels_last'."
                )
            image = image_from_array(image, _CHANNEL_AXIS[side])
        if do_convert_rgb or image.mode not in ("L", "LA", "RGB", "RGBA"):
            image = to_rgb(image, compat)
        return image

    def _preprocess(
        self,
        images: Iterable[Iterable[Any]],
        *,
        resample: Any,
        do_pad: bool,
        max_slice_nums: int | None,
        scale_resolution: int | None,
        image_size: int | None,
        patch_size: int,
        slice_mode: bool,
        return_released_layout: bool | None = None,
        return_pixel_values: bool | None = None,
        return_row_col_info: bool | None = None,
        return_tensors: Any = None,
        **kwargs: Any,
    ) -> BatchFeature:
        plans: list[SlicePlan] = []
        batches: list[np.ndarray] = []  # one of each image
        strips_per_sample: list[list[np.ndarray]] = []
        sizes_of: list[list[tuple[int, int]]] = []
        image_sizes: list[list[tuple[int, int]]] = []
        for sample in images:
            strips: list[np.ndarray] = []
            sizes: list[tuple[int, int]] = []
            image_sizes.append([])
            for source in sample:
                # One image at a time is open: a video may have many, and large ones.
                image = self.process_image(source, **kwargs)
                image_sizes[-1].append(image.size)
                plan = self._plan(
                    image.height,
                    image.width,
                    max_slice_nums=max_slice_nums,
                    scale_resolution=scale_resolution,
                    image_size=image_size,
                    patch_size=patch_size,
                    slice_mode=slice_mode,
                )
                sizes += plan.target_sizes(patch_size)
                plans.append(plan)
                if return_pixel_values is False:
                    continue
                resized = slice_mode or image_size is not None
                pieces = cut(image, plan, resample) if resized else [image]
                table = _table_for(image, **kwargs)
                batches.append(strips_of(pieces, plan.sizes, patch_size, table))
                strips += unpadded(batches[-1], plan.target_sizes(patch_size))
            strips_per_sample.append(strips)
            sizes_of.append(sizes)

        if return_released_layout:
            return BatchFeature(
                {
                    "pixel_values": [
                        [_as(strip, return_tensors) for strip in strips]
                        for strips in strips_per_sample
                    ],
                    "tgt_sizes": [_as(_int_rows(sizes), return_tensors) for sizes in sizes_of],
                    "image_sizes": image_sizes,
                }
            )
        every_strip = [strip for strips in strips_per_sample for strip in strips]
        every_size = _int_rows(size for sizes in sizes_of for size in sizes)
        out = BatchFeature(
            {
                "pixel_values": _as(
                    batches[0] if len(batches) == 1 else pad_strips(every_strip), return_tensors
                )
                if do_pad and every_strip
                else [_as(strip, return_tensors) for strip in every_strip],
                "target_sizes": _as(every_size, return_tensors),
                "grids": [plan.grid or (0, 0) for plan in plans],
                "num_slices": [plan.num_slices for plan in plans],
                "image_sizes": [size for sizes in image_sizes for size in sizes],
            }
        )
        if return_row_col_info:
            grids = _int_rows(plan.grid or (1, 1) for plan in plans)
            out["image_rows"] = _as(grids[:, 0], return_tensors)
            out["image_cols"] = _as(grids[:, 1], return_tensors)
        return out

    # Below, names and orders of released processors: sizes (width, height), grids (columns, rows).

    def plan(
        self,
        image_size: tuple[int, int],
        max_slice_nums: int | None = None,
        scale_resolution: int | None = None,
    ) -> SlicePlan:
        """How an image of `image_size` = (width, height) pixels is cut where slices are wanted."""
        width, height = image_size
        return self._plan(
            height,
            width,
            max_slice_nums=self.max_slice_nums if max_slice_nums is None else max_slice_nums,
            scale_resolution=self.scale_resolution
            if scale_resolution is None
            else scale_resolution,
            image_size=self.image_size,
            patch_size=self.patch_size,
            slice_mode=True,
        )

    def plan_now(self, height: int, width: int, max_slice_nums: int | None) -> SlicePlan:
        """How `preprocess` treats an image of this size with the settings that are in force."""
        return self._plan(
            height,
            width,
            max_slice_nums=max_slice_nums,
            scale_resolution=self.scale_resolution,
            image_size=self.image_size,
            patch_size=self.patch_size,
            slice_mode=bool(self.slice_mode),
        )

    def _plan(
        self,
        height: int,
        width: int,
        *,
        max_slice_nums: int | None,
        scale_resolution: int | None,
        image_size: int | None,
        patch_size: int,
        slice_mode: bool,
    ) -> SlicePlan:
        if image_size is not None:
            return SlicePlan((image_size, image_size))
        if not slice_mode:
            return plan_uncut(height, width, patch_size, fill=self.release.pads_uncut)
        assert max_slice_nums is not None
        assert scale_resolution is not None
        return plan_slices(
            height,
            width,
            max_slices=max_slice_nums,
            scale_resolution=scale_resolution,
            patch_size=patch_size,
        )

    def get_sliced_grid(
        self,
        image_size: tuple[int, int],
        max_slice_nums: int | None = None,
        never_split: bool = False,
    ) -> list[int] | None:
        """[columns, rows] for an image of (width, height), None when it is not cut."""
        grid = None if never_split else self.plan(image_size, max_slice_nums).grid
        return None if grid is None else [grid[1], grid[0]]

    def get_slice_image_placeholder(
        self,
        image_size: tuple[int, int],
        image_idx: int = 0,
        max_slice_nums: int | None = None,
        use_image_id: bool | None = None,
    ) -> str:
        """Text that stands for an image of (width, height) in the prompt."""
        numbered = self.use_image_id if use_image_id is None else use_image_id
        grid = self.plan(image_size, max_slice_nums).grid if self.slice_mode else None
        return self.placeholder(grid, image_idx if numbered else None)

    def slice_image(
        self,
        image: Image.Image,
        max_slice_nums: int | None = None,
        scale_resolution: int | None = None,
        never_split: bool = False,
    ) -> tuple[Image.Image, list[list[Image.Image]], list[int] | None]:
        """The overview, the cells row by row, and the grid as [columns, rows] or None."""
        plan = self.plan(image.size, 1 if never_split else max_slice_nums, scale_resolution)
        overview, *cells = cut(image, plan, self.resample)
        if plan.grid is None:
            return overview, [], None
        rows, cols = plan.grid
        return overview, [cells[row * cols : (row + 1) * cols] for row in range(rows)], [cols, rows]

    def tags_for(self, use_image_id: bool | None = None) -> list[str]:
        """The reserved strings that stand around images in prompts."""
        names = ["im_start", "im_end", "unk"]
        if self.image_size is None:
            names += ["slice_start", "slice_end"]
        if self.use_image_id if use_image_id is None else use_image_id:
            names += ["im_id_start", "im_id_end"]
        return [getattr(self, name) for name in names]

    def placeholder(self, grid: tuple[int, int] | None, image_id: int | None = None) -> str:
        """Text that stands for an image with this grid of (rows, cols) in the prompt."""
        return image_placeholder(
            grid,
            self.image_feature_size,
            tags={name: getattr(self, name) for name in RELEASED_TAGS},
            tag_every_slice=self.release.slice_tags == "cell",
            image_id=image_id,
        )


class MiniCPMVImageProcessor(MiniCPMVImageProcessorPil):
    """The name that released `preprocessor_config.json` files ask for; the same class."""


def _table_for(
    image: Image.Image,
    do_rescale: bool,
    rescale_factor: float,
    do_normalize: bool,
    image_mean: Any,
    image_std: Any,
    **_: Any,
) -> np.ndarray:
    return value_table(
        len(image.getbands()),
        rescale_factor if do_rescale else None,
        hashable(image_mean) if do_normalize else None,
        hashable(image_std) if do_normalize else None,
    )


def _int_rows(sizes: Iterable[tuple[int, int]]) -> np.ndarray:
    return np.array(list(sizes), np.int64).reshape(-1, 2)


def _as(array: np.ndarray, return_tensors: Any) -> Any:
    kind = getattr(return_tensors, "value", return_tensors)
    array = np.ascontiguousarray(array)
    return torch.from_numpy(array) if kind == "pt" else array
