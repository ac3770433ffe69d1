"""Pictures to slices and placeholders, each by itself, as vLLM caches them.

What vLLM keeps of a picture, under a hash of its pixels and settings, are its slices and the tokens
that stand for it. The number of a picture (`<image_id>`) follows from its place in the prompt, so
it is written anew where a kept one is used again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoProcessor, AutoTokenizer
from transformers.image_processing_utils import BatchFeature
from vllm.exceptions import VLLMValidationError
from vllm.multimodal.inputs import MultiModalFieldConfig
from vllm.multimodal.processing import (
    BaseDummyInputsBuilder,
    BaseMultiModalProcessor,
    BaseProcessingInfo,
    PromptReplacement,
    PromptUpdateDetails,
)

from ...processing.cutting import Sized, planned, sliced_images, sliced_video
from ...processing.encoding import encode
from ...processing.image_settings import check_effect, check_settings
from ...processing.packing import Sliced, pixels_of
from ...processing.processor import MiniCPMVProcessor
from .tokenizer import MARKERS, check_markers, marker_ids

# What a request or `--mm-processor-kwargs` may set; the rest stands in the files of a checkpoint.
SETTINGS = ("max_slice_nums", "use_image_id")
# Names of what one picture or video has, by kind.
FIELDS = {
    "image": ("pixel_values", "target_sizes", "row_lengths", "grids"),
    "video": ("pixel_values_videos", "target_sizes_videos", "row_lengths_videos", "grids_videos"),
}
_PADDED = "padded_patches"  # set here, so that it is part of the hash
_MOST_DUMMY_FRAMES = 16


class MiniCPMVInfo(BaseProcessingInfo):
    """What vLLM asks of a checkpoint's pictures."""

    def get_hf_processor(self, **kwargs: Any) -> MiniCPMVProcessor:
        config = self.ctx.model_config
        return _processor_of(
            config.model, config.revision, config.tokenizer, config.tokenizer_revision
        )

    def get_supported_mm_limits(self) -> Mapping[str, int | None]:
        return {"image": None, "video": None}

    def get_supported_mm_processor_kwargs(self) -> dict[str, set[str]]:
        return {"text_kwargs": set(), "images_kwargs": set(SETTINGS), "videos_kwargs": set()}

    def settings(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """The settings of a request over those of the server.

        Raises:
            VLLMValidationError: names one that is not known, out of range or without effect.
        """
        server = self.ctx.get_mm_config().mm_processor_kwargs or {}
        found: dict[str, Any] = {}
        for given in (server, asked):
            for name, value in given.items():
                found.update(value if name.endswith("_kwargs") else {name: value})
        unknown = [name for name in found if name not in SETTINGS]
        processor = self.get_hf_processor()
        try:
            if unknown:
                known = " and ".join(SETTINGS)
                raise ValueError(f"{', '.join(unknown)} cannot be set here; {known} can.")
            check_settings(found)
            check_effect(processor.image_processor.release, found)
        except ValueError as error:
            raise VLLMValidationError(str(error), parameter="mm_processor_kwargs") from error
        return {name: value for name, value in found.items() if value is not None}

    def most_slices_size(self) -> tuple[int, int]:
        """(height, width) of a picture that has most slices."""
        images = self.get_hf_processor().image_processor
        most = self.settings({}).get("max_slice_nums", images.max_slice_nums)
        side = images.scale_resolution or images.image_size
        shapes = [
            (rows, cols)
            for rows in range(1, (most or 1) + 1)
            for cols in range(1, (most or 1) // rows + 1)
        ]
        sizes = [(side * rows, side * cols) for rows, cols in sorted(shapes, key=np.prod)]
        return max(sizes, key=lambda size: len(self._planned(size, most).target_sizes))

    def _planned(self, size: tuple[int, int], most: int | None) -> Sliced:
        return planned(self.get_hf_processor().image_processor, [Sized(*size)], most)[0]


class MiniCPMVDummyInputs(BaseDummyInputsBuilder[MiniCPMVInfo]):
    """The largest pictures, by which vLLM measures memory."""

    def get_dummy_text(self, mm_counts: Mapping[str, int]) -> str:
        return "".join(MARKERS[kind] * mm_counts.get(kind, 0) for kind in MARKERS)

    def get_dummy_mm_data(
        self, seq_len: int, mm_counts: Mapping[str, int], mm_options: Mapping[str, Any]
    ) -> dict[str, Any]:
        height, width = self.info.most_slices_size()
        slices = self.info.get_hf_processor().num_queries
        frames = max(1, min(_MOST_DUMMY_FRAMES, seq_len // (4 * (slices + 4))))
        data: dict[str, Any] = {}
        if count := mm_counts.get("image", 0):
            data["image"] = self._get_dummy_images(
                width=width, height=height, num_images=count, overrides=mm_options.get("image")
            )
        if count := mm_counts.get("video", 0):
            data["video"] = self._get_dummy_videos(
                width=width,
                height=height,
                num_frames=frames,
                num_videos=count,
                overrides=mm_options.get("video"),
            )
        return data


class MiniCPMVMultiModalProcessor(BaseMultiModalProcessor[MiniCPMVInfo]):
    """Slices and placeholders of a request's pictures."""

    def apply(self, inputs: Any, timing_ctx: Any) -> Any:
        settings = self.info.settings(inputs.hf_processor_mm_kwargs)
        if self.info.get_hf_processor().release.attend_padding:
            settings[_PADDED] = self._longest(inputs.mm_data_items, settings)
        return super().apply(replace(inputs, hf_processor_mm_kwargs=settings), timing_ctx)

    def _longest(self, mm_items: Any, settings: Mapping[str, Any]) -> int:
        """The most patches of a slice of the request, to which this release pads all of them."""
        images = self.info.get_hf_processor().image_processor
        limit = settings.get("max_slice_nums")
        sliced: list[Sliced] = []
        for kind, items in mm_items.items():
            for item in map(items.get, range(len(items))):
                if item is None:
                    raise VLLMValidationError(
                        f"A {kind} is named by its uuid alone. Send it: in this release the "
                        "padding of each slice depends on all pictures of the request.",
                        parameter=kind,
                    )
                frames = [item] if kind == "image" else list(item)
                sizes = [Sized(*_size_of(frame)) for frame in frames]
                sliced += planned(images, sizes, limit, is_video=kind == "video")
        return max((int(one.target_sizes.prod(axis=1).max()) for one in sliced), default=0)

    def _apply_hf_processor_main(self, mm_items: Any, hf_kwargs: Mapping[str, Any]) -> BatchFeature:
        images = self.info.get_hf_processor().image_processor
        kwargs = {"max_slice_nums": hf_kwargs.get("max_slice_nums")}
        data: dict[str, list[Any]] = {}
        for kind, items in mm_items.items():
            if items.get_passthrough_data():
                raise VLLMValidationError(
                    f"Computed embeddings of a {kind} are not taken; send the {kind}.",
                    parameter=kind,
                )
            for item in map(items.get, range(len(items))):
                if kind == "image":
                    sliced = sliced_images(images, [_picture(item)], kwargs)
                else:
                    sliced = sliced_video(images, [_picture(frame) for frame in item], kwargs)
                sizes = np.concatenate([one.target_sizes for one in sliced])
                lengths = np.full(len(sizes), hf_kwargs.get(_PADDED, 0))
                values = (pixels_of(sliced), sizes, lengths, [one.grid for one in sliced])
                for name, value in zip(FIELDS[kind], values, strict=True):
                    data.setdefault(name, []).append(torch.as_tensor(np.asarray(value)))
        return BatchFeature(data)

    def _get_mm_fields_config(
        self, hf_inputs: BatchFeature, hf_processor_mm_kwargs: Mapping[str, Any]
    ) -> Mapping[str, MultiModalFieldConfig]:
        return {
            name: MultiModalFieldConfig.batched(kind, keep_on_cpu=name in names[1:])
            for kind, names in FIELDS.items()
            for name in names
        }

    def _get_prompt_updates(
        self, mm_items: Any, hf_processor_mm_kwargs: Mapping[str, Any], out_mm_kwargs: Any
    ) -> Sequence[PromptReplacement]:
        processor = self.info.get_hf_processor()
        asked = hf_processor_mm_kwargs.get("use_image_id")
        numbered = processor.image_processor.use_image_id if asked is None else asked
        tokens = marker_ids(self.info.get_tokenizer())
        updates = []
        for kind, items in out_mm_kwargs.items():
            # Only the text needs them.
            grids = [item.pop(FIELDS[kind][3]).data.tolist() for item in items]

            def details(index: int, kind: str = kind, grids: Any = grids) -> PromptUpdateDetails:
                image_id = index if numbered and kind == "image" else None
                text = "\n".join(
                    processor.replace_image_token({"grids": [grid]}, 0, image_id=image_id)
                    for grid in grids[index]
                )
                unk = processor.image_processor.unk
                ids = encode(processor.tokenizer, text, False, unk).ids
                return PromptUpdateDetails.select_token_id(ids, processor.image_token_id)

            updates.append(
                PromptReplacement(modality=kind, target=[tokens[kind]], replacement=details)
            )
        return updates

    def _recompute_cached_prompt_update(self, cached_update: Any, new_item_idx: int) -> Any:
        update = super()._recompute_cached_prompt_update(cached_update, new_item_idx)
        if update.modality != "image":
            return update
        processor = self.info.get_hf_processor()
        images, tokenizer = processor.image_processor, processor.tokenizer
        tags = (images.im_id_start, images.im_id_end)
        number = _number_ids(tokenizer, *tags, new_item_idx)
        start, end = tokenizer.convert_tokens_to_ids(list(tags))
        ids = renumbered(update.content.full, start, end, number)
        return update.with_content(
            PromptUpdateDetails.select_token_id(ids, processor.image_token_id)
        )

    def _apply_prompt_updates(self, token_ids: list[int], mm_prompt_updates: Any) -> Any:
        counts = {kind: len(mm_prompt_updates.get(kind, ())) for kind in MARKERS}
        check_markers(token_ids, counts, marker_ids(self.info.get_tokenizer()))
        return super()._apply_prompt_updates(token_ids, mm_prompt_updates)


def renumbered(ids: list[int], start: int, end: int, number: list[int]) -> list[int]:
    """The tokens of a picture with another number between its tags `start` and `end`; as they are
    where it has none."""
    if ids[0] != start or end not in ids:
        return ids
    return [start, *number, *ids[ids.index(end) :]]


@lru_cache(maxsize=512)
def _number_ids(tokenizer: Any, start: str, end: str, number: int) -> list[int]:
    """The tokens of a number between its tags."""
    return encode(tokenizer, f"{start}{number}{end}", False).ids[1:-1]


@lru_cache(maxsize=4)
def _processor_of(
    model: str, revision: str | None, tokenizer: str, tokenizer_revision: str | None
) -> MiniCPMVProcessor:
    processor = AutoProcessor.from_pretrained(model, revision=revision)
    if (tokenizer, tokenizer_revision) != (model, revision):
        processor.tokenizer = AutoTokenizer.from_pretrained(tokenizer, revision=tokenizer_revision)
    return processor


def _picture(image: Any) -> Any:
    """Frames that vLLM decoded are arrays (height, width, 3) of bytes."""
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.shape[-1] == 3:
        return Image.fromarray(image)
    return image


def _size_of(image: Any) -> tuple[int, int]:
    """Height and width."""
    image = _picture(image)
    if isinstance(image, Image.Image):
        return image.height, image.width
    height, width = image.shape[:2] if image.shape[-1] in (1, 3, 4) else image.shape[-2:]
    return int(height), int(width)


__all__ = [
    "FIELDS",
    "SETTINGS",
    "MiniCPMVDummyInputs",
    "MiniCPMVInfo",
    "MiniCPMVMultiModalProcessor",
    "renumbered",
]
