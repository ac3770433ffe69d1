"""A model that answers at once: the interface of `minicpmv.Chat`, to test commands against."""

from dataclasses import dataclass


@dataclass(frozen=True)
class FakeAnswer:
    text: str
    num_input_tokens: int = 10
    num_output_tokens: int = 4
    seconds: float = 0.5
    prompt_seconds: float = 0.375
    decode_seconds: float = 0.125
    finish_reason: str = "stop"

    @property
    def tokens_per_second(self):
        return self.num_output_tokens / self.seconds


class FakeStream:
    """Pieces of an answer; `answer` is there at the end, `close` ends them early."""

    def __init__(self, pieces, at_end=lambda: None):
        self.pieces = pieces
        self.answer = None
        self.at_end = at_end

    def __iter__(self):
        text = ""
        for piece in self.pieces:
            text += piece
            yield piece
        self.answer = FakeAnswer(text)
        self.at_end()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.pieces.close()


class FakeChat:
    """Says back how it was asked, in three pieces when streamed, and remembers the calls."""

    def __init__(self, name="nano", **loaded_with):
        self.name = name
        self.loaded_with = loaded_with
        self.precision = None
        self.system = None
        self.history = []
        self.calls = []
        self.raises = None
        self.supports_images = True

    def check_options(self, options):
        """Every option has its effect."""

    def _answer(self, prompt, images, options):
        self.calls.append({"prompt": prompt, "images": list(images), "options": options})
        if self.raises is not None:
            raise self.raises
        return f"You said {prompt!r} with {len(images)} pictures."

    def ask(self, prompt, images=(), **options):
        return FakeAnswer(self._answer(prompt, images, options))

    def stream(self, prompt, images=(), **options):
        text = self._answer(prompt, images, options)
        return FakeStream(piece for piece in (text[:8], text[8:20], text[20:]))

    def say(self, prompt, images=(), **options):
        stream = self.stream(prompt, images, **options)

        def remember():
            content = [{"type": "image", "image": image} for image in images]
            content.append({"type": "text", "text": prompt})
            self.history.append({"role": "user", "content": content})
            self.history.append({"role": "assistant", "content": stream.answer.text})

        stream.at_end = remember
        return stream

    def clear(self):
        self.history = []
