"""`minicpmv export gguf` as a whole: names, resuming, refusals, adapters, which bytes."""

import hashlib
import json
import os
import shutil
import sys
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from minicpmv.adapters import Parts, save_adapter
from minicpmv.checkpoint.weights import write_shards
from minicpmv.cli import main
from minicpmv.errors import ArgumentError
from minicpmv.export.gguf import run
from minicpmv.export.gguf.run import ALL, Exported, export, export_gguf
from minicpmv.export.merge import merge
from minicpmv.export.ollama import export_ollama
from minicpmv.gguf.container import GGUFFile
from minicpmv.loader import load

from ...adapters.tuned import trained
from ...helpers.golden import GOLDEN
from .members import FOLDERS

# Of every size that llama-quantize (b11434) makes of nano, written as F16 or BF16.
RECORDED = json.loads((GOLDEN / "gguf" / "nano_files.json").read_text())
QUICK = ("F16", "BF16", "Q8_0", "Q4_K_M")


def digest(path: Path) -> str:
    """Of names, types and bytes of all tensors."""
    file = GGUFFile(path)
    lines = [
        f"{name} {info.type.name} {hashlib.sha256(file.blocks(name).tobytes()).hexdigest()[:20]}"
        for name, info in file.tensors.items()
    ]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:20]


@pytest.mark.parametrize(
    "kind", [k if k in QUICK else pytest.param(k, marks=pytest.mark.slow) for k in ALL]
)
@pytest.mark.parametrize("through", RECORDED)
def test_bytes_are_those_of_llama_quantize(tmp_path: Path, through: Any, kind: str) -> None:
    (path,) = export_gguf("nano", tmp_path, [kind], mmproj=None, through=through, progress=False)
    assert digest(path) == RECORDED[through][kind]


def test_without_asking_quantised_files_go_through_float16_and_others_do_not(
    tmp_path: Path,
) -> None:
    found = export("nano", tmp_path, ["Q8_0", "BF16"], mmproj=None, progress=False).language
    assert digest(found["Q8_0"]) == RECORDED["F16"]["Q8_0"]
    assert digest(found["BF16"]) == RECORDED["BF16"]["BF16"] != RECORDED["F16"]["BF16"]


def test_names_of_files(tmp_path: Path) -> None:
    paths = export_gguf(FOLDERS["2.6"], tmp_path / "a", ["q8_0", "F16"], progress=False)
    assert [path.name for path in paths] == [
        "checkpoint-Q8_0.gguf",
        "checkpoint-F16.gguf",
        "mmproj-checkpoint-F16.gguf",
    ]
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == sorted(p.name for p in paths)
    paths = export_gguf(FOLDERS["2b"], tmp_path / "b" / "x.gguf", ["F16"], progress=False)
    assert paths == [tmp_path / "b" / "x.gguf"]


def test_a_run_that_was_stopped_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = export(FOLDERS["2.6"], tmp_path / "whole", ["F16", "BF16"], progress=False)
    real, calls = run.encoded, []

    def stopped(tensor: Any, *args: Any) -> Iterator[np.ndarray]:
        calls.append(tensor.name)
        if calls.count("blk.1.attn_v.weight") == 2:  # in the second file
            raise KeyboardInterrupt
        return real(tensor, *args)

    monkeypatch.setattr(run, "encoded", stopped)
    out = tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt):
        export(FOLDERS["2.6"], out, ["F16", "BF16"], progress=False)
    assert not (out / "checkpoint-BF16.gguf").exists()
    seen = len(calls)
    monkeypatch.setattr(
        run, "encoded", lambda tensor, *args: calls.append(tensor.name) or real(tensor, *args)
    )
    again = export(FOLDERS["2.6"], out, ["F16", "BF16"], progress=False)
    assert [path.name for path in again.kept] == ["checkpoint-F16.gguf"]
    assert calls[seen] == "blk.1.attn_v.weight"
    for path in whole.files:
        assert path.read_bytes() == (out / path.name).read_bytes()
    assert len(list(out.iterdir())) == 3


def test_files_of_another_run_are_not_replaced(tmp_path: Path) -> None:
    export(FOLDERS["2b"], tmp_path, ["F16"], progress=False)
    before = (tmp_path / "ckpt-F16.gguf").read_bytes()
    with pytest.raises(FileExistsError, match=r"ckpt-F16.gguf. is there already.*overwrite"):
        export(FOLDERS["1b"], tmp_path, ["BF16", "F16"], progress=False)
    assert (tmp_path / "ckpt-F16.gguf").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1
    export(FOLDERS["1b"], tmp_path, ["F16"], overwrite=True, progress=False)
    assert (tmp_path / "ckpt-F16.gguf").read_bytes() != before


