"""Turn a scene and questions about it into the token sequence of release 2.6's chat template.

One picture carries several questions. Most often each of them is its own conversation: all share
the opening (the system prompt and the picture), none sees the others, and each counts its
positions from the end of the opening, so it is for the model exactly a single question. Now and
then they are the turns of one conversation instead. A few questions do without the picture, so
that the model can say so.
"""

import random
from typing import NamedTuple

import numpy as np
from tokenizers import Tokenizer

from minicpmv.scenes import TASKS, Scene, questions_of

SYSTEM = "You are a helpful assistant."
NO_PICTURE = "I see no picture."
SMALL_TALK = (
    ("Hello", "Hello! Show me a picture and ask about it."),
    ("Hello!", "Hello! Show me a picture and ask about it."),
    ("Hi", "Hello! Show me a picture and ask about it."),
    ("Who are you?", "I am nano, a small model. I look at shapes and read a little."),
    ("What are you?", "I am nano, a small model. I look at shapes and read a little."),
    ("What can you do?", "I name, count and place shapes and read big words."),
    ("Thank you.", "You are welcome."),
    ("Thanks!", "You are welcome."),
)
CONVERSATION_SHARE = 0.2  # pictures whose questions are turns of one conversation
CARELESS_SHARE = 0.08  # questions typed without capital and question mark
TEXT_SHARE = 0.12  # pictures beside which a question without picture is asked
MAX_QUESTIONS = 8
IGNORED = -100
TASK_NAMES = (*TASKS, "talk")  # "talk": questions beside a picture that do without it

# Who a token may look at besides its own group: see `attention_groups`.
OPENING, PICTURE, FIRST_TURN = 0, 1, 2


class Dialogue(NamedTuple):
    """One training sequence, padded to a fixed length; every field is (seq,), int64.

    `groups` numbers what belongs together: the opening text, the picture, then each conversation.
    A token attends to earlier tokens of its own group and of the opening and, where `sees_picture`
    is 1, of the picture. Padding is a group of its own, -1. `tasks` holds, where there is a label,
    the number of the task in `TASK_NAMES`.
    """

    input_ids: np.ndarray
    position_ids: np.ndarray
    groups: np.ndarray
    sees_picture: np.ndarray
    labels: np.ndarray
    tasks: np.ndarray


class DialogueWriter:
    """Writes dialogues of `length` tokens for pictures of `num_queries` placeholders."""

    def __init__(self, tokenizer: Tokenizer, num_queries: int, length: int) -> None:
        self.length = length
        self._tokenizer = tokenizer
        self._opening = self._ids(f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n")
        placeholders = "<unk>" * num_queries
        self._picture = self._ids(f"<image_id>0</image_id><image>{placeholders}</image>")
        self._after_picture = self._ids("\n")
        self._answer_mark = self._ids("<|im_end|>\n<|im_start|>assistant\n")
        self._end = self._ids("<|im_end|>")
        self._next_turn = self._ids("\n<|im_start|>user\n")
        self.image_start = len(self._opening) + len(self._picture) - 1 - num_queries
        minimum = len(self._opening) + len(self._picture) + 32
        if length < minimum:
            raise ValueError(
                f"Sequences of {length} tokens have no room for the picture and a question; "
                f"with {num_queries} queries at least {minimum} are needed."
            )

    def _ids(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def write(self, scene: Scene, rng: random.Random) -> Dialogue:
        """The dialogue about a scene; questions that no longer fit are left out."""
        turns = [
            (_as_typed(q.text, rng), q.answer, TASK_NAMES.index(q.task))
            for q in questions_of(scene, MAX_QUESTIONS, rng)
        ]
        is_conversation = rng.random() < CONVERSATION_SHARE
        page = _Page(self.length)
        page.add(self._opening, 0, OPENING, sees_picture=False)
        page.add(self._picture, len(self._opening), PICTURE, sees_picture=True)
        after_picture = len(self._opening) + len(self._picture)

        if not is_conversation and rng.random() < TEXT_SHARE:
            question, answer = rng.choice(SMALL_TALK)
            if turns and rng.random() < 0.5:
                question, answer = turns.pop()[0], NO_PICTURE
            ids = self._turn([], question, answer)
            learned = self._answer_length(answer)
            task = TASK_NAMES.index("talk")
            page.add(ids, len(self._opening), FIRST_TURN, False, learned, task)

        place = after_picture
        for number, (question, answer, task) in enumerate(turns):
            goes_on = is_conversation and number > 0
            ids = self._turn(self._next_turn if goes_on else self._after_picture, question, answer)
            group = FIRST_TURN if is_conversation else FIRST_TURN + 1 + number
            if not page.add(ids, place, group, True, self._answer_length(answer), task):
                break
            if is_conversation:
                place += len(ids)
        return page.finish()

    def _turn(self, lead: list[int], question: str, answer: str) -> list[int]:
        return [*lead, *self._ids(question), *self._answer_mark, *self._ids(answer), *self._end]

    def _answer_length(self, answer: str) -> int:
        return len(self._ids(answer)) + len(self._end)


def _as_typed(question: str, rng: random.Random) -> str:
    """The question, now and then as people type it in haste."""
    if rng.random() >= CARELESS_SHARE:
        return question
    return question[0].lower() + question[1:].rstrip("?.")


class _Page:
    """A sequence being filled."""

    def __init__(self, length: int) -> None:
        self.used = 0
        self.input_ids = np.zeros(length, dtype=np.int64)
        self.position_ids = np.zeros(length, dtype=np.int64)
        self.groups = np.full(length, -1, dtype=np.int64)
        self.sees_picture = np.zeros(length, dtype=np.int64)
        self.labels = np.full(length, IGNORED, dtype=np.int64)
        self.tasks = np.full(length, IGNORED, dtype=np.int64)

    def add(
        self,
        ids: list[int],
        position: int,
        group: int,
        sees_picture: bool,
        num_learned: int = 0,
        task: int = IGNORED,
    ) -> bool:
        """Append tokens, the last `num_learned` to be learned; False when they do not fit."""
        start, stop = self.used, self.used + len(ids)
        if stop > len(self.input_ids):
            return False
        self.input_ids[start:stop] = ids
        self.position_ids[start:stop] = np.arange(position, position + len(ids))
        self.groups[start:stop] = group
        self.sees_picture[start:stop] = sees_picture
        # The label of a token stands where it is predicted: one place earlier.
        learned = slice(stop - num_learned - 1, stop - 1)
        self.labels[learned] = self.input_ids[stop - num_learned : stop]
        self.tasks[learned] = task
        self.used = stop
        return True

    def finish(self) -> Dialogue:
        return Dialogue(
            self.input_ids,
            self.position_ids,
            self.groups,
            self.sees_picture,
            self.labels,
            self.tasks,
        )
