"""Bytes over http(s), through the client that huggingface_hub brings, under the policy.

httpx follows no redirect here: each hop is checked as the first address was. Where private
addresses are refused, the name is resolved once and the connection goes to the address that was
checked, so that a name cannot mean another machine a moment later.
"""

import ipaddress
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from ..errors import first_line
from .policy import MediaLimitError, MediaPolicy, MediaRefusedError, current_policy, is_public

try:
    import httpx2 as httpx  # huggingface_hub 2
except ImportError:
    import httpx  # type: ignore[no-redef, import-not-found]  # huggingface_hub 1

_REDIRECTS = (301, 302, 303, 307, 308)
_MAX_ADDRESSES = 4  # of one name that are tried


class Abort:
    """Ends a download from another thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_set = False
        self._actions: list[Callable[[], None]] = []

    def set(self) -> None:
        with self._lock:
            self._is_set, actions = True, self._actions
            self._actions = []
        for action in actions:
            action()

    def call(self, action: Callable[[], None]) -> None:
        """Call `action` when it is set; at once where it is."""
        with self._lock:
            if not self._is_set:
                self._actions.append(action)
                return
        action()


def download(url: str, name: str, abort: Abort | None = None) -> bytes:
    """What `url` gives.

    Args:
        name: of the picture or video, as it was typed, for error messages.
        abort: ends it with an OSError when it is set.

    Raises:
        MediaRefusedError: the policy does not allow the address, or one it leads to.
        OSError: it cannot be fetched, or not within the time allowed.
        ValueError: it is larger than allowed.
    """
    policy = current_policy()
    deadline = _Deadline(policy.deadline_s)
    if abort is not None:
        abort.call(deadline.end)
    try:
        with deadline, _client(policy) as client:
            return _follow(client, url, name, policy, deadline)
    except MediaRefusedError:
        raise
    except (httpx.HTTPError, httpx.InvalidURL, OSError, UnicodeError) as error:
        if isinstance(error, _AnswerError):
            raise OSError(f"{name} cannot be fetched: {error}. Check the address.") from None
        reason = first_line(error)
        if isinstance(error, httpx.TimeoutException):
            reason = f"timed out: nothing came for {policy.timeout_s:g} s"
        if deadline.passed:
            reason = f"timed out: not complete after {policy.deadline_s:g} s"
        raise OSError(
            f"{name} cannot be fetched: {reason}. Check the address and the network."
        ) from None


class _AnswerError(OSError):
    """The server answered, but not with a file."""


class _Deadline:
    """Shuts the connection when the time is over; a server may send a byte a second for ever."""

    def __init__(self, seconds: float):
        self._end = time.monotonic() + seconds
        self._timer = threading.Timer(seconds, self._shut)
        self._timer.daemon = True
        self._sockets: list[socket.socket] = []

    def __enter__(self) -> "_Deadline":
        self._timer.start()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._timer.cancel()

    @property
    def passed(self) -> bool:
        return time.monotonic() >= self._end

    def watch(self, event: str, info: dict[str, Any]) -> None:
        """httpx's trace: note every connection, and stop where the time is over."""
        if event == "connection.connect_tcp.complete":
            self._sockets.append(info["return_value"].get_extra_info("socket"))
        # Events of closing and of failures come where an error reaches nobody.
        if event.endswith(".started") and "close" not in event:
            self.check()

    def check(self) -> None:
        if self.passed:
            raise TimeoutError("the time is over")

    def end(self) -> None:
        """The time is over now."""
        self._end = 0.0
        self._shut()

    def _shut(self) -> None:
        for connection in list(self._sockets):
            try:
                socket.socket.shutdown(connection, socket.SHUT_RDWR)
            except OSError:
                continue  # closed already


def _client(policy: MediaPolicy) -> Any:
    return httpx.Client(
        timeout=policy.timeout_s,
        follow_redirects=False,
        # A proxy would resolve the name again.
        trust_env=policy.private_addresses,
        headers={"User-Agent": "minicpmv", "Accept-Encoding": "identity"},
    )


def _follow(client: Any, url: str, name: str, policy: MediaPolicy, deadline: _Deadline) -> bytes:
    address = httpx.URL(url)
    for _ in range(policy.max_redirects + 1):
        if address.scheme not in ("http", "https") or not address.host:
            raise MediaRefusedError(f"{name} is refused: it leads to {str(address)[:200]}.")
        policy.check_scheme(address.scheme, name)
        policy.check_host(address.host, name)
        response = _request(client, address, name, policy, deadline)
        try:
            location = response.headers.get("location")
            if response.status_code in _REDIRECTS and location:
                address = address.join(location)
                continue
            return _body(response, name, policy, deadline)
        finally:
            response.close()
    raise _AnswerError(f"more than {policy.max_redirects} redirects")


def _request(client: Any, address: Any, name: str, policy: MediaPolicy, deadline: _Deadline) -> Any:
    extensions: dict[str, Any] = {"trace": deadline.watch}
    if policy.private_addresses:
        return client.send(client.build_request("GET", address, extensions=extensions), stream=True)
    extensions["sni_hostname"] = address.raw_host.decode("ascii")
    failure: Exception | None = None
    for number in _public_addresses(address, name):
        deadline.check()
        request = client.build_request(
            "GET",
            address.copy_with(host=number),
            headers={"Host": address.netloc.decode("ascii")},
            extensions=extensions,
        )
        try:
            return client.send(request, stream=True)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            failure = error
    raise failure or OSError("the name has no address")


def _public_addresses(address: Any, name: str) -> list[str]:
    """The numbers of a host, resolved once; one that is not public refuses the whole name."""
    port = address.port or (443 if address.scheme == "https" else 80)
    found = socket.getaddrinfo(address.raw_host.decode("ascii"), port, type=socket.SOCK_STREAM)
    numbers = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    for number in numbers:
        if not is_public(ipaddress.ip_address(number)):
            raise MediaRefusedError(
                f"{name} is refused: {address.host} is an address of a private network."
            )
    return numbers[:_MAX_ADDRESSES]


def _body(response: Any, name: str, policy: MediaPolicy, deadline: _Deadline) -> bytes:
    if not 200 <= response.status_code < 300:
        raise _AnswerError(f"the server answered {response.status_code} {response.reason_phrase}")
    encoding = response.headers.get("content-encoding", "identity").lower()
    if encoding != "identity":
        raise _AnswerError(f"the server packed it ({encoding}), which was not asked for")
    limit = min(policy.max_download_bytes, policy.max_bytes or policy.max_download_bytes)
    declared = response.headers.get("content-length", "")
    data = bytearray()
    too_large = declared.isdecimal() and int(declared) > limit
    if not too_large:
        for chunk in response.iter_raw():
            data += chunk
            deadline.check()
            too_large = len(data) > limit
            if too_large:
                break
        if not too_large:
            deadline.check()  # a connection that was shut also ends a body of unknown length
    if too_large:
        size = f"{limit >> 20} MiB" if limit >= 2**20 else f"{limit} bytes"
        raise MediaLimitError(
            f"{name} is larger than {size}. Download it yourself and give the file.",
            "max_download_bytes",
        )
    return bytes(data)
