"""Which picture or video a part of a message shows, and how."""

import hashlib
import urllib.parse
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from .errors import ApiError
from .parameters import MediaOptions
from .schema.parts import ImagePart, ImageUrl, InputVideo, VideoUrl
from .turns import Media

_MESSAGE_LENGTH = 600


@dataclass(frozen=True)
class Source:
    """What a part shows.

    Fields:
        kind: "image" or "video".
        address: a URL or base64; None where a uuid alone is given.
        sampling: `num_frames` and `fps` of a video.
        param: the client's field.
    """

    kind: str
    address: str | None
    param: str
    uuid: str | None = None
    sampling: tuple[int | None, float | None] = (None, None)
    is_low: bool = False

    @cached_property
    def digest(self) -> bytes:
        """Equal for what gives the same pixels."""
        found = hashlib.blake2b(digest_size=16)
        found.update(repr((self.kind, self.sampling)).encode())
        found.update((self.address or "").encode("utf-8", "surrogatepass"))
        return found.digest()

    @property
    def is_remote(self) -> bool:
        return (self.address or "")[:8].lower().startswith(("http://", "https://"))

    @property
    def is_file(self) -> bool:
        return (self.address or "")[:5].lower() == "file:"

    @property
    def host(self) -> str:
        """Of an address; "" where there is none."""
        try:
            return (urllib.parse.urlsplit(self.address or "").hostname or "").lower()
        except ValueError:
            return ""

    @property
    def name(self) -> str:
        """For messages."""
        address = self.address or ""
        short = address if len(address) <= 100 else f"{address[:97]}..."
        return f"{self.kind.capitalize()} {short}"

    def error(self, reason: str, code: str = "invalid_image") -> ApiError:
        if len(reason) > _MESSAGE_LENGTH:
            reason = f"{reason[: _MESSAGE_LENGTH - 3]}..."
        reason = reason.encode("utf-8", "backslashreplace").decode()
        return ApiError(400, code, f"{self.param}: {reason}", param=self.param)


def source_of(media: Media, options: MediaOptions) -> Source:
    """What a part of a message shows.

    Raises:
        ApiError: it says nothing, or two things.
    """
    part = media.part
    if isinstance(part, ImagePart):
        param = f"{media.param}.image_url"
        given = part.image_url
        detail = part.detail
        if isinstance(given, ImageUrl):
            detail, given = given.detail or detail, given.url
            param += ".url"
        _check_given(given, part.uuid, param, "image_url")
        return Source("image", given, param, part.uuid, is_low=detail == "low")
    name = part.type
    param = f"{media.param}.{name}"
    found: Any = part.video_url if name == "video_url" else part.input_video
    other = part.input_video if name == "video_url" else part.video_url
    if other is not None:
        raise ApiError(
            400,
            "invalid_value",
            f"{media.param} is of the type {name} and has another source; send {name} alone.",
            param=media.param,
        )
    num_frames, fps = options.num_frames, options.fps
    if isinstance(found, VideoUrl):
        if found.num_frames is not None and found.fps is not None:
            raise ApiError(
                400,
                "invalid_value",
                f"{param} has num_frames and fps; each says how many frames are shown: send one.",
                param=f"{param}.fps",
            )
        if found.num_frames is not None or found.fps is not None:
            num_frames, fps = found.num_frames, found.fps
        found = found.url
        param += ".url"
    elif isinstance(found, InputVideo):
        if found.data is not None and found.url is not None:
            raise ApiError(
                400, "invalid_value", f"{param} has data and url; send one.", param=param
            )
        data = found.data
        if data is not None and not data.startswith("data:"):
            data = f"data:video/mp4;base64,{data}"
        found = found.url if data is None else data
    _check_given(found, part.uuid, param, name)
    return Source("video", found, param, part.uuid, (num_frames, fps))


def _check_given(address: str | None, uuid: str | None, param: str, name: str) -> None:
    if address is None and uuid is None:
        raise ApiError(
            400,
            "invalid_value",
            f"{param} is missing; send {{'type': '{name}', '{name}': {{'url': ...}}}}.",
            param=param,
        )
    if address is not None and not address.strip():
        raise ApiError(
            400,
            "invalid_image",
            f"{param} is empty; send a data: URL or an http(s) address.",
            param=param,
        )
