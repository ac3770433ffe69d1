"""What may be opened: which addresses, folders and sizes.

The default suits a library on one's own computer: any file, any address. A server that opens files
or addresses from its clients uses `MediaPolicy.remote()`.
"""

import ipaddress
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

SCHEMES = ("file", "http", "https", "data")
# By Pillow's names; MPO is what some cameras write as JPEG, DIB a BMP without its first header.
FORMATS_OF_CLIENTS = (
    "JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "AVIF", "JPEG2000", "PPM", "ICO",
)  # fmt: skip

# Reachable from a rented machine only, and answering with its secrets (Azure); the addresses of
# other providers are link-local or private.
_METADATA = {ipaddress.ip_address("168.63.129.16")}
_LOCAL_NAT64 = ipaddress.ip_network("64:ff9b:1::/48")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")  # an IPv4 address in the last 32 bits

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class MediaRefusedError(ValueError):
    """The policy does not allow this source.

    Args:
        rule: the field of `MediaPolicy` that says so; None: several do together.
    """

    def __init__(self, message: str, rule: str | None = None):
        super().__init__(message)
        self.rule = rule

    def __reduce__(self) -> tuple[type["MediaRefusedError"], tuple[str, str | None]]:
        return type(self), (str(self), self.rule)


class MediaLimitError(ValueError):
    """A picture or video is larger than the policy allows.

    Args:
        limit: the field of `MediaPolicy` that says how large it may be.
    """

    def __init__(self, message: str, limit: str):
        super().__init__(message)
        self.limit = limit

    def __reduce__(self) -> tuple[type["MediaLimitError"], tuple[str, str]]:
        return type(self), (str(self), self.limit)


