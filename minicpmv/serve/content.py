"""Content of requests to messages with pictures: read under the policy of the server.

Pictures are fetched and decoded in two pools of threads, so that neither the event loop nor a
picture that is there already waits for a slow address; and no host has more than a few of the
threads that fetch. Pixels are remembered by the bytes they come from, and under the `uuid` that a
client gives them, which its owner alone may name again.
"""

import asyncio
import hashlib
import os
import urllib.parse
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from weakref import WeakValueDictionary

from PIL import Image

from ..engine.request import Message, Messages
from ..errors import first_line, short
from ..media.download import download
from ..media.image import load_image, to_rgb
from ..media.policy import MediaLimitError, MediaPolicy, MediaRefusedError, use_policy
from ..media.video import VideoFile
from .errors import ApiError
from .media_cache import MediaCache, Shown
from .parameters import MediaOptions
from .schema.parts import ChatMessage, ImagePart, ImageUrl, InputVideo, VideoUrl
from .turns import Media, turns_of

_CACHE_BYTES = 256 * 2**20
_DOWNLOADS = 64  # at a time
_DOWNLOADS_PER_HOST = 8
_SLACK_S = 5.0  # a name is resolved, and a thread waited for, beside the time of a download
_MESSAGE_LENGTH = 600

# Flags of the server by the fields of the policy.
_FLAGS = {
    "max_pixels": "--max-pixels",
    "max_frames": "--max-frames",
    "max_duration_s": "--max-video-seconds",
}


@dataclass(frozen=True)
class _Source:
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

    @property
    def digest(self) -> bytes:
        found = hashlib.blake2b(digest_size=16)
        found.update(repr((self.kind, self.sampling)).encode())
        found.update((self.address or "").encode("utf-8", "surrogatepass"))
        return found.digest()


class MediaReader:
    """Reads the messages of requests; it belongs to one server and to one event loop.

    Args:
        settings: of the server; see `policy_of` for what is read.
        policy: in place of the one that the settings mean, for programs and tests.
        cache_bytes: of decoded pictures that are remembered.
    """

    def __init__(
        self,
        settings: Any,
        *,
        policy: MediaPolicy | None = None,
        cache_bytes: int = _CACHE_BYTES,
    ):
        self._policy = policy or policy_of(settings)
        video_bytes = int(settings.max_video_mb * 2**20)
        self._policies = {"image": self._policy, "video": _for_video(self._policy, video_bytes)}
        self._max_images = settings.max_images
        self._cache = MediaCache(cache_bytes)
        self._decoding = ThreadPoolExecutor(max(2, min(os.cpu_count() or 2, 16)), "minicpmv-decode")
        self._downloading = ThreadPoolExecutor(_DOWNLOADS, "minicpmv-download")
        self._hosts: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    def close(self) -> None:
        """End the threads; what waits for them is cancelled."""
        for pool in (self._decoding, self._downloading):
            pool.shutdown(wait=False, cancel_futures=True)
        self._cache.clear()

    def stats(self) -> dict[str, int]:
        """Of the pictures that are remembered; see `MediaCache.stats`."""
        return self._cache.stats()

    async def read(
        self,
        messages: Sequence[ChatMessage],
        *,
        owner: str = "",
        options: MediaOptions | None = None,
        param: str = "messages",
    ) -> Messages:
        """The messages in the chat's own form, with PIL images for pictures and lists of them for
        videos.

        Args:
            owner: whose `uuid`s are meant: the API key, or "" where there is none.
            options: of the whole request, from `parameters.media_options`.
            param: the field of the client that the messages come from.

        Raises:
            ApiError: a picture or video cannot be read or may not be; a limit is passed; a message
                holds nothing. It names the part.
        """
        options = options or MediaOptions()
        turns = turns_of(messages, param)
        media = [item for turn in turns for item in turn.items if isinstance(item, Media)]
        self._check_number(media)
        sources = {id(item): _source_of(item, options) for item in media}
        shown = await self._read_all(list(sources.values()), owner)
        blocks = {
            key: _block(source, each, options)
            for (key, source), each in zip(sources.items(), shown, strict=True)
        }
        result: list[Message] = []
        for turn in turns:
            content: Any = [
                {"type": "text", "text": item} if isinstance(item, str) else blocks[id(item)]
                for item in turn.items
            ]
            if len(content) == 1 and content[0]["type"] == "text":
                content = content[0]["text"]
            result.append({"role": turn.role, "content": content})
        return result

    def _check_number(self, media: Sequence[Media]) -> None:
        if len(media) > self._max_images:
            beyond = media[self._max_images].param
            raise ApiError(
                400,
                "invalid_image",
                f"The request shows {len(media)} pictures and videos; the limit of this server is "
                f"{self._max_images} (--max-images). Send fewer.",
                param=beyond,
            )

    async def _read_all(self, sources: Sequence[_Source], owner: str) -> list[Shown]:
        """All at once, the same source once; the first error ends the others."""
        tasks: dict[Any, asyncio.Task[Shown]] = {}
        for source in sources:
            key = (source.digest, source.uuid)
            if key not in tasks:
                tasks[key] = asyncio.ensure_future(self._read(source, owner))
        try:
            await asyncio.gather(*tasks.values())
        finally:
            for task in tasks.values():
                task.cancel()
        return [tasks[source.digest, source.uuid].result() for source in sources]

    async def _read(self, source: _Source, owner: str) -> Shown:
        named = (owner, source.kind, source.sampling, source.uuid)
        if source.address is None:
            found = self._cache.get(named)
            if found is None:
                raise ApiError(
                    400,
                    "invalid_image",
                    f"{source.param}: no {source.kind} of the uuid {short(source.uuid)} is "
                    "remembered. Send its url, too.",
                    param=source.param,
                )
            return found
        remote = source.address[:8].lower().startswith(("http://", "https://"))
        # An address may show another picture tomorrow; under a uuid it is the one it was.
        key = (owner, source.uuid, source.digest) if remote else source.digest
        shown = self._cache.get(key) if source.uuid or not remote else None
        if shown is None:
            data: str | bytes = source.address
            if remote:
                data = await self._fetch(source)
            shown = await self._in_pool(self._decoding, partial(_decode, data, source), source)
            if source.uuid or not remote:
                self._cache.put(key, shown)
        if source.uuid:
            self._cache.put(named, shown)
        return shown

    async def _fetch(self, source: _Source) -> bytes:
        assert source.address is not None
        host = _host_of(source.address)
        semaphore = self._hosts.setdefault(host, asyncio.Semaphore(_DOWNLOADS_PER_HOST))
        name = f"{source.kind.capitalize()} {_short(source.address)}"
        limit = self._policy.deadline_s + _SLACK_S
        try:
            async with asyncio.timeout(limit), semaphore:
                return await self._in_pool(
                    self._downloading, partial(download, source.address, name), source
                )
        except TimeoutError:
            raise _error(
                source,
                f"{name} cannot be fetched: timed out after {limit:g} s. Send it as a data: URL",
            ) from None

    async def _in_pool(
        self, pool: ThreadPoolExecutor, work: Callable[[], Any], source: _Source
    ) -> Any:
        """The result of work that is done in a thread, under the policy."""

        def under_policy() -> Any:
            with use_policy(self._policies[source.kind]):
                return work()

        try:
            return await asyncio.get_running_loop().run_in_executor(pool, under_policy)
        except MediaRefusedError as error:
            raise _error(source, first_line(error), "url_not_allowed") from None
        except MediaLimitError as error:
            flag = _FLAGS.get(error.limit, "--max-pixels")
            if error.limit in ("max_bytes", "max_download_bytes"):
                flag = "--max-video-mb" if source.kind == "video" else "--max-body"
            raise _error(source, f"{first_line(error)} ({flag} of this server)") from None
        except (ValueError, OSError, ImportError) as error:
            raise _error(source, first_line(error)) from None


