"""What a format can say reads back as the same, whatever the texts are."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minicpmv.data.convert import written_row
from minicpmv.data.fields import RowError
from minicpmv.data.formats import FORMATS
from minicpmv.data.media_fields import MediaReader, MediaWriter
from minicpmv.data.messages import Conversation, Message, Picture, Preference, canonical

OUT = Path("/data/out.jsonl")
CONVERSATIONS = [name for name, fmt in FORMATS.items() if not fmt.is_preference]
PREFERENCES = [name for name, fmt in FORMATS.items() if fmt.is_preference]

# Texts with what formats treat specially: newlines, spaces, quotes, tags that are not placeholders.
characters = st.characters(codec="utf-8", exclude_characters="\0")
pieces = st.sampled_from(
    ["\n", " ", "a", "图", "</image>", "<image", "<unk>", "'", '"', "\\", "<imagine>", "\r\n", "{}"]
)
texts = st.lists(pieces | st.text(characters, max_size=3), max_size=5).map("".join)
answers = texts.map(lambda text: f"{text}!")
paths = st.sampled_from(["/data/a.png", "/data/sub/图 b.jpg", "/else/c.png", "https://h/x?y=1&z"])


def pictures(*, rich: bool) -> st.SearchStrategy[Picture]:
    images = st.builds(Picture, paths)
    if not rich:
        return images
    limited = st.builds(Picture, paths, max_slice_nums=st.integers(1, 9))
    videos = st.builds(Picture, paths, st.just("video"), fps=st.none() | st.just(2.0))
    frames = st.builds(
        Picture, st.lists(paths, min_size=1, max_size=3).map(tuple), st.just("video"),
        num_frames=st.none() | st.integers(1, 64),
    )  # fmt: skip
    return images | limited | videos | frames


@st.composite
def conversations(draw, rich: bool = True) -> Conversation:
    said = []
    if draw(st.booleans()) and rich:
        said.append(Message("system", (draw(answers),)))
    for _ in range(draw(st.integers(1, 3))):
        parts = draw(st.lists(texts | pictures(rich=rich), max_size=4))
        said.append(Message("user", canonical([*parts, draw(answers)])))
        train = draw(st.booleans()) if rich else True
        said.append(Message("assistant", (draw(answers),), train))
    rest = draw(st.dictionaries(st.sampled_from(["source", "score", "tags"]), st.integers()))
    return Conversation(tuple(said), id=draw(st.none() | st.just("x7")), rest=rest)


@st.composite
def preferences(draw) -> Preference:
    found = draw(conversations(rich=True))
    prompt = [replace(message, train=True) for message in found.messages[:-1]]
    chosen, rejected = draw(answers), draw(answers)
    return Preference(tuple(prompt), chosen, f"{rejected}?", id=found.id, rest=found.rest)


def there_and_back(row, name):
    """The row as it reads back; None where the format says that it cannot say it."""
    fmt = FORMATS[name]
    try:
        written = written_row(row, fmt, MediaWriter(OUT))
    except RowError as error:
        if "cannot be said" in error.message or "would be read as a picture" in error.message:
            return None
        raise
    return fmt.read_row(written, 0, MediaReader(OUT.parent))


@pytest.mark.parametrize("name", CONVERSATIONS)
@settings(max_examples=40)
@given(row=conversations())
def test_a_rich_conversation_reads_back_or_is_refused(name, row):
    found = there_and_back(row, name)
    assert found is None or found == row


@pytest.mark.parametrize("name", CONVERSATIONS)
@settings(max_examples=40)
@given(row=conversations(rich=False))
def test_images_and_texts_can_be_said_in_every_format(name, row):
    assert there_and_back(row, name) == row


@settings(max_examples=40)
@given(row=conversations())
def test_hugging_face_can_say_everything(row):
    assert there_and_back(row, "hf") == row


@pytest.mark.parametrize("name", CONVERSATIONS)
@settings(max_examples=40)
@given(row=conversations(rich=False))
def test_official_there_and_back(name, row):
    other = there_and_back(there_and_back(row, "official"), name)
    assert there_and_back(other, "official") == row


@pytest.mark.parametrize("name", PREFERENCES)
@settings(max_examples=40)
@given(row=preferences())
def test_a_preference_reads_back_or_is_refused(name, row):
    found = there_and_back(row, name)
    assert found is None or found == row


@settings(max_examples=40)
@given(row=preferences())
def test_trl_can_say_every_preference(row):
    assert there_and_back(row, "trl") == row


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("llava", "video"), ("llava", "system"), ("llava", "train"), ("llava", "slices"),
        ("llama-factory", "train"), ("swift", "slices"), ("official", "slices"),
        ("openai", "slices"), ("openai", "frames"),
    ],
)  # fmt: skip
def test_what_a_format_cannot_say_is_refused(name, kind):
    picture = {
        "video": Picture("/data/v.mp4", "video", field="videos[0]"),
        "slices": Picture("/data/a.png", max_slice_nums=2, field="images[0]"),
        "frames": Picture(("/data/a.png",), "video", field="videos[0]"),
    }.get(kind, Picture("/data/a.png"))
    said = [Message("user", (picture, "q")), Message("assistant", ("a",), kind != "train")]
    if kind == "system":
        said.insert(0, Message("system", ("s",)))
    with pytest.raises(RowError, match=r"cannot be said in the format .*formats that can: .*hf"):
        written_row(Conversation(tuple(said)), FORMATS[name], MediaWriter(OUT))


def test_a_text_that_would_be_read_as_a_picture_is_refused():
    row = Conversation((Message("user", ("an <image> tag",)), Message("assistant", ("a",))))
    for name in ("official", "llava", "swift", "llama-factory"):
        with pytest.raises(RowError, match="holds <image>, which would be read as a picture"):
            written_row(row, FORMATS[name], MediaWriter(OUT))
    for name in ("hf", "openai"):
        assert there_and_back(row, name) == row


def test_another_column_may_not_get_a_meaning():
    row = Conversation(
        (Message("user", ("q",)), Message("assistant", ("a",))), rest={"messages": "mine"}
    )
    with pytest.raises(RowError, match="column of this name for something else") as caught:
        written_row(row, FORMATS["swift"], MediaWriter(OUT))
    assert caught.value.field == "messages"
