"""The JSON of the released training scripts: `id`, `image`, `conversations` of role and content.

`image` is a path, for `<image>` in the first message of the user, or in front of it where there is
none; or an object of `<image_00>`, `<image_01>` ... and paths, for these in any message of the
user. Ours beyond it: a system message in front, `video` in the same two forms, and
`"train": false` in a message.
"""

import re
from collections.abc import Mapping
from typing import Any

from ..fields import Row, RowError, check_keys, flag, items, mapping, rest_of, shown, text
from ..media_fields import Kind, MediaReader, MediaWriter
from ..messages import Conversation, Message, Part, Picture, Role
from ..placeholders import parts_of, written
from ..turns import conversation

_TAGS = re.compile(r"<(image|video)(_\d+)?>")
_NAMES: dict[Kind, re.Pattern[str]] = {
    "image": re.compile(r"<image_\d+>"),
    "video": re.compile(r"<video_\d+>"),
}
ROLES: dict[Any, Role] = {"system": "system", "user": "user", "assistant": "assistant"}


class Official:
    """See the head of this file."""

    name = "official"
    is_preference = False
    keys = ("id", "image", "video", "conversations")

    def fits(self, row: Row) -> int:
        """How surely a row is of this format: 0 not, 3 no other."""
        messages = row.get("conversations")
        if not isinstance(messages, list) or "chosen" in row:
            return 0
        first = messages[0] if messages else None
        return 3 if isinstance(first, Mapping) and ("role" in first or "content" in first) else 0

    def read_row(self, row: Row, number: int, media: MediaReader) -> Conversation:
        """Raises RowError."""
        refused = ("images", "videos", "messages", "chosen", "rejected", "system")
        rest = rest_of(row, self.keys, refused)
        if "conversations" not in row:
            raise RowError("conversations", "not_a_row", "the row has no conversations")
        given = items(row["conversations"], "conversations")
        pictures = _Pictures(row, media)
        messages: list[Message] = []
        fields: list[str] = []
        for i, item in enumerate(given):
            field = f"conversations[{i}]"
            message = mapping(item, field, "role and content")
            check_keys(message, ("role", "content", "train"), field)
            role = role_of(message, "role", ROLES, field)
            if "content" not in message:
                raise RowError(f"{field}.content", "wrong_type", "the message has no content")
            content = text(message["content"], f"{field}.content")
            is_first = role == "user" and not any(m.role == "user" for m in messages)
            parts = pictures.parts(content, f"{field}.content", is_first)
            train = (
                True if message.get("train") is None else flag(message["train"], f"{field}.train")
            )
            messages.append(Message(role, parts, train))
            fields.append(f"{field}.content")
        pictures.finish()
        return conversation(messages, fields, row, number, rest)

    def write_row(self, row: Conversation, media: MediaWriter) -> dict[str, Any]:
        """Raises RowError."""
        names = _names_of(row)
        result: dict[str, Any] = {} if row.id is None else {"id": row.id}
        for kind in ("image", "video"):
            shown_here = [(n, p) for p, n in names if p.kind == kind]
            paths = {n: media.name(p, p.field or kind) for n, p in shown_here}
            if list(paths) == [f"<{kind}>"]:
                result[kind] = paths[f"<{kind}>"]
            elif paths:
                result[kind] = paths
        kinds = {picture.kind for picture, _ in names}
        reserved = _TAGS if "video" in kinds else re.compile(r"<image(_\d+)?>")
        left = iter([name for _, name in names])
        result["conversations"] = [
            {
                "role": message.role,
                "content": written(
                    message.parts, lambda _: next(left), reserved, f"conversations[{i}].content"
                ),
                **({} if message.train else {"train": False}),
            }
            for i, message in enumerate(row.messages)
        ]
        return result


