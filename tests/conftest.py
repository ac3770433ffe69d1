"""What every test may use: tiny models of each release, their batches, pictures, golden data.

`tests/golden/<model>/` was recorded from the released code on tiny random checkpoints;
`manifest.json` there says how, and what each field means. MINICPMV_GOLDEN names another folder of
this kind, with more cases.
"""

import json
import os
from collections.abc import Iterator
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

import minicpmv.auto  # noqa: F401
from minicpmv.model.configuration import MiniCPMVConfig
from minicpmv.processing import MiniCPMVProcessor
from minicpmv.releases import RELEASES

from .golden.pack import unpack_all
from .helpers.pixels import recorded_order

unpack_all()
VERSIONS = list(RELEASES)
GOLDEN = Path(os.environ.get("MINICPMV_GOLDEN", Path(__file__).parent / "golden"))
# Recorded calls of the released `chat()`: `public/chat.json`.
GOLDEN_FOLDERS = {
    "2.5": GOLDEN / "minicpm-llama3-v-2_5",
    "2.6": GOLDEN / "minicpm-v-2_6",
}
# Recorded otherwise: `public/manifest.json`, see test_first_stages.py.
FIRST_FOLDERS = {
    "1.0": GOLDEN / "minicpm-v-1_0",
    "2.0": GOLDEN / "minicpm-v-2",
    "omnilmm-12b": GOLDEN / "omnilmm-12b",
}
CHECKPOINTS = {
    version: folder / "checkpoint" for version, folder in (GOLDEN_FOLDERS | FIRST_FOLDERS).items()
}

# Ids of the tiny models' tags; text is drawn from below.
IMAGE, IMAGE_START, IMAGE_END, SLICE_START, SLICE_END, PAD = 91, 92, 93, 94, 95, 0
NUM_TEXT_IDS = 90


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--golden",
        metavar="FOLDER",
        help="replay recorded data from elsewhere: pytest tests/replay --golden FOLDER",
    )


@pytest.fixture(scope="session", autouse=True)
def _recorded_order() -> Iterator[None]:
    """Pictures recorded under Pillow 13 are replayed in its order; all others as in use."""
    with recorded_order(GOLDEN):
        yield


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    """A test that asks for it runs for every release."""
    return request.param


@pytest.fixture(params=GOLDEN_FOLDERS)
def later_version(request: pytest.FixtureRequest) -> str:
    """A release with `preprocessor_config.json`, `tokenizer.json` and recorded chats."""
    return request.param


def tiny_config(version: str, **changes: Any) -> MiniCPMVConfig:
    """A config of that release's shape, in small; `changes` win, dicts of the parts are merged."""
    text = {
        "model_type": RELEASES[version].text_model_type,
        "vocab_size": 96,
        "hidden_size": 128,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": PAD,
    }
    if text["model_type"] == "minicpm":
        text |= {
            "scale_emb": 3,
            "scale_depth": 1.4,
            "dim_model_base": 32,
            "tie_word_embeddings": False,
        }
    text |= changes.pop("text_config", {})
    vision = {
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "image_size": 40,
        "patch_size": 4,
    } | changes.pop("vision_config", {})
    fields = {
        "query_num": 4,
        "image_size": 16,
        "patch_size": 4,
        "drop_vision_last_layer": False,
        "image_token_id": IMAGE,
        "image_start_id": IMAGE_START,
        "image_end_id": IMAGE_END,
        "slice_start_id": SLICE_START,
        "slice_end_id": SLICE_END,
    } | changes
    config_class = CONFIG_MAPPING[RELEASES[version].model_type]
    return config_class(version=version, text_config=text, vision_config=vision, **fields)


def tiny_model(
    version: str, auto_class: Any = AutoModelForCausalLM, seed: int = 0, **changes: Any
) -> Any:
    """A random model of that release's shape, the same at every call.

    Weights are drawn wide enough for every part to move the logits.
    """
    torch.manual_seed(seed)
    model = auto_class.from_config(tiny_config(version, **changes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.1)
            else:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def strips(
    shapes: list[tuple[int, int]], seed: int = 0, max_patches: int | None = None
) -> torch.Tensor:
    """Random pixels of slices of so many patches: (num_slices, 3, 4, 4 * max_patches), padded."""
    patch_size = 4
    max_patches = max_patches or max(height * width for height, width in shapes)
    pixels = torch.zeros(len(shapes), 3, patch_size, patch_size * max_patches)
    for row, (height, width) in zip(pixels, shapes, strict=True):
        generator = torch.Generator().manual_seed(10000 * seed + 100 * height + width)
        length = height * width * patch_size
        row[..., :length] = torch.rand(3, patch_size, length, generator=generator) * 2 - 1
    return pixels


def tiny_batch(
    samples: list[list[tuple[int, int]]], seed: int = 0, num_queries: int = 4
) -> dict[str, torch.Tensor]:
    """Inputs of a tiny model, from one list of slice shapes per sample.

    Texts differ in length, are padded on the left, and hold the placeholder as an ordinary token,
    too. A slice of one shape is the same picture wherever it stands.
    """
    rows = []
    for index, shapes in enumerate(samples):
        ids = [3 + index]
        for position in range(len(shapes)):
            start, end = (IMAGE_START, IMAGE_END) if position == 0 else (SLICE_START, SLICE_END)
            ids += [start, *[IMAGE] * num_queries, end]
        generator = torch.Generator().manual_seed(seed * 1000 + sum(ids))
        text = torch.randint(3, NUM_TEXT_IDS, (6 + 3 * index,), generator=generator).tolist()
        text[2] = IMAGE  # typed by the user: no tags around it, so no place for a picture
        rows.append(ids + text)
    longest = max(map(len, rows))
    input_ids = torch.tensor([[PAD] * (longest - len(row)) + row for row in rows])
    opens = (input_ids == IMAGE_START) | (input_ids == SLICE_START)
    closes = (input_ids == IMAGE_END) | (input_ids == SLICE_END)
    is_inside = (opens.cumsum(1) - closes.cumsum(1)) > 0
    inputs = {
        "input_ids": input_ids,
        "attention_mask": torch.tensor(
            [[0] * (longest - len(row)) + [1] * len(row) for row in rows]
        ),
        "mm_token_type_ids": ((input_ids == IMAGE) & is_inside).long(),
    }
    shapes = [shape for sample in samples for shape in sample]
    if shapes:
        inputs |= {
            "pixel_values": strips(shapes, seed),
            "target_sizes": torch.tensor(shapes),
        }
    return inputs


def picture(height: int, width: int, seed: int = 0, mode: str = "RGB") -> Image.Image:
    """A picture with areas, edges and noise; the same for the same arguments."""
    generator = torch.Generator().manual_seed(seed)
    areas = torch.rand(1, 3, 4, 4, generator=generator)
    pixels = torch.nn.functional.interpolate(areas, (height, width), mode="nearest")[0]
    pixels = pixels + 0.1 * torch.rand(3, height, width, generator=generator)
    pixels = (pixels.clamp(0, 1) * 255).to(torch.uint8).permute(1, 2, 0)
    return Image.fromarray(pixels.numpy()).convert(mode)


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
