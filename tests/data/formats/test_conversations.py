"""Good rows of the formats of conversations, and what they mean."""

import base64

import pytest

from minicpmv.data.messages import Message, Picture, canonical, chat_messages

from ...helpers.rows import answer, image, read, system, turns, user, video


def messages(name, row):
    return read(name, row).messages


def test_text_beside_a_picture_loses_one_newline():
    picture = Picture("a.png")
    assert canonical([picture, "\nWhat?"]) == (picture, "What?")
    assert canonical([picture, "\n\nWhat?"]) == (picture, "\nWhat?")
    assert canonical(["a ", picture, " b"]) == ("a ", picture, " b")
    assert canonical(["a\n", picture, "\n", picture]) == ("a", picture, picture)
    assert canonical(["\na", "", "b\n"]) == ("\nab\n",)


def test_messages_for_the_chat_template():
    picture = Picture("/a.png", max_slice_nums=2)
    clip = Picture(("/1.png", "/2.png"), "video", fps=2.0)
    said = [Message("user", (picture, "What?", clip)), answer("A cat.")]
    assert chat_messages(said) == [
        {
            "role": "user",
            "content": [
                {"type": "image", "image": "/a.png", "max_slice_nums": 2},
                {"type": "text", "text": "What?"},
                {"type": "video", "video": ["/1.png", "/2.png"], "fps": 2.0},
            ],
        },
        {"role": "assistant", "content": "A cat."},
    ]


def test_official_single_image():
    row = {"id": "0", "image": "a.jpg", "conversations": turns("<image>\nWhat?", "A cat.")}
    assert messages("official", row) == (user(image("a.jpg"), "What?"), answer("A cat."))
    row["conversations"] = turns("What?", "A cat.", "And?", "No.")
    assert messages("official", row)[0] == user(image("a.jpg"), "What?")  # put in front
    row["conversations"] = turns("Before\n<image>\nafter", "A cat.")
    assert messages("official", row)[0] == user("Before", image("a.jpg"), "after")


def test_official_dictionary_of_images():
    row = {
        "id": 7,
        "image": {"<image_00>": "a.jpg", "<image_01>": "/abs/b.jpg"},
        "conversations": turns(
            "<image_00>\n<image_01>\nCompare.", "Same.", "Again <image_00>?", "Yes."
        ),
        "source": "me",
    }
    found = read("official", row)
    assert found.messages[0] == user(image("a.jpg"), Picture("/abs/b.jpg"), "Compare.")
    assert found.messages[2] == user("Again ", image("a.jpg"), "?")
    assert (found.id, found.rest) == ("7", {"source": "me"})


def test_official_beyond_the_released_scripts():
    said = [
        {"role": "system", "content": "Be brief."},
        *turns("<video>\nWhat?", "Rain.", "Why?", "Clouds."),
    ]
    said[2]["train"] = False
    row = {"video": "v.mp4", "conversations": said}
    assert messages("official", row) == (
        system("Be brief."),
        user(video("v.mp4"), "What?"),
        answer("Rain.", train=False),
        user("Why?"),
        answer("Clouds."),
    )
    row = {"conversations": turns("Does <video> need a <source>?", "Yes.")}
    assert messages("official", row)[0] == user("Does <video> need a <source>?")


def test_llava():
    said = turns("<image>\nWhat?", "A cat.", key="from", value="value")
    assert messages("llava", {"id": 1, "image": "a.jpg", "conversations": said}) == (
        user(image("a.jpg"), "What?"),
        answer("A cat."),
    )
    said = turns("A: <image>\n<image>", "Two.", key="from", value="value")
    row = {"image": ["a.jpg", "b.jpg"], "conversations": said}
    assert messages("llava", row)[0] == user("A: ", image("a.jpg"), image("b.jpg"))
    row = {"conversations": turns("Hi", "Hello", key="from", value="value")}
    assert messages("llava", row) == (user("Hi"), answer("Hello"))


