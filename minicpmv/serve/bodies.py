"""Bodies of requests: bytes to a checked model, with one error that names the field.

Routes take a body by `body: Annotated[Model, json_body(Model)]`; `openapi.py` puts the models into
the OpenAPI document, since FastAPI does not see them.
"""

import codecs
import difflib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from fastapi import APIRouter, Depends, Request
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, from_json

from .errors import ApiError
from .schema.parts import shown

MAX_DEPTH = 64
_MARKS = (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_MOST_SHOWN = 60  # characters of a value in a message
_MOST_KNOWN = 12  # names in a message about an unknown one

Model = TypeVar("Model", bound=BaseModel)


def json_body(model: type[Model]) -> Any:
    """A dependency that reads the body as `model`.

    Raises:
        ApiError: it is no JSON, too deep, or no such model.
    """

    async def read(request: Request) -> Model:
        return body_of(request, model, await request.body())

    read.body_model = model  # type: ignore[attr-defined]
    return Depends(read)


def body_of(request: Request, model: type[Model], data: bytes) -> Model:
    """What the bytes of a body say.

    Raises:
        ApiError: as of `json_body`.
    """
    server = request.app.state.server
    ignored = server.metrics.parameter_ignored if server.settings.lenient else None
    body = validate(model, parse_json(data), ignored)
    name = getattr(body, "model", None)
    if isinstance(name, str):
        request.state.record.model = name
    return body


def bodies_of(routers: Iterable[APIRouter]) -> Iterator[tuple[APIRoute, type[BaseModel]]]:
    """Every route that takes a body, and its model."""
    for route in (route for router in routers for route in router.routes):
        if not isinstance(route, APIRoute):
            continue
        for each in route.dependant.dependencies:
            model = getattr(each.call, "body_model", None)
            if model is not None:
                yield route, model


def parse_json(data: bytes) -> dict[str, Any]:
    """An object, without NaN and Infinity, of at most `MAX_DEPTH` levels.

    Raises:
        ApiError: it is something else.
    """
    if not data.strip():
        raise ApiError(400, "invalid_json", "The body is empty; expected a JSON object.")
    if data.startswith(_MARKS):
        message = "The body begins with a byte order mark; expected UTF-8 without one."
        raise ApiError(400, "invalid_json", message)
    try:
        value = from_json(data, allow_inf_nan=False)
    except ValueError as error:
        reason = str(error).partition("\n")[0]
        if "recursion limit" in reason:
            raise _too_deep() from None
        if "hex escape" in reason or "surrogate" in reason:
            reason += " (half of a surrogate pair is no text)"
        raise ApiError(400, "invalid_json", f"The body is not JSON: {reason}.") from None
    except RecursionError:
        raise _too_deep() from None
    if not isinstance(value, dict):
        raise ApiError(
            400, "invalid_json", f"The body is {shown(value, _MOST_SHOWN)}; expected a JSON object."
        )
    _check_depth(value, MAX_DEPTH)
    return value


def _check_depth(value: Any, left: int) -> None:
    if left == 0:
        raise _too_deep()
    for item in value.values() if isinstance(value, dict) else value:
        if isinstance(item, dict | list):
            _check_depth(item, left - 1)
        elif isinstance(item, float) and item in (float("inf"), float("-inf")):  # 1e999
            raise ApiError(400, "invalid_json", "The body has a number that is not finite.")


def _too_deep() -> ApiError:
    return ApiError(400, "invalid_json", f"The body is nested deeper than {MAX_DEPTH} levels.")


def validate(
    model: type[Model], value: dict[str, Any], ignored: Callable[[str], None] | None = None
) -> Model:
    """The object as `model`.

    Args:
        ignored: called with each unknown field, which is dropped; None: it is an error.

    Raises:
        ApiError: of the first field that is wrong.
    """
    while True:
        try:
            return model.model_validate(value)
        except ValidationError as error:
            details = error.errors(include_url=False, include_context=True)
            extra = [each for each in details if each["type"] == "extra_forbidden"]
            if ignored is None or not extra:
                raise _error(model, value, details) from None
            for each in extra:
                if _dropped(value, path_of(value, each)):
                    ignored(str(each["loc"][-1]))


def _dropped(value: Any, path: tuple[int | str, ...]) -> bool:
    """Take a field out; False where another error of a union had it out already."""
    for key in path[:-1]:
        value = value[key]
    return value.pop(path[-1], value) is not value


def path_of(value: Any, error: ErrorDetails) -> tuple[int | str, ...]:
    """Where an error is, without the names that pydantic gives to the members of a union."""
    path: list[int | str] = []
    last = len(error["loc"]) - 1
    for place, key in enumerate(error["loc"]):
        if isinstance(key, str):
            is_there = isinstance(value, dict) and key in value
            is_missing = place == last and error["type"] == "missing"
            if not is_there and not is_missing:
                continue
            value = value[key] if is_there else None
        else:
            if not isinstance(value, list) or key >= len(value):
                continue
            value = value[key]
        path.append(key)
    return tuple(path)


def written(path: tuple[int | str, ...]) -> str:
    """As `messages[0].content[1].image_url`."""
    text = ""
    for key in path:
        text += f"[{key}]" if isinstance(key, int) else f".{key}" if text else key
    return text


def _error(model: type[BaseModel], value: Any, details: list[ErrorDetails]) -> ApiError:
    """One error for all: of the members of a union, those that got furthest speak."""
    paths = [path_of(value, each) for each in details]
    first = next(iter(paths))
    # Errors of one union have the place of the union in common.
    rivals = [path for path in paths if path[: len(first)] == first or first[: len(path)] == path]
    deepest = max(rivals, key=len)
    mine = [each for each, path in zip(details, paths, strict=True) if path == deepest]
    param = written(deepest)
    kinds = {each["type"] for each in mine}
    if kinds == {"extra_forbidden"}:
        return _unknown(model, str(deepest[-1]), param)
    if "missing" in kinds:
        return ApiError(400, "missing_required_parameter", f"{param} is missing.", param=param)
    found = next((each for each in mine if each["type"] != "extra_forbidden"), mine[0])
    if found["type"] in ("value_error", "assertion_error", "invalid_value"):
        message = found["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
        start = f"{param}: " if param else ""
        message = f"{start}{message.removesuffix('.')}."
        return ApiError(400, "invalid_value", message, param=param or None)
    expected = " or ".join(dict.fromkeys(_expected(each) for each in mine))
    message = f"{param or 'The body'} is {shown(found['input'], _MOST_SHOWN)}; expected {expected}."
    return ApiError(400, "invalid_value", message, param=param or None)


def _unknown(model: type[BaseModel], name: str, param: str) -> ApiError:
    known = list(model.model_fields) if param == name else []
    close = difflib.get_close_matches(name, known, n=1)
    meant = f" Did you mean {close[0]!r}?" if close else ""
    if known and not close and len(known) <= _MOST_KNOWN:
        meant = f" Known: {', '.join(known)}."
    if name in _FORMER:
        meant = f" Did you mean {_FORMER[name]}?"
    message = f"{param} is not a parameter of this request; remove it.{meant}"
    return ApiError(400, "unknown_parameter", message, param=param)


# As vLLM called them before version 0.12, and now.
_FORMS = ("json", "regex", "choice", "grammar")
_FORMER = {f"guided_{name}": f"structured_outputs.{name}" for name in _FORMS}

_EXPECTED = {
    "string_type": "a string",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
    "none_required": "null",
}


def _expected(error: ErrorDetails) -> str:
    kind, context = error["type"], error.get("ctx", {})
    if kind in _EXPECTED:
        return _EXPECTED[kind]
    if kind in ("literal_error", "enum"):
        return str(context["expected"])
    bounds = {"greater_than_equal": ("at least", "ge"), "less_than_equal": ("at most", "le")}
    bounds |= {"greater_than": ("more than", "gt"), "less_than": ("less than", "lt")}
    if kind in bounds:
        words, key = bounds[kind]
        return f"{words} {context[key]}"
    counts = {"too_long": ("at most", "max_length", "items")}
    counts |= {"too_short": ("at least", "min_length", "items")}
    counts |= {"string_too_long": ("at most", "max_length", "characters")}
    counts |= {"string_too_short": ("at least", "min_length", "characters")}
    if kind in counts:
        words, key, unit = counts[kind]
        return f"{words} {context[key]} {unit}"
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        field = str(context.get("discriminator", "'type'")).strip("'")
        known = context.get("expected_tags")
        return f"a {field} of {known}" if known else f"an object with {field}"
    message = error["msg"]
    return message.removeprefix("Input should be ").removeprefix("Value error, ").rstrip(".")
