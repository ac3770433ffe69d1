"""Adapters and checkpoints of the released scripts, ms-swift and LLaMA-Factory load."""

import json
from pathlib import Path

import pytest
import torch

from minicpmv import load
from minicpmv.adapters import Parts, save_adapter
from minicpmv.export.merge import merge

from .foreign import Trainer, adapter_of, checkpoint_of
from .tuned import FOLDERS, base, question, trained

pytest.importorskip("peft")

TRAINERS: list[Trainer] = ["official", "ms-swift", "LLaMA-Factory", "ZeRO-3"]
MODELS = ["2.0", "2.5", "2.6", "omnilmm-12b"]


@pytest.mark.parametrize("trainer", TRAINERS)
@pytest.mark.parametrize("model", MODELS)
def test_an_adapter_loads_and_merges(tmp_path: Path, model: str, trainer: Trainer) -> None:
    # The official one keeps the embeddings too.
    chat, tuned = trained(model, Parts("lora", True, trainer == "official", trainer == "official"))
    folder = tmp_path / "checkpoint-2"
    save_adapter(tuned, chat.processor, folder, {})
    adapter_of(trainer, folder, FOLDERS[model], chat.model.config.model_type)
    inputs = question(chat)
    with torch.no_grad():
        expected = tuned(**inputs).logits
        for again in (load(folder, "cpu", "float32"), _given(model, folder)):
            assert torch.equal(again.model(**inputs).logits, expected)
        merge(folder, tmp_path / "out")
        merged = load(tmp_path / "out", "cpu", "float32").model(**inputs).logits
    assert (merged - expected).abs().max() <= 1e-5 * max(1.0, float(expected.abs().max()))


@pytest.mark.parametrize("trainer", TRAINERS)
def test_a_whole_checkpoint_loads(tmp_path: Path, trainer: Trainer) -> None:
    checkpoint_of(trainer, tmp_path / "checkpoint-2", FOLDERS["2.6"])
    again = load(tmp_path / "checkpoint-2", "cpu", "float32")
    inputs = question(again)
    with torch.no_grad():
        assert torch.equal(again.model(**inputs).logits, base("2.6").model(**inputs).logits)


def test_a_tensor_too_many_or_too_few_is_named(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    chat, tuned = trained("2.6", Parts("lora", True, False))
    save_adapter(tuned, chat.processor, tmp_path / "a", {})
    path = tmp_path / "a" / "adapter_model.safetensors"
    tensors = load_file(path)
    name = "base_model.model.model.resampler.ln_q.weight"
    save_file({n: t for n, t in tensors.items() if n != name}, path)
    with pytest.raises(ValueError, match=r"1 missing: model\.resampler\.ln_q\.weight"):
        load(tmp_path / "a")
    extra = {"base_model.model.model.vision_tower.post_layernorm.weight": torch.ones(36)}
    save_file(tensors | extra, path)
    with pytest.raises(ValueError, match=r"1 unexpected: .*post_layernorm"):
        load(tmp_path / "a")


def test_merge_refuses_a_part_without_its_tensors(tmp_path: Path) -> None:
    """Or the part would stay as in the base, without a word."""
    from safetensors.torch import load_file, save_file

    chat, tuned = trained("2.6", Parts("lora", True, False))
    save_adapter(tuned, chat.processor, tmp_path / "a", {})
    path = tmp_path / "a" / "adapter_model.safetensors"
    save_file({n: t for n, t in load_file(path).items() if "resampler" not in n}, path)
    with pytest.raises(ValueError, match=r"lacks tensors of 'resampler'.*model\.resampler\.attn"):
        merge(tmp_path / "a", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_part_that_the_model_does_not_have_is_refused(tmp_path: Path) -> None:
    chat, tuned = trained("2.6", Parts("lora", True, False))
    save_adapter(tuned, chat.processor, tmp_path / "a", {})
    path = tmp_path / "a" / "adapter_config.json"
    fields = json.loads(path.read_text())
    path.write_text(json.dumps(fields | {"modules_to_save": ["resampler", "projector"]}))
    for read in (load, lambda folder: merge(folder, tmp_path / "out")):
        with pytest.raises(ValueError, match="names 'projector' in modules_to_save"):
            read(tmp_path / "a")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    from safetensors.torch import load_file, save_file

    chat, tuned = trained("2.6", Parts("lora", True, False))
    save_adapter(tuned, chat.processor, tmp_path / "a", {})
    path = tmp_path / "a" / "adapter_model.safetensors"
    tensors = load_file(path)
    tensors["base_model.model.model.resampler.ln_q.weight"][0] = value
    save_file(tensors, path)
    for read in (load, lambda folder: merge(folder, tmp_path / "out")):
        with pytest.raises(ValueError, match=r"not finite in model\.resampler\.ln_q\.weight"):
            read(tmp_path / "a")


def _given(model: str, folder: Path):
    return load(FOLDERS[model], "cpu", "float32", adapter=folder)


def test_settings_that_say_nothing_are_named(tmp_path: Path) -> None:
    """Neither a file of no fields nor one of a wrong type may load, or end in a KeyError."""
    chat, tuned = trained("2.6", Parts("lora", False, False))
    save_adapter(tuned, chat.processor, tmp_path, {"max_slice_nums": "4"})
    with pytest.raises(ValueError, match="max_slice_nums '4'; expected a value of type int"):
        load(FOLDERS["2.6"], "cpu", adapter=tmp_path)
    (tmp_path / "training_settings.json").unlink()
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match="has no peft_type"):
        load(FOLDERS["2.6"], "cpu", adapter=tmp_path)
