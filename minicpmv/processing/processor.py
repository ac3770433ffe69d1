"""Text and images to model inputs: one `BatchFeature` for a batch of conversations.

The chat template writes one marker per image, `(<image>./</image>)`. Here each marker becomes the
text around the slices (image id, tags, `num_queries` fillers per slice), and the slices of all
samples become rows of `pixel_values` in prompt order.

Unusual here: text inside chat messages is data. A tag such as `<image>` or `<|im_end|>` that a user
types is encoded as plain characters; only the template and this file write the real ones.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers.image_processing_utils import BatchFeature
from transformers.processing_utils import MultiModalData, Unpack

from ..media.policy import MediaPolicy, use_policy
from .batching import (
    images_per_sample,
    markers_of,
    prompts_of,
    settings_for_videos,
    videos_per_sample,
)
from .cutting import sliced_block, sliced_images, sliced_video, with_limits
from .decoding import AnswerDecoding
from .encoding import pad
from .image_settings import check_effect, check_settings
from .keywords import MiniCPMVProcessorKwargs, asked, check_keywords, without_image_settings
from .limits import check_cut, length_limit
from .messages import normalised, question, with_images_at
from .packing import (
    SIZE_NAMES,
    ProcessorOutput,
    Sliced,
    check_output,
    converted,
    in_prompt_order,
    pixels_of,
    released_layout_of,
    to_tensor_type,
    with_size_names,
)
from .placeholders import IMAGE_MARKER, MARKER, RELEASED_TAGS, VIDEO_MARKER
from .prompt import prompt_tokens
from .quoting import reserved_tags
from .templates import check_template_variables, keys_read, released_chat_template
from .tokenizer import name_tags


class MiniCPMVProcessor(AnswerDecoding):
    """Image processor and tokenizer of one checkpoint, behind one call.

    Args:
        image_processor: `MiniCPMVImageProcessorPil`; it also holds the tags and the release.
        tokenizer: the tokenizer of the checkpoint.
        chat_template: Jinja text; None takes the template of the release.

    Attributes:
        size_names: how the call names the sizes of slices: "target_sizes", or "spatial_shapes"
            beside `pixel_attention_mask`, as LFM2-VL does and as TRL's GRPOTrainer needs it. The
            models take both. Not saved.
    """

    valid_processor_kwargs = MiniCPMVProcessorKwargs
    return_mm_token_type_ids = True
    size_names: str = "target_sizes"

    def __init__(
        self, image_processor: Any = None, tokenizer: Any = None, chat_template: Any = None
    ) -> None:
        if chat_template is None:
            chat_template = released_chat_template(image_processor.release)
        super().__init__(image_processor, tokenizer, chat_template=chat_template)
        self.image_token = IMAGE_MARKER
        self.image_token_id = tokenizer.convert_tokens_to_ids(image_processor.unk)
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.unk_token  # 1.0 names none and has always padded so
        name_tags(tokenizer, {name: getattr(image_processor, name) for name in RELEASED_TAGS})

    @property
    def num_queries(self) -> int:
        """Visual tokens per slice."""
        return self.image_processor.image_feature_size

    @property
    def model_input_names(self) -> list[str]:
        names = ["input_ids", "attention_mask", "mm_token_type_ids", "pixel_values"]
        return names + SIZE_NAMES[self.size_names]

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "size_names" and value not in SIZE_NAMES:
            known = " or ".join(map(repr, SIZE_NAMES))
            raise ValueError(f"size_names is {value!r}; it is {known}.")
        super().__setattr__(name, value)

    def to_dict(self) -> dict[str, Any]:
        return {name: value for name, value in super().to_dict().items() if name != "size_names"}

    # transformers' server passes the processor where `generate` wants a tokenizer, for stop texts.

    def get_vocab(self) -> dict[str, int]:
        """Token to id, of the tokenizer; transformers' server asks the processor."""
        return self.tokenizer.get_vocab()

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        return self.tokenizer.convert_tokens_to_string(tokens)

    def _convert_id_to_token(self, index: int) -> str:
        return self.tokenizer.convert_ids_to_tokens(index)

    @property
    def backend_tokenizer(self) -> Any:
        return self.tokenizer.backend_tokenizer

    def __call__(
        self,
        text: str | Sequence[str] | None = None,
        images: Any = None,
        **kwargs: Unpack[MiniCPMVProcessorKwargs],
    ) -> BatchFeature:
        """Model inputs for one prompt or a batch of them.

        Args:
            text: prompts with one marker `(<image>./</image>)` per image and `(<video>./</video>)`
                per video.
            images: a list of images per prompt; or a flat list when its length is the number of
                markers; or one image. An image is a PIL image, a path, bytes, a URL, a file or an
                array.
            videos: a keyword; the same, where a video is a file (a path, bytes, a URL), of which
                frames are chosen as `VideoFile` says (`num_frames`, `fps`), or a list of frames.
                Frames get no image id, and at most `max_slice_nums` detail slices each (default 2,
                and 1 for more than 16 frames). It is not declared because transformers takes a
                declared one for a sign of a video processor.
            kwargs: `padding` (default True), `padding_side` ("left"), `return_tensors` ("pt"),
                `max_slice_nums`, `use_image_id`, `max_inp_length`, `num_frames`, `fps`, `compat`,
                `return_released_layout`, `return_pixel_values`, and other keywords of the image
                processor and the tokenizer.

        Returns:
            input_ids, attention_mask (batch, seq); mm_token_type_ids (batch, seq), 1 at visual
            placeholders; pixel_values (num_slices, 3, patch_size, patch_size * max_patches) and
            target_sizes (num_slices, 2) when there are images; with `return_pixel_values=False`
            `slices_per_image` (num_images,) in place of pixels, and none is resized. With
            `return_released_layout=True` `pixel_values`, `tgt_sizes`, `image_sizes` and
            `image_bound` are lists per sample.

        Raises:
            TypeError: an unknown keyword, or text in place of images.
            ValueError: images and markers do not match, a setting is out of range, or an image
                would be cut.
        """
        videos = kwargs.pop("videos", None)
        if text is None and images is None and videos is None:
            raise ValueError("Nothing was given. Pass text, images, or both.")
        check_keywords(kwargs)
        given = {**kwargs, **(kwargs.get("images_kwargs") or {})}
        check_settings(given)
        check_effect(self.release, given)
        merged = self._merge_kwargs(
            MiniCPMVProcessorKwargs,
            tokenizer_init_kwargs=without_image_settings(self.tokenizer.init_kwargs),
            **kwargs,
        )
        text_kwargs, images_kwargs = merged["text_kwargs"], merged["images_kwargs"]
        explicit = {**kwargs, **(kwargs.get("text_kwargs") or {})}
        return_tensors = text_kwargs.get("return_tensors", "pt")
        side = explicit.get("padding_side") or "left"
        check_output(return_tensors, side)
        compat = images_kwargs.setdefault("compat", self.image_processor.compat)
        released_layout = bool(images_kwargs.pop("return_released_layout", False))
        images_kwargs.pop("return_tensors", None)
        if text is None and videos is not None:
            raise ValueError(f"videos need text with {VIDEO_MARKER} where each video stands.")
        if text is None:
            return self._only_images(images, images_kwargs, return_tensors, released_layout)

        prompts = prompts_of(text)
        markers = [markers_of(prompt) for prompt in prompts]
        image_lists = images_per_sample(images, [kinds.count("image") for kinds in markers])
        # Beside pictures alone they are taken: some callers pass one set of keywords for both.
        sampling = {} if videos is None and images is not None else settings_for_videos(kwargs)
        video_lists = videos_per_sample(
            videos, [kinds.count("video") for kinds in markers], **sampling
        )
        if any(markers):
            self._check_tags(images_kwargs)
        every_given = [image for sample in image_lists for image in sample]
        sliced = sliced_images(self.image_processor, every_given, images_kwargs)
        videos_sliced = [
            sliced_video(self.image_processor, video, images_kwargs)
            for sample in video_lists
            for video in sample
        ]
        tokens = prompt_tokens(
            self,
            prompts,
            self._image_texts([len(sample) for sample in image_lists], sliced, images_kwargs),
            ["\n".join(self._placeholder(frame) for frame in video) for video in videos_sliced],
            add_special_tokens=explicit.get("add_special_tokens"),
            compat=compat,
        )
        encoded, masks = [prompt.encoded for prompt in tokens], [prompt.mask for prompt in tokens]
        limit = length_limit(text_kwargs, self.tokenizer)
        for index, prompt in enumerate(encoded):
            if limit is not None and len(prompt.ids) > limit:
                slices = images_kwargs.get("max_slice_nums") or self.image_processor.max_slice_nums
                check_cut(index, prompt, tokens[index].spans, limit, slices)
                encoded[index], masks[index] = prompt.cut(limit), masks[index][:limit]
        data: dict[str, Any] = pad(
            encoded,
            masks,
            text_kwargs,
            pad_id=0 if compat == "released" else self.tokenizer.pad_token_id,
            side=side,
            hide_zero=compat == "released" and self.release.mask_token_zero,
        )
        if not text_kwargs.get("return_offsets_mapping"):
            del data["offset_mapping"]
        if text_kwargs.get("return_attention_mask") is False:
            del data["attention_mask"]

        samples = in_prompt_order(markers, sliced, videos_sliced)
        if released_layout:
            return released_layout_of(data, samples, return_tensors)
        if not asked(kwargs, merged, "return_mm_token_type_ids", True):
            del data["mm_token_type_ids"]
        every_image = [image for sample in samples for image in sample]
        if every_image:
            if images_kwargs.get("return_pixel_values") is False:
                data["slices_per_image"] = [len(image.target_sizes) for image in every_image]
            elif images_kwargs.get("do_pad", True):
                data["pixel_values"] = pixels_of(every_image)
            else:
                data["pixel_values"] = [strip for image in every_image for strip in image.strips]
            data["target_sizes"] = np.concatenate([image.target_sizes for image in every_image])
            data = with_size_names(data, self.size_names)
        out = ProcessorOutput(converted(data, return_tensors))
        out.original_sizes = [[image.image_size for image in sample] for sample in samples]
        if asked(kwargs, merged, "return_text_replacement_offsets", False):
            out["text_replacement_offsets"] = [prompt.replacements for prompt in tokens]
        return out

    def replace_image_token(self, image_inputs: Mapping, image_idx: int, **kwargs: Any) -> str:
        """Text that stands for image `image_idx` of what the image processor returned.

        `image_id` in `kwargs` is the number to write in front, None for none.
        """
        rows, cols = image_inputs["grids"][image_idx]
        grid = (rows, cols) if rows else None
        return self.image_processor.placeholder(grid, kwargs.get("image_id"))

    def get_text_with_replacements(
        self,
        text: Sequence[str],
        images_replacements: Sequence[str] = (),
        videos_replacements: Sequence[str] = (),
        audio_replacements: Sequence[str] = (),
    ) -> tuple[list[str], list[list[dict[str, Any]]]]:
        """Put the replacements in place of the markers, in order through the batch.

        Returns:
            The prompts, and per prompt one dict per marker: `type`, `span` (in the given text),
            `new_span` (in the returned text), `text` and `replacement`.
        """
        replacements = {
            IMAGE_MARKER: iter(images_replacements),
            VIDEO_MARKER: iter(videos_replacements),
        }
        prompts, all_offsets = [], []
        for prompt in text:
            pieces: list[str] = []
            offsets = []
            last = length = 0
            for match in MARKER.finditer(prompt):
                replacement = next(replacements[match.group()], None)
                if replacement is None:
                    continue  # engines that expand the markers themselves pass none
                start = length + match.start() - last
                length = start + len(replacement)
                pieces += [prompt[last : match.start()], replacement]
                last = match.end()
                offsets.append(
                    {
                        "type": "image" if match.group() == IMAGE_MARKER else "video",
                        "span": match.span(),
                        "new_span": (start, length),
                        "text": match.group(),
                        "replacement": replacement,
                    }
                )
            prompts.append("".join([*pieces, prompt[last:]]))
            all_offsets.append(offsets)
        return prompts, all_offsets

    def apply_chat_template(
        self,
        conversation: Any,
        chat_template: str | None = None,
        tokenize: bool = False,
        media_policy: MediaPolicy | None = None,
        **kwargs: Any,
    ) -> Any:
        """Prompt text, or with `tokenize=True` the inputs, of one conversation or a list of them.

        Args:
            conversation: messages with `role` and `content`. Content is text, or a list of text,
                images, and blocks: `{"type": "text", "text": ...}`,
                `{"type": "image", "image"|"url"|"path"|"base64": ...}`,
                `{"type": "video", "video"|"url"|"path"|"base64": file or frames}`, and `image_url`
                and `video_url` as served by OpenAI's routes.
            media_policy: where pictures may come from; None: the policy in force, open by default.
            kwargs: as in transformers; `processor_kwargs` go to the call (`max_slice_nums`, ...).

        With `tokenize=True` reserved tags in the messages become plain text. Markers do too, unless
        the images are passed beside the messages in `processor_kwargs["images"]`. With
        `compat="released"` both keep their meaning, as they did in the released models.
        """
        batched = bool(conversation) and (
            isinstance(conversation[0], list | tuple) or hasattr(conversation[0], "content")
        )
        # A copy: transformers writes into it.
        processor_kwargs = kwargs["processor_kwargs"] = dict(kwargs.get("processor_kwargs") or {})
        compat = processor_kwargs.get("compat", self.image_processor.compat)
        beside = processor_kwargs.get("images") is not None
        quote = self._reserved_tags(compat, keep_markers=beside) if tokenize else None
        template = chat_template or self.chat_template
        variables = [name for name in ("tools", "documents") if kwargs.get(name)]
        check_template_variables(template, variables)
        conversations = [
            self._normalised(messages, quote, compat, chat_template)
            for messages in (conversation if batched else [conversation])
        ]
        if tokenize:
            conversations = [with_limits(messages) for messages in conversations]
        with use_policy(media_policy):
            return super().apply_chat_template(
                conversations if batched else conversations[0],
                chat_template,
                tokenize=tokenize,
                **kwargs,
            )

    def prompts_of(self, messages: Any, parts: Iterable[tuple[int, bool]]) -> list[str]:
        """The prompts that `apply_chat_template(messages[:end], tokenize=True)` encodes: a marker
        for each picture, reserved tags of messages in quotes (`quoting.py`). `parts` are pairs of
        `end` and `add_generation_prompt`.
        """
        quote = self._reserved_tags(self.compat, keep_markers=False)
        messages = self._normalised(messages, quote, self.compat)
        write = super().apply_chat_template
        return [write(messages[:end], add_generation_prompt=opens) for end, opens in parts]

    def _reserved_tags(self, compat: Any, *, keep_markers: bool) -> re.Pattern[str] | None:
        """What is put in quotes in messages."""
        if compat == "released":
            return None
        added = self.tokenizer.added_tokens_decoder.values()
        tags = [str(token) for token in added if token.special]
        return reserved_tags(tags, keep_markers=keep_markers)

    def _normalised(
        self,
        messages: Any,
        quote: re.Pattern[str] | None,
        compat: Any,
        chat_template: str | None = None,
    ) -> list[dict[str, Any]]:
        """The messages in the form that the template reads."""
        messages = normalised(
            messages,
            quote,
            check_roles=chat_template is None,
            other_keys=keys_read(chat_template or self.chat_template),
        )
        if compat == "released" and self.release.image_tag is not None:
            return with_images_at(self.release.image_tag, messages)
        return messages

    def pixels_of(self, block: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """`pixel_values` and `target_sizes` of one picture or video, as a prompt that shows nothing
        else has them, without the text around it.

        Args:
            block: of a conversation in the form of `question`, with images for pictures and frames.
            kwargs: of the image processor.
        """
        images = sliced_block(self.image_processor, block, kwargs)
        sizes = np.concatenate([image.target_sizes for image in images])
        found = {"pixel_values": pixels_of(images), "target_sizes": sizes}
        return {name: to_tensor_type(values, "pt") for name, values in found.items()}

    def question(self, conversation: Any) -> list[dict[str, Any]]:
        """The messages of a conversation that asks something, checked and in one form.

        Raises:
            ValueError: a message holds what would have no effect, or the last one asks nothing.
        """
        return question(conversation, keys_read(self.chat_template))

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """The processor of a checkpoint; `size_names` is set on it, other keywords go on."""
        size_names = kwargs.pop("size_names", cls.size_names)
        loaded = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        (loaded[0] if isinstance(loaded, tuple) else loaded).size_names = size_names
        return loaded

    @classmethod
    def _load_tokenizer_from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """Settings given to `from_pretrained` for the image processor do not reach the tokenizer.

        It would keep them, write them to its own file, and overrule the image processor later.
        """
        return super()._load_tokenizer_from_pretrained(*args, **without_image_settings(kwargs))

    def save_pretrained(
        self, save_directory: Any, push_to_hub: bool = False, **kwargs: Any
    ) -> list[str]:
        """Write the processor's files, among them `preprocessor_config.json` as released."""
        self.image_processor.save_pretrained(save_directory)
        return super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)

    def to_json_file(self, json_file_path: Any) -> None:
        """Write `processor_config.json`; the image processor's settings stay in their own file."""
        written = {key: value for key, value in self.to_dict().items() if key != "image_processor"}
        text = json.dumps(written, indent=2, sort_keys=True) + "\n"
        Path(json_file_path).write_text(text, encoding="utf-8")

    def _get_num_multimodal_tokens(
        self, image_sizes: Iterable[tuple[int, int]] | None = None, **kwargs: Any
    ) -> MultiModalData:
        """Visual tokens and slices of images of (height, width), by arithmetic only."""
        if image_sizes is None:
            return MultiModalData()
        slice_mode = kwargs.get("slice_mode", self.image_processor.slice_mode)
        max_slice_nums = kwargs.get("max_slice_nums") if slice_mode else 1
        scale_resolution = kwargs.get("scale_resolution")
        slices = [
            self.image_processor.plan((width, height), max_slice_nums, scale_resolution).num_slices
            for height, width in image_sizes
        ]
        return MultiModalData(
            num_image_tokens=[count * self.num_queries for count in slices],
            num_image_patches=slices,
        )

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
        data = with_size_names({name: features[name] for name in names}, self.size_names)
        return BatchFeature(
            {name: to_tensor_type(values, return_tensors) for name, values in data.items()}
        )

    def _image_texts(
        self, counts: Sequence[int], sliced: Sequence[Sliced], images_kwargs: dict[str, Any]
    ) -> list[str]:
        """Text for every image; image ids count from 0 in each sample."""
        numbered = self._use_image_id(images_kwargs)
        ids = [image_id for count in counts for image_id in range(count)]
        return [
            self._placeholder(image, image_id if numbered else None)
            for image, image_id in zip(sliced, ids, strict=True)
        ]

    def _placeholder(self, image: Sliced, image_id: int | None = None) -> str:
        return self.replace_image_token({"grids": [image.grid]}, 0, image_id=image_id)

    def _use_image_id(self, images_kwargs: Mapping[str, Any]) -> bool:
        asked = images_kwargs.get("use_image_id")
        return self.image_processor.use_image_id if asked is None else asked

    def _check_tags(self, images_kwargs: Mapping[str, Any]) -> None:
        """Check that the vocabulary has the tags that will be written."""
        added = self.tokenizer.added_tokens_encoder
        tags = self.image_processor.tags_for(self._use_image_id(images_kwargs))
        missing = [tag for tag in tags if tag not in added]
        if missing:
            raise ValueError(
                f"The tokenizer lacks {', '.join(missing)}, which stand around images in release "
                f"{self.image_processor.version}. Use the checkpoint's own tokenizer, and "
                "use_image_id=False where the release has no image ids."
            )
