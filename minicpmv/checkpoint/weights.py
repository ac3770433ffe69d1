"""The weight files of a checkpoint, tensor by tensor: read where they lie, written in shards.

Reads safetensors and `pytorch_model.bin`, in one file or in shards with an index; writes
safetensors. Only what is asked for is in memory.
"""

import json
import math
import pickle
import re
import stat
import struct
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from .files import check_whole
from .headers import Headers, safetensors_headers

_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()} | {
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
# What reading a weight file can end in, safetensors and pickles.
UNREADABLE = (
    SafetensorError,
    pickle.UnpicklingError,
    EOFError,
    KeyError,
    IndexError,
    AttributeError,
    OverflowError,
    RuntimeError,
    TypeError,
    struct.error,
)


class TwiceError(ValueError):
    """Two files of a checkpoint hold a tensor of the same name."""

    def __init__(self, name: str, first: Path, second: Path):
        super().__init__(
            f"{str(first)!r} and {second.name!r} both hold {name}, and it should be in one weight "
            "file. Download the checkpoint again."
        )


_OWN_MAPPING = 1 << 20  # numbers of a tensor that is not left in the mapping of its file


class WeightFiles:
    """All tensors of some weight files, as if they were in one. Use it with `with`.

    Fields:
        shapes, dtypes: by tensor name; the dtype is None where it holds no floating-point numbers.

    Raises:
        OSError: there is no such file, or it is damaged or cut short.
        ValueError: a file holds more than tensors, or two hold the same one.
    """

    def __init__(self, paths: Iterable[Path]):
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, torch.dtype | None] = {}
        self._readers: dict[str, Callable[[str], torch.Tensor]] = {}
        self._paths: dict[str, Path] = {}
        self._stack = ExitStack()
        try:
            for path in paths:
                self._open(path)
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> "WeightFiles":
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()

    def close(self) -> None:
        """Close the files. Tensors that were read stay."""
        self._readers.clear()
        self._stack.close()

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._readers[name](name)

    def file_of(self, name: str) -> str:
        """The name of the file, as that of a shard, in which a tensor stands."""
        return self._paths[name].name

    @contextmanager
    def mapped(self, name: str) -> Iterator[torch.Tensor]:
        """A tensor that is read where it is used, and whose memory is free once nothing is.

        Pages of a mapped file count as memory of the process from their first use until the
        mapping is gone; so a large tensor has a mapping of its own.
        """
        path = self._paths[name]
        size = math.prod(self.shapes[name])
        if size < _OWN_MAPPING or (path.suffix == ".bin" and not zipfile.is_zipfile(path)):
            yield self[name]
        elif path.suffix == ".bin":
            yield read_bin(path)[name]
        else:
            with safe_open(path, "pt") as file:
                yield file.get_tensor(name)

    def _open(self, path: Path) -> None:
        if path.suffix == ".bin":
            tensors = read_bin(path)
            _check_once(self._paths, tensors, path)
            for name, tensor in tensors.items():
                self.shapes[name] = tuple(tensor.shape)
                self.dtypes[name] = tensor.dtype if tensor.is_floating_point() else None
                self._readers[name] = tensors.__getitem__
            return
        headers = safetensors_headers(path)
        _check_once(self._paths, headers, path)
        for name, (shape, dtype) in headers.items():
            self.shapes[name] = shape
            self.dtypes[name] = _DTYPES.get(dtype)
        file = self._stack.enter_context(safe_open(path, "pt"))
        for name in file.keys():  # noqa: SIM118 - it is no dict
            self._readers[name] = file.get_tensor


