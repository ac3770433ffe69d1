"""What a judge is asked, and what it says."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

Message = Mapping[str, Any]

# Why there is no verdict: the judge said nothing, said something else than was asked for, would
# not say it, was not done in time, or its server failed at this one request.
Why = Literal["", "empty", "garbage", "refused", "timeout", "failed"]
WHYS: tuple[Why, ...] = ("empty", "garbage", "refused", "timeout", "failed")


def has_text(reply: str) -> bool:
    """Whether a reply says anything."""
    return bool(reply.strip())


@dataclass(frozen=True)
class JudgeRequest:
    """One question to a judge.

    Fields:
        messages: in OpenAI's form.
        max_tokens: of its reply; None: as many as the judge likes.
        temperature: of the first try.
        tries: replies that are asked for until one is valid.
        valid: whether a reply keeps to the form that was asked for.
        warmer: is added to the temperature with each further try. A judge that says the same thing
            at temperature 0 need not be asked again.
    """

    messages: Sequence[Message]
    max_tokens: int | None = None
    temperature: float = 0.0
    tries: int = 3
    valid: Callable[[str], bool] = has_text
    warmer: float = 0.0

    def key(self, judge: str) -> str:
        """What stands for this request to a judge of this name: 32 hexadecimal digits."""
        asked = [judge, list(self.messages), self.max_tokens, self.temperature, self.warmer]
        text = json.dumps(asked, ensure_ascii=False, sort_keys=True)
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]

    def temperature_of(self, attempt: int) -> float:
        """Of a try, counted from 0; at most 2, the most that servers take."""
        return min(self.temperature + attempt * self.warmer, 2.0)


@dataclass(frozen=True)
class JudgeReply:
    """What came of a request.

    Fields:
        text: the valid reply; None where there is none.
        why: there is none.
        tries: replies that were asked for.
        said: the last reply, or the last error, where there is no valid one.
    """

    text: str | None
    why: Why = ""
    tries: int = 1
    said: str = ""


class Judge(Protocol):
    """Answers requests, several at a time."""

    name: str  # who judges; another name is another judge, whose verdicts are kept apart

    def ask(
        self,
        requests: Sequence[JudgeRequest],
        on_reply: Callable[[int, JudgeReply], None] = lambda index, reply: None,
    ) -> list[JudgeReply]:
        """Replies in the order of the requests.

        Args:
            on_reply: called with the number of each request that is done, as they come.

        Raises:
            OSError: the judge cannot be reached, or takes no requests from us.
        """
