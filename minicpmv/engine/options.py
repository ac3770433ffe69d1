"""The options of an answer: one table for Python, the command line and a server.

Generation options steer how tokens are chosen, processing options how the prompt is made. Each row
says which values make sense, what else must hold for it to have an effect, and how `--help` puts
it. Imports no torch, so that `--help` is light.
"""

import math
import numbers
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, Literal, TypedDict

from ..errors import ArgumentError, short
from .constraints import Constraint

Need = Literal["sampling", "beams", "one beam", "picture", "video"]

_KIND_NAMES = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    tuple: "a text, or a list of texts, none of them empty",
    dict: "a mapping of token ids to numbers",
    list: "a token id, or a list of token ids",
    Constraint: "a Constraint, as Constraint.json_schema({...}) makes one",
}
_WORDS = {"true": True, "yes": True, "on": True, "1": True}
_WORDS |= {"false": False, "no": False, "off": False, "0": False}


class GenerationOptions(TypedDict, total=False):
    """How the tokens of an answer are chosen, and what ends it; None means "not given".

    Fields:
        frequency_penalty, presence_penalty: from -2 to 2, as OpenAI defines them: taken off the
            logits of the new tokens that are there already, the first times how often, the second
            once. The prompt is not counted.
        constraint: what the whole answer matches, unless it is cut short: JSON, a schema, a regular
            expression, one of some texts, a grammar. It needs llguidance (the extra `serve`). Not
            with beams. The text is not stripped.
        logit_bias: from -100 to 100, added to the logits of tokens after the penalties.
        max_time: seconds from the call; reading pictures and waiting for others count.
        stop: one text or several that end the answer (`finish_reason` is "stop") and are cut off:
            the first to be complete, and with what follows it.
        stop_token_ids: tokens that end the answer (`finish_reason` is "stop") and are no part of
            its text, beside the terminators of the model.
        ignore_eos: the terminators of the model cannot come; the answer goes on until something
            else ends it.
        up_to_context: `max_new_tokens` that the context has no room for are no error: the answer
            ends where the context does.
        logprobs: gives `Answer.logprobs`: natural logarithms of probabilities, of each token and of
            this many of the likeliest (0 to 20) at its place, by the softmax of the model's own
            logits, before penalties, bias and temperature. Not with beams.
        prompt_lookup_num_tokens: guess this many tokens ahead, at most 64, where the last ones were
            there before; the model confirms them all in one step. The answer is the same, greedy
            or drawn. Not with beams; models that transformers' `generate` computes gain nothing.
    """

    sampling: bool | None
    do_sample: bool | None
    seed: int | None
    temperature: float | None
    top_p: float | None
    top_k: int | None
    min_p: float | None
    repetition_penalty: float | None
    frequency_penalty: float | None
    presence_penalty: float | None
    logit_bias: Mapping[int, float] | None
    no_repeat_ngram_size: int | None
    num_beams: int | None
    length_penalty: float | None
    early_stopping: bool | None
    max_new_tokens: int | None
    min_new_tokens: int | None
    up_to_context: bool | None
    max_time: float | None
    stop: str | Sequence[str] | None
    stop_token_ids: int | Sequence[int] | None
    ignore_eos: bool | None
    constraint: Constraint | None
    logprobs: int | None
    prompt_lookup_num_tokens: int | None


class AnswerOptions(GenerationOptions, total=False):
    """The keywords of `Chat.ask`, `stream`, `batch` and `Conversation.say`."""

    system_prompt: str | None
    max_slice_nums: int | None
    use_image_id: bool | None
    max_inp_length: int | None
    num_frames: int | None
    fps: float | None
    image_features: Any


