"""An answer as the events of `/v1/responses`, and as the response that they add up to.

The order is OpenAI's, and its clients depend on it: created, in_progress; for each item
output_item.added, its parts and deltas, their `done` twins, output_item.done; completed, incomplete
or failed. Every event has the next `sequence_number`.
"""

import time
from collections.abc import Iterable, Sequence
from typing import Any

from ...engine.answer import Answer, TokenLogprob
from ..errors import ApiError

Event = dict[str, Any]


class ResponseEvents:
    """The events of one response; `response` is what they have added up to.

    Args:
        response: its fields without `output` and what only the end knows.
        shows_logprobs: whether the client asked for them.
    """

    def __init__(self, response: dict[str, Any], shows_logprobs: bool = False):
        self.response = {
            **response,
            "status": "in_progress",
            "output": [],
            "usage": None,
            "error": None,
            "incomplete_details": None,
            "completed_at": None,
        }
        self._shows_logprobs = shows_logprobs
        self._sequence_number = 0
        self._open: dict[str, Any] | None = None  # the item that is being written

    def begin(self) -> list[Event]:
        """The first events, before anything is computed."""
        return [
            self._event("response.created", response=self._snapshot()),
            self._event("response.in_progress", response=self._snapshot()),
        ]

    def text(self, delta: str, tokens: Iterable[TokenLogprob] = ()) -> list[Event]:
        """More text of the message, which its first piece opens."""
        events: list[Event] = []
        if self._open is None or self._open["type"] != "message":
            events += self._close()
            events += self._open_message()
        assert self._open is not None
        part = self._open["content"][0]
        logprobs = response_logprobs(tokens) if self._shows_logprobs else []
        part["text"] += delta
        part["logprobs"] += logprobs
        events.append(
            self._event(
                "response.output_text.delta",
                **self._place(),
                content_index=0,
                delta=delta,
                logprobs=logprobs,
            )
        )
        return events

    def call(self, call_id: str, name: str) -> list[Event]:
        """The begin of a call of a function."""
        events = self._close()
        item = {
            "type": "function_call",
            "id": call_id.replace("call_", "fc_", 1),
            "call_id": call_id,
            "name": name,
            "arguments": "",
            "status": "in_progress",
        }
        self._open = item
        self.response["output"].append(item)
        events.append(
            self._event(
                "response.output_item.added",
                output_index=self._place()["output_index"],
                item={**item},
            )
        )
        return events

    def arguments(self, delta: str) -> list[Event]:
        """More of the arguments of the call that is open, as JSON text."""
        assert self._open is not None
        self._open["arguments"] += delta
        return [self._event("response.function_call_arguments.delta", **self._place(), delta=delta)]

    def finish(self, answer: Answer) -> list[Event]:
        """The last events: with the usage, and `incomplete` where the answer was cut."""
        events: list[Event] = []
        is_whole = answer.finish_reason == "stop"
        if not self.response["output"]:
            events += self._open_message()
        events += self._close("completed" if is_whole else "incomplete")
        self.response["usage"] = response_usage([answer])
        if is_whole:
            self.response["status"] = "completed"
            self.response["completed_at"] = int(time.time())
        else:
            self.response["status"] = "incomplete"
            self.response["incomplete_details"] = {"reason": "max_output_tokens"}
        kind = f"response.{self.response['status']}"
        return [*events, self._event(kind, response=self._snapshot())]

    def fail(self, error: ApiError) -> list[Event]:
        """The last events of an answer that cannot be completed.

        The fields of the error are there twice: at the top, as OpenAI documents them, and under
        `error`, where clients look to raise it.
        """
        fields = error.body()["error"]
        self.response["status"] = "failed"
        self.response["error"] = {"code": error.code, "message": error.message}
        return [
            self._event(
                "error",
                code=error.code,
                message=error.message,
                param=error.param,
                error=fields,
            ),
            self._event("response.failed", response=self._snapshot()),
        ]

    def _open_message(self) -> list[Event]:
        identifier = str(self.response["id"]).replace("resp_", "msg_", 1)
        item: dict[str, Any] = {
            "type": "message",
            "id": f"{identifier}{len(self.response['output']) or ''}",
            "status": "in_progress",
            "role": "assistant",
            "content": [],
        }
        self._open = item
        self.response["output"].append(item)
        place = self._place()
        added = self._event(
            "response.output_item.added",
            output_index=place["output_index"],
            item={**item, "content": []},
        )
        part: dict[str, Any] = {
            "type": "output_text",
            "text": "",
            "annotations": [],
            "logprobs": [],
        }
        item["content"] = [part]
        return [
            added,
            self._event(
                "response.content_part.added",
                **place,
                content_index=0,
                part={**part, "annotations": [], "logprobs": []},
            ),
        ]

    def _close(self, status: str = "completed") -> list[Event]:
        """End the open item."""
        item, place = self._open, self._place() if self._open is not None else {}
        if item is None:
            return []
        item["status"] = status
        events: list[Event] = []
        if item["type"] == "message":
            part = item["content"][0]
            at = {**place, "content_index": 0}
            events.append(
                self._event(
                    "response.output_text.done",
                    **at,
                    text=part["text"],
                    logprobs=part["logprobs"],
                )
            )
            events.append(self._event("response.content_part.done", **at, part=part))
        else:
            events.append(
                self._event(
                    "response.function_call_arguments.done",
                    **place,
                    name=item["name"],
                    arguments=item["arguments"],
                )
            )
        events.append(
            self._event("response.output_item.done", output_index=place["output_index"], item=item)
        )
        self._open = None
        return events

    def _place(self) -> dict[str, Any]:
        assert self._open is not None
        return {"item_id": self._open["id"], "output_index": len(self.response["output"]) - 1}

    def _snapshot(self) -> dict[str, Any]:
        return {**self.response, "output": list(self.response["output"])}

    def _event(self, kind: str, **fields: Any) -> Event:
        event = {"type": kind, "sequence_number": self._sequence_number, **fields}
        self._sequence_number += 1
        return event


def response_logprobs(tokens: Iterable[TokenLogprob]) -> list[dict[str, Any]]:
    """Log-probabilities as `output_text` shows them."""
    return [
        {**_token(token), "top_logprobs": [_token(each) for each in token.top]} for token in tokens
    ]


def response_usage(answers: Sequence[Answer]) -> dict[str, Any]:
    """Tokens of the prompt, and of all answers to it."""
    num_input = answers[0].num_input_tokens
    num_output = sum(answer.num_output_tokens for answer in answers)
    return {
        "input_tokens": num_input,
        "input_tokens_details": {
            "cached_tokens": getattr(answers[0], "num_cached_tokens", 0),
            "cache_write_tokens": 0,
        },
        "output_tokens": num_output,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": num_input + num_output,
    }


def _token(token: TokenLogprob) -> dict[str, Any]:
    return {
        "token": token.text,
        "bytes": list(token.data),
        "logprob": token.logprob,
    }
