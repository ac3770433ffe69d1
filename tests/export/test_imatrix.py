"""Importance matrices made here: sums over the inputs of every matrix, of text and of pictures."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from minicpmv.cli import main
from minicpmv.export import imatrix
from minicpmv.export.gguf.run import export_gguf
from minicpmv.export.imatrix import make_imatrix
from minicpmv.gguf.container import GGUFFile
from minicpmv.gguf.imatrix import ImportanceMatrix
from minicpmv.gguf.quantise import quantise

from ..helpers.chats import FOLDERS, loaded

TEXT = "The quick brown fox jumps over the lazy dog. " * 12


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


def test_sums_are_of_the_inputs(text: Path) -> None:
    chat = loaded("2.6")
    ids = torch.tensor(chat.processor.tokenizer(TEXT)["input_ids"][:32])
    with torch.no_grad():
        language = chat.model.model.language_model
        rows = language.layers[0].input_layernorm(language.embed_tokens(ids)).double()
    entries = make_imatrix(chat, [text], chunk_size=32, most=1).entries
    for name in ("attn_q", "attn_k", "attn_v"):
        entry = entries[f"blk.0.{name}.weight"]
        assert entry.counts == 32
        assert np.allclose(entry.squares[0], rows.square().sum(0), rtol=1e-5)
        assert entry.sums is not None
        assert np.allclose(entry.sums[0], rows.sum(0), rtol=1e-4, atol=1e-4)
    assert "output.weight" not in entries
    assert not any(name.startswith("v.") for name in entries)


def test_a_rest_is_left_out_where_there_is_a_whole_chunk(text: Path) -> None:
    chat = loaded("minicpm-2b")
    number = len(chat.processor.tokenizer(TEXT)["input_ids"])
    for size, count in ((50, number // 50 * 50), (1000, number)):
        matrix = make_imatrix(chat, [text], chunk_size=size)
        assert matrix.entries["blk.0.attn_q.weight"].counts == count
        assert (matrix.chunk_size, matrix.datasets) == (size, [str(text)])


def test_every_expert_has_its_tokens(text: Path) -> None:
    chat = loaded("minicpm-moe-8x2b")
    matrix = make_imatrix(chat, [text], chunk_size=40, most=2)
    counts = matrix.entries["blk.0.attn_q.weight"].counts
    for name in ("gate", "up", "down"):
        entry = matrix.entries[f"blk.0.ffn_{name}_exps.weight"]
        assert entry.squares.shape[0] == chat.model.config.num_experts
        assert entry.counts.sum() == counts.sum() * chat.model.config.num_experts_per_tok


def test_pictures_and_answers_count(tmp_path: Path) -> None:
    chat = loaded("2.6")
    Image.new("RGB", (60, 40), "red").save(tmp_path / "a.png")
    counts = []
    for row in (
        {"prompt": "What?"},
        {"prompt": "What?", "images": ["a.png"]},
        {"prompt": "What?", "images": ["a.png"], "answer": "red"},
    ):
        path = tmp_path / "rows.jsonl"
        path.write_text(json.dumps(row) + "\n", encoding="utf-8")
        counts.append(make_imatrix(chat, [path]).entries["blk.0.ffn_up.weight"].counts[0])
    assert counts[1] > counts[0] + chat.model.config.query_num
    answer = chat.processor.tokenizer("red", add_special_tokens=False)["input_ids"]
    assert counts[2] == counts[1] + len(answer)


def test_a_run_that_was_stopped_goes_on(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(imatrix, "_KEPT_EVERY", 1)
    chat, part = loaded("2.6"), tmp_path / "out.gguf.sums"
    whole = make_imatrix(chat, [text], chunk_size=32, most=4)
    seen: list[int] = []

    def stop(done: int, total: int) -> None:
        seen.append(done)
        if len(seen) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_imatrix(chat, [text], chunk_size=32, most=4, part=part, on_progress=stop)
    found = make_imatrix(chat, [text], chunk_size=32, most=4, part=part, on_progress=stop)
    assert seen == [1, 2, 3, 4]
    assert not part.exists()
    for name, entry in whole.entries.items():
        assert np.array_equal(found.entries[name].squares, entry.squares)
        assert found.entries[name].counts == entry.counts


def test_sums_of_other_data_are_not_gone_on_with(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(imatrix, "_KEPT_EVERY", 1)
    chat, part = loaded("2.6"), tmp_path / "out.gguf.sums"

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_imatrix(chat, [text], chunk_size=32, most=4, part=part, on_progress=stop)
    found = make_imatrix(chat, [text], chunk_size=16, most=2, part=part)
    assert found.entries["blk.0.attn_q.weight"].counts == 32


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "rows.jsonl, line 2 is not JSON"),
        ('{"text": "a"}', "rows.jsonl, line 2 has no prompt"),
        ('{"prompt": "a", "image": "b"}', "rows.jsonl, line 2 has 'image'; known are"),
        ('{"prompt": "a", "images": "b"}', "images must be a list"),
    ],
)
def test_wrong_lines_are_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "a"}\n' + line, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        make_imatrix(loaded("2.6"), [path])


def test_what_is_empty_or_not_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("", encoding="utf-8")
    with pytest.raises(ValueError, match=r"empty.txt' is empty"):
        make_imatrix(loaded("2.6"), [tmp_path / "empty.txt"])
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "a", "images": ["b.png"]}', encoding="utf-8")
    with pytest.raises(FileNotFoundError, match=r"line 1: .*b.png' is not there"):
        make_imatrix(loaded("2.6"), [rows])


def test_every_expert_is_exported_with_its_own(text: Path, tmp_path: Path) -> None:
    matrix = make_imatrix(loaded("minicpm-moe-8x2b"), [text], chunk_size=64)
    matrix.write(tmp_path / "imatrix.gguf")
    paths = {name: tmp_path / f"{name}.gguf" for name in ("Q4_0", "F16")}
    for name, path in paths.items():
        given = tmp_path / "imatrix.gguf" if name == "Q4_0" else None
        model = FOLDERS["minicpm-moe-8x2b"]
        export_gguf(model, path, [name], mmproj=None, imatrix=given, progress=False)
    found, exact = (GGUFFile(paths[name]) for name in ("Q4_0", "F16"))
    name = "blk.0.ffn_down_exps.weight"
    importance = matrix.entries[name].importance()
    values, type_ = exact.tensor(name), found.info(name).type
    apart = [quantise(values[i], type_, importance[i]) for i in range(len(values))]
    assert np.array_equal(found.blocks(name), np.concatenate(apart))
    # The router is F32 in every file, and never went through F16.
    router = "blk.0.ffn_gate_inp.weight"
    assert np.array_equal(found.blocks(router), exact.blocks(router))


def test_the_export_uses_it(text: Path, tmp_path: Path) -> None:
    matrix = make_imatrix(loaded("2.6"), [text], chunk_size=64)
    matrix.write(tmp_path / "imatrix.gguf")
    files = []
    for name, given in (("with", tmp_path / "imatrix.gguf"), ("without", None)):
        out = tmp_path / f"{name}.gguf"
        model = FOLDERS["2.6"]
        export_gguf(model, out, ["Q4_0"], mmproj=None, imatrix=given, progress=False)
        files.append(GGUFFile(out))
    assert files[0].metadata["quantize.imatrix.entries_count"] == len(matrix.entries)
    assert "quantize.imatrix.file" not in files[1].metadata
    name = "blk.0.attn_q.weight"
    assert not np.array_equal(files[0].blocks(name), files[1].blocks(name))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nano", "x.dat", "--data", "t.txt"], "it must end in .gguf"),
        (["nano", "x.gguf", "--data", "missing.txt"], "--data: 'missing.txt' is not there"),
        (["nano", "x.gguf", "--data", "t.txt", "--chunks", "0"], "--chunks is 0"),
        (["nano", "x.gguf", "--data", "t.txt", "--quantize", "int4"], "--quantize would measure"),
    ],
)
def test_wrong_arguments_are_refused_before_a_model_is_loaded(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["imatrix", *arguments]) in (1, 2)
    assert message in capsys.readouterr().err


def test_a_matrix_that_is_there_is_replaced_only_when_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, text = tmp_path / "x.gguf", tmp_path / "t.txt"
    out.write_bytes(b"hours of work")
    text.write_text("What colour is the star? " * 10)
    words = ["imatrix", "nano", str(out), "--data", str(text), "--chunk-size", "32"]
    assert main(words) == 1
    assert "x.gguf' is there already. Replace it with --overwrite" in capsys.readouterr().err
    assert out.read_bytes() == b"hours of work"
    assert main([*words, "--overwrite"]) == 0
    assert ImportanceMatrix.read(out).chunk_size == 32
