"""What is no device is refused in one plain line."""

from typing import Any

import pytest
import torch
from torch import nn

from minicpmv import load
from minicpmv.devices import (
    available_memory,
    check_device_map,
    check_tied_devices,
    hardware_of,
    main_device,
    parse_device,
    processor_name,
    uses_disk,
)


@pytest.mark.parametrize(
    "device",
    [
        *("meta", "meta:0", torch.device("meta"), "", "gpu", "CPU", "hpu", "vulkan", "xla", "fpga"),
        *("cpu:-1", "cpu:3", torch.device("cpu", 1), None, True, 1.5, b"cpu", {"": "cpu"}, ["cpu"]),
    ],
)
def test_a_device_that_cannot_compute_is_refused(device: Any) -> None:
    with pytest.raises(ValueError, match=r"^(d|D)evice ") as caught:
        load("nano", device=device)
    message = str(caught.value)
    assert "\n" not in message
    assert "Known: auto, cpu" in message


@pytest.mark.parametrize(
    "device_map",
    ["meta", "everywhere", 1.5, {}, {"": "meta"}, {"model": "cpu", "lm_head": "gpu"}, ["cpu"]],
)
def test_a_device_map_that_cannot_compute_is_refused(device_map: Any) -> None:
    with pytest.raises(ValueError, match="device_map") as caught:
        load("nano", device_map=device_map)
    assert "\n" not in str(caught.value)


def test_device_maps_that_are_fine() -> None:
    for device_map in ("auto", "sequential", "cpu", {"": "cpu"}, {"model": "cpu", "b": "disk"}):
        check_device_map(device_map)
        assert main_device(device_map).type == parse_device("auto").type or device_map != "auto"
    assert uses_disk({"model": "cpu", "b": "disk"})
    assert not uses_disk("auto")
    assert main_device({"model": "disk"}) == torch.device("cpu")


class Tied(nn.Module):
    def __init__(self, tied: bool, places: dict[str, Any]):
        super().__init__()
        self.embed, self.lm_head = nn.Embedding(4, 2), nn.Linear(2, 4)
        self.hf_device_map = places
        self.config = type("Config", (), {"tie_word_embeddings": tied})()
        self.config.get_text_config = lambda: self.config

    def get_input_embeddings(self) -> nn.Module:
        return self.embed

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head


def test_a_tied_matrix_has_one_device() -> None:
    check_tied_devices(Tied(True, {"": "cpu"}))
    check_tied_devices(Tied(True, {"embed": "cpu", "lm_head": "cpu"}))
    check_tied_devices(Tied(False, {"embed": "cpu", "lm_head": "disk"}))
    with pytest.raises(ValueError, match=r"embed \(cpu\) and lm_head \(disk\) are one tied matrix"):
        check_tied_devices(Tied(True, {"embed": "cpu", "lm_head": "disk"}))


def test_this_computer() -> None:
    hardware = hardware_of(torch.device("cpu"))
    assert hardware.name == processor_name() != ""
    assert hardware.has_bfloat16 == torch.ops.mkldnn._is_mkldnn_bf16_supported()
    free = available_memory()
    assert free is not None
    assert free > 0
