"""What the released code computed on tiny random checkpoints: `tests/golden/`.

`manifest.json` in each of its folders says how it was recorded, and what each field means.
MINICPMV_GOLDEN names another folder of this kind, with more cases.
"""

import json
import os
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

import minicpmv.auto  # noqa: F401
from minicpmv.processing import MiniCPMVProcessor
from minicpmv.releases import RELEASES

from ..golden.pack import unpack_all

unpack_all()


GOLDEN = Path(os.environ.get("MINICPMV_GOLDEN", Path(__file__).parents[1] / "golden"))


# Recorded calls of the released `chat()`: `public/chat.json`.
GOLDEN_FOLDERS = {
    "2.5": GOLDEN / "minicpm-llama3-v-2_5",
    "2.6": GOLDEN / "minicpm-v-2_6",
}


# Recorded otherwise: `public/manifest.json`, see model/test_first_stages.py.
FIRST_FOLDERS = {
    "1.0": GOLDEN / "minicpm-v-1_0",
    "2.0": GOLDEN / "minicpm-v-2",
    "omnilmm-12b": GOLDEN / "omnilmm-12b",
}


CHECKPOINTS = {
    version: folder / "checkpoint" for version, folder in (GOLDEN_FOLDERS | FIRST_FOLDERS).items()
}


@lru_cache
class Golden:
    """What the released code computed with a tiny checkpoint. Shared: do not change it."""

    def __init__(self, version: str):
        self.version = version
        self.checkpoint = CHECKPOINTS[version]
        self.public = self.checkpoint.parent / "public"

    @cached_property
    def records(self) -> dict[str, dict[str, Any]]:
        if self.version in FIRST_FOLDERS:
            records = json.loads((self.public / "manifest.json").read_text())["cases"]
        else:
            records = json.loads((self.public / "chat.json").read_text())
        return {record["name"]: record for record in records}

    @cached_property
    def tensors(self) -> dict[str, torch.Tensor]:
        return load_file(self.public / "chat.safetensors")

    @cached_property
    def model(self) -> Any:
        return AutoModelForImageTextToText.from_pretrained(self.checkpoint).eval()

    @cached_property
    def processor(self) -> Any:
        return MiniCPMVProcessor.from_pretrained(self.checkpoint, compat="released")

    def image(self, name: str) -> Image.Image:
        with Image.open(self.public / "images" / f"{name}.png") as image:
            return image.copy()

    def messages(self, record: dict[str, Any]) -> Any:
        """`msgs` of a record, with pictures where it names them."""
        return self._with_pictures(record["msgs"])

    def _with_pictures(self, part: Any) -> Any:
        if isinstance(part, list):
            return [self._with_pictures(item) for item in part]
        if isinstance(part, dict) and "image" in part:
            return self.image(part["image"])
        if isinstance(part, dict):
            return part | {"content": self._with_pictures(part["content"])}
        return part


def golden_records() -> list[Any]:
    """Parameters ("version", "record") for every recorded call of the released `chat()`."""
    return [
        pytest.param(version, record, id=f"{version}-{name}")
        for version in GOLDEN_FOLDERS
        for name, record in Golden(version).records.items()
    ]


class GoldenCase:
    """One recorded call, ready for the model: `inputs`, and `encoded_inputs` without the tower."""

    def __init__(self, version: str, record: dict[str, Any]):
        self.golden = Golden(version)
        self.release = RELEASES[version]
        self.record = record

    def tensor(self, name: str) -> torch.Tensor | None:
        """The recorded array, or None where this case has only a digest, or nothing."""
        return self.golden.tensors.get(f"{self.record['name']}/{name}")

    @cached_property
    def inputs(self) -> dict[str, Any]:
        record = self.record
        input_ids = torch.tensor(record["input_ids"])
        mask = record.get("attention_mask")
        inputs = {
            "input_ids": input_ids,
            "attention_mask": torch.ones_like(input_ids) if mask is None else torch.tensor(mask),
        }
        images = [self.golden.image(record["image"])] if record.get("image") else []
        images += _pictures(self.golden.messages(record))
        if images:
            limit = (record.get("kwargs") or {}).get("max_slice_nums")
            features = self.golden.processor.image_processor(
                images, max_slice_nums=limit, return_tensors="pt"
            )
            inputs |= {
                "pixel_values": features["pixel_values"],
                "target_sizes": features["target_sizes"],
                "image_bound": [torch.tensor(bounds) for bounds in record["image_bound"]],
            }
        return inputs

    @cached_property
    def image_outputs(self) -> Any:
        """What tower and resampler make of this case's slices; computed once."""
        with torch.no_grad():
            return self.golden.model.get_image_features(
                self.inputs["pixel_values"],
                self.inputs["target_sizes"],
                slices_per_sample=[len(bounds) for bounds in self.inputs["image_bound"]],
                return_dict=True,
            )

    @cached_property
    def encoded_inputs(self) -> dict[str, Any]:
        inputs = dict(self.inputs)
        if "pixel_values" in inputs:
            del inputs["pixel_values"], inputs["target_sizes"]
            inputs["image_features"] = self.image_outputs.pooler_output
        return inputs


class FirstCase(GoldenCase):
    """One recorded call of 1.0, 2.0 or OmniLMM-12B; its arrays are in a file of its own."""

    @cached_property
    def arrays(self) -> dict[str, torch.Tensor]:
        return load_file(self.golden.public / self.record["arrays_file"])

    @cached_property
    def inputs(self) -> dict[str, Any]:
        input_ids = self.arrays["input_ids"].long()
        inputs = {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}
        if self.record.get("image_file"):
            options = self.record["options"]
            features = self.golden.processor.image_processor(
                [self.golden.image(Path(self.record["image_file"]).stem)],
                slice_mode=False if options.get("slice_mode") is False else None,
                return_tensors="pt",
            )
            bounds = self.arrays.get("image_bound")
            if bounds is None:
                bounds = torch.tensor(self.record["image_bound"])
            inputs |= {
                "pixel_values": features["pixel_values"],
                "target_sizes": features["target_sizes"],
                "image_bound": [bounds],
            }
        return inputs


def _pictures(part: Any) -> list[Image.Image]:
    if isinstance(part, Image.Image):
        return [part]
    if isinstance(part, dict):
        part = part["content"]
    return [found for item in part for found in _pictures(item)] if isinstance(part, list) else []


@lru_cache
def golden_case(version: str, name: str) -> GoldenCase:
    case_class = FirstCase if version in FIRST_FOLDERS else GoldenCase
    return case_class(version, Golden(version).records[name])


def small_case(version: str) -> GoldenCase:
    """A recorded call with one small picture."""
    return golden_case(version, "tiny" if version in FIRST_FOLDERS else "single_tiny")
