"""`ask` a loaded model, `stream` its answer or talk to it: what most people use.

    chat = load("openbmb/MiniCPM-V-2_6")
    print(chat.ask("What is written on the sign?", ["street.jpg"]))

Pictures may be PIL images, paths, bytes, data URLs or http URLs. A conversation is a list of
messages, `{"role": "user" | "assistant" | "system", "content": text or list of blocks}`; a block is
a string, a PIL image, or a dictionary `{"type": "text" | "image" | "video", ...}`.
"""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from .checkpoint.consistency import find_mismatches
from .engine.detokenize import answer_end, stream_text
from .engine.hf import generate_ids, stream_ids
from .engine.options import PROCESSING, checked
from .engine.plan import GenerationPlan, plan_generation
from .media.video import VideoFile, is_file
from .precision import Precision
from .processing.processor import MiniCPMVProcessor
from .processing.text import TextProcessor
from .releases import Release

Message = dict[str, Any]
Conversation = list[Message]


@dataclass(frozen=True)
class Answer:
    """The text of an answer, with its cost.

    Fields:
        num_input_tokens: text and visual tokens of the prompt; num_output_tokens: with the
            terminator.
        seconds: wall-clock time from the call to the last token; of the whole batch, in a batch.
        finish_reason: "stop", the model ended its answer; "length", `max_new_tokens` did.
    """

    text: str
    num_input_tokens: int
    num_output_tokens: int
    seconds: float
    finish_reason: Literal["stop", "length"]

    def __str__(self) -> str:
        return self.text

    @property
    def tokens_per_second(self) -> float:
        return self.num_output_tokens / self.seconds if self.seconds > 0 else 0.0


class AnswerStream(Iterator[str]):
    """Pieces of an answer as they come; joined, they are the text of `answer`.

    `close()` stops the generation at any time; leaving a `with` block does too. `answer` is None
    until the end.
    """

    def __init__(self, pieces: Iterator[str | Answer]):
        self._pieces = pieces
        self.answer: Answer | None = None

    def __next__(self) -> str:
        piece = next(self._pieces)
        if isinstance(piece, Answer):
            self.answer = piece
            raise StopIteration
        return piece

    def close(self) -> None:
        self._pieces.close()  # type: ignore[attr-defined]

    def __enter__(self) -> "AnswerStream":
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()


