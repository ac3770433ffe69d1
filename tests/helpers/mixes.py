"""Random mixes of requests, asked at once through `Chat`, and what `generate` answers one by one.

A mix is made from a seed: clients in several threads, each of which asks, streams, closes a stream
early, talks for some turns, asks a batch, or asks something wrong. What they get is compared with
`generate` alone, afterwards.
"""

import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from PIL import Image

from minicpmv import BatchError, Chat
from minicpmv.chat import context_length

from .alone import Messages, Report, Told, compared
from .pictures import picture

WORDS = [
    *("a", "the", "is", "what", "which", "colour", "red", "blue", "star", "one", "two", "seven"),
    *("picture", "left", "of", "and", "where", "why", "please", "name", "count", "12", "3.5"),
    *("颜色", "什么", "图片", "🙂", "é", "\n", ",", ".", "?", "!", "{x}", "<b>"),
]
SYSTEMS = [None, "Be brief.", "You look at pictures and answer in one short sentence, please."]
SIZES = [(30, 40), (64, 64), (61, 83), (120, 200), (300, 90), (280, 420)]  # height, width
TIMEOUT_S = 300


@dataclass
class Client:
    """One thread's work.

    Fields:
        run: does it with a chat; calls the function that it is given when something was read.
        after: it starts when the client with this number has read something.
    """

    kind: str
    run: Callable[[Chat, Callable[[], None]], list[Told]]
    after: int | None = None
    has_begun: threading.Event = field(default_factory=threading.Event)
    told: list[Told] = field(default_factory=list)
    error: BaseException | None = None


def check_idle(chat: Chat) -> None:
    """Check that an engine holds nothing for anybody, once it had time to let go.

    Raises:
        AssertionError: it does.
    """
    for _ in range(6000):  # much longer than it takes on a busy processor
        found = chat.engine.stats()
        requests, prefixes = found.get("requests", {}), found.get("prefixes", {})
        held = [requests.get("running", 0), requests.get("waiting", 0)]
        held += [prefixes.get("held_bytes", 0), prefixes.get("num_leases", 0)]
        if not any(held):
            return
        time.sleep(0.01)
    raise AssertionError(f"all clients have gone, and the engine holds {found}")


def check_mix(chat: Chat, seed: int) -> Report:
    """Run the mix of a seed, and compare every answer.

    Raises:
        AssertionError: one differs; the message has the seed and the request.
    """
    clients, num_threads = clients_of(chat, random.Random(seed))
    run_together(chat, clients, num_threads)
    check_idle(chat)
    report = Report()
    for number, client in enumerate(clients):
        where = f"seed {seed}, client {number} ({client.kind})"
        if client.error is not None:
            raise AssertionError(f"{where}: {client.error!r}") from client.error
        report.errors += client.kind == "wrong"
        for told in client.told:
            report += compared(chat, told, where)
    return report


