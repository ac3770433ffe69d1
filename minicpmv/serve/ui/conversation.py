"""A conversation on the page: its turns, the requests they make, and how they are kept.

Turns are values: an answer that grows is a new turn in place of the last one. So a stopped answer
stands as far as it came, and asking again or editing is a shorter list.
"""

import dataclasses
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from .client import Client, End, ServerError, Token
from .uploads import Attachment, Uploads
from .words import PageError

TOP_TOKENS = 5  # alternatives shown for a token
KEPT_TOKENS = 4000  # with probabilities, of the newest answers, in the browser's storage
Ending = Literal["", "stop", "length", "stopped", "error"]


@dataclass(frozen=True)
class Options:
    """How answers are made, as the panel of options has it.

    Fields:
        draw: "model" leaves the choice to the checkpoint; "likeliest" is greedy; "sampled" takes
            `temperature`, `top_p` and `seed`.
        seed: as typed; empty for another one each time.
        slices, frames: 0 leaves them to the server.
    """

    model: str
    system: str = ""
    draw: str = "model"
    temperature: float = 0.7
    top_p: float = 0.9
    seed: str = ""
    max_tokens: int = 512
    penalty: float = 1.0
    slices: int = 0
    frames: int = 0

    def fields(self) -> dict[str, Any]:
        """The fields of a request, those left alone not among them.

        Raises:
            PageError: there is no model, or the seed is no number.
        """
        if not self.model:
            raise PageError("no_model")
        found: dict[str, Any] = {"model": self.model, "max_tokens": int(self.max_tokens)}
        if self.draw == "likeliest":
            found["temperature"] = 0
        elif self.draw == "sampled":
            found |= {"temperature": self.temperature, "top_p": self.top_p}
            if self.seed.strip():
                if not self.seed.strip().isdecimal():
                    raise PageError("seed_unreadable", value=self.seed)
                found["seed"] = int(self.seed)
        if self.penalty != 1:
            found["repetition_penalty"] = self.penalty
        return found

    def media_fields(self, turns: Sequence["Turn"]) -> dict[str, Any]:
        """What is said of pictures and videos, where the turns show such."""
        kinds = {file.kind for turn in turns for file in turn.files}
        found: dict[str, Any] = {}
        if self.slices and kinds:
            found["max_slice_nums"] = int(self.slices)
        if self.frames and "video" in kinds:
            found["num_frames"] = int(self.frames)
        return {"mm_processor_kwargs": found} if found else {}


@dataclass(frozen=True)
class Cost:
    """What an answer cost: tokens, and seconds to the first one and to the last."""

    prompt: int
    answer: int
    cached: int
    first_s: float
    seconds: float

    @property
    def tokens_per_second(self) -> float:
        """Of the tokens after the first; 0 where there is nothing to measure."""
        decoding = self.seconds - self.first_s
        return (self.answer - 1) / decoding if self.answer > 1 and decoding > 0.001 else 0.0


@dataclass(frozen=True)
class Turn:
    """A question with its files, and the answer as far as it is there.

    Fields:
        ending: "" while it is answered; "stop" and "length" are the server's; "stopped" by the
            person; "error" with `problem`, what the server said.
    """

    text: str
    files: tuple[Attachment, ...] = ()
    answer: str = ""
    tokens: tuple[Token, ...] = ()
    cost: Cost | None = None
    ending: Ending = ""
    problem: str = ""

    def asked_again(self) -> "Turn":
        return Turn(self.text, self.files)


