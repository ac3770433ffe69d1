"""What one client got, compared with what `generate` answers alone.

Rounding may differ between a batch and a sample alone, and decides where two tokens are as likely
to six digits. Then, and only then, an answer may be another: one that `generate` gives too when its
logits are moved by a millionth.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers.generation import LogitsProcessor

from minicpmv import Answer, Chat
from minicpmv.engine.answer import TokenLogprob
from minicpmv.engine.detokenize import answer_end, answer_text
from minicpmv.engine.hf import LogprobRecord, generate_ids
from minicpmv.engine.sampling import Choice

NOISE = 2e-6  # of the largest logit; float32 has 1e-7, and a logit is a sum of many
NUM_NOISES = 12
LOGPROB_ERROR = 1e-3

Messages = list[dict[str, Any]]


@dataclass
class Told:
    """What a client got: how its answer begins, or all of it."""

    messages: Messages
    options: dict[str, Any]
    text: str
    answer: Answer | None  # None: only the beginning was read


@dataclass
class Report:
    """What was compared, for figures beside a failure."""

    answers: int = 0
    beginnings: int = 0
    errors: int = 0
    ties: int = 0

    def __add__(self, other: "Report") -> "Report":
        values = zip(vars(self).values(), vars(other).values(), strict=True)
        return Report(*(one + two for one, two in values))


def compared(chat: Chat, told: Told, where: str) -> Report:
    """Compare what a client got with what `generate` gives alone.

    Raises:
        AssertionError: it differs by more than a tie.
    """
    alone = reference(chat, told)
    if _agrees(told, alone):
        return Report(answers=told.answer is not None, beginnings=told.answer is None)
    for seed in range(NUM_NOISES):
        if _agrees(told, reference(chat, told, _Noise(seed))):
            return Report(answers=told.answer is not None, ties=1)
    raise AssertionError(
        f"{where}: {told.options} on {_in_short(told.messages)}\n"
        f"  together: {told.text!r} {_cost(told.answer)}\n  alone:    {str(alone)!r} {_cost(alone)}"
    )


def reference(chat: Chat, told: Told, *more: LogitsProcessor) -> Answer:
    """What `generate` answers to the same inputs, alone."""
    inputs, plan = chat.prepare([told.messages], **told.options)
    record = None if plan.logprobs is None else LogprobRecord(plan.logprobs)
    found = generate_ids(chat.model, inputs, plan, logits_processors=more, record=record)
    ids = found[0].tolist()
    end = answer_end(ids, chat.processor, plan.stop)
    num_tokens = len(ids) if end is None else end
    choices = () if record is None else record.rows[0][:num_tokens]
    return Answer(
        answer_text(ids, chat.processor, stop=plan.stop),
        num_input_tokens=inputs["input_ids"].shape[1],
        num_output_tokens=num_tokens,
        finish_reason="length" if end is None else "stop",
        token_ids=ids[:num_tokens],
        logprobs=None if record is None else [_logprob(each) for each in choices],
    )


def _logprob(choice: Choice) -> TokenLogprob:
    assert choice.logprob is not None
    top = [TokenLogprob(token, "", value) for token, value in choice.top or ()]
    return TokenLogprob(choice.token, "", choice.logprob, tuple(top))


def _agrees(told: Told, alone: Answer) -> bool:
    answer = told.answer
    if answer is None:
        return str(alone).startswith(told.text)
    return (
        told.text == str(answer) == str(alone)
        and _cost(answer) == _cost(alone)
        and answer.token_ids == alone.token_ids
        and _are_near(answer.logprobs, alone.logprobs)
    )


def _are_near(these: Sequence[TokenLogprob] | None, others: Sequence[TokenLogprob] | None) -> bool:
    if these is None or others is None:
        return these is others
    return len(these) == len(others) and all(
        abs(one.logprob - other.logprob) < LOGPROB_ERROR and _are_near(one.top, other.top)
        for one, other in zip(these, others, strict=True)
    )


def _cost(answer: Answer | None) -> tuple[Any, ...]:
    if answer is None:
        return ("closed",)
    return answer.num_input_tokens, answer.num_output_tokens, answer.finish_reason


def _in_short(messages: Messages) -> Messages:
    """Messages as one can read and type them: pictures by their sizes."""

    def short(block: Any) -> Any:
        if not isinstance(block, dict) or block["type"] == "text":
            return block
        shown = block[block["type"]]
        return [each.size for each in (shown if isinstance(shown, list) else [shown])]

    return [
        {**message, "content": [short(block) for block in message["content"]]}
        if isinstance(message["content"], list)
        else message
        for message in messages
    ]


class _Noise(LogitsProcessor):
    """Moves logits by about as much as rounding does."""

    def __init__(self, seed: int):
        self._generator = torch.Generator().manual_seed(seed)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        noise = torch.randn(scores.shape, generator=self._generator).to(scores)
        return scores + noise * NOISE * scores.abs().amax(dim=-1, keepdim=True)
