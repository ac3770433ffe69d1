"""Which parts are trained, and that a folder holds exactly those and gives them back."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors import safe_open

from minicpmv import load
from minicpmv.adapters import LoraSettings, Parts, apply_parts, attach, base_of, save_adapter
from minicpmv.adapters.parts import is_fixed
from minicpmv.adapters.save import file_name
from minicpmv.errors import ArgumentError

from .tuned import FOLDERS, base, question, trained

peft = pytest.importorskip("peft")

FULL = [
    Parts("full", True, False),
    Parts("full", False, True),
    Parts("frozen", True, True),
]
LORA = [
    Parts("lora", True, False),
    Parts("lora", "lora", "lora"),
    Parts("lora", False, True, embeddings=True),
    Parts("frozen", True, "lora"),
]
TEXT = [Parts("full", False, False), Parts("lora", False, False), Parts("lora", False, False, True)]
VISION_MODELS = ["1.0", "2.0", "2.5", "2.6", "omnilmm-12b"]
CASES = [
    *((model, parts) for model in ("2.5", "2.6") for parts in (*FULL, *LORA)),
    *((model, parts) for model in ("1.0", "2.0", "omnilmm-12b") for parts in LORA[:3]),
    *((model, parts) for model in ("2b", "moe-8x2b") for parts in TEXT),
]


@pytest.mark.parametrize(("model", "parts"), CASES)
def test_a_folder_gives_back_what_was_trained(tmp_path: Path, model: str, parts: Parts) -> None:
    chat, tuned = trained(model, parts)
    save_adapter(tuned, chat.processor, tmp_path / "out", {})
    again = load(tmp_path / "out", "cpu", "float32")
    inputs = question(chat)
    with torch.no_grad():
        expected = tuned(**inputs).logits
        assert torch.equal(again.model(**inputs).logits, expected)
        assert not torch.equal(base(model).model(**inputs).logits, expected)


@pytest.mark.parametrize(("model", "parts"), [c for c in CASES if c[1].uses_lora])
def test_an_adapter_holds_exactly_what_is_trained(tmp_path: Path, model: str, parts: Parts) -> None:
    chat, tuned = trained(model, parts)
    save_adapter(tuned, chat.processor, tmp_path / "out", {})
    with safe_open(tmp_path / "out" / "adapter_model.safetensors", "pt") as file:
        names = set(file.keys())
    parameters = tuned.named_parameters(remove_duplicate=False)
    wanted = {file_name(name) for name, p in parameters if p.requires_grad}
    assert wanted
    assert {name for name in names if not is_fixed(name)} == wanted
    for part, value in (("resampler", parts.resampler), ("vision_tower", parts.vision)):
        assert any(f".{part}." in name for name in names) == bool(value)


@pytest.mark.parametrize("model", VISION_MODELS)
def test_answers_of_a_chat_are_those_of_generate(tmp_path: Path, model: str) -> None:
    """The engine takes the trained resampler and tower, not the ones that they stand for."""
    chat, tuned = trained(model, Parts("lora", True, True))
    save_adapter(tuned, chat.processor, tmp_path / "out", {})
    again = load(FOLDERS[model], "cpu", "float32", adapter=tmp_path / "out")
    picture = Image.radial_gradient("L").resize((60, 60)).convert("RGB")
    inputs = question(chat, picture)
    plain = {"do_sample": False, "num_beams": 1, "repetition_penalty": 1.0}
    ids = tuned.generate(**inputs, **plain, max_new_tokens=6)
    expected = chat.processor.decode_answer(ids[0, inputs["input_ids"].shape[1] :])
    settings = {"sampling": False, "num_beams": 1, "repetition_penalty": 1.0, "max_new_tokens": 6}
    assert again.ask("What is it?", [picture], **settings) == expected
    assert base(model).ask("What is it?", [picture], **settings) != expected


def test_training_goes_on_from_the_very_numbers(tmp_path: Path) -> None:
    chat, tuned = trained("2.6", Parts("lora", True, False), dtype="bfloat16")
    kinds = {p.dtype for p in tuned.parameters() if p.requires_grad}
    assert kinds == {torch.float32}
    save_adapter(tuned, chat.processor, tmp_path / "out", {})
    again = attach(load(FOLDERS["2.6"], "cpu", "bfloat16").model, tmp_path / "out", trainable=True)
    found = dict(again.named_parameters())
    for name, parameter in tuned.named_parameters():
        assert found[name].requires_grad == parameter.requires_grad
        assert torch.equal(found[name], parameter)


def test_settings_of_the_training_hold_when_it_is_loaded(tmp_path: Path) -> None:
    chat, tuned = trained("2.6", Parts("lora", False, False))
    save_adapter(tuned, chat.processor, tmp_path / "out", {"max_slice_nums": 2, "data": "a.json"})
    written = json.loads((tmp_path / "out" / "training_settings.json").read_text())
    assert written["release"] == "2.6"
    assert written["parts"]["language"] == "lora"
    assert base_of(tmp_path / "out") == str(FOLDERS["2.6"].resolve())
    again = load(tmp_path / "out", "cpu", "float32")
    assert again.processor.image_processor.max_slice_nums == 2


@pytest.mark.parametrize(
    ("key", "said"), [("chat_template_sha256", "chat template"), ("tokenizer_sha256", "tokenizer")]
)
def test_another_template_is_refused(tmp_path: Path, key: str, said: str) -> None:
    chat, tuned = trained("2.6", Parts("lora", False, False))
    save_adapter(tuned, chat.processor, tmp_path / "out", {key: "0" * 64})
    with pytest.raises(ValueError, match=f"trained with another {said}"):
        load(tmp_path / "out", "cpu", "float32")


def test_an_adapter_of_another_model_is_refused(tmp_path: Path) -> None:
    chat, tuned = trained("2.6", Parts("lora", False, False))
    save_adapter(tuned, chat.processor, tmp_path / "out", {})
    with pytest.raises(ValueError, match=r"belongs to the release 2.6 and the model is 2.5"):
        load(FOLDERS["2.5"], "cpu", "float32", adapter=tmp_path / "out")
    (tmp_path / "out" / "training_settings.json").unlink()
    with pytest.raises(ValueError, match="of another shape"):
        load("nano", "cpu", "float32", adapter=tmp_path / "out")


def test_packed_weights_take_no_adapter(tmp_path: Path) -> None:
    chat, tuned = trained("2.6", Parts("lora", False, False))
    save_adapter(tuned, chat.processor, tmp_path / "out", {})
    with pytest.raises(ValueError, match="minicpmv merge"):
        load(FOLDERS["2.6"], "cpu", quantize="int8", adapter=tmp_path / "out")


@pytest.mark.parametrize(
    ("targets", "ends"),
    [
        ("default", {"q_proj", "k_proj", "v_proj", "o_proj"}),
        ("q_proj, up_proj", {"q_proj", "up_proj"}),
        (r"llm\..*layers\.\d+\.self_attn\.(q_proj|v_proj)", {"q_proj", "v_proj"}),
        (
            "all-linear",
            {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"},
        ),
    ],
)
def test_targets(targets: str, ends: set[str]) -> None:
    found = _adapted("2.6", Parts("lora", False, False), LoraSettings(targets=targets))
    assert {name.rpartition(".")[2] for name in found} == ends
    assert all(name.startswith("base_model.model.model.language_model.layers") for name in found)


def test_targets_of_experts_and_single_layers() -> None:
    parts = Parts("lora", False, False)
    experts = _adapted("moe-8x2b", parts, LoraSettings(targets="all-linear"))
    assert {"w1", "w2", "w3", "q_proj"} <= {name.rpartition(".")[2] for name in experts}
    assert not any(name.endswith("gate") for name in experts)
    one = _adapted("2.6", parts, LoraSettings(layers=(1,)))
    assert {name.split(".layers.")[1].split(".")[0] for name in one} == {"1"}


@pytest.mark.parametrize(
    ("model", "parts", "lora", "said"),
    [
        ("2b", ("lora", True, False), {}, "resampler cannot be trained: this is a text model"),
        ("2b", ("lora", False, "lora"), {}, "vision cannot be trained"),
        ("2.6", ("frozen", False, False), {}, "Nothing is trained"),
        ("2.6", ("full", "lora", False), {}, "language is trained whole"),
        ("2.6", ("half", True, False), {}, "language is 'half'"),
        ("2.6", ("lora", False, False), {"targets": "c_attn"}, "lora_targets names 'c_attn'"),
        ("2.6", ("lora", False, False), {"targets": "(x"}, "no regular expression"),
        ("2.6", ("lora", False, False), {"targets": "x.*y"}, "finds no layer"),
        ("2.6", ("lora", False, False), {"layers": (77,)}, "the layers are 0 to"),
    ],
)
def test_refused(model: str, parts: Any, lora: dict[str, Any], said: str) -> None:
    with pytest.raises(ArgumentError, match=said):
        apply_parts(load(FOLDERS[model], "cpu").model, Parts(*parts), LoraSettings(**lora))


def test_what_is_not_an_adapter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="It is a whole model"):
        attach(base("2.6").model, FOLDERS["2.6"])
    chat, tuned = trained("2.6", Parts("lora", False, False))
    save_adapter(tuned, chat.processor, tmp_path / "out", {})
    with pytest.raises(ValueError, match="has an adapter already"):
        attach(tuned, tmp_path / "out")
    (tmp_path / "out" / "adapter_model.safetensors").unlink()
    with pytest.raises(OSError, match=r"has no adapter_model.safetensors"):
        load(tmp_path / "out")


def _adapted(model: str, parts: Parts, lora: LoraSettings) -> list[str]:
    """Names of the layers that have adapters."""
    tuned = apply_parts(load(FOLDERS[model], "cpu").model, parts, lora)
    return [name for name, module in tuned.named_modules() if hasattr(module, "lora_A")]
