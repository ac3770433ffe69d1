"""Who answers: a model in this process, or processes and servers behind the same few methods."""

import io
import re
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from PIL import Image

from ..chat import Chat
from ..decisions.calibration import fingerprint_of
from ..engine.answer import Answer
from ..engine.batch import REQUEST_ERRORS, in_padded_batches, side_by_side
from ..engine.inputs import Settings
from ..engine.options import PROCESSING
from ..engine.request import Messages, with_system
from ..media.policy import use_policy
from ..releases import RELEASES, Release
from .asking import Asking
from .items import Item

_BATCHES_AHEAD = 4  # so many are looked at together, to begin with what takes longest


@dataclass(frozen=True)
class Reply:
    """What came of an item; no text: it failed, and `error` says why."""

    text: str | None
    error: str = ""
    tokens: int = 0
    seconds: float = 0.0
    finish: str = "stop"


@dataclass(frozen=True)
class Model:
    """Who answers, as far as it is known.

    Fields:
        release: of the pages' profiles; "" where it is not known.
        weights: a word that changes with the weights; "" of a server, which is known by name only.
        dtype, quantized: of the weights. differs: what about it is not as published.
        ignores: fields of `Profile` that are not obeyed.
    """

    name: str
    release: str = ""
    weights: str = ""
    dtype: str = ""
    quantized: str = ""
    compat: str = ""
    server: str = ""
    ignores: tuple[str, ...] = ()

    def settings(self) -> dict[str, Any]:
        """What answers of one run share: of the model, not of where it runs."""
        if self.server:
            return {"model": self.name, "answered by": self.server}
        found = {"weights": self.weights, "dtype": self.dtype}
        found |= {"quantized": self.quantized, "compat": self.compat}
        return {name: value for name, value in found.items() if value}


class Answerer(Protocol):
    """Answers items, several at a time."""

    model: Model

    def answers(self, asking: Asking, items: Iterable[Item]) -> Iterator[tuple[str, Reply]]:
        """What came of each item, by its id, as they end. `items` are read as there is room.

        Raises:
            OSError: nobody answers any more.
        """


def model_of(chat: Chat, name: str) -> Model:
    """The facts of a loaded model.

    Raises:
        ValueError: it reads text only.
    """
    release = chat.processor.release
    if not isinstance(release, Release) or not chat.supports_images:
        raise ValueError(f"{name!r} reads text only; the questions are about pictures.")
    config = chat.model.config
    return Model(
        name=name,
        release="nano" if name == "nano" else release_name(release.version),
        weights=fingerprint_of(chat.model),
        dtype=str(chat.model.dtype).removeprefix("torch."),
        quantized=_quantized(getattr(config, "quantization_config", None)),
        compat=str(getattr(chat.processor, "compat", None) or ""),
    )


def _quantized(config: Any) -> str:
    """The format of quantised weights in a word; "" where they are not."""
    if config is None:
        return ""
    fields = config if isinstance(config, Mapping) else vars(config)
    found = fields.get("format") or fields.get("quant_method") or type(config).__name__
    bits = fields.get("bits")
    return f"{getattr(found, 'value', found)}{f', {bits} bits' if isinstance(bits, int) else ''}"


def release_name(version: str) -> str:
    """The name of a release in the pages."""
    return "omnilmm" if version.startswith("omnilmm") else version


def release_of(name: str) -> str:
    """The release that a model's name speaks of, as pages call it; "" where it names none."""
    found = [
        (len(each[0]), release.version)
        for release in RELEASES.values()
        for repo in release.repo_ids
        if (each := _words(repo.rpartition("/")[2]).search(name.lower()))
    ]
    return release_name(max(found)[1]) if found else ""


def _words(name: str) -> re.Pattern[str]:
    """The words of a name, however they are joined, with ".0" or "1.0" behind or no number: that
    is of another version, as in MiniCPM-V-4."""
    words = "[^a-z0-9]*".join(re.findall("[a-z]+|[0-9]+", name.lower()))
    zero = "(?:[^a-z0-9]?(?:1[^a-z0-9]?)?0(?![0-9]))?"
    return re.compile(f"{words}{zero}(?![^a-z0-9]?[0-9]{{1,2}}(?![a-z0-9]))")


