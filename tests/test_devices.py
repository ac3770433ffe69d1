"""Weights spread over devices: on the CPU and the disk for real, on GPUs by computing the map."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.utils import compute_module_sizes
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.integrations.accelerate import _get_device_map

from minicpmv import Chat, load

from .helpers.golden import GOLDEN
from .helpers.pictures import picture
from .helpers.released_tensors import CONFIGS
from .helpers.tiny import tiny_model

WITH_PICTURES = {
    "minicpm-v-1_0": "checkpoint",
    "minicpm-v-2": "checkpoint",
    "minicpm-llama3-v-2_5": "checkpoint",
    "minicpm-v-2_6": "checkpoint",
    "omnilmm-12b": "checkpoint",
}
TEXT_ONLY = {"minicpm-2b": "ckpt", "minicpm-moe-8x2b": "ckpt"}
GREEDY = {"sampling": False, "num_beams": 1, "max_new_tokens": 4}
GIB = 2**30


@pytest.fixture(scope="module", params=[*WITH_PICTURES, *TEXT_ONLY])
def checkpoint(request: pytest.FixtureRequest) -> Path:
    return GOLDEN / request.param / (WITH_PICTURES | TEXT_ONLY)[request.param]


@pytest.fixture(scope="module")
def whole(checkpoint: Path) -> Chat:
    """The model on one device."""
    return load(checkpoint, device="cpu", dtype="float32")


def check_same(spread: Chat, whole: Chat) -> None:
    """Logits and an answer."""
    images = [picture(300, 700)] if hasattr(whole.model.config, "vision_config") else []
    assert spread.model.device == torch.device("cpu")
    asked = [{"role": "user", "content": [*images, "What is it?"]}]
    inputs, _ = whole.prepare([asked], **GREEDY)
    with torch.no_grad():
        expected, logits = whole.model(**inputs).logits, spread.model(**inputs).logits
    assert torch.equal(logits, expected)
    answer = spread.ask("What is it?", images, **GREEDY)
    assert answer.text == whole.ask("What is it?", images, **GREEDY).text


def split_modules(model: Any, device_map: dict[str, Any]) -> list[str]:
    """Modules that must stay in one piece and do not."""
    whole = [
        name
        for name, module in model.named_modules()
        if type(module).__name__ in model._no_split_modules
    ]
    assert whole
    return [name for name in whole if any(key.startswith(f"{name}.") for key in device_map)]


@pytest.mark.parametrize("share", [0.1, 0.3, 0.4, 0.6, 0.75, 0.95])
def test_what_does_not_fit_the_cpu_waits_on_the_disk(
    checkpoint: Path, whole: Chat, share: float, capfd: pytest.CaptureFixture
) -> None:
    size = sum(4 * parameter.numel() for parameter in whole.model.parameters())
    memory = {"cpu": int(share * size)}
    spread = load(checkpoint, dtype="float32", device_map="auto", max_memory=memory)
    device_map = spread.model.hf_device_map
    assert "disk" in device_map.values()
    assert split_modules(spread.model, device_map) == []
    check_same(spread, whole)
    assert capfd.readouterr().err == ""


def test_parts_go_where_the_map_says(checkpoint: Path, whole: Chat) -> None:
    if checkpoint.parent.name in TEXT_ONLY:
        parts = ["model.embed_tokens", "model.layers", "model.norm", "model.rotary_emb", "lm_head"]
    else:
        parts = ["model.vision_tower", "model.resampler", "model.language_model", "lm_head"]
    for waiting in parts[:3]:
        places = {part: "disk" if part == waiting else "cpu" for part in parts}
        if getattr(whole.model.config, "tie_word_embeddings", False):
            places["lm_head"] = places.get("model.embed_tokens", "cpu")
        spread = load(checkpoint, dtype="float32", device_map=places)
        assert spread.model.hf_device_map == places
        check_same(spread, whole)
    check_same(load(checkpoint, dtype="float32", device_map={"": "disk"}), whole)


def test_weights_of_a_pickle_are_written_to_the_offload_folder(tmp_path: Path) -> None:
    source = GOLDEN / "minicpm-v-2_6" / "checkpoint"
    whole = load(source, device="cpu", dtype="float32")
    shutil.copytree(source, tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    state = {whole.model.released_name(k): v for k, v in whole.model.state_dict().items()}
    torch.save(state, tmp_path / "model" / "pytorch_model.bin")
    places = {"dtype": "float32", "device_map": {"": "disk"}}
    with pytest.raises(ValueError, match="offload_folder"):
        load(tmp_path / "model", **places)
    spread = load(tmp_path / "model", **places, offload_folder=tmp_path / "offload")
    assert list((tmp_path / "offload").iterdir())
    check_same(spread, whole)
    with pytest.raises(ValueError, match="offload_folder has no effect without device_map"):
        load(source, offload_folder=tmp_path)


def test_inputs_go_to_the_embeddings(version: str) -> None:
    model = tiny_model(version)
    model.model.vision_tower.to("meta")
    assert model.device == torch.device("cpu")
    model.model.language_model.embed_tokens.to("meta")
    assert model.device == torch.device("meta")


def weights_gib(model: Any, device_map: dict[str, Any]) -> dict[Any, float]:
    sizes = compute_module_sizes(model)
    used: dict[Any, float] = {}
    for name, device in device_map.items():
        used[device] = used.get(device, 0.0) + sizes[name] / GIB
    return used


def computed(model: Any, memory_gib: dict[Any, int]) -> dict[str, Any]:
    """What `device_map="auto"` gives on a machine with these devices."""
    memory = {device: size * GIB for device, size in memory_gib.items()}
    return _get_device_map(model, "auto", memory, None)


@pytest.mark.parametrize("member", [path.stem for path in sorted(CONFIGS.glob("*.json"))])
def test_every_member_fits_two_gpus_of_16_gib_and_splits_nothing(
    member: str, tmp_path: Path
) -> None:
    """At true size in bfloat16; the figures are those of docs/devices.md."""
    shutil.copyfile(CONFIGS / f"{member}.json", tmp_path / "config.json")
    with torch.device("meta"):
        config = AutoConfig.from_pretrained(tmp_path)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.tie_weights()
    two = computed(model, {0: 14, 1: 14, "cpu": 64})
    small = computed(model, {0: 6, "cpu": 64})
    for device_map in (two, small):
        assert split_modules(model, device_map) == []
    on_two, on_small = weights_gib(model, two), weights_gib(model, small)
    assert set(on_two) == {0, 1}
    assert max(on_two.values()) <= 14
    assert on_small[0] <= 6
    total = sum(on_two.values())
    row = (
        f"| {total:.1f} | {on_two[0]:.1f} + {on_two[1]:.1f} "
        f"| {on_small[0]:.1f} + {on_small.get('cpu', 0):.1f} |"
    )
    text = (Path(__file__).parents[1] / "docs" / "devices.md").read_text(encoding="utf-8")
    (line,) = (line for line in text.splitlines() if line.startswith(f"| `{member}` "))
    assert line.endswith(row), row
