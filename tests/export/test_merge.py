"""`minicpmv merge`: the adapter in the weights computes what the two compute apart."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from minicpmv import load
from minicpmv.adapters import Parts, save_adapter
from minicpmv.cli import main
from minicpmv.export.merge import merge
from minicpmv.integrations.peft import without_its_warnings

from ..adapters.tuned import FOLDERS, question, trained

pytest.importorskip("peft")

CASES: list[tuple[str, Parts, dict[str, Any]]] = [
    *((model, Parts("lora", True, False), {}) for model in ("2.6", "2.5", "2.0", "1.0")),
    ("omnilmm-12b", Parts("lora", True, True), {}),
    ("2.6", Parts("lora", "lora", "lora"), {"targets": "all-linear", "rslora": True}),
    ("2.0", Parts("lora", "lora", "lora"), {"dora": True}),
    ("2.6", Parts("lora", False, False, embeddings=True), {}),
    *((model, Parts("lora", False, False), {"targets": "all-linear"}) for model in ("2b",)),
    *((model, Parts("lora", False, False, True), {}) for model in ("2b", "moe-8x2b")),
    ("moe-8x2b", Parts("lora", False, False), {"targets": "all-linear", "rslora": True}),
]


@pytest.mark.parametrize(("model", "parts", "lora"), CASES)
def test_merged_is_as_apart(tmp_path: Path, model: str, parts: Parts, lora: dict[str, Any]) -> None:
    chat, tuned = trained(model, parts, **lora)
    save_adapter(tuned, chat.processor, tmp_path / "adapter", {})
    steps: list[tuple[int, int]] = []
    found = merge(
        tmp_path / "adapter",
        tmp_path / "out",
        max_shard_size="300KB",
        on_progress=lambda done, total: steps.append((done, total)),
    )
    assert steps[-1] == (found.num_tensors, found.num_tensors)
    assert 0 < found.num_changed < found.num_tensors
    again = load(tmp_path / "out", "cpu", "float32")
    inputs = question(chat)
    with torch.no_grad():
        expected = tuned(**inputs).logits
        difference = (again.model(**inputs).logits - expected).abs().max()
    assert difference <= 1e-5 * max(1.0, float(expected.abs().max()))


def test_files_are_those_of_the_release(tmp_path: Path) -> None:
    chat, tuned = trained("2.6", Parts("lora", True, False))
    save_adapter(tuned, chat.processor, tmp_path / "adapter", {"max_slice_nums": 3})
    merge(tmp_path / "adapter", tmp_path / "out")
    base = FOLDERS["2.6"]
    small = {file.name for file in base.iterdir() if file.suffix in (".json", ".txt", ".jinja")}
    assert small - {"model.safetensors.index.json"} <= {
        f.name for f in (tmp_path / "out").iterdir()
    }
    assert _headers(tmp_path / "out") == _headers(base)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert "auto_map" not in config
    again = load(tmp_path / "out", "cpu", "float32")
    assert again.processor.image_processor.max_slice_nums == 3
    assert not list(tmp_path.glob("*.unfinished"))


def test_a_tied_head_that_was_trained_alone_gets_its_own_weights(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    chat = load(FOLDERS["2b"], "cpu", "float32")
    assert chat.model.config.tie_word_embeddings
    torch.manual_seed(0)
    with without_its_warnings(), pytest.warns(UserWarning, match="tie"):
        tuned = peft.get_peft_model(
            chat.model,
            peft.LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"]),
        )
    with torch.no_grad():
        tuned.base_model.model.lm_head.modules_to_save.default.weight.mul_(1.5)
    save_adapter(tuned, chat.processor, tmp_path / "adapter", {})
    merge(tmp_path / "adapter", tmp_path / "out")
    again = load(tmp_path / "out", "cpu", "float32")
    assert not again.model.config.tie_word_embeddings
    inputs = question(chat)
    with torch.no_grad():
        difference = again.model(**inputs).logits - tuned.eval()(**inputs).logits
    assert difference.abs().max() <= 1e-5


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chat, tuned = trained("2.6", Parts("lora", True, False))
    adapter, out = str(tmp_path / "adapter"), str(tmp_path / "out")
    save_adapter(tuned, chat.processor, tmp_path / "adapter", {})
    assert main(["merge", adapter, out]) == 0
    assert "tensors changed" in capsys.readouterr().out
    assert main(["merge", adapter, out]) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert main(["merge", adapter, out, "--overwrite", "--model", str(FOLDERS["2.6"])]) == 0
    assert main(["merge", adapter, adapter]) == 2
    assert main(["merge", out, str(tmp_path / "x")]) == 1
    assert "no adapter_config.json" in capsys.readouterr().err
    assert main(["merge", adapter, str(tmp_path / "x"), "--model", str(FOLDERS["2.5"])]) == 1
    assert "belongs to the release 2.6" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
    prompts = ["--checks", "none", "--max-new-tokens", "3"]
    assert main(["verify", out, "--against", adapter, *prompts]) == 0
    base = str(FOLDERS["2.6"])
    assert main(["verify", out, "--against", base, "--against-adapter", adapter, *prompts]) == 0
    assert main(["verify", base, "--adapter", adapter, "--against", out, *prompts]) == 0
    assert main(["verify", out, "--against", base, *prompts]) == 1


@pytest.mark.parametrize("base", ["/data/gone", "runs/gone"])
def test_a_base_that_is_gone_is_named_with_its_adapter(
    tmp_path: Path, base: str, capsys: pytest.CaptureFixture[str]
) -> None:
    chat, tuned = trained("2.6", Parts("lora", False, False))
    save_adapter(tuned, chat.processor, tmp_path / "adapter", {})
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": base}))
    assert main(["merge", str(tmp_path / "adapter"), str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err
    assert f"adapter' was trained on {base!r}" in said
    assert "--model" in said
    for words in (["ask", "hello", "-m"], ["export", "gguf"]):
        rest = [str(tmp_path / "out")] if words[0] == "export" else []
        assert main([*words, str(tmp_path / "adapter"), *rest]) == 1
        said = capsys.readouterr().err
        assert f"adapter' was trained on {base!r}, which is not here. Give the model as" in said
        assert said.count("\n") == 1


def _headers(folder: Path) -> dict[str, Any]:
    headers = {}
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 - it is no dict
                part = file.get_slice(name)
                headers[name] = (part.get_shape(), part.get_dtype())
    return headers


def test_an_adapter_that_lacks_a_layer_is_refused(tmp_path: Path) -> None:
    chat, tuned = trained("2.6", Parts("lora", True, False))
    save_adapter(tuned, chat.processor, tmp_path / "adapter", {})
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = load_file(file)
    kept = {name: each for name, each in tensors.items() if "layers.0.self_attn.q_proj" not in name}
    assert len(kept) == len(tensors) - 2
    save_file(kept, file, {"format": "pt"})
    with pytest.raises(ValueError, match=r"its files do not agree.*layers\.0\.self_attn\.q_proj"):
        merge(tmp_path / "adapter", tmp_path / "out")
    assert not (tmp_path / "out").exists()
