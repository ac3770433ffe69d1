"""`minicpmv info`: what it counts, and which mismatches it finds."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from minicpmv.releases import TEXT_RELEASES

from ..helpers.golden import GOLDEN


@pytest.fixture
def checkpoint(tmp_path):
    """A copy of the small 2.6 checkpoint that a test may damage."""
    return shutil.copytree(GOLDEN / "minicpm-v-2_6" / "checkpoint", tmp_path / "model")


def change(checkpoint, file, **values):
    path = checkpoint / file
    path.chmod(0o644)
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def change_tensors(checkpoint, **tensors):
    """Replace tensors; None removes one."""
    path = checkpoint / "model.safetensors"
    path.chmod(0o644)
    kept = load_file(path) | {name.replace("__", "."): value for name, value in tensors.items()}
    save_file({name: value for name, value in kept.items() if value is not None}, path)


@pytest.mark.parametrize("release", ["minicpm-v-2_6", "minicpm-llama3-v-2_5"])
def test_a_sound_checkpoint_agrees(run, release):
    checkpoint = GOLDEN / release / "checkpoint"
    code, out, err = run("info", checkpoint)
    assert (code, err) == (0, "")
    assert out.endswith("The files agree with each other.\n")
    report = json.loads(run("info", checkpoint, "--json")[1])
    tensors = load_file(checkpoint / "model.safetensors")
    assert report["parameters"]["total"] == sum(tensor.numel() for tensor in tensors.values())
    assert report["weights"] == {
        "tensors": len(tensors),
        "dtypes": ["F32"],
        "packed_as": None,
    }
    assert report["precision"]["dtype"] in ("float32", "bfloat16", "float16")
    assert report["precision"]["reason"].startswith(("as stored", "stored as"))
    assert report["memory_bytes"]["float32"] == 4 * report["parameters"]["total"]
    assert report["mismatches"] == []
    assert None not in report["special_tokens"].values()


@pytest.mark.parametrize("name", ["2b", "1b", "2b-128k", "moe-8x2b"])
def test_a_text_model_agrees_and_sees_no_pictures(run, name):
    checkpoint = GOLDEN / f"minicpm-{name}" / "ckpt"
    code, out, err = run("info", checkpoint)
    assert (code, err) == (0, "")
    assert out.startswith(f"{checkpoint}: {TEXT_RELEASES[name].name}\n")
    assert "reads text only" in out
    assert "vision tower" not in out
    report = json.loads(run("info", checkpoint, "--json")[1])
    tensors = load_file(checkpoint / "model.safetensors")
    assert report["parameters"]["total"] == sum(tensor.numel() for tensor in tensors.values())
    assert list(report["shapes"]) == ["language model"]
    assert report["special_tokens"]["</s>"] == 2


def test_weights_in_the_format_of_pytorch_are_compared_too(run, tmp_path):
    checkpoint = shutil.copytree(GOLDEN / "minicpm-2b" / "ckpt", tmp_path / "model")
    tensors = load_file(checkpoint / "model.safetensors")
    (checkpoint / "model.safetensors").unlink()
    torch.save(tensors, checkpoint / "pytorch_model.bin")
    report = json.loads(run("info", checkpoint, "--json")[1])
    assert report["weights"] == {"tensors": len(tensors), "dtypes": ["F32"], "packed_as": None}
    assert report["mismatches"] == []
    tensors.pop("model.norm.weight")
    torch.save(tensors, checkpoint / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    code, out, _ = run("info", checkpoint)
    assert code == 1
    assert "the weights: 1 missing: model.norm.weight" in out


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"image_feature_size": 64}, "query_num 8, preprocessor_config.json image_feature_size 64"),
        ({"max_slice_nums": 4}, "max_slice_nums 9, preprocessor_config.json max_slice_nums 4"),
        ({"im_start": "<picture>"}, "the tokenizer has no token <picture>"),
    ],
)
def test_a_processor_that_disagrees_is_named(run, checkpoint, values, message):
    change(checkpoint, "preprocessor_config.json", **values)
    code, out, err = run("info", checkpoint)
    assert (code, err) == (1, "")
    assert "The files disagree:" in out
    assert message in out


def test_a_token_without_embedding_is_named(run, checkpoint):
    change(checkpoint, "config.json", vocab_size=730)
    code, out, _ = run("info", checkpoint)
    assert code == 1
    assert "the tokenizer's largest id is 743, config.json has vocab_size 730" in out


def test_tensors_that_do_not_fit_are_named(run, checkpoint):
    change_tensors(
        checkpoint,
        resampler__proj=None,
        resampler__more=torch.zeros(1),
        vpm__post_layernorm__bias=torch.zeros(7),
    )
    code, out, _ = run("info", checkpoint)
    assert code == 1
    assert "the weights: 1 missing: resampler.proj" in out
    assert "1 unexpected: resampler.more" in out
    assert "1 of another shape: vpm.post_layernorm.bias (7,), expected (" in out


def test_tied_embeddings_may_be_in_the_file_once_or_twice(run, checkpoint):
    change(checkpoint, "config.json", tie_word_embeddings=True)
    assert run("info", checkpoint)[0] == 0
    change_tensors(checkpoint, llm__lm_head__weight=None)
    assert run("info", checkpoint)[0] == 0


def test_shards_are_read_through_their_index(run, checkpoint):
    tensors = load_file(checkpoint / "model.safetensors")
    (checkpoint / "model.safetensors").unlink()
    weight_map = {name: f"part-{i % 2}.safetensors" for i, name in enumerate(tensors)}
    for shard in set(weight_map.values()):
        save_file({n: t for n, t in tensors.items() if weight_map[n] == shard}, checkpoint / shard)
    index = {"metadata": {}, "weight_map": weight_map}
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps(index))
    assert run("info", checkpoint)[0] == 0
    (checkpoint / "part-1.safetensors").unlink()
    assert "has no part-1.safetensors" in run("info", checkpoint)[2]


def test_files_that_are_missing_or_damaged_are_named(run, checkpoint):
    weights = checkpoint / "model.safetensors"
    content = weights.read_bytes()
    weights.chmod(0o644)
    weights.write_bytes(content[:-10])
    assert "model.safetensors' is damaged or not complete" in fails(run, checkpoint)
    weights.write_bytes(b"version https://git-lfs.github.com/spec/v1")
    assert "model.safetensors' is a git-lfs pointer" in fails(run, checkpoint)
    weights.unlink()
    assert "has no model.safetensors" in fails(run, checkpoint)
    tokenizer = checkpoint / "tokenizer.json"
    tokenizer.chmod(0o644)
    tokenizer.write_text("{}")
    assert "is not a tokenizer file" in fails(run, checkpoint)
    change(checkpoint, "config.json", version="9.9")
    assert "Version '9.9' of MiniCPM-V is not known" in fails(run, checkpoint)
    (checkpoint / "config.json").write_text("{")
    assert "is not JSON" in fails(run, checkpoint)
    (checkpoint / "config.json").unlink()
    assert "has no config.json" in fails(run, checkpoint)


def test_a_model_that_is_not_there_is_an_error(run):
    assert "Model 'nanoo' is not known" in fails(run, "nanoo")


def fails(run, *arguments):
    code, out, err = run("info", *arguments)
    assert (code, out) == (1, "")
    assert err.count("\n") == 1
    return err
