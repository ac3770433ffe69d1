"""Files of rows for tests, and short words for what they hold."""

import json
from pathlib import Path
from typing import Any

import pytest

from minicpmv.data.faults import FAULT_KINDS
from minicpmv.data.fields import RowError
from minicpmv.data.files import Rows, open_rows
from minicpmv.data.formats import FORMATS
from minicpmv.data.media_fields import MediaReader
from minicpmv.data.messages import Conversation, Message, Part, Picture, Preference

FOLDER = Path("/data")


def write_rows(path: Path, rows: list[Any]) -> Path:
    """Rows as a list (.json), one a line (.jsonl) or a table (.parquet)."""
    if path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    else:
        path.write_text(json.dumps(rows, ensure_ascii=False, indent=2))
    return path


def opened(path: Path, rows: list[Any], **options: Any) -> Rows:
    """The rows of a file that is written first."""
    return open_rows(write_rows(path, rows), **options)


def read(name: str, row: Any) -> Conversation | Preference:
    """One row of a format, its pictures below /data."""
    return FORMATS[name].read_row(row, 0, MediaReader(FOLDER))


def fault(name: str, row: Any) -> tuple[str, str]:
    """Field and kind of what is wrong with a row."""
    with pytest.raises(RowError) as caught:
        read(name, row)
    assert caught.value.message, "a fault says what was found"
    assert caught.value.kind in FAULT_KINDS
    return caught.value.field, caught.value.kind


def image(name: str, **settings: Any) -> Picture:
    """A picture below /data."""
    return Picture(str(FOLDER / name), "image", **settings)


def video(name: str, **settings: Any) -> Picture:
    """A video below /data."""
    return Picture(str(FOLDER / name), "video", **settings)


def user(*parts: Part) -> Message:
    """A message of the user."""
    return Message("user", parts)


def answer(text: str, train: bool = True) -> Message:
    """A message of the assistant."""
    return Message("assistant", (text,), train)


def system(text: str) -> Message:
    """A message of the system."""
    return Message("system", (text,))


def turns(*contents: str, key: str = "role", value: str = "content") -> list[dict[str, Any]]:
    """Messages of user and assistant in turn, as rows have them."""
    roles = ("user", "assistant") if key == "role" else ("human", "gpt")
    return [{key: roles[i % 2], value: content} for i, content in enumerate(contents)]


# A good row of each format, whose pictures need not be there.
_SHARE = {"conversations": turns("q", "a", key="from", value="value")}
CHAT = {"messages": turns("q", "a")}
_BLOCKS = [{"type": "image_url", "image_url": {"url": "a.png"}}]
CONVERSATION_ROWS = {
    "official": {"conversations": turns("q", "a")},
    "llava": _SHARE,
    "llama-factory": {"instruction": "q", "input": "", "output": "a"},
    "hf": {"messages": [{"role": "user", "content": [{"type": "image"}]}, CHAT["messages"][1]],
           "images": ["a.png"]},
    "swift": {**CHAT, "messages": turns("<image>q", "a"), "images": ["a.png"]},
    "openai": {"messages": [{"role": "user", "content": _BLOCKS}, CHAT["messages"][1]]},
}  # fmt: skip
PREFERENCE_ROWS = {
    "rlaif-v": {
        "ds_name": "RLAIF-V",
        "image": {"bytes": b"P", "path": "x.jpg"},
        "question": "What?",
        "chosen": "A cat.",
        "rejected": "A dog.",
        "idx": 3,
        "logps": "[]",
    },
    "rlhf-v": {
        "image": {"bytes": b"P", "path": "x.jpg"},
        "text": json.dumps({"question": "What?", "chosen": "A cat.", "rejected": "A dog."}),
        "idx": 3,
    },
    "trl": {
        "images": [b"P"],
        "prompt": [
            {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}
        ],
        "chosen": [{"role": "assistant", "content": [{"type": "text", "text": "A cat."}]}],
        "rejected": [{"role": "assistant", "content": "A dog."}],
        "idx": 3,
    },
    "swift-preference": {
        "messages": turns("<image>What?", "A cat."),
        "images": [{"bytes": b"P", "path": None}],
        "rejected_response": "A dog.",
        "idx": 3,
    },
    "llama-factory-preference": {
        "messages": turns("<image>What?"),
        "chosen": {"role": "assistant", "content": "A cat."},
        "rejected": {"role": "assistant", "content": "A dog."},
        "images": [b"P"],
        "idx": 3,
    },
}
