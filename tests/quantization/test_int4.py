"""Released int4 files, and quantising while loading."""

import importlib.util
import json
import shutil
import warnings

import bitsandbytes
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    AutoModelForImageTextToText,
    BitsAndBytesConfig,
    MixtralConfig,
)

from minicpmv import load
from minicpmv.checkpoint.hub import Checkpoint
from minicpmv.cli.info import as_text
from minicpmv.inspection import inspect
from minicpmv.loader import MODEL_CLASSES
from minicpmv.model.configuration_minicpm import MiniCPMConfig
from minicpmv.model.minicpm import MiniCPMForCausalLM
from minicpmv.model.modeling import MiniCPMVForConditionalGeneration, MiniCPMVModel
from minicpmv.quantization import bits_config, weight_bytes

from ..helpers.golden import CHECKPOINTS, Golden, golden_case
from ..helpers.pictures import picture
from ..helpers.quantized import (
    SKIP_LISTS,
    TEXT,
    int4_release,
    logits_of,
    packed,
)
from ..helpers.tiny import tiny_model


def unpacked(folder):
    """The dense tensors of an int4 file, with plain arithmetic."""
    tensors = load_file(folder / "model.safetensors")
    for name in [name for name in tensors if name.endswith(".quant_state.bitsandbytes__nf4")]:
        weight = name.removesuffix(".quant_state.bitsandbytes__nf4")
        facts = json.loads(bytes(tensors.pop(name).tolist()))
        scales = tensors.pop(f"{weight}.nested_quant_map")[tensors.pop(f"{weight}.absmax").long()]
        nested = tensors.pop(f"{weight}.nested_absmax").repeat_interleave(facts["nested_blocksize"])
        scales = scales * nested[: len(scales)] + facts["nested_offset"]
        bytes_ = tensors[weight].flatten().long()
        values = torch.stack([bytes_ >> 4, bytes_ & 15], dim=1).flatten()
        values = tensors.pop(f"{weight}.quant_map")[values]
        scales = scales.repeat_interleave(facts["blocksize"])[: len(values)]
        tensors[weight] = (values * scales).reshape(facts["shape"])
    return tensors


