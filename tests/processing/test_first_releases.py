"""1.0, 2.0 and OmniLMM-12B against what their released code computed.

Their repositories have neither `preprocessor_config.json` nor `tokenizer.json`.
"""

import hashlib
import json
import shutil
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file
from transformers import AutoConfig, AutoImageProcessor

from minicpmv.checkpoint.consistency import find_mismatches
from minicpmv.engine.detokenize import stream_text
from minicpmv.processing import (
    MiniCPMVImageProcessorPil,
    MiniCPMVProcessor,
)
from minicpmv.releases import Release

from ..helpers.golden import CHECKPOINTS, FIRST_FOLDERS
from ..helpers.pictures import picture
from ..helpers.processors import golden_processor


@lru_cache
def manifest(version: str) -> dict[str, Any]:
    return json.loads((FIRST_FOLDERS[version] / "public" / "manifest.json").read_text())


CASES = [
    pytest.param(version, case, id=f"{version}-{case['name']}")
    for version in FIRST_FOLDERS
    for case in manifest(version)["cases"]
]


@pytest.fixture(params=FIRST_FOLDERS)
def first(request: pytest.FixtureRequest) -> str:
    return request.param


def recorded(version: str, case: dict) -> dict[str, np.ndarray]:
    return load_file(FIRST_FOLDERS[version] / "public" / case["arrays_file"])


def image_of(version: str, case: dict) -> Image.Image | None:
    if not case.get("image_file"):
        return None
    with Image.open(FIRST_FOLDERS[version] / "public" / case["image_file"]) as image:
        return image.copy()


def messages_of(version: str, case: dict) -> list[dict]:
    image, (opening, *rest) = image_of(version, case), case["msgs"]
    if image is None:
        return case["msgs"]
    return [opening | {"content": [image, opening["content"]]}, *rest]


def inputs_of(processor, conversation, **processor_kwargs):
    return processor.apply_chat_template(
        conversation,
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        processor_kwargs=processor_kwargs,
    )


def settings_of(case: dict) -> dict:
    options = dict(case["options"])
    settings = options.get("chat_kwargs", {})
    return settings | {key: options[key] for key in ("slice_mode",) if key in options}


def image_of_strip(strip: np.ndarray, rows: int, cols: int) -> np.ndarray:
    """(channels, height, width) of a slice's patches side by side."""
    patches = strip.reshape(3, 14, rows, cols, 14)
    return patches.transpose(0, 2, 1, 3, 4).reshape(3, rows * 14, cols * 14)


@pytest.mark.parametrize(("version", "case"), CASES)
@pytest.mark.parametrize("compat", ["released", None])
def test_inputs_are_as_recorded(version, case, compat):
    if case["name"] == "wide_inline" and compat is None:
        pytest.skip("a typed <image> is text, see below")
    processor = golden_processor(version, compat)
    inputs = inputs_of(
        processor, messages_of(version, case), return_released_layout=True, **settings_of(case)
    )
    arrays = recorded(version, case)
    assert inputs["input_ids"].tolist() == arrays["input_ids"].tolist()
    assert inputs["attention_mask"].all()
    bounds = arrays["image_bound"] if "image_bound" in arrays else np.array(case["image_bound"])
    assert inputs["image_bound"][0].tolist() == bounds.tolist()
    pixels = [case["pixel"]] if "pixel" in case else case["pixels"]
    assert len(inputs["pixel_values"][0]) == len(pixels)
    mean, std = (
        np.array(values, np.float32)[:, None, None]
        for values in (processor.image_processor.image_mean, processor.image_processor.image_std)
    )
    for strip, (rows, cols), expected in zip(
        inputs["pixel_values"][0], inputs["tgt_sizes"][0].tolist(), pixels, strict=True
    ):
        assert [rows, cols] == expected.get("patch_grid_hw", [32, 32])
        image = image_of_strip(strip.numpy(), rows, cols)
        _, height, width = expected["shape_chw"]
        assert not image[:, height:].any()
        assert not image[:, :, width:].any()
        image = np.ascontiguousarray(image[:, :height, :width])
        assert hashlib.sha256(image.tobytes()).hexdigest() == expected["float32_sha256"]
        grey = np.round((image * std + mean) * 255).astype(np.uint8).transpose(1, 2, 0)
        if "uint8_hwc_sha256" in expected:
            digest = hashlib.sha256(np.ascontiguousarray(grey).tobytes()).hexdigest()
            assert digest == expected["uint8_hwc_sha256"]


