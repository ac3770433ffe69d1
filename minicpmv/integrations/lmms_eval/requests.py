"""lmms-eval's requests in our words: messages, and options of an answer."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ...errors import short

# Their names of what we call otherwise.
_RENAMED = {"until": "stop", "max_gen_toks": "max_new_tokens", "do_sample": "sampling"}
_KNOWN = (
    *("max_new_tokens", "temperature", "top_p", "top_k", "min_p", "num_beams", "sampling", "stop"),
    *("repetition_penalty", "length_penalty", "no_repeat_ngram_size", "min_new_tokens", "seed"),
)
_OF_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "seed")


def without_effect(given: Mapping[str, Any]) -> list[str]:
    """Names in a task's `generation_kwargs` that mean something to other models only."""
    return [name for name in given if _RENAMED.get(name, name) not in _KNOWN]


def options_of(given: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Options of `Chat.batch` for a task's `generation_kwargs`.

    A task samples where it says `do_sample`, or else gives a temperature above 0; everything that
    has an effect on drawn tokens alone is left out where it does not.

    Args:
        own: what the user has set for the model, which wins.
    """
    named = {_RENAMED.get(name, name): value for name, value in given.items()}
    options = {name: named[name] for name in _KNOWN if named.get(name) is not None}
    options.update(own)
    if "sampling" not in options:
        options["sampling"] = float(options.get("temperature", 0)) > 0
    if not options["sampling"]:
        for name in _OF_SAMPLING:
            options.pop(name, None)
    elif not options.get("temperature", 1):
        options.pop("temperature")
    stop = options.pop("stop", ())
    texts = [text for text in ([stop] if isinstance(stop, str) else stop) if text]
    if texts:
        options["stop"] = texts
    options.setdefault("num_beams", 1)
    options.setdefault("max_new_tokens", 1024)
    return options | {"up_to_context": True}


def messages_of(messages: Sequence[Mapping[str, Any]], video: Mapping[str, Any]) -> list[Any]:
    """A conversation of lmms-eval, with its pictures and videos in their places.

    Args:
        video: `num_frames` or `fps` of videos that are files.

    Raises:
        ValueError: there is sound, or something unknown.
    """
    return [
        {
            "role": message["role"],
            "content": message["content"]
            if isinstance(message["content"], str)
            else [_block(block, video) for block in message["content"]],
        }
        for message in messages
    ]


def user_turn(visuals: Iterable[Any] | None, text: str, video: Mapping[str, Any]) -> list[Any]:
    """One question after what it is about, as tasks without messages give them."""
    content = [_visual(each, video) for each in visuals or ()]
    return [{"role": "user", "content": [*content, {"type": "text", "text": text}]}]


def _block(block: Mapping[str, Any], video: Mapping[str, Any]) -> dict[str, Any]:
    kind = block.get("type")
    if kind == "text":
        return {"type": "text", "text": block["text"]}
    if kind in ("image", "video"):
        cut = [name for name in ("start_time", "end_time") if block.get(name) is not None]
        if cut:
            raise ValueError(f"A video has a {cut[0]}; cut it beforehand, whole ones are shown.")
        return _visual(block["url"], video, kind)
    raise ValueError(f"A message has a block of type {kind!r}; known: text, image, video.")


def _visual(given: Any, video: Mapping[str, Any], kind: str = "") -> dict[str, Any]:
    """A picture or a video: a PIL image, an address or a path, frames."""
    if isinstance(given, Mapping):
        if "array" in given:
            raise ValueError("A request has sound; the models read text, pictures and videos.")
        if any(name in given for name in ("video_start", "video_end")):
            raise ValueError("A video has video_start or video_end; cut it beforehand.")
        return _visual(given.get("url") or given.get("path"), video, given.get("type", kind))
    if isinstance(given, str):
        is_video = kind == "video" or (not kind and not given.lower().endswith(_PICTURES))
        return {"type": "video", "video": given, **video} if is_video else _image(given)
    if isinstance(given, list | tuple):
        return {"type": "video", "video": list(given)}
    if given is None:
        raise ValueError("A picture or video is missing: None.")
    if not hasattr(given, "convert"):
        raise ValueError(f"{short(given)} is no picture and no video.")
    return _image(given)


_PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp")


def _image(given: Any) -> dict[str, Any]:
    return {"type": "image", "image": given}
