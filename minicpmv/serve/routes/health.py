"""Whether the server lives, and which version of it; these need no model."""

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from ...version import VERSION
from ..middleware import stopping

router = APIRouter(tags=["operation"])


@router.api_route("/health", methods=["GET", "HEAD"], include_in_schema=False)
@router.api_route("/ping", methods=["GET", "HEAD"], include_in_schema=False)
async def health(request: Request) -> Response:
    """200 while requests are taken, 503 when the server stops; needs no key."""
    if request.app.state.server.is_stopping:
        raise stopping()
    return JSONResponse({"status": "ok"})


@router.get("/version")
async def version() -> dict[str, str]:
    """The version of the package."""
    return {"version": VERSION}


@router.get("/load")
async def load(request: Request) -> dict[str, Any]:
    """How many requests are being answered, this one not counted."""
    return {"server_load": request.app.state.server.num_requests - 1}
