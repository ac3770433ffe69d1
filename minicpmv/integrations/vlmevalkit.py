"""A model class for VLMEvalKit, in the words and with the decoding of our benchmark pages.

In `vlmeval/config.py`, or before its `run.py` is called:

    from functools import partial
    from minicpmv.integrations.vlmevalkit import MiniCPMV
    supported_VLM["MiniCPM-V-2_6-native"] = partial(MiniCPMV, "openbmb/MiniCPM-V-2_6")

Data sets that have a page here (`minicpmv evaluate --list`) are asked as the card of the release
was measured: prompt, beams, penalty, enlarged pictures. Others get VLMEvalKit's own prompt.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlmeval.vlm.base import BaseModel

from ..chat import Chat
from ..evaluate.answering import model_of
from ..evaluate.asking import Asking, generation_options
from ..evaluate.items import Item
from ..evaluate.page import Page, Profile, load_page
from ..evaluate.upsizing import upsized
from ..loader import load
from ..media.image import load_image

_LETTERS = "ABCDEFGHI"
_NO_FIELDS = ("index", "image", "image_path", "question", *_LETTERS)


class MiniCPMV(BaseModel):
    """Any model of the family that supports images.

    Args:
        model_path: a folder, a name on the hub, or a loaded `Chat`.
        profile: the pages' profile to ask with; None: that of the model's release, with chain of
            thought where the card starred the score.
        custom_prompt: False takes VLMEvalKit's own prompts everywhere; the decoding stays.
        answering: options of `Chat.ask` ("num_beams", "max_new_tokens" ...) that win over the page.
        options: of `minicpmv.load` ("device", "dtype", "adapter" ...).
    """

    INTERLEAVE = True
    allowed_types = ("text", "image", "video")

    def __init__(
        self,
        model_path: str | Chat = "nano",
        *,
        profile: str | None = None,
        custom_prompt: bool = True,
        answering: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        self.chat = model_path if isinstance(model_path, Chat) else load(model_path, **options)
        self._release = model_of(self.chat, self.chat.name).release
        self._profile = profile
        self._custom_prompt = custom_prompt
        self._own = dict(answering or {})

    def use_custom_prompt(self, dataset: str | None) -> bool:
        return self._custom_prompt and _page(dataset) is not None

    def build_prompt(self, line: Any, dataset: str) -> list[dict[str, Any]]:
        """The messages of a row. Every part says which item and profile it is of, so that pictures
        are enlarged as in our own runs."""
        page = _page(dataset)
        assert page is not None
        item = item_of(line, self.dump_image(line, dataset))
        name = self._name_of(page)
        asking = Asking(page, name)
        used = page.profile_of(name, item.fields)
        name = next(each for each, profile in page.profiles.items() if profile is used)
        parts: list[dict[str, Any]] = []
        for message in asking.conversation(item):
            content = message["content"]
            blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
            for number, block in enumerate(blocks):
                value = str(block[block["type"]])
                part = {"type": block["type"], "value": value, "role": message["role"]}
                parts.append(part | {"item": item.id, "number": number, "profile": name})
        return parts

    def generate_inner(
        self, message: Sequence[Mapping[str, Any]], dataset: str | None = None
    ) -> str:
        """The answer to one message.

        Raises:
            ValueError: a part is of another kind, or a picture cannot be read.
        """
        return self._answer([{"role": "user", "content": message}], dataset)

    def chat_inner(self, message: Sequence[Mapping[str, Any]], dataset: str | None = None) -> str:
        """The answer to a dialogue, whose messages have a role and such a content."""
        return self._answer(message, dataset)

    def _answer(self, turns: Sequence[Mapping[str, Any]], dataset: str | None) -> str:
        page = _page(dataset)
        first: Mapping[str, Any] = next((p for turn in turns for p in turn["content"]), {})
        profile = None
        if page is not None:
            profile = page.profiles[str(first.get("profile") or self._name_of(page))]
        messages: list[dict[str, Any]] = []
        for turn in turns:
            for part in turn["content"]:
                role = part.get("role", turn["role"])
                if not messages or messages[-1]["role"] != role:
                    messages.append({"role": role, "content": []})
                messages[-1]["content"].append(_block(part, page, profile))
        kinds = {block["type"] for message in messages for block in message["content"]}
        options = {"sampling": False, "num_beams": 1, "max_new_tokens": 1024}
        if profile is not None:
            options = generation_options(profile, kinds)
        return self.chat.ask(messages, **(options | self._own)).text

    def _name_of(self, page: Page) -> str:
        if self._profile is not None:
            return self._profile
        return page.profile_for(self._release)[0]


def item_of(line: Any, pictures: str | Sequence[str]) -> Item:
    """The item of a row of VLMEvalKit's table, a pandas Series or a mapping."""
    row = {str(name): value for name, value in dict(line).items() if not _is_missing(value)}
    paths = [pictures] if isinstance(pictures, str) else list(pictures)
    return Item(
        id=str(row.get("index", "")),
        question=str(row.get("question", "")),
        pictures=tuple(map(Path, paths)),
        options={letter: str(row[letter]) for letter in _LETTERS if letter in row},
        fields={name: value for name, value in row.items() if name not in _NO_FIELDS},
    )


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and value != value)  # NaN


def _page(dataset: str | None) -> Page | None:
    """The page of a data set; None where we have none, or it is made of others."""
    try:
        page = load_page(dataset or "")
    except ValueError:
        return None
    return None if page.parts else page


def _block(part: Mapping[str, Any], page: Page | None, profile: Profile | None) -> dict[str, Any]:
    kind, value = part["type"], part["value"]
    if kind == "text":
        return {"type": "text", "text": value}
    if kind == "image":
        if page is not None and profile is not None and profile.upsize:
            seed = str(part.get("item", Path(str(value)).name)), int(part.get("number", 0))
            return {"type": "image", "image": upsized(load_image(value), page.name, *seed)}
        return {"type": "image", "image": value}
    if kind == "video":
        limit = {"num_frames": profile.num_frames} if profile and profile.num_frames else {}
        return {"type": "video", "video": value, **limit}
    raise ValueError(f"A message has a part of type {kind!r}; known: text, image, video.")