@dataclass(frozen=True)
class Option:
    """One option of an answer.

    Fields:
        kind: bool, int, float, tuple (of texts), list (of token ids), dict (token ids to numbers)
            or Constraint.
        help: one line for `--help`.
        above, least, most: the range of a number; it is finite in any case.
        needs: what it has no effect without.
        hint: a further sentence for values below the range.
        has_flag: False for another spelling of an option that has one, and for what the command
            line has no use for.
    """

    name: str
    kind: type
    help: str
    above: float | None = None
    least: float | None = None
    most: float | None = None
    needs: Need | None = None
    hint: str = ""
    has_flag: bool = True

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    def check(self, value: Any) -> Any:
        """`value` as its kind: numbers of numpy, fractions and 8.0 for 8 are taken, and one text
        or token id for a list of them.

        Raises:
            ArgumentError: it is of another kind, or out of range.
        """
        if self.kind is tuple:
            return self._texts(value)
        if self.kind is dict:
            return self._numbers_by_id(value)
        if self.kind is list:
            return self._ids(value)
        if self.kind is Constraint:
            if not isinstance(value, Constraint):
                kind = _KIND_NAMES[Constraint]
                raise ArgumentError(f"`{self.name}` is {short(value)}; it must be {kind}.")
            return value
        plain = value.item() if getattr(value, "ndim", None) == 0 else value
        is_number = isinstance(plain, numbers.Real | Decimal) and not isinstance(plain, bool)
        if self.kind is bool:
            is_mine = isinstance(plain, bool)
        elif self.kind is int:
            is_mine = is_number and math.isfinite(plain) and int(plain) == plain
        else:
            is_mine = is_number
        if not is_mine:
            raise ArgumentError(f"`{self.name}` is {value!r}; it must be {_KIND_NAMES[self.kind]}.")
        if self.kind is bool:
            return plain
        if self.kind is float and not math.isfinite(plain):
            raise ArgumentError(f"`{self.name}` is {value}; it must be a finite number.")
        if self.above is not None and not plain > self.above:
            raise ArgumentError(
                f"`{self.name}` is {value}; it must be above {self.above}.{self.hint}"
            )
        if self.least is not None and not plain >= self.least:
            raise ArgumentError(f"`{self.name}` is {value}; it must be at least {self.least}.")
        if self.most is not None and not plain <= self.most:
            raise ArgumentError(f"`{self.name}` is {value}; it must be at most {self.most}.")
        return self.kind(plain)

    def _texts(self, value: Any) -> tuple[str, ...]:
        texts = (value,) if isinstance(value, str) else value
        is_list = isinstance(texts, list | tuple)
        if not is_list or not all(isinstance(text, str) and text for text in texts):
            raise ArgumentError(f"`{self.name}` is {value!r}; it must be {_KIND_NAMES[tuple]}.")
        return tuple(dict.fromkeys(texts))

    def _ids(self, value: Any) -> tuple[int, ...]:
        if isinstance(value, str | Mapping):
            raise ArgumentError(f"`{self.name}` is {value!r}; it must be {_KIND_NAMES[list]}.")
        ids = value if isinstance(value, Iterable) else [value]
        an_id = Option(self.name, int, "", least=0)
        return tuple(dict.fromkeys(an_id.check(token) for token in ids))

    def _numbers_by_id(self, value: Any) -> dict[int, float]:
        if not isinstance(value, Mapping):
            raise ArgumentError(f"`{self.name}` is {value!r}; it must be {_KIND_NAMES[dict]}.")
        a_key = Option(f"a token id of {self.name}", int, "", least=0)
        a_number = Option(f"{self.name}[...]", float, "", least=self.least, most=self.most)
        return {
            a_key.check(token): replace(a_number, name=f"{self.name}[{token}]").check(number)
            for token, number in value.items()
        }

    def parse(self, text: str) -> Any:
        """Read a value typed by a person.

        Raises:
            ArgumentError: the text is no value of this kind, or out of range.
        """
        if self.kind is bool:
            if text.lower() not in _WORDS:
                raise ArgumentError(f"`{self.name}` is {text!r}; expected on or off.")
            return _WORDS[text.lower()]
        if self.kind is tuple:
            return self.check(text)
        try:
            value = self.kind(text)
        except ValueError:
            raise ArgumentError(
                f"`{self.name}` is {text!r}; expected {_KIND_NAMES[self.kind]}."
            ) from None
        return self.check(value)


def _table(*options: Option) -> dict[str, Option]:
    return {option.name: option for option in options}


