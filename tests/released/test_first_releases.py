"""MiniCPM-V 1.0 and 2.0 and OmniLMM-12B: `load`, and their released `chat()` with its answers."""

import base64
import json
import shutil
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from minicpmv import AutoModel, AutoModelForCausalLM, AutoTokenizer, Chat, MiniCPMVChat, load
from minicpmv import img2base64 as encoded
from minicpmv.released_api import MiniCPMV2

from ..helpers.golden import GOLDEN
from ..helpers.pictures import picture

FOLDERS = {
    "1.0": GOLDEN / "minicpm-v-1_0",
    "2.0": GOLDEN / "minicpm-v-2",
    "omnilmm-12b": GOLDEN / "omnilmm-12b",
}
GREEDY = {"sampling": False, "num_beams": 1, "repetition_penalty": 1.0, "max_new_tokens": 8}


def cases(*versions: str) -> list[Any]:
    """Parameters (version, case) of every recorded conversation."""
    return [
        pytest.param(version, case, id=f"{version}-{case['name']}")
        for version in versions
        for case in json.loads((FOLDERS[version] / "public/manifest.json").read_text())["cases"]
    ]


def image_of(version: str, case: dict[str, Any]) -> Image.Image | None:
    if not case.get("image_file"):
        return None
    with Image.open(FOLDERS[version] / "public" / case["image_file"]) as image:
        return image.convert("RGB")


@lru_cache
def released(version: str, compat: Any = None) -> tuple[Any, Any]:
    path = FOLDERS[version] / "checkpoint"
    model = AutoModel.from_pretrained(
        path, trust_remote_code=True, torch_dtype=torch.float32, compat=compat
    )
    return model.eval(), AutoTokenizer.from_pretrained(path, trust_remote_code=True)


@lru_cache
def loaded(version: str, compat: Any = None) -> Chat:
    return load(FOLDERS[version] / "checkpoint", device="cpu", compat=compat)


@pytest.mark.parametrize("version", FOLDERS)
def test_answer_stream_and_batch_agree(version: str) -> None:
    chat = loaded(version)
    requests = [("What is it?", [picture(40, 30)]), "Hello", ("And this?", [picture(700, 300, 1)])]
    alone = [chat.ask(*([r] if isinstance(r, str) else r), **GREEDY).text for r in requests]
    assert [answer.text for answer in chat.batch(requests, **GREEDY)] == alone
    assert "".join(chat.stream(*requests[0], **GREEDY)) == alone[0]
    two = chat.ask("Compare them.", [picture(40, 30), picture(50, 60, 1)], **GREEDY)
    assert two.num_input_tokens > 128, "both pictures are seen"


@pytest.mark.parametrize("version", FOLDERS)
def test_defaults_are_the_releases(version: str) -> None:
    from minicpmv.engine.plan import plan_generation

    chat = loaded(version)
    plan = plan_generation(chat.processor, chat.model.generation_config, {})
    expected = {"1.0": (False, 3, 1.2), "2.0": (True, 1, 1.05), "omnilmm-12b": (True, 1, 1.1)}
    found = (plan.config.do_sample, plan.config.num_beams or 1, plan.repetition_penalty)
    assert found == expected[version]
    limits = {"1.0": 2048, "2.0": 1024, "omnilmm-12b": 1024}
    assert plan.config.max_new_tokens == limits[version]


def test_a_stream_of_beams_is_their_answer_in_one_piece() -> None:
    """1.0 searches with beams when not told otherwise."""
    chat = loaded("1.0")
    pieces = chat.stream("What is it?", [picture(40, 30)], max_new_tokens=6)
    assert list(pieces) == [chat.ask("What is it?", [picture(40, 30)], max_new_tokens=6)]


@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_released_snippet(version: str) -> None:
    path = FOLDERS[version] / "checkpoint"
    model = AutoModel.from_pretrained(path, trust_remote_code=True, torch_dtype=torch.bfloat16)
    tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=True)
    image = picture(40, 30).convert("RGB")
    msgs = [{"role": "user", "content": "What is in the image?"}]
    res, context, _ = model.chat(
        image=image,
        msgs=msgs,
        context=None,
        tokenizer=tokenizer,
        sampling=True,
        temperature=0.7,
        max_new_tokens=4,
    )
    assert context == [*msgs, {"role": "assistant", "content": res}]
    # The next round, as the cards do it; and all in order, without names.
    context.append({"role": "user", "content": "Where?"})
    res, context, settings = model.chat(image, json.dumps(context), None, tokenizer, None, 4, True)
    assert len(context) == 4
    assert settings["temperature"] == {"1.0": 0.6, "2.0": 0.7}[version]
    assert settings["do_sample"] is True


