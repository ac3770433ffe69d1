"""The released interface on native classes: the snippets of the model cards, with only their
imports changed.

    from minicpmv import AutoModel, AutoTokenizer

    model = AutoModel.from_pretrained("openbmb/MiniCPM-V-2_6").eval().cuda()
    tokenizer = AutoTokenizer.from_pretrained("openbmb/MiniCPM-V-2_6")
    msgs = [{"role": "user", "content": [image, question]}]
    answer = model.chat(image=None, msgs=msgs, tokenizer=tokenizer)

What the released `chat()` ignored in silence is an error here.
"""

import base64
import binascii
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers import AutoTokenizer as TransformersAutoTokenizer

from .chat import Chat
from .loader import load, locate
from .model.modeling import MiniCPMVForConditionalGeneration
from .processing.processor import MiniCPMVProcessor

# Keywords of the released loaders that native classes have no use for.
_REMOTE_CODE_KEYWORDS = ("trust_remote_code", "code_revision")


class MiniCPMV(MiniCPMVForConditionalGeneration):
    """The model with the released `chat()`."""

    _processor: MiniCPMVProcessor | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As `forward`; also takes the released layout, and the released `model(data)`."""
        if args and isinstance(args[0], Mapping):
            kwargs, args = {**args[0], **kwargs}, args[1:]
        return super().__call__(*args, **rows_per_slice(kwargs))

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """As transformers' `generate`; also takes the released layout."""
        return super().generate(*args, **rows_per_slice(kwargs))

    def chat(
        self,
        image: Any = None,
        msgs: Any = None,
        tokenizer: Any = None,
        processor: MiniCPMVProcessor | None = None,
        *,
        sampling: bool = True,
        stream: bool = False,
        system_prompt: str = "",
        max_new_tokens: int | None = None,
        min_new_tokens: int | None = None,
        max_inp_length: int | None = None,
        max_slice_nums: int | None = None,
        use_image_id: bool | None = None,
        vision_hidden_states: list[torch.Tensor] | None = None,
        **options: Any,
    ) -> str | list[str] | Iterator[str]:
        """Answer a conversation, or a list of conversations as a batch.

        Args:
            image: a picture (or a list) put in front of the first message, whose content must then
                be a string.
            msgs: messages `{"role", "content"}`, content a string or a list of PIL images and
                strings; also as JSON text; a list of such lists is a batch.
            tokenizer, processor: as loaded; left out, they are loaded from the model's own folder.
            sampling: True draws (`top_p`, `top_k`, `temperature`), False searches with beams.
            vision_hidden_states: per conversation (num_slices, query_num, hidden), to skip the
                vision tower.
            options: `temperature`, `top_p`, `num_beams` ...; see `plan_generation`.

        Returns:
            The answer; a list of answers for a batch; with `stream=True` an iterator of text.
        """
        if msgs is None:
            raise ValueError(
                "msgs is missing; pass [{'role': 'user', 'content': [image, question]}]."
            )
        msgs = _parsed("msgs", msgs) if isinstance(msgs, str) else msgs
        if not isinstance(msgs, list | tuple):
            raise ValueError(f"msgs is {type(msgs).__name__}; expected a list of messages.")
        is_batch = bool(msgs) and isinstance(msgs[0], list)
        conversations: list[Any] = list(msgs) if is_batch else [msgs]
        images = image if is_batch and image is not None else [image] * len(conversations)
        if len(images) != len(conversations):
            raise ValueError(
                f"{len(conversations)} conversations but {len(images)} images; "
                "pass one per conversation."
            )
        conversations = [
            _released_conversation(conversation, picture, index)
            for index, (conversation, picture) in enumerate(zip(conversations, images, strict=True))
        ]
        options |= {
            "sampling": sampling,
            "system_prompt": system_prompt,
            "max_new_tokens": max_new_tokens,
            "min_new_tokens": min_new_tokens,
            "max_inp_length": max_inp_length,
            "max_slice_nums": max_slice_nums,
            "use_image_id": use_image_id,
        }
        if vision_hidden_states is not None:
            if len(vision_hidden_states) != len(conversations):
                raise ValueError(
                    f"{len(conversations)} conversations but {len(vision_hidden_states)} "
                    "vision_hidden_states; pass a tensor per conversation."
                )
            options["image_features"] = torch.cat(list(vision_hidden_states))
        chat = Chat(self, self._processor_with(tokenizer, processor), name=self.name_or_path)
        if not stream:
            answers = [answer.text for answer in chat.answer_all(conversations, options)]
            return answers if is_batch else answers[0]
        if len(conversations) > 1:
            raise ValueError(
                f"stream=True answers one conversation; {len(conversations)} were given."
            )
        return chat.stream_conversation(conversations[0], options, strip=False)

    def _processor_with(
        self, tokenizer: Any, processor: MiniCPMVProcessor | None
    ) -> MiniCPMVProcessor:
        if processor is not None:
            if not isinstance(processor, MiniCPMVProcessor):
                raise ValueError(
                    f"processor is {type(processor).__name__}; expected a MiniCPMVProcessor."
                )
            return processor
        if self._processor is None:
            self._processor = MiniCPMVProcessor.from_pretrained(self.name_or_path)
        if tokenizer is not None and tokenizer is not self._processor.tokenizer:
            self._processor = MiniCPMVProcessor(self._processor.image_processor, tokenizer)
        return self._processor


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


