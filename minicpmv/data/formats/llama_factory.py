"""Data of LLaMA-Factory: rows whose columns and words an entry of `dataset_info.json` names."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import listed, meant
from ..fields import Row, RowError, check_keys, is_nothing, items, mapping, rest_of, shown, text
from ..media_fields import MediaReader, MediaWriter
from ..messages import Conversation, Message, Preference, Role
from ..placeholders import InOrder
from ..turns import conversation, preference
from .llava import all_trained
from .official import role_of
from .swift import history_of, write_columns, write_messages

DATASET_INFO = "dataset_info.json"

_TAGS = {
    "role_tag": "from",
    "content_tag": "value",
    "user_tag": "human",
    "assistant_tag": "gpt",
    "observation_tag": "observation",
    "function_tag": "function_call",
    "system_tag": "system",
}
_SHAREGPT = {"messages": "conversations"}
_ALPACA = {"prompt": "instruction", "query": "input", "response": "output"}
_COLUMNS = (
    "messages", "prompt", "query", "response", "history", "system", "images", "videos",
    "chosen", "rejected", "tools", "audios", "kto_tag",
)  # fmt: skip
_ELSEWHERE = (
    "messages", "conversations", "image", "images", "video", "videos", "chosen", "rejected",
    "system", "history",
)  # fmt: skip
WRITTEN_TAGS = {
    "role_tag": "role",
    "content_tag": "content",
    "user_tag": "user",
    "assistant_tag": "assistant",
    "system_tag": "system",
}


@dataclass(frozen=True)
class Entry:
    """One entry of a dataset_info.json.

    Args:
        columns: what is meant -> name of the column, or None.
        tags: keys and roles of messages.
        is_alpaca: instruction, input and output instead of messages.
        ranking: pairs of a chosen and a rejected answer.
    """

    columns: Mapping[str, str] = field(default_factory=lambda: dict(_SHAREGPT))
    tags: Mapping[str, str] = field(default_factory=lambda: dict(_TAGS))
    is_alpaca: bool = False
    ranking: bool = False

    @classmethod
    def of(cls, name: str, given: Any) -> "Entry":
        """The entry of this name as it stands in the file.

        Raises:
            ValueError: it has another form.
        """
        place = f"{DATASET_INFO}, entry {name!r}"
        formatting = given.get("formatting", "alpaca")
        if formatting not in ("alpaca", "sharegpt", "openai"):
            raise ValueError(f"{place}: formatting is {formatting!r}, not sharegpt or alpaca.")
        is_alpaca = formatting == "alpaca"
        columns, tags = given.get("columns") or {}, given.get("tags") or {}
        if not isinstance(columns, Mapping) or not isinstance(tags, Mapping):
            raise ValueError(f"{place}: columns and tags must be objects.")
        for key in columns:
            if key not in _COLUMNS:
                raise ValueError(f"{place}: columns has {key!r}; known are {', '.join(_COLUMNS)}.")
        for key in tags:
            if key not in _TAGS:
                raise ValueError(f"{place}: tags has {key!r}; known are {', '.join(_TAGS)}.")
        wrong = [v for v in (*columns.values(), *tags.values()) if not isinstance(v, str | None)]
        if wrong:
            raise ValueError(f"{place}: {shown(wrong[0])} names no column.")
        for key in ("kto_tag",):
            if columns.get(key):
                raise ValueError(f"{place}: {key} is not supported; give chosen and rejected.")
        if formatting == "openai":
            tags = {**WRITTEN_TAGS, **tags}
        # As LLaMA-Factory does: who names columns names all of them.
        defaults = _ALPACA if is_alpaca else _SHAREGPT
        known = {key: name for key, name in (columns or defaults).items() if name}
        ranking = bool(given.get("ranking", False))
        needed = ["prompt", *([] if ranking else ["response"])] if is_alpaca else ["messages"]
        for key in needed:
            if key not in known:
                raise ValueError(
                    f"{place}: columns has no {key!r}, which {formatting} needs; it has "
                    f"{', '.join(columns)}."
                )
        if ranking and not {"chosen", "rejected"} <= set(known):
            raise ValueError(f"{place}: ranking needs the columns chosen and rejected.")
        return cls(known, {**_TAGS, **tags}, is_alpaca, ranking)

    @classmethod
    def guess(cls, rows: Sequence[Any], ranking: bool) -> "Entry":
        """The entry of rows that no dataset_info.json speaks of."""
        row = next((row for row in rows if isinstance(row, Mapping)), {})
        columns = {name: name for name in ("images", "videos", "system") if name in row}
        if ranking:
            columns |= {"chosen": "chosen", "rejected": "rejected"}
        if "instruction" in row:
            history = {"history": "history"} if "history" in row else {}
            return cls({**_ALPACA, **columns, **history}, dict(_TAGS), True, ranking)
        name = "messages" if "messages" in row else "conversations"
        messages = row.get(name)
        first = messages[0] if isinstance(messages, list) and messages else {}
        has_roles = isinstance(first, Mapping) and "role" in first
        tags = {**_TAGS, **WRITTEN_TAGS} if has_roles else dict(_TAGS)
        return cls({"messages": name, **columns}, tags, False, ranking)


class LlamaFactory:
    """See the head of this file.

    Args:
        entry: of dataset_info.json; None: the one that is written, or a guess from the rows.
        ranking: whether rows are preferences.
    """

    def __init__(self, entry: Entry | None = None, *, ranking: bool = False):
        self.is_preference = ranking if entry is None else entry.ranking
        self.name = "llama-factory-preference" if self.is_preference else "llama-factory"
        self.is_described = entry is not None
        self.entry = entry or _written_entry(self.is_preference)
        self.keys = ("id", *self.entry.columns.values())

    def fits(self, row: Row) -> int:
        """How surely a row is of this format: 0 not, 2 likely, 3 no other."""
        pair = row.get("chosen"), row.get("rejected")
        if self.is_preference:
            if isinstance(row.get("conversations", row.get("messages")), list):
                return 3 if pair != (None, None) else 0
            return 3 if "instruction" in row and "chosen" in row else 0
        return 3 if "instruction" in row and "output" in row and pair == (None, None) else 0

    def for_rows(self, rows: Sequence[Any]) -> "LlamaFactory":
        """The format with an entry that suits rows without a dataset_info.json."""
        return LlamaFactory(Entry.guess(rows, self.is_preference))

    def read_row(self, row: Row, number: int, media: MediaReader) -> Conversation | Preference:
        """Raises RowError."""
        columns = self.entry.columns
        unread = [k for k in _ELSEWHERE if k not in columns.values() and not is_nothing(row.get(k))]
        if unread:
            raise RowError(
                unread[0],
                "unknown_field",
                f"no column of {DATASET_INFO} is {unread[0]!r}, so it would have no effect; name "
                f"it in `columns` (there: {', '.join(map(repr, columns.values()))})",
            )
        read_here = [name for key, name in columns.items() if key not in ("tools", "audios")]
        rest = rest_of(row, read_here, [columns[k] for k in ("tools", "audios") if k in columns])
        images, videos = (
            media.pictures(row.get(columns[k]), columns[k], k[:-1]) if k in columns else []  # type: ignore[arg-type]
            for k in ("images", "videos")
        )
        pictures = InOrder(images, videos)
        said = self._alpaca(row) if self.entry.is_alpaca else self._sharegpt(row)
        messages = [Message(role, pictures.parts(content, at)) for role, content, at in said]
        fields = [at for _, _, at in said]
        pictures.finish()
        if not self.is_preference:
            return conversation(messages, fields, row, number, rest)
        answers = (self._answer(row, "chosen"), self._answer(row, "rejected"))
        return preference(messages, fields, answers, row, number, rest)

    def write_row(self, row: Conversation | Preference, media: MediaWriter) -> dict[str, Any]:
        """Raises RowError."""
        result: dict[str, Any] = {} if row.id is None else {"id": row.id}
        if isinstance(row, Conversation):
            for i, message in enumerate(row.messages):
                all_trained(message, f"messages[{i}]", self.name)
            result["messages"] = write_messages(row.messages, self.name, flag=None)
        else:
            result["messages"] = write_messages(row.prompt, self.name, flag=None)
            result["chosen"] = {"role": "assistant", "content": row.chosen}
            result["rejected"] = {"role": "assistant", "content": row.rejected}
        return result | write_columns(row, media)

    def _sharegpt(self, row: Row) -> list[tuple[Role, str, str]]:
        columns = self.entry.columns
        name = columns["messages"]
        if name not in row:
            raise RowError(name, "not_a_row", f"the row has no {name}")
        said = self._system(row)
        for i, item in enumerate(items(row[name], name)):
            role, content, place = self._message(item, f"{name}[{i}]")
            if i == 0 and role == "system" and said:
                raise RowError(place, "wrong_roles", f"the column {columns['system']} has one too")
            said.append((role, content, place))
        return said

    def _message(self, item: Any, place: str) -> tuple[Role, str, str]:
        tags = self.entry.tags
        role_key, content_key = tags["role_tag"], tags["content_tag"]
        roles: dict[Any, Role] = {
            tags["system_tag"]: "system",
            tags["user_tag"]: "user",
            tags["assistant_tag"]: "assistant",
        }
        message = mapping(item, place, f"{role_key} and {content_key}")
        check_keys(message, (role_key, content_key), place)
        role = role_of(message, role_key, roles, place)
        if content_key not in message:
            raise RowError(f"{place}.{content_key}", "wrong_type", f"there is no {content_key}")
        return role, text(message[content_key], f"{place}.{content_key}"), f"{place}.{content_key}"

    def _alpaca(self, row: Row) -> list[tuple[Role, str, str]]:
        columns = self.entry.columns
        said = self._system(row)
        former = columns.get("history", "history")
        said += history_of(row.get(former), former)  # type: ignore[arg-type]
        name = columns["prompt"]
        asked = [
            text(row[columns[key]], columns[key])
            for key in ("prompt", "query")
            if key in columns and not is_nothing(row.get(columns[key]))
        ]
        if not asked:
            raise RowError(name, "not_a_row", f"the row has no {name}")
        said.append(("user", "\n".join(asked), name))
        if not self.is_preference:
            answer = columns["response"]
            if row.get(answer) is None:
                raise RowError(answer, "no_answer", f"the row has no {answer}")
            said.append(("assistant", text(row[answer], answer), answer))
        return said

    def _system(self, row: Row) -> list[tuple[Role, str, str]]:
        name = self.entry.columns.get("system")
        if name is None or is_nothing(row.get(name)):
            return []
        return [("system", text(row[name], name), name)]

    def _answer(self, row: Row, key: str) -> tuple[str, str]:
        name = self.entry.columns[key]
        value = row.get(name)
        if value is None:
            raise RowError(name, "no_answer", f"the row has no {name}")
        if isinstance(value, str):
            return value and text(value, name), name
        if isinstance(value, list | tuple):
            value = items(value, name)[0] if len(value) == 1 else value
        role, answer, place = self._message(value, name)
        if role != "assistant":
            raise RowError(place, "wrong_roles", f"the {key} answer is a message of the {role}")
        return answer, place


def _written_entry(ranking: bool) -> Entry:
    columns = {"messages": "messages", "images": "images", "videos": "videos"}
    if ranking:
        columns |= {"chosen": "chosen", "rejected": "rejected"}
    return Entry(columns, {**_TAGS, **WRITTEN_TAGS}, False, ranking)


def written_info(file_name: str, entry: Entry, columns_used: Sequence[str]) -> dict[str, Any]:
    """The entry of dataset_info.json for a file that this module wrote."""
    columns = {key: name for key, name in entry.columns.items() if name in columns_used}
    ranking = {"ranking": True} if entry.ranking else {}
    return {
        "file_name": file_name,
        "formatting": "sharegpt",
        **ranking,
        "columns": columns,
        "tags": dict(WRITTEN_TAGS),
    }


def is_dataset_info(value: Any) -> bool:
    """Whether a JSON value is the content of a dataset_info.json of LLaMA-Factory."""
    sources = (
        "file_name",
        "hf_hub_url",
        "ms_hub_url",
        "om_hub_url",
        "script_url",
        "cloud_file_name",
    )
    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(isinstance(e, Mapping) and any(s in e for s in sources) for e in value.values())
    )


def choose_entry(info: Mapping[str, Any], name: str | None, path: Path) -> tuple[str, Entry]:
    """The file name and the entry to read.

    Args:
        info: the content of dataset_info.json.
        name: of the entry; None: the only one.
        path: of dataset_info.json, for errors.

    Raises:
        ValueError: there is no such entry, or it is not on this disk.
    """
    if name is None and len(info) > 1:
        raise ValueError(
            f"{path} has the entries {listed(info)}; name one: {path}::{next(iter(info))}"
        )
    name = next(iter(info)) if name is None else name
    if name not in info:
        raise ValueError(f"{path} has no entry {name!r}.{meant(name, info, str(path))}")
    if not isinstance(info[name].get("file_name"), str):
        raise ValueError(
            f"{path}, entry {name!r}, has no file_name; download the data and name its file."
        )
    return info[name]["file_name"], Entry.of(name, info[name])
