"""The class for VLMEvalKit against its documented contract; VLMEvalKit itself is on no index."""

import base64
import importlib
import io
import sys
import types

import pytest
from PIL import Image

from minicpmv.evaluate.asking import Asking
from minicpmv.evaluate.items import Item
from minicpmv.evaluate.page import load_page
from tests.helpers.chats import loaded
from tests.helpers.pictures import picture


class BaseModel:
    """What `generate` of VLMEvalKit's base class checks, and where it writes pictures."""

    INTERLEAVE = False
    allowed_types = ("text", "image")
    folder = None

    def dump_image(self, line, dataset):
        path = self.folder / f"{line['index']}.jpg"
        path.write_bytes(base64.b64decode(line["image"]))
        return [str(path)]

    def generate(self, message, dataset=None):
        assert isinstance(message, list)
        for part in message:
            assert isinstance(part, dict)
            assert isinstance(part["value"], str)
            assert part["type"] in self.allowed_types
        return self.generate_inner(message, dataset)


@pytest.fixture
def adapter(monkeypatch, tmp_path):
    """The module as it is where VLMEvalKit is installed."""
    base = types.ModuleType("vlmeval.vlm.base")
    base.BaseModel = BaseModel
    BaseModel.folder = tmp_path
    for name in ("vlmeval", "vlmeval.vlm"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "vlmeval.vlm.base", base)
    monkeypatch.delitem(sys.modules, "minicpmv.integrations.vlmevalkit", raising=False)
    yield importlib.import_module("minicpmv.integrations.vlmevalkit")
    sys.modules.pop("minicpmv.integrations.vlmevalkit", None)


def line(**more):
    file = io.BytesIO()
    picture(96, 64).save(file, "PNG")
    row = {"index": 7, "image": base64.b64encode(file.getvalue()).decode()}
    row |= {
        "question": "What is it?",
        "A": "a cat",
        "B": "a dog",
        "C": float("nan"),
        "hint": "Look.",
    }
    return row | {"answer": "A", "category": "animal"} | more


@pytest.fixture
def model(adapter):
    return adapter.MiniCPMV(loaded("2.6"), answering={"max_new_tokens": 5})


def test_rows_are_asked_in_the_words_of_the_page(model, tmp_path):
    assert model.use_custom_prompt("MMBench_DEV_EN_V11")
    parts = model.build_prompt(line(), "MMBench_DEV_EN_V11")
    assert [part["type"] for part in parts] == ["image", "text"]
    assert parts[0]["value"] == str(tmp_path / "7.jpg")
    assert parts[1]["value"] == (
        "Hint: Look.\nQuestion: What is it?\nOptions:\nA. a cat\nB. a dog\n"
        "\nAnswer with the option's letter from the given choices directly."
    )
    assert {part["profile"] for part in parts} == {"2.6"}


def test_answers_are_those_of_our_own_run(model, tmp_path):
    page = load_page("MMBench_DEV_EN_V11")
    answer = model.generate(model.build_prompt(line(), page.aliases[0]), dataset=page.aliases[0])
    options = {"A": "a cat", "B": "a dog"}
    item = Item(
        "7", "What is it?", (tmp_path / "7.jpg",), options=options, fields={"hint": "Look."}
    )
    asking = Asking(page, "2.6", {"max_new_tokens": 5})
    assert asking.options(item)["num_beams"] == 3
    ours = model.chat.ask(asking.messages(item), **asking.options(item))
    assert answer == ours.text


def test_small_pictures_are_enlarged_where_the_card_had_it_so(adapter):
    page = load_page("MMBench_DEV_EN_V11")
    path = BaseModel.folder / "small.png"
    picture(40, 30).save(path)
    part = {"type": "image", "value": str(path), "item": "3", "number": 0}
    shown = adapter._block(part, page, page.profiles["2.6"])["image"]
    assert shown.width > 40
    assert adapter._block(part, page, page.profiles["2.5"])["image"] == str(path)


def test_unknown_data_sets_keep_vlmevalkits_prompt(model, tmp_path):
    assert not model.use_custom_prompt("SomethingElse")
    assert not model.use_custom_prompt("opencompass-8")  # a mean of others
    path = tmp_path / "one.png"
    Image.new("RGB", (50, 50)).save(path)
    message = [{"type": "image", "value": str(path)}, {"type": "text", "value": "What is it?"}]
    assert model.generate(message, dataset="SomethingElse") == model.chat.ask(
        "What is it?", [str(path)], sampling=False, num_beams=1, max_new_tokens=5
    )


def test_dialogues(model, tmp_path):
    turns = [
        {"role": "user", "content": [{"type": "text", "value": "What is 1 + 1?"}]},
        {"role": "assistant", "content": [{"type": "text", "value": "2"}]},
        {"role": "user", "content": [{"type": "text", "value": "And 2 + 2?"}]},
    ]
    messages = [{"role": turn["role"], "content": turn["content"][0]["value"]} for turn in turns]
    assert model.chat_inner(turns) == model.chat.ask(
        messages, sampling=False, num_beams=1, max_new_tokens=5
    )


def test_other_parts_are_refused(model):
    with pytest.raises(ValueError, match="a part of type 'audio'; known: text, image, video"):
        model.generate_inner([{"type": "audio", "value": "a.wav"}])


def test_a_custom_prompt_can_be_left_out(adapter):
    model = adapter.MiniCPMV(loaded("2.6"), custom_prompt=False)
    assert not model.use_custom_prompt("OCRBench")


def test_pages_that_ask_a_part_otherwise_say_so(model):
    parts = model.build_prompt(line(category="existence", answer="Yes"), "MME")
    assert len({part["profile"] for part in parts}) == 1
