"""`export_gguf`: a checkpoint to GGUF files of any size, and the vision side beside them."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from ...durable import put_in_place
from ...errors import ArgumentError, OutputExistsError, meant
from ...gguf.header import Outline
from ...gguf.imatrix import ImportanceMatrix, importance_of
from ...gguf.mixture import Geometry, tensor_types
from ...gguf.types import FILE_TYPES, UNQUANTISED, GGMLType
from ...gguf.values import Value
from ...gguf.writer import forget, write_gguf
from ...processing.processor import MiniCPMVProcessor
from ...processing.templates import released_chat_template
from ...releases import VISION_TYPES
from .blocks import DTYPES, Through, encoded
from .language import (
    architecture,
    language_metadata,
    language_tensors,
    num_experts,
    statements,
)
from .source import Source, Tensor
from .tokens import read_vocabulary, token_metadata
from .vision import (
    TYPES,
    vision_metadata,
    vision_statements,
    vision_tensors,
    vision_type,
)

ALL = tuple(name for name in FILE_TYPES if name != "F32")
QUANTISATION_VERSION = 2


@dataclass(frozen=True)
class Exported:
    """What was written, and what the programs that read it do otherwise than the model.

    Fields:
        language: files by type; mmproj: of the vision side, None without.
        notes: one line each.
        kept: files that an earlier run of the same export had finished.
        modelfile: for Ollama.
    """

    language: dict[str, Path]
    mmproj: Path | None
    notes: list[str]
    kept: list[Path]
    modelfile: Path | None = None

    @property
    def files(self) -> list[Path]:
        return [*self.language.values(), *([self.mmproj] if self.mmproj else [])]


def export_gguf(
    model: str | Path,
    out: str | Path,
    types: Sequence[str] = ("Q4_K_M",),
    *,
    mmproj: str | None = "F16",
    imatrix: str | Path | None = None,
    adapter: str | Path | None = None,
    revision: str | None = None,
    through: Through | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> list[Path]:
    """Write GGUF files of a model; the paths that were written.

    See `export`, which also tells how they differ from the model.
    """
    return export(
        model,
        out,
        types,
        mmproj=mmproj,
        imatrix=imatrix,
        adapter=adapter,
        revision=revision,
        through=through,
        overwrite=overwrite,
        progress=progress,
    ).files


def export(
    model: str | Path,
    out: str | Path,
    types: Sequence[str] = ("Q4_K_M",),
    *,
    mmproj: str | None = "F16",
    imatrix: str | Path | None = None,
    adapter: str | Path | None = None,
    revision: str | None = None,
    through: Through | None = None,
    overwrite: bool = False,
    progress: bool = True,
    modelfile: Callable[[Sequence[Path]], str] | None = None,
) -> Exported:
    """Write `NAME-TYPE.gguf` for every type, and `mmproj-NAME-TYPE.gguf` with the vision side.

    A run that was stopped goes on where it was, if it is given the same arguments.

    Args:
        model: a folder, a name on the hub, "nano", or a folder with an adapter.
        out: a folder; or with one type the file to write, which ends in .gguf.
        types: such as "Q4_K_M"; "all" is all but F32.
        mmproj: type of the vision side: F16, BF16, Q8_0 or F32; None leaves it out. Text models
            have none.
        imatrix: file of an importance matrix.
        adapter: a fine-tuned adapter, put into the weights.
        through: what quantised types are made from: numbers are rounded to F16, BF16 or F32 first.
            The default is F16, as nearly every GGUF file was made, byte for byte what
            `llama-quantize` makes of an F16 file; F16 and BF16 files are made from the checkpoint.
            When it is given, every type goes through it.
        overwrite: replace files that are there.
        progress: show a bar on stderr.
        modelfile: gives the text of a `Modelfile` beside the files.

    Raises:
        ArgumentError: an argument is not known, or has no effect.
        ValueError: the model cannot be written as GGUF.
        OSError: a file is missing or damaged, is there already, or the disk is full.
        ImportError: numba, which quantises, is not installed.
    """
    names = _checked(types, mmproj, through)
    if {*names, mmproj} - {"F32", "F16", "BF16", None}:
        import_module("minicpmv.gguf.blocks.arithmetic")  # not first when a part is written
    out = Path(out)
    with Source(model, adapter, revision) as source:
        files = _paths(out, source.label, names)
        has_vision = source.config.model_type in VISION_TYPES
        picture_file = None
        if has_vision and mmproj is not None:
            folder = next(iter(files.values())).parent
            picture_file = folder / f"mmproj-{source.label}-{mmproj}.gguf"
        folder = next(iter(files.values())).parent
        key = json.dumps([source.identity, _stamp_of(imatrix), through])
        journal = _Finished(folder / f".{source.label}.export.json", key)
        targets = [*files.values(), *([picture_file] if picture_file else [])]
        written = folder / "Modelfile" if modelfile is not None else None
        if written is not None:
            targets.append(written)
        journal.check(targets, overwrite)
        folder.mkdir(parents=True, exist_ok=True)
        kept = [path for path in targets if journal.has(path)]
        importance = _Importance.read(imatrix)
        notes = _write_language(source, files, through, importance, journal, progress)
        if picture_file is not None and mmproj is not None:
            if journal.has(picture_file):
                forget(picture_file)
            else:
                _write_vision(source, picture_file, mmproj, journal, progress)
            notes += vision_statements(source.config)
        found = Exported(files, picture_file, notes, kept, written)
        if modelfile is not None and written is not None and not journal.has(written):
            new = written.with_name(written.name + ".new")
            new.write_text(modelfile(found.files), encoding="utf-8")
            journal.add(written, new)
            put_in_place(new, written)
        journal.remove()
    return found


def _stamp(path: Path) -> list[int]:
    """Tells a file from another of its name."""
    found = path.stat()
    return [found.st_size, found.st_mtime_ns]


def _stamp_of(path: str | Path | None) -> Any:
    if path is None or not Path(path).is_file():
        return str(path)  # reading it says what is wrong
    return [str(Path(path).resolve()), *_stamp(Path(path))]


def _checked(types: Sequence[str], mmproj: str | None, through: str | None) -> list[str]:
    given = [types] if isinstance(types, str) else list(types)
    names: list[str] = []
    for name in given:
        wanted = list(ALL) if str(name).lower() == "all" else [str(name).upper()]
        names += [each for each in wanted if each not in names]
    unknown = [name for name in names if name not in FILE_TYPES]
    if unknown or not names:
        word = (unknown or ["(none)"])[0]
        close = meant(word, [*FILE_TYPES, "all"], "minicpmv export gguf --help")
        raise ArgumentError(f"`type` {word!r} is not known.{close}")
    if mmproj is not None and mmproj not in TYPES:
        raise ArgumentError(f"`mmproj` {mmproj!r} is not known. Known: {', '.join(TYPES)}, none.")
    if through is not None and through not in DTYPES:
        raise ArgumentError(f"`through` {through!r} is not known. Known: {', '.join(DTYPES)}.")
    return names


def _paths(out: Path, label: str, names: Sequence[str]) -> dict[str, Path]:
    if out.suffix == ".gguf" and not out.is_dir():
        if len(names) > 1:
            raise ArgumentError(f"{str(out)!r} is one file; with {len(names)} types name a folder.")
        return {names[0]: out}
    if out.exists() and not out.is_dir():
        raise FileExistsError(f"{str(out)!r} is a file; name a folder to write.")
    return {name: out / f"{label}-{name}.gguf" for name in names}


@dataclass(frozen=True)
class _Importance:
    """Of the columns, by tensor, and what the file will say of it; nothing of both without one."""

    columns: Mapping[str, np.ndarray]
    metadata: Mapping[str, Value]

    @classmethod
    def read(cls, path: str | Path | None) -> "_Importance":
        if path is None:
            return cls({}, {})
        matrix = ImportanceMatrix.read(path)
        columns = {name: entry.importance() for name, entry in matrix.entries.items()}
        return cls(columns, matrix.metadata(path))


def _write_language(
    source: Source,
    files: Mapping[str, Path],
    through: Through | None,
    importance: _Importance,
    journal: "_Finished",
    progress: bool,
) -> list[str]:
    vocabulary = read_vocabulary(source)
    numbers = language_metadata(source.config) | token_metadata(source, vocabulary)
    tensors = {tensor.name: tensor for tensor in language_tensors(source)}
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    text = source.config.get_text_config()
    geometry = Geometry(
        text.num_hidden_layers,
        text.num_attention_heads,
        text.num_key_value_heads or text.num_attention_heads,
        num_experts(source.config),
        architecture(source.config),
    )
    for name, path in files.items():
        if journal.has(path):
            forget(path)
            continue
        file_type = FILE_TYPES[name]
        types = tensor_types(shapes, file_type, geometry, has_importance=bool(importance.columns))
        metadata: dict[str, Value] = {
            "general.architecture": architecture(source.config),
            "general.type": "model",
            "general.name": source.label,
            "general.file_type": file_type.id,
            "general.quantization_version": QUANTISATION_VERSION,
            **numbers,
            **_settings(source),
            **importance.metadata,
        }
        rounded = through or (None if file_type.base in UNQUANTISED else "F16")
        columns = importance.columns
        with source.naming_files():
            _write(path, metadata, tensors, types, rounded, columns, journal, progress)
    return statements(source.config) + vocabulary.notes


def _write_vision(
    source: Source, path: Path, kind: str, journal: "_Finished", progress: bool
) -> None:
    tensors = {tensor.name: tensor for tensor in vision_tensors(source)}
    types = {name: vision_type(tensor, kind) for name, tensor in tensors.items()}
    metadata = vision_metadata(source, kind)
    with source.naming_files():
        _write(path, metadata, tensors, types, None, {}, journal, progress)


def _write(
    path: Path,
    metadata: Mapping[str, Value],
    tensors: Mapping[str, Tensor],
    types: Mapping[str, GGMLType],
    through: Through | None,
    importance: Mapping[str, np.ndarray],
    journal: "_Finished",
    progress: bool,
) -> None:
    outlines = [Outline(name, tensors[name].shape, type_) for name, type_ in types.items()]

    def read(outline: Outline) -> Any:
        name = outline.name
        matrix = importance_of(importance, name, outline.shape)
        return encoded(tensors[name], outline.type, through, matrix)

    write_gguf(
        path,
        metadata,
        outlines,
        read,
        progress=progress,
        sources=journal.key,
        on_whole=lambda part: journal.add(path, part),
    )


def _settings(source: Source) -> dict[str, Value]:
    """The release and the small files, for whoever reads the file with this package."""
    kept: dict[str, Value] = {}
    for name in ("config.json", "preprocessor_config.json", "generation_config.json"):
        path = source.folder / name
        if path.is_file():
            kept[f"minicpmv.{path.stem}"] = path.read_text(encoding="utf-8")
    processor = source.processor
    if isinstance(processor, MiniCPMVProcessor):
        own = processor.chat_template
        if own != released_chat_template(processor.release):
            # `tokenizer.chat_template` is that of text alone.
            kept["minicpmv.chat_template"] = own
    return kept


class _Finished:
    """Which files of an export are whole, while it goes on; a run that is stopped leaves the note
    to the next.

    A file is noted before it gets its name, with its size and time, which tell it from one that
    had the name before: whenever a run is stopped, the next one knows what is there.
    """

    def __init__(self, path: Path, key: str):
        self.path, self.key = path, key
        self._stamps: dict[str, Any] = {}
        try:
            noted = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return
        if isinstance(noted, dict) and noted.get("key") == key and "stamps" in noted:
            self._stamps = dict(noted["stamps"])

    def has(self, path: Path) -> bool:
        return path.is_file() and self._stamps.get(path.name) == _stamp(path)

    def add(self, path: Path, whole: Path) -> None:
        """Note `whole`, which is going to be `path`."""
        self._stamps[path.name] = _stamp(whole)
        new = self.path.with_name(self.path.name + ".new")
        new.write_text(json.dumps({"key": self.key, "stamps": self._stamps}), encoding="utf-8")
        put_in_place(new, self.path)

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)

    def check(self, targets: Sequence[Path], overwrite: bool) -> None:
        """Refuse to replace what another run has written.

        Raises:
            OSError: a file is there.
        """
        for path in targets:
            if path.is_dir():
                raise FileExistsError(f"{str(path)!r} is a folder; choose another place.")
            if path.exists() and not self.has(path) and not overwrite:
                is_vision = path.name.startswith("mmproj-")
                more = ", or keep it with `mmproj=none`" if is_vision else ""
                raise OutputExistsError.of(path, more=more)


__all__ = ["ALL", "Exported", "export", "export_gguf"]
