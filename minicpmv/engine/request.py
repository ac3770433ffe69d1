"""Requests as messages, and whether options have an effect on them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import ArgumentError, short
from ..media.video import VideoFile, is_file
from ..processing.messages import is_blank
from .options import PROCESSING

Message = dict[str, Any]
Messages = list[Message]


def messages_of(
    prompt: str | Messages, images: Iterable[Any] = (), videos: Iterable[Any] = ()
) -> Messages:
    """Messages of one request; images and videos go before the question.

    Raises:
        ValueError: an argument has another form, or the question is blank.
    """
    images, videos = _listed("images", images), _listed("videos", videos)
    for video in videos:
        is_frames = isinstance(video, list | tuple) or getattr(video, "ndim", 0) == 4
        if not is_frames and not is_file(video):
            raise ValueError(
                f"A video is {type(video).__name__}; it must be a file or a list of frames: "
                'videos=["clip.mp4", [a, b]].'
            )
    if not isinstance(prompt, str):
        if not isinstance(prompt, list | tuple):
            raise ValueError(
                f"The prompt is {short(prompt)}; expected a question, or a list of messages "
                "{'role': 'user', 'content': ...}."
            )
        if images or videos:
            raise ValueError(
                "A whole conversation was given: put images and videos into its messages."
            )
        return list(prompt)
    if is_blank(prompt):
        raise ValueError("The prompt is empty. Give a question or an instruction.")
    if not images and not videos:
        return [{"role": "user", "content": prompt}]
    blocks: list[dict[str, Any]] = [
        {"type": "video", "video": image}
        if isinstance(image, VideoFile)
        else {"type": "image", "image": image}
        for image in images
    ]
    blocks += [{"type": "video", "video": video} for video in videos]
    return [{"role": "user", "content": [*blocks, {"type": "text", "text": prompt}]}]


def messages_of_request(request: Any) -> Messages:
    """One entry of a batch as messages."""
    if isinstance(request, tuple):
        if len(request) != 2 or not isinstance(request[0], str):
            raise ValueError(f"It is {short(request)}; a pair is (prompt, images).")
        return messages_of(request[0], request[1])
    return messages_of(request)


def check_effect(given: Iterable[str], conversations: Iterable[Messages]) -> None:
    """Check that processing options have an effect on these conversations, which are in the form of
    `Processor.question`.

    Raises:
        ArgumentError: an option is for pictures or videos, and there are none.
    """
    shown = {block["type"] for messages in conversations for block in media_of(messages)}
    for name in given:
        need = PROCESSING[name].needs
        if need is None:
            continue
        if name == "use_image_id":
            has_effect, wanted = "image" in shown, "image"
        elif need == "picture":
            has_effect, wanted = bool(shown), "image"
        else:
            has_effect, wanted = "video" in shown, "video"
        if not has_effect:
            thing = "a video" if wanted == "video" else "a picture"
            raise ArgumentError(
                f"`{name}` would have no effect without {thing}. Remove it, or show one."
            )


def media_of(messages: Messages) -> Iterator[dict[str, Any]]:
    """The blocks that are a picture or a video, in order, of messages in the form of
    `Processor.question`.
    """
    for message in messages:
        content = message.get("content")
        for block in content if isinstance(content, list) else ():
            if block["type"] in ("image", "video"):
                yield block


def shows_pictures(messages: Messages) -> bool:
    """Whether there is a picture or a video in these messages."""
    return any(True for _ in media_of(messages))


def with_system(messages: Messages, asked: str | None, standing: str | None) -> Messages:
    """The conversation with a system message: its own, else the one asked for, else the
    standing one; "" is none.

    Raises:
        ValueError: one is no text, or blank, or there are two.
    """
    for name, text in (("`system_prompt`", asked), ("The system prompt", standing)):
        if text is None or text == "":
            continue
        if not isinstance(text, str):
            raise ArgumentError(f"{name} is {short(text)}; it must be text.")
        if is_blank(text):
            raise ArgumentError(f"{name} is blank. Write one, or leave it out.")
    if messages[0].get("role") == "system":
        if asked:
            raise ValueError(
                "system_prompt was given, but the conversation begins with a system message; "
                "keep one."
            )
        return messages
    system = asked or standing
    if not system:
        return messages
    return [{"role": "system", "content": system}, *messages]


def _listed(name: str, items: Any) -> list[Any]:
    """`items` as a list. What may be one picture is refused: an array can be iterated, too."""
    if isinstance(items, list | tuple | Iterator):
        return list(items)
    text = repr(items).splitlines()[0] if isinstance(items, str | Path) else name.removesuffix("s")
    raise ValueError(f"{name} is {type(items).__name__}; pass a list: {name}=[{text}].")


def check_requests(requests: Any) -> Sequence[Any]:
    """The requests of a batch as a list."""
    if isinstance(requests, str | Mapping) or not isinstance(requests, Iterable):
        raise ValueError(f"requests is {short(requests)}; pass a list of requests.")
    return list(requests)
