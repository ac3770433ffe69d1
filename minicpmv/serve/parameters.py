"""Fields of a request to options of the engine, in the clients' own words.

Every protocol calls `generation` with OpenAI's names. A field that would have no effect is refused
by name, except where it asks for nothing that is not done anyway:

    used                      the fields of `schema.openai.Sampling`, logprobs, media settings
    accepted without effect   `_WITHOUT_EFFECT`, and the values named in `_ONLY`
    refused                   everything else; with `--lenient` it is ignored and counted

Clients send some settings of sampling always, whether the request samples or not. So a
`temperature` of 0, or a model that answers greedily, makes `top_p`, `top_k`, `min_p` and `seed`
harmless: the likeliest token is the same under all of them. Where no `temperature` is given and the
model is greedy, one of `top_p` (below 1), `top_k` and `min_p` asks for sampling.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from ..errors import short
from .errors import ApiError
from .jobs import ModelCard
from .schema.parts import ImagePart, VideoPart

# Below, logits divided by it are not finite; what it would draw is the likeliest token.
_GREEDY_BELOW = 0.001
_SEEDS = 2**63 - 16  # room for one more in each of `n` answers

_WITHOUT_EFFECT = {
    "user", "metadata", "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention",
    "safety_identifier", "cache_salt",
}  # fmt: skip
# Fields of which only some values ask for nothing that is not done anyway, and what to do.
_ONLY: dict[str, tuple[tuple[Any, ...], str]] = {
    "store": ((False,), "answers are not stored"),
    "service_tier": (("auto", "default"), "there is one tier"),
    "verbosity": (("medium",), "ask for it in the prompt"),
    "reasoning_effort": (("none",), "the model answers without reasoning"),
    "modalities": ((["text"], []), "answers are text"),
    "chat_template_kwargs": (
        ({}, {"enable_thinking": False}, {"thinking": False}),
        "the chat template reads none of them",
    ),
    "add_generation_prompt": ((True,), "a turn of the assistant always follows"),
    "continue_final_message": ((False,), "the last message must be a user's"),
    "add_special_tokens": ((False,), "the chat template writes them"),
    "skip_special_tokens": ((True,), "the tokens that end an answer are no part of it"),
    "spaces_between_special_tokens": ((True,), "special tokens are left out"),
    "include_stop_str_in_output": ((False,), "a stop text is no part of the answer"),
    "echo": ((False,), "the prompt is not repeated"),
}
# Same name in the engine, or another one, and taken over as they are.
_AS_THEY_ARE = {
    "min_tokens": "min_new_tokens",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    "repetition_penalty": "repetition_penalty",
}
_OF_BEAMS = {"length_penalty": 1.0, "early_stopping": False}  # and what clients send by default
_OF_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "seed")

Ignored = Callable[[str], None]


@dataclass(frozen=True)
class MediaOptions:
    """How the pictures and videos of a request are shown.

    Fields:
        max_slice_nums: of every picture and frame; it wins over `detail`.
        use_image_id: whether pictures are numbered; None: as the release does.
        num_frames, fps: which frames of each video that does not say so itself.
        params: what the client calls these, where it is not their own name.
    """

    max_slice_nums: int | None = None
    use_image_id: bool | None = None
    num_frames: int | None = None
    fps: float | None = None
    params: tuple[tuple[str, str], ...] = ()

    def param(self, name: str) -> str:
        return dict(self.params).get(name, f"mm_processor_kwargs.{name}")


def fields_of(body: BaseModel | Mapping[str, Any]) -> dict[str, Any]:
    """The fields that were given, by their names in requests; null is not given."""
    fields = body if isinstance(body, Mapping) else vars(body)
    return {name: value for name, value in fields.items() if value is not None}


def media_options(body: BaseModel | Mapping[str, Any]) -> MediaOptions:
    """`mm_processor_kwargs` and `media_io_kwargs` of a request.

    Raises:
        ApiError: two of them say different things, or one has no effect.
    """
    fields = fields_of(body)
    given = _plain(fields.get("mm_processor_kwargs"))
    io = _plain(fields.get("media_io_kwargs"))
    if io.get("image"):
        raise _refused("media_io_kwargs.image", "has no effect; leave it out")
    video = _plain(io.get("video"))
    params = []
    for name in ("num_frames", "fps"):
        if name not in video:
            continue
        if given.get(name, video[name]) != video[name]:
            raise _refused(
                f"media_io_kwargs.video.{name}",
                f"is {video[name]} and mm_processor_kwargs.{name} {given[name]}; send one",
            )
        given[name] = video[name]
        params.append((name, f"media_io_kwargs.video.{name}"))
    if "num_frames" in given and "fps" in given:
        raise _refused(
            "mm_processor_kwargs.fps",
            f"is {given['fps']:g} and num_frames {given['num_frames']}; each says how many frames "
            "of a video are shown: send one",
        )
    return MediaOptions(**given, params=tuple(params))


def generation(
    body: BaseModel | Mapping[str, Any],
    card: ModelCard,
    settings: Any,
    *,
    names: Mapping[str, str] | None = None,
    ignored: Ignored | None = None,
    must_fit: bool = True,
) -> dict[str, Any]:
    """Options of the engine for a request; those that nothing was said about are left out.

    Args:
        body: a request with OpenAI's names of fields, or these names and values. Fields that are
            no parameters (`model`, `messages`, `stream`, `response_format` ...) are left alone.
        settings: of the server: `max_tokens`, `timeout` and `lenient` are read.
        names: what the client calls a field, where that is not OpenAI's name of it.
        ignored: called with the name of each field that `lenient` lets pass without effect.
        must_fit: whether a length that the context or the server has no room for is an error;
            otherwise the answer ends there. For protocols whose clients must name a length.

    Raises:
        ApiError: a value is out of range, or would have no effect; it names the client's field.
    """
    return _Parameters(fields_of(body), card, settings, names or {}, ignored, must_fit).options()


def num_answers(body: BaseModel | Mapping[str, Any]) -> int:
    """`n`."""
    return int(fields_of(body).get("n", 1))


class _Parameters:
    """One request on its way to options."""

    def __init__(
        self,
        fields: dict[str, Any],
        card: ModelCard,
        settings: Any,
        names: Mapping[str, str],
        ignored: Ignored | None,
        must_fit: bool,
    ):
        self._must_fit = must_fit
        self._fields = fields
        self._card = card
        self._settings = settings
        self._names = names
        self._ignored = ignored

    def options(self) -> dict[str, Any]:
        self._check_only()
        options = {
            ours: self._fields[name] for name, ours in _AS_THEY_ARE.items() if name in self._fields
        }
        if self._fields.get("ignore_eos"):
            options["ignore_eos"] = True
        options |= self._length()
        beams = self._beams()
        has_beams = (beams.get("num_beams") or self._usual_beams()) > 1
        options |= beams
        options |= self._sampling(has_beams)
        options |= self._of_beams(has_beams)
        options |= self._ends()
        options |= self._bias()
        options |= self._logprobs(has_beams)
        options |= self._media()
        self._check_answers(has_beams)
        timeout = getattr(self._settings, "timeout", None)
        if timeout is not None:
            options["max_time"] = float(timeout)
        return options

    # Each of these reads some fields and returns what they mean.

    def _length(self) -> dict[str, Any]:
        long, short_ = self._fields.get("max_completion_tokens"), self._fields.get("max_tokens")
        if long is not None and short_ is not None and long != short_:
            self._refuse(
                "max_tokens", f"is {short_} and max_completion_tokens {long}; send one of them"
            )
        name = "max_tokens" if long is None else "max_completion_tokens"
        wanted = short_ if long is None else long
        limit = getattr(self._settings, "max_tokens", None)
        usual = self._card.defaults.get("max_new_tokens")
        if wanted is not None and not self._must_fit:
            most = wanted if limit is None else min(wanted, limit)
            return {"max_new_tokens": most, "up_to_context": True}
        if wanted is not None and limit is not None and wanted > limit:
            self._refuse(
                name, f"is {wanted}; the limit of this server is {limit} (--max-tokens). Lower it"
            )
        context = self._card.context
        if wanted is not None and context is not None and wanted >= context:
            raise ApiError(
                400,
                "context_length_exceeded",
                f"{self._name(name)} is {wanted}; the context of {self._card.name} is {context} "
                "tokens, of which the prompt takes some. Lower it, or leave it out.",
                param=self._name(name),
            )
        # Where nothing is asked for, the backend keeps to the limit, and to the context.
        least, most = self._fields.get("min_tokens", 0), wanted
        if most is None:
            most = min((each for each in (usual, limit) if each is not None), default=None)
        if most is not None and least > most:
            self._refuse(
                "min_tokens",
                f"is {least}, and the answer has at most {most} tokens; lower it, or raise "
                f"{self._name(name)}",
            )
        return {} if wanted is None else {"max_new_tokens": wanted}

    def _usual_beams(self) -> int:
        """Beams where none are asked for: those of the model, unless a temperature is given."""
        if "temperature" in self._fields:
            return 1
        return int(self._card.defaults.get("num_beams") or 1)

    def _beams(self) -> dict[str, Any]:
        num_beams, asks = self._fields.get("num_beams"), self._fields.get("use_beam_search")
        if asks and num_beams is None:
            num_beams = _NUM_BEAMS
        if asks and num_beams == 1:
            self._refuse("use_beam_search", "is true and num_beams 1; send more beams than one")
        if asks is False and (num_beams or 1) > 1:
            self._refuse("use_beam_search", f"is false and num_beams {num_beams}; send one of them")
        if num_beams is not None:
            return {"num_beams": num_beams}
        # The releases search with beams where they do not sample; a temperature of 0 asks for less.
        return {"num_beams": 1} if self._fields.get("temperature", 1) < _GREEDY_BELOW else {}

    def _of_beams(self, has_beams: bool) -> dict[str, Any]:
        options = {}
        for name, neutral in _OF_BEAMS.items():
            value = self._fields.get(name)
            if value is None:
                continue
            if has_beams:
                options[name] = value
            elif value != neutral:
                self._ineffective(name, "has no effect without num_beams above 1; leave it out")
        return options

    def _sampling(self, has_beams: bool) -> dict[str, Any]:
        given = {name: self._fields[name] for name in _OF_SAMPLING if name in self._fields}
        temperature, usual = given.get("temperature"), self._usually_draws()
        if temperature is not None:
            draws: bool | None = temperature >= _GREEDY_BELOW
        elif given.get("top_p", 1) < 1 or given.get("top_k", 0) > 0 or given.get("min_p", 0) > 0:
            draws = not has_beams
        else:
            draws = False if has_beams and "num_beams" in self._fields else usual
        if given.get("top_p") == 0 or given.get("top_k") == 1:
            draws = False  # one token is left: the likeliest
        if draws is None:
            return {}
        if not draws:
            return {"sampling": False}
        options: dict[str, Any] = {"sampling": True}
        for name in ("temperature", "top_p", "min_p"):
            if name in given:
                options[name] = given[name]
        if "top_k" in given:
            options["top_k"] = max(given["top_k"], 0)
        if "seed" in given:
            options["seed"] = given["seed"] % _SEEDS
        return options

    def _usually_draws(self) -> bool | None:
        """Whether the model samples where nothing is said; None: unknown before it is loaded."""
        defaults = self._card.defaults
        found = defaults.get("sampling", defaults.get("do_sample"))
        return None if found is None else bool(found)

    def _ends(self) -> dict[str, Any]:
        stop = self._fields.get("stop")
        options: dict[str, Any] = {}
        if stop:
            options["stop"] = (stop,) if isinstance(stop, str) else tuple(stop)
        if self._fields.get("stop_token_ids"):
            options["stop_token_ids"] = tuple(self._fields["stop_token_ids"])
        return options

    def _bias(self) -> dict[str, Any]:
        biases = {}
        for key, value in (self._fields.get("logit_bias") or {}).items():
            if not (str(key).isascii() and str(key).isdecimal() and len(str(key)) < 10):
                self._refuse(
                    "logit_bias",
                    f"has the key {short(key)}; keys are token ids, which /tokenize gives",
                )
            biases[int(key)] = float(value)
        return {"logit_bias": biases} if biases else {}

    def _logprobs(self, has_beams: bool) -> dict[str, Any]:
        wants, top = self._fields.get("logprobs"), self._fields.get("top_logprobs")
        if wants is not None and not isinstance(wants, bool):  # of /v1/completions: how many
            wants, top = True, wants
        if not wants and top:
            self._ineffective("top_logprobs", "has no effect without logprobs: true; send both")
        if not wants:
            return {}
        if has_beams:
            self._refuse("logprobs", "cannot be had of a beam search; leave it out, or num_beams")
        return {"logprobs": top or 0}

    def _media(self) -> dict[str, Any]:
        if not _shows(self._fields.get("messages") or ()):
            return {}
        options = media_options(self._fields)
        found = {"max_slice_nums": options.max_slice_nums}
        if _shows(self._fields.get("messages") or (), ImagePart):
            found["use_image_id"] = options.use_image_id
        return {name: value for name, value in found.items() if value is not None}

    def _check_answers(self, has_beams: bool) -> None:
        n, best = self._fields.get("n", 1), self._fields.get("best_of")
        if has_beams and n > 1:
            self._refuse("n", f"is {n}, and a beam search has one answer; send n: 1")
        if best is not None and best != n:
            self._ineffective("best_of", f"is {best}; all {n} answers are returned: send {n}")

    def _check_only(self) -> None:
        for name, (values, reason) in _ONLY.items():
            value = self._fields.get(name)
            if value is not None and value not in values:
                self._ineffective(name, f"is {short(value)}, which has no effect: {reason}")
        stream = _plain(self._fields.get("stream_options"))
        if stream and not self._fields.get("stream"):
            self._ineffective("stream_options", "has no effect without stream: true")
        if stream.get("include_obfuscation"):
            self._ineffective("stream_options.include_obfuscation", "has no effect here")
        if stream.get("continuous_usage_stats") and not stream.get("include_usage"):
            self._ineffective(
                "stream_options.continuous_usage_stats", "has no effect without include_usage"
            )
        if self._fields.get("return_tokens_as_token_ids") and not self._fields.get("logprobs"):
            self._ineffective("return_tokens_as_token_ids", "has no effect without logprobs: true")

    # Errors.

    def _name(self, name: str) -> str:
        return self._names.get(name, name)

    def _refuse(self, name: str, reason: str) -> None:
        raise _refused(self._name(name), reason)

    def _ineffective(self, name: str, reason: str) -> None:
        if not getattr(self._settings, "lenient", False):
            self._refuse(name, reason)
        if self._ignored is not None:
            self._ignored(self._name(name))


_NUM_BEAMS = 3  # of the released models


def _refused(name: str, reason: str) -> ApiError:
    return ApiError(400, "invalid_value", f"{name} {reason}.", param=name)


def _plain(value: Any) -> dict[str, Any]:
    return {} if value is None else fields_of(value)


def _shows(messages: Any, kinds: Any = (ImagePart, VideoPart)) -> bool:
    """Whether a part of these messages is a picture or a video."""
    for message in messages:
        content = getattr(message, "content", None)
        if isinstance(content, list) and any(isinstance(part, kinds) for part in content):
            return True
    return False
