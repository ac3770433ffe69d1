"""The engine of this process as a backend."""

import asyncio
import os
import threading
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch

from .. import kernels
from ..chat import Chat
from ..checkpoint.hub import Checkpoint
from ..decisions.calibration import Calibration, fingerprint_of
from ..decisions.decision import Decision
from ..engine.invariance import is_invariant
from ..engine.limits import EngineLimits, QueueFullError
from ..engine.live import LiveAnswer
from ..engine.matching import vocabulary_of
from ..engine.request import Messages
from ..errors import ArgumentError
from ..gguf.reading.model import is_gguf
from ..loader import find_checkpoint, load, read_config
from ..media.policy import MediaPolicy, use_policy
from .access_log import logger
from .cards import card_of
from .errors import ApiError, from_exception
from .jobs import DecisionJob, Event, Finished, Job, ModelCard, Piece, Started
from .memory import bytes_of_files, bytes_of_model, bytes_of_place, free_bytes, is_small
from .registry import Entry, Registry
from .settings import ServeSettings

_DECIDING = 32  # requests for decisions at a time; each may have many prompts
_SHARE = 0.9  # of the free memory, for several models without --memory-budget
# Jobs come with pictures that the server has read: nothing is left to be opened.
_NOTHING = MediaPolicy(schemes=())

Result = TypeVar("Result")


