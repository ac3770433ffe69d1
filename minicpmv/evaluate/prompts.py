"""An item in the words of a profile: the messages that the release's evaluation code wrote.

Pictures stay as the item has them, undecoded; `showing.py` opens them. Nothing here looks at the
model, so that a prompt can be read before one is loaded (`minicpmv evaluate --show`).
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from .items import Item, Picture
from .page import Profile

Block = dict[str, Any]
Message = dict[str, Any]

_PLACE = re.compile(r"\{(\w+)\}")
_PICTURES = "{pictures}"
_MARK = re.compile(r"<image (\d+)>")


def conversation(
    item: Item, profile: Profile, *, shots: Sequence[Item] = (), subtitles: str = ""
) -> list[Message]:
    """What is asked about an item: a system message where the profile has one, and a user's.

    Args:
        shots: solved examples, shown before the question.
        subtitles: lines of the video, where the prompt has a place for them.

    Raises:
        ValueError: the profile names a field that the item does not have, or the text a picture.
    """
    blocks: list[Block] = []
    for shot in shots:
        blocks += _shot(shot, profile)
    blocks += _question(item, profile, subtitles)
    messages: list[Message] = [{"role": "user", "content": _joined(blocks)}]
    if profile.system:
        messages.insert(0, {"role": "system", "content": profile.system})
    return messages


def as_text(messages: Sequence[Message]) -> str:
    """The messages for people: `<picture>` and `<video>` where one is shown."""
    lines = []
    for message in messages:
        content = message["content"]
        if not isinstance(content, str):
            content = "\n".join(
                block["text"] if block["type"] == "text" else _MARKS[block["type"]]
                for block in content
            )
        lines.append(f"[{message['role']}]\n{content}")
    return "\n".join(lines)


_MARKS = {"image": "<picture>", "video": "<video>"}


def _question(item: Item, profile: Profile, subtitles: str) -> list[Block]:
    template = profile.prompt
    if not item.options and profile.prompt_without_options is not None:
        template = profile.prompt_without_options
    hint = str(item.fields.get("hint") or "")
    lines = "".join(
        _filled(profile.option, {"letter": letter, "text": text}, item)
        for letter, text in item.options.items()
    )
    values = {
        "question": item.question,
        "options": _filled(profile.options, {"options": lines}, item) if lines else "",
        "hint": _filled(profile.hint, {"hint": hint}, item) if hint else "",
        "subtitles": _filled(profile.subtitles, {"subtitles": subtitles}, item)
        if subtitles
        else "",
    }
    before, mark, after = template.partition(_PICTURES)
    texts = _filled(before, values, item), _filled(after, values, item)
    shown = item.pictures[: profile.max_pictures]
    if profile.interleaved and any(map(_MARK.search, texts)):
        return _interleaved(item, texts, shown)
    media = [_picture(each) for each in shown] if mark else []
    if mark and item.video is not None:
        media.append({"type": "video", "video": item.video})
    return [_text(texts[0]), *media, _text(texts[1])]


def _interleaved(item: Item, texts: tuple[str, str], shown: Sequence[Picture]) -> list[Block]:
    """The text with pictures at their marks; those without one stand where all would.

    A mark of a picture that the profile does not show stays text.
    """
    used: set[int] = set()
    parts = []
    for text in texts:
        blocks, end = [], 0
        for mark in _MARK.finditer(text):
            number = int(mark[1])
            if not 1 <= number <= len(item.pictures):
                raise ValueError(
                    f"Item {item.id!r} speaks of {mark[0]} and has {len(item.pictures)} pictures."
                )
            if number <= len(shown):
                blocks += [_text(text[end : mark.start()]), _picture(shown[number - 1])]
                used.add(number)
                end = mark.end()
        parts.append([*blocks, _text(text[end:])])
    others = [_picture(each) for n, each in enumerate(shown, start=1) if n not in used]
    return [*parts[0], *others, *parts[1]]


def _shot(shot: Item, profile: Profile) -> list[Block]:
    answer = shot.answers[0] if shot.answers else ""
    values = {"question": shot.question, "answer": answer}
    before, mark, after = profile.shot.partition(_PICTURES)
    pictures = shot.pictures[: profile.max_pictures] if mark and not profile.text_shots else ()
    texts = _filled(before, values, shot), _filled(after, values, shot)
    return [_text(texts[0]), *map(_picture, pictures), _text(texts[1])]


def _filled(template: str, values: Mapping[str, str], item: Item) -> str:
    """The template with values in its places; what the values hold is not read again."""

    def value(place: re.Match[str]) -> str:
        name = place[1]
        if name in values:
            return values[name]
        if name not in item.fields:
            known = ", ".join([*values, *item.fields])
            raise ValueError(
                f"The prompt has a place {place[0]}, and item {item.id!r} no such field. It has "
                f"{known}."
            )
        found = item.fields[name]
        return "" if found is None else str(found)

    return _PLACE.sub(value, template)


def _text(text: str) -> Block:
    return {"type": "text", "text": text}


def _picture(picture: Picture) -> Block:
    return {"type": "image", "image": picture}


def _joined(blocks: Sequence[Block]) -> list[Block]:
    """The blocks without empty text, and texts beside each other as one."""
    joined: list[Block] = []
    for block in blocks:
        if block["type"] == "text" and not block["text"]:
            continue
        if block["type"] == "text" and joined and joined[-1]["type"] == "text":
            joined[-1] = _text(joined[-1]["text"] + block["text"])
        else:
            joined.append(block)
    return joined
