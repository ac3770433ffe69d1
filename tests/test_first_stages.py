"""1.0, 2.0 and OmniLMM-12B: every stage of the model against what their released code computed."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from minicpmv.engine.hf import generate_ids
from minicpmv.engine.plan import plan_generation

from .conftest import FIRST_FOLDERS, Golden, golden_case
from .test_generation import content

CASES = [
    pytest.param(version, name, id=f"{version}-{name}")
    for version in FIRST_FOLDERS
    for name in Golden(version).records
]
# What each recorded search was asked for.
SEARCHES = {
    "greedy": {"sampling": False, "num_beams": 1, "repetition_penalty": 1.0},
    "greedy_rep1.1": {"sampling": False, "num_beams": 1, "repetition_penalty": 1.1},
    "beam3": {"sampling": False, "num_beams": 3, "repetition_penalty": 1.0},
    "beam3_no_penalty": {"sampling": False, "num_beams": 3, "repetition_penalty": 1.0},
    "beam3_rep1.2": {"sampling": False, "num_beams": 3, "repetition_penalty": 1.2},
    "sampled_seed1234": {"sampling": True, "seed": 1234},
}


@pytest.fixture(params=FIRST_FOLDERS)
def version(request):
    return request.param


def assert_near(found, recorded):
    torch.testing.assert_close(found, recorded, atol=1e-4, rtol=0)


def assert_stats(found, stats):
    """Mean, spread, sum and extremes of a whole tensor, of which the file has only a part."""
    whole = found.double()
    assert whole.mean().item() == pytest.approx(stats["mean"], abs=1e-5)
    assert whole.std().item() == pytest.approx(stats["std"], rel=1e-4)
    assert whole.abs().sum().item() == pytest.approx(stats["abs_sum"], rel=1e-5)
    assert whole.min().item() == pytest.approx(stats["min"], abs=1e-4)
    assert whole.max().item() == pytest.approx(stats["max"], abs=1e-4)


def every(recorded, whole):
    """The rows of `whole` that were kept: evenly spaced from the first."""
    return whole[:: -(-len(whole) // len(recorded))]


@pytest.mark.parametrize(("version", "name"), CASES)
def test_tower_and_resampler_give_the_recorded_vectors(version, name):
    case = golden_case(version, name)
    record, arrays = case.record, case.arrays
    if "pixel_values" not in case.inputs:
        assert name == "textonly"
        return
    if version == "omnilmm-12b":
        slices = [(arrays["vision"], arrays["resampler"])]
        stats = [(record["vision"]["stats"], record["resampler_stats"])]
    else:
        indices = range(len(record["pixels"]))
        slices = [(arrays[f"vision_{i}"], arrays[f"resampler_{i}"]) for i in indices]
        stats = [(p["vision_stats"], p["resampler_stats"]) for p in record["pixels"]]
    outputs, sizes = case.image_outputs, case.inputs["target_sizes"]
    assert len(slices) == len(sizes)
    for index, num_patches in enumerate(sizes.prod(dim=1).tolist()):
        seen = outputs.last_hidden_state[index, :num_patches]
        assert_near(every(slices[index][0], seen), slices[index][0])
        assert_stats(seen, stats[index][0])
        tokens = outputs.pooler_output[index]
        assert_near(every(slices[index][1], tokens), slices[index][1])
        assert_stats(tokens, stats[index][1])


@pytest.mark.parametrize(("version", "name"), CASES)
def test_decoder_gives_the_recorded_states_and_logits(version, name):
    case = golden_case(version, name)
    record, arrays = case.record, case.arrays
    with torch.no_grad():
        output = case.golden.model(**case.encoded_inputs, output_hidden_states=True)
    embeds, logits = output.hidden_states[0][0], output.logits[0]
    assert_near(embeds[-8:], arrays["inputs_embeds_tail"])
    assert_near(embeds[::16], arrays["inputs_embeds_stride"])
    assert_stats(embeds, record["inputs_embeds_stats"])
    for layer, states in enumerate(output.hidden_states):
        assert_near(states[0, -2:], arrays[f"hidden_{layer}_last"])
    assert_near(logits[-1], arrays["logits_last"])
    step = 16 if len(logits) < 400 else 64
    assert_near(logits[::step], arrays["logits_stride"])
    assert torch.equal(logits.argmax(dim=-1), arrays["logits_argmax"].long())
    assert_stats(logits, record["logits_stats"])


@pytest.mark.parametrize(("version", "name"), CASES)
def test_ids_are_the_recorded_ones(version, name):
    case = golden_case(version, name)
    processor, searches = case.golden.processor, SEARCHES.keys() & case.record.keys()
    found = {}
    for search in searches:
        plan = plan_generation(processor, None, {"max_new_tokens": 12, **SEARCHES[search]})
        ids = generate_ids(case.golden.model, case.encoded_inputs, plan)
        found[search] = content(ids, processor.terminator_ids)[0]
    assert len(found) == (5 if version == "omnilmm-12b" else 4)
    recorded = {search: torch.tensor([case.record[search]["ids"]]) for search in searches}
    assert found == {
        search: content(ids, processor.terminator_ids)[0] for search, ids in recorded.items()
    }


@pytest.mark.parametrize(("version", "name"), CASES)
def test_scores_that_are_drawn_from(version, name):
    """Of the first new token: divided by the temperature, cut to the likeliest."""
    case = golden_case(version, name)
    config = plan_generation(case.golden.processor, None, {"sampling": True}).config
    config.max_new_tokens = 1
    config.return_dict_in_generate = config.output_scores = True
    scores = case.golden.model.generate(**case.encoded_inputs, generation_config=config).scores
    # Logits differ by up to 5e-5, and are divided by the temperature.
    torch.testing.assert_close(
        scores[0][0], case.arrays["sampling_scores_step0"], atol=2e-4, rtol=0
    )


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
    plan = plan_generation(golden.processor, None, {"max_new_tokens": 12, **SEARCHES["greedy"]})
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


def test_pixels_rounded_to_float16():
    """What the released chat() of OmniLMM-12B did to them."""
    for name in Golden("omnilmm-12b").records:
        case = golden_case("omnilmm-12b", name)
        inputs = dict(case.inputs)
        inputs["pixel_values"] = inputs["pixel_values"].half().float()
        with torch.no_grad():
            logits = case.golden.model(**inputs).logits[0, -1]
        assert_near(logits, case.arrays["logits_last_halfpixels"])


def test_positions_of_queries_are_stored_and_frozen(version):
    resampler = Golden(version).model.model.resampler
    assert not resampler.pos_embed.requires_grad
    assert resampler.query.requires_grad
