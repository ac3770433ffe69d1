"""Endpoints that take one body of JSON and make their response themselves, called as they are.

On FastAPI's way to an endpoint, dependencies are solved, stacks of contexts opened, and what is
received and sent is wrapped, for every request: here for nothing.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel
from starlette.responses import Response

from .bodies import bodies_of, body_of

Post = Callable[[Request, bytes], Awaitable[Response]]
"""The response to a request with this body.

Raises:
    ApiError: the body is wrong, or as of the endpoint.
"""


def posts_of(routers: Iterable[APIRouter]) -> Mapping[str, Post]:
    """By path, what answers there; the rest is FastAPI's."""
    return {
        route.path: _post(route.endpoint, model)
        for route, model in bodies_of(routers)
        if route.methods == {"POST"} and route.response_model is None and not route.param_convertors
    }


def _post(endpoint: Callable[..., Any], model: type[BaseModel]) -> Post:
    async def post(request: Request, data: bytes) -> Response:
        response: Response = await endpoint(request, body_of(request, model, data))
        return response

    return post
