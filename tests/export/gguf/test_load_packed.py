"""Quantised GGUF files: what stays packed, and what the numbers of the model are."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from minicpmv.adapters.load import check_can_have_adapters
from minicpmv.chat import Chat
from minicpmv.checkpoint.hub import Checkpoint
from minicpmv.errors import ArgumentError
from minicpmv.gguf.container import GGUFFile
from minicpmv.gguf.reading.model import GGUFModel, as_checkpoint
from minicpmv.gguf.types import SCALES, UNQUANTISED
from minicpmv.inspection import inspect
from minicpmv.kernels import disabled, library, why_not
from minicpmv.kernels.packing import dequantize
from minicpmv.loader import load
from minicpmv.model.modeling import MiniCPMVForConditionalGeneration
from minicpmv.processing.processor import MiniCPMVProcessor
from minicpmv.quantization import gguf as reader
from minicpmv.quantization.block_layers import BlockEmbedding, BlockLinear
from minicpmv.quantization.packed_linear import PackedEmbedding, PackedLinear
from minicpmv.serve.memory import bytes_of_place
from minicpmv.serve.own import OwnBackend
from minicpmv.serve.settings import ServeSettings

from .members import exported

KINDS = ("Q8_0", "Q6_K", "Q5_K_M", "Q5_1", "Q5_0", "Q4_K_M", "Q4_1", "Q4_0", "Q3_K_M", "Q2_K")
KINDS = (*KINDS, "IQ4_NL", "IQ4_XS")
PACKED = (PackedLinear, PackedEmbedding)
BLOCKS = (BlockLinear, BlockEmbedding)


@pytest.fixture(autouse=True)
def _kernels():
    if library() is None:
        pytest.skip(f"no compiled kernels: {why_not()}")


def stored(chat):
    """Released name, parameter, its numbers as float32, and ggml's type where it is packed."""
    recipes = GGUFModel(chat.name).recipes()
    modules = dict(chat.model.named_modules())
    for ours, parameter in chat.model.named_parameters():
        released = chat.model.released_name(ours)
        module = modules[ours.rpartition(".")[0]]
        if isinstance(module, PACKED) and ours.endswith("weight"):
            found, kind = dequantize(module.packed), recipes[released].type.name
        elif isinstance(module, BLOCKS) and ours.endswith("weight"):
            found, kind = module.numbers(), module.kind.name
        else:
            found, kind = parameter.float(), None
        yield released, found, kind


