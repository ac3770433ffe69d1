"""AutoGPTQ files."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
)

from minicpmv import load
from minicpmv.model.minicpm import MiniCPMForCausalLM
from minicpmv.quantization import GptqReader, reader_for
from minicpmv.quantization.gptq import unpack

from ..helpers.quantized import GPTQ, logits_of

# AutoGPTQ files

UP = "model.layers.0.mlp.up_proj"


def changed(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_gptq_gives_the_recorded_logits():
    recorded = load_file(GPTQ.parent / "public" / "cases.safetensors")
    model = AutoModelForCausalLM.from_pretrained(GPTQ)
    found = logits_of(model, {"input_ids": recorded["gptq_int4/inputs/input_ids"]})
    torch.testing.assert_close(found, recorded["gptq_int4/expect/logits"], atol=2e-5, rtol=0)
    name = "model.layers.0.self_attn.q_proj.weight"
    expected = recorded[f"gptq_int4/expect/dequant/{name}"]
    torch.testing.assert_close(model.get_parameter(name).data, expected, atol=0, rtol=0)


def test_gptq_is_dense_after_loading(gptq, tmp_path):
    chat = load(gptq, device="cpu", dtype="bfloat16")
    assert chat.ask("What?", max_new_tokens=3).num_output_tokens <= 3
    assert chat.model.name_or_path == str(gptq)
    assert {parameter.dtype for parameter in chat.model.parameters()} == {torch.bfloat16}
    chat.model.save_pretrained(tmp_path / "dense")
    chat.processor.tokenizer.save_pretrained(tmp_path / "dense")
    assert "quantization_config" not in json.loads((tmp_path / "dense/config.json").read_text())
    again = MiniCPMForCausalLM.from_pretrained(tmp_path / "dense", dtype="auto").state_dict()
    weights = chat.model.state_dict()
    assert again.keys() == weights.keys()
    assert all(torch.equal(again[name], weight) for name, weight in weights.items())
    # `load` widens products where the processor computes bfloat16 slowly: both by `load`.
    dense, ids = load(tmp_path / "dense", device="cpu", dtype="bfloat16"), torch.arange(3, 20)[None]
    assert torch.equal(
        logits_of(dense.model, {"input_ids": ids}), logits_of(chat.model, {"input_ids": ids})
    )


def test_gptq_settings_may_stand_beside_the_config(gptq):
    """As AutoGPTQ wrote them at first, with the weights in a file of their own name."""
    config = json.loads((gptq / "config.json").read_text())
    del config["quantization_config"]
    (gptq / "config.json").write_text(json.dumps(config))
    settings = json.loads((gptq / "quantize_config.json").read_text())
    settings["model_file_base_name"] = "gptq_model-4bit-32g"
    (gptq / "quantize_config.json").write_text(json.dumps(settings))
    (gptq / "model.safetensors").rename(gptq / "gptq_model-4bit-32g.safetensors")
    found = MiniCPMForCausalLM.from_pretrained(gptq)
    expected = MiniCPMForCausalLM.from_pretrained(GPTQ)
    ids = torch.arange(3, 20)[None]
    assert torch.equal(
        logits_of(found, {"input_ids": ids}), logits_of(expected, {"input_ids": ids})
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda tensors: tensors.pop("model.layers.1.mlp.up_proj.g_idx"),
            r"1 missing: model\.layers\.1\.mlp\.up_proj\.g_idx\.",
        ),
        (
            lambda tensors: [tensors.pop(name) for name in list(tensors) if "1.mlp.up" in name],
            r"1 missing: model\.layers\.1\.mlp\.up_proj\.weight\.",
        ),
        (
            lambda tensors: tensors.update({"model.norm.qweight": torch.ones(1)}),
            r"1 unexpected: model\.norm\.qweight\.",
        ),
        (
            lambda tensors: tensors.update({f"{UP}.scales": torch.ones(3, 160)}),
            r"0\.mlp\.up_proj in .*: qzeros has shape \(2, 20\), expected \(3, 20\)\.",
        ),
        (
            lambda tensors: tensors[f"{UP}.g_idx"].add_(1),
            r"up_proj in .*: g_idx has the groups 1 to 2; scales has 2\.",
        ),
    ],
    ids=["g_idx", "weight", "extra", "shape", "group"],
)
def test_wrong_gptq_tensors_are_named(gptq, change, message):
    changed(gptq, change)
    with pytest.raises(ValueError, match=message):
        MiniCPMForCausalLM.from_pretrained(gptq)


def test_other_gptq_layouts_are_named(gptq):
    config = json.loads((gptq / "config.json").read_text())
    for change, message in (
        ({"bits": 3}, "of 3 bits in the layout 'gptq'; read are 2, 4, 8 bits"),
        ({"checkpoint_format": "gptq_v2"}, "of 4 bits in the layout 'gptq_v2'"),
    ):
        settings = config["quantization_config"] | change
        (gptq / "config.json").write_text(json.dumps(config | {"quantization_config": settings}))
        with pytest.raises(ValueError, match=message):
            MiniCPMForCausalLM.from_pretrained(gptq)


def test_gptqmodel_is_left_to_transformers(monkeypatch):
    monkeypatch.setattr(GptqReader, "is_elsewhere", lambda model_class: True)
    assert reader_for(MiniCPMForCausalLM, GPTQ, {}) is None


def test_gptq_is_not_quantised_again(gptq):
    with pytest.raises(ValueError, match=r"quantised already \(gptq\)"):
        load(gptq, device="cpu", quantize="int4")


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_packing_there_and_back(bits):
    generator = torch.Generator().manual_seed(bits)
    values = torch.randint(2**bits, (64, 32), generator=generator)
    zeros = torch.randint(2**bits, (4, 32), generator=generator)
    scales = torch.rand(4, 32, generator=generator)
    groups = torch.randint(4, (64,), generator=generator)
    expected = (scales[groups] * (values - zeros[groups])).t()

    def words(rows):  # (a, b) -> (a * bits / 32, b)
        places = torch.arange(32 // bits)[:, None] * bits
        return (rows.unflatten(0, (-1, 32 // bits)) << places).sum(1).int()

    stored = words(((zeros - 1) & (2**bits - 1)).t()).t()
    found = unpack(words(values), stored.contiguous(), scales, groups.int(), bits)
    torch.testing.assert_close(found, expected, atol=0, rtol=0)
