"""Content of requests to messages with pictures: read under the policy of the server.

Pictures are fetched (`fetching.py`) and decoded in two pools of threads, so that neither the event
loop nor a picture that is there already waits for a slow address. Pixels are remembered by the
bytes they come from, and under the `uuid` that a client gives them, which its owner alone may name
again.
"""

import asyncio
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from PIL import Image

from ..engine.pictures import keep_digest
from ..engine.request import Message, Messages
from ..errors import first_line, short
from ..media.image import load_image, to_rgb
from ..media.policy import MediaLimitError, MediaPolicy, MediaRefusedError, use_policy
from ..media.video import VideoFile
from .errors import ApiError
from .fetching import PER_REQUEST, Fetcher
from .media_cache import MediaCache, Shown, num_pixels
from .parameters import MediaOptions
from .schema.parts import ChatMessage
from .sources import Source, source_of
from .turns import Media, turns_of

_NAMED_BYTES = 128 * 2**20
_SEEN_BYTES = 128 * 2**20
_LONG = 1 << 16  # characters of an address that are looked at in a thread
_PICTURES = 8  # of the largest size, in all of a request together
_ANIMATION = 2  # of the largest size, in an animation, whose frames are all decoded

# Flags of the server by the fields of the policy.
_RULES = {"hosts": "--allowed-media-domains", "folders": "--allowed-local-media-path"}
_FLAGS = {"max_frames": "--max-frames", "max_duration_s": "--max-video-seconds"}


