"""Quantised GGUF files: what stays packed, and what the numbers of the model are."""

import pytest
import torch

from minicpmv.errors import ArgumentError
from minicpmv.gguf.reading.model import GGUFModel
from minicpmv.kernels.packing import dequantize
from minicpmv.loader import load
from minicpmv.model.modeling import MiniCPMVForConditionalGeneration
from minicpmv.quantization.packed_linear import PackedEmbedding, PackedLinear
from minicpmv.serve.memory import bytes_of_place
from minicpmv.serve.own import OwnBackend
from minicpmv.serve.settings import ServeSettings

from .members import exported


@pytest.mark.parametrize("name", ["nano", "2.5", "moe-8x2b"])
@pytest.mark.parametrize("kind", ["Q4_0", "Q8_0", "Q4_K_M"])
def test_every_weight_is_the_number_that_its_bytes_stand_for(name, kind):
    files = exported(name, kind)
    chat = load(files.language[kind], dtype="float32", mmproj=files.mmproj)
    recipes = GGUFModel(files.language[kind], files.mmproj).recipes()
    modules = dict(chat.model.named_modules())
    types = set()
    for ours, parameter in chat.model.named_parameters():
        recipe = recipes[chat.model.released_name(ours)]
        module = modules[ours.rpartition(".")[0]]
        found = parameter
        if isinstance(module, PackedLinear | PackedEmbedding) and ours.endswith("weight"):
            types.add(recipe.type.name)
            found = dequantize(module.packed)
        assert torch.equal(found, torch.from_numpy(recipe.numbers())), ours
    assert types <= {"Q4_0", "Q8_0"}
    assert (kind in types) == (kind != "Q4_K_M")


def test_packed_answers_are_near_those_of_the_numbers():
    files = exported("nano", "Q8_0")
    packed = load(files.language["Q8_0"], dtype="float32", mmproj=files.mmproj)
    recipes = GGUFModel(files.language["Q8_0"], files.mmproj).recipes()
    wide = load("nano", dtype="float32")
    for ours, parameter in wide.model.named_parameters():
        parameter.data = torch.from_numpy(recipes[wide.model.released_name(ours)].numbers())
    ids = torch.arange(20, 60)[None]
    with torch.no_grad():
        left, right = wide.model(input_ids=ids).logits, packed.model(input_ids=ids).logits
    assert float((left - right).abs().mean() / left.std()) < 0.02  # rounded activations


def test_a_packed_model_is_saved_and_read_again(tmp_path):
    files = exported("nano", "Q4_0")
    chat = load(files.language["Q4_0"], dtype="float32", mmproj=files.mmproj)
    chat.model.save_pretrained(tmp_path)
    again = MiniCPMVForConditionalGeneration.from_pretrained(tmp_path).state_dict()
    for name, weight in chat.model.state_dict().items():
        assert torch.equal(again[name], weight), name


def test_float16_is_the_checkpoint_rounded():
    files = exported("nano", "F16")
    ours, theirs = load("nano", dtype="float32"), load(files.language["F16"], dtype="float32")
    with torch.no_grad():
        for parameter in ours.model.parameters():
            if parameter.ndim > 1:
                parameter.copy_(parameter.half())
    ids = torch.arange(20, 60)[None]
    difference = ours.model(input_ids=ids).logits - theirs.model(input_ids=ids).logits
    assert float(difference.detach().abs().max()) < 1e-5


def test_a_server_serves_a_file_with_its_vision_side():
    files = exported("nano", "Q8_0")
    place, mmproj = str(files.language["Q8_0"]), str(files.mmproj)
    backend = OwnBackend(ServeSettings(model=(place,), mmproj=mmproj, device="cpu"))
    assert backend._load(place).supports_images
    size = sum(path.stat().st_size for path in files.files)
    assert backend._file_bytes[place] == size
    assert bytes_of_place(place, "cpu", "auto", None) > size
    with pytest.raises(ArgumentError, match="--mmproj"):
        ServeSettings(model=(place, "nano"), mmproj=mmproj)
