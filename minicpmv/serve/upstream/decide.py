"""Decisions by servers behind this one.

A server of this package decides itself. vLLM tells the probabilities of single tokens at the first
place of an answer (`logprob_token_ids`), so there every label needs a spelling of one token, and
what would come after it is not looked at.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from ...decisions.decide import asking
from ...decisions.decision import Decision, decision_of, log_mean_exp
from ...decisions.question import Question
from ...engine.request import Messages
from ..errors import ApiError
from ..jobs import DecisionJob
from ..protocols.decisions import STATEMENT
from .failures import count, finite, nonsense, tokens_in
from .request import media_settings, messages_of

# A path and a body to what is answered.
Ask = Callable[[str, dict[str, Any]], Awaitable[dict[str, Any]]]
# Log-probabilities of tokens, and how many tokens of the prompt were read, and known.
_Scored = tuple[dict[int, float], tuple[int, int]]

_AT_A_TIME = 16
_LEAST = -9999.0  # vLLM's word for a token that cannot be


async def by_minicpmv(job: DecisionJob, ask: Ask) -> list[Decision]:
    """As the servers decide; each question by itself, for a request says how all are asked.

    Raises:
        ApiError, UpstreamError: they do not.
    """
    body = {
        "input": [_item(message) for message in messages_of(job.prompt) if message["content"]],
        "mm_processor_kwargs": media_settings(job.prompt, job.options, "minicpmv") or None,
    }

    async def decided(question: Question) -> Decision:
        asked = {
            **body,
            "questions": [_question(question)],
            "list_choices": question.list_choices,
            "average_orders": question.average_orders is not None or None,
        }
        return _decision(question, await ask("/v1/decisions", asked))

    return await _together(list(job.questions), decided)


async def by_vllm(job: DecisionJob, ask: Ask) -> list[Decision]:
    """By the probabilities of the first token.

    Raises:
        ApiError: no spelling of a label is one token; or as `ask` does.
    """
    texts = {text for each in job.questions for texts in each.spellings.values() for text in texts}
    found = await _together(sorted(texts), lambda text: _single_token(text, ask))
    tokens = dict(zip(sorted(texts), found, strict=True))
    labels = [_tokens_of(question, tokens) for question in job.questions]
    settings = media_settings(job.prompt, job.options, "vllm")
    asked = [
        (index, asking(job.prompt, question.written(order)))
        for index, question in enumerate(job.questions)
        for order in question.orders()
    ]

    async def scored(one: tuple[int, Messages]) -> _Scored:
        index, messages = one
        wanted = sorted({token for ids in labels[index].values() for token in ids})
        body: dict[str, Any] = {
            "messages": messages_of(messages),
            "max_tokens": 1,
            "temperature": 0,
            "logprobs": True,
            "top_logprobs": 0,
            "logprob_token_ids": wanted,
            "return_tokens_as_token_ids": True,
        }
        if settings:
            body["mm_processor_kwargs"] = settings
        return _first_logprobs(await ask("/v1/chat/completions", body))

    answers = await _together(asked, scored)
    decisions = []
    for index, question in enumerate(job.questions):
        own = [answer for (place, _), answer in zip(asked, answers, strict=True) if place == index]
        decisions.append(_mean(question, labels[index], own))
    return decisions


def _mean(
    question: Question,
    labels: Mapping[str, Sequence[int]],
    answers: Sequence[_Scored],
) -> Decision:
    """Of all orders."""
    logprobs = {
        label: log_mean_exp(
            [found.get(token, _LEAST) for found, _ in answers for token in ids], len(answers)
        )
        for label, ids in labels.items()
    }
    return decision_of(
        question.kind,
        logprobs,
        num_orders=len(answers),
        num_input_tokens=sum(read for _, (read, _) in answers),
        num_cached_tokens=sum(cached for _, (_, cached) in answers),
        num_scored_tokens=sum(map(len, labels.values())) * len(answers),
    )


async def _single_token(text: str, ask: Ask) -> int | None:
    """The id of a text that is one token."""
    found = await ask("/tokenize", {"prompt": text, "add_special_tokens": False})
    tokens = tokens_in(found)
    return tokens[0] if len(tokens) == 1 else None


def _tokens_of(question: Question, tokens: Mapping[str, int | None]) -> dict[str, list[int]]:
    labels: dict[str, list[int]] = {}
    owners: dict[int, str] = {}
    for label, texts in question.spellings.items():
        ids = {tokens[text] for text in texts}
        labels[label] = sorted(token for token in ids if token is not None)
        if not labels[label]:
            raise ApiError(
                400,
                "invalid_value",
                f"The choice {label!r} is several tokens; the servers behind this one tell the "
                "probabilities of single tokens. Use short words, letters or numbers.",
                param="questions",
            )
        for token in labels[label]:
            if owners.setdefault(token, label) != label:
                raise ApiError(
                    400,
                    "invalid_value",
                    f"The choices {owners[token]!r} and {label!r} have the same token; each answer "
                    "counts once.",
                    param="questions",
                )
    return labels


def _first_logprobs(found: dict[str, Any]) -> _Scored:
    try:
        first = found["choices"][0]["logprobs"]["content"][0]
        entries = [first, *first["top_logprobs"]]
        logprobs = {
            int(entry["token"].removeprefix("token_id:")): finite(entry["logprob"])
            for entry in entries
        }
        usage = found["usage"]
        details = usage.get("prompt_tokens_details") or {}
        read = count(usage.get("prompt_tokens", 0)), count(details.get("cached_tokens") or 0)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        raise nonsense(found) from None
    return logprobs, read


async def _together(items: Sequence[Any], work: Callable[[Any], Awaitable[Any]]) -> list[Any]:
    """Some at a time; the first error ends all."""
    slots = asyncio.Semaphore(_AT_A_TIME)

    async def one(item: Any) -> Any:
        async with slots:
            return await work(item)

    tasks = [asyncio.ensure_future(one(item)) for item in items]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()


# As `/v1/decisions` is written.


def _item(message: Mapping[str, Any]) -> dict[str, Any]:
    content = message["content"]
    if not isinstance(content, str):
        content = [_part(part) for part in content]
    return {"type": "message", "role": message["role"], "content": content}


def _part(part: Mapping[str, Any]) -> dict[str, Any]:
    if part["type"] == "text":
        return {"type": "input_text", "text": part["text"]}
    shown = {"type": "input_image", "image_url": part["image_url"]["url"]}
    return {**shown, "detail": part["image_url"].get("detail", "auto")}


def _question(question: Question) -> dict[str, Any]:
    if question.kind == "yesno":
        # The server puts it there again.
        text = question.text.removeprefix(STATEMENT.format(""))
        return {"type": "predicate", "instructions": text}
    told = question.descriptions or {}
    if question.kind == "score":
        levels = [{"label": label, "description": told.get(label)} for label in question.labels]
        return {"type": "score", "instructions": question.text, "levels": levels}
    choices = [
        {"value": _value(label, texts), "description": told.get(label)}
        for label, texts in question.spellings.items()
    ]
    return {"type": "choice", "instructions": question.text, "choices": choices}


def _value(label: str, spellings: Sequence[str]) -> str | bool:
    """True and false have several spellings; as texts they have one."""
    return label if tuple(spellings) == (label,) else label == "true"


def _decision(question: Question, found: dict[str, Any]) -> Decision:
    try:
        answer, usage = found["answers"][0], found["usage"]
        if question.kind == "yesno":
            yes = _share(answer["probability"])
            values = [yes, 1 - yes]
        else:
            values = [_share(each["probability"]) for each in answer["probabilities"]]
        probabilities = dict(zip(question.labels, values, strict=True))
        mass, is_calibrated = _share(answer["mass"]), bool(answer["calibrated"])
        read = count(usage["input_tokens"])
        cached = count(usage["input_tokens_details"]["cached_tokens"])
    except (KeyError, IndexError, TypeError, ValueError):
        raise nonsense(found) from None
    logprobs = {label: math.log(max(p * mass, 5e-324)) for label, p in probabilities.items()}
    return Decision(
        question.kind,
        max(probabilities, key=lambda label: probabilities[label]),
        probabilities,
        logprobs,
        num_orders=len(question.orders()),
        num_input_tokens=read,
        num_cached_tokens=cached,
        is_calibrated=is_calibrated,
    )


def _share(value: Any) -> float:
    number = finite(value)
    if not 0 <= number <= 1 + 1e-6:  # sums of shares have their last bits from the order
        raise ValueError
    return min(number, 1.0)
