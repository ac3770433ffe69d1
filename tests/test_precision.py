"""Which dtype a model is computed in, on devices that are not here."""

from pathlib import Path
from typing import Any

import pytest
import torch

import minicpmv.loader
from minicpmv import load
from minicpmv.devices import Hardware
from minicpmv.precision import (
    DTYPES,
    choose_dtype,
    choose_training_dtype,
    float32_bytes,
    parse_dtype,
    stored_dtype,
    working_bytes,
)

F32, BF16, F16 = torch.float32, torch.bfloat16, torch.float16
EXAMPLE = Path(__file__).parents[1] / "examples" / "scene.png"
GB = 10**9
PLAIN = Hardware("cpu", "an AVX2 processor", False, False, 16 * GB)
WITH_BF16 = Hardware("cpu", "an AMX processor", True, False, 16 * GB)
WITH_BOTH = Hardware("cpu", "a newer processor", True, True, 16 * GB)
VOLTA = Hardware("cuda", "a V100", False, True)
AMPERE = Hardware("cuda", "an A100", True, True)
OLD_MPS = Hardware("mps", "MPS", False, True)
NEW_MPS = Hardware("mps", "MPS", True, True)


@pytest.mark.parametrize(
    ("stored", "hardware", "expected"),
    [
        (BF16, PLAIN, F32),
        (F16, PLAIN, F32),
        (F32, PLAIN, F32),
        (None, PLAIN, F32),
        (BF16, WITH_BF16, BF16),
        (F16, WITH_BF16, F32),
        (F32, WITH_BF16, F32),
        (F16, WITH_BOTH, F16),
        (BF16, VOLTA, F16),
        (F16, VOLTA, F16),
        (F32, VOLTA, F32),
        (BF16, AMPERE, BF16),
        (BF16, OLD_MPS, F16),
        (BF16, NEW_MPS, BF16),
    ],
)
def test_auto_takes_what_the_device_computes_in(
    stored: torch.dtype | None, hardware: Hardware, expected: torch.dtype
) -> None:
    choice = choose_dtype(stored, hardware, needed_bytes=8 * GB)
    assert choice.dtype is expected
    assert not choice.widens
    assert choice.departs == (stored not in (expected, None))
    if choice.departs:
        assert hardware.name in choice.reason


@pytest.mark.parametrize("stored", [BF16, F16])
def test_a_model_too_large_for_float32_stays_as_stored_and_is_widened(stored: torch.dtype) -> None:
    choice = choose_dtype(stored, PLAIN, needed_bytes=32 * GB)
    assert choice.dtype is stored
    assert choice.widens
    assert choice.departs
    assert "32.0 GB" in choice.reason
    assert "16.0 GB" in choice.reason
    assert choose_dtype(stored, PLAIN, is_spread=True).widens


def test_memory_counts_on_processors_alone() -> None:
    assert choose_dtype(BF16, VOLTA, needed_bytes=99 * GB).dtype is F16
    assert choose_dtype(BF16, WITH_BF16, needed_bytes=99 * GB).dtype is BF16
    unknown = Hardware("cpu", "a processor", False, False, None)
    assert choose_dtype(BF16, unknown, needed_bytes=99 * GB).dtype is F32


def test_what_was_asked_for_is_kept() -> None:
    for hardware in (PLAIN, WITH_BF16, VOLTA, OLD_MPS):
        for dtype in (F32, BF16, F16):
            choice = choose_dtype(BF16, hardware, needed_bytes=GB, asked=dtype)
            assert choice.dtype is dtype
            assert "as asked" in choice.reason
    assert choose_dtype(BF16, PLAIN, asked=BF16).widens
    assert not choose_dtype(BF16, VOLTA, asked=BF16).widens


def test_training_is_never_in_float16_unasked() -> None:
    assert choose_training_dtype(WITH_BF16).dtype is BF16
    assert choose_training_dtype(AMPERE).dtype is BF16
    for hardware in (PLAIN, VOLTA, OLD_MPS):
        assert choose_training_dtype(hardware).dtype is F32
    assert choose_training_dtype(VOLTA, F16).dtype is F16


def test_names_of_dtypes() -> None:
    for name, dtype in DTYPES.items():
        assert parse_dtype(name) is parse_dtype(f"torch.{name}") is parse_dtype(dtype) is dtype
    assert parse_dtype("auto") is None


@pytest.mark.parametrize(
    "dtype", [{"text_config": "bfloat16"}, ["bf16"], "", "int8", torch.int8, torch.float64, None, 1]
)
def test_what_is_no_dtype_is_refused_in_one_line(dtype: Any) -> None:
    with pytest.raises(ValueError, match=r"^dtype .*Known: auto, float32") as caught:
        load("nano", dtype=dtype)
    assert "\n" not in str(caught.value)


def test_the_dtype_in_a_config() -> None:
    assert stored_dtype({"torch_dtype": "bfloat16"}) is BF16
    assert stored_dtype({"dtype": "torch.float16"}) is F16
    assert stored_dtype({"dtype": F32}) is F32
    assert stored_dtype({}) is None
    assert stored_dtype({"dtype": None}) is None


def test_weights_are_counted_as_they_will_be() -> None:
    dense = {"a": ((10, 10), "BF16"), "b": ((10,), torch.float32)}
    assert float32_bytes(dense) == 4 * 110
    assert float32_bytes(dense | {"a.packed": ((50, 1), "U8")}) == 4 * 110 + 50
    packed = {
        "a.qweight": ((8, 16), "I32"),
        "a.scales": ((1, 16), "F16"),
        "a.qzeros": ((1, 2), "I32"),
    }
    assert float32_bytes(packed, gptq_bits=4) == 4 * 64 * 16


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """`load` on an AVX2 processor; what is changed here is changed there."""
    facts: dict[str, Any] = {"free_bytes": 16 * GB}
    monkeypatch.setattr(
        minicpmv.loader,
        "hardware_of",
        lambda device: Hardware("cpu", "an AVX2 processor", False, False, **facts),
    )
    return facts


def test_load_says_what_it_chose(plain: dict[str, Any]) -> None:
    chat = load("nano", device="cpu")
    assert chat.model.dtype is F32
    assert str(chat.precision) == (
        "float32: stored as bfloat16; an AVX2 processor has no bfloat16 instructions"
    )


def test_load_counts_weights_cache_and_features(plain: dict[str, Any]) -> None:
    config = load("nano", device="cpu").model.config
    weights = 4 * 11_515_904
    needed = weights + working_bytes(config)
    plain["free_bytes"] = round(needed / 0.9 * 1.02)
    assert load("nano", device="cpu").model.dtype is F32
    plain["free_bytes"] = round(needed / 0.9 * 0.98)
    chat = load("nano", device="cpu")
    assert chat.model.dtype is BF16
    assert chat.precision is not None
    assert chat.precision.widens
    assert chat.ask("What colour is it?", [EXAMPLE], max_new_tokens=2).text


def test_load_leaves_a_limited_memory_alone(plain: dict[str, Any]) -> None:
    chat = load("nano", device_map="auto", max_memory={"cpu": "1GB"})
    assert chat.model.dtype is BF16
    assert chat.precision is not None
    assert "limited" in chat.precision.reason