def test_a_second_size_can_be_written_beside_the_same_vision_side(tmp_path: Path) -> None:
    export(FOLDERS["2.6"], tmp_path, ["F16"], progress=False)
    with pytest.raises(FileExistsError, match=r"mmproj-.*, or keep it with mmproj=none\.$"):
        export(FOLDERS["2.6"], tmp_path, ["BF16"], progress=False)
    export(FOLDERS["2.6"], tmp_path, ["BF16"], mmproj=None, progress=False)
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"types": ["Q4_K_X"]}, "`type` 'Q4_K_X' is not known. Close: Q4_K_"),
        ({"types": ["F16"], "mmproj": "Q4_0"}, "`mmproj` 'Q4_0' is not known"),
        ({"types": ["F16"], "through": "Q8_0"}, "`through` 'Q8_0' is not known"),
    ],
)
def test_words_that_are_not_known(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError) as raised:
        export("nano", tmp_path / "out", progress=False, **options)
    assert message in raised.value.marked
    assert not (tmp_path / "out").exists()


def checkpoint(tmp_path: Path, model: str, change: dict[str, torch.Tensor]) -> Path:
    """A member with other tensors."""
    folder = tmp_path / "changed"
    shutil.copytree(FOLDERS[model], folder, copy_function=shutil.copyfile)
    tensors = load_file(folder / "model.safetensors") | change
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_a_number_beyond_float16_is_named(tmp_path: Path) -> None:
    weight = torch.full((72, 72), 7e4)
    folder = checkpoint(tmp_path, "2b", {"model.layers.1.self_attn.o_proj.weight": weight})
    with pytest.raises(ValueError, match=r"blk.1.attn_output.weight.*70000.*--through BF16"):
        export(folder, tmp_path / "out", ["F16"], progress=False)
    export(folder, tmp_path / "out", ["BF16"], progress=False)


def test_a_number_that_is_none_is_named(tmp_path: Path) -> None:
    weight = torch.full((72,), float("nan"))
    folder = checkpoint(tmp_path, "2b", {"model.norm.weight": weight})
    expected = (
        r"'output_norm.weight' .*not finite: .*'model.norm.weight' in model.safetensors has 72"
    )
    for name in ("F16", "F32", "BF16", "Q4_0"):
        with pytest.raises(ValueError, match=expected):
            export(folder, tmp_path / "out", [name], progress=False)


def test_a_number_that_is_none_is_named_with_its_shard(tmp_path: Path) -> None:
    weight = torch.zeros(72, 72)
    weight[3, 5] = float("inf")
    folder = checkpoint(tmp_path, "2b", {"model.layers.1.self_attn.o_proj.weight": weight})
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    deque(write_shards(folder, tensors, tensors.__getitem__, 100_000), maxlen=0)
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    shard = index["model.layers.1.self_attn.o_proj.weight"]
    assert shard != index["model.norm.weight"]
    with pytest.raises(ValueError, match=rf"o_proj.weight' in {shard} has 1 of 5184"):
        export(folder, tmp_path / "out", ["Q4_0"], progress=False)
    with pytest.raises(ValueError, match=rf"o_proj.weight in {shard} \(float32\)"):
        load(folder, "cpu", "float32", progress=False)


def test_a_tensor_too_many_and_one_too_few(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, "2b", {"model.layers.9.mlp.up_proj.weight": torch.zeros(180, 72)})
    with pytest.raises(ValueError, match=r"1 unexpected: model.layers.9.mlp.up_proj.weight"):
        export(folder, tmp_path / "out", ["F16"], progress=False)


