"""`minicpmv quantize` in the layouts of other programs: int4, w4a16, gptq; and AWQ, read."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from minicpmv import load
from minicpmv.checkpoint.hub import Checkpoint
from minicpmv.cli import main
from minicpmv.errors import ArgumentError
from minicpmv.export.quantize import quantize
from minicpmv.inspection import inspect
from minicpmv.quantization import awq, compressed, gptq
from minicpmv.quantization.words import pack_words

from ..helpers.golden import CHECKPOINTS
from ..helpers.pictures import picture
from ..helpers.quantized import TEXT, packed

GREEDY = {"sampling": False, "max_new_tokens": 4}
NAMES = {"w4a16": "W4A16", "gptq": "GPTQ", "int4": "int4"}
Q_PROJ = "llm.model.layers.0.self_attn.q_proj"
pytestmark = pytest.mark.filterwarnings("ignore:.* layers keep their full weights:UserWarning")


def changed_config(folder, change):
    config = json.loads((folder / "config.json").read_text())
    change(config["quantization_config"])
    (folder / "config.json").write_text(json.dumps(config))


def changed_tensors(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def unpacked(folder, source, out):
    """The dense checkpoint that the files of `folder` stand for, by its tensors alone."""
    shutil.copytree(source, out)
    tensors = load_file(folder / "model.safetensors")
    for name in list(tensors):
        layer, _, part = name.rpartition(".")
        if part not in ("weight_packed", "qweight"):
            continue
        parts = compressed.PACKED if part == "weight_packed" else gptq.PACKED
        take = {p: tensors.pop(f"{layer}.{p}") for p in parts}
        if part == "weight_packed":
            words, scales = take["weight_packed"], take["weight_scale"]
            inputs = take["weight_shape"].tolist()[1]
        else:
            words, scales, inputs = take["qweight"].t(), take["scales"].t(), len(take["g_idx"])
        codes = torch.stack([(words >> 4 * place) & 15 for place in range(8)], dim=2).flatten(1)
        wide = scales.float().repeat_interleave(inputs // scales.shape[1], dim=1)
        tensors[f"{layer}.weight"] = (codes[:, :inputs] - 8) * wide
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    return out


@pytest.mark.parametrize("to", ["w4a16", "gptq"])
@pytest.mark.parametrize("folder", [CHECKPOINTS["2.6"], CHECKPOINTS["1.0"], TEXT], ids=str)
def test_answers_are_those_of_the_dense_weights(folder, to, tmp_path):
    out, size = tmp_path / "out", -1 if folder == TEXT else 32  # its widths have no groups
    written = quantize(folder, out, to, group_size=size)
    assert written.num_bytes < written.full_bytes
    dense = load(unpacked(out, folder, tmp_path / "dense"), "cpu", "float32")
    again = load(out, "cpu", "float32")
    first, second = dense.model.state_dict(), again.model.state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    pictures = [picture(30, 40)] if dense.supports_images else []
    answers = [chat.ask("What?", pictures, **GREEDY).text for chat in (dense, again)]
    assert answers[0] == answers[1]
    report = inspect(Checkpoint.find(out))
    assert report["mismatches"] == []
    assert report["weights"]["packed_as"] == NAMES[to]


@pytest.mark.parametrize("version", ["2.5", "2.6"])
def test_int4_is_the_layout_of_the_releases(version, tmp_path):
    out = tmp_path / "out"
    quantize(CHECKPOINTS[version], out, "int4")
    full = load_file(CHECKPOINTS[version] / "model.safetensors")
    found = load_file(out / "model.safetensors")
    layers = {name for name in full if f"{name}.absmax" in found}
    assert layers
    assert all(name.startswith("llm.model.layers.") for name in layers)
    expected = {name: tensor for name, tensor in full.items() if name not in layers}
    for name in layers:
        expected |= packed(name, full[name])
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    fields = json.loads((out / "config.json").read_text())["quantization_config"]
    assert fields["quant_method"] == "bitsandbytes"
    assert fields["load_in_4bit"]
    assert fields["bnb_4bit_use_double_quant"]
    assert {"vpm", "resampler", "lm_head"} <= set(fields["llm_int8_skip_modules"])
    # What is loaded is what quantising while loading gives.
    there, here = load(CHECKPOINTS[version], "cpu", quantize="nf4"), load(out, "cpu")
    assert there.ask("What?", [picture(30, 40)], **GREEDY).text == (
        here.ask("What?", [picture(30, 40)], **GREEDY).text
    )
    assert inspect(Checkpoint.find(out))["weights"]["packed_as"] == "int4"


def awq_checkpoint(out, size=32):
    """The tiny 2.6 with one layer in AutoAWQ's layout, and the dense weight."""
    shutil.copytree(CHECKPOINTS["2.6"], out)
    generator = torch.Generator().manual_seed(0)
    dense = []

    def change(tensors):
        outputs, inputs = tensors.pop(f"{Q_PROJ}.weight").shape
        codes = torch.randint(16, (inputs, outputs), generator=generator)
        zeros = torch.randint(16, (inputs // size, outputs), generator=generator)
        scales = torch.rand(inputs // size, outputs, generator=generator).half() / 100
        groups = torch.arange(inputs) // size
        dense.append((scales.float()[groups] * (codes - zeros[groups])).t())

        def words(rows):
            return pack_words(rows.unflatten(1, (-1, 8))[:, :, list(awq.ORDER)].flatten(1), 4, 1)

        tensors |= {f"{Q_PROJ}.qweight": words(codes), f"{Q_PROJ}.qzeros": words(zeros)}
        tensors[f"{Q_PROJ}.scales"] = scales

    changed_tensors(out, change)
    config = json.loads((out / "config.json").read_text())
    config["quantization_config"] = {
        "bits": 4,
        "group_size": size,
        "modules_to_not_convert": ["vpm", "resampler"],
        "quant_method": "awq",
        "version": "gemm",
        "zero_point": True,
    }
    (out / "config.json").write_text(json.dumps(config))
    return dense[0]


def test_awq_is_read(tmp_path):
    expected = awq_checkpoint(tmp_path / "awq")
    chat = load(tmp_path / "awq", "cpu", "float32")
    found = chat.model.get_parameter("model.language_model.layers.0.self_attn.q_proj.weight")
    assert torch.equal(found.data, expected)
    chat.ask("What?", [picture(30, 40)], **GREEDY)
    report = inspect(Checkpoint.find(tmp_path / "awq"))
    assert (report["mismatches"], report["weights"]["packed_as"]) == ([], "AWQ")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bits": 8}, "AWQ weights of 8 bits in the layout 'gemm'"),
        ({"version": "gemv"}, "AWQ weights of 4 bits in the layout 'gemv'"),
        ({"group_size": 64}, r"q_proj in .*: qzeros has shape .* expected "),
        ({"group_size": 0}, r"has group_size 0 in its quantization_config"),
    ],
)
def test_other_awq_files_are_named(change, message, tmp_path):
    awq_checkpoint(tmp_path / "awq")
    changed_config(tmp_path / "awq", lambda fields: fields.update(change))
    with pytest.raises(ValueError, match=message):
        load(tmp_path / "awq", "cpu")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_bits": 3}, "weights of 3 bits"),
        ({"type": "float"}, r"weights of 4 bits \(float"),
        ({"group_size": 64}, r"weight_scale has shape .* expected "),
        ({"symmetric": False}, r"missing: .*weight_zero_point"),
        ({"actorder": "group"}, r"missing: .*weight_g_idx"),
        ({"strategy": "block"}, "by block"),
    ],
)
def test_other_compressed_files_are_named(change, message, tmp_path):
    quantize(CHECKPOINTS["2.6"], tmp_path / "out", "w4a16", group_size=32)
    changed_config(
        tmp_path / "out",
        lambda fields: fields["config_groups"]["group_0"]["weights"].update(change),
    )
    with pytest.raises(ValueError, match=message):
        load(tmp_path / "out", "cpu")


