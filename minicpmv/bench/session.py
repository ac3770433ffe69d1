"""One call of `minicpmv bench`: load or make a model, find its peers, let them take turns."""

import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from .. import kernels
from ..chat import Chat
from ..devices import parse_device
from ..loader import load
from ..precision import dtype_name, parse_dtype
from .checkpoint import bytes_of, share_of, write_checkpoint
from .llama_cpp import SERVER, LlamaCppSubject, find_server, program
from .llama_python import LlamaPythonSubject, is_installed
from .machine import OtherLoad, bandwidth, machine_facts
from .report import summary
from .runner import possible, take_turns
from .subjects import ChatSubject, GenerateSubject, Subject
from .worker import WorkerSubject, commit_of

_COMPLETE = "complete"  # a file beside a random model that is all there


@dataclass(frozen=True)
class Peer:
    """Whom to compare with.

    Fields:
        kind: "generate", "llama.cpp" or "checkout".
        paths: GGUF files, or the checkout's folder.
    """

    kind: str
    paths: tuple[Path, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What was asked for.

    Fields:
        model: a folder or a name; None for a random model of `shape`.
        layers: of its decoder; None for all.
        folder: where the random model is kept; None: removed at the end.
        options: of `load`.
        names: figures; None for all.
    """

    model: str | None
    shape: str | None = None
    layers: int | None = None
    folder: Path | None = None
    options: dict[str, Any] = field(default_factory=dict)
    names: Sequence[str] | None = None
    peer: Peer | None = None
    repeat: int = 3
    warmup: int = 1
    streams: int = 16
    threads: int | None = None


def bench(settings: Settings, progress: Callable[[str], None]) -> dict[str, Any]:
    """Measure; everything of the report as plain data.

    Raises:
        ValueError, OSError: a model or a peer cannot be had.
    """
    # What is wrong is named before a model is made.
    parse_device(settings.options.get("device", "auto"))
    parse_dtype(settings.options.get("dtype", "auto"))
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    if settings.peer is not None and settings.peer.kind == "llama.cpp":
        _check_llama_cpp()
    with ExitStack() as open_things:
        open_things.enter_context(_ending_on_sigterm())
        model = open_things.enter_context(_model(settings, progress))
        progress("loading the model")
        begin = time.perf_counter()
        chat = load(model, progress=False, **settings.options)
        load_seconds = time.perf_counter() - begin
        subjects: list[Subject] = [ChatSubject(chat, settings.streams, "this build")]
        open_things.callback(subjects[0].close)
        subjects[0].facts = _facts(chat, settings) | {"load_seconds": load_seconds}
        if settings.peer is not None:
            progress(f"starting {settings.peer.kind}")
            subjects.append(_peer(settings, settings.peer, chat, model))
            open_things.callback(subjects[1].close)
        device = chat.model.device
        if device.type == "cpu":
            kernels.library()
        rate = bandwidth(device)
        load_by_others = OtherLoad()
        names = possible(settings.names, chat.supports_images)
        found = take_turns(
            subjects, names, repeat=settings.repeat, warmup=settings.warmup, progress=progress
        )
        machine = machine_facts(device)
        machine["other_load"] = load_by_others.share()
        return {
            "machine": machine,
            "model": _described(settings),
            "settings": {
                "repeat": settings.repeat,
                "warmup": settings.warmup,
                "streams": settings.streams,
            },
            "memory_limit": {
                "bytes_per_second": rate,
                "bytes_per_token": bytes_per_token(chat.model),
            },
            **summary(subjects, names, found),
        }


@contextmanager
def _ending_on_sigterm() -> Iterator[None]:
    """A program that is told to end takes its peers and its random model with it."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's
        return

    def end(number: int, frame: Any) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _model(settings: Settings, progress: Callable[[str], None]) -> Iterator[str]:
    """The folder or name to load; a random model is written first."""
    if settings.shape is None:
        assert settings.model is not None
        yield settings.model
        return
    with ExitStack() as stack:
        if settings.folder is None:
            folder = Path(stack.enter_context(TemporaryDirectory(prefix="minicpmv-bench-")))
        else:
            folder = settings.folder
        mark, text = folder / _COMPLETE, f"{settings.shape} {settings.layers}\n"
        if mark.is_file():
            if mark.read_text(encoding="utf-8") != text:
                raise ValueError(
                    f"{str(folder)!r} has another random model; name another folder, or remove it."
                )
        else:
            _check_free(folder)
            folder.mkdir(parents=True, exist_ok=True)
            size = bytes_of(settings.shape, settings.layers)
            free = shutil.disk_usage(folder).free
            if size > free:
                raise OSError(
                    f"The random model takes {size / 1e9:.1f} GB, and {str(folder)!r} has "
                    f"{free / 1e9:.1f} GB free. Give fewer --layers, or name another --folder."
                )
            progress(f"writing a random model of {size / 1e9:.1f} GB to {str(folder)!r}")
            write_checkpoint(folder, settings.shape, settings.layers)
            mark.write_text(text, encoding="utf-8")
        yield str(folder)


def _check_free(folder: Path) -> None:
    """
    Raises:
        OSError: a random model would be written over something else.
    """
    if folder.exists() and not folder.is_dir():
        raise OSError(f"--folder is {str(folder)!r}, which is a file; name a folder.")
    if folder.is_dir() and any(folder.iterdir()):
        raise OSError(
            f"--folder {str(folder)!r} has files that are no random model of minicpmv bench, or "
            "not the whole of one; name another folder, or empty it."
        )


def _peer(settings: Settings, peer: Peer, chat: Chat, model: str) -> Subject:
    threads = torch.get_num_threads()
    if peer.kind == "generate":
        subject = GenerateSubject(chat, settings.streams, "generate", owns_process=False)
        subject.facts = {"dtype": dtype_name(chat.model.dtype)}
        return subject
    if peer.kind == "checkout":
        return WorkerSubject(peer.paths[0], model, settings.options, settings.streams, threads)
    mmproj = peer.paths[1] if len(peer.paths) > 1 else None
    if program(SERVER) is None:
        return LlamaPythonSubject(peer.paths[0], threads)
    return LlamaCppSubject(peer.paths[0], mmproj, settings.streams, threads)


def _check_llama_cpp() -> None:
    """Raises OSError where there is neither a server nor llama-cpp-python."""
    if not is_installed():
        find_server()


def _facts(chat: Chat, settings: Settings) -> dict[str, Any]:
    """How this build computes."""
    precision = chat.precision
    return {
        "version": commit_of(Path(__file__).parents[2]),
        "dtype": dtype_name(chat.model.dtype),
        "reason": None if precision is None else precision.reason,
        "quantize": settings.options.get("quantize"),
        "device": str(chat.model.device),
        "layers": _kinds_of_layers(chat.model),
    }


def _kinds_of_layers(model: Any) -> dict[str, dict[str, int]]:
    """How many layers of each class hold matrices: in the decoder with its head, and elsewhere."""
    head = model.get_output_embeddings()
    decoder = {id(module) for module in [*model.get_decoder().modules(), head]}
    counts: dict[str, dict[str, int]] = {}
    for module in model.modules():
        kind = type(module).__name__
        if "Linear" not in kind and "Experts" not in kind:
            continue
        bits = getattr(module, "bits", None)
        name = kind if bits is None else f"{kind} of {bits} bits"
        part = counts.setdefault("decoder" if id(module) in decoder else "vision", {})
        part[name] = part.get(name, 0) + 1
    return counts


def bytes_per_token(model: Any) -> int:
    """Bytes of the weights that every decoded token reads: decoder and head, not the embeddings of
    other tokens, nor the vision side. All experts are counted."""
    embeddings = {id(tensor) for tensor in _tensors(model.get_input_embeddings())}
    head = {id(tensor): tensor for tensor in _tensors(model.get_output_embeddings())}
    decoder = {id(tensor): tensor for tensor in _tensors(model.get_decoder())}
    read = {key: tensor for key, tensor in decoder.items() if key not in embeddings} | head
    return sum(tensor.numel() * tensor.element_size() for tensor in read.values())


def _tensors(module: Any) -> list[torch.Tensor]:
    return [*module.parameters(), *module.buffers()]


def _described(settings: Settings) -> dict[str, Any]:
    if settings.shape is None:
        return {"name": settings.model, "shape": None}
    return {
        "name": f"shape {settings.shape}",
        "shape": settings.shape,
        **share_of(settings.shape, settings.layers),
    }
