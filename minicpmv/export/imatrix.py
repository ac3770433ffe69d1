"""Making an importance matrix: what the columns of the language model's matrices are used for.

Text and pictures go through the model; for every matrix the squares of its inputs are summed,
column by column, over all tokens, those of pictures among them. `minicpmv export gguf --imatrix`
and `llama-quantize --imatrix` then keep the columns exact that carry much.
"""

import hashlib
import json
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..chat import Chat
from ..durable import put_in_place
from ..errors import AdviceError
from ..gguf.imatrix import Entry, ImportanceMatrix
from .gguf.language import matrix_of

CHUNK = 512  # tokens of text at a time
_KEPT_EVERY = 8  # chunks and questions
_ROWS = ".jsonl"
_FIELDS = {"prompt", "images", "answer"}


@dataclass(frozen=True)
class Piece:
    """What goes through the model at a time: ids of text, or a question about pictures."""

    ids: tuple[int, ...] = ()
    prompt: str = ""
    images: tuple[Path, ...] = ()
    answer: str = ""


def make_imatrix(
    chat: Chat,
    files: Sequence[str | Path],
    *,
    chunk_size: int = CHUNK,
    most: int | None = None,
    part: str | Path | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> ImportanceMatrix:
    """Sums over what is in `files`.

    Args:
        chat: the model with its full weights.
        files: text, cut into chunks of `chunk_size` tokens, each beginning as every text does (a
            rest is left out where there is a whole chunk); or, ending in .jsonl, questions with a
            JSON object per line: {"prompt": "...", "images": ["a.png"], "answer": "..."}, of which
            only the prompt is needed.
        most: stop after so many chunks and questions.
        part: where the sums are kept meanwhile, so that a run that was stopped goes on from there;
            it is deleted at the end.
        on_progress: called with how many are done, and how many there are.

    Raises:
        OSError: a file cannot be read.
        ValueError: it holds nothing, or a line is wrong; or an input is not finite.
    """
    pieces = [piece for path in files for piece in _pieces(chat, Path(path), chunk_size)][:most]
    kept = None if part is None else _Kept(Path(part), chat, pieces)
    with _collecting(chat.model) as sums:
        done = 0 if kept is None else kept.restore(sums)
        for number in range(done, len(pieces)):
            _run(chat, pieces[number])
            if kept is not None and (number + 1) % _KEPT_EVERY == 0:
                kept.save(sums, number + 1)
            if on_progress is not None:
                on_progress(number + 1, len(pieces))
    entries = {name: total.entry(name) for name, total in sums.items() if total.counts.any()}
    if not entries:
        raise ValueError(
            f"{chat.name!r} has no matrices whose inputs can be summed; load its full weights."
        )
    if kept is not None:
        kept.path.unlink(missing_ok=True)
    names = [str(path) for path in files]
    return ImportanceMatrix(entries, names, chunk_count=len(pieces), chunk_size=chunk_size)


class _Sums:
    """Of one matrix, or of all experts of one kind in a layer; in float64."""

    def __init__(self, experts: int, columns: int):
        self.squares = np.zeros((experts, columns))
        self.sums = np.zeros((experts, columns))
        self.counts = np.zeros(experts)

    def add(self, expert: int, inputs: torch.Tensor) -> None:
        rows = inputs.detach().reshape(-1, inputs.shape[-1]).float()
        self.squares[expert] += rows.square().sum(dim=0, dtype=torch.float64).cpu().numpy()
        self.sums[expert] += rows.sum(dim=0, dtype=torch.float64).cpu().numpy()
        self.counts[expert] += len(rows)

    def entry(self, name: str) -> Entry:
        if not np.isfinite(self.squares).all():
            raise AdviceError(f"An input of {name!r} is not finite; load with `dtype=float32`.")
        parts = (self.squares, self.counts, self.sums)
        squares, counts, sums = (part.astype(np.float32) for part in parts)
        return Entry(squares, counts, sums)


class _Kept:
    """The sums of a run that goes on, in a file; those of other data or weights are not taken."""

    def __init__(self, path: Path, chat: Chat, pieces: Sequence[Piece]):
        self.path = path
        stamps = [
            (str(image), image.stat().st_size, image.stat().st_mtime_ns)
            for piece in pieces
            for image in piece.images
        ]
        told = repr((chat.name, chat.model.dtype, chat.model.config.to_dict(), pieces, stamps))
        self.key = hashlib.sha256(told.encode()).hexdigest()

    def save(self, sums: dict[str, _Sums], done: int) -> None:
        arrays = {}
        for name, total in sums.items():
            for field in ("squares", "sums", "counts"):
                arrays[f"{name}/{field}"] = getattr(total, field)
        new = self.path.with_name(self.path.name + ".new")
        with open(new, "wb") as file:
            np.savez(file, key=np.array(self.key), done=np.array(done), **arrays)
        put_in_place(new, self.path)

    def restore(self, sums: dict[str, _Sums]) -> int:
        """Fill the sums; how many chunks and questions they hold."""
        if not self.path.is_file():
            return 0
        try:
            with np.load(self.path) as noted:
                if noted["key"] != self.key:
                    return 0
                for name, total in sums.items():
                    for field in ("squares", "sums", "counts"):
                        getattr(total, field)[...] = noted[f"{name}/{field}"]
                return int(noted["done"])
        except (ValueError, KeyError, zipfile.BadZipFile) as error:
            raise ValueError(
                f"{str(self.path)!r} cannot be gone on with ({error}). Delete it."
            ) from error


@contextmanager
def _collecting(model: Any) -> Iterator[dict[str, _Sums]]:
    """The sums by tensor, filled while the model runs."""
    found: dict[str, tuple[int, list[tuple[int, nn.Linear]]]] = {}
    for name, module in model.named_modules():
        is_linear = isinstance(module, nn.Linear)
        place = matrix_of(model.released_name(f"{name}.weight")) if is_linear else None
        if place is None:
            continue
        tensor, expert = place
        experts, linears = found.get(tensor, (0, []))
        found[tensor] = max(experts, expert + 1), [*linears, (expert, module)]
    sums = {name: _Sums(most, linears[0][1].in_features) for name, (most, linears) in found.items()}
    with ExitStack() as stack:
        for name, (_, linears) in found.items():
            for expert, module in linears:
                hook = module.register_forward_pre_hook(_adder(sums[name], expert))
                stack.callback(hook.remove)
        yield sums


def _adder(sums: _Sums, expert: int) -> Callable[[nn.Module, tuple[torch.Tensor, ...]], None]:
    def add(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        sums.add(expert, inputs[0])

    return add


@torch.inference_mode()
def _run(chat: Chat, piece: Piece) -> None:
    if piece.ids:
        row = torch.tensor([piece.ids], device=chat.model.device)
        inputs: dict[str, Any] = {"input_ids": row, "attention_mask": torch.ones_like(row)}
    else:
        blocks = [{"type": "image", "path": str(path)} for path in piece.images]
        content = [*blocks, {"type": "text", "text": piece.prompt}]
        inputs, _ = chat.prepare([[{"role": "user", "content": content}]], max_new_tokens=1)
        if piece.answer:
            inputs = _continued(chat, inputs, piece.answer)
    chat.model(**inputs, use_cache=False, logits_to_keep=1)


def _continued(chat: Chat, inputs: dict[str, Any], answer: str) -> dict[str, Any]:
    """The inputs with the tokens of an answer behind them."""
    ids = chat.processor.tokenizer(answer, add_special_tokens=False)["input_ids"]
    added = torch.tensor([ids], device=inputs["input_ids"].device)
    fills = {"input_ids": added, "attention_mask": torch.ones_like(added)}
    fills["mm_token_type_ids"] = torch.zeros_like(added)
    longer = {
        name: torch.cat([inputs[name], fill.to(inputs[name].dtype)], dim=1)
        for name, fill in fills.items()
        if name in inputs
    }
    return inputs | longer


def _pieces(chat: Chat, path: Path, chunk_size: int) -> list[Piece]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{str(path)!r} is not UTF-8 text; expected text or {_ROWS}.") from None
    found = _questions(path, text) if path.suffix == _ROWS else _chunks(chat, text, chunk_size)
    if not found:
        raise ValueError(f"{str(path)!r} is empty; give text, or lines with a prompt.")
    return found


def _chunks(chat: Chat, text: str, size: int) -> list[Piece]:
    """Text in chunks of `size` tokens; each begins with what begins every text."""
    tokenizer = chat.processor.tokenizer
    ids = tokenizer(text)["input_ids"]
    begin = tokenizer("")["input_ids"]
    begin = begin if begin and ids[: len(begin)] == begin else []
    chunks = [ids[start : start + size] for start in range(0, len(ids), size)]
    if len(chunks) > 1 and len(chunks[-1]) < size:
        chunks.pop()
    return [Piece(ids=(*begin, *chunk[len(begin) :])) for chunk in chunks if chunk]


def _questions(path: Path, text: str) -> list[Piece]:
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            found.append(_question(path, f"{path}, line {number}", line))
    return found


def _question(path: Path, where: str, line: str) -> Piece:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{where} is not JSON: {error}.") from None
    if not isinstance(row, dict) or not isinstance(row.get("prompt"), str):
        raise ValueError(f'{where} has no prompt; expected {{"prompt": "...", "images": [...]}}.')
    unknown = sorted(row.keys() - _FIELDS)
    if unknown:
        raise ValueError(f"{where} has {unknown[0]!r}; known are {', '.join(sorted(_FIELDS))}.")
    images, answer = row.get("images", []), row.get("answer", "")
    if not isinstance(images, list) or not all(isinstance(image, str) for image in images):
        raise ValueError(f"{where}: images must be a list of names of files.")
    if not isinstance(answer, str):
        raise ValueError(f"{where}: answer must be text.")
    places = tuple(path.parent / image for image in images)
    for place in places:
        if not place.is_file():
            raise FileNotFoundError(f"{where}: {str(place)!r} is not there.")
    return Piece(prompt=row["prompt"], images=places, answer=answer)
