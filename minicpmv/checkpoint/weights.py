"""The weight files of a checkpoint, tensor by tensor: read where they lie, written in shards.

Reads safetensors and `pytorch_model.bin`, in one file or in shards with an index; writes
safetensors. Only what is asked for is in memory.
"""

import json
import pickle
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


class WeightFiles:
    """All tensors of a checkpoint's folder, as if they were in one file. Use it with `with`.

    Fields:
        shapes, dtypes: by tensor name; the dtype is None where it holds no floating-point numbers.

    Raises:
        OSError: there is no such file, or it is damaged or cut short.
        ValueError: a file holds more than tensors, or an index that cannot be read.
    """

    def __init__(self, folder: Path):
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, torch.dtype | None] = {}
        self._readers: dict[str, Callable[[str], torch.Tensor]] = {}
        self._stack = ExitStack()
        try:
            for path in _weight_files(folder):
                self._open(path)
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> "WeightFiles":
        return self

    def __exit__(self, *exception: Any) -> None:
        self._readers.clear()
        self._stack.close()

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._readers[name](name)

    def _open(self, path: Path) -> None:
        if path.suffix == ".bin":
            tensors = _read_bin(path)
            for name, tensor in tensors.items():
                self.shapes[name] = tuple(tensor.shape)
                self.dtypes[name] = tensor.dtype if tensor.is_floating_point() else None
                self._readers[name] = tensors.__getitem__
        else:
            try:
                file = self._stack.enter_context(safe_open(path, "pt"))
            except SafetensorError as error:
                raise OSError(
                    f"{str(path)!r} is damaged or not complete ({error}). Download it again."
                ) from error
            for name in file.keys():  # noqa: SIM118 - it is no dict
                outline = file.get_slice(name)
                self.shapes[name] = tuple(outline.get_shape())
                self.dtypes[name] = _DTYPES.get(outline.get_dtype())
                self._readers[name] = file.get_tensor


def _weight_files(folder: Path) -> list[Path]:
    for name in ("model.safetensors", "pytorch_model.bin"):
        index = folder / f"{name}.index.json"
        if index.is_file():
            try:
                names = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ValueError(
                    f"{str(index)!r} is no index of weight files. Download it again."
                ) from error
            paths = [folder / shard for shard in sorted(set(names))]
            missing = [path.name for path in paths if not path.is_file()]
            if missing:
                raise FileNotFoundError(f"{str(folder)!r} has no {', '.join(missing)}.")
            return paths
        if (folder / name).is_file():
            return [folder / name]
    raise FileNotFoundError(f"{str(folder)!r} has no model.safetensors and no pytorch_model.bin.")


def _read_bin(path: Path) -> dict[str, torch.Tensor]:
    """Tensors that stay in the file until they are used. Nothing in it is executed."""
    try:
        content = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{str(path)!r} holds more than tensors, which could run code when read. "
            "Use the safetensors files of this model."
        ) from error
    except (RuntimeError, EOFError) as error:
        raise OSError(
            f"{str(path)!r} is damaged or not complete ({str(error).splitlines()[0]}). "
            "Download it again."
        ) from error
    return {name: value for name, value in content.items() if isinstance(value, torch.Tensor)}


def write_shards(
    folder: Path,
    outlines: Mapping[str, torch.Tensor],
    make: Callable[[str], torch.Tensor],
    max_shard_size: int | str,
) -> Iterator[str]:
    """Write safetensors files, and their index when there are several, one in memory at a time.

    Args:
        outlines: a meta tensor of the shape and dtype of each tensor.
        make: gives the tensor of a name.
        max_shard_size: bytes, or as in "5GB".

    Yields:
        The name of each tensor that has been made.
    """
    split = split_torch_state_dict_into_shards(dict(outlines), max_shard_size=max_shard_size)
    for file, names in split.filename_to_tensors.items():
        shard = {}
        for name in names:
            shard[name] = make(name).contiguous()
            yield name
        save_file(shard, folder / file, metadata={"format": "pt"})
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        path = folder / "model.safetensors.index.json"
        path.write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """The content of a JSON file that belongs to a model.

    Raises:
        OSError: there is no such file.
        ValueError: it is not JSON.
    """
    if not path.is_file():
        raise FileNotFoundError(f"The model folder {str(path.parent)!r} has no {path.name}.")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{str(path)!r} is not JSON: {error}. Download it again.") from None
