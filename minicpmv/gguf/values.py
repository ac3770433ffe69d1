"""The values of a GGUF file's metadata, to bytes and back.

A value is an int, float, str, bool or a list of one of them. What an int or a float becomes where
nothing is said: u32 and f32, as nearly every key of llama.cpp has them; `Typed` says otherwise.
"""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

SCALARS = {  # code of the format: (name, form for struct)
    0: ("u8", "B"),
    1: ("i8", "b"),
    2: ("u16", "H"),
    3: ("i16", "h"),
    4: ("u32", "I"),
    5: ("i32", "i"),
    6: ("f32", "f"),
    7: ("bool", "?"),
    10: ("u64", "Q"),
    11: ("i64", "q"),
    12: ("f64", "d"),
}
STRING, ARRAY = 8, 9
_CODES = {name: code for code, (name, _) in SCALARS.items()} | {"str": STRING}


@dataclass(frozen=True)
class Typed:
    """A value whose type is not the default. `type` is "i32", "u64" ...; of an array's elements."""

    value: Any
    type: str


Value = int | float | str | bool | Sequence[int] | Sequence[float] | Sequence[str] | Typed


def encode_string(text: str) -> bytes:
    data = text.encode("utf-8")
    return struct.pack("<Q", len(data)) + data


def encode_pairs(metadata: Mapping[str, Value]) -> bytes:
    """All pairs, in the order given.

    Raises:
        ValueError: a key is empty, or a value has no type of the format or does not fit into it.
    """
    parts = []
    for key, value in metadata.items():
        if not key:
            raise ValueError("A key of the metadata is empty.")
        try:
            parts.append(encode_string(key) + _encode(value))
        except (struct.error, TypeError, OverflowError, KeyError) as error:
            raise ValueError(f"metadata {key!r} cannot be written: {error}.") from error
    return b"".join(parts)


def _encode(value: Value) -> bytes:
    kind = None
    if isinstance(value, Typed):
        kind, value = value.type, value.value
    if isinstance(value, list | tuple | np.ndarray):
        return _encode_array(value, kind)
    code = _CODES[kind or _default(value)]
    return struct.pack("<i", code) + _scalar(code, value)


def _encode_array(values: Any, kind: str | None) -> bytes:
    if kind is None:
        if not len(values):
            raise TypeError("an empty array needs a Typed that says what its elements would be")
        kinds = {_default(value) for value in values}
        if len(kinds) > 1:
            raise TypeError(f"its elements are of several kinds ({', '.join(sorted(kinds))})")
        kind = kinds.pop()
    code = _CODES[kind]
    head = struct.pack("<iiQ", ARRAY, code, len(values))
    if code == STRING:
        return head + b"".join(encode_string(text) for text in values)
    return head + struct.pack(f"<{len(values)}{SCALARS[code][1]}", *values)


def _scalar(code: int, value: Any) -> bytes:
    if code == STRING:
        return encode_string(value)
    return struct.pack("<" + SCALARS[code][1], value)


def _default(value: Any) -> str:
    if isinstance(value, bool | np.bool_):
        return "bool"
    if isinstance(value, str):
        return "str"
    if isinstance(value, int | np.integer):
        return "u32"
    if isinstance(value, float | np.floating):
        return "f32"
    raise TypeError(f"it is a {type(value).__name__}")


class Cursor:
    """Reads values one after another from the bytes of a file, and never past their end."""

    def __init__(self, data: Any):
        self.data = data
        self.place = 0
        self.size = len(data)

    def take(self, num_bytes: int) -> int:
        """Step over `num_bytes`; where they begin.

        Raises:
            EOFError: the file has fewer.
        """
        start = self.place
        if num_bytes > self.size - start:
            raise EOFError
        self.place = start + num_bytes
        return start

    def unpack(self, form: str) -> tuple[Any, ...]:
        form = "<" + form
        return struct.unpack_from(form, self.data, self.take(struct.calcsize(form)))

    def number(self, form: str) -> int:
        return self.unpack(form)[0]

    def string(self) -> str:
        length = self.number("Q")
        start = self.take(length)
        return bytes(self.data[start : start + length]).decode("utf-8")

    def value(self) -> tuple[Any, str]:
        """The next typed value: as python has it (numbers of an array as numpy's), and its type."""
        code = self.number("i")
        if code == ARRAY:
            return self._array()
        if code == STRING:
            return self.string(), "str"
        name, form = _scalar_type(code)
        return self.unpack(form)[0], name

    def _array(self) -> tuple[Any, str]:
        code, length = self.number("i"), self.number("Q")
        if code == STRING:
            if length * 8 > self.size - self.place:
                raise EOFError
            return [self.string() for _ in range(length)], "[str]"
        name, form = _scalar_type(code)
        dtype = np.dtype("?" if form == "?" else "<" + form)
        start = self.take(length * dtype.itemsize)
        return np.frombuffer(self.data, dtype, length, start).copy(), f"[{name}]"


def _scalar_type(code: int) -> tuple[str, str]:
    if code not in SCALARS:
        raise ValueError(f"a value of type {code}, which the format does not have")
    return SCALARS[code]