def _released_conversation(conversation: Any, image: Any, index: int) -> list[dict[str, Any]]:
    """Messages with `image` put in front of the first one."""
    if not isinstance(conversation, list) or not conversation:
        raise ValueError(f"Conversation {index} is {conversation!r}; expected a list of messages.")
    if image is None:
        return conversation
    first, *rest = conversation
    if not isinstance(first.get("content"), str):
        raise ValueError(
            "image= was given, but the content of the first message is a list already. Put the "
            "picture into that list and pass image=None."
        )
    images = list(image) if isinstance(image, list | tuple) else [image]
    blocks = [{"type": "image", "image": picture} for picture in images]  # a path is no text here
    return [{**first, "content": [*blocks, first["content"]]}, *rest]


class AutoModel:
    """`AutoModel` of the model cards: the class with the head and `chat()`."""

    @staticmethod
    def from_pretrained(pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load a model by folder, hub name, version or "nano"; keywords as in transformers.

        `trust_remote_code` is accepted and has nothing to trust: no code of a checkpoint is run.
        """
        path = locate(pretrained_model_name_or_path)
        kwargs = _without_remote_code(kwargs)
        config = kwargs.get("config") or AutoConfig.from_pretrained(path, **_hub_keywords(kwargs))
        if config.model_type == MiniCPMV.config_class.model_type:
            return MiniCPMV.from_pretrained(path, *args, **kwargs)
        return AutoModelForCausalLM.from_pretrained(path, *args, **kwargs)


class AutoTokenizer:
    """`AutoTokenizer` of the model cards."""

    @staticmethod
    def from_pretrained(pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load a tokenizer by folder, hub name, version or "nano"; keywords as in transformers."""
        path = locate(pretrained_model_name_or_path)
        return TransformersAutoTokenizer.from_pretrained(
            path, *args, **_without_remote_code(kwargs)
        )


class AutoProcessor:
    """The processor of a checkpoint: pictures and text to model inputs."""

    @staticmethod
    def from_pretrained(pretrained_model_name_or_path: Any, **kwargs: Any) -> MiniCPMVProcessor:
        """Load a processor by folder, hub name, version or "nano"; keywords as in transformers."""
        path = locate(pretrained_model_name_or_path)
        return MiniCPMVProcessor.from_pretrained(path, **_without_remote_code(kwargs))


def _parsed(name: str, text: Any) -> Any:
    """The messages in JSON text."""
    try:
        return json.loads(text)
    except (json.JSONDecodeError, TypeError) as error:
        raise ValueError(
            f"{name} is not JSON text ({error}). Pass json.dumps of a list of messages."
        ) from error


def _without_remote_code(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in kwargs.items() if key not in _REMOTE_CODE_KEYWORDS}


def _hub_keywords(kwargs: dict[str, Any]) -> dict[str, Any]:
    names = ("cache_dir", "force_download", "local_files_only", "revision", "subfolder", "token")
    return {key: kwargs[key] for key in names if key in kwargs}


class MiniCPMVChat:
    """The chat class of the first README: pictures come as base64 text, the question as JSON.

    model = MiniCPMVChat("openbmb/MiniCPM-V-2_6")
    answer = model.chat({"image": img2base64("street.jpg"), "question": json.dumps(msgs)})
    """

    def __init__(self, model_path: str | Path = "nano", **options: Any):
        self._chat = load(model_path, **options)

    def chat(self, input: dict[str, Any], **options: Any) -> str:
        """Answer `input["question"]`, messages as JSON text, about `input["image"]`, base64
        text."""
        missing = [key for key in ("image", "question") if key not in input]
        if missing:
            raise ValueError(f"The input has no {' and no '.join(map(repr, missing))}.")
        msgs = _parsed("question", input["question"])
        try:
            image = base64.b64decode(input["image"], validate=True)
        except (binascii.Error, TypeError, ValueError) as error:
            raise ValueError(
                f"image is not base64 text ({error}). Use img2base64(file_name)."
            ) from error
        conversation = _released_conversation(msgs, image, 0)
        return self._chat.ask(conversation, **options).text


def img2base64(file_name: str | Path) -> str:
    """The bytes of a picture file as base64 text.

    Raises:
        OSError: the file cannot be read.
    """
    return base64.b64encode(Path(file_name).read_bytes()).decode("ascii")


__all__ = ["AutoModel", "AutoProcessor", "AutoTokenizer", "MiniCPMV", "MiniCPMVChat", "img2base64"]
