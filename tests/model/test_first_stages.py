"""1.0, 2.0 and OmniLMM-12B in batches and in bfloat16; tests/replay compares every stage."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from minicpmv.engine.hf import generate_ids
from minicpmv.engine.plan import plan_generation

from ..helpers.golden import FIRST_FOLDERS, Golden, golden_case

GREEDY = {"sampling": False, "num_beams": 1, "repetition_penalty": 1.0, "max_new_tokens": 12}


def content(ids, terminators):
    """The ids of every row before the first one that ends an answer."""
    rows = ids.tolist()
    return [
        row[: next((i for i, token in enumerate(row) if token in terminators), len(row))]
        for row in rows
    ]


@pytest.fixture(params=FIRST_FOLDERS)
def version(request):
    return request.param


def test_conversations_of_unlike_length_in_one_batch(version):
    """The released code put the pictures of the shorter ones in wrong places."""
    golden = Golden(version)
    cases = [golden_case(version, name) for name in golden.records if name != "big"]
    longest = max(case.inputs["input_ids"].shape[1] for case in cases)
    pads = [longest - case.inputs["input_ids"].shape[1] for case in cases]
    assert len(set(pads)) > 3

    def padded(name):
        rows = [
            torch.nn.functional.pad(c.inputs[name], (p, 0))
            for c, p in zip(cases, pads, strict=True)
        ]
        return torch.cat(rows)

    pixels = [case.inputs["pixel_values"] for case in cases if "pixel_values" in case.inputs]
    width = max(strips.shape[-1] for strips in pixels)
    inputs = {
        "input_ids": padded("input_ids"),
        "attention_mask": padded("attention_mask"),
        "pixel_values": torch.cat(
            [torch.nn.functional.pad(strips, (0, width - strips.shape[-1])) for strips in pixels]
        ),
        "target_sizes": torch.cat(
            [case.inputs["target_sizes"] for case in cases if "target_sizes" in case.inputs]
        ),
        "image_bound": [
            case.inputs.get("image_bound", [torch.zeros(0, 2, dtype=torch.long)])[0] + pad
            for case, pad in zip(cases, pads, strict=True)
        ],
    }
    plan = plan_generation(golden.processor, None, GREEDY)
    found = content(generate_ids(golden.model, inputs, plan), golden.processor.terminator_ids)
    recorded = [torch.tensor([case.record["greedy"]["ids"]]) for case in cases]
    assert found == [content(ids, golden.processor.terminator_ids)[0] for ids in recorded]


def test_bfloat16_is_near_the_recorded_bfloat16(version):
    """Loaded in bfloat16 with its stored positions, which the released code left in float32."""
    case = golden_case(version, "square448")
    model = AutoModelForCausalLM.from_pretrained(case.golden.checkpoint, dtype=torch.bfloat16)
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.bfloat16}
    inputs = dict(case.inputs)
    if version == "omnilmm-12b":
        inputs["pixel_values"] = inputs["pixel_values"].half()
    with torch.no_grad():
        found = model(**inputs).logits[0, -1].float()
    recorded = case.arrays["bf16_logits_last"]
    error = (found - recorded).norm() / recorded.norm()
    assert error < 0.02


def test_positions_of_queries_are_stored_and_frozen(version):
    resampler = Golden(version).model.model.resampler
    assert not resampler.pos_embed.requires_grad
    assert resampler.query.requires_grad
