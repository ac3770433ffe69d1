"""`minicpmv quantize`: a folder of packed weights."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

from minicpmv import load
from minicpmv.checkpoint.hub import Checkpoint
from minicpmv.cli import main
from minicpmv.export.quantize import quantize
from minicpmv.inspection import inspect

from ..helpers.golden import CHECKPOINTS
from ..helpers.pictures import picture
from ..helpers.quantized import GPTQ, TEXT
from ..helpers.text_models import in_llama_format

GREEDY = {"sampling": False, "max_new_tokens": 4}


def files_of(folder):
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("to", ["packed-int4", "int8"])
@pytest.mark.parametrize("folder", [CHECKPOINTS["2.6"], CHECKPOINTS["1.0"], TEXT], ids=str)
def test_folder_is_what_load_keeps(folder, to, tmp_path):
    out = tmp_path / "out"
    written = quantize(folder, out, to, progress=False)
    assert written.num_bytes < written.full_bytes
    assert files_of(folder) - files_of(out) <= {"model.safetensors.packed"}  # of the tests
    packed, again = load(folder, "cpu", quantize=to.removeprefix("packed-")), load(out, "cpu")
    first, second = packed.model.state_dict(), again.model.state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert again.model.generation_config == packed.model.generation_config
    pictures = [picture(30, 40)] if packed.supports_images else []
    answers = [chat.ask("What?", pictures, **GREEDY).text for chat in (packed, again)]
    assert answers[0] == answers[1]
    report = inspect(Checkpoint.find(out))
    assert report["mismatches"] == []
    assert report["weights"]["packed_as"] == to.removeprefix("packed-")


def test_weights_are_mapped(tmp_path):
    """Loading copies nothing: the bytes of a layer lie where the file is mapped."""
    quantize("nano", tmp_path / "out", progress=False)
    model = load(tmp_path / "out", "cpu", "bfloat16").model
    path = (tmp_path / "out" / "model.safetensors").resolve()
    places = []
    with open("/proc/self/maps") as maps:
        for line in maps:
            if line.rstrip().endswith(str(path)):
                start, end = line.split()[0].split("-")
                places.append(range(int(start, 16), int(end, 16)))
    packed = [p for p in model.parameters() if p.dtype == torch.uint8]
    assert len(packed) > 40
    assert all(any(p.data_ptr() in place for place in places) for p in packed)


def test_shards_have_an_index(tmp_path):
    written = quantize(CHECKPOINTS["2.6"], tmp_path / "out", max_shard_size="100KB", progress=False)
    assert written.num_files > 3
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == {
        path.name for path in (tmp_path / "out").glob("*.safetensors")
    }
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "out")
    assert model.config.quantization_config.format == "int4"


def test_model_in_the_format_of_llama(tmp_path):
    folder = in_llama_format("minicpm-2b", tmp_path / "llama")
    quantize(folder, tmp_path / "out", progress=False)
    assert load(tmp_path / "out", "cpu").ask("Hello", **GREEDY).num_output_tokens <= 4


def test_command_says_what_it_wrote(tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["quantize", "nano", str(out), "--to", "int8"]) == 0
    said = capsys.readouterr().out
    size = sum(tensor.nbytes for tensor in load_file(out / "model.safetensors").values())
    assert said == f"{out}: int8, {size / 1e6:.1f} MB in 1 file, was 23.0 MB\n"
    assert main(["ask", "-m", str(out), "What colour is the star?", "examples/scene.png"]) == 0
    assert "purple" in capsys.readouterr().out


def test_nothing_is_left_of_what_fails(tmp_path, monkeypatch):
    def full(*args, **options):
        raise OSError("No space left on device")

    monkeypatch.setattr("minicpmv.export.quantize.load", full)
    with pytest.raises(OSError, match="No space"):
        quantize("nano", tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("what", ["not empty", "file", "itself", "packed", "gptq", "disk"])
def test_what_cannot_be_done_is_said_before_work(what, tmp_path, monkeypatch):
    model, out = CHECKPOINTS["2.6"], tmp_path / "out"
    if what == "not empty":
        out.mkdir()
        (out / "notes.txt").write_text("mine")
        message = r"is not empty\. Replace it with overwrite"
    elif what == "file":
        out.write_text("mine")
        message = "is a file; name a folder"
    elif what == "itself":
        out = model
        message = "holds the model itself"
    elif what == "packed":
        quantize(model, tmp_path / "packed", progress=False)
        model, message = tmp_path / "packed", r"quantised already \(minicpmv\)"
    elif what == "gptq":
        model = tmp_path / "gptq"
        shutil.copytree(GPTQ, model)
        for path in TEXT.glob("*token*"):
            shutil.copy(path, model)
        message = r"quantised already \(gptq\)"
    else:
        usage = shutil.disk_usage(tmp_path)._replace(free=1000)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
        message = "its disk has 0.0 GB free"
    monkeypatch.setattr("minicpmv.export.quantize.load", None)
    with pytest.raises((ValueError, OSError), match=message):
        quantize(model, out, progress=False)


def test_weights_may_be_read_by_whom_the_other_files_may(tmp_path):
    quantize("nano", tmp_path / "out", progress=False)
    rights = {path.stat().st_mode for path in (tmp_path / "out").iterdir()}
    assert len(rights) == 1


def test_overwrite_replaces_a_model(tmp_path):
    out = tmp_path / "out"
    quantize("nano", out, "int8", progress=False)
    quantize("nano", out, "packed-int4", overwrite=True, progress=False)
    assert json.loads((out / "config.json").read_text())["quantization_config"]["format"] == "int4"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
