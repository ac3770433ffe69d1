"""1.0, 2.0 and OmniLMM-12B against what their released code computed.

Their repositories have neither `preprocessor_config.json` nor `tokenizer.json`.
"""

import hashlib
import json
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file
from transformers import AutoTokenizer

from minicpmv.processing import MiniCPMVProcessor, MiniCPMVTokenizerFast

GOLDEN = Path(os.environ.get("MINICPMV_GOLDEN", Path(__file__).parent.parent / "golden"))
FOLDERS = {
    "1.0": GOLDEN / "minicpm-v-1_0",
    "2.0": GOLDEN / "minicpm-v-2",
    "omnilmm-12b": GOLDEN / "omnilmm-12b",
}


@lru_cache
def manifest(version: str) -> dict[str, Any]:
    return json.loads((FOLDERS[version] / "public" / "manifest.json").read_text())


@lru_cache
def first_processor(version: str, compat: str | None = None) -> MiniCPMVProcessor:
    return MiniCPMVProcessor.from_pretrained(FOLDERS[version] / "checkpoint", compat=compat)


CASES = [
    pytest.param(version, case, id=f"{version}-{case['name']}")
    for version in FOLDERS
    for case in manifest(version)["cases"]
]


@pytest.fixture(params=FOLDERS)
def first(request: pytest.FixtureRequest) -> str:
    return request.param


def recorded(version: str, case: dict) -> dict[str, np.ndarray]:
    return load_file(FOLDERS[version] / "public" / case["arrays_file"])


def image_of(version: str, case: dict) -> Image.Image | None:
    if not case.get("image_file"):
        return None
    with Image.open(FOLDERS[version] / "public" / case["image_file"]) as image:
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
    processor = first_processor(version, compat)
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
def test_prompts_are_as_recorded(version, case):
    processor = first_processor(version, "released")
    conversation = messages_of(version, case)
    prompt = processor.apply_chat_template(conversation, add_generation_prompt=True)
    images = [image_of(version, case)] if case.get("image_file") else []
    settings = {key: value for key, value in case["options"].items() if key == "slice_mode"}
    sliced = processor._slice(images, settings)
    (expanded,), _ = processor.get_text_with_replacements(
        [prompt], processor._image_texts([len(images)], sliced, {})
    )
    assert expanded == case["prompt"]


@pytest.mark.parametrize(("version", "case"), CASES)
def test_answers_decode_as_recorded(version, case):
    processor = first_processor(version, "released")
    answers = [part for part in case.values() if isinstance(part, dict) and "text" in part]
    assert len(answers) >= 3
    for answer in answers:
        assert processor.decode_answer(answer["ids"]) == answer["text"]


@pytest.mark.parametrize(("version", "case"), CASES)
def test_our_own_defaults_change_spaces_and_broken_bytes_only(version, case):
    processor = first_processor(version)
    for answer in (part for part in case.values() if isinstance(part, dict) and "text" in part):
        text = processor.decode_answer(answer["ids"])
        if version != "omnilmm-12b" or "\ufffd" not in answer["text"]:
            assert text.replace(" ", "") == answer["text"].replace(" ", "")
        assert text.count("\ufffd") <= answer["text"].count("\ufffd")


def test_the_tokenizer_is_as_recorded(first):
    golden = manifest(first)["tokenizer"]
    tokenizer = AutoTokenizer.from_pretrained(FOLDERS[first] / "checkpoint")
    assert isinstance(tokenizer, MiniCPMVTokenizerFast)
    assert len(tokenizer) == golden["len"]
    for case in golden["cases"]:
        encoding = tokenizer(case["text"])
        assert encoding["input_ids"] == case["ids"]
        if "tokens" in case:
            assert encoding.tokens() == case["tokens"]
    for name in ("bos_id", "eos_id", "unk_id", "im_start_id", "im_end_id", "pad_token_id"):
        if name in golden:
            assert getattr(tokenizer, name) == golden[name]
    assert first_processor(first).terminator_ids == [2]