def run_together(chat: Chat, clients: list[Client], num_threads: int) -> None:
    """Let clients work in threads; those beyond the first `num_threads` join when others end."""
    waiting = iter(clients)
    lock = threading.Lock()

    def work() -> None:
        while True:
            with lock:
                client = next(waiting, None)
            if client is None:
                return
            try:
                if client.after is not None:
                    assert clients[client.after].has_begun.wait(TIMEOUT_S), "it never began"
                client.told = client.run(chat, client.has_begun.set)
            except BaseException as error:  # the main thread raises it
                client.error = error
            finally:
                client.has_begun.set()

    threads = [threading.Thread(target=work, daemon=True) for _ in range(num_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT_S)
        assert not thread.is_alive(), f"{[c.kind for c in clients if not c.has_begun.is_set()]}"


def clients_of(chat: Chat, rng: random.Random) -> tuple[list[Client], int]:
    """The clients of a mix, and how many threads they share."""
    make = _Maker(chat, rng)
    weights = {
        make.asks: 6,
        make.streams: 4,
        make.closes: 4,
        make.talks: 2,
        make.batch: 2,
        make.wrong: 2,
        make.hurries: 1,
        make.unseeded: 1,
    }
    if chat.supports_images:
        weights |= {make.gives_features: 1, make.poisons: 1}
    kinds = rng.choices(list(weights), list(weights.values()), k=rng.randint(2, 12))
    clients = [kind() for kind in kinds]
    for number, client in enumerate(clients):
        if number and rng.random() < 0.3:
            client.after = rng.randrange(number)
    return clients, rng.randint(1, 8)


class _Maker:
    """Makes clients whose requests begin alike now and then."""

    def __init__(self, chat: Chat, rng: random.Random):
        self.rng = rng
        self.config = chat.model.config
        self.context = context_length(chat.model.config)
        self.lengths = [1, 2, 5, 9] if self.context < 200 else [1, 2, 5, 9, 16, 25]
        self.has_pictures = chat.supports_images
        self.cuts = self.has_pictures and chat.processor.release.slicing == "adaptive"
        self.pictures = [
            picture(*rng.choice(SIZES), seed=rng.randrange(9)) for _ in range(rng.randint(1, 3))
        ]
        self.texts = [self.text() for _ in range(2)]
        self.system = rng.choice(SYSTEMS)

    def text(self, most: int = 30) -> str:
        most = min(most, self.context // 16)
        words = self.rng.choices(WORDS, k=self.rng.randint(1, most))
        return " ".join(["say", *words])

    def question(self) -> str:
        """Often one that begins as others do."""
        if self.rng.random() < 0.6:
            return self.rng.choice(self.texts) + self.rng.choice(["", " ?", " " + self.text(4)])
        is_long = self.context > 1000 and self.rng.random() < 0.15
        return self.text(280 if is_long else 20)

    def shown(self) -> list[Image.Image]:
        if not self.has_pictures or self.rng.random() < 0.5:
            return []
        return self.rng.choices(self.pictures, k=self.rng.choice([1, 1, 1, 2]))

    def message(self, images: list[Image.Image] | None = None) -> dict[str, Any]:
        images = self.shown() if images is None else images
        content: list[dict[str, Any]] = [{"type": "image", "image": image} for image in images]
        if images and self.rng.random() < 0.15:
            content = [{"type": "video", "video": [*images, self.pictures[0]]}]
        return {
            "role": "user",
            "content": [*content, {"type": "text", "text": self.question()}]
            if content
            else self.question(),
        }

    def messages(self) -> Messages:
        """One question, or examples before it."""
        past = []
        if self.context > 100 and self.rng.random() < 0.2:
            past = [self.message(), {"role": "assistant", "content": self.text(5)}]
        found = [*past, self.message()]
        if self.system and self.rng.random() < 0.5:
            found.insert(0, {"role": "system", "content": self.system})
        return found

    def options(self, shows: bool, seeded: bool = True) -> dict[str, Any]:
        rng = self.rng
        options: dict[str, Any] = {"max_new_tokens": rng.choice(self.lengths)}
        if rng.random() < 0.5 and seeded:
            options |= {"sampling": False, "num_beams": 2 if rng.random() < 0.06 else 1}
        else:
            options |= {"sampling": True}
            options |= {"seed": rng.randrange(100)} if seeded else {}
            options |= self.some(
                temperature=[0.3, 0.7, 1.0, 3.0],
                top_p=[0.3, 0.8, 1.0],
                top_k=[0, 1, 5, 40],
                min_p=[0.0, 0.05, 0.5],
            )
        if rng.random() < 0.5:
            options |= self.some(
                repetition_penalty=[0.8, 1.0, 1.2, 2.0],
                no_repeat_ngram_size=[1, 2, 3],
                min_new_tokens=[0, 1, options["max_new_tokens"]],
                frequency_penalty=[-1.0, 0.5, 2.0],
                presence_penalty=[-2.0, 0.7],
                logit_bias=[{5: -100.0, 7: 3.0}, {300: 2.5}],
            )
        if rng.random() < 0.2:
            options |= self.some(stop=["a", ["e", "的"], " the"])
        if options.get("num_beams", 1) == 1:
            if rng.random() < 0.3:
                options |= self.guessing(options)
            options |= self.some(logprobs=[0, 1, 5]) if rng.random() < 0.5 else {}
        if shows and self.cuts:
            options |= self.some(max_slice_nums=[1, 2, 4, 9])
        return options

    def guessing(self, options: dict[str, Any]) -> dict[str, Any]:
        """Often few tokens are left to an answer, so that it repeats itself and guesses are right
        now and then."""
        found: dict[str, Any] = {"prompt_lookup_num_tokens": self.rng.choice([1, 3, 10])}
        if self.rng.random() < 0.7:
            found["logit_bias"] = dict.fromkeys(self.rng.sample(range(300, 400), k=3), 60.0)
            options.pop("no_repeat_ngram_size", None)
            options.pop("repetition_penalty", None)
        return found

    def some(self, **choices: list[Any]) -> dict[str, Any]:
        return {name: self.rng.choice(choices[name]) for name in choices if self.rng.random() < 0.4}

    def request(self, seeded: bool = True) -> tuple[Messages, dict[str, Any]]:
        messages = self.messages()
        shows = any(isinstance(message["content"], list) for message in messages)
        return messages, self.options(shows, seeded)

    # The kinds of clients.

    def asks(self) -> Client:
        messages, options = self.request()

        def run(chat: Chat, begun: Callable[[], None]) -> list[Told]:
            answer = chat.ask(messages, **options)
            return [Told(messages, options, str(answer), answer)]

        return Client("asks", run)

    def streams(self) -> Client:
        messages, options = self.request()

        def run(chat: Chat, begun: Callable[[], None]) -> list[Told]:
            stream = chat.stream(messages, **options)
            text = "".join(_noting(stream, begun))
            return [Told(messages, options, text, stream.answer)]

        return Client("streams", run)

    def closes(self) -> Client:
        messages, options = self.request()
        options = options | {"max_new_tokens": 40 if self.context > 200 else 12}
        if options.get("min_new_tokens"):
            options["min_new_tokens"] = 12
        num_pieces = self.rng.choice([0, 1, 2, 6])

        def run(chat: Chat, begun: Callable[[], None]) -> list[Told]:
            with chat.stream(messages, **options) as stream:
                pieces = _noting(stream, begun)
                text = "".join(piece for _, piece in zip(range(num_pieces), pieces, strict=False))
                answer = stream.answer
            return [Told(messages, options, text, answer)]

        return Client("closes", run)

    def talks(self) -> Client:
        turns = [
            (self.question(), self.shown(), self.rng.random() < 0.15)
            for _ in range(self.rng.randint(2, 3) if self.context > 200 else 1)
        ]
        options = [self.options(bool(images)) for _, images, _ in turns]
        system = self.system

        def run(chat: Chat, begun: Callable[[], None]) -> list[Told]:
            found = []
            conversation = chat.conversation(system)
            before: Messages = [{"role": "system", "content": system}] if system else []
            for (question, images, closes), own in zip(turns, options, strict=True):
                content = [{"type": "image", "image": image} for image in images]
                asked = {"role": "user", "content": [*content, {"type": "text", "text": question}]}
                messages = [*before, asked]
                stream = conversation.say(question, images, **own)
                if closes:
                    text = next(stream, "")
                    stream.close()
                    found.append(Told(messages, own, text, stream.answer))
                    if stream.answer is None:
                        continue
                else:
                    text = "".join(_noting(stream, begun))
                    found.append(Told(messages, own, text, stream.answer))
                before = [*messages, {"role": "assistant", "content": str(stream.answer)}]
            return found

        return Client("talks", run)

    def batch(self) -> Client:
        requests = [self.messages() for _ in range(self.rng.randint(1, 5))]
        options = self.options(shows=False)
        spoils = self.rng.random() < 0.3
        batch_size = self.rng.choice([1, 2, 8])

        def run(chat: Chat, begun: Callable[[], None]) -> list[Told]:
            if spoils:
                with pytest.raises(BatchError) as it:
                    chat.batch([requests[0], "  ", *requests[1:]], batch_size=batch_size, **options)
                assert set(it.value.errors) == {1}, str(it.value)
                answers = [answer for answer in it.value.answers if answer is not None]
            else:
                answers = chat.batch(requests, batch_size=batch_size, **options)
            return [
                Told(messages, options, str(answer), answer)
                for messages, answer in zip(requests, answers, strict=True)
            ]

        return Client("batch", run)

    def wrong(self) -> Client:
        messages, options = self.request()
        prompt: Any = messages
        how = self.rng.randrange(5)
        if how == 0:
            options |= {"tempreature": 1.0}
        elif how == 1:
            options |= {"max_new_tokens": self.context * 2}
        elif how == 2:
            options |= {"max_inp_length": 3}
        elif how == 3:
            prompt = "   "
        else:
            block = {"type": "image", "image": self.rng.choice([b"no picture", "nowhere.png"])}
            prompt = [{"role": "user", "content": [block, "What?"]}]

        def run(chat: Chat, begun: Callable[[], None]) -> list[Told]:
            with pytest.raises((ValueError, OSError)) as it:
                chat.ask(prompt, **options)
            assert len(str(it.value).splitlines()) == 1, str(it.value)
            return []

        return Client("wrong", run)

    def hurries(self) -> Client:
        """Is cut off by the time, wherever that is."""
        messages, options = self.request()
        options = options | {"num_beams": 1} if "num_beams" in options else options
        max_time = self.rng.choice([1e-6, 0.01, 0.05])

        def run(chat: Chat, begun: Callable[[], None]) -> list[Told]:
            answer = chat.ask(messages, max_time=max_time, **options)
            is_whole = answer.finish_reason != "time"
            return [Told(messages, options, str(answer), answer if is_whole else None)]

        return Client("hurries", run)

    def features(self, value: float) -> tuple[Messages, dict[str, Any]]:
        """A request with features in place of the pixels of its picture."""
        width = self.config.get_text_config().hidden_size
        features = torch.full((1, self.config.query_num, width), value)
        content = [
            {"type": "image", "image": picture(30, 40)},
            {"type": "text", "text": self.question()},
        ]
        options = self.options(shows=False) | {"image_features": features}
        return [{"role": "user", "content": content}], options

    def gives_features(self) -> Client:
        messages, options = self.features(self.rng.choice([0.0, 0.5, -2.0]))

        def run(chat: Chat, begun: Callable[[], None]) -> list[Told]:
            answer = chat.ask(messages, **options)
            return [Told(messages, options, str(answer), answer)]

        return Client("gives_features", run)

    def poisons(self) -> Client:
        """Makes numbers that are none: nobody else may notice."""
        messages, options = self.features(torch.nan)

        def run(chat: Chat, begun: Callable[[], None]) -> list[Told]:
            with pytest.raises(ValueError, match="not finite"):
                chat.ask(messages, **options)
            return []

        return Client("poisons", run)

    def unseeded(self) -> Client:
        """Draws from torch's own numbers: nobody knows what; it must only be an answer."""
        messages, options = self.request(seeded=False)

        def run(chat: Chat, begun: Callable[[], None]) -> list[Told]:
            answer = chat.ask(messages, **options)
            assert 1 <= answer.num_output_tokens <= options["max_new_tokens"]
            return []

        return Client("unseeded", run)


def _noting(pieces: Iterator[str], begun: Callable[[], None]) -> Iterator[str]:
    for piece in pieces:
        begun()
        yield piece
