"""The MiniCPM language models: recorded numbers, and two roads to one number.

`MINICPMV_GOLDEN` names another folder of recorded data, e.g. one that was not thinned out.
"""

import json
import os
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from minicpmv.model.configuration_minicpm import MiniCPMConfig
from minicpmv.model.minicpm import MiniCPMForCausalLM

GOLDEN = Path(os.environ.get("MINICPMV_GOLDEN", Path(__file__).parent / "golden"))
NAMES = ["2b", "1b", "2b-128k", "moe-8x2b"]


@lru_cache
class Recorded:
    """What the released code computed with the tiny checkpoint of one release."""

    def __init__(self, name: str):
        self.folder = GOLDEN / f"minicpm-{name}"
        self.checkpoint = self.folder / "ckpt"

    @cached_property
    def cases(self) -> dict[str, dict[str, Any]]:
        manifest = json.loads((self.folder / "public" / "manifest.json").read_text())
        return {case["name"]: case for case in manifest["cases"]}

    @cached_property
    def tensors(self) -> dict[str, torch.Tensor]:
        return load_file(self.folder / "public" / "cases.safetensors")

    @cached_property
    def model(self) -> Any:
        return MiniCPMForCausalLM.from_pretrained(self.checkpoint).eval()

    def variant(self, **changes: Any) -> Any:
        """The model with other numbers in its config.json."""
        fields = json.loads((self.checkpoint / "config.json").read_text()) | changes
        model = MiniCPMForCausalLM(MiniCPMConfig.from_dict(fields)).eval()
        model.load_state_dict(self.model.state_dict())
        return model


class Case:
    """One recorded case: `inputs` and `expected`, arrays and plain values alike."""

    def __init__(self, name: str, record: dict[str, Any]):
        self.recorded = Recorded(name)
        self.record = record
        self.tolerance = record.get("atol", 2e-4)
        self.inputs = {key: self._value(entry) for key, entry in record["inputs"].items()}
        self.expected = {key: self._value(entry) for key, entry in record["expect"].items()}

    def _value(self, entry: dict[str, Any]) -> Any:
        return self.recorded.tensors[entry["tensor"]] if "tensor" in entry else entry["json"]

    @property
    def model(self) -> Any:
        changes = self.record.get("config_override")
        return self.recorded.variant(**changes) if changes else self.recorded.model

    def model_inputs(self, *names: str) -> dict[str, Any]:
        known = names or ("input_ids", "inputs_embeds", "attention_mask", "position_ids")
        return {name: self.inputs[name] for name in known if name in self.inputs}

    def check(self, actual: torch.Tensor, name: str) -> None:
        """`actual` is what was recorded, as far as it was and where it is not padding."""
        expected = self.expected[name]
        if "_last" in name:
            actual = actual[:, -expected.shape[1] :]
        mask = self.inputs.get("attention_mask")
        if mask is not None:
            mask = mask[:, -expected.shape[1] :].bool()
            actual, expected = actual[mask], expected[mask]
        torch.testing.assert_close(actual, expected, atol=self.tolerance, rtol=0)


def cases(*kinds: str) -> list[Any]:
    """Parameters for every recorded case of these kinds."""
    return [
        pytest.param(Case(name, record), id=f"{name}-{record['name']}")
        for name in NAMES
        for record in Recorded(name).cases.values()
        if record["kind"] in kinds and "checkpoint_override" not in record
    ]


@torch.no_grad()
@pytest.mark.parametrize("case", cases("logits"))
def test_logits_are_the_recorded_ones(case):
    logits = case.model(**case.model_inputs()).logits
    for name in case.expected:
        case.check(logits, name)


@pytest.mark.parametrize("case", cases("generate"))
def test_search_finds_the_recorded_ids(case):
    inputs = case.model_inputs("input_ids", "attention_mask")
    out = case.model.generate(
        **inputs,
        **case.inputs["generate"],
        max_length=None,
        output_logits=True,
        output_scores=True,
        return_dict_in_generate=True,
    )
    assert out.sequences.tolist() == case.expected["sequences"].tolist()
    if "step_logits" in case.expected:
        logits = torch.stack(out.logits, dim=1)
        expected = case.expected["step_logits"]
        torch.testing.assert_close(logits, expected, atol=case.tolerance, rtol=0)
    if "sequences_scores" in case.expected:
        expected = case.expected["sequences_scores"]
        torch.testing.assert_close(out.sequences_scores, expected, atol=case.tolerance, rtol=0)