class MediaReader:
    """Reads the messages of requests; it belongs to one server and to one event loop.

    Args:
        settings: of the server; see `policy_of` for what is read.
        policy: in place of the one that the settings mean, for programs and tests.
        named_bytes: of decoded pictures that are remembered under their `uuid`; seen_bytes: under
            the bytes they come from.
    """

    def __init__(
        self,
        settings: Any,
        *,
        policy: MediaPolicy | None = None,
        named_bytes: int = _NAMED_BYTES,
        seen_bytes: int = _SEEN_BYTES,
    ):
        policy = policy or policy_of(settings)
        video_bytes = int(settings.max_video_mb * 2**20)
        of_video = replace(policy, max_bytes=video_bytes, max_download_bytes=video_bytes)
        self._policies = {"image": policy, "video": of_video}
        self._max_images = settings.max_images
        self._named, self._seen = MediaCache(named_bytes), MediaCache(seen_bytes)
        num_threads = max(2, min(os.cpu_count() or 2, 16))
        self._decoding = ThreadPoolExecutor(num_threads, "minicpmv-decode")
        self._fetcher = Fetcher()

    def close(self) -> None:
        """End the threads; what waits for them is cancelled."""
        self._decoding.shutdown(wait=False, cancel_futures=True)
        self._fetcher.close()
        self._named.clear()
        self._seen.clear()

    def stats(self) -> dict[str, int]:
        """Of the pictures that are remembered; see `MediaCache.stats`."""
        named, seen = self._named.stats(), self._seen.stats()
        return {name: named[name] + seen[name] for name in named}

    async def read(
        self,
        messages: Sequence[ChatMessage],
        *,
        owner: str = "",
        options: MediaOptions | None = None,
        param: str = "messages",
    ) -> Messages:
        """The messages in the chat's own form, with PIL images for pictures and lists of them for
        videos. Cancelling it ends what is fetched.

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
        sources = [source_of(item, options) for item in media]
        shown = await _Request(self, owner).read_all(sources)
        blocks = {
            id(item): _block(source, each, options)
            for item, source, each in zip(media, sources, shown, strict=True)
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
            raise ApiError(
                400,
                "invalid_image",
                f"The request shows {len(media)} pictures and videos; the limit of this server is "
                f"{self._max_images} (--max-images). Send fewer.",
                param=media[self._max_images].param,
            )

    # For `_Request`.

    async def digest_all(self, sources: Sequence[Source]) -> None:
        """Look at long addresses, which are pictures themselves, in a thread."""
        long = [source for source in sources if len(source.address or "") > _LONG]
        if long:
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self._decoding, lambda: [each.digest for each in long])

    def named(self, source: Source, owner: str) -> Shown:
        """What the owner has shown under this uuid."""
        found = self._named.get(_key_of_uuid(source, owner))
        if found is None:
            raise source.error(
                f"no {source.kind} of the uuid {short(source.uuid)} is remembered; send its url, "
                "too"
            )
        return found

    async def shown(self, source: Source, owner: str, places: asyncio.Semaphore) -> Shown:
        """What is at the address of a source."""
        # An address may show another picture tomorrow; under a uuid it is the one it was.
        name = _key_of_uuid(source, owner) if source.uuid else None
        shown = None if name is None else self._named.get(name, source.digest)
        if shown is None and not source.is_remote:
            shown = self._seen.get(source.digest)
        if shown is None:
            shown = await self._load(source, places)
            if not source.is_remote:
                self._seen.put(source.digest, shown)
        if name is not None:
            self._named.put(name, shown, source.digest)
        return shown

    async def _load(self, source: Source, places: asyncio.Semaphore) -> Shown:
        policy = self._policies[source.kind]
        try:
            data: str | bytes = source.address or ""
            if source.is_remote:
                data = await self._fetcher.fetch(source, policy, places)

            def work() -> Shown:
                with use_policy(policy):
                    return _decoded(data, source, _PICTURES * policy.max_pixels)

            return await asyncio.get_running_loop().run_in_executor(self._decoding, work)
        except MediaRefusedError as error:
            flag = _RULES.get(error.rule or "")
            if error.rule == "schemes":
                flag = "--no-media-urls" if source.is_remote else None
                flag = _RULES["folders"] if source.is_file else flag
            told = f" ({flag} of this server)" if flag else ""
            raise source.error(f"{first_line(error)}{told}", "url_not_allowed") from None
        except MediaLimitError as error:
            flag = _FLAGS.get(error.limit, "--max-pixels")
            if error.limit in ("max_bytes", "max_download_bytes"):
                flag = "--max-video-mb" if source.kind == "video" else "--max-body"
            raise source.error(f"{first_line(error)} ({flag} of this server)") from None
        except (OSError, ValueError, ImportError) as error:
            raise source.error(_reason(error)) from None

    def check_room(self, source: Source, num_pixels: int) -> None:
        """Raise ApiError where one request shows more pixels than it may."""
        most = _PICTURES * self._policies["image"].max_pixels
        if num_pixels > most:
            raise source.error(_too_many(most))


class _Request:
    """The pictures of one request."""

    def __init__(self, reader: MediaReader, owner: str):
        self._reader = reader
        self._owner = owner
        self._places = asyncio.Semaphore(PER_REQUEST)
        self._num_pixels = 0

    async def read_all(self, sources: Sequence[Source]) -> list[Shown]:
        """All at once, the same source once; the first error ends the others."""
        await self._reader.digest_all(sources)
        if len({(source.digest, source.uuid) for source in sources}) == 1:  # no task for it
            return [await self._read(sources[0])] * len(sources)
        tasks: dict[Any, asyncio.Task[Shown]] = {}
        for source in sources:
            key = (source.digest, source.uuid)
            if key not in tasks:
                tasks[key] = asyncio.ensure_future(self._read(source))
        try:
            await asyncio.gather(*tasks.values())
        finally:
            for task in tasks.values():
                task.cancel()
        return [tasks[source.digest, source.uuid].result() for source in sources]

    async def _read(self, source: Source) -> Shown:
        if source.address is None:
            shown = self._reader.named(source, self._owner)
        else:
            shown = await self._reader.shown(source, self._owner, self._places)
        self._num_pixels += num_pixels(shown)
        self._reader.check_room(source, self._num_pixels)
        return shown


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
        max_animation_pixels=_ANIMATION * settings.max_pixels,
        max_frames=settings.max_frames,
        max_duration_s=settings.max_video_seconds,
    )


def _key_of_uuid(source: Source, owner: str) -> tuple[Any, ...]:
    return (owner, source.kind, source.sampling, source.uuid)


def _decoded(data: str | bytes, source: Source, max_pixels: int) -> Shown:
    """The picture upright and as RGB, or the frames of the video so; in a thread."""
    if source.kind == "image":
        return _as_rgb(load_image(data))
    num_frames, fps = source.sampling
    frames: list[Image.Image] = []
    for frame in VideoFile(data, num_frames=num_frames, fps=fps):
        frames.append(_as_rgb(frame))
        if len(frames) * frame.width * frame.height > max_pixels:
            raise MediaLimitError(f"{_too_many(max_pixels)} Lower num_frames or fps.", "max_pixels")
    return frames


def _as_rgb(image: Image.Image) -> Image.Image:
    image = to_rgb(image)
    image.info.clear()  # profiles and comments are not looked at
    keep_digest(image)  # it stays as it is, for all that show it
    return image


def _too_many(most: int) -> str:
    return f"the pictures and frames of one request have more than {most:,} pixels in all."


def _reason(error: Exception) -> str:
    """What a client may know of it: not where a file was looked for."""
    if isinstance(error, FileNotFoundError | IsADirectoryError | PermissionError):
        return "there is no such file, or it cannot be read"
    return first_line(error)


def _block(source: Source, shown: Shown, options: MediaOptions) -> dict[str, Any]:
    block: dict[str, Any] = {"type": source.kind, source.kind: shown}
    if source.is_low and options.max_slice_nums is None:
        block["max_slice_nums"] = 1
    return block
