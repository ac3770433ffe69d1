"""`/v1/models`: what is served, in the words of OpenAI and of Anthropic at once."""

from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter, Request

from ..jobs import ModelCard
from ..registry import unknown_model

router = APIRouter(tags=["models"])


@router.get("/v1/models")
async def models(request: Request) -> dict[str, Any]:
    """All models, loaded or not."""
    cards = request.app.state.server.backend.models()
    names = [card.name for card in cards]
    return {
        "object": "list",
        "data": [as_model(card) for card in cards],
        "has_more": False,
        "first_id": names[0] if names else None,
        "last_id": names[-1] if names else None,
    }


@router.get("/v1/models/{name:path}")
async def model(request: Request, name: str) -> dict[str, Any]:
    """One model, and what holds where a request says nothing else."""
    cards = request.app.state.server.backend.models()
    found = next((card for card in cards if card.name == name), None)
    if found is None:
        raise unknown_model(name, [card.name for card in cards])
    return as_model(found) | {"defaults": dict(found.defaults)}


def as_model(card: ModelCard) -> dict[str, Any]:
    return {
        "id": card.name,
        "object": "model",
        "created": card.created,
        "owned_by": "minicpmv",
        "type": "model",
        "display_name": card.name,
        "created_at": datetime.fromtimestamp(card.created, UTC).isoformat(),
        "max_model_len": card.context,
        "is_loaded": card.is_loaded,
        "supports_images": card.supports_images,
        "pictures": card.pictures,
    }
