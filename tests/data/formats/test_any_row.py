"""Whatever a row holds, it is read or it is a fault; nothing else happens."""

import copy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minicpmv.data.faults import FAULT_KINDS
from minicpmv.data.fields import RowError
from minicpmv.data.formats import FORMATS, detect
from minicpmv.data.media_fields import MediaReader

from ...helpers.rows import CONVERSATION_ROWS, FOLDER, PREFERENCE_ROWS, turns

values = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 3) | st.floats() | st.binary(max_size=3)
    | st.sampled_from(["", " ", "a", "<image>", "<image_00>", "<video>", "\ud800", "\0", "user"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["role", "content", "type", "text", "image", "path", "bytes", "url", "x"]),
        inner, max_size=3,
    ),
    max_leaves=5,
)  # fmt: skip
CHOSEN = {"chosen": {"from": "gpt", "value": "a"}, "rejected": {"from": "gpt", "value": "b"}}
ROWS = {
    **CONVERSATION_ROWS,
    **PREFERENCE_ROWS,
    "official": {
        "id": "1",
        "image": {"<image_00>": "a.png"},
        "conversations": turns("<image_00> q", "a", "r", "b"),
    },
    "llava": {
        "image": ["a.png"],
        "conversations": turns("<image>q", "a", key="from", value="value"),
    },
    "llama-factory": {"messages": turns("<image>q", "a"), "images": ["a.png"]},
}


def places(value, path=()):
    """All places in nested lists and dicts."""
    yield path
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from places(value[key], (*path, key))


def put(row, path, value):
    """A copy of the row with another value at a place; "gone": without it."""
    row = copy.deepcopy(row)
    place = row
    for key in path[:-1]:
        place = place[key]
    if value == "gone":
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return row


def check(fmt, row):
    detect([ROWS["official"], row])
    try:
        fmt.read_row(row, 0, MediaReader(FOLDER))
    except RowError as error:
        found = error
    else:
        return
    assert found.message.isprintable(), "a fault is one line"
    assert found.kind in FAULT_KINDS
    assert found.field, found.message


@pytest.mark.parametrize("name", FORMATS)
@given(data=st.data())
@settings(max_examples=100)
def test_a_row_with_another_value_anywhere(name, data):
    row = ROWS[name]
    path = data.draw(st.sampled_from([path for path in places(row) if path]))
    check(FORMATS[name], put(row, path, data.draw(values | st.just("gone"))))


@pytest.mark.parametrize("name", FORMATS)
@given(keys=st.dictionaries(st.sampled_from([*"abc", "system", "history", "tools"]), values))
@settings(max_examples=20)
def test_a_row_with_other_columns(name, keys):
    check(FORMATS[name], {**ROWS[name], **keys})


@pytest.mark.parametrize("name", FORMATS)
def test_rows_of_other_formats(name):
    for row in ROWS.values():
        check(FORMATS[name], row)


def test_the_rows_are_good():
    for name, row in ROWS.items():
        FORMATS[name].read_row(row, 0, MediaReader(FOLDER))