def test_swift_placeholders_are_taken_in_order():
    row = {
        "messages": turns("<image>One, <video> and", "x", "<image>two", "y"),
        "images": ["a.png", {"bytes": None, "path": "b.png"}],
        "videos": ["v.mp4"],
    }
    row["messages"][1]["loss"] = False
    assert messages("swift", row) == (
        user(image("a.png"), "One, ", video("v.mp4"), " and"),
        answer("x", train=False),
        user(image("b.png"), "two"),
        answer("y"),
    )


def test_swift_puts_an_image_without_placeholder_in_front():
    said = [{"role": "system", "content": "S"}, *turns("What?", "Cat.")]
    found = messages("swift", {"messages": said, "images": ["a.png"], "tools": None})
    assert found == (system("S"), user(image("a.png"), "What?"), answer("Cat."))


def test_swift_older_columns():
    row = {
        "system": "S",
        "history": [["q1", "a1"], ["<image>q2", "a2"]],
        "query": "q3",
        "response": "a3",
        "images": ["a.png"],
    }
    assert messages("swift", row) == (
        system("S"),
        user("q1"),
        answer("a1"),
        user(image("a.png"), "q2"),
        answer("a2"),
        user("q3"),
        answer("a3"),
    )


def test_llama_factory_without_its_file():
    row = {"messages": turns("<image>What?", "Cat."), "images": ["a.png"]}
    assert messages("llama-factory", row)[0] == user(image("a.png"), "What?")


def test_hugging_face_blocks_take_from_the_column():
    row = {
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "image", "text": None, "index": 1},
                    {"type": "text", "text": "and", "index": None},
                    {"type": "image", "index": 0, "max_slice_nums": 4},
                    {"type": "text", "text": "Compare <image>."},
                    {"type": "text", "text": "Please."},
                ],
            },
            {"role": "assistant", "content": [{"type": "text", "text": "Same."}]},
        ],
        "images": [{"bytes": b"A", "path": "x.png"}, {"bytes": None, "path": "b.png"}],
    }
    assert messages("hf", row) == (
        user(
            image("b.png"),
            "and",
            Picture(b"A", max_slice_nums=4),
            "Compare <image>.\nPlease.",
        ),
        answer("Same."),
    )


def test_hugging_face_trains_the_completion_only():
    row = {"prompt": turns("a", "b", "c"), "completion": turns("c", "d")[1:], "image": "a.png"}
    assert messages("hf", row) == (
        user(image("a.png"), "a"),
        answer("b", train=False),
        user("c"),
        answer("d"),
    )
    row = {"prompt": "Question", "completion": "Answer"}
    assert messages("hf", row) == (user("Question"), answer("Answer"))


def test_openai():
    url = "data:image/png;base64," + base64.b64encode(b"PNG").decode()
    content = [
        {"type": "text", "text": "What?"},
        {"type": "image_url", "image_url": {"url": "https://x/a.png", "detail": "auto"}},
        {"type": "image_url", "image_url": url},
        {"type": "video_url", "video_url": {"url": "v.mp4"}, "fps": 2},
    ]
    said = [
        {"role": "user", "content": content},
        {"role": "assistant", "content": "x", "weight": 0},
        {"role": "user", "content": "<image> is a tag"},
        {"role": "assistant", "content": "y", "weight": 1},
    ]
    assert messages("openai", {"messages": said}) == (
        user("What?", Picture("https://x/a.png"), Picture(url), video("v.mp4", fps=2.0)),
        answer("x", train=False),
        user("<image> is a tag"),
        answer("y"),
    )


@pytest.mark.parametrize(
    ("value", "source"),
    [
        ("a/../b.png", "/data/b.png"),
        ("/x/y.png", "/x/y.png"),
        ("https://h/a.png", "https://h/a.png"),
        ("file:///x/a.png", "file:///x/a.png"),
        ({"bytes": "QUJD", "path": None}, b"ABC"),
        ({"path": "a.png"}, "/data/a.png"),
        (base64.b64encode(b"x" * 60).decode(), b"x" * 60),
        (b"raw", b"raw"),
    ],
)
def test_sources_of_pictures(value, source):
    row = {"messages": turns("<image>", "x"), "images": [value]}
    assert read("swift", row).pictures == (Picture(source),)
