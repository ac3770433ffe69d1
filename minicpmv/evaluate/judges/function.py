"""A Python function as a judge."""

from collections.abc import Callable, Sequence
from functools import partial

from minicpmv.evaluate.judges.attempts import Said, settle
from minicpmv.evaluate.judges.protocol import JudgeReply, JudgeRequest


class FunctionJudge:
    """Asks `judge(prompt, temperature)`, one request after the other.

    Args:
        judge: takes the text of all messages and a temperature, and returns what it says. One that
            raises TimeoutError was not done in time; other exceptions end the run.
        name: who it is. Verdicts are kept under it, so another function wants another name.
    """

    def __init__(self, judge: Callable[[str, float], str | None], name: str = "") -> None:
        self._judge = judge
        self.name = name or getattr(judge, "__qualname__", type(judge).__name__)

    def ask(
        self,
        requests: Sequence[JudgeRequest],
        on_reply: Callable[[int, JudgeReply], None] = lambda index, reply: None,
    ) -> list[JudgeReply]:
        replies = []
        for index, request in enumerate(requests):
            prompt = "\n\n".join(str(message["content"]) for message in request.messages)
            replies.append(settle(request, partial(self._once, prompt)))
            on_reply(index, replies[-1])
        return replies

    def _once(self, prompt: str, temperature: float) -> Said:
        try:
            return Said(self._judge(prompt, temperature) or "")
        except TimeoutError as error:
            return Said(str(error), "timeout")
