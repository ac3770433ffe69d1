"""The tokens of one answer to its text, and at last to an `Answer`."""

from collections.abc import Iterable, Iterator, Sequence

from .answer import Answer, FinishReason, TokenLogprob
from .detokenize import Detokenizer, TokenTexts, answer_end, found_stop
from .plan import GenerationPlan
from .protocols import Processor
from .sampling import Choice
from .sequence import Generation


class Reading:
    """Reads tokens as they come; of beams, the text comes as one piece at the end.

    Attributes:
        choices: the tokens so far.
    """

    def __init__(
        self,
        processor: Processor,
        plan: GenerationPlan,
        num_input_tokens: int,
        strip: bool,
        before: Sequence[int] = (),
        keeps_end: bool = False,
    ):
        """
        Args:
            before: tokens whose text this one continues.
            keeps_end: whether white space before a stop text of the caller is not stripped.
        """
        self.choices: list[Choice] = []
        self._processor = plan.reader(processor)
        self._plan = plan
        self._num_input_tokens = num_input_tokens
        strip = strip and plan.constraint is None
        self._detokenizer = Detokenizer(self._processor, strip, plan.stop, before, keeps_end)
        self._text_of: TokenTexts | None = None
        self._text = ""
        self._has_ended = False

    def feed(self, choice: Choice) -> str:
        """The next token; returns text that it settles, often none."""
        self.choices.append(choice)
        self._has_ended = self._has_ended or self.is_end(choice.token)
        piece = "" if self._has_ended else self._detokenizer.feed(choice.token)
        self._text += piece
        return piece if self._plan.num_beams == 1 else ""

    def finish(self) -> str:
        """The rest of the text."""
        piece = self._detokenizer.finish()
        self._text += piece
        return piece if self._plan.num_beams == 1 else self._text

    def is_end(self, token: int) -> bool:
        """Whether it is a terminator, or a token of the caller's that ends the answer: no text."""
        return token in self._plan.config.eos_token_id

    def pieces(self, choices: Iterable[Choice]) -> Iterator[str]:
        """Pieces of text, each as soon as later tokens cannot change it."""
        for choice in choices:
            if piece := self.feed(choice):
                yield piece
        if piece := self.finish():
            yield piece

    def logprob_of(self, choice: Choice) -> TokenLogprob:
        """A token with its text; the plan asks for log-probabilities."""
        self._text_of = text_of = self._text_of or TokenTexts(self._processor)

        def told(token: int, value: float, top: tuple[TokenLogprob, ...] = ()) -> TokenLogprob:
            return TokenLogprob(token, text_of(token), value, top, text_of.part(token))

        top = tuple(told(token, value) for token, value in choice.top or ())
        return told(choice.token, choice.logprob or 0.0, top)

    def answer(
        self,
        num_tokens: int,
        reason: FinishReason,
        prompt_seconds: float,
        decode_seconds: float,
        queue_seconds: float = 0.0,
        num_cached_tokens: int = 0,
    ) -> Answer:
        """The answer, whose first `num_tokens` choices are the text and what ended it."""
        own = self.choices[:num_tokens]
        ids = [choice.token for choice in own]
        has_terminator = bool(ids) and self.is_end(ids[-1])
        has_stops = reason == "stop" and bool(self._plan.stop)
        shown = ids[:-1] if has_terminator else ids
        has_logprobs = self._plan.logprobs is not None
        return Answer(
            self._text,
            num_input_tokens=self._num_input_tokens,
            num_output_tokens=num_tokens,
            finish_reason=reason,
            prompt_seconds=prompt_seconds,
            queue_seconds=queue_seconds,
            decode_seconds=decode_seconds,
            token_ids=ids,
            stop_text=found_stop(shown, self._processor, self._plan.stop) if has_stops else None,
            logprobs=map(self.logprob_of, own) if has_logprobs else None,
            has_terminator=has_terminator,
            num_cached_tokens=num_cached_tokens,
        )

    def answer_of(self, generation: Generation, reason: FinishReason) -> Answer:
        """The answer that the scheduler has computed, all of whose tokens were fed."""
        first, last = generation.first, generation.last
        return self.answer(
            len(self.choices),
            reason,
            0.0 if first is None else first - generation.begin,
            0.0 if first is None or last is None else last - first,
            generation.queue_seconds,
            generation.num_cached,
        )

    def end(self) -> tuple[int, FinishReason]:
        """How many tokens are the answer, and why it ended."""
        ids = [choice.token for choice in self.choices]
        ends = self._plan.config.eos_token_id
        end = answer_end(ids, self._processor, self._plan.stop, ends)
        if end is not None:
            return end, "stop"
        if (matcher := self._plan.matcher()) is not None:
            for token in ids:
                matcher.append(token)
            if matcher.is_complete:
                return len(ids), "stop"
        is_full = len(ids) >= self._plan.config.max_new_tokens
        return len(ids), "length" if is_full or self._plan.config.max_time is None else "time"