def test_vision_hidden_states_replace_the_tower() -> None:
    model, tokenizer = released("2.0")
    image, msgs = picture(40, 30), [{"role": "user", "content": "What?"}]
    settings = {"tokenizer": tokenizer, "sampling": False, "max_new_tokens": 6}
    features = model._processor_with(tokenizer, None).image_processor(image, return_tensors="pt")
    with torch.inference_mode():
        encoded_image = model.get_image_features(features["pixel_values"], features["target_sizes"])
    states = [encoded_image.pooler_output]
    answer = model.chat(image, msgs, **settings)
    assert model.chat(image, msgs, vision_hidden_states=states, **settings) == answer
    blind = [torch.zeros_like(states[0])]
    assert model.chat(image, msgs, vision_hidden_states=blind, **settings) != answer


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temperatur": 0.5}, "Unknown option 'temperatur'"),
        ({"stream": True}, "Unknown option 'stream'"),
        ({"sampling": False, "top_p": 0.5}, "top_p would have no effect without sampling=True"),
        ({"context": [1]}, "context has no effect"),
        ({"msgs": None}, "msgs is missing"),
        ({"msgs": "what?"}, "msgs is not JSON text"),
        ({"msgs": [[{"role": "user", "content": "a"}]]}, "msgs is a list of conversations"),
    ],
)
def test_what_was_ignored_is_a_clear_error(
    version: str, arguments: dict[str, Any], message: str
) -> None:
    model, tokenizer = released(version)
    msgs = [{"role": "user", "content": "What is it?"}]
    with pytest.raises(ValueError, match=message):
        model.chat(**{"image": None, "msgs": msgs, "tokenizer": tokenizer} | arguments)


def test_what_is_changed_in_the_config_of_2_0_is_followed() -> None:
    (case,) = (c for (_, c) in (p.values for p in cases("2.0")) if c["name"] == "noslice")
    path = FOLDERS["2.0"] / "checkpoint"
    settings = {"context": None, "tokenizer": released("2.0")[1], "sampling": False}
    settings |= {"image": image_of("2.0", case), "msgs": case["msgs"], "max_new_tokens": 12}
    model = AutoModel.from_pretrained(path).eval()
    sliced = model.chat(**settings)
    model.config.slice_mode = False
    whole = model.chat(**settings)
    assert whole[0] == case["chat_num_beams3_answer"]
    assert sliced[0] != whole[0]
    model.config.slice_mode, model.config.max_slice_nums = True, 1
    assert model.chat(**settings)[0] not in (sliced[0], whole[0])
    asked = AutoModel.from_pretrained(path, slice_mode=False).eval()
    assert asked.chat(**settings) == whole


@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_the_picture_is_in_the_message_of_the_user(version: str) -> None:
    model, tokenizer = released(version)
    settings = {"context": None, "tokenizer": tokenizer, "sampling": False, "max_new_tokens": 8}
    system = {"role": "system", "content": "Be short."}
    question = {"role": "user", "content": "What is it?"}
    image = picture(40, 30)
    answer, context, _ = model.chat(image, [system, question], **settings)
    shown = {"role": "user", "content": [image, "What is it?"]}
    assert answer == model.chat(None, [system, shown], **settings)[0]
    assert context[:2] == [system, question]
    for first, message in (
        ({"role": "assistant", "content": "Hello."}, "begins with the role 'assistant'"),
        ({"role": "user"}, "expected one with 'role' and 'content'"),
    ):
        with pytest.raises(ValueError, match=message):
            model.chat(image, [first, question], **settings)


def test_the_class_is_saved_under_the_released_name(tmp_path: Path) -> None:
    model, _ = released("2.0")
    assert isinstance(model, MiniCPMV2)
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == ["MiniCPMV"]


def without_tokenizer(folder: Path) -> None:
    for file in folder.glob("*token*"):
        file.unlink()


