"""GGUF files loaded again: the same weights, ids, settings and answers as the checkpoint's."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import minicpmv
from minicpmv.cli import main
from minicpmv.errors import AdviceError, ArgumentError
from minicpmv.export.gguf.run import export
from minicpmv.gguf.container import GGUFFile, Outline, Typed, write_gguf
from minicpmv.gguf.reading.model import GGUFModel
from minicpmv.inspection import gguf_here
from minicpmv.loader import load

from ...helpers.gguf_files import as_released
from .members import FOLDERS, PICTURES, exported

TEXTS = (
    "Hello world! 你好，世界 12345  don't\n\n  x=1 é 🙂 e\u0301",
    "  lead <s> </s> <|im_end|> <image>./</image> <unk><用户>",
    "The quick brown fox's 3.14\t",
)
RELEASED = ("1b", "2b", "moe-8x2b", "2.5", "2.6", "nano")


def prompts(chat: Any) -> list[Any]:
    ids = [chat.processor.tokenizer(text)["input_ids"] for text in TEXTS]
    for text in TEXTS:
        turns = [{"role": "user", "content": text}]
        found = chat.processor.apply_chat_template(
            turns, tokenize=True, add_generation_prompt=True, return_dict=True
        )
        ids.append([[int(i) for i in row] for row in found["input_ids"]])
    return ids


def answer(chat: Any) -> str:
    return str(chat.ask("What is this?", max_new_tokens=6, sampling=False, num_beams=1))


def differing(ours: Any, theirs: Any) -> list[str]:
    """Names of weights that differ in any bit."""
    left, right = ours.model.state_dict(), theirs.model.state_dict()
    assert left.keys() == right.keys()
    return [name for name in left if not torch.equal(left[name], right[name])]


@pytest.mark.parametrize("name", FOLDERS)
def test_a_file_of_float32_is_the_checkpoint(name):
    files = exported(name)
    ours, theirs = (
        load(FOLDERS[name], dtype="float32"),
        load(files.language["F32"], dtype="float32", mmproj=files.mmproj),
    )
    assert differing(ours, theirs) == []
    assert prompts(ours) == prompts(theirs)
    left, right = ours.model.config.to_dict(), theirs.model.config.to_dict()
    assert right.pop("_name_or_path") == str(files.language["F32"])
    assert {key: value for key, value in left.items() if key != "_name_or_path"} == right
    assert ours.model.generation_config == theirs.model.generation_config
    assert answer(ours) == answer(theirs)


@pytest.mark.parametrize("name", PICTURES)
def test_a_language_model_alone_reads_text_and_says_what_is_missing(name):
    ours, theirs = (
        load(FOLDERS[name], dtype="float32"),
        load(exported(name).language["F32"], dtype="float32"),
    )
    assert prompts(ours) == prompts(theirs)
    assert answer(ours) == answer(theirs)
    with pytest.raises(AdviceError, match="with mmproj=FILE, its vision side") as found:
        theirs.ask("What is this?", images=[Image.new("RGB", (8, 8))])
    assert "with --mmproj FILE, its vision side" in found.value.as_flags()


@pytest.mark.parametrize("name", RELEASED)
def test_a_file_of_another_program_is_the_checkpoint(name, tmp_path):
    files = exported(name)
    path = as_released(files.language["F32"], tmp_path / "model.gguf")
    mmproj = files.mmproj and as_released(files.mmproj, tmp_path / "mmproj.gguf")
    ours, theirs = load(FOLDERS[name], dtype="float32"), load(path, dtype="float32", mmproj=mmproj)
    assert differing(ours, theirs) == []
    assert answer(ours) == answer(theirs)
    if name != "nano":  # which does not normalise text, unlike the release that it stands for
        assert prompts(ours) == prompts(theirs)


def test_scales_that_an_early_converter_left_out_are_those_of_the_release(tmp_path):
    keys = ("minicpm.embedding_scale", "minicpm.residual_scale", "minicpm.logit_scale")
    path = as_released(exported("2b").language["F32"], tmp_path / "model.gguf", keys)
    fields = GGUFModel(path).fields
    assert (fields["scale_emb"], fields["scale_depth"], fields["dim_model_base"]) == (12, 1.4, 256)


@pytest.mark.parametrize("name", ["1b", "2.6", "moe-8x2b"])
@pytest.mark.parametrize("kind", ["F16", "Q8_0", "Q4_K_M"])
def test_other_types_are_the_numbers_that_their_bytes_stand_for(name, kind):
    files = exported(name, kind)
    chat = load(files.language[kind], dtype="float32", mmproj=files.mmproj)
    file = GGUFFile(files.language[kind])
    table = chat.model.get_input_embeddings()
    expected = torch.from_numpy(file.tensor("token_embd.weight").copy())
    found = table(torch.arange(len(expected)))
    scale = getattr(table, "embed_scale", 1.0)
    assert torch.equal(found, expected * scale)


def test_a_vision_side_of_another_release_is_refused():
    with pytest.raises(ValueError, match=r"vision side of MiniCPM-Llama3-V 2\.5"):
        load(exported("2.6").language["F32"], mmproj=exported("2.5").mmproj)
    with pytest.raises(ValueError, match="is a text model"):
        load(exported("1b").language["F32"], mmproj=exported("2.5").mmproj)
    with pytest.raises(ValueError, match="is a vision side"):
        load(exported("2.5").mmproj)
    with pytest.raises(ValueError, match="is no vision side"):
        load(exported("2.5").language["F32"], mmproj=exported("2.5").language["F32"])


def test_a_vision_side_beside_a_folder_is_refused():
    with pytest.raises(ArgumentError, match="mmproj is the vision side"):
        load("nano", mmproj="x.gguf")


def test_a_file_that_is_cut_short_is_one_line(tmp_path):
    whole = exported("1b").language["F32"].read_bytes()
    path = tmp_path / "cut.gguf"
    for size in (0, 3, 40, len(whole) // 2, len(whole) - 40):
        path.write_bytes(whole[:size])
        with pytest.raises((ValueError, OSError)) as caught:
            load(path)
        assert "cut.gguf" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_tensor_too_few_or_too_many_is_named(tmp_path):
    file = exported("1b").language["F32"]
    for old, new, told in (
        (b"blk.1.ffn_up.weight", b"blk.1.ffn_uq.weight", "blk.1.ffn_uq.weight"),
        (b"blk.3.ffn_up.weight", b"blk.9.ffn_up.weight", "model.layers.3.mlp.up_proj.weight"),
    ):
        path = tmp_path / "wrong.gguf"
        path.write_bytes(file.read_bytes().replace(old, new))
        with pytest.raises(ValueError, match=told):
            load(path)


def test_info_says_what_is_in_the_files(capsys):
    files = exported("nano", "Q8_0")
    arguments = [str(files.language["Q8_0"]), "--mmproj", str(files.mmproj), "--json"]
    assert main(["info", *arguments]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["weights"]["packed_as"] == "Q8_0"
    assert report["weights"]["here"].startswith(("packed", "widened"))
    assert gguf_here("cuda", "bfloat16").startswith("widened to bfloat16, as on every cuda device")
    size = sum(path.stat().st_size for path in files.files)
    assert 0.9 * size < report["memory_bytes"]["GGUF"] < size


def test_verify_says_what_a_size_costs(capsys):
    files = exported("nano", "Q8_0")
    options = ["--checks", "none", "--max-new-tokens", "2", "--json"]
    against = ["--against", str(files.language["Q8_0"]), "--against-mmproj", str(files.mmproj)]
    assert main(["verify", "nano", *against, *options]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["passed"]


def test_verify_wants_the_vision_side(capsys):
    path = str(exported("nano", "Q8_0").language["Q8_0"])
    assert main(["verify", "nano", "--against", path, "--checks", "none"]) == 1
    assert "--against-mmproj" in capsys.readouterr().err


def test_memory_is_counted_as_it_is_packed():
    wide, packed = (GGUFModel(exported("nano", kind).language[kind]) for kind in ("F16", "Q4_K_M"))
    assert wide.packed_bytes(width=4) > 1.9 * wide.file.path.stat().st_size
    assert packed.packed_bytes(width=4) < packed.file.path.stat().st_size
    chat = load(exported("nano", "Q8_0").language["Q8_0"])
    assert chat.precision is not None


@pytest.mark.parametrize("name", ["nano", "2.5"])
def test_a_template_of_ones_own_comes_back(name, tmp_path):
    source = load(FOLDERS[name], device="cpu").processor
    folder = tmp_path / "tuned"
    shutil.copytree(Path(minicpmv.__file__).parent / "nano" if name == "nano" else FOLDERS[name],
                    folder)  # fmt: skip
    own = "{# tuned #}" + source.chat_template
    (folder / "chat_template.jinja").write_text(own, encoding="utf-8")
    assert load(folder, device="cpu").processor.chat_template == own
    files = export(folder, tmp_path / "gguf", ["F16"], progress=False)
    whole = load(files.language["F16"], device="cpu", mmproj=files.mmproj)
    assert whole.processor.chat_template == own
    key = "minicpmv.chat_template"
    assert key not in GGUFFile(exported(name, "F16").language["F16"]).metadata
    theirs = as_released(files.language["F16"], tmp_path / "theirs.gguf")
    if name == "2.5":
        mmproj = as_released(files.mmproj, tmp_path / "mmproj.gguf")
        assert load(theirs, mmproj=mmproj).processor.chat_template == source.chat_template


def test_a_folder_of_gguf_files_is_told_from_a_broken_checkpoint(tmp_path: Path) -> None:
    for name in ("nano-Q8_0.gguf", "mmproj-nano-F16.gguf"):
        (tmp_path / name).write_bytes(b"GGUF")
    with pytest.raises(
        OSError, match=r"GGUF files \(mmproj-nano-F16.gguf, nano-Q8_0.gguf\)\. Name"
    ):
        load(str(tmp_path))


WRONG = {
    "tokenizer.ggml.merges": ([], "empty list tokenizer.ggml.merges"),
    "tokenizer.ggml.tokens": ([1, 2], "as .u32.; expected a list of texts"),
    "tokenizer.ggml.token_type": (["1"], "as .str.; expected a list of numbers"),
    "tokenizer.ggml.eos_token_id": ("x", "says eos_token_id 'x', and has"),
    "general.architecture": (["qwen2"], "general.architecture as .str.; expected one value"),
    "general.file_type": ([7], "general.file_type as .u32.; expected one value"),
    "qwen2.block_count": (7, "qwen2.block_count is 7, and num_hidden_layers of the checkpoint"),
    "qwen2.attention.head_count": ("x", "head_count is 'x', and num_attention_heads"),
}


@pytest.mark.parametrize("key", WRONG)
def test_metadata_of_a_wrong_kind_is_one_line(key, tmp_path):
    value, told = WRONG[key]
    value = Typed(value, "str") if value == [] else value
    path = _changed(exported("nano").language["F32"], tmp_path, {key: value})
    with pytest.raises(ValueError, match=told) as error:
        load(path)
    assert "\n" not in str(error.value)


def test_a_head_that_is_lost_is_not_taken_for_a_tied_one(tmp_path):
    path = _changed(exported("nano").language["F32"], tmp_path, {}, without="output.weight")
    with pytest.raises(ValueError, match=r"has no tensor 'output\.weight'"):
        load(path)


def _changed(path, folder, values, without=""):
    """The file with other metadata, and one tensor less."""
    file = GGUFFile(path)
    metadata = {
        key: Typed(value if isinstance(value, str | bool | int | float) else list(value), kind)
        for key, value in file.metadata.items()
        for kind in [file.types[key].strip("[]")]
    }
    outlines = [
        Outline(info.name, info.shape, info.type)
        for info in file.tensors.values()
        if info.name != without
    ]
    new = folder / "changed.gguf"
    write_gguf(new, metadata | values, outlines, lambda outline: file.blocks(outline.name))
    return new