class Chat:
    """A loaded model with its processor, and one running conversation.

    Attributes:
        model, processor: the transformers objects.
        precision: the dtype that `load` chose, and why; None where something else loaded the model.
        system: system prompt of every conversation that brings none; None means the release's own.
        history: messages of the running conversation (`say`), a plain list that may be edited.
    """

    def __init__(
        self,
        model: Any,
        processor: MiniCPMVProcessor | TextProcessor,
        name: str = "",
        precision: Precision | None = None,
    ):
        problems = find_mismatches(model.config, processor)
        if problems:
            raise ValueError(
                f"The model and the processor of {name!r} do not belong together: "
                f"{'; '.join(problems)}."
            )
        self.model = model
        self.processor = processor
        self.name = name
        self.precision = precision
        self.system: str | None = None
        self.history: Conversation = []

    @property
    def supports_images(self) -> bool:
        """False for a text model."""
        return isinstance(self.processor, MiniCPMVProcessor)

    def ask(
        self,
        prompt: str | Conversation,
        images: Iterable[Any] = (),
        *,
        videos: Iterable[Any] = (),
        **options: Any,
    ) -> Answer:
        """Answer one question; the running conversation is neither used nor changed.

        Args:
            prompt: the question, or a whole conversation (few-shot examples, a past dialogue).
            images: shown before the question, in this order; a `VideoFile` among them is a video.
            videos: shown after the images, each a file (of which one frame a second is taken, at
                most 64) or a list of frames; encoded without image ids.
            options: `max_slice_nums`, `use_image_id`, `max_inp_length`, `num_frames` or `fps` of
                the videos, `system_prompt`, and those of
                `minicpmv.engine.options.GENERATION`: `sampling`, `temperature`, `top_p`, `top_k`,
                `repetition_penalty`, `num_beams`, `max_new_tokens`, `seed` ...

        Raises:
            ValueError: a picture cannot be read, or an option is unknown or without effect.
        """
        return self.answer_all([_conversation(prompt, images, videos)], options)[0]

    def stream(
        self,
        prompt: str | Conversation,
        images: Iterable[Any] = (),
        *,
        videos: Iterable[Any] = (),
        **options: Any,
    ) -> AnswerStream:
        """As `ask`, piece by piece. Wrong arguments raise here, not at the first piece."""
        return self.stream_conversation(_conversation(prompt, images, videos), options)

    def batch(
        self,
        requests: Sequence[str | Conversation | tuple[str, Iterable[Any]]],
        *,
        batch_size: int = 8,
        **options: Any,
    ) -> list[Answer]:
        """Answer many questions, `batch_size` at a time; greedy answers are those of `ask`.

        Args:
            requests: each a prompt, a `(prompt, images)` pair, or a conversation.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it must be at least 1.")
        if isinstance(requests, str | Mapping) or not isinstance(requests, Iterable):
            raise ValueError(f"requests is {_short(requests)}; pass a list of requests.")
        conversations = [_request(index, request) for index, request in enumerate(requests)]
        answers: list[Answer] = []
        for start in range(0, len(conversations), batch_size):
            answers += self.answer_all(conversations[start : start + batch_size], options)
        return answers

    def say(
        self,
        prompt: str,
        images: Iterable[Any] = (),
        *,
        videos: Iterable[Any] = (),
        **options: Any,
    ) -> AnswerStream:
        """The next turn of the running conversation, streamed.

        The turn enters `history` when the answer is complete; a closed or failed one leaves no
        trace.
        """
        turn = _conversation(prompt, images, videos)
        stream = self.stream_conversation([*self.history, *turn], options)

        def remember() -> Iterator[str | Answer]:
            with stream:
                yield from stream
            assert stream.answer is not None
            self.history += [*turn, {"role": "assistant", "content": stream.answer.text}]
            yield stream.answer

        return AnswerStream(remember())

    def clear(self) -> None:
        """Forget the running conversation; `system` stays."""
        self.history.clear()

    def check_options(self, options: Mapping[str, Any]) -> None:
        """Refuse options that no answer could take, before there is a prompt.

        Raises:
            ArgumentError: one is unknown, out of range, or without effect beside the others.
        """
        checked({name: options.get(name) for name in PROCESSING}, PROCESSING)
        others = {name: value for name, value in options.items() if name not in PROCESSING}
        plan_generation(self.processor, self.model.generation_config, others)

    def prepare(
        self, conversations: list[Conversation], options: dict[str, Any], streams: bool = False
    ) -> tuple[dict[str, Any], GenerationPlan]:
        """Inputs on the model's device, and the plan, for one call of `generate`."""
        options = dict(options)
        image_features = options.pop("image_features", None)
        asked = options.pop("system_prompt", None)
        conversations = [self.processor.question(messages) for messages in conversations]
        processing = checked({name: options.pop(name, None) for name in PROCESSING}, PROCESSING)
        if self.processor.compat == "released" and isinstance(self.processor.release, Release):
            processing.setdefault("max_inp_length", self.processor.release.max_inp_length)
        stored = self.model.generation_config
        plan = plan_generation(self.processor, stored, options)
        if streams and options.get("num_beams") is None and not plan.config.do_sample:
            # Beams have nothing to show before they end.
            plan = plan_generation(self.processor, stored, options | {"num_beams": 1})
        inputs = self.processor.apply_chat_template(
            [_with_system(messages, asked, self.system) for messages in conversations],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            processor_kwargs=processing,
        )
        self._fit_context(inputs["input_ids"].shape[1], plan, options)
        if image_features is not None:
            inputs = {
                key: inputs[key] for key in ("input_ids", "attention_mask", "mm_token_type_ids")
            }
            inputs["image_features"] = image_features
        return {key: value.to(self.model.device) for key, value in inputs.items()}, plan

    def _fit_context(
        self, num_prompt_tokens: int, plan: GenerationPlan, options: dict[str, Any]
    ) -> None:
        """Let the answer end where the model's context does; a prompt that fills it is an error."""
        room = context_length(self.model.config) - num_prompt_tokens
        wanted = options.get("max_new_tokens")
        if room < (wanted or 1):
            less = (
                "Give fewer pictures or frames (num_frames), lower max_slice_nums, shorten"
                if self.supports_images
                else "Shorten"
            )
            raise ValueError(
                f"The prompt has {num_prompt_tokens} tokens and the model's context "
                f"{num_prompt_tokens + room}, which leaves {max(room, 0)} for the answer"
                f"{f'; max_new_tokens is {wanted}' if wanted else ''}. {less} the text, or lower "
                "max_new_tokens."
            )
        plan.config.max_new_tokens = min(plan.config.max_new_tokens, room)

    def answer_all(
        self, conversations: list[Conversation], options: dict[str, Any]
    ) -> list[Answer]:
        """Answer conversations in one padded batch."""
        begin = time.perf_counter()
        inputs, plan = self.prepare(conversations, options)
        rows = generate_ids(self.model, inputs, plan).tolist()
        seconds = time.perf_counter() - begin
        answers = []
        for row, mask in zip(rows, inputs["attention_mask"], strict=True):
            end = answer_end(row, self.processor)
            answers.append(
                Answer(
                    text=self.processor.decode_answer(row),
                    num_input_tokens=int(mask.sum()),
                    num_output_tokens=len(row) if end is None else end,
                    seconds=seconds,
                    finish_reason="length" if end is None else "stop",
                )
            )
        return answers

    def stream_conversation(
        self, conversation: Conversation, options: dict[str, Any], strip: bool = True
    ) -> AnswerStream:
        """Stream the answer to one conversation; `strip=False` keeps white space at both ends."""
        begin = time.perf_counter()
        inputs, plan = self.prepare([conversation], options, streams=True)
        # One conversation has no padding; under compat="released" the released stream masked
        # nothing either.
        inputs["attention_mask"] = torch.ones_like(inputs["attention_mask"])
        ids = stream_ids(self.model, inputs, plan)
        return AnswerStream(self._pieces(ids, inputs, plan, begin, strip))

    def _pieces(
        self, ids: Iterator[int], inputs: Any, plan: GenerationPlan, begin: float, strip: bool
    ) -> Iterator[str | Answer]:
        text = ""
        seen: list[int] = []

        def remember() -> Iterator[int]:
            for token in ids:
                seen.append(token)
                yield token

        try:
            for piece in stream_text(remember(), self.processor, strip):
                text += piece
                yield piece
        finally:
            ids.close()  # type: ignore[attr-defined]
        yield Answer(
            text=text,
            num_input_tokens=int(inputs["attention_mask"].sum()),
            num_output_tokens=len(seen),
            seconds=time.perf_counter() - begin,
            finish_reason="length" if answer_end(seen, self.processor) is None else "stop",
        )


