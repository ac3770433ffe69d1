"""A conversation to training tokens, by the code that inference takes.

    input_ids   <|im_start|>user Hi<|im_end|><|im_start|>assistant  Hello  !           <|im_end|>
    targets                                              Hello      !      <|im_end|>

`targets` are already shifted: the token that the model must emit after each position. So an answer
can be taught to end where the template goes on with something else, as in releases 1.0 and 2.0.

All answers of a conversation are trained in one example where the history of the last prompt holds
the very tokens that were trained. An answer that is written otherwise in the history, for example
because its last character makes one token with what follows, becomes an example of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..media.policy import MediaRefusedError
from ..processing.messages import is_blank
from ..processing.turns import Looked, TemplateError, TurnIds, Turns, turn_ids
from .faults import DataError, Fault
from .messages import Conversation, Message, Picture, Preference, chat_messages
from .pictures import PictureReader, PictureRef, effective

Array = np.ndarray[Any, np.dtype[Any]]

NO_TARGET = -100


@dataclass(frozen=True)
class EncodeSettings:
    """How rows become examples.

    Args:
        max_length: the most tokens of an example; None: any number.
        cut: whether longer ones are cut on the right; otherwise they are faults.
        max_slice_nums: the most slices of a picture; None: as the image processor says.
        num_frames, fps: which frames of a video.
        use_image_id: whether pictures are numbered; None: as the release does.
    """

    max_length: int | None = None
    cut: bool = False
    max_slice_nums: int | None = None
    num_frames: int | None = None
    fps: float | None = None
    use_image_id: bool | None = None


@dataclass(frozen=True, eq=False)
class Example:
    """What one forward pass is given of a conversation.

    Args:
        row: the row in its file.
        part: 0, 1, ... where a conversation needs several examples.
        input_ids: (num_tokens,) int32.
        targets: (num_tokens,) int32, the token to emit after each position, -100 for none.
        mm_token_type_ids: (num_tokens,) uint8, 1 at visual placeholders.
        pictures: in the order of the prompt.
        spans: (message, start, end) in `targets` of each trained answer with its terminator.
        weights: (num_tokens,) float32 of the loss at each position, or None for ones.
        num_cut: tokens that were cut off behind.
        is_trimmed: whether the template left out white space around an answer; known when encoded.
    """

    row: int
    part: int
    input_ids: Array
    targets: Array
    mm_token_type_ids: Array
    pictures: tuple[PictureRef, ...] = ()
    spans: tuple[tuple[int, int, int], ...] = ()
    weights: Array | None = None
    num_cut: int = 0
    is_trimmed: bool = False

    @property
    def num_trained(self) -> int:
        """Tokens that are trained."""
        return int((self.targets != NO_TARGET).sum())


def encode_conversation(
    processor: Any, conversation: Conversation, settings: EncodeSettings, reader: PictureReader
) -> list[Example]:
    """The examples of one row, the longest first.

    Raises:
        DataError: the row cannot be trained on, with its row and field.
    """
    messages = conversation.messages
    wanted = [i for i, m in enumerate(messages) if m.role == "assistant" and m.train]
    row = conversation.row
    if not any(message.role == "assistant" for message in messages):
        raise DataError(
            [
                Fault(
                    row,
                    "messages",
                    "no_answer",
                    "there is no answer to train; add a message of the assistant",
                )
            ]
        )
    if not wanted:
        raise DataError(
            [
                Fault(
                    row,
                    "messages",
                    "nothing_trained",
                    "no answer is trained: all "
                    "have train false; remove the row, or train one of them",
                )
            ]
        )
    return _Encoder(processor, settings, reader, row).examples(messages, wanted)


def encode_preference(
    processor: Any, preference: Preference, settings: EncodeSettings, reader: PictureReader
) -> tuple[Example, Example]:
    """The better and the worse answer to one prompt; each is trained in its answer only.

    Raises:
        DataError: as `encode_conversation`.
    """
    encoder = _Encoder(processor, settings, reader, preference.row)
    found = []
    for name, answer in (("chosen", preference.chosen), ("rejected", preference.rejected)):
        encoder.answer_field = name
        messages = (*preference.prompt, Message("assistant", (answer,) if answer else ()))
        (example,) = encoder.examples(messages, [len(messages) - 1])
        found.append(example)
    chosen, rejected = found
    if np.array_equal(chosen.input_ids, rejected.input_ids):
        why = (
            f"cut at {settings.max_length} tokens, the chosen and the rejected answer are the "
            "same; raise the length, or take the row out"
            if chosen.num_cut or rejected.num_cut
            else "the chosen and the rejected answer are of the same tokens; take the row out"
        )
        raise DataError([Fault(preference.row, "rejected", "same_answers", why)])
    return chosen, rejected


def standard_labels(example: Example) -> Array:
    """The labels of transformers' models, which shift them: (num_tokens,) int64, -100 for none.

    Raises:
        ValueError: a target is not the next token, so that labels cannot say it.
    """
    trained = np.flatnonzero(example.targets != NO_TARGET)
    following = np.append(example.input_ids[1:], NO_TARGET)
    lost = trained[example.targets[trained] != following[trained]]
    if len(lost):
        raise ValueError(
            f"Row {example.row} trains an answer to end at token {int(lost[0])}, where the "
            "conversation goes on without a terminator; labels cannot say that. Take shift_labels."
        )
    labels = np.full(len(example.input_ids), NO_TARGET, np.int64)
    labels[trained + 1] = example.input_ids[trained + 1]
    return labels


@dataclass(frozen=True)
class LongFault(Fault):
    """A fault `too_long`.

    Args:
        num_tokens: of the row, with its pictures.
    """

    num_tokens: int = 0


class _Encoder:
    """The way of one row from messages to examples."""

    def __init__(
        self, processor: Any, settings: EncodeSettings, reader: PictureReader, row: int
    ) -> None:
        self.processor = processor
        self.settings = settings
        self.reader = reader
        self.row = row
        self.answer_field: str | None = None

    def examples(self, messages: Sequence[Message], wanted: Sequence[int]) -> list[Example]:
        """The examples that train the answers at `wanted`."""
        pictures = self._pictures(messages)
        looked = self._look(pictures)
        turns = self._turns(messages, wanted, looked)
        self._check_answers(turns)
        refs = [
            self._ref(picture, found, sizes)
            for picture, found, sizes in zip(pictures, looked, turns.target_sizes, strict=True)
        ]
        examples: list[Example] = []
        faults: list[Fault] = []
        left = list(turns.turns)
        while left:
            last = left[-1]
            together = [turn for turn in left if turn is last or _is_inside(turn, last)]
            left = [turn for turn in left[:-1] if not _is_inside(turn, last)]
            part = len(examples)
            example = self._example(part, last, together, refs)
            if any(turn.text != messages[turn.message].text for turn in together):
                example = replace(example, is_trimmed=True)
            limit = self.settings.max_length
            if limit is not None and len(example.input_ids) > limit:
                if not self.settings.cut:
                    faults.append(self._too_long(example, limit))
                    continue
                fault = self._cut_in_picture(last, pictures, limit)
                if fault is not None:
                    faults.append(fault)
                    continue
                example = _cut(example, last, limit)
            examples.append(example)
        if faults:
            raise DataError(faults)
        trained = [example for example in examples if example.spans]
        if not trained:
            raise self._error(
                "",
                "nothing_trained",
                f"the {self.settings.max_length} tokens that are left of "
                "the row hold no answer; raise the length",
            )
        return [replace(example, part=part) for part, example in enumerate(trained)]

    def _pictures(self, messages: Sequence[Message]) -> list[Picture]:
        settings = self.settings
        pictures = [
            effective(part, num_frames=settings.num_frames, fps=settings.fps)
            for message in messages
            for part in message.parts
            if isinstance(part, Picture)
        ]
        if pictures and not hasattr(self.processor, "image_processor"):
            raise self._error(
                pictures[0].field,
                "text_model_with_picture",
                f"{self.processor.release.name} reads text only; remove the picture, or take a "
                "model that supports images",
            )
        return pictures

    def _look(self, pictures: Sequence[Picture]) -> list[Looked]:
        looked, faults = [], []
        for picture in pictures:
            try:
                looked.append(self.reader.look(picture))
            except (OSError, ValueError) as error:
                faults.append(picture_fault(self.row, picture, error))
        if faults:
            raise DataError(faults)
        return looked

    def _turns(
        self, messages: Sequence[Message], wanted: Sequence[int], looked: Sequence[Looked]
    ) -> Turns:
        for index in wanted:
            if any(isinstance(part, Picture) for part in messages[index].parts):
                raise self._error(
                    self._field(index),
                    "wrong_type",
                    "an answer that is trained holds a picture, which a model cannot write; "
                    "move it to a message of the user",
                )
        settings = self.settings
        try:
            return turn_ids(
                self.processor,
                chat_messages(messages),
                looked,
                max_slice_nums=settings.max_slice_nums,
                use_image_id=settings.use_image_id,
                only=wanted,
            )
        except TemplateError as error:
            raise self._error("", "template", str(error)) from error
        except ValueError as error:
            raise self._error("", "template", str(error)) from error

    def _check_answers(self, turns: Turns) -> None:
        faults = [
            self._fault(
                self._field(turn.message),
                "empty_answer",
                "the answer is empty; give some text, or take the row out",
            )
            for turn in turns.turns
            if is_blank(turn.text)
        ]
        if faults:
            raise DataError(faults)

    def _ref(self, picture: Picture, looked: Looked, sizes: Any) -> PictureRef:
        limit = picture.max_slice_nums
        return PictureRef(
            source=picture.source,
            kind=picture.kind,
            digest=looked.digest,
            sizes=looked.sizes,
            max_slice_nums=self.settings.max_slice_nums if limit is None else limit,
            target_sizes=sizes,
            num_frames=picture.num_frames,
            fps=picture.fps,
        )

    def _example(
        self, part: int, last: TurnIds, turns: Sequence[TurnIds], refs: Sequence[PictureRef]
    ) -> Example:
        """The prompt and answer of `last`, in which all of `turns` are trained."""
        ids = [*last.prompt, *last.answer, last.terminator]
        targets = np.full(len(ids), NO_TARGET, np.int32)
        spans = []
        for turn in turns:
            start = len(turn.prompt) - 1
            end = start + len(turn.answer) + 1
            targets[start:end] = [*turn.answer, turn.terminator]
            spans.append((turn.message, start, end))
        mask = np.zeros(len(ids), np.uint8)
        mask[: len(last.prompt)] = last.mm_token_type_ids
        return Example(
            row=self.row,
            part=part,
            input_ids=np.array(ids, np.int32),
            targets=targets,
            mm_token_type_ids=mask,
            pictures=tuple(refs[: len(last.picture_spans)]),
            spans=tuple(spans),
        )

    def _too_long(self, example: Example, limit: int) -> Fault:
        count = len(example.input_ids)
        return LongFault(
            self.row,
            self.answer_field or "",
            "too_long",
            f"{count} tokens, and {limit} are the most; raise the length, lower the slices of "
            "pictures, or cut long rows",
            count,
        )

    def _cut_in_picture(
        self, turn: TurnIds, pictures: Sequence[Picture], limit: int
    ) -> Fault | None:
        for picture, (start, end) in zip(pictures, turn.picture_spans, strict=False):
            if start < limit < end:
                return self._fault(
                    picture.field,
                    "cut_in_picture",
                    f"cutting at {limit} tokens would cut this picture, tokens {start} to "
                    f"{end - 1}; raise the length to at least {end}, or lower the slices",
                )
        return None

    def _field(self, message: int) -> str:
        return self.answer_field or f"messages[{message}].content"

    def _fault(self, field: str, kind: str, message: str) -> Fault:
        return Fault(self.row, field or self.answer_field or "", kind, message)

    def _error(self, field: str, kind: str, message: str) -> DataError:
        return DataError([self._fault(field, kind, message)])


def picture_fault(row: int, picture: Picture, error: Exception) -> Fault:
    """The fault of a picture that `PictureReader.look` cannot open."""
    is_missing = isinstance(error, FileNotFoundError | MediaRefusedError)
    kind = "missing_picture" if is_missing else "unreadable_picture"
    message = " ".join(str(error).split())  # a path may hold line breaks
    return Fault(row, picture.field, kind, message.rstrip("."))


def _is_inside(turn: TurnIds, last: TurnIds) -> bool:
    """Whether the prompt of a later answer holds this one as it is trained."""
    end = len(turn.prompt) + len(turn.answer)
    return (
        last.prompt[: len(turn.prompt)] == turn.prompt
        and last.prompt[len(turn.prompt) : end] == turn.answer
    )


def _cut(example: Example, turn: TurnIds, limit: int) -> Example:
    """The first `limit` tokens; the target of the last one stays."""
    spans = [(m, start, min(end, limit)) for m, start, end in example.spans if start < limit]
    shown = sum(end <= limit for _, end in turn.picture_spans)
    return replace(
        example,
        input_ids=example.input_ids[:limit],
        targets=example.targets[:limit],
        mm_token_type_ids=example.mm_token_type_ids[:limit],
        pictures=example.pictures[:shown],
        spans=tuple(spans),
        num_cut=len(example.input_ids) - limit,
    )
