"""Tries of one request until a judge keeps to the form that it was asked for."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from minicpmv.evaluate.judges.protocol import JudgeReply, JudgeRequest, Why

_THOUGHT = re.compile(r"\A\s*<think>.*?</think>", re.DOTALL)  # of models that think aloud first
_REFUSAL = re.compile(
    r"(?:i(?:'|\u2019)?m (?:really |very |so )?sorry|i am sorry|sorry,|i (?:can(?:no|'|\u2019)t|"
    r"cannot|won(?:'|\u2019)t|am unable|(?:'|\u2019)m unable|must decline|am not able)|"
    r"i(?:'|\u2019)m (?:unable|not able)|as an ai|unfortunately, i (?:can|am)|"
    r"\u62b1\u6b49|\u5bf9\u4e0d\u8d77|\u5f88\u9057\u61be|\u6211(?:\u4e0d\u80fd|\u65e0\u6cd5))",
    re.IGNORECASE,
)
_MOST_TIMEOUTS = 2  # of one request; a form that was not kept to is asked for more often
_MOST_SAID = 300  # characters of a reply without a verdict that are kept


@dataclass(frozen=True)
class Said:
    """What one try gave: a text, or why there is none."""

    text: str
    why: Why = ""


def check_said(request: JudgeRequest, said: Said) -> Said:
    """A reply without its thoughts, with what is wrong with it."""
    if said.why:
        return said
    text = _THOUGHT.sub("", said.text).strip()
    if not text:
        return Said("", "empty")
    if request.valid(text):
        return Said(text)
    return Said(text, "refused" if _REFUSAL.match(text) else "garbage")


def settle(request: JudgeRequest, once: Callable[[float], Said]) -> JudgeReply:
    """Ask until a reply is valid, or the tries are used up, or the judge has failed.

    Args:
        once: asks once, at a temperature. A failure is final: it has been tried there.
    """
    said, attempt, num_timeouts = Said("", "empty"), 0, 0
    while attempt < request.tries and said.why != "failed" and num_timeouts < _MOST_TIMEOUTS:
        said = check_said(request, once(request.temperature_of(attempt)))
        attempt += 1
        num_timeouts += said.why == "timeout"
        if not said.why:
            return JudgeReply(said.text, tries=attempt)
    return unsettled(said, attempt)


def unsettled(said: Said, tries: int) -> JudgeReply:
    """The reply of a judge whose last try was this one."""
    return JudgeReply(None, said.why, tries, " ".join(said.text.split())[:_MOST_SAID])
