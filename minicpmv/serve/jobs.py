"""A request as every protocol leaves it, and what a backend answers it with."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ..decisions.decision import Decision
from ..decisions.question import Question
from ..engine.answer import Answer, TokenLogprob
from ..engine.request import Messages


@dataclass(frozen=True)
class Job:
    """One request to one model.

    Fields:
        model: the name it is served under.
        prompt: a conversation whose pictures are PIL images, read under the server's policy; or,
            for `/v1/completions`, text or token ids that no template is put around.
        options: names and values of `minicpmv.engine.options`, `constraint` among them.
        n: answers to the same prompt; with a `seed`, the i-th is drawn with `seed + i`.
        request_id: of the access log, and of error messages.
    """

    model: str
    prompt: Messages | str | Sequence[int]
    options: Mapping[str, Any] = field(default_factory=dict)
    n: int = 1
    request_id: str = ""


@dataclass(frozen=True)
class DecisionJob:
    """Questions about one conversation.

    Fields:
        prompt: a conversation as in `Job`. Each question is added to its last message, or follows
            it where that is not a user's.
        questions: made by `Question.of`.
        options: processing options, as `max_slice_nums`.
    """

    model: str
    prompt: Messages
    questions: Sequence[Question]
    options: Mapping[str, Any] = field(default_factory=dict)
    request_id: str = ""


@dataclass(frozen=True)
class Started:
    """The first event: the prompt has been read and takes its place in the queue."""

    num_input_tokens: int


@dataclass(frozen=True)
class Piece:
    """Text of the answer `index` that no later token can change.

    Fields:
        tokens: with their log-probabilities where `logprobs` was asked for; joined over all pieces,
            those of the text, without the terminator.
        num_tokens: of the answer so far, as far as they are counted before its end.
    """

    index: int
    text: str
    tokens: Sequence[TokenLogprob] = ()
    num_tokens: int = 0


@dataclass(frozen=True)
class Finished:
    """The answer `index` is complete; its text is that of its pieces."""

    index: int
    answer: Answer


Event = Started | Piece | Finished


@dataclass(frozen=True)
class ModelCard:
    """What `/v1/models` says of a model.

    Fields:
        created: seconds since 1970, when it was first served.
        context: most tokens of prompt and answer; None before it is loaded.
        is_loaded: whether it is in memory.
        supports_images: None before it is loaded.
        defaults: generation options that hold where a request names none.
        pictures: the settings by which pictures are cut, as `CutSettings` names them; None where
            they are not known, or there is nothing to cut.
        supports_tools: whether the chat template has a form for functions and their calls.
        file_bytes: of the files of its weights; None where they are not on this disk.
        memory_bytes: that it takes; None before it is loaded, or where it is elsewhere.
        is_on_gpu: whether that is memory of a GPU.
    """

    name: str
    created: int
    context: int | None
    is_loaded: bool
    supports_images: bool | None
    defaults: Mapping[str, Any]
    pictures: Mapping[str, Any] | None = None
    supports_tools: bool = False
    file_bytes: int | None = None
    memory_bytes: int | None = None
    is_on_gpu: bool = False


class Backend(Protocol):
    """What computes the answers: the engine of this process, or servers behind it.

    Every method raises `ApiError` for what a client did wrong or must wait for.
    """

    async def start(self) -> None: ...

    async def stop(self) -> None:
        """Free everything; answers that run have ended before."""

    def models(self) -> Sequence[ModelCard]: ...

    async def card(self, model: str) -> ModelCard:
        """Of one model, which is loaded first where it was not."""

    def answer(self, job: Job) -> AsyncGenerator[Event, None]:
        """Events of all `n` answers as they come; closing the generator cancels them."""

    async def decide(self, job: DecisionJob) -> Sequence[Decision]:
        """A decision for each question, calibrated where the server has a calibration for it.

        Cancelling it ends what is computed for it.
        """

    async def tokenize(
        self,
        model: str,
        prompt: Messages | str,
        *,
        options: Mapping[str, Any] | None = None,
        begins: bool = True,
    ) -> list[int]:
        """Tokens of a text, or of a conversation as the model is shown it.

        Args:
            options: of a conversation: how its pictures are cut.
            begins: whether a text has the tokens that begin every text of the vocabulary.
        """

    async def detokenize(self, model: str, ids: Sequence[int]) -> str: ...

    async def token_texts(self, model: str, ids: Sequence[int]) -> list[str]:
        """Each token by itself, as the vocabulary writes it."""

    def stats(self) -> Mapping[str, Mapping[str, Mapping[str, int]]]:
        """By model, the counters of `Engine.stats`; an upstream server's as far as it says them."""
