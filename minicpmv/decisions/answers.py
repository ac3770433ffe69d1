"""Texts of answers as the tokens that a model writes them with, up to the end of its turn."""

import weakref
from collections.abc import Mapping, Sequence
from typing import Any

from ..engine.protocols import Processor
from ..errors import ArgumentError, short
from .question import Question

MAX_TOKENS = 64  # of one choice
MAX_KNOWN = 4096  # choices that are remembered

Tokens = tuple[int, ...]


class AnswerTokens:
    """What a processor's chat template and tokenizer make of answers.

    A text is encoded behind the opening of an answer, where it stands in training and in a
    dialogue, so that its first token is the one that follows the opening. A tokenizer whose file
    sets `spells_print` belongs to a model that writes what it reads off a picture with one token a
    character: each text has a second form then.
    """

    @classmethod
    def of_processor(cls, processor: Processor) -> "AnswerTokens":
        """The one of a processor, which remembers what it has encoded."""
        found = _KNOWN.get(processor)
        if found is None:
            found = _KNOWN[processor] = cls(processor)
        return found

    def __init__(self, processor: Processor):
        # Remembered by its processor: it must not keep that one itself.
        self._reference = weakref.ref(processor)
        self._asked = [{"role": "user", "content": "?"}]
        self._opening = self._ids(self._asked, add_generation_prompt=True)
        self._known: dict[str, tuple[Tokens, ...]] = {}
        self._spells = bool(processor.tokenizer.init_kwargs.get("spells_print"))

    def of(self, text: str) -> tuple[Tokens, ...]:
        """Ids of an answer in each of its forms, the usual one first, without a terminator.

        Raises:
            ArgumentError: the model cannot write the text, or it is too long.
        """
        found = self._known.get(text)
        if found is None:
            forms = [self._encoded(text)]
            if self._spells and len(text) <= MAX_TOKENS:
                forms.append(self._spelt(text))
            found = tuple(dict.fromkeys(forms))
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
            self._known[text] = found
        return found

    @property
    def _processor(self) -> Processor:
        found = self._reference()
        assert found is not None
        return found

    def _encoded(self, text: str) -> Tokens:
        processor = self._processor
        said = [*self._asked, {"role": "assistant", "content": text}]
        ids = self._ids(said, add_generation_prompt=False)
        if ids[: len(self._opening)] != self._opening:
            raise ArgumentError(
                f"The choice {short(text)} changes the tokens before it. Begin it with a letter."
            )
        ids = ids[len(self._opening) :]
        terminators = set(processor.terminator_ids)
        end = next((place for place, token in enumerate(ids) if token in terminators), len(ids))
        ids = ids[:end]
        if len(ids) > MAX_TOKENS:
            raise ArgumentError(
                f"The choice {short(text)} has {len(ids)} tokens; at most {MAX_TOKENS} are scored. "
                "Give a shorter one."
            )
        written = text
        for found, replacement in processor.clean_ups:
            written = written.replace(found, replacement)
        if not ids or (processor.compat is None and processor.decode_answer(ids) != written):
            raise ArgumentError(
                f"The choice {short(text)} cannot be an answer: the model would write "
                f"{short(processor.decode_answer(ids))}."
            )
        return tuple(ids)

    def _spelt(self, text: str) -> Tokens:
        encode = self._processor.tokenizer.encode
        return tuple(token for char in text for token in encode(char, add_special_tokens=False))

    def of_question(self, question: Question) -> dict[str, list[Tokens]]:
        """Of each label the whole answers that count as it: each form of each spelling with each
        terminator.

        Raises:
            ArgumentError: a choice cannot be written, or two are written alike.
        """
        owners: dict[Tokens, str] = {}
        found: dict[str, list[Tokens]] = {}
        for label, texts in question.spellings.items():
            found[label] = []
            for text in texts:
                for ids in self.of(text):
                    if ids in owners:
                        raise ArgumentError(
                            f"The choices {short(owners[ids])} and {short(text)} have the same "
                            "tokens; each answer counts once."
                        )
                    owners[ids] = text
                    found[label] += [(*ids, end) for end in self._processor.terminator_ids]
        return found

    def _ids(self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool) -> Any:
        inputs = self._processor.apply_chat_template(
            [list(messages)],
            add_generation_prompt=add_generation_prompt,
            tokenize=True,
            return_dict=True,
            processor_kwargs={},
        )
        return inputs["input_ids"][0].tolist()


_KNOWN: "weakref.WeakKeyDictionary[Processor, AnswerTokens]" = weakref.WeakKeyDictionary()