class OwnBackend:
    """Models that are loaded in this process; see `Backend`."""

    def __init__(self, settings: ServeSettings):
        self.settings = settings
        self._registry: Registry[Chat] = Registry(
            settings.models, self._load, self._bytes_of, settings.memory_budget
        )
        self._threads = ThreadPoolExecutor(
            max(2, os.cpu_count() or 2), thread_name_prefix="minicpmv-prompt"
        )
        self._file_bytes: dict[str, int | None] = {}  # by place
        self._forwarded: Counter[str] = Counter()  # requests of beams that run, by model
        # Decisions wait in their threads, and must not keep others from being read.
        self._deciding = ThreadPoolExecutor(_DECIDING, thread_name_prefix="minicpmv-decide")
        path = settings.calibration
        self._calibration = None if path is None else Calibration.load(path)

    async def start(self) -> None:
        """Load the model where there is one; look at the files where there are several.

        Raises:
            OSError, ValueError, ImportError: it cannot be loaded.
        """
        if len(self.settings.model) == 1:
            try:
                async with self._registry.use(self.settings.names[0]) as chat:
                    if self._calibration is not None:
                        self._calibration.check_model(chat.model)
                    return
            except ApiError as error:
                raise error.__cause__ or ValueError(error.message) from None
        for place in self.settings.model:
            await self._in_thread(partial(self._look_at, place))
        if self._registry.budget is None:
            free = free_bytes(self.settings.device)
            self._registry.budget = None if free is None else int(_SHARE * free)

    async def stop(self) -> None:
        await self._registry.close()
        for pool in (self._threads, self._deciding):
            pool.shutdown(wait=False, cancel_futures=True)

    def models(self) -> Sequence[ModelCard]:
        return [self._card(name, entry) for name, entry in self._registry.entries.items()]

    def _card(self, name: str, entry: Entry[Chat]) -> ModelCard:
        return card_of(name, entry, self._file_bytes.get(entry.place))

    async def card(self, model: str) -> ModelCard:
        entry = self._registry.entry(model)
        if entry.model is None:
            await self._use(model, lambda chat: None)
        return self._card(model, entry)

    async def answer(self, job: Job) -> AsyncGenerator[Event, None]:
        most = self.settings.max_num_seqs + self.settings.max_queue
        if job.n > most:
            message = f"n is {job.n}; this server answers {most} requests at a time at most."
            raise ApiError(400, "invalid_value", message, param="n")
        begin = partial(self._begin, job=job, loop=asyncio.get_running_loop())
        async with self._registry.use(job.model) as chat:
            try:
                live = await self._in_thread(partial(begin, chat))
            except (ValueError, OSError, QueueFullError) as error:
                param = "prompt" if _is_plain(job.prompt) else None
                raise from_exception(error, param) from error
            self._forwarded[job.model] += live.is_forwarded
            try:
                yield Started(live.num_input_tokens)
                async for piece in live:
                    if piece.text or piece.tokens:
                        yield Piece(piece.index, piece.text, piece.tokens, piece.num_tokens)
                    if piece.answer is not None:
                        yield Finished(piece.index, piece.answer)
            except ArgumentError as error:  # a constraint that becomes too complex on its way
                raise from_exception(error) from error
            finally:
                self._forwarded[job.model] -= live.is_forwarded
                live.cancel()

    async def decide(self, job: DecisionJob) -> Sequence[Decision]:
        is_gone = threading.Event()

        def work(chat: Chat) -> list[Decision]:
            options: Any = job.options
            decisions = chat.decide_all(
                job.questions, before=job.prompt, cancelled=is_gone, **options
            )
            return self._calibrated(chat, job, decisions)

        try:
            return await self._use(job.model, work, self._deciding)
        finally:
            is_gone.set()

    def _calibrated(
        self, chat: Chat, job: DecisionJob, decisions: Sequence[Decision]
    ) -> list[Decision]:
        """Those calibrated that the server's calibration was made for."""
        found = self._calibration_of(chat)
        if found is None:
            return list(decisions)
        return [
            found.apply(decision) if found.why_not(question) is None else decision
            for question, decision in zip(job.questions, decisions, strict=True)
        ]

    def _calibration_of(self, chat: Chat) -> Calibration | None:
        """The server's, where it was made for this model."""
        found = self._calibration
        return found if found and found.fingerprint == fingerprint_of(chat.model) else None

    def _begin(self, chat: Chat, job: Job, loop: asyncio.AbstractEventLoop) -> LiveAnswer:
        prompt, conversations = job.prompt, []
        if not _is_plain(prompt):
            prompt = chat.processor.question(prompt)
            conversations = [prompt]
        with use_policy(_NOTHING):
            settings = chat.engine.settings(conversations, job.options)
            if self.settings.max_tokens is not None:
                settings = settings.capped(self.settings.max_tokens)
            return chat.engine.live(prompt, settings, loop, num_answers=job.n, keeps_end=True)

    async def tokenize(
        self,
        model: str,
        prompt: Messages | str,
        *,
        options: Mapping[str, Any] | None = None,
        begins: bool = True,
    ) -> list[int]:
        """Tokens of a text, or of a conversation as the model is shown it."""

        def tokens(chat: Chat) -> list[int]:
            if isinstance(prompt, str):
                return chat.engine.token_ids(prompt, add_special_tokens=begins)
            conversation = chat.processor.question(prompt)
            settings = chat.engine.settings([conversation], options or {})
            return chat.engine.token_ids(conversation, settings)

        return await self._use(model, tokens)

    async def detokenize(self, model: str, ids: Sequence[int]) -> str:
        def text(chat: Chat) -> str:
            _check_ids(chat, ids)
            return str(chat.processor.text_of(ids))

        return await self._use(model, text)

    async def token_texts(self, model: str, ids: Sequence[int]) -> list[str]:
        def texts(chat: Chat) -> list[str]:
            _check_ids(chat, ids)
            return list(map(str, chat.processor.tokenizer.convert_ids_to_tokens(list(ids))))

        return await self._use(model, texts)

    def stats(self) -> Mapping[str, Mapping[str, Mapping[str, int]]]:
        found: dict[str, dict[str, dict[str, int]]] = {}
        for name, entry in self._registry.entries.items():
            if entry.model is None:
                continue
            found[name] = groups = entry.model.engine.stats()
            if "requests" in groups:  # of the scheduler, which beams do not pass
                groups["requests"]["running"] += self._forwarded[name]
        return found

    async def _use(
        self, model: str, work: Callable[[Chat], Result], pool: ThreadPoolExecutor | None = None
    ) -> Result:
        """What `work` makes of a loaded model, in a thread.

        Raises:
            ApiError: the model is not served, or refuses what the client sent.
        """
        async with self._registry.use(model) as chat:
            try:
                return await self._in_thread(lambda: work(chat), pool)
            except (ValueError, OSError, QueueFullError) as error:
                raise from_exception(error) from error

    async def _in_thread(
        self, work: Callable[[], Result], pool: ThreadPoolExecutor | None = None
    ) -> Result:
        return await asyncio.get_running_loop().run_in_executor(pool or self._threads, work)

    def _load(self, place: str) -> Chat:
        settings = self.settings
        begin = time.perf_counter()
        chat = self._loaded(place, settings.dtype)
        if chat.model.device.type == "cpu":
            _compile_kernels()
        if self._is_to_be_widened(place, chat):
            chat.close()
            chat = self._loaded(place, "float32")
        # Made by the first request, it would keep the streams of all others waiting for a second.
        # A vocabulary that cannot be used is an error of requests with a constraint.
        with suppress(ArgumentError):
            vocabulary_of(chat.processor)
        chat.engine.fix_model()
        several = len(settings.model) > 1  # one alone has to be the right one, see `start`
        if several and settings.calibration is not None and self._calibration_of(chat) is None:
            logger.warning(
                "decisions of %s are not calibrated: %s was made for another model",
                place,
                settings.calibration,
            )
        self._file_bytes[place] = self._bytes_on_disk(place)
        logger.info("loaded %s in %.1f s", place, time.perf_counter() - begin)
        return chat

    def _loaded(self, place: str, dtype: str) -> Chat:
        settings = self.settings
        return load(
            place,
            settings.device,
            dtype,
            mmproj=settings.mmproj,
            quantize=settings.quantize,  # type: ignore[arg-type]
            media_policy=_NOTHING,
            limits=EngineLimits(max_running=settings.max_num_seqs, max_waiting=settings.max_queue),
            progress=False,
        )

    def _is_to_be_widened(self, place: str, chat: Chat) -> bool:
        """Whether it is loaded again in float32, which nobody asked for: a small model is fast
        enough to answer everybody to the letter as it answers one alone."""
        settings = self.settings
        return (
            settings.dtype == "auto"
            and settings.quantize is None
            and chat.model.dtype in (torch.bfloat16, torch.float16)
            and getattr(chat.model.config, "quantization_config", None) is None
            and is_small(place, settings.device)
            and not is_invariant(chat.model)
        )

    def _look_at(self, place: str) -> None:
        with find_checkpoint(place) as checkpoint:
            read_config(checkpoint)
        self._file_bytes[place] = self._bytes_on_disk(place)

    def _bytes_on_disk(self, place: str) -> int | None:
        if not is_gguf(place):
            return bytes_of_files(Checkpoint.find(place, local_files_only=True))
        files = [place] if self.settings.mmproj is None else [place, self.settings.mmproj]
        return sum(Path(file).stat().st_size for file in files)

    def _bytes_of(self, place: str, chat: Chat | None) -> int:
        if chat is not None:
            return bytes_of_model(chat)
        settings = self.settings
        return bytes_of_place(place, settings.device, settings.dtype, settings.quantize)


def _compile_kernels() -> None:
    """Whatever the size of the model: a server answers many."""
    if kernels.built() is None and kernels.why_not() is None:
        logger.info("compiling kernels for this processor, once")
        kernels.library()


def _is_plain(prompt: Messages | str | Sequence[int]) -> bool:
    """Whether no template is put around it."""
    return isinstance(prompt, str) or isinstance(prompt[0], int)


def _check_ids(chat: Chat, ids: Sequence[int]) -> None:
    size = len(chat.processor.tokenizer)
    beyond = next((token for token in ids if not 0 <= token < size), None)
    if beyond is not None:
        raise ValueError(f"tokens has {beyond}; the vocabulary has {size}, from 0.")