def context_length(config: Any) -> int:
    """Most tokens of a prompt and its answer together."""
    text = config.get_text_config()
    rope = text.rope_parameters or {}
    stretches = rope.get("rope_type") == "dynamic"
    return int(text.max_position_embeddings * (rope["factor"] if stretches else 1))


def _conversation(
    prompt: str | Conversation, images: Iterable[Any], videos: Iterable[Any]
) -> Conversation:
    """Messages of one request; images and videos go before the question."""
    images, videos = _listed("images", images), _listed("videos", videos)
    for video in videos:
        is_frames = isinstance(video, list | tuple) or getattr(video, "ndim", 0) == 4
        if not is_frames and not is_file(video):
            raise ValueError(
                f"A video is {type(video).__name__}; it must be a file or a list of frames: "
                'videos=["clip.mp4", [a, b]].'
            )
    if not isinstance(prompt, str):
        if images or videos:
            raise ValueError(
                "A whole conversation was given: put images and videos into its messages."
            )
        return prompt
    if not prompt.strip():
        raise ValueError("The prompt is empty. Give a question or an instruction.")
    if not images and not videos:
        return [{"role": "user", "content": prompt}]
    blocks: list[dict[str, Any]] = [
        {"type": "video", "video": image}
        if isinstance(image, VideoFile)
        else {"type": "image", "image": image}
        for image in images
    ]
    blocks += [{"type": "video", "video": video} for video in videos]
    return [{"role": "user", "content": [*blocks, {"type": "text", "text": prompt}]}]


def _request(index: int, request: Any) -> Conversation:
    """One entry of a batch as messages."""
    if isinstance(request, tuple):
        if len(request) != 2 or not isinstance(request[0], str):
            raise ValueError(f"Request {index} is {_short(request)}; a pair is (prompt, images).")
        return _conversation(request[0], request[1], ())
    return _conversation(request, (), ())


def _listed(name: str, items: Any) -> list[Any]:
    """`items` as a list. What may be one picture is refused: an array can be iterated, too."""
    if isinstance(items, list | tuple | Iterator):
        return list(items)
    text = repr(items).splitlines()[0] if isinstance(items, str | Path) else name.removesuffix("s")
    raise ValueError(f"{name} is {type(items).__name__}; pass a list: {name}=[{text}].")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _with_system(
    conversation: Conversation, asked: str | None, standing: str | None
) -> Conversation:
    """The conversation with a system message: its own, else the one asked for, else the chat's."""
    if conversation[0].get("role") == "system":
        if asked:
            raise ValueError(
                "system_prompt was given, but the conversation begins with a system message; "
                "keep one."
            )
        return conversation
    system = asked or standing
    if not system:
        return conversation
    return [{"role": "system", "content": system}, *conversation]