@pytest.mark.parametrize(("version", "case"), CASES)
def test_our_own_defaults_change_spaces_and_broken_bytes_only(version, case):
    processor = golden_processor(version)
    for answer in (part for part in case.values() if isinstance(part, dict) and "text" in part):
        text = processor.decode_answer(answer["ids"])
        if version != "omnilmm-12b" or "\ufffd" not in answer["text"]:
            assert text.replace(" ", "") == answer["text"].replace(" ", "")
        assert text.count("\ufffd") <= answer["text"].count("\ufffd")


@pytest.mark.parametrize(("version", "case"), CASES)
@pytest.mark.parametrize("compat", ["released", None])
def test_streamed_pieces_join_to_the_answer(version, case, compat):
    processor = golden_processor(version, compat)
    for answer in (part for part in case.values() if isinstance(part, dict) and "text" in part):
        ids = answer["ids"]
        assert "".join(stream_text(iter(ids), processor)) == processor.decode_answer(ids)


def test_model_and_processor_agree_until_one_is_changed(first):
    config = AutoConfig.from_pretrained(CHECKPOINTS[first])
    assert find_mismatches(config, golden_processor(first)) == []
    changes = {"image_feature_size": 16, "patch_size": 28}
    changes |= {"max_slice_nums": 4} if first == "2.0" else {"image_size": 224}
    changed = MiniCPMVProcessor.from_pretrained(CHECKPOINTS[first], **changes)
    lines = find_mismatches(config, changed)
    assert [line.split()[-1] for line in lines] == ["16", "28", *map(str, [*changes.values()][2:])]
    changed.image_processor.im_start = "<nothing>"
    assert "the tokenizer has no token <nothing>" in find_mismatches(config, changed)


def copy_of(version: str, folder: Path, leave_out: tuple[str, ...] = ()) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for file in CHECKPOINTS[version].iterdir():
        if not file.name.startswith("model.safetensors") and file.name not in leave_out:
            shutil.copy(file, folder)
    return folder


