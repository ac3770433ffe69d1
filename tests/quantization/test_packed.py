"""Models of packed weights: made while loading, saved, read again."""

import copy
import json
import pickle
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForImageTextToText, BitsAndBytesConfig

from minicpmv import load
from minicpmv.checkpoint.hub import Checkpoint
from minicpmv.cli.info import as_text
from minicpmv.inspection import inspect
from minicpmv.kernels.packing import PackedWeight, dequantize
from minicpmv.model.configuration_minicpm import MiniCPMConfig
from minicpmv.model.minicpm import MiniCPMForCausalLM, MiniCPMModel
from minicpmv.model.modeling import MiniCPMVForConditionalGeneration, MiniCPMVModel
from minicpmv.quantization import PackedConfig, format_config, weight_bytes
from minicpmv.quantization.packed_config import PARTS
from minicpmv.quantization.packed_linear import PackedEmbedding, PackedLinear
from minicpmv.quantization.quantiser import quantise_rows

from ..helpers.golden import CHECKPOINTS, golden_case
from ..helpers.pictures import picture
from ..helpers.quantized import TEXT, logits_of

FOLDERS = [*CHECKPOINTS.values(), TEXT, TEXT.parents[1] / "minicpm-moe-8x2b" / "ckpt"]


def id_of(folder):
    return folder.parent.name


def packed_copy(folder, tmp_path, quantize="int4"):
    """A checkpoint with the small files of `folder` and packed weights."""
    load(folder, device="cpu", quantize=quantize).model.save_pretrained(tmp_path)
    for path in folder.iterdir():
        is_small = path.is_file() and not path.name.startswith(("model", "pytorch_model"))
        if is_small and not (tmp_path / path.name).exists():
            shutil.copy(path, tmp_path)
    return tmp_path


def dense_twin(model):
    """The model with plain layers of the numbers that its packed ones stand for."""
    twin = copy.deepcopy(model)
    for name, module in list(twin.named_modules()):
        if isinstance(module, PackedLinear | PackedEmbedding):
            weight = nn.Parameter(dequantize(module.packed), requires_grad=False)
            if isinstance(module, PackedLinear):
                layer = nn.Linear(module.in_features, module.out_features, device="meta")
                layer.bias = module.bias
            else:
                layer = nn.Embedding(*weight.shape, device="meta")
            layer.weight = weight
            twin.set_submodule(name, layer)
    return twin


def text_inputs(model):
    return {"input_ids": torch.arange(3, 24)[None]}


# Layers


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_linear_is_that_of_the_numbers_it_stands_for(bits, dtype):
    torch.manual_seed(0)
    dense = nn.Linear(72, 40)
    layer = PackedLinear(bits, 72, 40, dense.bias.to(dtype))
    assert quantise_rows(layer.packed, 0, dense.weight.detach())
    x = torch.randn(2, 3, 72, dtype=dtype)
    with torch.no_grad():
        found = layer(x)
        dense.weight.copy_(dequantize(layer.packed))
        expected = dense(x.float())
    assert found.shape == (2, 3, 40)
    assert found.dtype == dtype
    # Activations are rounded to 8 bits, and in bfloat16 the results once more.
    assert (found - expected).norm() < 0.01 * expected.norm()


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_embedding_gives_the_rows_of_the_table(bits, dtype):
    torch.manual_seed(0)
    layer = PackedEmbedding(bits, 50, 40, dtype=dtype)
    assert quantise_rows(layer.packed, 0, torch.randn(50, 40))
    ids = torch.tensor([[0, 49, 17, 17], [16, 15, 31, 1]])
    assert torch.equal(layer(ids), dequantize(layer.packed).to(dtype)[ids])
    assert layer(ids[:, :0]).shape == (2, 0, 40)
    assert layer.to(torch.float16)(ids).dtype == torch.float16
    for wrong in (-1, 50):
        with pytest.raises(IndexError, match="the table has 50 rows"):
            layer(torch.tensor([3, wrong]))


def test_layers_are_copied_and_pickled():
    layer = PackedLinear(4, 64, 32, torch.zeros(32))
    assert quantise_rows(layer.packed, 0, torch.randn(32, 64))
    x = torch.randn(3, 64)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert other.weight.data_ptr() != layer.weight.data_ptr()
        assert other.packed.data is other.weight
        with torch.no_grad():
            assert torch.equal(other(x), layer(x))


def test_packed_weights_are_not_trained():
    layer = PackedLinear(8, 64, 32)
    assert not any(parameter.requires_grad for parameter in layer.parameters())
    with pytest.raises(ValueError, match=r"are not trained\. Load .*nf4"):
        layer(torch.randn(2, 64, requires_grad=True))


