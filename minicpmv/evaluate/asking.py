"""How the items of a page are asked of one model: words, pictures and options.

What is made here can be sent to another process, which makes the same of the same item.
"""

import io
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from PIL import Image

from ..media.image import load_image
from .frames import frames_of, read_subtitles, spoken_at
from .items import Item, Picture
from .journal import digest_of
from .page import Page, Profile
from .prompts import Message, conversation
from .shots import shots_for
from .upsizing import upsized

SHOTS_SEED = "shots"
_MOST_FRAMES = 64
_BESIDE = ("subtitle", "subtitles")  # folders beside that of the videos


@dataclass(frozen=True)
class Asking:
    """A page in the words of one of its profiles.

    Fields:
        profile: its name.
        overrides: fields of `Profile` that the user has set otherwise.
        drawn: solved examples to show, for pages that show some.
    """

    page: Page
    profile: str
    overrides: Mapping[str, Any] = field(default_factory=dict)
    drawn: Sequence[Item] = ()

    def profile_of(self, item: Item) -> Profile:
        """What holds for an item: some pages ask a part of their items otherwise."""
        return replace(self.page.profile_of(self.profile, item.fields), **self.overrides)

    def conversation(self, item: Item, subtitles: str = "") -> list[Message]:
        """The messages with pictures as the data has them, undecoded."""
        profile = self.profile_of(item)
        shots = shots_for(item, self.drawn, profile.shots) if profile.shots else ()
        return conversation(item, profile, shots=shots, subtitles=subtitles)

    def digest(self, item: Item) -> str:
        """What stands for all that an item is asked with, words and pictures."""
        parts: list[Any] = []
        for message in self.conversation(item):
            parts.append(message["role"])
            content = message["content"]
            for block in [content] if isinstance(content, str) else content:
                if isinstance(block, str) or block["type"] == "text":
                    parts.append(block if isinstance(block, str) else block["text"])
                else:
                    parts.append(_identity(block[block["type"]]))
        return digest_of(*parts)

    def messages(self, item: Item) -> list[Message]:
        """The messages as the model is shown them: pictures enlarged, frames chosen.

        Raises:
            OSError, ValueError: a picture or a video cannot be read.
        """
        profile, frames, subtitles = self.profile_of(item), None, ""
        wants_text = "{subtitles}" in profile.prompt
        if item.video is not None and (profile.num_frames or profile.fps or wants_text):
            fps = profile.fps
            if not (profile.num_frames or fps):
                fps = 1.0
            most = profile.num_frames or _MOST_FRAMES
            frames = frames_of(item.video, num_frames=most, fps=fps)
            if wants_text:
                subtitles = _subtitles(item, frames.times_s)
        messages = self.conversation(item, subtitles)
        for message in messages:
            if not isinstance(message["content"], str):
                message["content"] = [
                    self._shown(block, profile, (item.id, index), frames and frames.images)
                    for index, block in enumerate(message["content"])
                ]
        return messages

    def _shown(
        self, block: dict[str, Any], profile: Profile, place: tuple[str, int], frames: Any
    ) -> dict[str, Any]:
        if block["type"] == "video":
            return {**block, "video": frames or str(block["video"])}
        if block["type"] == "image":
            picture = block["image"]
            if profile.upsize:
                picture = upsized(load_image(_source(picture)), self.page.name, *place)
            return {**block, "image": _source(picture)}
        return block

    def options(self, item: Item) -> dict[str, Any]:
        """Options of `Chat.ask` for an item."""
        blocks = self.conversation(item)[-1]["content"]
        kinds = set() if isinstance(blocks, str) else {block["type"] for block in blocks}
        return generation_options(self.profile_of(item), kinds)

    def settings(self) -> dict[str, Any]:
        """JSON values that answers asked this way share."""
        names, asked = [self.profile], {}
        for name in names:
            profile = self.page.profiles[name]
            asked[name] = _json(replace(profile, **self.overrides))
            if profile.otherwise and profile.otherwise not in names:
                names.append(profile.otherwise)
        drawn = {"shots": [shot.id for shot in self.drawn]} if self.drawn else {}
        settings = {"page": self.page.name, "page version": self.page.version}
        return {**settings, "profile": self.profile, "asked": asked, **drawn}


def generation_options(profile: Profile, kinds: Collection[str]) -> dict[str, Any]:
    """Options of `Chat.ask` by a profile, for messages with these kinds of media."""
    options: dict[str, Any] = {"max_new_tokens": profile.max_new_tokens, "up_to_context": True}
    if profile.sampling:
        options |= {"sampling": True, "seed": 0}
    else:
        options |= {"sampling": False, "num_beams": profile.num_beams}
        options["repetition_penalty"] = profile.repetition_penalty
    if ("image" in kinds or "video" in kinds) and profile.max_slice_nums is not None:
        options["max_slice_nums"] = profile.max_slice_nums
    if "image" in kinds and profile.use_image_id is not None:
        options["use_image_id"] = profile.use_image_id
    return options


def _json(profile: Profile) -> Any:
    """The fields of a profile that are not their default, and how the answer is generated."""
    usual, always = Profile(), ("num_beams", "repetition_penalty", "max_new_tokens")
    found = {
        name: value
        for name, value in vars(profile).items()
        if name in always or value != getattr(usual, name)
    }
    return json.loads(json.dumps(found, default=dict))


def _identity(media: Any) -> Any:
    """What tells a picture or a video from others, without decoding it."""
    if isinstance(media, bytes):
        return media
    if isinstance(media, Image.Image):
        return media.mode.encode() + repr(media.size).encode() + media.tobytes()
    path = Path(media)
    return [path.name, path.stat().st_size if path.is_file() else None]


def _source(picture: Picture) -> Any:
    return str(picture) if isinstance(picture, Path) else picture


def _subtitles(item: Item, times_s: Sequence[float]) -> str:
    """The lines that are read out while these frames are shown; none where there is no file."""
    assert item.video is not None
    named = str(item.fields.get("subtitles") or item.video.with_suffix(".srt").name)
    folders = (item.video.parent, *(item.video.parent.parent / name for name in _BESIDE))
    file = next((folder / named for folder in folders if (folder / named).is_file()), None)
    return "" if file is None else spoken_at(read_subtitles(file), times_s)


def as_bytes(picture: Any) -> bytes:
    """The bytes of a picture file, to be sent to a server."""
    if isinstance(picture, bytes):
        return picture
    if isinstance(picture, Image.Image):
        file = io.BytesIO()
        picture.save(file, format="PNG", compress_level=1)
        return file.getvalue()
    return Path(picture).read_bytes()
