"""Turn scenes and what is said about them into token sequences of release 2.6's chat template.

One picture carries several questions. Most often each of them is its own conversation: all share
the opening (the system prompt and the picture), none sees the others, and each counts its
positions from the end of the opening, so it is for the model exactly a single question. Now and
then they are the turns of one conversation instead, as they always are in an `Example`. A few
questions do without the picture, so that the model can say so.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from tokenizers import Tokenizer

from minicpmv.processing.placeholders import image_placeholder
from minicpmv.scenes import Example, Question

SYSTEM = "You are a helpful assistant."
NO_PICTURE = "I see no picture."
SMALL_TALK = (
    ("Hello", "Hello! Show me a picture and ask about it."),
    ("Hello!", "Hello! Show me a picture and ask about it."),
    ("Hi", "Hello! Show me a picture and ask about it."),
    ("Who are you?", "I am nano, a small model. I look at shapes and read."),
    ("What are you?", "I am nano, a small model. I look at shapes and read."),
    ("What can you do?", "I name, count and place shapes and things, and read print."),
    ("Thank you.", "You are welcome."),
    ("Thanks!", "You are welcome."),
)
CONVERSATION_SHARE = 0.2  # pictures whose questions are turns of one conversation
CARELESS_SHARE = 0.08  # questions typed without capital and question mark
TEXT_SHARE = 0.08  # pictures beside which a question without picture is asked
IGNORED = -100
Grid = tuple[int, int] | None

# Who a token may look at besides its own group: see `TokenSequence`.
OPENING, PICTURE, FIRST_TURN = 0, 1, 2


@dataclass
class TokenSequence:
    """What is said about one picture, or about several.

    `groups` numbers what belongs together: the opening text, the picture, then each conversation.
    A token attends to earlier tokens of its own group and of the opening and, where `sees_picture`
    is 1, of the picture. `labels` stand where they are predicted, one place before their token.
    `tasks` names the task of every label. `slices` holds the place of the first placeholder of
    every slice.
    """

    input_ids: list[int] = field(default_factory=list)
    position_ids: list[int] = field(default_factory=list)
    groups: list[int] = field(default_factory=list)
    sees_picture: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    tasks: list[str] = field(default_factory=list)
    slices: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.input_ids)

    def append(self, ids: Sequence[int], position: int, group: int, sees_picture: bool) -> None:
        """Append tokens that are excluded from the loss."""
        self.input_ids += ids
        self.position_ids += range(position, position + len(ids))
        self.groups += [group] * len(ids)
        self.sees_picture += [int(sees_picture)] * len(ids)
        self.labels += [IGNORED] * len(ids)
        self.tasks += [""] * len(ids)

    def learn(self, num_tokens: int, task: str) -> None:
        """Include the last tokens in the loss."""
        stop = len(self)
        self.labels[stop - num_tokens - 1 : stop - 1] = self.input_ids[stop - num_tokens :]
        self.tasks[stop - num_tokens - 1 : stop - 1] = [task] * num_tokens


class DialogueWriter:
    """Writes sequences for slices of `num_queries` placeholders."""

    def __init__(self, tokenizer: Tokenizer, num_queries: int) -> None:
        self.num_queries = num_queries
        self._tokenizer = tokenizer
        self._filler = tokenizer.token_to_id("<unk>")
        self._opening = self._ids(f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n")
        self._newline = self._ids("\n")
        self._answer_mark = self._ids("<|im_end|>\n<|im_start|>assistant\n")
        self._end = self._ids("<|im_end|>")
        self._next_turn = self._ids("\n<|im_start|>user\n")

    def _ids(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def spelt(self, text: str) -> list[int]:
        """The tokens of what is read off a picture: one per character."""
        return [token for character in text for token in self._ids(character)]

    def _quoting(self, text: str) -> list[int]:
        """The tokens of an answer: words, but what it quotes is read, so it is spelt."""
        parts = text.split('"')
        if len(parts) % 2 == 0:
            return self._ids(text)
        ids = self._ids(parts[0])
        for quoted, rest in zip(parts[1::2], parts[2::2], strict=True):
            ids += [*self.spelt(f'"{quoted}"'), *self._ids(rest)]
        return ids

    def name_ids(self, classes: Sequence[str]) -> list[int]:
        """The token by which the text names each class of a dense target: a word with the space
        before it, a character or a tag alone; -1 for none.
        """
        ids = [self._ids(f" {name}" if name[1:].isalpha() else name) for name in classes]
        return [found[0] if len(found) == 1 else -1 for found in ids]

    def questions(
        self, asked: Sequence[Question], grid: Grid, rng: random.Random, max_length: int
    ) -> TokenSequence:
        """Questions about one picture; those that no longer fit in `max_length` are left out."""
        asked = list(asked)
        sequence = TokenSequence()
        sequence.append(self._opening, 0, OPENING, sees_picture=False)
        self._show(sequence, grid, 0, len(self._opening), PICTURE)
        after_picture = len(sequence)
        is_conversation = rng.random() < CONVERSATION_SHARE
        if not is_conversation and rng.random() < TEXT_SHARE:
            said, reply = rng.choice(SMALL_TALK)
            if asked and rng.random() < 0.5:
                said, reply = asked.pop().text, NO_PICTURE
            ids, learned = self._turn(said, reply, False, rng)
            sequence.append(ids, len(self._opening), FIRST_TURN, sees_picture=False)
            sequence.learn(learned, "talk")
        place = after_picture
        for number, question in enumerate(asked):
            ids, learned = self._turn(question.text, question.answer, question.spelt, rng)
            lead = self._next_turn if is_conversation and number else self._newline
            if len(sequence) + len(lead) + len(ids) > max_length:
                continue
            group = FIRST_TURN if is_conversation else FIRST_TURN + 1 + number
            sequence.append([*lead, *ids], place, group, sees_picture=True)
            sequence.learn(learned, question.task)
            if is_conversation:
                place += len(lead) + len(ids)
        return sequence

    def example(self, example: Example, grids: Sequence[Grid], rng: random.Random) -> TokenSequence:
        """The conversation of an example; the frames of a video have no numbers."""
        sequence = TokenSequence()
        sequence.append(self._opening, 0, OPENING, sees_picture=False)
        for number, turn in enumerate(example.turns):
            if number:
                sequence.append(self._next_turn, len(sequence), FIRST_TURN, sees_picture=True)
            for shown in turn.shown:
                image_id = None if example.is_video else shown
                self._show(sequence, grids[shown], image_id, len(sequence), FIRST_TURN)
                sequence.append(self._newline, len(sequence), FIRST_TURN, sees_picture=True)
            # What a few-shot prompt is given has no task: it is not learned.
            spelt = turn.spelt and turn.task != ""
            ids, learned = self._turn(turn.question, turn.answer, spelt, rng)
            sequence.append(ids, len(sequence), FIRST_TURN, sees_picture=True)
            if turn.task:
                sequence.learn(learned, turn.task)
        return sequence

    def _show(
        self, sequence: TokenSequence, grid: Grid, image_id: int | None, place: int, group: int
    ) -> None:
        text = image_placeholder(grid, self.num_queries, tag_every_slice=True, image_id=image_id)
        ids = self._ids(text)
        start = len(sequence)
        previous = None
        for i, token in enumerate(ids):
            if token == self._filler != previous:
                sequence.slices.append(start + i)
            previous = token
        sequence.append(ids, place, group, sees_picture=True)

    def _turn(
        self, question: str, answer: str, spelt: bool, rng: random.Random
    ) -> tuple[list[int], int]:
        """The tokens of a question and its answer, and how many of them are to be learned."""
        reply = [*(self.spelt(answer) if spelt else self._quoting(answer)), *self._end]
        asked = self._ids(_as_typed(question, rng))
        return [*asked, *self._answer_mark, *reply], len(reply)


def _as_typed(question: str, rng: random.Random) -> str:
    """The question, now and then as people type it in haste."""
    if rng.random() >= CARELESS_SHARE or len(question) > 60:
        return question
    return question[0].lower() + question[1:].rstrip("?.")
