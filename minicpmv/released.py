"""The released interface on native classes: the snippets of the model cards, with only their
imports changed.

    from minicpmv import AutoModel, AutoTokenizer

    model = AutoModel.from_pretrained("openbmb/MiniCPM-V-2_6",
    torch_dtype=torch.bfloat16).eval().cuda() tokenizer =
    AutoTokenizer.from_pretrained("openbmb/MiniCPM-V-2_6") answer = model.chat(image=None,
    msgs=[{"role": "user", "content": [image, question]}], tokenizer=tokenizer)

What the released `chat()` ignored in silence is an error here.
"""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers import AutoTokenizer as TransformersAutoTokenizer

from .chat import Chat, load, locate
from .model.modeling import MiniCPMVForConditionalGeneration
from .processing.processor import MiniCPMVProcessor

# Keywords of the released loaders that native classes have no use for.
_REMOTE_CODE_KEYWORDS = ("trust_remote_code", "code_revision")


class MiniCPMV(MiniCPMVForConditionalGeneration):
    """The model with the released `chat()`."""

    _processor: MiniCPMVProcessor | None = None

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
            options: any other field of transformers' `GenerationConfig`.

        Returns:
            The answer; a list of answers for a batch; with `stream=True` an iterator of text.
        """
        if msgs is None:
            raise ValueError(
                "msgs is missing; pass [{'role': 'user', 'content': [image, question]}]."
            )
        msgs = json.loads(msgs) if isinstance(msgs, str) else msgs
        is_batch = bool(msgs) and isinstance(msgs[0], list)
        conversations = msgs if is_batch else [msgs]
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
            return processor
        if self._processor is None:
            self._processor = MiniCPMVProcessor.from_pretrained(self.name_or_path)
        if tokenizer is not None and tokenizer is not self._processor.tokenizer:
            self._processor = MiniCPMVProcessor(self._processor.image_processor, tokenizer)
        return self._processor


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
        msgs = json.loads(input["question"])
        conversation = _released_conversation(msgs, base64.b64decode(input["image"]), 0)
        return self._chat.ask(conversation, **options).text


def img2base64(file_name: str | Path) -> str:
    """The bytes of a picture file as base64 text.

    Raises:
        OSError: the file cannot be read.
    """
    return base64.b64encode(Path(file_name).read_bytes()).decode("ascii")


__all__ = ["AutoModel", "AutoProcessor", "AutoTokenizer", "MiniCPMV", "MiniCPMVChat", "img2base64"]
