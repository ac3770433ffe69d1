"""The released `chat()` on native classes: the snippets of the model cards, with only their
imports changed. The loaders they use are in `released_auto.py`.

    from minicpmv import AutoModel, AutoTokenizer

    model = AutoModel.from_pretrained("openbmb/MiniCPM-V-2_6").eval().cuda()
    tokenizer = AutoTokenizer.from_pretrained("openbmb/MiniCPM-V-2_6")
    msgs = [{"role": "user", "content": [image, question]}]
    answer = model.chat(image=None, msgs=msgs, tokenizer=tokenizer)

`chat()` has the arguments and results that each release had, so there is a class for each of its
three forms: `MiniCPMV` (2.5, 2.6), `MiniCPMV2` (1.0, 2.0) and `MiniCPMForCausalLM` (text). What the
released ones ignored in silence is an error here.
"""

import base64
import binascii
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import GenerationMixin, PreTrainedConfig, PreTrainedTokenizerBase

from .chat import Chat, context_length
from .checkpoint.consistency import check_pair
from .checkpoint.hub import Checkpoint, hub_keywords
from .engine.detokenize import answer_text
from .engine.hf import generate_ids
from .engine.options import GENERATION
from .engine.plan import plan_generation
from .errors import short
from .loader import load
from .model import minicpm
from .model.modeling import MiniCPMVForConditionalGeneration
from .processing.messages import normalised, with_images_at
from .processing.packing import rows_per_slice
from .processing.processor import MiniCPMVProcessor
from .processing.text import TextProcessor
from .released_encoding import ReleasedEmbeddingsMixin, ReleasedPicturesMixin
from .releases import Release, release_of, text_release_of