@pytest.mark.parametrize("name", ["nano", "2.5", "moe-8x2b"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_weight_is_the_number_that_its_bytes_stand_for(name, kind):
    chat = load(exported(name, kind).language[kind], device="cpu", dtype="float32")
    recipes = GGUFModel(chat.name).recipes()
    for released, found, packed_as in stored(chat):
        recipe = recipes.pop(released)
        assert torch.equal(found, torch.from_numpy(recipe.numbers())), released
        is_quantised = len(recipe.shape) == 2 and recipe.type not in UNQUANTISED
        assert packed_as == (recipe.type.name if is_quantised else None), released
    assert not recipes


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_K_M", "IQ4_XS"])
def test_tables_and_heads_of_a_vision_model_are_packed(kind):
    files = exported("2.6", kind)
    chat = load(files.language[kind], device="cpu", mmproj=files.mmproj)
    assert isinstance(chat.model.get_input_embeddings(), (*PACKED, *BLOCKS))
    assert isinstance(chat.model.lm_head, (*PACKED, *BLOCKS))
    taken = sum(p.nbytes for p in chat.model.get_decoder().parameters())
    size = files.language[kind].stat().st_size
    assert taken < 1.02 * size


def test_what_is_not_moved_is_the_memory_of_the_file():
    chat = load(exported("2.6", "Q4_K_M").language["Q4_K_M"], device="cpu")
    layers = [each for each in chat.model.modules() if isinstance(each, BLOCKS)]
    assert layers
    with Path("/proc/self/maps").open() as lines:
        spans = [line.split()[0] for line in lines if line.rstrip().endswith("Q4_K_M.gguf")]
    spans = [tuple(int(x, 16) for x in span.split("-")) for span in spans]
    for layer in layers:
        place = layer.weight.data_ptr()
        assert any(start <= place < end for start, end in spans)


@pytest.mark.parametrize(("name", "kind"), [("nano", kind) for kind in KINDS[1:]] + [
    *[(name, kind) for name in ("2.5", "2.6", "moe-8x2b") for kind in ("Q4_K_M", "Q5_0")],
    *[("2.6", "Q3_K_M"), ("2.6", "IQ4_XS")],
])  # fmt: skip
def test_packed_answers_are_those_of_the_widened_model(monkeypatch, name, kind):
    path = exported(name, kind).language[kind]
    packed = load(path, device="cpu", dtype="float32")
    with as_checkpoint(path, widened=True) as checkpoint:
        wide = type(packed.model).from_pretrained(checkpoint.location, dtype=torch.float32)
    assert any(isinstance(each, (*PACKED, *BLOCKS)) for each in packed.model.modules())
    assert not any(isinstance(each, (*PACKED, *BLOCKS)) for each in wide.modules())
    for layer in packed.model.modules():  # Q4_0 and Q8_0 round their inputs, see below
        if isinstance(layer, PackedLinear):
            monkeypatch.setattr(layer, "forward", partial(_exactly, layer))
    ids = torch.arange(20, 60)[None]
    with torch.no_grad():
        left, right = wide(input_ids=ids).logits, packed.model(input_ids=ids).logits
        torch.testing.assert_close(left, right, atol=2e-5 * float(left.std()), rtol=1e-4)
    options = {"max_new_tokens": 12, "do_sample": False, "min_new_tokens": 12}
    first = wide.generate(ids, **options)
    assert torch.equal(packed.model.generate(ids, **options), first)


def _exactly(layer, x):
    return torch.nn.functional.linear(x, dequantize(layer.packed), layer.bias)


def test_pictures_are_seen_alike_packed_and_widened():
    files = exported("nano", "Q4_K_M")
    picture = Image.effect_mandelbrot((300, 200), (-2, -1, 1, 1), 20).convert("RGB")
    answers = []
    for widened in (False, True):
        with as_checkpoint(files.language["Q4_K_M"], files.mmproj, widened=widened) as checkpoint:
            model = MiniCPMVForConditionalGeneration.from_pretrained(
                checkpoint.location, dtype=torch.float32
            )
            processor = MiniCPMVProcessor.from_pretrained(checkpoint.location)
        answers.append(Chat(model, processor).ask("What is it?", images=[picture]))
    assert str(answers[0]) == str(answers[1])


def test_without_kernels_weights_are_widened_and_one_line_says_so(monkeypatch):
    path = exported("2.6", "Q4_K_M").language["Q4_K_M"]
    monkeypatch.setattr(reader, "library", lambda: None)
    monkeypatch.setattr(reader, "why_not", lambda: "there is no C++ compiler")
    with pytest.warns(RuntimeWarning, match=r"no C\+\+ compiler; weights of .* take 0\.0 GB"):
        chat = load(path, device="cpu", dtype="float32")
    assert not any(isinstance(each, BLOCKS) for each in chat.model.modules())


def test_blocks_are_numbers_without_a_library_too():
    chat = load(exported("2.6", "Q4_K_M").language["Q4_K_M"], device="cpu", dtype="float32")
    ids = torch.arange(20, 26)[None]
    with torch.no_grad():
        expected = chat.model(input_ids=ids).logits
        with disabled():
            found = chat.model(input_ids=ids).logits
    torch.testing.assert_close(found, expected, atol=2e-5 * float(expected.std()), rtol=1e-4)


def test_an_adapter_gets_widened_weights(tmp_path):
    path = exported("nano", "Q4_K_M").language["Q4_K_M"]
    with as_checkpoint(path, widened=True) as checkpoint:
        fields = checkpoint.read_json("config.json")
    assert fields["quantization_config"]["widened"]
    with pytest.raises(ValueError, match="take no adapter"):
        check_can_have_adapters(load(path, device="cpu").model)


def test_a_scale_that_is_not_finite_is_named(tmp_path):
    source = exported("2.6", "Q4_K_M").language["Q4_K_M"]
    info = GGUFFile(source).info("blk.1.ffn_up.weight")
    path = tmp_path / "wrong.gguf"
    data = bytearray(source.read_bytes())
    place = info.offset + info.size - info.type.block_bytes + SCALES[info.type.name][0]
    data[place : place + 2] = np.float16("nan").tobytes()
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"not finite.*layers\.1\.mlp\.up_proj"):
        load(path, device="cpu")


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


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_K_M"])
def test_a_packed_model_is_saved_and_read_again(tmp_path, kind):
    files = exported("nano", kind)
    chat = load(files.language[kind], dtype="float32", mmproj=files.mmproj)
    chat.model.save_pretrained(tmp_path)
    again = MiniCPMVForConditionalGeneration.from_pretrained(tmp_path).state_dict()
    for name, weight in chat.model.state_dict().items():
        assert torch.equal(again[name], weight), name
    chat.processor.save_pretrained(tmp_path)
    report = inspect(Checkpoint.find(tmp_path))
    assert (report["weights"]["packed_as"], report["mismatches"]) == ("int4", [])


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