# Whole models


@pytest.mark.parametrize("folder", FOLDERS, ids=id_of)
@pytest.mark.parametrize("quantize", ["int4", "int8"])
def test_every_release_is_packed_and_read_again(folder, quantize, tmp_path):
    chat = load(folder, device="cpu", quantize=quantize)
    layers = {type(m) for m in chat.model.modules() if isinstance(m, nn.Linear)}
    assert layers <= {nn.Linear}
    dense = [n for n, m in chat.model.named_modules() if type(m) in (nn.Linear, nn.Embedding)]
    assert all(n.endswith((".gate", "position_embedding")) for n in dense)
    again = load(packed_copy(folder, tmp_path, quantize), device="cpu")
    first, second = chat.model.state_dict(), again.model.state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    question = ("What?", [picture(30, 40)] if chat.supports_images else [])
    answers = [c.ask(*question, sampling=False, max_new_tokens=3).text for c in (chat, again)]
    assert answers[0] == answers[1]


@pytest.mark.parametrize("folder", FOLDERS, ids=id_of)
def test_every_release_computes_as_in_full(folder):
    ids = {"input_ids": torch.arange(3, 40)[None]}
    full, packed = (
        logits_of(load(folder, "cpu", "float32", quantize=quantize).model, ids)
        for quantize in (None, "int8")
    )
    # Random attention makes much of small differences; a wrong factor would be off by 1.
    assert 0 < (packed - full).norm() < 0.2 * full.norm()


@pytest.mark.parametrize(("quantize", "most"), [("int4", 0.5), ("int8", 0.05)])
@pytest.mark.parametrize("version", ["2.5", "2.6"])
def test_logits_are_those_of_the_numbers(version, quantize, most):
    model = load(CHECKPOINTS[version], device="cpu", quantize=quantize).model
    inputs = golden_case(version, "single_tiny").inputs
    found = logits_of(model, inputs)
    expected = logits_of(dense_twin(model), inputs)
    assert (found - expected).norm() < 0.05 * expected.norm()
    full = logits_of(load(CHECKPOINTS[version], device="cpu").model, inputs)
    assert (found - full).norm() < most * full.norm()


def test_model_without_its_head(tmp_path):
    whole = MiniCPMVForConditionalGeneration.from_pretrained(
        CHECKPOINTS["2.6"], quantization_config=PackedConfig("int4")
    )
    ids = {"input_ids": torch.arange(5, 20)[None]}
    for folder, config in (
        (CHECKPOINTS["2.6"], PackedConfig("int4")),
        (packed_copy(CHECKPOINTS["2.6"], tmp_path), None),
    ):
        bare = MiniCPMVModel.from_pretrained(folder, quantization_config=config)
        with torch.no_grad():
            hidden = bare(**ids).last_hidden_state
            assert torch.equal(whole.lm_head(hidden), whole(**ids).logits)


@pytest.mark.parametrize("quantize", ["int4", "int8"])
def test_tied_head_and_embeddings_share_their_bytes(quantize, tmp_path):
    torch.manual_seed(0)
    config = MiniCPMConfig(
        vocab_size=60,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        tie_word_embeddings=True,
    )
    MiniCPMForCausalLM(config).save_pretrained(tmp_path / "full")
    model = MiniCPMForCausalLM.from_pretrained(
        tmp_path / "full", quantization_config=PackedConfig(quantize)
    )
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model.lm_head.bits == model.model.embed_tokens.bits == 8
    model.save_pretrained(tmp_path / "small")
    assert "lm_head.weight" not in load_file(tmp_path / "small" / "model.safetensors")
    again = MiniCPMForCausalLM.from_pretrained(tmp_path / "small")
    assert again.lm_head.weight is again.model.embed_tokens.weight
    inputs = text_inputs(model)
    assert torch.equal(logits_of(again, inputs), logits_of(model, inputs))
    bare = MiniCPMModel.from_pretrained(tmp_path / "small")
    assert torch.equal(bare.embed_tokens.weight, model.lm_head.weight)