def test_settings_come_from_config_json(first, tmp_path):
    folder = copy_of(first, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    changes = {"query_num" if "query_num" in config else "num_query": 16}
    changes |= (
        {"max_slice_nums": 4, "scale_resolution": 224, "slice_mode": False}
        if first == "2.0"
        else {"image_size": 224}
    )
    (folder / "config.json").write_text(json.dumps(config | changes))
    found = AutoImageProcessor.from_pretrained(folder)
    assert type(found.release) is Release
    assert found.release.version == first
    for name, value in changes.items():
        assert getattr(found, {"query_num": "image_feature_size"}.get(name, name), value) == value
    assert found.image_feature_size == 16


def test_a_saved_processor_has_the_files_it_came_without(first, tmp_path):
    processor = golden_processor(first)
    processor.save_pretrained(tmp_path)
    for name in ("preprocessor_config.json", "tokenizer.json"):
        assert (tmp_path / name).is_file()
    again = MiniCPMVProcessor.from_pretrained(tmp_path)
    assert again.image_processor.to_dict() == processor.image_processor.to_dict()
    backends = [made.tokenizer.backend_tokenizer.to_str() for made in (again, processor)]
    assert backends[0] == backends[1]
    conversation = [{"role": "user", "content": [picture(300, 500), "Look </image> ñ!"]}]
    old, new = (inputs_of(made, conversation) for made in (processor, again))
    assert set(old) == set(new)
    assert all((old[name] == new[name]).all() for name in old)


def hub_copy(version: str, cache: Path, **changes: Any) -> str:
    """The checkpoint as the hub's cache keeps it; returns its name there."""
    folder = cache / "models--some--model"
    copy_of(version, folder / "snapshots" / "a1", **changes)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("a1")
    for missing in ("preprocessor_config.json", "processor_config.json"):
        (folder / ".no_exist" / "a1").mkdir(parents=True, exist_ok=True)
        (folder / ".no_exist" / "a1" / missing).touch()
    return "some/model"


def test_a_repository_on_the_hub_needs_no_file_either(first, tmp_path):
    name = hub_copy(first, tmp_path)
    for load in (AutoImageProcessor.from_pretrained, MiniCPMVImageProcessorPil.from_pretrained):
        found = load(name, cache_dir=tmp_path, local_files_only=True)
        assert found.to_dict() == golden_processor(first).image_processor.to_dict()
    processor = MiniCPMVProcessor.from_pretrained(name, cache_dir=tmp_path, local_files_only=True)
    assert len(processor.tokenizer) == len(golden_processor(first).tokenizer)


def test_a_missing_file_of_a_later_release_is_an_error(later_version, tmp_path):
    folder = copy_of(later_version, tmp_path / "folder", ("preprocessor_config.json",))
    name = hub_copy(later_version, tmp_path / "hub", leave_out=("preprocessor_config.json",))
    for load in (
        AutoImageProcessor.from_pretrained,
        MiniCPMVImageProcessorPil.from_pretrained,
        MiniCPMVProcessor.from_pretrained,
    ):
        with pytest.raises(OSError, match=r"preprocessor_config\.json"):
            load(folder)
        with pytest.raises(OSError, match=r"preprocessor_config\.json"):
            load(name, cache_dir=tmp_path / "hub", local_files_only=True)


def test_a_damaged_file_is_not_passed_over(first, tmp_path):
    folder = copy_of(first, tmp_path)
    (folder / "preprocessor_config.json").write_text("{")
    for load in (AutoImageProcessor.from_pretrained, MiniCPMVProcessor.from_pretrained):
        with pytest.raises(OSError, match=r"not a valid JSON file"):
            load(folder)


@pytest.mark.parametrize("version", ["1.0", "omnilmm-12b"])
@pytest.mark.parametrize("size", [(3, 1), (448, 448), (100, 2000)])
def test_a_square_release_squeezes_every_picture(version, size):
    image_processor = golden_processor(version).image_processor
    features = image_processor(picture(*size), return_tensors="pt")
    assert features["pixel_values"].shape == (1, 3, 14, 14 * 32 * 32)
    assert features["target_sizes"].tolist() == [[32, 32]]
    assert features["num_slices"] == [1]
    assert image_processor.get_sliced_grid(size[::-1]) is None
    whole, cells, grid = image_processor.slice_image(picture(*size))
    assert (whole.size, cells, grid) == ((448, 448), [], None)
    expected = picture(*size).resize((448, 448), Image.Resampling.BICUBIC)
    assert np.array_equal(np.asarray(whole), np.asarray(expected))


@pytest.mark.parametrize("mode", ["RGBA", "L", "LA", "P", "1"])
def test_pictures_of_every_mode_are_read(first, mode):
    image_processor = golden_processor(first).image_processor
    image = picture(60, 90).convert(mode)
    expected = Image.new("RGB", image.size, "white")
    expected.paste(image.convert("RGB"))
    strips = [image_processor(each)["pixel_values"] for each in (image, expected)]
    assert np.array_equal(*strips)


def test_2_0_fills_up_uncut_pictures():
    image_processor = MiniCPMVImageProcessorPil(version="2.0", slice_mode=False)
    strip = image_processor(Image.new("RGB", (15, 1), "white"))["pixel_values"][0]
    image = image_of_strip(strip, 1, 2)
    assert (image[:, :1, :15] == 1).all()
    assert not image[:, 1:].any()
    assert not image[:, :, 15:].any()
    cut_off = MiniCPMVImageProcessorPil(slice_mode=False)
    assert cut_off(Image.new("RGB", (15, 15)))["target_sizes"].tolist() == [[1, 1]]


@pytest.mark.parametrize("version", ["1.0", "omnilmm-12b"])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_slice_nums": 4}, "max_slice_nums has no effect: .* never cuts it"),
        ({"scale_resolution": 448}, "scale_resolution has no effect"),
        ({"slice_mode": True}, "slice_mode=True is not possible"),
    ],
)
def test_settings_for_slices_are_errors_where_nothing_is_cut(version, settings, message):
    processor = golden_processor(version)
    for call in (
        lambda: processor("Hello", **settings),
        lambda: processor("Hello", images_kwargs=settings),
        lambda: processor.image_processor(picture(30, 30), **settings),
        lambda: MiniCPMVImageProcessorPil(version=version, **settings),
        lambda: AutoImageProcessor.from_pretrained(CHECKPOINTS[version], **settings),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    image_processor = MiniCPMVImageProcessorPil(version=version, slice_mode=False, image_size=28)
    assert image_processor(picture(30, 30))["target_sizes"].tolist() == [[2, 2]]


def test_image_size_is_an_error_where_pictures_keep_their_shape():
    with pytest.raises(ValueError, match=r"image_size has no effect .* Set scale_resolution"):
        golden_processor("2.0").image_processor(picture(30, 30), image_size=224)


def test_several_pictures_text_alone_and_batches_work(first):
    processor = golden_processor(first)
    questions = [
        [{"role": "user", "content": [picture(40, 60), "and", picture(30, 20, 1), "differ?"]}],
        [{"role": "user", "content": "Who are you?"}],
        [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hi."},
            {"role": "assistant", "content": "Hello."},
            {"role": "user", "content": [picture(50, 50), "And this?"]},
        ],
    ]
    batch = inputs_of(processor, questions)
    assert batch["mm_token_type_ids"].sum(1).tolist() == [128, 0, 64]
    assert len(batch["pixel_values"]) == 3
    for index, question in enumerate(questions):
        alone = inputs_of(processor, question)["input_ids"][0].tolist()
        row = batch["input_ids"][index].tolist()
        assert row[-len(alone) :] == alone
        assert set(row[: -len(alone)]) <= {processor.tokenizer.pad_token_id}


def test_system_text_stands_in_front():
    conversation = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi."}]
    prompts = {
        version: golden_processor(version).apply_chat_template(
            conversation, add_generation_prompt=True
        )
        for version in FIRST_FOLDERS
    }
    assert prompts["1.0"] == prompts["2.0"] == "Be brief.<用户>Hi.<AI>"
    assert prompts["omnilmm-12b"] == (
        "<|system|>\nBe brief.</s>\n<|user|>\nHi.</s>\n<|assistant|>\n"
    )


def test_only_the_last_answer_of_a_dialogue_ends():
    turns = [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]
    conversation = [{"role": role, "content": text} for role, text in turns]
    template = golden_processor("2.0").apply_chat_template
    assert template(conversation) == "<用户>a<AI>b<用户>c<AI>d</s>"
    assert template(conversation[:3]) == "<用户>a<AI>b<用户>c"
    assert template(conversation[:3], add_generation_prompt=True) == "<用户>a<AI>b<用户>c<AI>"


def test_a_typed_image_tag_is_text_in_omnilmm_and_the_picture_as_released():
    ours, released = golden_processor("omnilmm-12b"), golden_processor("omnilmm-12b", "released")
    content = [picture(20, 30), "a <image> b (<image>./</image>)"]
    inputs = inputs_of(ours, [{"role": "user", "content": content}])
    text = ours.tokenizer.decode(inputs["input_ids"][0], skip_special_tokens=True)
    assert text.endswith("a <image> b (<image>./</image>) \n<|assistant|>\n")
    assert inputs["mm_token_type_ids"].sum() == 64

    def prompt(*content, processor=released):
        return processor.apply_chat_template([{"role": "user", "content": list(content)}])

    marker = "(<image>./</image>)"
    small = picture(4, 4)
    assert f"<|user|>\na {marker} b</s>" in prompt(small, "a <image> b")
    assert f"<|user|>\n{marker}\na b</s>" in prompt(small, "a b")
    assert f"<|user|>\n{marker}{marker}</s>" in prompt(small, "<image><image>")
    assert f"<|user|>\n{marker} to {marker}</s>" in prompt(small, small, "<image> to <image>")
    assert "<|user|>\na <image></s>" in prompt("a <image>")
    assert f"<|user|>\n{marker}\na <image></s>" in prompt(small, "a <image>", processor=ours)
    with pytest.raises(ValueError, match="1 <image> and 2 images"):
        prompt(small, small, "<image>")


def test_a_cut_prompt_keeps_whole_pictures(first):
    processor = golden_processor(first)
    conversation = [{"role": "user", "content": [picture(40, 60), "Look at it."]}]
    length = inputs_of(processor, conversation)["input_ids"].shape[1]
    cut = inputs_of(processor, conversation, max_inp_length=length - 4)
    assert cut["input_ids"].shape[1] == length - 4
    with pytest.raises(ValueError, match="cutting there would cut an image"):
        inputs_of(processor, conversation, max_inp_length=60)


def test_spaces_before_tags_are_lost_by_default():
    """What the released code wrote into answers, and what the model said."""
    for version in ("1.0", "2.0"):
        ours, released = golden_processor(version), golden_processor(version, "released")
        text = "<ref>the box</ref><box>1 2</box>a<ref>"
        ids = ours.tokenizer(text)["input_ids"]
        assert released.decode_answer(ids) == "<ref> the box</ref><box> 1 2</box> a<ref>"
        assert ours.decode_answer(ids) == text
    ids = golden_processor("omnilmm-12b").tokenizer("a<box>1</box>")["input_ids"]
    assert golden_processor("omnilmm-12b", "released").decode_answer(ids) == "a 1"
    assert golden_processor("omnilmm-12b").decode_answer(ids) == "a<box> 1</box>"


def test_an_unknown_token_in_an_answer_is_kept(first):
    processor = golden_processor(first)
    ids = [0, *processor.tokenizer("hi", add_special_tokens=False)["input_ids"], 2, 0, 5]
    assert processor.decode_answer(ids).replace(" ", "") == "<unk>hi"
    assert golden_processor(first, "released").decode_answer(ids) == "hi"