def all_headers(paths: Iterable[Path]) -> Headers:
    """Shape and dtype of every tensor in weight files; no numbers are read.

    Raises:
        OSError: a file is damaged or cut short.
        ValueError: a pickle holds more than tensors, or two files hold the same one.
    """
    headers: Headers = {}
    places: dict[str, Path] = {}
    for path in paths:
        if path.suffix == ".bin":
            tensors = _unpickled(path, "meta", is_mapped=False)
            found: Headers = {
                name: (tuple(value.shape), _NAMES.get(value.dtype, str(value.dtype)))
                for name, value in tensors.items()
            }
        else:
            found = safetensors_headers(path)
        _check_once(places, found, path)
        headers |= found
    return headers


def _check_once(places: dict[str, Path], names: Iterable[str], path: Path) -> None:
    """Note where tensors are.

    Raises:
        TwiceError: another file holds one of them.
    """
    for name in names:
        if name in places:
            raise TwiceError(name, places[name], path)
        places[name] = path


def read_bin(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a pickle, which stay in the file until they are used. Nothing is executed.

    Raises:
        OSError: the file is damaged or cut short, or a pointer of git-lfs.
        ValueError: it holds more than tensors.
    """
    return _unpickled(path, "cpu", is_mapped=zipfile.is_zipfile(path))


def check_bin(path: Path) -> None:
    """As `read_bin`, without reading numbers."""
    _unpickled(path, "meta", is_mapped=False)


def _unpickled(path: Path, device: str, is_mapped: bool) -> dict[str, torch.Tensor]:
    check_whole(path)
    try:
        content = torch.load(path, map_location=device, mmap=is_mapped, weights_only=True)
    except UNREADABLE as error:
        raise unreadable(repr(str(path)), error) from error
    if not isinstance(content, dict):
        raise ValueError(
            f"{str(path)!r} holds a {type(content).__name__}; expected a dict of tensors by their "
            "names."
        )
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise ValueError(
                f"{str(path)!r} holds a {type(value).__name__} as {name!r}; expected a dict of "
                "tensors by their names."
            )
    return content


def unreadable(name: str, error: Exception) -> Exception:
    """The error for the weight file `name`, whose reading ended in `error`."""
    forbidden = re.search(r"GLOBAL ([\w.]+)", str(error))
    if forbidden and isinstance(error, pickle.UnpicklingError):
        return ValueError(
            f"{name} holds {forbidden[1]}; a pickle is read only if it holds tensors alone, "
            "because anything else can run code. Use a safetensors file of the release."
        )
    reason = str(error).partition("\n")[0].partition(". ")[0] or type(error).__name__
    return OSError(f"{name} is damaged or not complete ({reason}). Download it again.")


def write_shards(
    folder: Path,
    outlines: Mapping[str, torch.Tensor],
    make: Callable[[str], torch.Tensor],
    max_shard_size: int,
) -> Iterator[str]:
    """Write safetensors files, and their index when there are several, one in memory at a time.

    Args:
        outlines: a meta tensor of the shape and dtype of each tensor.
        make: gives the tensor of a name.
        max_shard_size: the most bytes of a file; a tensor that is larger has one of its own.

    Yields:
        The name of each tensor that has been made.
    """
    split = split_torch_state_dict_into_shards(dict(outlines), max_shard_size=max_shard_size)
    for file, names in split.filename_to_tensors.items():
        shard = {}
        for name in names:
            shard[name] = make(name).contiguous()
            yield name
        write_tensors(shard, folder / file)
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        path = folder / "model.safetensors.index.json"
        path.write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def write_tensors(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Write a safetensors file with the rights of other new files.

    safetensors writes to a temporary file that nobody else may read, and renames it.

    Raises:
        OSError: the disk is full, or the folder cannot be written.
    """
    path.touch()
    rights = stat.S_IMODE(path.stat().st_mode)
    try:
        save_file(tensors, path, metadata={"format": "pt"})
    except SafetensorError as error:  # of the system, by its text
        path.unlink(missing_ok=True)
        why = str(error).rpartition("I/O error: ")[2]
        raise OSError(f"{path} cannot be written: {why}. Free some space.") from error
    path.chmod(rights)
