"""A disk without room: one OSError that names the place, whichever library wrote."""

import errno
import resource
from contextlib import contextmanager

import pytest
import torch

from minicpmv.checkpoint.weights import write_tensors
from minicpmv.train.disk import disk_errors


@contextmanager
def files_of_at_most(size):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_weights(tmp_path):
    path = tmp_path / "model.safetensors"
    with files_of_at_most(1000), pytest.raises(OSError, match=r"model.safetensors cannot be wri"):
        write_tensors({"a": torch.zeros(10_000)}, path)
    assert not path.exists()


def test_the_state_of_an_optimizer(tmp_path):
    with (
        files_of_at_most(1000),
        pytest.raises(OSError, match="Free some space"),
        disk_errors(tmp_path),
    ):
        torch.save(torch.zeros(10_000), tmp_path / "optimizer.pt")


def test_a_plain_write_names_the_folder():
    with pytest.raises(OSError, match=r"^out cannot be written: No space left"), disk_errors("out"):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_other_errors_stay():
    with pytest.raises(OSError, match="Permission"), disk_errors("out"):
        raise PermissionError(errno.EACCES, "Permission denied")
    with pytest.raises(RuntimeError, match="shapes"), disk_errors("out"):
        raise RuntimeError("shapes differ")
