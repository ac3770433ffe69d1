"""Text and images to model inputs: one `BatchFeature` for a batch of conversations.

The chat template writes one marker per image, `(<image>./</image>)`. Here each marker becomes the text around
the slices (image id, tags, `num_queries` fillers per slice), and the slices of all samples become rows of
`pixel_values` in prompt order.

Unusual here: text inside chat messages is data. A tag such as `<image>` or `<|im_end|>` that a user types is
encoded as plain characters; only the template and this file write the real ones.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers.image_processing_utils import BatchFeature
from transformers.processing_utils import (
    MultiModalData,
    ProcessingKwargs,
    ProcessorMixin,
    TextKwargs,
    Unpack,
)

from ..versions import Release
from .image_processor import MiniCPMVImageProcessorKwargs, nested_images, pad_strips
from .messages import QUOTE_START, normalised, reserved_tags, unquoted
from .placeholders import IMAGE_MARKER, MARKER, VIDEO_MARKER
from .tokenizer import name_tags

_UNSUPPORTED_TEXT_KWARGS = (
    "text_pair", "text_target", "text_pair_target", "stride", "is_split_into_words", "return_overflowing_tokens",
    "return_special_tokens_mask", "return_length", "return_token_type_ids",
)  # fmt: skip
# Applied in this order by the tokenizer of 2.5 when it decodes.
_SPACE_CLEAN_UPS = (
    (" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"), (" n't", "n't"), (" 'm", "'m"),
    (" 's", "'s"), (" 've", "'ve"), (" 're", "'re"),
)  # fmt: skip


class MiniCPMVTextKwargs(TextKwargs, total=False):
    """
    max_inp_length (`int`, *optional*):
        Cut the prompt on the right to this many tokens, as the released `chat()` does. Cutting into an image
        is an error.
    """

    max_inp_length: int | None


class MiniCPMVProcessorKwargs(ProcessingKwargs, total=False):
    """Keywords of `MiniCPMVProcessor.__call__`, flat or grouped by what they steer."""

    text_kwargs: MiniCPMVTextKwargs
    images_kwargs: MiniCPMVImageProcessorKwargs
    _defaults = {}


class MiniCPMVProcessor(ProcessorMixin):
    """Image processor and tokenizer of one checkpoint, behind one call.

    Args:
        image_processor: `MiniCPMVImageProcessorPil`; it also holds the tags and the release.
        tokenizer: the tokenizer of the checkpoint.
        chat_template: Jinja text; None takes the template of the release.
    """

    valid_processor_kwargs = MiniCPMVProcessorKwargs
    return_mm_token_type_ids = True

    def __init__(
        self, image_processor: Any = None, tokenizer: Any = None, chat_template: Any = None
    ) -> None:
        super().__init__(image_processor, tokenizer, chat_template=chat_template)
        if self.chat_template is None:
            self.chat_template = released_chat_template(self.release)
        self.image_token = IMAGE_MARKER
        self.video_token = VIDEO_MARKER
        self.image_token_id = tokenizer.convert_tokens_to_ids(image_processor.unk)
        name_tags(tokenizer)

    @property
    def release(self) -> Release:
        """What this release leaves unsaid in its files."""
        return self.image_processor.release

    @property
    def num_queries(self) -> int:
        """Visual tokens per slice."""
        return self.image_processor.image_feature_size

    @property
    def model_input_names(self) -> list[str]:
        return ["input_ids", "attention_mask", "mm_token_type_ids", "pixel_values", "target_sizes"]

    @property
    def terminator_ids(self) -> list[int]:
        """Ids that end an answer."""
        return [self.tokenizer.convert_tokens_to_ids(token) for token in self.release.terminators]

    def __call__(
        self,
        text: str | Sequence[str] | None = None,
        images: Any = None,
        videos: Any = None,
        **kwargs: Unpack[MiniCPMVProcessorKwargs],
    ) -> BatchFeature:
        """Model inputs for one prompt or a batch of them.

        Args:
            text: prompts with one marker `(<image>./</image>)` per image and `(<video>./</video>)` per video.
            images: a list of images per prompt; or a flat list when its length is the number of markers; or one
                image. An image is a PIL image, a path, bytes, a URL, a file or an array.
            videos: the same, where a video is a list of frames. Frames get no image id, and at most
                `max_slice_nums` detail slices each (default 2, and 1 for more than 16 frames, as published).
            kwargs: `padding` (default True), `padding_side` (default "left"), `return_tensors` (default "pt"),
                `max_slice_nums`, `use_image_id`, `max_inp_length`, `compat`, `return_released_layout`, and the
                other keywords of the image processor and the tokenizer.

        Returns:
            input_ids, attention_mask (batch, seq); mm_token_type_ids (batch, seq), 1 at visual placeholders;
            pixel_values (num_slices, 3, patch_size, patch_size * max_patches) and target_sizes (num_slices, 2)
            when there are images. With `return_released_layout=True`: `pixel_values`, `tgt_sizes`,
            `image_sizes` and `image_bound` as lists per sample.

        Raises:
            TypeError: an unknown keyword, or text in place of images.
            ValueError: images and markers do not match, a setting is out of range, or an image would be cut.
        """
        if text is None and images is None and videos is None:
            raise ValueError("Nothing was given. Pass text, images, or both.")
        if kwargs.pop("audio", None) is not None:
            raise ValueError("This model family does not hear; remove audio.")
        kwargs = {
            name: value for name, value in kwargs.items() if not _is_empty_video_key(name, value)
        }
        self._check_keywords(kwargs)
        merged = self._merge_kwargs(
            MiniCPMVProcessorKwargs,
            tokenizer_init_kwargs=self.tokenizer.init_kwargs,
            **kwargs,
        )
        text_kwargs, images_kwargs = merged["text_kwargs"], merged["images_kwargs"]
        return_tensors = text_kwargs.get("return_tensors", "pt")
        compat = images_kwargs.get("compat", self.image_processor.compat)
        images_kwargs["compat"] = compat
        released_layout = bool(images_kwargs.pop("return_released_layout", False))
        images_kwargs.pop("return_tensors", None)

        if text is None:
            return self._only_images(images, images_kwargs, return_tensors, released_layout)
        prompts = _prompts(text)
        markers = [_markers(prompt) for prompt in prompts]
        image_lists = _per_sample(images, [kinds.count("image") for kinds in markers], "image")
        video_lists = _per_sample(
            _videos(videos, kwargs), [kinds.count("video") for kinds in markers], "video"
        )
        if any(kinds for kinds in markers):
            self._check_tags(images_kwargs)

        features = self._features(image_lists, images_kwargs)
        frame_features = [
            self._features([video], self._frame_kwargs(images_kwargs, len(video)))
            for sample in video_lists
            for video in sample
        ]
        image_texts = self._image_texts(image_lists, features, images_kwargs)
        video_texts = [
            "\n".join(
                self.replace_image_token(video, index) for index in range(len(video["grids"]))
            )
            for video in frame_features
        ]
        prompts, replacements = self.get_text_with_replacements(prompts, image_texts, video_texts)

        explicit = {**kwargs, **kwargs.get("text_kwargs", {}), **kwargs.get("common_kwargs", {})}
        encoded = [
            self._encode(prompt, self._adds_special_tokens(prompt, text_kwargs, explicit, compat))
            for prompt in prompts
        ]
        limit = self._length_limit(text_kwargs)
        placeholder_masks = []
        for index, (ids, offsets) in enumerate(encoded):
            spans = [item["new_span"] for item in replacements[index]]
            mask = self._placeholder_mask(ids, offsets, spans)
            if limit is not None and len(ids) > limit:
                self._check_cut(index, offsets, spans, limit, images_kwargs)
                encoded[index], mask = (ids[:limit], offsets[:limit]), mask[:limit]
            placeholder_masks.append(mask)

        rows = _rows_in_prompt_order(markers, features, frame_features)
        data: dict[str, Any] = self._padded(
            [ids for ids, _ in encoded],
            [offsets for _, offsets in encoded],
            placeholder_masks,
            text_kwargs,
            explicit,
            compat,
        )
        if merged["text_kwargs"].get("return_attention_mask") is False:
            del data["attention_mask"]
        if not text_kwargs.get("return_offsets_mapping"):
            del data["offset_mapping"]
        if released_layout:
            return _released_layout(data, rows, return_tensors)
        if not self._wants(merged, kwargs, "return_mm_token_type_ids", True):
            del data["mm_token_type_ids"]
        if any(rows):
            images_in_order = [image for sample in rows for image in sample]
            strips = [strip for image in images_in_order for strip in image.strips]
            data["pixel_values"] = (
                pad_strips(strips) if images_kwargs.get("do_pad", True) else strips
            )
            data["target_sizes"] = np.concatenate([image.sizes for image in images_in_order])
        out = BatchFeature(_converted(data, return_tensors))
        if self._wants(merged, kwargs, "return_text_replacement_offsets", False):
            out["text_replacement_offsets"] = replacements
        return out

    def replace_image_token(self, image_inputs: Mapping, image_idx: int, **kwargs: Any) -> str:
        """Text that stands for image `image_idx` of what the image processor returned.

        `image_id` in `kwargs` is the number to write in front, None for none.
        """
        rows, cols = image_inputs["grids"][image_idx]
        return self.image_processor.placeholder(
            (rows, cols) if rows else None, kwargs.get("image_id")
        )

    def get_text_with_replacements(
        self,
        text: list[str],
        images_replacements: Sequence[str] = (),
        videos_replacements: Sequence[str] = (),
        audio_replacements: Sequence[str] = (),
    ) -> tuple[list[str], list[list[dict[str, Any]]]]:
        """Put the replacements in place of the markers, in order through the batch.

        Returns:
            The prompts, and per prompt one dict per marker: `type`, `span` (in the given text), `new_span` (in
            the returned text), `text` and `replacement`.
        """
        replacements = {"image": iter(images_replacements), "video": iter(videos_replacements)}
        prompts, all_offsets = [], []
        for prompt in text:
            pieces, offsets, last, length = [], [], 0, 0
            for match in MARKER.finditer(prompt):
                kind = "image" if match.group() == IMAGE_MARKER else "video"
                replacement = next(replacements[kind], None)
                if replacement is None:
                    continue  # engines that expand the markers themselves pass none
                pieces += [prompt[last : match.start()], replacement]
                start = length + match.start() - last
                length = start + len(replacement)
                offsets.append(
                    {
                        "type": kind,
                        "span": match.span(),
                        "new_span": (start, length),
                        "text": match.group(),
                        "replacement": replacement,
                    }
                )
                last = match.end()
            prompts.append("".join([*pieces, prompt[last:]]))
            all_offsets.append(offsets)
        return prompts, all_offsets

    def apply_chat_template(  # type: ignore[override]
        self,
        conversation: Any,
        chat_template: str | None = None,
        tokenize: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Prompt text, or with `tokenize=True` the inputs, of one conversation or a list of them.

        Args:
            conversation: messages with `role` and `content`. Content is text, or a list of text, images, and
                blocks: `{"type": "text", "text": ...}`, `{"type": "image", "image"|"url"|"path"|"base64": ...}`,
                `{"type": "video", "video": [frames]}`, and OpenAI's `image_url`.
            kwargs: as in transformers; `processor_kwargs` go to the call (`max_slice_nums`, ...).

        Reserved tags in the messages become plain text when `tokenize=True`, and markers too, unless the images
        are passed beside the messages in `processor_kwargs["images"]`. With `compat="released"` they
        keep their meaning, as they did in the released models.
        """
        batched = bool(conversation) and (
            isinstance(conversation[0], list | tuple) or hasattr(conversation[0], "content")
        )
        conversations = conversation if batched else [conversation]
        processor_kwargs = kwargs.get("processor_kwargs") or {}
        compat = processor_kwargs.get("compat", self.image_processor.compat)
        quote = None
        if tokenize and compat != "released":
            quote = reserved_tags(
                map(str, self.tokenizer.added_tokens_encoder),
                keep_markers=processor_kwargs.get("images") is not None,
            )
        conversations = [
            normalised(messages, quote, check_roles=chat_template is None)
            for messages in conversations
        ]
        return super().apply_chat_template(
            conversations if batched else conversations[0],
            chat_template,
            tokenize=tokenize,
            **kwargs,
        )

    def decode_answer(self, output_ids: Any, *, cut: bool = True, strip: bool = True) -> str:
        """The text of one generated answer.

        It ends before the first terminator (with `cut=False` only a trailing one is removed), loses a leading
        begin-of-sequence token, keeps other special tokens, and is stripped (a stream of the released code was
        not: `strip=False`). The tokenizer of 2.5 also removes
        the space before punctuation. With `compat="released"` every id 0 ("!") is deleted, as released.
        """
        ids = [int(token) for token in np.asarray(output_ids).reshape(-1).tolist()]
        terminators = set(self.terminator_ids)
        if cut:
            ends = [index for index, token in enumerate(ids) if token in terminators]
            ids = ids[: ends[0]] if ends else ids
        if self.image_processor.compat == "released":
            ids = [token for token in ids if token != 0]
        if ids and ids[0] == self.tokenizer.bos_token_id:
            ids = ids[1:]
        if ids and ids[-1] in terminators:
            ids = ids[:-1]
        text = self.tokenizer.decode(
            ids, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        text = self.clean_up_spaces(text)
        return text.strip() if strip else text

    def clean_up_spaces(self, text: str) -> str:
        """`text` without the spaces that the tokenizer of 2.5 removes; unchanged for other releases."""
        if self.release.clean_up_spaces:
            for found, replacement in _SPACE_CLEAN_UPS:
                text = text.replace(found, replacement)
        return text

    def post_process_image_text_to_text(
        self, generated_outputs: Any, skip_special_tokens: bool = True, **kwargs: Any
    ) -> list[str]:
        """Texts of a batch of outputs, for transformers' pipelines."""
        kwargs.setdefault("clean_up_tokenization_spaces", False)
        texts = self.tokenizer.batch_decode(
            generated_outputs, skip_special_tokens=skip_special_tokens, **kwargs
        )
        return [self.clean_up_spaces(text).strip() for text in texts]

    def _get_num_multimodal_tokens(
        self, image_sizes: Iterable[tuple[int, int]] | None = None, **kwargs: Any
    ) -> MultiModalData:
        """Visual tokens and slices of images of (height, width), by arithmetic only."""
        if image_sizes is None:
            return MultiModalData()
        slices = []
        for height, width in image_sizes:
            uncut = not kwargs.get("slice_mode", self.image_processor.slice_mode)
            plan = self.image_processor.plan(
                (width, height),
                1 if uncut else kwargs.get("max_slice_nums"),
                kwargs.get("scale_resolution"),
            )
            slices.append(plan.num_slices)
        return MultiModalData(
            num_image_tokens=[num_slices * self.num_queries for num_slices in slices],
            num_image_patches=slices,
        )

    def save_pretrained(
        self, save_directory: Any, push_to_hub: bool = False, **kwargs: Any
    ) -> list[str]:
        """Write the processor's files, with `preprocessor_config.json` as released files have it."""
        files = super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)
        self.image_processor.save_pretrained(save_directory)
        return files

    def _only_images(
        self, images: Any, kwargs: dict[str, Any], return_tensors: Any, released_layout: bool
    ) -> BatchFeature:
        features = self.image_processor.preprocess(
            images,
            **kwargs,
            return_tensors=return_tensors,
            return_released_layout=released_layout,
        )
        if released_layout:
            return features
        names = self.image_processor.model_input_names
        return BatchFeature({name: _listed(features[name], return_tensors) for name in names})

    def _features(self, samples: list[list[Any]], kwargs: dict[str, Any]) -> dict[str, list[Any]]:
        """`grids` and `rows` (a `_Sliced`) per image, for all images of `samples` in order."""
        flat = [image for sample in samples for image in sample]
        if not flat:
            return {"grids": [], "rows": []}
        features = self.image_processor.preprocess(flat, **{**kwargs, "do_pad": False})
        starts = list(accumulate(features["num_slices"], initial=0))
        rows = [
            _Sliced(
                features["pixel_values"][start:end],
                features["target_sizes"][start:end],
                features["image_sizes"][index],
            )
            for index, (start, end) in enumerate(pairwise(starts))
        ]
        return {"grids": features["grids"], "rows": rows}

    def _frame_kwargs(self, images_kwargs: dict[str, Any], num_frames: int) -> dict[str, Any]:
        if images_kwargs.get("max_slice_nums") is not None:
            return images_kwargs
        most = min(2 if num_frames <= 16 else 1, self.image_processor.max_slice_nums)
        return {**images_kwargs, "max_slice_nums": most}

    def _image_texts(
        self, samples: list[list[Any]], features: Mapping, kwargs: dict[str, Any]
    ) -> list[str]:
        numbered = self._use_image_id(kwargs)
        texts = []
        for sample in samples:
            for image_id in range(len(sample)):
                texts.append(
                    self.replace_image_token(
                        features, len(texts), image_id=image_id if numbered else None
                    )
                )
        return texts

    def _use_image_id(self, images_kwargs: dict[str, Any]) -> bool:
        asked = images_kwargs.get("use_image_id")
        return self.image_processor.use_image_id if asked is None else asked

    def _check_tags(self, images_kwargs: dict[str, Any]) -> None:
        """The vocabulary has the tags that will be written."""
        ours = self.image_processor
        tags = [ours.im_start, ours.im_end, ours.slice_start, ours.slice_end, ours.unk]
        if self._use_image_id(images_kwargs):
            tags += [ours.im_id_start, ours.im_id_end]
        added = self.tokenizer.added_tokens_encoder
        missing = [tag for tag in tags if tag not in added]
        if missing:
            raise ValueError(
                f"The tokenizer lacks {', '.join(missing)}, which stand around images in release "
                f"{ours.version}. Use the checkpoint's own tokenizer, and use_image_id=False where the "
                "release has no image ids."
            )

    def _adds_special_tokens(
        self, prompt: str, text_kwargs: Mapping, explicit: Mapping, compat: Any
    ) -> bool:
        if "add_special_tokens" in explicit:
            return explicit["add_special_tokens"]
        # A prompt that begins with the begin-of-sequence token has come from the template. The released
        # code lets the tokenizer add a second one if it wants to.
        bos = self.tokenizer.bos_token
        return compat == "released" or not (bos and prompt.startswith(bos))

    def _encode(
        self, text: str, add_special_tokens: bool
    ) -> tuple[list[int], list[tuple[int, int]]]:
        """Ids, and the span of each token in `text`; what stands in quotes is plain characters."""
        if QUOTE_START not in text:
            return self._encode_plain(text, add_special_tokens)
        bare, positions, quoted = unquoted(text)
        specials = [
            match.span()
            for match in self._special_tokens().finditer(bare)
            if not any(start < match.end() and match.start() < end for start, end in quoted)
        ]
        # The tokenizer splits text at special tokens and encodes each piece by itself. So the pieces that hold a
        # quoted tag can be encoded apart, with special tokens read as characters, and nothing else changes.
        borders = [0, *(position for span in specials for position in span), len(bare)]
        apart = [
            (start, end)
            for start, end in zip(borders[::2], borders[1::2], strict=True)
            if any(start <= s and e <= end for s, e in quoted)
        ]
        stretches, last = [], 0
        for start, end in apart:
            stretches += [(last, start, False), (start, end, True)]
            last = end
        stretches.append((last, len(bare), False))
        ids = self._encode_plain("", add_special_tokens)[0]
        offsets = [(0, 0)] * len(ids)
        for start, end, as_characters in stretches:
            piece_ids, piece_offsets = self._encode_plain(bare[start:end], False, as_characters)
            ids += piece_ids
            offsets += [
                (positions[start + s], positions[start + e - 1] + 1 if e else positions[start])
                for s, e in piece_offsets
            ]
        return ids, offsets

    def _encode_plain(
        self, text: str, add_special_tokens: bool, as_characters: bool = False
    ) -> tuple[list[int], list[tuple[int, int]]]:
        if not text and not add_special_tokens:
            return [], []
        encoding = self.tokenizer(
            text,
            add_special_tokens=add_special_tokens,
            split_special_tokens=as_characters,
            return_offsets_mapping=True,
            return_attention_mask=False,
            return_token_type_ids=False,
            padding=False,
            truncation=False,
            verbose=False,
        )
        return list(encoding["input_ids"]), [tuple(span) for span in encoding["offset_mapping"]]

    def _special_tokens(self) -> re.Pattern:
        added = [str(token) for token in self.tokenizer.added_tokens_encoder]
        return re.compile("|".join(map(re.escape, sorted(added, key=len, reverse=True))) or "(?!)")

    def _placeholder_mask(
        self,
        ids: list[int],
        offsets: list[tuple[int, int]],
        spans: list[tuple[int, int]],
    ) -> np.ndarray:
        """1 where a token is a filler that this file wrote, 0 elsewhere."""
        mask = np.zeros(len(ids), np.int64)
        if spans:
            starts = np.array([start for start, _ in offsets])
            fillers = np.array(ids) == self.image_token_id
            for start, end in spans:
                mask |= fillers & (starts >= start) & (starts < end)
        return mask

    def _length_limit(self, text_kwargs: dict[str, Any]) -> int | None:
        limit = text_kwargs.get("max_inp_length")
        if limit is not None and (
            isinstance(limit, bool) or not isinstance(limit, int) or limit < 1
        ):
            raise ValueError(
                f"max_inp_length is {limit!r}; it must be a whole number of at least 1."
            )
        truncation = text_kwargs.get("truncation")
        if truncation and str(getattr(truncation, "value", truncation)) != "do_not_truncate":
            max_length = text_kwargs.get("max_length") or self.tokenizer.model_max_length
            limit = max_length if limit is None else min(limit, max_length)
        return limit

    def _check_cut(
        self,
        index: int,
        offsets: list[tuple[int, int]],
        spans: list[tuple[int, int]],
        limit: int,
        images_kwargs: dict[str, Any],
    ) -> None:
        if not spans:
            return
        last_end = spans[-1][1]
        needed = sum(start < last_end for start, _ in offsets)
        if needed > limit:
            slices = images_kwargs.get("max_slice_nums") or self.image_processor.max_slice_nums
            raise ValueError(
                f"Sample {index} has {len(offsets)} tokens and its last image ends at token {needed}, but the "
                f"prompt may have {limit}; cutting there would cut an image. Raise max_inp_length to at least "
                f"{len(offsets)}, or lower max_slice_nums (now {slices}), or give fewer images."
            )

    def _padded(
        self,
        all_ids: list[list[int]],
        all_offsets: list[list[tuple[int, int]]],
        placeholder_masks: list[np.ndarray],
        text_kwargs: dict[str, Any],
        explicit: Mapping,
        compat: Any,
    ) -> dict[str, list]:
        side = explicit.get("padding_side") or "left"
        padding = text_kwargs.get("padding", True)
        padding = getattr(padding, "value", padding)
        length = None
        if padding == "max_length":
            length = text_kwargs.get("max_length")
            if length is None:
                raise ValueError("padding='max_length' needs max_length.")
        elif padding in (True, "longest"):
            length = max((len(ids) for ids in all_ids), default=0)
        elif padding not in (False, None, "do_not_pad"):
            raise ValueError(
                f"padding is {padding!r}; it is True, False, 'longest' or 'max_length'."
            )
        multiple = text_kwargs.get("pad_to_multiple_of")
        if length is not None and multiple:
            length = -(-length // multiple) * multiple

        pad_id = 0 if compat == "released" else self.tokenizer.pad_token_id
        data: dict[str, list] = {
            "input_ids": [], "attention_mask": [], "mm_token_type_ids": [], "offset_mapping": []
        }  # fmt: skip
        for ids, offsets, mask in zip(all_ids, all_offsets, placeholder_masks, strict=True):
            missing = max((length or 0) - len(ids), 0)
            if missing and pad_id is None:
                raise ValueError(
                    "The tokenizer has no pad token, so prompts of different length cannot be batched. "
                    "Set tokenizer.pad_token."
                )
            attended = [1] * len(ids)
            if compat == "released" and self.release.mask_token_zero:
                attended = [int(token != 0) for token in ids]
            for name, values, fill in (
                ("input_ids", ids, pad_id),
                ("attention_mask", attended, 0),
                ("mm_token_type_ids", mask.tolist(), 0),
                ("offset_mapping", offsets, (0, 0)),
            ):
                filling = [fill] * missing
                data[name].append([*filling, *values] if side == "left" else [*values, *filling])
        return data

    def _check_keywords(self, kwargs: Mapping) -> None:
        groups = {
            name: set(annotation.__annotations__)
            for name, annotation in MiniCPMVProcessorKwargs.__annotations__.items()
            if hasattr(annotation, "__annotations__")
        }
        flat = set().union(*groups.values(), MiniCPMVProcessorKwargs.__annotations__)
        flat |= {"common_kwargs", "return_mm_token_type_ids", "return_text_replacement_offsets"}
        unknown = set(kwargs) - flat
        for group, known in groups.items():
            unknown |= {f"{group}[{name!r}]" for name in set(kwargs.get(group) or {}) - known}
        if unknown:
            ours = set(MiniCPMVImageProcessorKwargs.__annotations__) & {
                "max_slice_nums", "use_image_id", "slice_mode", "compat", "return_released_layout"
            }  # fmt: skip
            raise TypeError(
                f"MiniCPMVProcessor does not know {', '.join(sorted(unknown))}. Known here: "
                f"{', '.join(sorted(ours | {'max_inp_length'}))}, and the keywords of transformers' processors."
            )
        for name in _UNSUPPORTED_TEXT_KWARGS:
            if kwargs.get(name) or (kwargs.get("text_kwargs") or {}).get(name):
                raise ValueError(f"{name} is not supported: a prompt is one text per sample.")

    @staticmethod
    def _wants(merged: Mapping, kwargs: Mapping, name: str, default: bool) -> bool:
        for source in (kwargs, kwargs.get("text_kwargs") or {}, merged):
            if source.get(name) is not None:
                return bool(source[name])
        return default


def released_chat_template(release: Release) -> str:
    """The Jinja text of a release."""
    return (Path(__file__).parent / "chat_templates" / release.chat_template).read_text("utf-8")


def choose_frames(frames: Sequence[Any], num_frames: int) -> list[Any]:
    """`num_frames` of the frames, spread evenly, as published for 2.6: the middle of each of equal parts."""
    if num_frames < 1:
        raise ValueError(f"num_frames is {num_frames}; it must be at least 1.")
    if len(frames) <= num_frames:
        return list(frames)
    gap = len(frames) / num_frames
    return [frames[int(index * gap + gap / 2)] for index in range(num_frames)]


class _Sliced(NamedTuple):
    """One image: its strips, their sizes in patches (num_slices, 2), and its (width, height)."""

    strips: list[np.ndarray]
    sizes: np.ndarray
    image_size: tuple[int, int]


def _prompts(text: Any) -> list[str]:
    if isinstance(text, str):
        return [text]
    if isinstance(text, list | tuple) and all(isinstance(prompt, str) for prompt in text):
        return list(text)
    raise TypeError(
        f"text is {type(text).__name__}; it must be a prompt or a list of prompts. "
        "Images go to images=, chat messages to apply_chat_template()."
    )


def _markers(prompt: str) -> list[str]:
    return ["image" if found == IMAGE_MARKER else "video" for found in MARKER.findall(prompt)]


def _per_sample(items: Any, counts: list[int], kind: str) -> list[list[Any]]:
    """`items` as one list per sample, checked against the markers of each."""
    marker = IMAGE_MARKER if kind == "image" else VIDEO_MARKER
    advice = (
        f"{marker} tokens in the prompts should be the same as the number of {kind}s: "
        f"add one per {kind}, or pass {kind}s=[[a], [b, c]], a list per sample."
    )
    if items is None:
        items = [[] for _ in counts]
    elif kind == "image":
        nested = isinstance(items, list | tuple) and any(
            isinstance(item, list | tuple) or item is None for item in items
        )
        items = nested_images(items)
        if not nested:
            items = _distribute(items[0], counts, kind, advice)
    elif isinstance(items, _Flat):
        items = _distribute(list(items), counts, kind, advice)
    if len(items) != len(counts):
        raise ValueError(f"{len(counts)} prompts but {len(items)} lists of {kind}s. {advice}")
    for index, (given, count) in enumerate(zip(items, counts, strict=True)):
        if len(given) != count:
            raise ValueError(
                f"Sample {index} has {count} {kind} placeholders but {len(given)} {kind}s were given. {advice}"
            )
    return items


def _distribute(items: list[Any], counts: list[int], kind: str, advice: str) -> list[list[Any]]:
    if len(items) != sum(counts):
        place = "Sample 0 has" if len(counts) == 1 else f"{len(counts)} prompts have"
        raise ValueError(
            f"{place} {sum(counts)} {kind} placeholders but {len(items)} {kind}s were given. {advice}"
        )
    starts = list(accumulate(counts, initial=0))
    return [items[start:end] for start, end in pairwise(starts)]


class _Flat(list):
    """Videos given without saying which sample each belongs to."""


def _videos(videos: Any, kwargs: Mapping) -> Any:
    """Videos as lists of frames: a list per sample, or `_Flat`."""
    if videos is None:
        return None
    settings = {**kwargs, **(kwargs.get("videos_kwargs") or {})}
    if settings.get("fps") is not None:
        raise ValueError(
            "fps needs a video file; frames have no time. Use num_frames, or choose frames."
        )
    num_frames = settings.get("num_frames")

    def frames_of(video: Any) -> list[Any]:
        if isinstance(video, str | Path):
            raise ValueError(
                f"A video is a list of frames here, not the file {str(video)!r}. Take frames from it first."
            )
        frames = list(video)
        if not frames:
            raise ValueError("A video has no frames.")
        return frames if num_frames is None else choose_frames(frames, num_frames)

    depth = _depth(videos)
    if depth <= 1:
        return _Flat([frames_of(videos)])
    if depth == 2:
        return _Flat([frames_of(video) for video in videos])
    return [[frames_of(video) for video in sample or []] for sample in videos]


def _depth(item: Any) -> int:
    if isinstance(item, np.ndarray | torch.Tensor):
        return item.ndim - 3
    if isinstance(item, list | tuple):
        return 1 + max((_depth(inner) for inner in item), default=0)
    return 0


def _is_empty_video_key(name: str, value: Any) -> bool:
    return name in ("num_frames", "fps") and value is None


def _rows_in_prompt_order(
    markers: list[list[str]], features: Mapping, frame_features: list[Mapping]
) -> list[list["_Sliced"]]:
    images, videos = iter(features["rows"]), iter(frame_features)
    samples = []
    for kinds in markers:
        rows: list[_Sliced] = []
        for kind in kinds:
            rows += [next(images)] if kind == "image" else next(videos)["rows"]
        samples.append(rows)
    return samples


def _released_layout(
    data: dict[str, list], rows: list[list["_Sliced"]], return_tensors: Any
) -> BatchFeature:
    """Nested lists as the released processors return them: per sample, then per slice."""
    edges = [np.diff([0, *mask, 0]) for mask in data["mm_token_type_ids"]]
    bounds = [
        np.stack([np.flatnonzero(edge == 1), np.flatnonzero(edge == -1)], axis=1) for edge in edges
    ]
    sizes = [
        np.concatenate([image.sizes for image in sample]) if sample else np.zeros((0, 2), np.int64)
        for sample in rows
    ]
    out = BatchFeature(_converted(data, return_tensors))
    out["image_bound"] = [_listed(bound, return_tensors) for bound in bounds]
    out["pixel_values"] = [
        [_listed(strip, return_tensors) for image in sample for strip in image.strips]
        for sample in rows
    ]
    out["tgt_sizes"] = [_listed(size, return_tensors) for size in sizes]
    out["image_sizes"] = [[image.image_size for image in sample] for sample in rows]
    return out


def _converted(data: Mapping[str, Any], return_tensors: Any) -> dict[str, Any]:
    """Everything as tensors, as arrays, or (None) as lists."""
    kind = getattr(return_tensors, "value", return_tensors)
    if kind is None:
        return {name: list(values) for name, values in data.items()}
    lengths = {len(ids) for ids in data["input_ids"]}
    if len(lengths) > 1:
        raise ValueError(
            f"Prompts of {min(lengths)} to {max(lengths)} tokens cannot become one tensor without padding. "
            "Use padding=True, or return_tensors=None."
        )
    return {
        name: values
        if isinstance(values, list) and name == "pixel_values"
        else _listed(np.asarray(values), kind)
        for name, values in data.items()
    }


def _listed(array: Any, return_tensors: Any) -> Any:
    kind = getattr(return_tensors, "value", return_tensors)
    if kind is None:
        return list(array)
    return torch.as_tensor(array) if kind == "pt" else np.asarray(array)
