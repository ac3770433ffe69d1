"""A model that this process has loaded as a judge."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from minicpmv.chat import BatchError, Chat
from minicpmv.evaluate.judges.attempts import Said, check_said, unsettled
from minicpmv.evaluate.judges.protocol import JudgeReply, JudgeRequest
from minicpmv.evaluate.scenes.runner import fingerprint

_MAX_TOKENS = 1024  # where the request says none
_SEED = 0


class ModelJudge:
    """Asks a loaded model in batches; at temperature 0 greedily, once.

    Args:
        chat: of `minicpmv.load`.
        batch_size: requests that are answered together.
    """

    def __init__(self, chat: Chat, batch_size: int = 32) -> None:
        self._chat = chat
        self._batch_size = batch_size
        self.name = f"{chat.name or 'a model'} ({fingerprint(chat.model)})"

    def ask(
        self,
        requests: Sequence[JudgeRequest],
        on_reply: Callable[[int, JudgeReply], None] = lambda index, reply: None,
    ) -> list[JudgeReply]:
        replies: dict[int, JudgeReply] = {}

        def note(index: int, reply: JudgeReply) -> None:
            replies[index] = reply
            on_reply(index, reply)

        waiting = list(range(len(requests)))
        attempt = 0
        while waiting:
            groups: dict[tuple[float, int], list[int]] = defaultdict(list)
            for index in waiting:
                request = requests[index]
                limit = request.max_tokens or _MAX_TOKENS
                groups[request.temperature_of(attempt), limit].append(index)
            waiting = []
            for (temperature, max_tokens), members in groups.items():
                asked = [requests[index] for index in members]
                for index, said in zip(
                    members, self._answers(asked, temperature, max_tokens, attempt), strict=True
                ):
                    said = check_said(requests[index], said)
                    if not said.why:
                        note(index, JudgeReply(said.text, tries=attempt + 1))
                    elif self._is_last(requests[index], attempt):
                        note(index, unsettled(said, attempt + 1))
                    else:
                        waiting.append(index)
            attempt += 1
        return [replies[index] for index in range(len(requests))]

    @staticmethod
    def _is_last(request: JudgeRequest, attempt: int) -> bool:
        """No tries are left, or all that are left would give the same greedy answer."""
        left = range(attempt + 1, request.tries)
        return not any(request.temperature_of(other) > 0 for other in left)

    def _answers(
        self, requests: Sequence[JudgeRequest], temperature: float, max_tokens: int, attempt: int
    ) -> list[Said]:
        options: dict[str, Any] = {"sampling": False, "num_beams": 1, "repetition_penalty": 1.0}
        if temperature > 0:
            options = {"sampling": True, "temperature": temperature, "seed": _SEED + attempt}
        try:
            answers = self._chat.batch(
                [[dict(message) for message in request.messages] for request in requests],
                batch_size=self._batch_size,
                max_new_tokens=max_tokens,
                up_to_context=True,
                **options,
            )
        except BatchError as error:
            return [
                Said(str(error.errors.get(place, "")), "failed")
                if answer is None
                else Said(answer.text)
                for place, answer in enumerate(error.answers)
            ]
        return [Said(answer.text) for answer in answers]