@pytest.mark.parametrize(("version", "is_grouped"), [("2.6", True), ("1.0", False)])
def test_bits_of_int4(version, is_grouped):
    """Shared keys and values get 8 bits, and then the head 4."""
    model = load(CHECKPOINTS[version], device="cpu", quantize="int4").model
    layer = model.model.language_model.layers[0]
    assert {m.bits for m in model.model.vision_tower.modules() if hasattr(m, "bits")} == {8}
    assert {m.bits for m in layer.mlp.modules() if hasattr(m, "bits")} == {4}
    assert layer.self_attn.q_proj.bits == layer.self_attn.o_proj.bits == 4
    assert layer.self_attn.k_proj.bits == layer.self_attn.v_proj.bits == (8 if is_grouped else 4)
    assert model.lm_head.bits == (4 if is_grouped else 8)
    assert model.get_input_embeddings().bits == 4
    # A file says the bits of every part, whatever is usual when it is read.
    assert set(model.config.quantization_config.bits) == set(PARTS)


def test_parts_and_modules_can_be_left_in_full(tmp_path):
    config = PackedConfig("int8", bits={"vision": 0}, dense=["llm.model.layers.1.mlp", "o_proj"])
    model = AutoModelForImageTextToText.from_pretrained(
        CHECKPOINTS["2.6"], quantization_config=config
    )
    plain = [name for name, module in model.named_modules() if type(module) is nn.Linear]
    assert "model.language_model.layers.1.mlp.up_proj" in plain
    assert "model.language_model.layers.0.self_attn.o_proj" in plain
    assert "model.language_model.layers.0.mlp.up_proj" not in plain
    assert any(name.startswith("model.vision_tower") for name in plain)
    model.save_pretrained(tmp_path)
    again = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert [n for n, module in again.named_modules() if type(module) is nn.Linear] == plain


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_dtype_is_that_of_what_is_not_packed(dtype, tmp_path):
    wanted = getattr(torch, dtype)
    chat = load(CHECKPOINTS["2.6"], device="cpu", dtype=dtype, quantize="int4")
    again = load(packed_copy(CHECKPOINTS["2.6"], tmp_path), device="cpu", dtype=dtype)
    for model in (chat.model, again.model):
        assert model.dtype == wanted
        assert {p.dtype for p in model.parameters()} == {wanted, torch.uint8}
        assert model.get_input_embeddings()(torch.tensor([1])).dtype == wanted
    cast = again.model.to(torch.float32)
    assert cast.dtype == cast.get_input_embeddings()(torch.tensor([1])).dtype == torch.float32


def test_generation_settings_are_those_of_a_normal_load():
    full, packed = (load("nano", device="cpu", quantize=quantize) for quantize in (None, "int4"))
    assert packed.model.generation_config == full.model.generation_config
    assert packed.model.config.name_or_path == full.model.config.name_or_path
    assert packed.model.config.image_token_id == full.model.config.image_token_id
    assert packed.model.training is full.model.training is False


def test_models_are_copied_and_pickled():
    model = load(CHECKPOINTS["2.6"], device="cpu", quantize="int4").model
    inputs = golden_case("2.6", "text_only").inputs
    expected = logits_of(model, inputs)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(logits_of(other, inputs), expected)


def test_gpus_get_the_formats_of_bitsandbytes():
    for quantize, is_packed in (("int4", True), ("int8", True), ("nf4", False)):
        cpu, gpu = (format_config(quantize, torch.device(kind)) for kind in ("cpu", "cuda"))
        assert isinstance(cpu, PackedConfig) is is_packed
        assert isinstance(gpu, BitsAndBytesConfig)
        assert gpu.load_in_8bit is (quantize == "int8")


def test_what_packed_weights_cannot_do_is_said(tmp_path):
    places = {"device_map": {"": "cpu", "model.vision_tower": "disk"}}
    with pytest.raises(ValueError, match=r"on the disk.*minicpmv quantize"):
        load("nano", quantize="int4", **places)
    model = load("nano", device="cpu", quantize="int4").model
    assert load("nano", quantize="int4", device_map="auto").model.device.type == "cpu"
    with pytest.raises(ValueError, match="keeps its size"):
        model.resize_token_embeddings(2000)
    with pytest.raises(ValueError, match="not supported for quantized model"):
        model.half()
    peft = pytest.importorskip("peft")
    with pytest.raises(ValueError, match=r"PackedLinear.* is not supported"):
        peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj"]))
    assert not model.hf_quantizer.is_trainable  # what Trainer asks


# Files that are not as they should be: the errors of a normal load


