"""What spreads weights over processes, and what of it is refused before anything is loaded."""

from pathlib import Path

import pytest

from minicpmv.errors import ArgumentError
from minicpmv.train.sft.options import SftOptions
from minicpmv.train.sft.tuning import FineTuning
from minicpmv.train.spread import check_spread, spread_by, spreads_weights

NAMES = ("ACCELERATE_USE_FSDP", "FSDP_VERSION", "ACCELERATE_USE_DEEPSPEED")
MORE = ("ACCELERATE_DEEPSPEED_ZERO_STAGE", "ACCELERATE_DEEPSPEED_CONFIG_FILE")


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    for name in NAMES + MORE:
        monkeypatch.delenv(name, raising=False)


def launched(monkeypatch, kind):
    """The environment that `accelerate launch` makes of our recipes."""
    if kind == "FSDP":
        monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
        monkeypatch.setenv("FSDP_VERSION", "2")
    else:
        monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
        monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", kind[-1])
        monkeypatch.setenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", "none")


@pytest.mark.parametrize("kind", ["FSDP", "ZeRO-2", "ZeRO-3"])
def test_what_the_launcher_asks_for_is_known(kind, monkeypatch):
    assert spread_by() is None
    launched(monkeypatch, kind)
    assert spread_by() == kind
    assert spreads_weights() == (kind != "ZeRO-2")


def test_a_file_of_deepspeed_says_its_stage(tmp_path, monkeypatch):
    file = tmp_path / "zero.json"
    file.write_text('{"zero_optimization": {"stage": 3}}')
    assert spread_by(str(file)) == "ZeRO-3"
    launched(monkeypatch, "ZeRO-2")
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", str(file))
    assert spread_by() == "ZeRO-3"
    file.write_text("stage: 3")
    with pytest.raises(ArgumentError, match="not a JSON file"):
        spread_by(str(file))


@pytest.mark.parametrize("kind", ["FSDP", "ZeRO-3"])
def test_weights_of_4_bits_are_not_spread(kind, monkeypatch):
    launched(monkeypatch, kind)
    with pytest.raises(ArgumentError, match=f"qlora and {kind} do not go together"):
        SftOptions(model="nowhere/at-all", data=__file__, output="out", qlora=True).check()


def test_fsdp_of_version_1_is_refused(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ArgumentError, match="fsdp_version: 2"):
        check_spread("", False)


@pytest.mark.parametrize("kind", ["FSDP", "ZeRO-2", "ZeRO-3"])
def test_nothing_is_left_out_in_silence_on_a_processor(kind, monkeypatch, tmp_path):
    launched(monkeypatch, kind)
    options = SftOptions(
        model="nowhere/at-all", data=__file__, output=str(tmp_path / "out"), device="cpu"
    )
    options.check()
    with pytest.raises(ArgumentError, match=f"{kind} is for graphics cards"):
        FineTuning(options)
    assert not Path(options.output).exists()