GENERATION = _table(
    Option(
        "sampling", bool, "draw each token at random (sampling), or search: greedily or with beams"
    ),
    Option("do_sample", bool, "transformers' name of sampling", has_flag=False),
    Option(
        "temperature",
        float,
        "sampling temperature",
        above=0,
        least=0.001,  # below, logits are not finite any more
        most=1000,
        needs="sampling",
        hint=" For the likeliest answer pass `sampling=False`, `num_beams=1`.",
    ),
    Option(
        "top_p",
        float,
        "nucleus sampling: the likeliest tokens up to this total probability",
        above=0,
        most=1,
        needs="sampling",
    ),
    Option(
        "top_k",
        int,
        "sample from this many of the likeliest tokens; 0: from all",
        least=0,
        needs="sampling",
    ),
    Option(
        "min_p",
        float,
        "drop tokens less likely than this fraction of the likeliest one",
        least=0,
        most=1,
        needs="sampling",
    ),
    Option(
        "repetition_penalty",
        float,
        "1: none; higher values repeat less",
        above=0,
        least=0.01,
        most=100,
    ),
    Option(
        "frequency_penalty",
        float,
        "taken off the logit of a new token for each time it was there; below 0 repeats more",
        least=-2,
        most=2,
    ),
    Option(
        "presence_penalty",
        float,
        "taken off the logit of every new token that was there; below 0 repeats more",
        least=-2,
        most=2,
    ),
    Option(
        "logit_bias",
        dict,
        "added to the logits of tokens, by their ids",
        least=-100,
        most=100,
        has_flag=False,
    ),
    Option("no_repeat_ngram_size", int, "no sequence of this many tokens occurs twice", least=1),
    Option("num_beams", int, "beam width; 1 decodes greedily", least=1, most=64),
    Option(
        "length_penalty",
        float,
        "above 0 favours long answers, below 0 short ones",
        least=-10,
        most=10,
        needs="beams",
    ),
    Option("early_stopping", bool, "stop as soon as enough beams are finished", needs="beams"),
    Option("max_new_tokens", int, "longest answer, in tokens", least=1),
    Option("min_new_tokens", int, "shortest answer, in tokens", least=0),
    Option(
        "up_to_context",
        bool,
        "an answer whose longest length the context has no room for ends where the context does",
        has_flag=False,
    ),
    Option(
        "max_time",
        float,
        "time limit of an answer, in seconds from the call, with the time it waits",
        above=0,
    ),
    Option("stop", tuple, "a text that ends the answer and is no part of it"),
    Option("stop_token_ids", list, "tokens that end the answer, by their ids", has_flag=False),
    Option("ignore_eos", bool, "the model cannot end its answer by itself", has_flag=False),
    Option("constraint", Constraint, "what the answer matches", needs="one beam", has_flag=False),
    Option(
        "logprobs",
        int,
        "log-probabilities of the tokens, each with this many of the likeliest beside it",
        least=0,
        most=20,
        needs="one beam",
        has_flag=False,
    ),
    Option(
        "prompt_lookup_num_tokens",
        int,
        "guess up to this many tokens ahead from what was there before: faster where the answer "
        "repeats it, with the same tokens",
        least=1,
        most=64,
        needs="one beam",
    ),
    Option("seed", int, "random seed", least=0, most=2**63 - 1, needs="sampling"),
)

PROCESSING = _table(
    Option(
        "max_slice_nums",
        int,
        "most cells a picture is cut into; 1 does not cut",
        least=1,
        needs="picture",
    ),
    Option("use_image_id", bool, "number the pictures in the prompt", needs="picture"),
    Option("max_inp_length", int, "longest prompt, in tokens", least=1),
    Option("num_frames", int, "frames of a video, evenly spread", least=1, needs="video"),
    Option(
        "fps", float, "frames per second of a video file, at most 64 in all", above=0, needs="video"
    ),
)

OPTIONS = GENERATION | PROCESSING


def checked(options: Mapping[str, Any], known: Mapping[str, Option]) -> dict[str, Any]:
    """The options that were given (not None), each of its own kind and in range.

    Raises:
        ArgumentError: an option is unknown, of another kind, or out of range.
    """
    given = {name: value for name, value in options.items() if value is not None}
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise ArgumentError(
            f"Unknown option {', '.join(map(repr, unknown))}. Known: {', '.join(OPTIONS)}."
        )
    return {name: known[name].check(value) for name, value in given.items()}