class LocalAnswerer:
    """A loaded model.

    Args:
        name: what it was loaded as.
        batch_size: items that are answered at a time.
    """

    def __init__(self, chat: Chat, name: str, batch_size: int = 32):
        self.model = model_of(chat, name)
        self.chat = chat
        self.batch_size = batch_size
        self._settings: dict[str, Settings] = {}

    def answers(
        self, asking: Asking, items: Iterable[Item | None]
    ) -> Generator[tuple[str, Reply], None, None]:
        """As of `Answerer`. None among the items: there will be more, but not yet."""
        engine = self.chat.engine
        first, items = _peek(items)
        if first is None:
            return
        with use_policy(self.chat.media_policy):
            options = {k: v for k, v in asking.options(first).items() if k not in PROCESSING}
            padded = engine.uses_generate(engine.settings([], options))
            found = (self._padded if padded else self._beside)(asking, items)
            with closing(found) as ended:
                for item_id, answer in ended:
                    yield item_id, _reply(answer)

    def _beside(
        self, asking: Asking, items: Iterable[Item | None]
    ) -> Generator[tuple[str, Answer | Exception], None, None]:
        def prepared(item: Item) -> tuple[Messages, Settings]:
            return self._messages_of(asking, item), self._settings_of(asking, item)

        def requests() -> Iterator[tuple[str, Callable[[], tuple[Messages, Settings]]] | None]:
            for window in _windows(items, self.batch_size * _BATCHES_AHEAD):
                if not window:
                    yield None
                for item in sorted(window, key=_size, reverse=True):
                    yield item.id, partial(prepared, item)

        with closing(side_by_side(self.chat.engine, requests(), self.batch_size)) as ended:
            yield from ended

    def _padded(
        self, asking: Asking, items: Iterable[Item | None]
    ) -> Generator[tuple[str, Answer | Exception], None, None]:
        """By `generate`, as for beams: those of like length together."""
        for window in _windows(items, self.batch_size * _BATCHES_AHEAD):
            groups: dict[str, dict[str, Messages]] = {}
            for item in window:
                try:
                    messages = self._messages_of(asking, item)
                    self._settings_of(asking, item)
                except REQUEST_ERRORS as error:
                    yield item.id, error
                else:
                    groups.setdefault(_key(asking.options(item)), {})[item.id] = messages
            for key, conversations in groups.items():
                engine, settings = self.chat.engine, self._settings[key]
                alone: dict[str, Messages] = {}
                for item_id, answer in in_padded_batches(
                    engine, conversations, settings, self.batch_size
                ):
                    if isinstance(answer, RuntimeError):  # as where memory is short
                        alone[item_id] = conversations[item_id]
                    else:
                        yield item_id, answer
                yield from in_padded_batches(engine, alone, settings, 1)

    def _messages_of(self, asking: Asking, item: Item) -> Messages:
        messages = self.chat.engine.processor.question(asking.messages(item))
        return with_system(messages, None, self.chat.system)

    def _settings_of(self, asking: Asking, item: Item) -> Settings:
        options = asking.options(item)
        key = _key(options)
        if key not in self._settings:
            profile = asking.profile_of(item)
            if self.model.compat == "released" and profile.max_inp_length:
                options["max_inp_length"] = profile.max_inp_length  # where it cuts prompts
            shown = self.chat.engine.processor.question(asking.conversation(item))
            self._settings[key] = self.chat.engine.settings([shown], options)
        return self._settings[key]


def _key(options: Mapping[str, Any]) -> str:
    return repr(sorted(options.items()))


def _reply(answer: Answer | Exception) -> Reply:
    if isinstance(answer, Exception):
        return Reply(None, " ".join(str(answer).split()) or type(answer).__name__)
    return Reply(
        answer.text, "", answer.num_output_tokens, round(answer.seconds, 3), answer.finish_reason
    )


def _peek(items: Iterable[Item | None]) -> tuple[Item | None, Iterator[Item | None]]:
    """The first item, and all of them."""
    left = iter(items)
    first = next((item for item in left if item is not None), None)

    def every() -> Iterator[Item | None]:
        yield first
        yield from left

    return first, every()


def _windows(items: Iterable[Item | None], size: int) -> Iterator[list[Item]]:
    """So many items at a time; fewer, or none, where there are no more yet."""
    window: list[Item] = []
    for item in items:
        if item is not None:
            window.append(item)
        if item is None or len(window) == size:
            yield window
            window = []
    if window:
        yield window


def _size(item: Item) -> int:
    """Pixels of its pictures, as far as they can be known at once, and characters."""
    return len(item.question) + sum(map(_pixels, item.pictures))


def _pixels(picture: Any) -> int:
    if isinstance(picture, Image.Image):
        return picture.width * picture.height
    try:
        with Image.open(io.BytesIO(picture) if isinstance(picture, bytes) else picture) as image:
            return image.width * image.height
    except (OSError, ValueError, Image.DecompressionBombError):
        return 0  # it is named as broken when it is its turn