def with_field(name: str, value: Any) -> Any:
    def change(folder: Path) -> None:
        fields = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(fields | {name: value}))

    return change


@pytest.mark.parametrize("version", FOLDERS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_tokenizer, "has no tokenizer.json or tokenizer.model"),
        (lambda folder: (folder / "tokenizer.model").unlink(), "has no tokenizer.json or tokeni"),
        (
            lambda folder: (folder / "config.json").write_text("[1]"),
            "config.json' holds list, no JSON object",
        ),
        (with_field("hidden_size", "many"), "hidden_size 'many'; expected a whole number"),
        (with_field("num_attention_heads", 0), "num_attention_heads 0; expected a whole number"),
        (with_field("vision_tower_overrides", "small"), "vision_tower_overrides 'small'; expected"),
        (
            with_field("vision_tower_overrides", {"embed_dim": -64}),
            "overrides.embed_dim -64; expected",
        ),
        (with_field("vision_tower_overrides", {"depth": None}), "overrides.depth null; expected"),
    ],
)
def test_what_is_wrong_with_a_folder_is_named(
    version: str, change: Any, message: str, tmp_path: Path
) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(FOLDERS[version] / "checkpoint", folder, copy_function=shutil.copyfile)
    change(folder)
    with pytest.raises((ValueError, OSError), match=message):
        load(folder, device="cpu")


def test_a_square_of_no_whole_patches_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(FOLDERS["1.0"] / "checkpoint", folder, copy_function=shutil.copyfile)
    with_field("image_size", 450)(folder)
    with pytest.raises(ValueError, match="says image_size 450; expected a multiple of 14"):
        load(folder, device="cpu").ask("What is it?", [picture(40, 30)])


# The wrapper of the first README


@pytest.mark.parametrize("version", FOLDERS)
def test_wrapper(version: str, tmp_path: Path) -> None:
    picture(40, 30).save(tmp_path / "picture.png")
    model = MiniCPMVChat(FOLDERS[version] / "checkpoint", device="cpu")
    msgs = [{"role": "user", "content": "What is it?"}]
    image = encoded(tmp_path / "picture.png")
    inputs = {"image": image, "question": json.dumps(msgs)}
    answer = model.chat(inputs, **GREEDY)
    shown = [{"role": "user", "content": [picture(40, 30), "What is it?"]}]
    assert answer == loaded(version).ask(shown, **GREEDY).text
    draws = {"seed": 5, "max_new_tokens": 8}
    told = {"sampling": True, "temperature": 0.7} if version == "1.0" else {}
    assert model.chat(inputs, **draws) == loaded(version).ask(shown, **draws, **told).text


def test_wrapper_of_omnilmm_shows_the_picture_where_the_text_says(tmp_path: Path) -> None:
    (case,) = (
        case for (_, case) in (p.values for p in cases("omnilmm-12b")) if "inline" in case["name"]
    )
    path = FOLDERS["omnilmm-12b"]
    model = MiniCPMVChat(path / "checkpoint", device="cpu")
    image = encoded(path / "public" / case["image_file"])
    inputs = {"image": image, "question": json.dumps(case["msgs"])}
    settings = {"sampling": False, "max_new_tokens": 12}
    assert model.chat(inputs, **settings).startswith(case["greedy_rep1.1"]["text"][:2])
    old = MiniCPMVChat(path / "checkpoint", device="cpu", compat="released")
    assert old.chat(inputs, **settings) == case["greedy_rep1.1"]["text"]


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("no base64!", "image is not base64 text"),
        (base64.b64encode(b"no picture").decode(), "is not an image that can be read"),
    ],
)
def test_a_broken_picture_is_an_error_and_no_answer(image: str, message: str) -> None:
    model = MiniCPMVChat(FOLDERS["omnilmm-12b"] / "checkpoint", device="cpu")
    question = json.dumps([{"role": "user", "content": "What is it?"}])
    with pytest.raises((ValueError, OSError), match=message):
        model.chat({"image": image, "question": question})


def test_auto_model_for_causal_lm_is_the_same_class() -> None:
    path = FOLDERS["2.0"] / "checkpoint"
    assert type(AutoModelForCausalLM.from_pretrained(path)) is MiniCPMV2
