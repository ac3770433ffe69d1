"""The OpenAPI document: what FastAPI knows, with bodies, names of models, and errors."""

from collections.abc import Iterable, Sequence
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from .bodies import bodies_of
from .errors import ApiError, error_body
from .sse import EVENT_STREAM, NDJSON

_REF = "#/components/schemas/"
_EVENTS = EVENT_STREAM.partition(";")[0]
_STREAMS: dict[str, dict[str, Any]] = {
    # No type: to some tools this is the schema of the whole text, to others that of each event.
    _EVENTS: {"description": "Events one after the other; the data of each is JSON, or [DONE]."},
    NDJSON: {"type": "string", "description": "Lines of JSON."},
}


def complete(document: dict[str, Any], routers: Iterable[APIRouter], models: Sequence[str]) -> None:
    """Add what FastAPI does not see.

    Args:
        routers: whose routes take bodies by `json_body`.
        models: names that are served.
    """
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):  # FastAPI's own, which never show
        schemas.pop(name, None)
    for path, operations in document["paths"].items():
        for operation in operations.values():
            operation["responses"].pop("422", None)
            operation["responses"] |= {kind: _error_at(path) for kind in ("4XX", "5XX")}
    bodies = [
        (route.path_format, method.lower(), model)
        for route, model in bodies_of(routers)
        for method in route.methods or ()
    ]
    _add_bodies(document["paths"], schemas, bodies, models)


def _add_bodies(
    paths: dict[str, Any],
    schemas: dict[str, Any],
    bodies: Sequence[tuple[str, str, type[BaseModel]]],
    models: Sequence[str],
) -> None:
    classes = list(dict.fromkeys(model for _, _, model in bodies))
    names, definitions = models_json_schema(
        [(model, "validation") for model in classes], ref_template=f"{_REF}{{model}}"
    )
    schemas.update(definitions.get("$defs", {}))
    for path, method, model in bodies:
        if path not in paths:
            continue  # left out of the document
        schema = names[(model, "validation")]
        fields = schemas[str(schema["$ref"]).removeprefix(_REF)]["properties"]
        if "model" in fields:
            _name(fields["model"], models)
        paths[path][method]["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": schema}},
        }
        if "stream" in fields:
            kind = NDJSON if path.startswith("/api/") else _EVENTS
            content = paths[path][method]["responses"]["200"].setdefault("content", {})
            content[kind] = {"schema": _STREAMS[kind]}


def _name(field: dict[str, Any], models: Sequence[str]) -> None:
    """Say which texts a field may be: of one that may be null, too, only its texts."""
    for kind in field.get("anyOf", [field]):
        if kind["type"] == "string":
            kind["enum"] = list(models)


def _error_at(path: str) -> dict[str, Any]:
    """An error in the form of the protocol of this path."""
    sample = error_body(
        ApiError(400, "invalid_value", "max_tokens is 0; expected at least 1."), path
    )
    schema = {
        "type": "object",
        "required": list(sample),
        "properties": {
            name: {"type": "object" if isinstance(value, dict) else "string"}
            for name, value in sample.items()
        },
    }
    content = {"application/json": {"schema": schema, "example": sample}}
    return {"description": "An error.", "content": content}