def quantised_chat(version, quantize, **options):
    """A golden checkpoint, quantised while loading; its rows of 224 inputs stay dense in int4."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        chat = load(CHECKPOINTS[version], device="cpu", quantize=quantize, **options)
    messages = [str(warning.message) for warning in caught]
    assert len(messages) == (1 if quantize == "nf4" else 0)
    assert all("inputs are no multiple of 64" in message for message in messages)
    return chat


def quantised_model(version, quantize, **options):
    return quantised_chat(version, quantize, **options).model


def linear_types(model, prefix):
    """Class names of the linear layers under `prefix`."""
    return {
        type(module).__name__
        for name, module in model.named_modules()
        if name.startswith(prefix) and isinstance(module, nn.Linear)
    }


LAYER = "llm.model.layers.1.mlp.up_proj"


def load_again(folder, version, dtype):
    for path in CHECKPOINTS[version].iterdir():
        if not (folder / path.name).exists():
            shutil.copy(path, folder)
    return load(folder, device="cpu", dtype=dtype)


def inspected(folder):
    for path in CHECKPOINTS["2.6"].iterdir():
        if not (folder / path.name).exists():
            shutil.copy(path, folder)
    return inspect(Checkpoint.find(folder))


# Released int4 files


@pytest.mark.parametrize("skip", SKIP_LISTS, ids=lambda skip: skip[0])
def test_released_int4_is_the_weights_unpacked_by_hand(version, skip, tmp_path):
    folder = int4_release(version, tmp_path / "int4", skip)
    model = MiniCPMVForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    # Rows of 224 inputs end inside a block of 64, which bitsandbytes misreads on CPUs.
    assert linear_types(model, "model.language_model") == {"Linear4bit", "Linear"}
    assert type(model.get_submodule("model.language_model.layers.0.mlp.down_proj")) is nn.Linear
    assert linear_types(model, "model.vision_tower") == {"Linear"}
    assert "Linear4bit" not in linear_types(model, "model.resampler")
    assert model.config.quantization_config.llm_int8_skip_modules == list(skip)

    dense = tmp_path / "dense"
    shutil.copytree(CHECKPOINTS[version], dense)
    save_file(unpacked(folder), dense / "model.safetensors", metadata={"format": "pt"})
    expected = MiniCPMVForConditionalGeneration.from_pretrained(dense)
    inputs = golden_case(version, "single_tiny").inputs
    torch.testing.assert_close(
        logits_of(model, inputs), logits_of(expected, inputs), atol=1e-4, rtol=0
    )


def test_released_int4_is_what_quantising_gives(version, tmp_path):
    folder = int4_release(version, tmp_path / "int4", packs=lambda weight: weight.shape[1] == 256)
    released = load(folder, device="cpu").model
    quantised = quantised_model(version, "nf4")
    inputs = golden_case(version, "single_tiny").inputs
    found = logits_of(released, inputs)
    torch.testing.assert_close(found, logits_of(quantised, inputs), atol=0, rtol=0)
    assert not torch.equal(found, logits_of(Golden(version).model, inputs))


def test_model_without_its_head(tmp_path):
    folder = int4_release("2.6", tmp_path / "int4")
    bare = MiniCPMVModel.from_pretrained(folder, dtype=torch.float32)
    whole = MiniCPMVForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    assert linear_types(bare, "language_model.layers.0.self_attn") == {"Linear4bit"}
    ids = torch.arange(5, 20)[None]
    with torch.no_grad():
        hidden = bare(input_ids=ids).last_hidden_state
        assert torch.equal(whole.lm_head(hidden), whole(input_ids=ids).logits)


def test_int4_in_pieces(tmp_path):
    released = int4_release("2.6", tmp_path / "int4")
    model = load(released, device="cpu").model
    model.save_pretrained(tmp_path / "pieces", max_shard_size="1MB")
    assert len(list((tmp_path / "pieces").glob("*.safetensors"))) > 2
    again = AutoModelForImageTextToText.from_pretrained(tmp_path / "pieces")
    inputs = golden_case("2.6", "single_tiny").inputs
    assert torch.equal(logits_of(again, inputs), logits_of(model, inputs))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda tensors: tensors.pop(f"{LAYER}.weight.absmax"),
            rf"not those of its config: 1 missing: {LAYER}\.weight\.absmax\. Download",
        ),
        (
            lambda tensors: tensors.pop(f"{LAYER}.weight.nested_quant_map"),
            rf"1 missing: {LAYER}\.weight\.nested_quant_map\.",
        ),
        (
            lambda tensors: tensors.pop(f"{LAYER}.weight.quant_state.bitsandbytes__nf4"),
            rf"1 missing: {LAYER}\.weight\.quant_state\.bitsandbytes__nf4\.",
        ),
        (lambda tensors: tensors.pop(f"{LAYER}.weight"), rf"1 missing: {LAYER}\.weight\."),
        (
            lambda tensors: tensors.update({"llm.model.norm.weight.absmax": torch.ones(1)}),
            r"1 unexpected: llm\.model\.norm\.weight\.absmax\.",
        ),
        (
            lambda tensors: tensors.update({"llm.model.layers.9.mlp.up_proj.bias": torch.ones(1)}),
            r"1 unexpected: llm\.model\.layers\.9\.mlp\.up_proj\.bias\.",
        ),
        (
            lambda tensors: tensors.update({"resampler.query": torch.ones(3, 256)}),
            r"1 of another shape: resampler\.query \(3, 256\), expected \(\d+, 256\)\.",
        ),
        (
            lambda tensors: tensors.update(packed(f"{LAYER}.weight", torch.randn(64, 256))),
            rf"1 of another shape: {LAYER}\.weight \(64, 256\), expected \(\d+, 256\)\.",
        ),
    ],
    ids=["absmax", "nested", "state", "weight", "beside", "extra", "shape", "packed-shape"],
)
def test_wrong_tensors_are_named(tmp_path, change, message):
    folder = int4_release("2.6", tmp_path / "int4", change=change)
    with pytest.raises(ValueError, match=message):
        AutoModelForImageTextToText.from_pretrained(folder)


def test_truncated_int4_file_is_named(tmp_path):
    folder = int4_release("2.6", tmp_path / "int4")
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:100000])
    with pytest.raises(OSError, match=r"model\.safetensors' is damaged or not complete"):
        AutoModelForImageTextToText.from_pretrained(folder)


# Quantising while loading


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("quantize", ["nf4", "llm.int8"])
def test_quantised_while_loading(version, quantize, dtype, tmp_path):
    chat = quantised_chat(version, quantize, dtype=dtype)
    model = chat.model
    quantised = "Linear4bit" if quantize == "nf4" else "Linear8bitLt"
    assert quantised in linear_types(model, "model.language_model")
    for part in ("model.vision_tower", "model.resampler", "lm_head"):
        assert quantised not in linear_types(model, part)
    wanted = getattr(torch, dtype)
    assert {p.dtype for p in model.model.vision_tower.parameters()} == {wanted}
    if quantize == "nf4":
        up_proj = model.get_submodule("model.language_model.layers.0.mlp.up_proj")
        assert up_proj.compute_dtype == wanted
        assert up_proj.weight.dtype == torch.uint8

    model.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["quantization_config"]["llm_int8_skip_modules"] == [
        "vpm",
        "resampler",
        "lm_head",
    ]
    assert written["torch_dtype"] == dtype
    answer = chat.ask("What?", [picture(30, 40)], max_new_tokens=3)
    assert answer.num_output_tokens <= 3
    again = load_again(tmp_path, version, dtype).model
    inputs = golden_case(version, "text_only").inputs
    assert torch.equal(logits_of(again, inputs), logits_of(model, inputs))
    again = load_again(tmp_path, version, dtype).model
    again.save_pretrained(tmp_path / "again")
    first, second = load_file(tmp_path / "model.safetensors"), None
    second = load_file(tmp_path / "again" / "model.safetensors")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(("quantize", "most"), [("nf4", 0.5), ("llm.int8", 0.05)])
def test_quantised_logits_are_near(version, quantize, most):
    """Random weights are hard to quantise: trained ones lie far closer."""
    model = quantised_model(version, quantize)
    inputs = golden_case(version, "single_tiny").inputs
    expected = logits_of(Golden(version).model, inputs)
    error = (logits_of(model, inputs) - expected).norm() / expected.norm()
    assert 0 < error < most


def test_who_names_modules_decides(tmp_path):
    """A BitsAndBytesConfig may name modules as released files or as we do."""
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=["vpm", "resampler", "lm_head", "model.language_model.layers.0"],
    )
    with pytest.warns(UserWarning, match="1 of 7 layers keep"):
        model = AutoModelForImageTextToText.from_pretrained(
            CHECKPOINTS["2.6"], quantization_config=config
        )
    assert linear_types(model, "model.language_model.layers.0.") == {"Linear"}
    assert linear_types(model, "model.language_model.layers.1.self_attn") == {"Linear4bit"}
    assert linear_types(model, "model.vision_tower") == {"Linear"}
    up_proj = model.get_submodule("model.language_model.layers.1.mlp.up_proj")
    assert up_proj.compute_dtype == torch.bfloat16


def test_layers_of_odd_size_stay_dense(version, tmp_path):
    tiny_model(version, text_config={"intermediate_size": 40}).save_pretrained(tmp_path)
    message = (
        r"2 of 14 layers keep .* multiple of 64: llm\.model\.layers\.0\.mlp\.down_proj has 40\."
    )
    with pytest.warns(UserWarning, match=message):
        model = AutoModelForImageTextToText.from_pretrained(
            tmp_path, quantization_config=BitsAndBytesConfig(load_in_4bit=True)
        )
    assert type(model.get_submodule("model.language_model.layers.0.mlp.down_proj")) is nn.Linear
    assert linear_types(model, "model.language_model.layers.0.self_attn") == {"Linear4bit"}


@pytest.mark.filterwarnings("ignore:.*keep their full weights")
@pytest.mark.parametrize("quantize", ["nf4", "llm.int8"])
def test_stored_in_one_dtype_and_loaded_in_another(quantize, tmp_path):
    """transformers casts the biases of a quantised file, and leaves the matrices beside them."""
    load(CHECKPOINTS["2.6"], "cpu", "bfloat16", quantize=quantize).model.save_pretrained(tmp_path)
    model = MiniCPMVForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.float32)
    plain = [p for p in model.parameters() if p.is_floating_point()]
    assert len(plain) > 20
    assert {parameter.dtype for parameter in plain} == {torch.float32}


def test_repacked_weights_are_not_saved(tmp_path):
    model = quantised_model("2.6", "nf4", dtype="bfloat16")
    weight = model.get_submodule("model.language_model.layers.0.mlp.up_proj").weight
    weight.quant_state.packing_format_for_cpu = True  # as after a call on a CPU with AVX512-BF16
    with pytest.raises(ValueError, match=r"repacked .*layers\.0\.mlp\.up_proj.* for this CPU"):
        model.save_pretrained(tmp_path)


# What users run into


def test_casts_are_refused_in_one_line():
    model = quantised_model("2.6", "nf4")
    with pytest.raises(ValueError, match="not supported for quantized model"):
        model.half()
    with pytest.raises(ValueError, match="cannot cast a bitsandbytes model"):
        model.to("cpu", torch.float16)
    assert model.to("cpu") is model


def test_quantised_twice(tmp_path):
    folder = int4_release("2.6", tmp_path / "int4")
    with pytest.raises(ValueError, match=r"quantised already \(bitsandbytes\)\. Leave"):
        load(folder, device="cpu", quantize="llm.int8")


def test_unknown_width():
    with pytest.raises(ValueError, match=r"quantize is 'int3'; known: 'int4', 'int8'"):
        load(CHECKPOINTS["2.6"], device="cpu", quantize="int3")


def test_without_bitsandbytes(tmp_path, monkeypatch):
    folder = int4_release("2.6", tmp_path / "int4")
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "bitsandbytes" else find_spec(name, *rest),
    )
    with pytest.raises(ImportError, match=r'need bitsandbytes: pip install "minicpmv\[int4\]"'):
        load(folder, device="cpu")
    with pytest.raises(ImportError, match=r'pip install "minicpmv\[int4\]"'):
        load(CHECKPOINTS["2.6"], device="cpu", quantize="llm.int8")


def test_device_that_bitsandbytes_does_not_know(monkeypatch):
    monkeypatch.setattr(bitsandbytes, "supported_torch_devices", {"cuda", "xpu"})
    with pytest.raises(ValueError, match=r"does not run on 'cpu'; it knows cuda, xpu\."):
        load(CHECKPOINTS["2.6"], device="cpu", quantize="nf4")


# What it takes, and what `minicpmv info` says


@pytest.mark.parametrize("quantize", [None, "int8", "int4", "llm.int8", "nf4"])
def test_memory_is_what_the_tensors_take(quantize):
    model = load("nano", device="cpu", dtype="bfloat16", quantize=quantize).model
    taken = sum(
        tensor.numel() * tensor.element_size()
        for name, tensor in model.state_dict().items()
        if ".quant_state." not in name and not name.endswith("weight_format")  # settings
    )
    with torch.device("meta"):
        assert weight_bytes(type(model)(model.config), quantize) == taken


@pytest.mark.parametrize("quantize", ["nf4", "llm.int8"])
def test_info_knows_packed_weights(quantize, tmp_path):
    model = quantised_model("2.6", quantize)
    model.save_pretrained(tmp_path)
    report = inspected(tmp_path)
    assert report["mismatches"] == []
    packed_as = {"nf4": "int4", "llm.int8": "int8"}[quantize]
    assert report["weights"]["packed_as"] == packed_as
    taken = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    assert report["memory_bytes"][packed_as] == taken
    assert f"packed as {packed_as}" in as_text(report)


def test_info_names_a_layer_that_lacks_a_part(tmp_path):
    folder = int4_release(
        "2.6", tmp_path / "int4", change=lambda tensors: tensors.pop(f"{LAYER}.weight.absmax")
    )
    assert any(f"another shape: {LAYER}.weight" in line for line in inspected(folder)["mismatches"])


def test_info_knows_gptq(gptq):
    report = inspect(Checkpoint.find(gptq))
    assert report["mismatches"] == []
    assert report["weights"]["packed_as"] == "GPTQ"


# Text models


@pytest.mark.parametrize("num_experts", [0, 3], ids=["dense", "experts"])
@pytest.mark.parametrize("quantize", ["nf4", "llm.int8"])
def test_text_models_are_quantised_too(num_experts, quantize, tmp_path):
    torch.manual_seed(0)
    config = MiniCPMConfig(
        vocab_size=60,
        hidden_size=128,
        intermediate_size=192,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_experts=num_experts,
        num_experts_per_tok=min(num_experts, 2),
    )
    MiniCPMForCausalLM(config).save_pretrained(tmp_path / "full")
    model = MiniCPMForCausalLM.from_pretrained(
        tmp_path / "full", quantization_config=bits_config(quantize)
    )
    quantised = "Linear4bit" if quantize == "nf4" else "Linear8bitLt"
    assert linear_types(model, "model.layers.0.self_attn") == {quantised}
    assert linear_types(model, "lm_head") == {"Linear"}
    if num_experts:
        assert linear_types(model, "model.layers.0.mlp.experts") == {quantised}
        assert type(model.get_submodule("model.layers.0.mlp.gate")) is nn.Linear
    model.save_pretrained(tmp_path / "small")
    again = MiniCPMForCausalLM.from_pretrained(tmp_path / "small")
    inputs = {"input_ids": torch.arange(3, 20)[None]}
    assert torch.equal(logits_of(again, inputs), logits_of(model, inputs))


@pytest.mark.parametrize("name", ["minicpm-v-1_0", "minicpm-v-2", "omnilmm-12b"])
@pytest.mark.parametrize("quantize", ["nf4", "llm.int8"])
@pytest.mark.filterwarnings("ignore:.*keep their full weights")
def test_first_releases_are_quantised_too(name, quantize):
    folder = CHECKPOINTS["2.6"].parents[1] / name
    (checkpoint,) = (path.parent for path in folder.glob("*/config.json"))
    chat = load(checkpoint, device="cpu", quantize=quantize)
    quantised = "Linear4bit" if quantize == "nf4" else "Linear8bitLt"
    assert quantised in linear_types(chat.model, "model.language_model")
    for part in ("model.vision_tower", "model.resampler", "lm_head"):
        assert quantised not in linear_types(chat.model, part)
    assert chat.ask("What?", [picture(30, 40)], max_new_tokens=2).num_output_tokens <= 2


def test_joined_experts_are_not_quantised(tmp_path):
    config = MixtralConfig(
        vocab_size=60,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=4,
        num_local_experts=2,
    )
    config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"holds all experts .*minicpmv convert --to minicpm"):
        MODEL_CLASSES["mixtral"].from_pretrained(tmp_path, quantization_config=bits_config("nf4"))


def test_nothing_to_quantise():
    with pytest.raises(ValueError, match=r"No layer can be .* \(model\.layers\.0\..*: 72\) are no"):
        load(TEXT, device="cpu", quantize="nf4")