class MiniCPMV(ReleasedEmbeddingsMixin, MiniCPMVForConditionalGeneration, GenerationMixin):
    """2.5 and 2.6, with their `chat()`.

    Attributes:
        compat: "released" reproduces released behaviour that loses user data; see
            docs/differences.md. `AutoModel.from_pretrained(..., compat="released")` sets it.
    """

    compat: Literal["released"] | None = None
    _processor: MiniCPMVProcessor | None = None
    _hub_keywords: dict[str, Any] = {}  # where the processor comes from, too

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """As in transformers; 1.0 and 2.0 get the class with their `chat()`, as adapters that name
        this one expect."""
        path = pretrained_model_name_or_path
        if cls is MiniCPMV and path is not None:
            config = kwargs.get("config")
            if isinstance(config, PreTrainedConfig):
                fields = config.to_dict()
            else:
                fields = Checkpoint.at(config or path, kwargs).read_json("config.json")
            if release_of(fields).version in ("1.0", "2.0"):
                return MiniCPMV2.from_pretrained(path, *args, **kwargs)
        loaded = super().from_pretrained(path, *args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        model._hub_keywords = hub_keywords(kwargs)
        return loaded

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
        if is_batch and image is not None and not isinstance(image, list | tuple):
            raise ValueError(
                f"image is {type(image).__name__}, and msgs is a list of conversations; pass a "
                "list of images, one per conversation."
            )
        if not isinstance(stream, bool):
            raise ValueError(f"stream is {stream!r}; it must be True or False.")
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
            given = vision_hidden_states
            if isinstance(given, torch.Tensor) and given.ndim:
                given = list(given)
            if not isinstance(given, list | tuple) or not all(
                isinstance(states, torch.Tensor) for states in given
            ):
                raise ValueError(
                    f"vision_hidden_states is {type(vision_hidden_states).__name__}; expected a "
                    "list with a tensor per conversation."
                )
            if len(vision_hidden_states) != len(conversations):
                raise ValueError(
                    f"{len(conversations)} conversations but {len(vision_hidden_states)} "
                    "vision_hidden_states; pass a tensor per conversation."
                )
            options["image_features"] = torch.cat(list(vision_hidden_states))
        chat = Chat(self, self._processor_with(tokenizer, processor), name=self.name_or_path)
        if not stream:
            with chat:  # its thread and memory are freed at once
                answers = [answer.text for answer in chat.answer_all(conversations, **options)]
            return answers if is_batch else answers[0]
        if len(conversations) > 1:
            raise ValueError(
                f"stream=True answers one conversation; {len(conversations)} were given."
            )
        return chat.stream_conversation(conversations[0], strip=False, **options)

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
            self._processor = MiniCPMVProcessor.from_pretrained(
                self.name_or_path, compat=self.compat, **self._hub_keywords
            )
        if tokenizer is not None and tokenizer is not self._processor.tokenizer:
            _check_tokenizer(tokenizer)
            own = self._processor
            template = own.chat_template  # of the checkpoint, which may not be the release's
            self._processor = MiniCPMVProcessor(own.image_processor, tokenizer, template)
        return self._processor


def _check_tokenizer(tokenizer: Any) -> None:
    """
    Raises:
        ValueError: it is something else.
    """
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise ValueError(
            f"tokenizer is {type(tokenizer).__name__}; expected a tokenizer, as "
            "AutoTokenizer.from_pretrained returns."
        )


def _released_conversation(conversation: Any, image: Any, index: int) -> list[dict[str, Any]]:
    """Messages with `image` put in front of the user's first one."""
    if not isinstance(conversation, list) or not conversation:
        raise ValueError(f"Conversation {index} is {conversation!r}; expected a list of messages.")
    if image is None:
        return conversation
    for message in conversation[:2]:
        if not isinstance(message, Mapping) or not {"role", "content"} <= message.keys():
            raise ValueError(f"A message is {message!r}; expected one with 'role' and 'content'.")
    place = int(conversation[0]["role"] == "system" and len(conversation) > 1)
    first = conversation[place]
    if first["role"] != "user":
        raise ValueError(
            f"image= was given, and the conversation begins with the role {first['role']!r}; it is "
            "shown in a user's message. Put the picture into its content and pass image=None."
        )
    if not isinstance(first["content"], str | list | tuple):
        raise ValueError(
            f"The content of the first message is {type(first['content']).__name__}; beside "
            "image= it must be text."
        )
    if not isinstance(first["content"], str):
        raise ValueError(
            "image= was given, but the content of the first message is a list already. Put the "
            "picture into that list and pass image=None."
        )
    images = list(image) if isinstance(image, list | tuple) else [image]
    blocks = [{"type": "image", "image": picture} for picture in images]  # a path is no text here
    shown = {**first, "content": [*blocks, first["content"]]}
    return [*conversation[:place], shown, *conversation[place + 1 :]]


class MiniCPMV2(ReleasedPicturesMixin, MiniCPMV, GenerationMixin):
    """1.0 and 2.0, with their `chat()`."""

    def _processor_with(
        self, tokenizer: Any, processor: MiniCPMVProcessor | None
    ) -> MiniCPMVProcessor:
        given, processor = processor, super()._processor_with(tokenizer, processor)
        if given is None and self.config.release.slicing == "adaptive":
            # 2.0 has no file for them: they are the model's, where they may have been changed.
            for name in ("slice_mode", "max_slice_nums", "scale_resolution"):
                if getattr(self.config, name, None) is not None:
                    setattr(processor.image_processor, name, getattr(self.config, name))
        return processor

    def chat(  # type: ignore[override]
        self,
        image: Any = None,
        msgs: Any = None,
        context: None = None,
        tokenizer: Any = None,
        vision_hidden_states: list[torch.Tensor] | None = None,
        max_new_tokens: int | None = None,
        sampling: bool | None = None,
        max_inp_length: int | None = None,
        *,
        processor: MiniCPMVProcessor | None = None,
        **options: Any,
    ) -> tuple[str, list[dict[str, Any]], dict[str, Any]]:
        """Answer a conversation.

        Args:
            image: a picture put in front of the first message; None for text alone.
            msgs: messages `{"role", "content"}`; also as JSON text.
            context: None. The conversation so far belongs into `msgs`.
            sampling: True draws, False searches with beams; 1.0 searches and 2.0 draws when not
                told.
            options: `temperature`, `top_p`, `num_beams` ...; see `plan_generation`.

        Returns:
            The answer; `msgs` with the answer, a new list; the settings it was generated with.
        """
        if context is not None:
            raise ValueError("context has no effect; put the whole conversation into msgs.")
        msgs = _parsed("msgs", msgs) if isinstance(msgs, str) else msgs
        if isinstance(msgs, list) and msgs and isinstance(msgs[0], list):
            raise ValueError("msgs is a list of conversations; this chat() answers one.")
        draws = self.config.release.sampling.draws if sampling is None else sampling
        options |= {"sampling": draws, "max_new_tokens": max_new_tokens}
        processor = self._processor_with(tokenizer, processor)
        plan = plan_generation(processor, self.generation_config, options)
        answer = super().chat(
            image,
            msgs,
            processor=processor,
            max_inp_length=max_inp_length,
            vision_hidden_states=vision_hidden_states,
            **options,
        )
        names = ("top_p", "top_k", "temperature") if plan.config.do_sample else ("num_beams",)
        settings = {name: getattr(plan.config, name) for name in names}
        if plan.config.do_sample:
            settings["do_sample"] = True
        if plan.repetition_penalty != 1.0:
            settings["repetition_penalty"] = plan.repetition_penalty
        assert isinstance(answer, str)
        return answer, [*msgs, {"role": "assistant", "content": answer}], settings


# `save_pretrained` writes the name of the class into config.json; other tools know only this one.
MiniCPMV2.__name__ = "MiniCPMV"


class MiniCPMForCausalLM(minicpm.MiniCPMForCausalLM, GenerationMixin):
    """The text models, with their `chat()`.

    Attributes:
        compat: as in `MiniCPMV`.
    """

    compat: Literal["released"] | None = None

    def chat(
        self,
        tokenizer: Any,
        query: str,
        history: list[dict[str, str]] | None = None,
        role: str = "user",
        max_length: int = 4096,
        num_beams: int = 1,
        do_sample: bool = True,
        top_p: float | None = None,
        temperature: float | None = None,
        logits_processor: Any = None,
        **options: Any,
    ) -> tuple[str, list[dict[str, str]]]:
        """Answer the next turn of a conversation.

        Args:
            history: earlier messages `{"role", "content"}`; it is not changed.
            role: of the query, "user".
            max_length: most tokens of prompt and answer together; `max_new_tokens` counts the
                answer alone, and wins.
            top_p, temperature: 0.8 and 0.3 when left out.
            options: `repetition_penalty`, `top_k`, `seed` ...; see `plan_generation`.

        Returns:
            The answer; the history with query and answer, a new list.
        """
        _check_tokenizer(tokenizer)
        if role != "user":
            raise ValueError(f"role is {role!r}; only a user's query is answered.")
        if not isinstance(query, str) or not query.strip():
            raise ValueError(f"query is {short(query)}; expected a question or an instruction.")
        if not isinstance(history, list | tuple | None):
            raise ValueError(
                f"history is {type(history).__name__}; expected a list of messages "
                "{'role', 'content'}, as chat() returns it."
            )
        max_length = replace(GENERATION["max_new_tokens"], name="max_length").check(max_length)
        if logits_processor is not None and not (
            isinstance(logits_processor, list | tuple) and all(map(callable, logits_processor))
        ):
            raise ValueError(
                f"logits_processor is {short(logits_processor)}; expected a LogitsProcessorList."
            )
        release = text_release_of(self.config.to_dict())
        processor = TextProcessor(tokenizer, release, self.compat)
        check_pair(self.config, processor, self.name_or_path)
        messages = [*(history or []), {"role": role, "content": query}]
        inputs = processor.apply_chat_template(
            [messages], add_generation_prompt=True, tokenize=True
        ).to(self.device)
        num_prompt_tokens = inputs["input_ids"].shape[1]
        if options.get("max_new_tokens") is None:
            context = context_length(self.config)
            room = min(max_length, context) - num_prompt_tokens
            if room < 1:
                limit, advice = f"the model's context of {context}", "Shorten the query or"
                if max_length < context:
                    limit, advice = f"max_length {max_length}", "Raise max_length, or shorten"
                raise ValueError(
                    f"The prompt has {num_prompt_tokens} tokens, which leaves none of {limit} for "
                    f"the answer. {advice} the history."
                )
            options["max_new_tokens"] = min(room, self.generation_config.max_new_tokens or room)
        options |= {"do_sample": do_sample, "top_p": top_p, "temperature": temperature}
        plan = plan_generation(
            processor, self.generation_config, {"num_beams": num_beams, **options}
        )
        ids = generate_ids(self, inputs, plan, logits_processors=logits_processor or ())
        response = answer_text(ids[0].tolist(), processor, strip=False, stop=plan.stop)
        return response, [*messages, {"role": "assistant", "content": response}]


def _parsed(name: str, text: Any) -> Any:
    """The messages in JSON text."""
    try:
        return json.loads(text)
    except (json.JSONDecodeError, TypeError) as error:
        raise ValueError(
            f"{name} is not JSON text ({error}). Pass json.dumps of a list of messages."
        ) from error


class MiniCPMVChat:
    """The chat class of the first README: pictures come as base64 text, the question as JSON.

    model = MiniCPMVChat("openbmb/MiniCPM-V-2_6")
    answer = model.chat({"image": img2base64("street.jpg"), "question": json.dumps(msgs)})

    It draws its answers unless told otherwise. OmniLMM-12B sees the picture where its first message
    says `<image>`, others in front of it.
    """

    def __init__(self, model_path: str | Path = "nano", **options: Any):
        self._chat = load(model_path, **options)

    def chat(self, input: dict[str, Any], **options: Any) -> str:
        """Answer `input["question"]`, messages as JSON text, about `input["image"]`, base64
        text."""
        if not isinstance(input, Mapping):
            raise ValueError(
                f"The input is {type(input).__name__}; expected a dict with image and question."
            )
        missing = [key for key in ("image", "question") if key not in input]
        if missing:
            raise ValueError(f"The input has no {' and no '.join(map(repr, missing))}.")
        unknown = [key for key in input if key not in ("image", "question")]
        if unknown:
            raise ValueError(
                f"The input has the key {unknown[0]!r}, which has no effect. Known keys: image, "
                "question."
            )
        msgs = _parsed("question", input["question"])
        try:
            image = base64.b64decode("".join(input["image"].split()), validate=True)
        except (AttributeError, binascii.Error, TypeError, ValueError) as error:
            raise ValueError(
                f"image is not base64 text ({error}). Use img2base64(file_name)."
            ) from error
        conversation = _released_conversation(msgs, image, 0)
        release = self._chat.processor.release
        if isinstance(release, Release) and release.image_tag is not None:
            conversation = with_images_at(release.image_tag, normalised(conversation))
        if not release.sampling.draws and options.get("sampling") is None:
            options |= {"sampling": True, "temperature": options.get("temperature", 0.7)}
        return self._chat.ask(conversation, **options).text


def img2base64(file_name: str | Path) -> str:
    """The bytes of a picture file as base64 text.

    Raises:
        OSError: the file cannot be read.
    """
    return base64.b64encode(Path(file_name).read_bytes()).decode("ascii")


__all__ = [
    "MiniCPMForCausalLM",
    "MiniCPMV",
    "MiniCPMV2",
    "MiniCPMVChat",
    "img2base64",
]