LAYER = "llm.model.layers.1.mlp.up_proj.weight"
DAMAGE = {
    "missing": lambda tensors: tensors.pop(LAYER),
    "extra": lambda tensors: tensors.update({"llm.model.layers.9.mlp.bias": torch.ones(1)}),
    "shape": lambda tensors: tensors.update({LAYER: torch.randn(64, 256)}),
    "table": lambda tensors: tensors.update({"llm.model.embed_tokens.weight": torch.ones(9, 256)}),
    "norm": lambda tensors: tensors.update({"llm.model.norm.weight": torch.ones(9)}),
    "nan": lambda tensors: tensors[LAYER].view(-1)[5:6].fill_(torch.nan),
    "infinite norm": lambda tensors: tensors["llm.model.norm.weight"][:1].fill_(torch.inf),
    "kind": lambda tensors: tensors.update({LAYER: tensors[LAYER].to(torch.int32)}),
}


def message_of(folder, **keywords):
    with pytest.raises((ValueError, OSError)) as caught:
        AutoModelForImageTextToText.from_pretrained(folder, **keywords)
    return str(caught.value)


def changed(folder, tmp_path, change):
    shutil.copytree(folder, tmp_path / "changed")
    path = tmp_path / "changed" / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})
    return tmp_path / "changed"


@pytest.mark.parametrize("damage", DAMAGE)
def test_errors_are_those_of_a_normal_load(damage, tmp_path):
    folder = changed(CHECKPOINTS["2.6"], tmp_path, DAMAGE[damage])
    expected = message_of(folder)
    assert message_of(folder, quantization_config=PackedConfig("int4")) == expected


def test_truncated_file_is_named(tmp_path):
    shutil.copytree(CHECKPOINTS["2.6"], tmp_path / "cut")
    path = tmp_path / "cut" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:100000])
    assert message_of(tmp_path / "cut", quantization_config=PackedConfig()) == message_of(
        tmp_path / "cut"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop(LAYER), rf"1 missing: {LAYER}\. "),
        (
            lambda tensors: tensors.update({LAYER: tensors[LAYER][:1]}),
            rf"1 of another shape: {LAYER} \(1, 8, 288\), expected \(14, 8, 288\)\.",
        ),
        (
            lambda tensors: tensors.update({"llm.model.more.weight": torch.ones(3)}),
            r"1 unexpected: llm\.model\.more\.weight\.",
        ),
    ],
    ids=["missing", "shape", "extra"],
)
def test_wrong_tensors_of_packed_files_are_named(change, message, tmp_path):
    packed = packed_copy(CHECKPOINTS["2.6"], tmp_path / "packed")
    folder = changed(packed, tmp_path, change)
    with pytest.raises(ValueError, match=message):
        AutoModelForImageTextToText.from_pretrained(folder)


def test_files_of_another_layout_are_refused(tmp_path):
    folder = packed_copy(CHECKPOINTS["2.6"], tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"]["layout"] = 2
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"in layout 2; this version reads .* in layout 1\."):
        AutoModelForImageTextToText.from_pretrained(folder)


def test_quantised_twice(tmp_path):
    folder = packed_copy(CHECKPOINTS["2.6"], tmp_path)
    for quantize in ("int4", "nf4"):
        with pytest.raises(ValueError, match=r"quantised already \(minicpmv\)\. Leave"):
            load(folder, device="cpu", quantize=quantize)


# What it takes


@pytest.mark.parametrize("quantize", ["int4", "int8"])
def test_info_knows_packed_weights(quantize, tmp_path):
    folder = packed_copy(CHECKPOINTS["2.6"], tmp_path, quantize)
    report = inspect(Checkpoint.find(folder))
    assert report["mismatches"] == []
    assert report["weights"]["packed_as"] == quantize
    taken = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    assert 0 <= taken - report["memory_bytes"][quantize] < 20000  # names and shapes
    assert f"packed as {quantize}" in as_text(report)


def test_memory_is_the_result_and_one_tensor(monkeypatch):
    """Of the full weights no more than one is held at a time; its rows are widened in blocks."""
    held, most = set(), []

    def watched(packed, start, rows):
        held.add(id(rows))
        most.append(len(held))
        finite = quantise_rows(packed, start, rows)
        held.discard(id(rows))
        return finite

    monkeypatch.setattr("minicpmv.quantization.packing.quantise_rows", watched)
    model = load(CHECKPOINTS["2.6"], device="cpu", quantize="int4").model
    assert set(most) == {1}
    packed = [m for m in model.modules() if isinstance(m, PackedLinear | PackedEmbedding)]
    assert len(most) == len(packed)
    with torch.device("meta"):
        full = type(model)(model.config)
    taken = sum(p.numel() * p.element_size() for p in model.parameters())
    assert taken == weight_bytes(full, "int4", width=4)
    assert all(isinstance(m.packed, PackedWeight) for m in packed)
