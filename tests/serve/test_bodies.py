from typing import Annotated

import pytest
from pydantic import Field

from minicpmv.serve.bodies import MAX_DEPTH, parse_json, validate
from minicpmv.serve.errors import ApiError
from minicpmv.serve.schema.base import Body


class Inner(Body):
    url: str
    size: Annotated[int, Field(ge=1, le=5)] | None = None


class Outer(Body):
    name: str
    parts: list[str | Inner | list[Inner]] | None = None
    ratio: float | None = None
    flag: bool | None = None


def refused(value, **rest):
    with pytest.raises(ApiError) as caught:
        validate(Outer, value, **rest)
    assert caught.value.status == 400
    return caught.value


@pytest.mark.parametrize(
    ("value", "param", "message"),
    [
        ({}, "name", "name is missing."),
        ({"name": None}, "name", "name is missing."),
        ({"name": 5}, "name", "name is 5; expected a string."),
        ({"name": "a", "ratio": "1"}, "ratio", "ratio is '1'; expected a number."),
        ({"name": "a", "ratio": True}, "ratio", "ratio is true; expected a number."),
        ({"name": "a", "flag": 1}, "flag", "flag is 1; expected true or false."),
        ({"name": "a", "parts": {}}, "parts", "parts is an object; expected a list."),
        (
            {"name": "a", "parts": ["b", 5]},
            "parts[1]",
            "parts[1] is 5; expected a string or an object or a list.",
        ),
        (
            {"name": "a", "parts": [{"url": 5}]},
            "parts[0].url",
            "parts[0].url is 5; expected a string.",
        ),
        (
            {"name": "a", "parts": [[{"url": "b"}, {"url": "b", "size": 9}]]},
            "parts[0][1].size",
            "parts[0][1].size is 9; expected at most 5.",
        ),
        ({"name": "a", "parts": [{}]}, "parts[0].url", "parts[0].url is missing."),
    ],
)
def test_an_error_names_the_field_and_what_was_found(value, param, message):
    error = refused(value)
    assert (error.param, error.message) == (param, message)


def test_unknown_fields_are_refused_by_name():
    error = refused({"name": "a", "ration": 1.0})
    assert (error.code, error.param) == ("unknown_parameter", "ration")
    assert "Did you mean 'ratio'?" in error.message
    inner = refused({"name": "a", "parts": [{"url": "b", "colour": "red"}]})
    assert (inner.code, inner.param) == ("unknown_parameter", "parts[0].colour")


def test_a_lenient_server_drops_and_tells_them():
    ignored = []
    value = {"name": "a", "other": 1, "parts": [{"url": "b", "colour": "red"}]}
    body = validate(Outer, value, ignored=ignored.append)
    assert body.parts == [Inner(url="b")]
    assert sorted(ignored) == ["colour", "other"]
    assert refused({"name": 5, "other": 1}, ignored=ignored.append).param == "name"


def test_null_is_absent():
    assert validate(Outer, {"name": "a", "ratio": None, "unknown": None}) == Outer(name="a")


def nested(depth):
    return b'{"a":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"


def test_nesting_has_a_limit():
    assert parse_json(nested(MAX_DEPTH))
    for depth in (MAX_DEPTH + 1, 300, 100_000):
        with pytest.raises(ApiError, match="nested deeper than 64 levels"):
            parse_json(nested(depth))
    with pytest.raises(ApiError, match="nested deeper"):
        parse_json(b"[" * 100_000)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b" \n",
        b"{",
        b"[1]",
        b"5",
        b'{"a": NaN}',
        b'{"a": Infinity}',
        b'{"a": -Infinity}',
        b'{"a": 1e999}',
        b'{"a": "\\ud800"}',
        b'{"a": "\xff"}',
        b'{"a": 1} x',
        b"{'a': 1}",
        b"\xef\xbb\xbf{}x",
    ],
)
def test_what_is_no_json_object_is_refused(data):
    with pytest.raises(ApiError) as caught:
        parse_json(data)
    assert (caught.value.status, caught.value.code) == (400, "invalid_json")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"a": "\\ud800"}', "half of a surrogate pair is no text"),
        (b'{"a": "\\ud800\\u0041"}', "half of a surrogate pair is no text"),
        (b"\xef\xbb\xbf{}", "byte order mark; expected UTF-8 without one"),
        ("{}".encode("utf-16"), "byte order mark; expected UTF-8 without one"),
    ],
)
def test_what_editors_and_other_languages_write_is_named(data, message):
    with pytest.raises(ApiError, match=message):
        parse_json(data)
