"""Impossible sizes, whole numbers and NaN in weight files are named; nothing is allocated."""

import json
import math
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import minicpmv.auto  # noqa: F401
from minicpmv import load
from minicpmv.checkpoint.hub import Checkpoint
from minicpmv.engine.finite import FiniteLogits
from minicpmv.inspection import inspect

from ..helpers.golden import CHECKPOINTS, GOLDEN

FOLDERS = CHECKPOINTS | {
    "2b": GOLDEN / "minicpm-2b" / "ckpt",
    "128k": GOLDEN / "minicpm-2b-128k" / "ckpt",
    "moe": GOLDEN / "minicpm-moe-8x2b" / "ckpt",
}
MOST_MODULES = 2000


@pytest.fixture
def few_modules(monkeypatch):
    """Building more modules than a tiny model has ends the test."""
    build, built = torch.nn.Module.__init__, []

    def count(self, *args, **kwargs):
        built.append(1)
        assert len(built) < MOST_MODULES, "a large model is built"
        build(self, *args, **kwargs)

    monkeypatch.setattr(torch.nn.Module, "__init__", count)


@pytest.fixture
def folder(tmp_path):
    def copied(name, change=None, **fields):
        target = tmp_path / name
        shutil.copytree(FOLDERS[name], target)
        if fields:
            content = json.loads((target / "config.json").read_text()) | fields
            (target / "config.json").write_text(json.dumps(content))
        if change:
            tensors = load_file(target / "model.safetensors")
            change(tensors)
            save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
        return target

    return copied


def refusal(folder):
    with pytest.raises(ValueError) as caught:
        AutoModelForCausalLM.from_pretrained(folder)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("2.6", "num_hidden_layers", 100_000),
        ("2b", "num_hidden_layers", 1_000_000),
        ("moe", "num_experts", 100_000),
    ],
)
def test_a_count_beyond_the_files_is_refused_unbuilt(name, field, value, folder, few_modules):
    assert f"{field} {value}, the weights have" in refusal(folder(name, **{field: value}))


def test_layers_of_the_tower_are_counted_too(folder, few_modules):
    tower = json.loads((FOLDERS["2.6"] / "config.json").read_text())["vision_config"]
    message = refusal(folder("2.6", vision_config=tower | {"num_hidden_layers": 100_000}))
    assert "vision_config.num_hidden_layers 100000, the weights have 2 layers" in message


@pytest.mark.parametrize(
    ("name", "field", "tensor"),
    [
        ("2.6", "intermediate_size", "mlp.gate_proj.weight"),
        ("2.6", "vocab_size", "embed_tokens.weight"),
        ("2.6", "query_num", "resampler.query"),
        ("2b", "intermediate_size", "mlp.up_proj.weight"),
        ("moe", "intermediate_size", "experts.0.w1.weight"),
    ],
)
def test_a_size_beyond_the_files_is_refused_unallocated(name, field, tensor, folder):
    message = refusal(folder(name, **{field: 10**9}))
    assert all(word in message for word in ("of another shape", tensor, "1000000000"))


@pytest.mark.parametrize("kind", [torch.int64, torch.int8, torch.bool, torch.float8_e4m3fn])
@pytest.mark.parametrize("name", ["2.6", "omnilmm-12b", "2b"])
def test_a_tensor_that_holds_no_weights_is_named(name, kind, folder):
    def change(tensors):
        norm = next(name for name in tensors if name.endswith("layers.1.input_layernorm.weight"))
        tensors[norm] = tensors[norm].to(kind)

    assert "layers.1.input_layernorm.weight" in refusal(folder(name, change))


def test_a_head_of_its_own_is_not_passed_over(folder):
    target = folder("128k")
    content = json.loads((target / "config.json").read_text())
    assert content.pop("tie_word_embeddings") is False
    (target / "config.json").write_text(json.dumps(content))
    assert "tie_word_embeddings" in refusal(target)


def test_info_names_what_loading_refuses(folder, few_modules):
    def change(tensors):
        tensors["llm.model.norm.weight"] = tensors["llm.model.norm.weight"].to(torch.int64)

    report = inspect(Checkpoint.find(folder("2.6", change)))
    assert "llm.model.norm.weight" in "; ".join(report["mismatches"])
    with pytest.raises(ValueError, match="num_hidden_layers 100000, the weights have"):
        inspect(Checkpoint.find(folder("2b", num_hidden_layers=100_000)))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("name", "end"),
    [("2.6", "resampler.proj"), ("2b", "model.norm.weight"), ("1.0", "embed_tokens.weight")],
)
def test_a_weight_that_is_not_finite_is_named(name, end, value, folder):
    named = []

    def change(tensors):
        named.extend(name for name in tensors if name.endswith(end))
        tensors[named[0]].view(-1)[-1] = value

    message = refusal(folder(name, change))
    assert all(word in message for word in ("not finite", f"{named[0]} in model.safetensors"))


def test_logits_that_are_not_finite_end_the_generation():
    ids, check = torch.zeros(2, 1, dtype=torch.long), FiniteLogits()
    fine = torch.tensor([[0.0, -math.inf, 3.0], [1.0, 2.0, -5.0]])
    assert check(ids, fine) is fine
    for value, width in ((math.nan, 1), (math.inf, 1), (-math.inf, 3)):
        wrong = fine.clone()
        wrong[1, :width] = value
        with pytest.raises(ValueError, match="not finite"):
            check(ids, wrong)


@pytest.mark.parametrize("way", ["ask", "stream", "batch", "say"])
def test_no_answer_comes_from_numbers_that_are_not_finite(way):
    chat = load(FOLDERS["2b"], device="cpu", dtype="float32")
    with torch.no_grad():
        chat.model.model.norm.weight.fill_(math.nan)
    question = ["Hello", "Good day"] if way == "batch" else "Hello"
    with pytest.raises(ValueError, match="not finite"):
        list(getattr(chat, way)(question, max_new_tokens=2))


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("2.6", "intermediate_size", 10**9),
        ("2.6", "vocab_size", 745),
        ("2.6", "query_num", 9),
        ("2.6", "num_key_value_heads", None),
        ("2.6", "num_hidden_layers", 3),
        ("2.6", "num_hidden_layers", 1),
        ("2.6", "drop_vision_last_layer", True),
        ("2b", "intermediate_size", 181),
        ("moe", "num_experts", 0),
        ("moe", "num_experts", 3),
    ],
)
def test_the_field_behind_other_tensors_is_named(name, field, value, folder):
    target = folder(name, **{field: value})
    assert f"{field} " in refusal(target).partition("See config.json: ")[2]
    report = inspect(Checkpoint.find(target))["mismatches"]
    assert any(line.startswith("config.json") and field in line for line in report)


@pytest.mark.parametrize("field", ["hidden_size", "num_hidden_layers"])
def test_sizes_that_cannot_be_counted_with_are_refused_unbuilt(field, folder, few_modules):
    assert f"says {field} 1099511627776" in refusal(folder("2.6", **{field: 2**40}))