def policy_of(settings: Any) -> MediaPolicy:
    """What `max_body`, `max_pixels`, `max_frames`, `max_video_seconds`, `media_urls`,
    `allowed_media_domains` and `allowed_local_media_path` allow."""
    schemes = ["data"]
    if settings.media_urls:
        schemes += ["http", "https"]
    folder = settings.allowed_local_media_path
    if folder is not None:
        schemes.append("file")
    return MediaPolicy.remote(
        schemes=schemes,
        hosts=settings.allowed_media_domains or None,
        folders=None if folder is None else [folder],
        max_bytes=settings.max_body,
        max_download_bytes=settings.max_body,
        max_pixels=settings.max_pixels,
        max_frames=settings.max_frames,
        max_duration_s=settings.max_video_seconds,
    )


def _for_video(policy: MediaPolicy, max_bytes: int) -> MediaPolicy:
    return replace(policy, max_bytes=max_bytes, max_download_bytes=max_bytes)


def _decode(data: str | bytes, source: _Source) -> Shown:
    """The picture upright and as RGB, or the frames of the video so; in a thread."""
    if source.kind == "image":
        return _as_rgb(load_image(data))
    num_frames, fps = source.sampling
    return [_as_rgb(frame) for frame in VideoFile(data, num_frames=num_frames, fps=fps)]


def _as_rgb(image: Image.Image) -> Image.Image:
    image = to_rgb(image)
    image.info.clear()  # profiles and comments are not looked at
    return image


def _source_of(media: Media, options: MediaOptions) -> _Source:
    part = media.part
    if isinstance(part, ImagePart):
        param = f"{media.param}.image_url"
        given = part.image_url
        detail = part.detail
        if isinstance(given, ImageUrl):
            detail, given = given.detail or detail, given.url
            param += ".url"
        _check_given(given, part.uuid, param, "image_url")
        return _Source("image", given, param, part.uuid, is_low=detail == "low")
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
    return _Source("video", found, param, part.uuid, (num_frames, fps))


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


def _block(source: _Source, shown: Shown, options: MediaOptions) -> dict[str, Any]:
    block: dict[str, Any] = {"type": source.kind, source.kind: shown}
    if source.is_low and options.max_slice_nums is None:
        block["max_slice_nums"] = 1
    return block


def _host_of(address: str) -> str:
    try:
        return (urllib.parse.urlsplit(address).hostname or "").lower()
    except ValueError:
        return ""


def _short(address: str) -> str:
    return address if len(address) <= 100 else f"{address[:97]}..."


def _error(source: _Source, reason: str, code: str = "invalid_image") -> ApiError:
    reason = reason if len(reason) <= _MESSAGE_LENGTH else f"{reason[: _MESSAGE_LENGTH - 3]}..."
    reason = reason.encode("utf-8", "backslashreplace").decode()
    return ApiError(400, code, f"{source.param}: {reason}", param=source.param)