class _Pictures:
    """The pictures and videos of a row, and which of them the texts have named."""

    def __init__(self, row: Row, media: MediaReader):
        self.single: dict[str, Picture] = {}
        self.named: dict[str, Picture] = {}
        self.nulls: dict[str, str] = {}  # placeholders of no picture, and where they stand
        self.used: set[str] = set()
        self.kinds: list[Kind] = ["image"] if row.get("video") is None else ["image", "video"]
        for kind in self.kinds:
            value = row.get(kind)
            if value is None or value == {} or value == []:
                continue
            if isinstance(value, Mapping) and not {"bytes", "path"} & set(value):
                for name, source in value.items():
                    field = f'{kind}["{name}"]'
                    if not _NAMES[kind].fullmatch(str(name)):
                        raise RowError(
                            field, "wrong_type", f"a placeholder is <{kind}_00>, <{kind}_01> ..."
                        )
                    if source is None:  # as rows of a table have it, whose columns are the same
                        self.nulls[name] = field
                    else:
                        self.named[name] = media.picture(source, field, kind)
            elif kind == "image" and isinstance(value, list):
                raise RowError(
                    "image",
                    "wrong_type",
                    f"this is {shown(value)}; expected a path, or for several pictures an object: "
                    '{"<image_00>": path, ...}',
                )
            else:
                self.single[f"<{kind}>"] = media.picture(value, kind, kind)

    def parts(self, content: str, field: str, is_first: bool) -> tuple[Part, ...]:
        """The parts of one message; `is_first`: it is the user's first."""
        front: list[Part] = []
        if is_first:
            front = [p for tag, p in self.single.items() if tag not in content]
            self.used |= {tag for tag in self.single if tag not in content}
        return (*front, *parts_of(content, _TAGS, self._find, field))

    def finish(self) -> None:
        """Raises RowError where a picture has not been used."""
        for name, picture in {**self.single, **self.named}.items():
            if name not in self.used:
                raise RowError(
                    picture.field,
                    "picture_without_placeholder",
                    f"no message holds {name}; write it where the {picture.kind} stands, or take "
                    f"the {picture.kind} out",
                )

    def _find(self, tag: str, field: str) -> Picture | None:
        if tag in self.named:
            self.used.add(tag)
            return self.named[tag]
        if tag in self.single and tag not in self.used:
            self.used.add(tag)
            return self.single[tag]
        kind = tag.strip("<>").partition("_")[0]
        if tag in self.nulls:
            raise RowError(
                self.nulls[tag], "missing_picture", f"this is null; give the path of the {kind}"
            )
        if kind not in self.kinds:
            return None
        if tag in self.single:
            advice = (
                f"one path stands for one {tag} in the first message of the user; give several as "
                f'"{kind}": {{"<{kind}_00>": path, ...}}'
            )
        elif self.named:
            advice = f"the {kind}s are {', '.join(self.named)}"
        else:
            advice = f"the row has no {kind}; give one, or take the {tag} out"
        raise RowError(
            field, "placeholder_without_picture", f"there is no picture for {tag}; {advice}"
        )


def role_of(message: Row, key: str, roles: Mapping[Any, Role], field: str) -> Role:
    """The role of a message, by the words of its format."""
    value = message.get(key)
    if isinstance(value, str) and value in roles:
        return roles[value]
    raise RowError(
        f"{field}.{key}",
        "wrong_roles",
        f"the role is {shown(value)}; it is one of {', '.join(map(str, roles))}",
    )


def _names_of(row: Conversation) -> list[tuple[Picture, str]]:
    """Every picture with its placeholder."""
    for picture in row.pictures:
        plain_picture(picture, "official", ("hf",))
    first = next((m for m in row.messages if m.role == "user"), row.messages[0])
    result = []
    counts = {"image": 0, "video": 0}
    for kind in counts:
        of_kind = [p for p in row.pictures if p.kind == kind]
        is_single = len(of_kind) == 1 and of_kind[0] in first.pictures
        counts[kind] = -1 if is_single else 0
    for picture in row.pictures:
        number = counts[picture.kind]
        counts[picture.kind] += 1
        tag = f"<{picture.kind}>" if number < 0 else f"<{picture.kind}_{number:02d}>"
        result.append((picture, tag))
    return result


def plain_picture(
    picture: Picture, name: str, others: tuple[str, ...], known: tuple[str, ...] = ()
) -> None:
    """Raises RowError if a picture has settings of its own that a format cannot say."""
    for setting in ("max_slice_nums", "num_frames", "fps"):
        if setting not in known and getattr(picture, setting) is not None:
            raise RowError(
                picture.field,
                "unknown_field",
                f"{setting} of one {picture.kind} cannot be said in the format {name}; formats "
                f"that can: {', '.join(others)}",
            )
