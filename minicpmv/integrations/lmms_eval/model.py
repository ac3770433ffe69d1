"""The models of lmms-eval's registry, answering in batches through our engine.

Pictures of unequal size are answered together, in batches of like length; the answers are those of
one request at a time. `MiniCPMV` reads messages. lmms-eval asks models with messages for generated
answers only; `SimpleMiniCPMV`, which `--force_simple` takes, is asked for likelihoods, too.
"""

import json
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from accelerate import Accelerator
from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms
from loguru import logger
from tqdm import tqdm

from ...chat import Chat
from ...decisions.answers import AnswerTokens
from ...engine.answer import Answer
from ...loader import load
from .requests import messages_of, options_of, user_turn, without_effect

# A request's values, and what makes its messages.
_Asked = tuple[Sequence[Any], Callable[[], list[Any]]]
_WINDOW = 8  # batches of requests that are looked at together, and whose pictures are open


class MiniCPMV(lmms):
    """Any model of the family: `--model minicpmv --model_args pretrained=...`.

    Args:
        pretrained: a folder, a name on the hub, a short one, or "nano".
        batch_size: requests that are answered together. Answers do not depend on it.
        device, dtype, adapter, mmproj, quantize, revision: of `minicpmv.load`.
        system_prompt: a text, or a file with one.
        max_slice_nums, use_image_id: of pictures; num_frames, fps: of videos.
        num_beams, repetition_penalty, max_new_tokens, seed: win over those of the task. The cards
            were measured with num_beams=3,repetition_penalty=1.2.
    """

    is_simple = False

    def __init__(
        self,
        pretrained: str = "nano",
        *,
        batch_size: int | str | None = 32,
        max_batch_size: int | None = None,
        device: str | None = None,
        dtype: str = "auto",
        adapter: str | None = None,
        mmproj: str | None = None,
        quantize: Any = None,
        revision: str | None = None,
        system_prompt: str | None = None,
        max_slice_nums: int | None = None,
        use_image_id: bool | None = None,
        num_frames: int | None = None,
        fps: float | None = None,
        num_beams: int | None = None,
        repetition_penalty: float | None = None,
        max_new_tokens: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self._batch_size = _whole(batch_size)
        accelerator = Accelerator()
        if accelerator.num_processes > 1:
            self.accelerator = accelerator
            self._rank, self._world_size = accelerator.process_index, accelerator.num_processes
            device = str(accelerator.device)
        self.chat: Chat = load(
            pretrained,
            device or "auto",
            dtype,
            adapter=adapter,
            mmproj=mmproj,
            quantize=quantize,
            revision=revision,
            progress=False,
        )
        self._system = self._resolve_system_prompt(system_prompt) if system_prompt else None
        self._shown = _given(max_slice_nums=max_slice_nums, use_image_id=use_image_id)
        self._video = _given(num_frames=num_frames, fps=fps)
        self._own = _given(
            num_beams=num_beams,
            repetition_penalty=repetition_penalty,
            max_new_tokens=max_new_tokens,
            seed=seed,
        )

    @property
    def batch_size(self) -> int:
        return self._batch_size

    def generate_until(self, requests: list[Instance]) -> list[GenerationResult]:
        """Answers in the order of the requests.

        Raises:
            BatchError: requests could not be answered; the first is named.
        """
        return [
            GenerationResult(
                answer.text, TokenCounts(answer.num_input_tokens, answer.num_output_tokens)
            )
            for answer in self._answers(
                [(each.args, partial(self._conversation, each.args)) for each in requests],
                "Answering",
            )
        ]

    def generate_until_multi_round(self, requests: list[Instance]) -> list[list[str]]:
        """Each request's answers, round by round; those of one round are answered together."""
        said: list[list[str]] = [[] for _ in requests]
        notes: list[Any] = [None] * len(requests)
        waiting = list(range(len(requests)))
        while waiting:
            asked: dict[int, _Asked] = {}
            for number in waiting:
                args = requests[number].args
                turn = self._turn(args, said[number], notes[number])
                if turn is not None:
                    messages, notes[number] = turn
                    asked[number] = args, partial(_same, messages)
            waiting = list(asked)
            answers = self._answers(list(asked.values()), "Answering a round")
            for number, answer in zip(waiting, answers, strict=True):
                said[number].append(answer.text)
        return said

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Of each continuation as the beginning of an answer: its log-probability, and whether it
        is what would be generated. White space at its ends is left out: answers have none."""
        groups: dict[Any, list[int]] = defaultdict(list)
        for number, request in enumerate(requests):
            context, _, *where = request.args
            groups[context, *map(str, where[1:])].append(number)
        found: list[Any] = [None] * len(requests)
        progress = tqdm(groups.values(), "Comparing", disable=self.rank != 0)
        for members in progress:
            rows = self._likelihoods([requests[number].args for number in members])
            for number, row in zip(members, rows, strict=True):
                found[number] = row
        return found

    def clean(self) -> None:
        """Free the memory; lmms-eval asks nothing more."""
        self.chat.close()

    # One request.

    def _doc(self, args: Sequence[Any]) -> Any:
        doc_id, task, split = args[-3:]
        return self.task_dict[task][split][doc_id]

    def _kwargs(self, args: Sequence[Any]) -> Mapping[str, Any]:
        return args[2]

    def _conversation(self, args: Sequence[Any]) -> list[Any]:
        return messages_of(args[1](self._doc(args)), self._video)

    def _turn(
        self, args: Sequence[Any], said: list[str], notes: Any
    ) -> tuple[list[Any], Any] | None:
        """The messages of the next round with the task's notes; None after the last."""
        if not said:
            return self._conversation(args), None
        found = args[1](
            self._doc(args), round_idx=len(said), previous_output=said, previous_round_info=notes
        )
        if not isinstance(found, tuple) or found[1]:  # a task of one round, or the end
            return None
        messages, _, _, notes = found
        return messages_of(messages, self._video), notes

    # All of them.

    def _answers(self, asked: list[_Asked], name: str) -> list[Answer]:
        """Answers to requests: those with the same options together, a window at a time."""
        groups: dict[str, list[int]] = defaultdict(list)
        for number, (args, _) in enumerate(asked):
            groups[json.dumps(self._kwargs(args), sort_keys=True, default=str)].append(number)
        found: list[Any] = [None] * len(asked)
        with tqdm(total=len(asked), desc=name, disable=self.rank != 0 or not asked) as progress:
            for members in groups.values():
                given = self._kwargs(asked[members[0]][0])
                for unknown in without_effect(given):
                    logger.warning(f"{unknown} of the task has no effect on {self.chat.name}.")
                options = options_of(given, self._own)
                for start in range(0, len(members), _WINDOW * self._batch_size):
                    window = members[start : start + _WINDOW * self._batch_size]
                    answers = self._batch([asked[each][1]() for each in window], options)
                    for number, answer in zip(window, answers, strict=True):
                        found[number] = answer
                        args = asked[number][0]
                        pair = args[0], self._kwargs(args)
                        self.cache_hook.add_partial("generate_until", pair, answer.text)
                    progress.update(len(window))
        return found

    def _batch(self, conversations: list[Any], options: dict[str, Any]) -> list[Answer]:
        """What `Chat.batch` answers; options of pictures belong to conversations that show some."""
        parts: dict[bool, list[int]] = defaultdict(list)
        for number, messages in enumerate(conversations):
            parts[_shows_pictures(messages)].append(number)
        found: list[Any] = [None] * len(conversations)
        for has_pictures, members in parts.items():
            answers = self.chat.batch(
                [conversations[number] for number in members],
                batch_size=self._batch_size,
                system_prompt=self._system,
                **options,
                **(self._shown if has_pictures else {}),
            )
            for number, answer in zip(members, answers, strict=True):
                found[number] = answer
        return found

    def _likelihoods(self, asked: list[Any]) -> list[tuple[float, bool]]:
        """Of several continuations of one prompt."""
        args = asked[0]
        text, visuals = args[0], list[Any]()
        if len(args) > 2:
            visuals = args[2](self._doc(args)) or []
        messages = user_turn(visuals, text, self._video)
        shown = self._shown if _shows_pictures(messages) else {}
        tokens = AnswerTokens.of_processor(self.chat.engine.processor)
        texts = [each[1](self._doc(each)) if callable(each[1]) else each[1] for each in asked]
        ids = [tokens.of(str(each).strip())[0] for each in texts]
        if self._system:
            messages = [{"role": "system", "content": self._system}, *messages]
        conversation = self.chat.processor.question(messages)
        settings = self.chat.engine.settings([conversation], dict(shown))
        logprobs = self.chat.engine.score(conversation, settings, ids)
        greedy = self.chat.batch(
            [messages],
            sampling=False,
            num_beams=1,
            repetition_penalty=1.0,
            max_new_tokens=max(map(len, ids)),
            **shown,
        )[0].token_ids
        return [
            (math.fsum(each), tuple(greedy[: len(own)]) == tuple(own))
            for each, own in zip(logprobs, ids, strict=True)
        ]


class SimpleMiniCPMV(MiniCPMV):
    """The same for `--force_simple`: requests are a text with pictures, and may be likelihoods."""

    is_simple = True

    def _kwargs(self, args: Sequence[Any]) -> Mapping[str, Any]:
        return args[1]

    def _conversation(self, args: Sequence[Any]) -> list[Any]:
        return user_turn(args[2](self._doc(args)), args[0], self._video)

    def _turn(
        self, args: Sequence[Any], said: list[str], notes: Any
    ) -> tuple[list[Any], Any] | None:
        if not said:
            return self._conversation(args), None
        visuals, text, is_over, _, notes = args[3](
            self._doc(args), round_idx=len(said), previous_output=said, previous_round_info=notes
        )
        return None if is_over else (user_turn(visuals, text, self._video), notes)


def _same(messages: list[Any]) -> list[Any]:
    return messages


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _whole(batch_size: int | str | None) -> int:
    """
    Raises:
        ValueError: it is no number, as "auto".
    """
    try:
        return max(1, int(batch_size or 32))
    except ValueError:
        raise ValueError(
            f"batch_size is {batch_size!r}; give a number. Answers do not depend on it."
        ) from None


def _shows_pictures(messages: Sequence[Mapping[str, Any]]) -> bool:
    return any(
        isinstance(message["content"], list)
        and any(block["type"] == "image" for block in message["content"])
        for message in messages
    )