def test_quantised_weights_are_refused(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, "2b", {})
    fields = json.loads((folder / "config.json").read_text())
    fields["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (folder / "config.json").write_text(json.dumps(fields))
    with pytest.raises(ValueError, match=r"are quantised already. Export the full weights"):
        export(folder, tmp_path / "out", ["Q4_0"], progress=False)


@pytest.mark.parametrize("model", ["2.6", "2.5", "2b"])
def test_an_adapter_is_put_in_as_by_merge(tmp_path: Path, model: str) -> None:
    pytest.importorskip("peft")
    has_pictures = model != "2b"
    parts = Parts("lora", has_pictures, "lora" if has_pictures else False)
    chat, tuned = trained(model, parts, targets="all-linear")
    save_adapter(tuned, chat.processor, tmp_path / "adapter", {})
    merge(tmp_path / "adapter", tmp_path / "merged")
    apart = export(tmp_path / "adapter", tmp_path / "a", ["F32"], mmproj="F32", progress=False)
    given = export(
        FOLDERS[model],
        tmp_path / "b",
        ["F32"],
        mmproj="F32",
        adapter=tmp_path / "adapter",
        progress=False,
    )
    merged = export(tmp_path / "merged", tmp_path / "c", ["F32"], mmproj="F32", progress=False)
    plain = export(FOLDERS[model], tmp_path / "d", ["F32"], mmproj="F32", progress=False)
    for ours, same, expected, base in zip(
        apart.files, given.files, merged.files, plain.files, strict=True
    ):
        files = [GGUFFile(path) for path in (ours, same, expected, base)]
        assert [list(file.tensors) for file in files] == [list(files[0].tensors)] * 4
        changed = 0
        for name in files[0].tensors:
            blocks = [file.blocks(name) for file in files]
            assert np.array_equal(blocks[0], blocks[2]), name
            assert np.array_equal(blocks[1], blocks[2]), name
            changed += not np.array_equal(blocks[0], blocks[3])
        assert changed
    assert apart.files[0].name == "adapter-F32.gguf"


def test_command_prints_files_and_notes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(FOLDERS["2b-128k"])
    assert main(["export", "gguf", folder, str(tmp_path), "--type", "F16,Q4_0"]) == 0
    printed = capsys.readouterr()
    names = [line.rpartition("/")[2].partition(":")[0] for line in printed.out.splitlines()]
    assert names == ["ckpt-F16.gguf", "ckpt-Q4_0.gguf"]
    assert "note: llama.cpp has no dynamic rope" in printed.err
    assert main(["export", "gguf", folder, str(tmp_path), "--type", "Q9"]) == 2
    assert "--type 'Q9' is not known" in capsys.readouterr().err


def test_without_numba_nothing_is_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)
    monkeypatch.delitem(sys.modules, "minicpmv.gguf.blocks.arithmetic", raising=False)
    with pytest.raises(ImportError, match=r'needs numba. pip install "minicpmv\[gguf\]"'):
        export_gguf("nano", tmp_path / "out", ["F16", "Q4_0"], progress=False)
    assert not (tmp_path / "out").exists()
    export_gguf("nano", tmp_path / "out", ["F16"], progress=False)


class Killed(BaseException):
    """As by `kill -9`: nothing is put in order afterwards."""


def killed_at(monkeypatch: pytest.MonkeyPatch, moment: int, work: Callable[[], Any]) -> bool:
    """End `work` before the given of all changes of names, as far as the folder shows it.

    Returns:
        Whether it was ended.
    """
    count = 0

    def ending(change: Any) -> Any:
        def changed(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if count > moment:
                raise Killed
            return change(*args, **kwargs)

        return changed

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", ending(os.replace))
        patch.setattr(Path, "unlink", ending(Path.unlink))
        try:
            work()
        except Killed:
            return True
    return False


@pytest.mark.parametrize("is_replaced", [False, True])
def test_a_run_goes_on_whenever_it_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_replaced: bool
) -> None:
    def write(out: Path) -> Exported:
        return export_ollama(
            FOLDERS["2.6"], out, "F16", overwrite=is_replaced, progress=False, mmproj="F32"
        )

    def content(folder: Path) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    write(tmp_path / "whole")
    whole, moment = content(tmp_path / "whole"), 0
    while True:
        out = tmp_path / str(moment)
        if is_replaced:
            out.mkdir()
            for name in whole:
                (out / name).write_text("before")
        if not killed_at(monkeypatch, moment, lambda out=out: write(out)):
            break
        write(out)
        assert content(out) == whole, moment
        moment += 1
    assert moment > 10


def test_other_small_files_begin_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, out = checkpoint(tmp_path, "2.6", {}), tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(run, "_write_vision", lambda *_: pytest.fail("stopped"))
        with pytest.raises(pytest.fail.Exception):
            export(folder, out, ["F16"], progress=False)
    path = folder / "generation_config.json"
    fields = json.loads(path.read_text())
    path.write_text(json.dumps(fields | {"repetition_penalty": 1.5}))
    with pytest.raises(FileExistsError, match=r"changed-F16.gguf"):
        export(folder, out, ["F16"], progress=False)
    (written, _) = export(folder, out, ["F16"], overwrite=True, progress=False).files
    assert "1.5" in str(GGUFFile(written).metadata["minicpmv.generation_config"])