def request(turns: Sequence[Turn], options: Options, uploads: Uploads) -> dict[str, Any]:
    """The chat completion that answers the last turn; answers that failed are left out.

    Raises:
        PageError: a file is gone, an option is wrong, or nothing is asked.
    """
    asked = [turn for turn in turns[:-1] if turn.answer] + [turns[-1]]
    messages: list[dict[str, Any]] = []
    if options.system.strip():
        messages.append({"role": "system", "content": options.system.strip()})
    for turn in asked:
        messages.append({"role": "user", "content": _content(turn, uploads)})
        if turn.answer:
            messages.append({"role": "assistant", "content": turn.answer})
    return {
        **options.fields(),
        **options.media_fields(asked),
        "messages": messages,
        "logprobs": True,
        "top_logprobs": TOP_TOKENS,
    }


def _content(turn: Turn, uploads: Uploads) -> str | list[dict[str, Any]]:
    if not turn.text.strip() and not turn.files:
        raise PageError("nothing_asked")
    parts: list[dict[str, Any]] = []
    for file in turn.files:
        kind = "video_url" if file.kind == "video" else "image_url"
        parts.append({"type": kind, kind: {"url": uploads.data_url(file)}})
    if not parts:
        return turn.text
    if turn.text.strip():
        parts.append({"type": "text", "text": turn.text})
    return parts


async def answer(
    client: Client, asked: Mapping[str, Any], turn: Turn
) -> AsyncGenerator[Turn, None]:
    """The turn as its answer grows; the last one has its cost, or what went wrong.

    Args:
        asked: the request of `request`.
    """
    start = time.monotonic()
    first_s: float | None = None
    turn = turn.asked_again()
    try:
        async with aclosing(client.answer(asked)) as events:
            async for event in events:
                elapsed = time.monotonic() - start
                if isinstance(event, End):
                    usage = event.usage
                    cost = None
                    if usage is not None:
                        counts = (usage.prompt, usage.answer, usage.cached)
                        cost = Cost(*counts, first_s if first_s is not None else elapsed, elapsed)
                    ending: Ending = "length" if event.reason == "length" else "stop"
                    yield replace(turn, cost=cost, ending=ending)
                    return
                first_s = elapsed if first_s is None else first_s
                turn = replace(
                    turn, answer=turn.answer + event.text, tokens=turn.tokens + event.tokens
                )
                yield turn
    except ServerError as error:
        yield replace(turn, ending="error", problem=error.message)


def dump(turns: Sequence[Turn]) -> list[dict[str, Any]]:
    """The turns as JSON for the browser to keep; tokens of the newest answers only."""
    found: list[dict[str, Any]] = []
    room = KEPT_TOKENS
    for turn in reversed(turns):
        room -= len(turn.tokens)
        found.append(dataclasses.asdict(turn if room >= 0 else replace(turn, tokens=())))
    return found[::-1]


def restore(kept: Any, uploads: Uploads) -> list[Turn]:
    """The turns that a browser kept; those from the first on that cannot be read are left out.

    What a browser keeps is what its owner says: files are checked like any other upload.
    """
    found: list[Turn] = []
    for item in kept if isinstance(kept, list) else ():
        try:
            files = tuple(uploads.attach(file["path"], file["name"]) for file in item["files"])
            cost = None if item["cost"] is None else Cost(**item["cost"])
            tokens = tuple(
                Token(
                    str(token["text"]),
                    float(token["logprob"]),
                    tuple((str(text), float(logprob)) for text, logprob in token["top"]),
                )
                for token in item["tokens"]
            )
            texts = [str(item[name]) for name in ("text", "answer", "ending", "problem")]
        except (PageError, KeyError, TypeError, ValueError):
            break
        text, said, ending, problem = texts
        known: Ending = ending if ending in ("stop", "length", "error") else "stopped"  # type: ignore[assignment]
        found.append(Turn(text, files, said, tokens, cost, known, problem))
    return found


def stop_last(turns: Sequence[Turn]) -> list[Turn]:
    """The turns, the last one stopped where its answer had not ended."""
    if not turns or turns[-1].ending:
        return list(turns)
    return [*turns[:-1], replace(turns[-1], ending="stopped")]


def file_name(attachment: Attachment) -> str:
    return Path(attachment.name).name
