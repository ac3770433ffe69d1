"""Messages of requests to the turns that templates know."""

from typing import Any

import pytest

from minicpmv.serve.errors import ApiError
from minicpmv.serve.schema.openai import ChatRequest
from minicpmv.serve.turns import Media, turns_of

HI = {"role": "user", "content": "Hi"}
CALL = {
    "role": "assistant",
    "content": None,
    "tool_calls": [
        {
            "id": "c1",
            "type": "function",
            "function": {"name": "weather", "arguments": '{"city": "Köln"}'},
        }
    ],
}


def turns(*messages: Any) -> list[tuple[str, list[Any]]]:
    body = ChatRequest(model="m", messages=list(messages))
    return [(turn.role, turn.items) for turn in turns_of(body.messages)]


def refused(*messages: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        turns(*messages)
    assert caught.value.param is not None
    assert caught.value.param in caught.value.message
    return caught.value


def test_developer_is_system_and_several_are_joined() -> None:
    found = turns(
        {"role": "developer", "content": "Be brief."},
        {"role": "system", "content": [{"type": "text", "text": "Be kind."}]},
        HI,
    )
    assert found == [("system", ["Be brief.\n\nBe kind."]), ("user", ["Hi"])]


def test_an_empty_system_message_is_none() -> None:
    assert turns({"role": "system", "content": ""}, HI) == [("user", ["Hi"])]


def test_a_late_system_message_is_refused() -> None:
    late = refused(HI, {"role": "system", "content": "Be brief."}, HI)
    assert late.param == "messages[1]"


def test_calls_and_results_are_text() -> None:
    found = turns(HI, CALL, {"role": "tool", "tool_call_id": "c1", "content": "Sun"})
    assert found == [
        ("user", ["Hi"]),
        ("assistant", ['{"name": "weather", "arguments": {"city": "Köln"}}']),
        ("user", ["Result of weather: Sun"]),
    ]


def test_results_and_the_question_after_them_are_one_turn() -> None:
    result = {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "Sun"}]}
    found = turns(HI, CALL, result, result, {"role": "user", "content": "So?"}, HI)
    assert found[2:] == [("user", ["Result of weather: Sun"] * 2 + ["So?"]), ("user", ["Hi"])]


def test_a_result_may_show_a_picture() -> None:
    texts = [{"type": "text", "text": text} for text in ("Sun,", "warm", "at noon")]
    picture = {"type": "image_url", "image_url": "data:,"}
    result = {"role": "tool", "tool_call_id": "c1"}
    content = [*texts[:2], picture, texts[2]]
    *_, (role, items) = turns(HI, CALL, result | {"content": content})
    assert (role, items[0], items[2]) == ("user", "Result of weather: Sun,\nwarm", "at noon")
    assert items[1].param == "messages[2].content[2]"
    *_, (_, items) = turns(HI, CALL, result | {"content": [picture]}, result | {"content": []})
    assert [items[0], items[2]] == ["Result of weather: ", "Result of weather: "]
    assert items[1].param == "messages[2].content[0]"


def test_a_result_without_its_call_is_refused() -> None:
    error = refused(HI, {"role": "tool", "tool_call_id": "c9", "content": "Sun"})
    assert error.param == "messages[1].tool_call_id"


def test_a_call_whose_arguments_are_no_json_stays_as_it_is() -> None:
    function = {"name": "f", "arguments": "{oops"}
    call = {"id": "c", "type": "function", "function": function}
    found = turns(HI, {"role": "assistant", "tool_calls": [call]}, HI)
    assert found[1] == ("assistant", ['{"name": "f", "arguments": "{oops"}'])


@pytest.mark.parametrize(
    ("message", "items"),
    [
        ({"content": None}, [""]),
        ({}, [""]),
        ({"content": "", "refusal": "No."}, ["No."]),
        ({"content": "Yes", "refusal": None, "annotations": [], "tool_calls": []}, ["Yes"]),
        ({"content": [{"type": "refusal", "refusal": "No."}]}, ["No."]),
        ({"content": [{"type": "output_text", "text": "A", "annotations": []}]}, ["A"]),
    ],
)
def test_earlier_answers_in_every_form(message: Any, items: Any) -> None:
    found = turns(HI, {"role": "assistant", **message}, HI)
    assert [item for item in found[1][1] if item or items == [""]] == items


def test_names_have_no_effect() -> None:
    assert turns(HI | {"name": "Ada"}) == [("user", ["Hi"])]


def test_a_turn_that_holds_nothing_is_refused() -> None:
    assert refused({"role": "user", "content": []}).param == "messages[0].content"


def test_pictures_keep_their_places() -> None:
    content = [
        {"type": "text", "text": "A"},
        {"type": "image_url", "image_url": "data:,"},
        {"type": "text", "text": "B"},
    ]
    (turn,) = turns({"role": "user", "content": content})
    assert [item if isinstance(item, str) else item.param for item in turn[1]] == [
        "A",
        "messages[0].content[1]",
        "B",
    ]
    assert isinstance(turn[1][1], Media)


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([HI, {"role": "assistant", "content": "Ho"}], "messages[1].role"),
        ([{"role": "system", "content": "Be brief."}], "messages[0].role"),
        ([{"role": "system", "content": ""}], "messages[0].role"),
        ([HI, {"role": "user", "content": " \u200b\n"}], "messages[1].content"),
        ([{"role": "user", "content": "\ud800"}], "messages[0].content"),
        (
            [{"role": "user", "content": [{"type": "text", "text": "a\udfffb"}]}],
            "messages[0].content[0].text",
        ),
    ],
)
def test_what_asks_nothing_or_is_no_text_is_refused(messages: Any, param: str) -> None:
    error = refused(*messages)
    assert error.param == param
    error.message.encode()