@pytest.mark.parametrize("format", ["float-quantized", "int-quantized", None])
def test_other_formats_of_compressed_tensors_are_named(format, tmp_path):
    quantize(CHECKPOINTS["2.6"], tmp_path / "out", "w4a16", group_size=32)
    group = {"config_groups": {}, "format": format}
    changed_config(tmp_path / "out", lambda fields: fields.update(group))
    with pytest.raises(ValueError, match=f"in the format {format!r}; read is"):
        load(tmp_path / "out", "cpu")


@pytest.mark.parametrize(
    ("to", "part"), [("w4a16", "weight_scale"), ("gptq", "scales"), ("int4", "weight.absmax")]
)
def test_missing_scales_are_named(to, part, tmp_path):
    size = None if to == "int4" else 32
    quantize(CHECKPOINTS["2.6"], tmp_path / "out", to, group_size=size)
    changed_tensors(tmp_path / "out", lambda tensors: tensors.pop(f"{Q_PROJ}.{part}"))
    with pytest.raises(ValueError, match=rf"1 missing: {Q_PROJ}\.{part}\."):
        load(tmp_path / "out", "cpu")


def test_arguments_without_effect_are_refused(tmp_path):
    for to, size, message in (
        ("int4", 32, "no effect with 'int4'"),
        ("w4a16", 48, "known: 32, 64, 128, -1"),
        ("nf5", None, "known: packed-int4"),
    ):
        with pytest.raises(ArgumentError, match=message):
            quantize("nano", tmp_path / "out", to, group_size=size)


def test_numbers_that_are_not_finite_are_named(tmp_path):
    shutil.copytree(CHECKPOINTS["2.6"], tmp_path / "in")
    changed_tensors(
        tmp_path / "in", lambda tensors: tensors[f"{Q_PROJ}.weight"][3].fill_(torch.inf)
    )
    with pytest.raises(ValueError, match=f"{Q_PROJ}.weight holds .* from model.safetensors"):
        quantize(tmp_path / "in", tmp_path / "out", "w4a16", group_size=32)
    assert not (tmp_path / "out").exists()


def test_shards_hold_the_same(tmp_path):
    quantize(CHECKPOINTS["2.6"], tmp_path / "one", "w4a16", group_size=32)
    written = quantize(
        CHECKPOINTS["2.6"], tmp_path / "many", "w4a16", group_size=32, max_shard_size="100KB"
    )
    assert written.num_files > 3
    one = load_file(tmp_path / "one" / "model.safetensors")
    many = {}
    for file in (tmp_path / "many").glob("*.safetensors"):
        many |= load_file(file)
    assert one.keys() == many.keys()
    assert all(torch.equal(one[name], many[name]) for name in one)
    load(tmp_path / "many", "cpu")


def test_nano_still_answers_from_w4a16(tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["quantize", "nano", str(out), "--to", "w4a16", "--group-size", "32"]) == 0
    assert f"{out}: w4a16, " in capsys.readouterr().out
    assert main(["ask", "-m", str(out), "What colour is the star?", "examples/scene.png"]) == 0
    assert "purple" in capsys.readouterr().out
