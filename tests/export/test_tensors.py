"""What `minicpmv quantize`, `merge` and `convert` read must be just the tensors of the config."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from minicpmv import load
from minicpmv.checkpoint.hub import Checkpoint
from minicpmv.checkpoint.weights import WeightFiles, all_headers
from minicpmv.export.convert import convert
from minicpmv.export.gguf.run import export
from minicpmv.export.layouts import LAYOUTS
from minicpmv.export.merge import merge
from minicpmv.export.quantize import quantize

from ..helpers.golden import CHECKPOINTS, GOLDEN

pytestmark = pytest.mark.filterwarnings("ignore:.* layers keep their full weights:UserWarning")

NORM, QUERY, Q_PROJ = (
    "llm.model.norm.weight",
    "resampler.query",
    "llm.model.layers.0.self_attn.q_proj.weight",
)
WRONG = {
    f"missing: {NORM}": lambda tensors: tensors.pop(NORM),
    f"missing: {QUERY}": lambda tensors: tensors.pop(QUERY),
    "missing: llm.lm_head.weight": lambda tensors: tensors.pop("llm.lm_head.weight"),
    "unexpected: llm.more.weight": lambda tensors: tensors.update({"llm.more.weight": QUARTER}),
    rf"{NORM} \(4,\), expected \(\d+,\)": lambda tensors: tensors.update({NORM: QUARTER}),
    "hold no weights": lambda tensors: tensors.update({NORM: tensors[NORM].int()}),
    "are not finite": lambda tensors: tensors.update({NORM: tensors[NORM] * torch.inf}),
}
QUARTER = torch.ones(4)


def changed(folder: Path, base: Path, change) -> Path:
    shutil.copytree(base, folder)
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def adapter(tmp_path_factory) -> Path:
    pytest.importorskip("peft")
    from minicpmv.adapters import Parts, save_adapter

    from ..adapters.tuned import trained

    chat, tuned = trained("2.6", Parts("lora", False, False))
    folder = tmp_path_factory.mktemp("of") / "adapter"
    save_adapter(tuned, chat.processor, folder, {})
    return folder


@pytest.mark.parametrize("wrong", WRONG)
def test_other_tensors_than_the_config_asks_for_are_told(wrong, adapter, tmp_path):
    model, out = changed(tmp_path / "model", CHECKPOINTS["2.6"], WRONG[wrong]), tmp_path / "out"
    for to in LAYOUTS:
        with pytest.raises(ValueError, match=wrong):
            quantize(model, out, to, group_size=None if to == "int4" else 32)
    with pytest.raises(ValueError, match=wrong):
        merge(adapter, out, model=model)
    assert not out.exists()


@pytest.mark.parametrize("to", LAYOUTS)
def test_weights_of_64_bits_are_written_as_32(to, tmp_path):
    def widen(tensors):
        tensors.update({name: tensor.double() for name, tensor in tensors.items()})

    model = changed(tmp_path / "model", CHECKPOINTS["2.6"], widen)
    quantize(model, tmp_path / "out", to, group_size=None if to == "int4" else 32)
    dtypes = {t.dtype for t in load_file(tmp_path / "out" / "model.safetensors").values()}
    assert torch.float32 in dtypes
    assert torch.float64 not in dtypes
    load(tmp_path / "out", "cpu", "float32")


def test_numbers_that_become_too_large_are_told(tmp_path):
    def enlarge(tensors):
        tensors.update({name: tensor.half() for name, tensor in tensors.items()})
        tensors["model.embed_tokens.weight"][0, 0] = 60000.0  # is multiplied by 12

    base = GOLDEN / "minicpm-2b" / "ckpt"
    model = changed(tmp_path / "model", base, enlarge)
    with pytest.raises(ValueError, match=r"embed_tokens.* in float16.*from model\.safetensors"):
        convert(model, tmp_path / "out", "llama")


def test_an_adapter_that_is_not_whole_is_told(adapter, tmp_path):
    def shorten(tensors):
        tensors.pop(next(name for name in tensors if "layers.1" in name and "lora_A" in name))
        tensors.pop(next(name for name in tensors if "layers.1" in name and "lora_B" in name))

    part = tmp_path / "adapter"
    shutil.copytree(adapter, part)
    tensors = load_file(part / "adapter_model.safetensors")
    shorten(tensors)
    save_file(tensors, part / "adapter_model.safetensors", metadata={"format": "pt"})
    for write in (merge, lambda *paths: export(*paths, ["F16"], progress=False)):
        with pytest.raises(ValueError, match="lora_A"):
            write(part, tmp_path / "out")


def test_a_tensor_in_two_files_is_told(tmp_path):
    model = tmp_path / "model"
    shutil.copytree(CHECKPOINTS["2.6"], model)
    tensors = load_file(model / "model.safetensors")
    (model / "model.safetensors").unlink()
    names = ["model-1-of-2.safetensors", "model-2-of-2.safetensors"]
    first = {NORM: tensors[NORM] + 1, QUERY: tensors[QUERY]}
    save_file(first, model / names[0], metadata={"format": "pt"})
    save_file(tensors, model / names[1], metadata={"format": "pt"})
    where = ", ".join(f'"{name}": "{names[name == QUERY]}"' for name in (NORM, QUERY))
    (model / "model.safetensors.index.json").write_text(f'{{"weight_map": {{{where}}}}}')
    files = Checkpoint.find(model).weight_files()
    assert [path.name for path in files] == names
    for read in (
        all_headers,
        WeightFiles,
        lambda _: load(model, "cpu"),
        lambda _: load(model, "cpu", quantize="int4"),
        lambda _: quantize(model, tmp_path / "out", "int4"),
    ):
        with pytest.raises(ValueError, match=r"1-of-2.*2-of-2.* both hold (resampler|llm.model)"):
            read(files)
