"""Importance matrices: files in both forms, and what quantising takes from them."""

import struct
from pathlib import Path

import numpy as np
import pytest

from minicpmv.gguf.container import Outline, write_gguf
from minicpmv.gguf.imatrix import Entry, ImportanceMatrix, importance_of, read_imatrix
from minicpmv.gguf.types import TYPES


@pytest.fixture
def matrix() -> ImportanceMatrix:
    generator = np.random.default_rng(0)
    plain = Entry(
        generator.random((1, 32)).astype(np.float32),
        np.array([7], np.float32),
        generator.random((1, 32)).astype(np.float32),
    )
    experts = Entry(generator.random((3, 16)).astype(np.float32), np.array([4, 0, 2], np.float32))
    entries = {"blk.0.attn_q.weight": plain, "blk.0.ffn_up_exps.weight": experts}
    return ImportanceMatrix(entries, ["wiki.txt"], chunk_count=5, chunk_size=512)


def test_what_is_written_is_read(matrix: ImportanceMatrix, tmp_path: Path) -> None:
    path = tmp_path / "imatrix.gguf"
    matrix.write(path)
    found = ImportanceMatrix.read(path)
    assert (found.datasets, found.chunk_count, found.chunk_size) == (["wiki.txt"], 5, 512)
    assert found.entries.keys() == matrix.entries.keys()
    for name, entry in matrix.entries.items():
        assert np.array_equal(found.entries[name].squares, entry.squares)
        assert np.array_equal(found.entries[name].counts, entry.counts)


def test_importance_is_the_mean_square(matrix: ImportanceMatrix) -> None:
    plain = matrix.entries["blk.0.attn_q.weight"]
    assert np.array_equal(plain.importance(), plain.squares[0] / np.float32(7))
    experts = matrix.entries["blk.0.ffn_up_exps.weight"].importance()
    assert experts.dtype == np.float32
    assert np.array_equal(experts[1], np.ones(16)), "no token came to it"


def legacy(values: np.ndarray, calls: int, tail: bytes = b"") -> bytes:
    name = b"blk.0.attn_q.weight"
    head = struct.pack("<ii", 1, len(name)) + name + struct.pack("<ii", calls, len(values))
    return head + values.astype("<f4").tobytes() + tail


def test_the_older_form_is_read(tmp_path: Path) -> None:
    path = tmp_path / "imatrix.dat"
    values = np.random.default_rng(0).random(32).astype(np.float32)
    path.write_bytes(legacy(values, 6, struct.pack("<ii", 6, 4) + b"wiki"))
    assert np.array_equal(read_imatrix(path)["blk.0.attn_q.weight"], values / np.float32(6))
    found = ImportanceMatrix.read(path)
    assert (found.chunk_count, found.datasets) == (6, ["wiki"])
    path.write_bytes(legacy(values, 0))
    assert np.array_equal(read_imatrix(path)["blk.0.attn_q.weight"], values)


@pytest.mark.parametrize("size", [0, 3, 4, 20, 40, 100])
def test_what_is_cut_short_is_refused(tmp_path: Path, size: int) -> None:
    path = tmp_path / "imatrix.dat"
    path.write_bytes(legacy(np.ones(32), 6)[:size])
    with pytest.raises(ValueError, match=r"imatrix.dat' is no importance matrix, or is cut short"):
        read_imatrix(path)


def test_a_model_is_no_importance_matrix(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    zeros = np.zeros((2, 128), np.uint8)
    write_gguf(path, {"a": 1}, [Outline("w", (2, 32), TYPES["F32"])], lambda outline: zeros)
    with pytest.raises(ValueError, match="is a GGUF file and no importance matrix"):
        read_imatrix(path)


def test_numbers_that_are_not_finite_are_refused(matrix: ImportanceMatrix, tmp_path: Path) -> None:
    matrix.entries["blk.0.attn_q.weight"].squares[0, 3] = np.nan
    matrix.write(tmp_path / "imatrix.gguf")
    with pytest.raises(ValueError, match=r"not finite for 'blk.0.attn_q.weight'"):
        read_imatrix(tmp_path / "imatrix.gguf")


def test_it_must_be_of_the_same_model() -> None:
    matrix = {"a.weight": np.ones(32, np.float32), "b.weight": np.ones((3, 16), np.float32)}
    assert importance_of(matrix, "c.weight", (4, 32)) is None
    found = importance_of(matrix, "a.weight", (4, 32))
    assert found is not None
    assert found.shape == (1, 32)
    found = importance_of(matrix, "b.weight", (3, 8, 16))
    assert found is not None
    assert found.shape == (3, 16)
    with pytest.raises(ValueError, match=r"32 numbers for 'a.weight', which has 64 columns"):
        importance_of(matrix, "a.weight", (4, 64))


def test_what_a_model_says_of_it(matrix: ImportanceMatrix) -> None:
    assert matrix.metadata("x.gguf") == {
        "quantize.imatrix.file": "x.gguf",
        "quantize.imatrix.dataset": "wiki.txt",
        "quantize.imatrix.entries_count": 2,
        "quantize.imatrix.chunks_count": 5,
    }
