"""The tokens of one answer to its text, and at last to an `Answer`."""

from collections.abc import Iterable, Iterator

from .answer import Answer, FinishReason, TokenLogprob
from .detokenize import TokenTexts, answer_end, found_stop, stream_text
from .plan import GenerationPlan
from .protocols import Processor
from .sampling import Choice


class Reading:
    """Reads tokens as they come; of beams, the text comes as one piece at the end.

    Attributes:
        choices: the tokens so far.
    """

    def __init__(
        self, processor: Processor, plan: GenerationPlan, num_input_tokens: int, strip: bool
    ):
        self.choices: list[Choice] = []
        self._processor = processor
        self._plan = plan
        self._num_input_tokens = num_input_tokens
        self._strip = strip
        self._text = ""

    def pieces(self, choices: Iterable[Choice]) -> Iterator[str]:
        """Pieces of text, each as soon as later tokens cannot change it."""

        def tokens() -> Iterator[int]:
            for choice in choices:
                self.choices.append(choice)
                yield choice.token

        for piece in stream_text(tokens(), self._processor, self._strip, self._plan.stop):
            self._text += piece
            if self._plan.num_beams == 1:
                yield piece
        if self._plan.num_beams > 1 and self._text:
            yield self._text

    def answer(
        self,
        num_tokens: int,
        reason: FinishReason,
        prompt_seconds: float,
        decode_seconds: float,
        queue_seconds: float = 0.0,
    ) -> Answer:
        """The answer, whose first `num_tokens` choices are the text and what ended it."""
        own = self.choices[:num_tokens]
        logprobs = None
        if self._plan.logprobs is not None:
            text_of = TokenTexts(self._processor)
            logprobs = [
                TokenLogprob(
                    choice.token,
                    text_of(choice.token),
                    choice.logprob or 0.0,
                    tuple(TokenLogprob(i, text_of(i), value) for i, value in choice.top or ()),
                )
                for choice in own
            ]
        ids = [choice.token for choice in own]
        has_stops = reason == "stop" and bool(self._plan.stop)
        return Answer(
            self._text,
            num_input_tokens=self._num_input_tokens,
            num_output_tokens=num_tokens,
            finish_reason=reason,
            prompt_seconds=prompt_seconds,
            queue_seconds=queue_seconds,
            decode_seconds=decode_seconds,
            token_ids=ids,
            logprobs=logprobs,
            stop_text=found_stop(ids, self._processor, self._plan.stop) if has_stops else None,
        )

    def end(self) -> tuple[int, FinishReason]:
        """How many tokens are the answer, and why it ended."""
        ids = [choice.token for choice in self.choices]
        end = answer_end(ids, self._processor, self._plan.stop)
        if end is not None:
            return end, "stop"
        is_full = len(ids) >= self._plan.config.max_new_tokens
        return len(ids), "length" if is_full or self._plan.config.max_time is None else "time"
