"""Every broken row is a fault that names its field, in every format."""

import json

import pytest

from ...helpers.rows import fault, turns

CHAT = turns("q", "a")
SHARE = turns("q", "a", key="from", value="value")
LINK = {"type": "image_url", "image_url": {"url": "a.png"}}


def official(*contents, **row):
    return {"conversations": turns(*contents), **row}


def chat(*contents, **row):
    return {"messages": turns(*contents), **row}


def share(*contents, **row):
    return {"conversations": turns(*contents, key="from", value="value"), **row}


def asks(*blocks, **row):
    return {"messages": [{"role": "user", "content": list(blocks)}, CHAT[1]], **row}


def changed(messages, index, **keys):
    return [{**m, **keys} if i == index else m for i, m in enumerate(messages)]


def pair(name, **keys):
    return {"question": "q", "chosen": "a", "rejected": "b", **keys}


# format, row, field, kind
BROKEN = [
    ("official", {"image": "a.png"}, "conversations", "not_a_row"),
    ("official", {"conversations": "hi"}, "conversations", "wrong_type"),
    ("official", {"conversations": None}, "conversations", "wrong_type"),
    ("official", {"conversations": []}, "conversations", "wrong_type"),
    ("official", {"conversations": ["q", "a"]}, "conversations[0]", "wrong_type"),
    ("official", {"conversations": [{"role": "user"}]}, "conversations[0].content", "wrong_type"),
    ("official", official("q", None), "conversations[1].content", "wrong_type"),
    ("official", official("q", 3), "conversations[1].content", "wrong_type"),
    ("official", official("q", ["a"]), "conversations[1].content", "wrong_type"),
    ("official", official("q", ""), "conversations[1].content", "empty_answer"),
    ("official", official("q", " \n\t"), "conversations[1].content", "empty_answer"),
    ("official", official("", "a"), "conversations[0].content", "wrong_type"),
    ("official", official("q", "\ud800"), "conversations[1].content", "wrong_type"),
    ("official", official("q"), "conversations[0].content", "no_answer"),
    ("official", official("q", "a", "r"), "conversations[2].content", "no_answer"),
    ("official", {"conversations": CHAT[::-1]}, "conversations[0].content", "wrong_roles"),
    ("official", {"conversations": [*CHAT, CHAT[1]]}, "conversations[2].content", "wrong_roles"),
    (
        "official",
        {"conversations": [CHAT[0], *CHAT]},
        "conversations[1].content",
        "wrong_roles",
    ),
    (
        "official",
        {"conversations": changed(CHAT, 1, role="bot")},
        "conversations[1].role",
        "wrong_roles",
    ),
    (
        "official",
        {"conversations": changed(CHAT, 0, role=["user"])},
        "conversations[0].role",
        "wrong_roles",
    ),
    (
        "official",
        {"conversations": [*CHAT, {"role": "system", "content": "s"}]},
        "conversations[2].content",
        "wrong_roles",
    ),
    (
        "official",
        {"conversations": [{"role": "system", "content": "s"}]},
        "conversations[0].content",
        "no_answer",
    ),
    (
        "official",
        {"conversations": changed(CHAT, 1, train="no")},
        "conversations[1].train",
        "wrong_type",
    ),
    (
        "official",
        {"conversations": changed(CHAT, 1, tool_calls=[1])},
        "conversations[1].tool_calls",
        "unknown_field",
    ),
    ("official", official("<image>", "a"), "conversations[0].content",
     "placeholder_without_picture"),
    (
        "official",
        official("<image> <image>", "a", image="a.png"),
        "conversations[0].content",
        "placeholder_without_picture",
    ),
    (
        "official",
        official("q", "a", "<image>", "b", image="a.png"),
        "conversations[2].content",
        "placeholder_without_picture",
    ),
    (
        "official",
        official("<image_02>", "a", image={"<image_00>": "a.png"}),
        "conversations[0].content",
        "placeholder_without_picture",
    ),
    (
        "official",
        official("<image_00>", "a", image="a.png"),
        "conversations[0].content",
        "placeholder_without_picture",
    ),
    (
        "official",
        official("<image_00>", "a", image={"<image_00>": "a.png", "<image_01>": "b.png"}),
        'image["<image_01>"]',
        "picture_without_placeholder",
    ),
    ("official", official("q", "a", image={"<image>": "a.png"}), 'image["<image>"]', "wrong_type"),
    ("official", official("q", "a", image={"first": "a.png"}), 'image["first"]', "wrong_type"),
    ("official", official("q", "a", image=["a.png"]), "image", "wrong_type"),
    ("official", official("q", "a", image=5), "image", "wrong_type"),
    ("official", official("q", "a", image=True), "image", "wrong_type"),
    ("official", official("q", "a", image=" "), "image", "missing_picture"),
    ("official", official("q", "a", image="a\0b"), "image", "missing_picture"),
    ("official", official("<image_00>", "a", image={"<image_00>": None}), 'image["<image_00>"]',
     "missing_picture"),
    ("official", official("q", "a", images=["a.png"]), "images", "unknown_field"),
    ("official", official("q", "a", audios=["a.wav"]), "audios", "unknown_field"),
    ("official", official("q", "a", system="s"), "system", "unknown_field"),
    ("official", official("q", "a", id=["x"]), "id", "wrong_type"),
    (
        "official",
        official("q", "<image>", image={"<image_00>": "a.png"}),
        "conversations[1].content",
        "placeholder_without_picture",
    ),
    ("official", official("q", "see <image_00>", image={"<image_00>": "a.png"}),
     'image["<image_00>"]', "wrong_roles"),
    ("llava", {"image": "a.png"}, "conversations", "not_a_row"),
    ("llava", {"conversations": CHAT}, "conversations[0].role", "unknown_field"),
    ("llava", share("q", ""), "conversations[1].value", "empty_answer"),
    ("llava", share("q", {}), "conversations[1].value", "wrong_type"),
    ("llava", {"conversations": SHARE[1:]}, "conversations[0].value", "wrong_roles"),
    ("llava", {"conversations": changed(SHARE, 0, **{"from": "x"})}, "conversations[0].from",
     "wrong_roles"),
    ("llava", share("<image>", "a"), "conversations[0].value", "placeholder_without_picture"),
    ("llava", share("q", "a", image="a.png"), "image", "picture_without_placeholder"),
    ("llava", share("<image>", "a", image=["a.png", "b.png"]), "image[1]",
     "picture_without_placeholder"),
    ("llava", share("<image>", "a", image=[""]), "image[0]", "missing_picture"),
    ("llava", share("q", "<image>", image="a.png"), "image", "wrong_roles"),
    ("llava", share("q", "a", video="v.mp4"), "video", "unknown_field"),
    ("swift", {"images": ["a.png"]}, "messages", "not_a_row"),
    ("swift", {"messages": []}, "messages", "wrong_type"),
    ("swift", {"messages": {"role": "user"}}, "messages", "wrong_type"),
    ("swift", {"messages": [1]}, "messages[0]", "wrong_type"),
    ("swift", chat("q", None), "messages[1].content", "wrong_type"),
    ("swift", chat("q", ""), "messages[1].content", "empty_answer"),
    ("swift", chat("<image>", "a"), "messages[0].content", "placeholder_without_picture"),
    ("swift", chat("<video>", "a"), "messages[0].content", "placeholder_without_picture"),
    ("swift", chat("<image><image>", "a", images=["a"]), "messages[0].content",
     "placeholder_without_picture"),
    ("swift", chat("<image>", "a", images=["a", "b"]), "images[1]", "picture_without_placeholder"),
    ("swift", chat("q", "<image>", images=["a"]), "images[0]", "wrong_roles"),
    ("swift", chat("<image>", "a", images=[None]), "images[0]", "missing_picture"),
    ("swift", chat("<image>", "a", images=[{"path": None}]), "images[0]", "missing_picture"),
    ("swift", chat("<image>", "a", images=[{"file": "a"}]), "images[0].file", "unknown_field"),
    ("swift", chat("<image>", "a", images=[{"bytes": "?"}]), "images[0].bytes",
     "unreadable_picture"),
    ("swift", chat("<image>", "a", images=[{"bytes": 3}]), "images[0].bytes", "wrong_type"),
    ("swift", chat("<image>", "a", images=[["a"]]), "images[0]", "wrong_type"),
    ("swift", chat("<video>", "a", videos=[[]]), "videos[0]", "missing_picture"),
    ("swift", chat("<video>", "a", videos=[["a.png", 1]]), "videos[0][1]", "wrong_type"),
    ("swift", chat("q", "a", objects={"bbox": [[1]]}), "objects", "unknown_field"),
    ("swift", chat("q", "a", tools="[]"), "tools", "unknown_field"),
    ("swift", chat("q", "a", rejected_response="b"), "rejected_response", "unknown_field"),
    ("swift", chat("q", "a", query="b"), "query", "unknown_field"),
    ("swift", {"messages": changed(CHAT, 1, loss="x")}, "messages[1].loss", "wrong_type"),
    ("swift", {"messages": changed(CHAT, 1, loss_scale=0.5)}, "messages[1].loss_scale",
     "unknown_field"),
    ("swift", {"messages": changed(CHAT, 0, role="tool")}, "messages[0].role", "wrong_roles"),
    ("swift", {"query": "q"}, "response", "no_answer"),
    ("swift", {"query": "q", "response": ""}, "response", "empty_answer"),
    ("swift", {"query": 1, "response": "a"}, "query", "wrong_type"),
    ("swift", {"query": "q", "response": "a", "history": [["x"]]}, "history[0]", "wrong_type"),
    ("swift", {"query": "q", "response": "a", "history": [["x", 1]]}, "history[0][1]",
     "wrong_type"),
    ("llama-factory", {"conversations": SHARE}, "conversations", "unknown_field"),
    ("llama-factory", chat("q", "a", image="a.png"), "image", "unknown_field"),
    ("llama-factory", chat("q", "a", images=["a"]), "images[0]", "picture_without_placeholder"),
    ("llama-factory", chat("<image>", "a"), "messages[0].content", "placeholder_without_picture"),
    ("llama-factory", {"messages": changed(CHAT, 0, role="tool")}, "messages[0].role",
     "wrong_roles"),
    ("llama-factory", chat("q", ""), "messages[1].content", "empty_answer"),
    ("hf", {"images": []}, "messages", "not_a_row"),
    ("hf", {"prompt": "q"}, "completion", "no_answer"),
    ("hf", {"prompt": "q", "completion": " "}, "completion[0].content", "empty_answer"),
    ("hf", chat("q", "a", prompt="x"), "prompt", "unknown_field"),
    ("hf", asks({"type": "image"}), "messages[0].content[0]", "placeholder_without_picture"),
    ("hf", asks({"type": "image", "index": 2}, images=["a"]), "messages[0].content[0]",
     "placeholder_without_picture"),
    ("hf", asks({"type": "image", "index": "x"}, images=["a"]), "messages[0].content[0].index",
     "wrong_type"),
    ("hf", asks({"type": "image"}, images=["a", "b"]), "images[1]", "picture_without_placeholder"),
    ("hf", asks({"type": "audio"}), "messages[0].content[0].type", "wrong_type"),
    ("hf", asks({"text": "q"}), "messages[0].content[0].type", "wrong_type"),
    ("hf", asks({"type": "text"}), "messages[0].content[0].text", "wrong_type"),
    ("hf", asks(7), "messages[0].content[0]", "wrong_type"),
    ("hf", asks({"type": "image", "image": "a", "max_slice_nums": 0}),
     "messages[0].content[0].max_slice_nums", "wrong_type"),
    ("hf", asks({"type": "video", "video": "a", "fps": -1}), "messages[0].content[0].fps",
     "wrong_type"),
    ("hf", asks({"type": "video", "video": "a", "fps": 1, "num_frames": 2}),
     "messages[0].content[0].fps", "unknown_field"),
    ("hf", asks({"type": "image", "image": "a", "size": 3}), "messages[0].content[0].size",
     "unknown_field"),
    ("hf", chat("q", "a", images=["x"], image="y"), "image", "unknown_field"),
    ("hf", chat("q", "a", chosen="c"), "chosen", "unknown_field"),
    ("hf", chat("q", "a", label=False), "label", "unknown_field"),
    ("openai", chat("q", "a", images=["a.png"]), "images", "unknown_field"),
    ("openai", chat("q", "a", tools=[{"type": "function"}]), "tools", "unknown_field"),
    ("openai", {"messages": changed(CHAT, 1, weight=0.5)}, "messages[1].weight", "wrong_type"),
    ("openai", {"messages": changed(CHAT, 1, role="developer")}, "messages[1].role",
     "wrong_roles"),
    ("openai", asks({"type": "image_url"}), "messages[0].content[0]",
     "placeholder_without_picture"),
    ("openai", asks({"type": "image_url", "image_url": {}}), "messages[0].content[0]",
     "placeholder_without_picture"),
    ("openai", asks({"type": "image_url", "image_url": {"url": 3}}),
     "messages[0].content[0].image_url.url", "wrong_type"),
    ("openai", asks({"type": "image_url", "image_url": {"url": "a", "detail": "high"}}),
     "messages[0].content[0].image_url.detail", "unknown_field"),
    ("openai", {"messages": [CHAT[0], {"role": "assistant", "content": [LINK]}]},
     "messages[1].content[0].image_url.url", "wrong_roles"),
    ("rlaif-v", {"chosen": "a", "rejected": "b"}, "question", "not_a_row"),
    ("rlaif-v", {"question": "q", "chosen": "a"}, "rejected", "no_answer"),
    ("rlaif-v", pair("x", chosen=""), "chosen", "empty_answer"),
    ("rlaif-v", pair("x", chosen=["a"]), "chosen", "wrong_type"),
    ("rlaif-v", pair("x", rejected="a "), "rejected", "same_answers"),
    ("rlaif-v", pair("x", image={"bytes": None, "path": None}), "image", "missing_picture"),
    ("rlaif-v", pair("x", image=["a", "b"]), "image", "wrong_type"),
    ("rlaif-v", pair("x", question="<image>"), "question", "placeholder_without_picture"),
    ("rlhf-v", {"image": "a"}, "text", "wrong_type"),
    ("rlhf-v", {"text": "{chosen"}, "text", "wrong_type"),
    ("rlhf-v", {"text": "[1]"}, "text", "wrong_type"),
    ("rlhf-v", {"text": json.dumps({"question": "q", "chosen": "a"})}, "text.rejected",
     "no_answer"),
    ("rlhf-v", {"text": json.dumps(pair("x", rejected=" "))}, "text.rejected", "empty_answer"),
    ("trl", {"prompt": "q", "chosen": "a"}, "rejected", "no_answer"),
    ("trl", {"prompt": "q", "chosen": "a", "rejected": "a"}, "rejected", "same_answers"),
    ("trl", {"prompt": CHAT, "chosen": "a", "rejected": "b"}, "prompt[1].content", "wrong_roles"),
    ("trl", {"prompt": "q", "chosen": CHAT, "rejected": "b"}, "chosen", "wrong_type"),
    ("trl", {"prompt": "q", "chosen": CHAT[:1], "rejected": "b"}, "chosen[0].role",
     "wrong_roles"),
    ("trl", {"chosen": "a", "rejected": "b"}, "chosen", "wrong_type"),
    ("trl", {"chosen": CHAT, "rejected": turns("x", "b")}, "prompt", "not_a_row"),
    ("trl", {"prompt": 4, "chosen": "a", "rejected": "b"}, "prompt", "wrong_type"),
    ("swift-preference", chat("q", "a"), "rejected_response", "no_answer"),
    ("swift-preference", chat("q", rejected_response="b"), "messages[0].content", "no_answer"),
    ("swift-preference", chat("q", "a", rejected_response="a"), "rejected_response",
     "same_answers"),
    ("swift-preference", chat("q", "a", rejected_response=["b"]), "rejected_response",
     "wrong_type"),
    ("swift-preference", chat("q", "a", rejected_messages=turns("x", "b")), "rejected_messages",
     "wrong_type"),
    ("llama-factory-preference", chat("q", chosen={"role": "assistant", "content": "a"}),
     "rejected", "no_answer"),
    ("llama-factory-preference", chat("q", chosen="a", rejected={"role": "user", "content": "b"}),
     "rejected.content", "wrong_roles"),
    ("llama-factory-preference", chat("q", chosen="a", rejected=3), "rejected", "wrong_type"),
    ("llama-factory-preference", chat("q", "a", chosen="a", rejected="b"), "messages[1].content",
     "wrong_roles"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "row", "field", "kind"), BROKEN)
def test_a_broken_row_is_a_fault_with_its_field(name, row, field, kind):
    assert fault(name, row) == (field, kind)


def test_there_are_more_than_a_hundred():
    assert len(BROKEN) > 100
