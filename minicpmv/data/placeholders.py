"""Text with placeholders, and the same as a tuple of texts and pictures."""

import re
from collections.abc import Callable, Iterator, Sequence

from .fields import RowError
from .messages import Part, Picture, canonical

IMAGE, VIDEO = "<image>", "<video>"
IMAGE_TAG, ANY_TAG = re.compile(IMAGE), re.compile(f"{IMAGE}|{VIDEO}")

# One piece of a text: itself, or a placeholder with the name of its field.
Find = Callable[[str, str], Part | None]


def parts_of(text: str, tags: re.Pattern[str], find: Find, field: str) -> tuple[Part, ...]:
    """A text as canonical parts.

    Args:
        text: the text of a message.
        tags: matches placeholders.
        find: the picture of a placeholder at a field; None: the placeholder is plain text.
        field: where the text stands.
    """
    parts: list[Part] = []
    end = 0
    for match in tags.finditer(text):
        found = find(match.group(), field)
        if found is not None:
            parts += [text[end : match.start()], found]
            end = match.end()
    return canonical([*parts, text[end:]])


class InOrder:
    """Pictures that stand where the placeholders of all messages are, one after the other.

    Args:
        images: what `<image>` stands for.
        videos: what `<video>` stands for.
        plain_video: whether `<video>` is plain text as long as there is no video.
    """

    def __init__(
        self,
        images: Sequence[Picture],
        videos: Sequence[Picture] = (),
        *,
        plain_video: bool = False,
    ):
        self.media = {IMAGE: list(images), VIDEO: list(videos)}
        self.used: dict[str, set[int]] = {IMAGE: set(), VIDEO: set()}  # their numbers
        names = [IMAGE] if plain_video and not videos else [IMAGE, VIDEO]
        self.tags = re.compile("|".join(names))

    def parts(self, text: str, field: str) -> tuple[Part, ...]:
        """The parts of the text of the next message."""
        return parts_of(text, self.tags, self._next, field)

    def in_front(self, tags_in_texts: Sequence[str]) -> list[Picture]:
        """The pictures that no text has a placeholder for, if that holds for all of their kind."""
        everything = "\n".join(tags_in_texts)
        front: list[Picture] = []
        for tag, media in self.media.items():
            if media and tag not in everything:
                front += media
                self.used[tag] = set(range(len(media)))
        return front

    def finish(self) -> None:
        """Raises RowError where a picture has not been used."""
        for tag, media in self.media.items():
            left = [picture for i, picture in enumerate(media) if i not in self.used[tag]]
            if left:
                raise RowError(
                    left[0].field,
                    "picture_without_placeholder",
                    f"the row has {len(media)} {left[0].kind}s, and its texts name "
                    f"{len(self.used[tag])}; write {tag} where each one stands",
                )

    def _next(self, tag: str, field: str) -> Picture:
        media, place = self.media[tag], len(self.used[tag])
        if place >= len(media):
            kind = tag.strip("<>")
            raise RowError(
                field,
                "placeholder_without_picture",
                f"this is {tag} number {place + 1} of the row, which has {len(media)} {kind}s; "
                f"give one {kind} per {tag}, or take the {tag} out",
            )
        self.used[tag].add(place)
        return media[place]


def written(
    parts: Sequence[Part], tag_of: Callable[[Picture], str], reserved: re.Pattern[str], field: str
) -> str:
    """Parts as text with placeholders, which reads back as the same parts.

    Args:
        parts: canonical parts.
        tag_of: the placeholder of a picture.
        reserved: what would be read as a placeholder.
        field: where the text stands, for the error.

    Raises:
        RowError: a text holds what the format would read as a picture.
    """
    pieces: list[str] = []
    for i, part in enumerate(parts):
        if isinstance(part, Picture):
            pieces.append(tag_of(part))
            continue
        match = reserved.search(part)
        if match:
            raise RowError(
                field,
                "placeholder_without_picture",
                f"the text holds {match.group()}, which would be read as a picture",
            )
        # One newline on the side of a picture is taken off again when this is read.
        before = "\n" if i > 0 and not part.startswith(" ") else ""
        after = "\n" if i < len(parts) - 1 and not part.endswith(" ") else ""
        pieces.append(f"{before}{part}{after}")
    return "".join(_apart(pieces, parts))


def _apart(pieces: Sequence[str], parts: Sequence[Part]) -> Iterator[str]:
    """The pieces, with a newline between two pictures."""
    for i, (piece, part) in enumerate(zip(pieces, parts, strict=True)):
        if i > 0 and isinstance(part, Picture) and isinstance(parts[i - 1], Picture):
            yield "\n"
        yield piece
