"""Requests and replies between the process of a batch and those of its workers, over pipes.

A frame is a head of fixed length and what it counts:

    request   number (8 bytes), lengths of url (2) and body (4); url, body
    reply     number (8), status (2), lengths of name (2) and body (4); name, body
"""

import asyncio
import struct

from ..serve.direct import Reply

_REQUEST = struct.Struct("!QHI")
_REPLY = struct.Struct("!QHHI")

LIMIT = 1 << 20  # bytes that wait to be read
READY = 2**64 - 1  # number of the reply that tells that the models are loaded, or why they are not


def request_frame(number: int, url: str, body: bytes) -> bytes:
    where = url.encode()
    return _REQUEST.pack(number, len(where), len(body)) + where + body


def reply_frame(number: int, reply: Reply) -> bytes:
    name = reply.request_id.encode()
    head = _REPLY.pack(number, reply.status, len(name), len(reply.body))
    return head + name + reply.body


async def read_request(stream: asyncio.StreamReader) -> tuple[int, str, bytes]:
    """
    Raises:
        asyncio.IncompleteReadError: the other side is gone.
    """
    number, of_url, of_body = _REQUEST.unpack(await stream.readexactly(_REQUEST.size))
    url = (await stream.readexactly(of_url)).decode()
    return number, url, await stream.readexactly(of_body)


async def read_reply(stream: asyncio.StreamReader) -> tuple[int, Reply]:
    """
    Raises:
        asyncio.IncompleteReadError: the other side is gone.
    """
    head = await stream.readexactly(_REPLY.size)
    number, status, of_name, of_body = _REPLY.unpack(head)
    name = (await stream.readexactly(of_name)).decode()
    return number, Reply(status, await stream.readexactly(of_body), name)
