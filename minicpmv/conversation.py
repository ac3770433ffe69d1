"""A dialogue: its system prompt and its history."""

import threading
import weakref
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from .conversation_file import read_conversation, write_conversation
from .engine.answer import Answer, AnswerStream
from .engine.options import PROCESSING, AnswerOptions, checked
from .engine.pictures import with_pictures_read
from .engine.request import Messages, check_effect, messages_of, with_system
from .errors import short
from .media.policy import use_policy
from .processing.messages import normalised

if TYPE_CHECKING:
    from .chat import Chat


class Conversation:
    """One dialogue with a loaded model; a model may have many at a time.

    `history` holds decoded pictures and frames: no file is read, downloaded, decoded or encoded
    twice, and a turn computes only the tokens that are new.

    Attributes:
        system: system prompt; None means that of the release.
        history: messages, a plain list that may be edited between turns.
    """

    def __init__(self, chat: "Chat", system: str | None = None, history: Iterable[Any] = ()):
        self.chat = chat
        self.system = system
        self.history = list(history)
        self._lock = threading.Lock()
        self._open_turn: weakref.ref[AnswerStream] | None = None

    @property
    def history(self) -> Messages:
        """Messages, a plain list that may be edited between turns."""
        return self._history

    @history.setter
    def history(self, messages: Messages) -> None:
        if not isinstance(messages, list | tuple):
            raise ValueError(
                f"history is {short(messages)}; expected a list of messages "
                "{'role': 'user', 'content': ...}."
            )
        self._history = messages if isinstance(messages, list) else list(messages)

    def say(
        self,
        prompt: str,
        images: Iterable[Any] = (),
        *,
        videos: Iterable[Any] = (),
        **options: Unpack[AnswerOptions],
    ) -> AnswerStream:
        """The next turn, streamed; with the arguments of `Chat.ask`.

        The turn is added to `history` when the answer is complete, and not at all when the answer
        fails or is closed early.

        Raises:
            ValueError: an argument is wrong, or the answer to the turn before is still being read.
        """
        with self._lock:
            self._check_idle()
            with use_policy(self.chat.media_policy):
                stream = self._answered(messages_of(prompt, images, videos), options)
            self._open_turn = weakref.ref(stream)
            return stream

    def clear(self) -> None:
        """Forget the history; `system` stays.

        Raises:
            ValueError: an answer is still being read.
        """
        with self._lock:
            self._check_idle()
            self.history.clear()

    def save(self, path: str | Path, options: AnswerOptions | None = None) -> None:
        """Write the conversation with its pictures as JSON; replaces a conversation saved there.

        Args:
            options: saved with it, for `conversation_file.read_conversation`.

        Raises:
            ValueError: the file holds something else.
        """
        with use_policy(self.chat.media_policy):
            messages = normalised(self.history) if self.history else []
            history = with_pictures_read(messages, copy=False)
        write_conversation(str(path), self.chat.name, self.system, dict(options or {}), history)

    @classmethod
    def load(cls, chat: "Chat", path: str | Path) -> "Conversation":
        """Continue a conversation that `save` wrote, with any model.

        Raises:
            ValueError: the file is not a saved conversation.
            OSError: it cannot be read.
        """
        saved = read_conversation(str(path))
        return cls(chat, saved["system"], saved["messages"])

    def _check_idle(self) -> None:
        stream = None if self._open_turn is None else self._open_turn()
        if stream is not None and stream.is_open:
            raise ValueError(
                "An answer of this conversation is still being read. Read it to its end, or "
                "close() it; other conversations may go on: chat.conversation()."
            )

    def _answered(self, turn: Messages, options: AnswerOptions) -> AnswerStream:
        left: dict[str, Any] = dict(options)
        asked = left.pop("system_prompt", None)
        given = {name: left.pop(name, None) for name in ("num_frames", "fps")}
        chosen = checked(given, PROCESSING)
        earlier = list(self.history)
        num_before = len(earlier)
        whole = self.chat.processor.question([*earlier, *turn])
        check_effect(chosen, [whole[num_before:]])
        before = with_pictures_read(whole[:num_before], copy=False)
        turn = with_pictures_read(whole[num_before:], **chosen)
        messages = with_system([*before, *turn], asked, self.system)
        engine = self.chat.engine
        stream = engine.stream(messages, engine.settings([messages], left))

        def remember() -> Generator[str | Answer, None, None]:
            with stream:
                yield from stream
            if stream.answer is None:  # closed by another thread
                return
            now = self.history
            if len(now) != num_before or any(a is not b for a, b in zip(now, earlier, strict=True)):
                raise ValueError(
                    "The history was changed while this answer was read, so the turn was not put "
                    "into it. Change it before a turn, or after its end."
                )
            answer = {"role": "assistant", "content": stream.answer.text}
            self.history[:] = [*before, *turn, answer]
            yield stream.answer

        return AnswerStream(remember(), stream.close)
