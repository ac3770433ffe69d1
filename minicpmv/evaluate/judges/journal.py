"""What judges have said, in a file: nobody is asked, or paid, twice."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import get_args

from minicpmv.appending import Appended
from minicpmv.evaluate.judges.protocol import Judge, JudgeReply, JudgeRequest, Why

_MAY_PASS: tuple[Why, ...] = ("timeout", "failed")  # another time there may be a verdict


class Judgements(Appended):
    """`judgements.jsonl`: a line for each request, written as soon as its reply is there.

    Requests without a verdict because of the time, or of the server, are asked again.

    Args:
        path: the file, made when it is not there; None keeps nothing.

    Raises:
        OSError: it cannot be written, or another process writes it.
        ValueError: it holds something else.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.num_known = 0  # requests of `ask` that were not asked
        self._replies: dict[str, JudgeReply] = {}
        super().__init__(path)

    def _begin(self) -> None:
        for number, line in enumerate(self._whole_lines("judgements"), start=1):
            if not line.strip():
                continue
            try:
                found = json.loads(line)
                text, why = found["text"], found["why"]
                if not (text is None or isinstance(text, str)) or why not in get_args(Why):
                    raise ValueError(f"text {text!r}, why {why!r}")
                reply = JudgeReply(text, why, int(found["tries"]), str(found["said"]))
                self._replies[str(found["key"])] = reply
            except (ValueError, LookupError, TypeError) as error:
                raise ValueError(
                    f"{self.path}, line {number} is no judgement ({error}). Remove the file to "
                    "judge anew, or give another folder."
                ) from None

    def ask(
        self,
        judge: Judge,
        requests: Sequence[JudgeRequest],
        on_progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> list[JudgeReply]:
        """The replies of a judge; each different request is asked once, and never again.

        Args:
            on_progress: called with how many different requests have a reply, and how many there
                are.

        Raises:
            OSError: the judge cannot be reached, or the file not be written.
        """
        keys = [request.key(judge.name) for request in requests]
        different = dict(zip(keys, requests, strict=True))
        replies = {key: reply for key in different if (reply := self._known(key, different[key]))}
        self.num_known += len(replies)
        waiting = [key for key in different if key not in replies]
        on_progress(len(replies), len(different))

        def keep(index: int, reply: JudgeReply) -> None:
            replies[waiting[index]] = reply
            self._keep(waiting[index], judge.name, reply)
            on_progress(len(replies), len(different))

        if waiting:
            judge.ask([different[key] for key in waiting], keep)
        return [replies[key] for key in keys]

    def _known(self, key: str, request: JudgeRequest) -> JudgeReply | None:
        reply = self._replies.get(key)
        if reply is None or reply.why in _MAY_PASS:
            return None
        is_valid = reply.text is None or request.valid(reply.text)
        return reply if is_valid else None

    def _keep(self, key: str, judge: str, reply: JudgeReply) -> None:
        self._replies[key] = reply
        line = {"key": key, "judge": judge} | asdict(reply)
        self._append(json.dumps(line, ensure_ascii=False).encode("utf-8", "replace") + b"\n")