@dataclass(frozen=True)
class MediaPolicy:
    """Limits for pictures and videos.

    Fields:
        schemes: of "file" (paths as well), "http", "https" and "data" (base64 text as well). Bytes,
            open files and PIL images, which only the program itself can pass, are always taken.
        hosts: host names for http(s), without port; ".example.org" allows everything
            below it. None: any.
        private_addresses: whether private, link-local, loopback, multicast and metadata addresses
            may be opened. Where not, names are resolved once, the address is checked, and the
            connection goes to that address, without a proxy.
        folders: files must be inside one of these, with symbolic links resolved. None: anywhere.
        max_bytes: of any picture or video. None: no limit.
        max_download_bytes: of one download.
        max_pixels: of a picture or a frame, checked before it is decoded.
        max_frames: most frames of one video. None: as many as are asked for.
        max_duration_s: of one video. None: no limit.
        max_animation_pixels: of all frames of an animation together, each of which is decoded to
            learn how long it is shown. None: no limit.
        formats: of pictures, by Pillow's names. None: whatever Pillow reads.
        warns: whether there is a warning where a picture or video has more than is shown, or less
            than was asked for.
        timeout_s: longest wait for the next bytes. deadline_s: for a whole download.
        max_redirects: each one is checked like the first address.

    Raises:
        ValueError: a field is out of range.
    """

    schemes: tuple[str, ...] = SCHEMES
    hosts: tuple[str, ...] | None = None
    private_addresses: bool = True
    folders: tuple[Path, ...] | None = None
    max_bytes: int | None = None
    max_download_bytes: int = 256 * 2**20
    # 20 000 x 20 000, 1.2 GB as RGB. What unpacks to more than this is a decompression bomb.
    max_pixels: int = 400_000_000
    max_frames: int | None = None
    max_duration_s: float | None = None
    max_animation_pixels: int | None = None
    formats: tuple[str, ...] | None = None
    warns: bool = True
    timeout_s: float = 20.0
    deadline_s: float = 120.0
    max_redirects: int = 5

    def __post_init__(self) -> None:
        for name in ("schemes", "hosts", "folders", "formats"):
            value = getattr(self, name)
            if isinstance(value, str | Path):
                raise ValueError(f"{name} is {value!r}; give a list of them.")
            if value is not None:
                object.__setattr__(self, name, tuple(value))
        unknown = [scheme for scheme in self.schemes if scheme not in SCHEMES]
        if unknown:
            raise ValueError(f"schemes has {unknown[0]!r}; known are {', '.join(SCHEMES)}.")
        if self.folders is not None:
            folders = tuple(Path(folder).expanduser().resolve() for folder in self.folders)
            object.__setattr__(self, "folders", folders)
        for name in (
            "max_bytes", "max_download_bytes", "max_pixels", "max_frames", "max_animation_pixels",
        ):  # fmt: skip
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < 1):
                raise ValueError(f"{name} is {value!r}; it must be a whole number, at least 1.")
        for name in ("timeout_s", "deadline_s", "max_duration_s"):
            if name == "max_duration_s" and self.max_duration_s is None:
                continue
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be seconds, above 0.")

    @classmethod
    def remote(cls, **changes: Any) -> "MediaPolicy":
        """For what clients of a server send: no files, public addresses only, small limits.

        Args:
            changes: fields that differ, as `hosts=["images.example.org"]`. `folders` lets files be
                read that lie there.
        """
        policy = cls(
            schemes=("http", "https", "data"),
            private_addresses=False,
            max_bytes=64 * 2**20,
            max_download_bytes=64 * 2**20,
            max_pixels=50_000_000,
            max_frames=64,
            max_animation_pixels=100_000_000,
            formats=FORMATS_OF_CLIENTS,
            warns=False,
            timeout_s=5.0,
            deadline_s=20.0,
        )
        if changes.get("folders") is not None:
            changes.setdefault("schemes", SCHEMES)
        return replace(policy, **changes)

    def check_scheme(self, scheme: str, name: str) -> None:
        """Raise `MediaRefusedError` unless sources of this scheme are allowed."""
        if scheme not in self.schemes:
            what = {"file": "files of this computer", "data": "data URLs and base64"}.get(scheme)
            raise MediaRefusedError(
                f"{name} is refused: {what or scheme + ' addresses'} may not be opened here. "
                f"Allowed: {', '.join(self.schemes) or 'nothing'}.",
                "schemes",
            )

    def check_path(self, path: Path, name: str) -> None:
        """Raise `MediaRefusedError` unless the file may be read."""
        self.check_scheme("file", name)
        if self.folders is None:
            return
        place = path.resolve()
        if not any(place.is_relative_to(folder) for folder in self.folders):
            raise MediaRefusedError(
                f"{name} is refused: it lies in none of the allowed folders.", "folders"
            )

    def check_host(self, host: str, name: str) -> None:
        """Raise `MediaRefusedError` unless that host may be asked."""
        host = host.lower().rstrip(".")
        if self.hosts is None:
            return
        for allowed in self.hosts:
            allowed = allowed.lower()
            if host == allowed or (allowed.startswith(".") and host.endswith(allowed)):
                return
        raise MediaRefusedError(
            f"{name} is refused: the host {host} is none of the allowed ones.", "hosts"
        )

    def check_size(self, num_bytes: int, name: str) -> None:
        """Raise ValueError for more bytes than `max_bytes`."""
        if self.max_bytes is not None and num_bytes > self.max_bytes:
            raise MediaLimitError(
                f"{name} has {num_bytes} bytes; the limit is {self.max_bytes}. Make it smaller.",
                "max_bytes",
            )


def is_public(address: Address) -> bool:
    """Whether an address is one of the open internet; forms that embed another are looked into."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo or (None, None))[1]
        if inner is None and address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(inner)
        is_compatible = int(address) >> 32 == 0  # the first form of an IPv4 address in one of IPv6
        if is_compatible or address.is_site_local or address in _LOCAL_NAT64:
            return False
    return address.is_global and not address.is_multicast and address not in _METADATA


_LOCAL = MediaPolicy()
_POLICY: ContextVar[MediaPolicy] = ContextVar("media_policy", default=_LOCAL)


def current_policy() -> MediaPolicy:
    """The policy in force here."""
    return _POLICY.get()


def notice(text: str) -> None:
    """Warn, where the policy wants it."""
    if current_policy().warns:
        warnings.warn(text, UserWarning, stacklevel=3)


@contextmanager
def use_policy(policy: MediaPolicy | None) -> Iterator[None]:
    """Let a policy hold inside a `with` block, in this thread or task; None changes nothing.

    Pictures are read where they are processed and a `VideoFile` where its frames are first asked
    for: the policy in force there is the one that counts.
    """
    if policy is None:
        yield
        return
    token = _POLICY.set(policy)
    try:
        yield
    finally:
        _POLICY.reset(token)
