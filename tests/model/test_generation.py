"""From inputs to token ids: the recorded answers, and roads of `generate` that agree."""

import pytest
import torch
from transformers import GenerationConfig

from minicpmv.engine.hf import generate_ids, stream_ids
from minicpmv.engine.plan import plan_generation

from ..helpers.golden import FIRST_FOLDERS, Golden, golden_case, small_case
from ..helpers.tiny import NUM_SLICES, SAMPLES, bounds, sample_of, tiny_batch, tiny_model


def generate(model, inputs, **options):
    """New ids, greedily unless told otherwise, never ending early."""
    defaults = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    ids = model.generate(**inputs, generation_config=GenerationConfig(**defaults | options))
    prompt = inputs["input_ids"].shape[1] if "input_ids" in inputs else 0
    return ids[:, prompt:]


def search_by_hand(model, inputs, num_tokens=6):
    """Greedy search with one whole forward per token: no cache, no `generate`."""
    inputs = dict(inputs)
    new = []
    for _ in range(num_tokens):
        mask = inputs["attention_mask"]
        with torch.no_grad():
            logits = model(**inputs, position_ids=(mask.cumsum(1) - 1).clamp(min=0)).logits
        new.append(logits[:, -1].argmax(dim=-1))
        inputs["input_ids"] = torch.cat([inputs["input_ids"], new[-1][:, None]], dim=1)
        inputs["attention_mask"] = torch.nn.functional.pad(mask, (0, 1), value=1)
        if "mm_token_type_ids" in inputs:
            types = torch.nn.functional.pad(inputs["mm_token_type_ids"], (0, 1))
            inputs["mm_token_type_ids"] = types
    return torch.stack(new, dim=1)


# The recorded answers


def test_pixels_and_encoded_slices_give_the_same_beams(version):
    """The recorded answers above start from encoded slices; generation from pixels encodes once."""
    case = golden_case(version, "landscape" if version in FIRST_FOLDERS else "single_336x672")
    plan = plan_generation(case.golden.processor, None, {"max_new_tokens": 12, "sampling": False})
    from_pixels = generate_ids(case.golden.model, case.inputs, plan)
    from_features = generate_ids(case.golden.model, case.encoded_inputs, plan)
    assert torch.equal(from_pixels, from_features)


# Cached, batched, padded


def test_cache_is_search_by_hand(version):
    model, inputs = tiny_model(version), tiny_batch(SAMPLES)
    expected = search_by_hand(model, inputs)
    assert torch.equal(generate(model, inputs), expected)
    assert torch.equal(generate(model, inputs, use_cache=False), expected)
    assert torch.equal(generate(model, inputs, cache_implementation="static"), expected)


def test_pictures_matter(version):
    model, inputs = tiny_model(version), tiny_batch(SAMPLES)
    other = inputs | {"pixel_values": -inputs["pixel_values"]}
    with torch.no_grad():
        found, changed = model(**inputs).logits[:2, -1], model(**other).logits[:2, -1]
    assert not torch.allclose(found, changed, atol=1e-2)


@pytest.mark.parametrize("num_beams", [1, 3])
def test_batch_is_one_by_one(version, num_beams):
    """Beams copy a sample's slices together, however many its mates have."""
    model, inputs = tiny_model(version), tiny_batch(SAMPLES)
    together = generate(model, inputs, num_beams=num_beams)
    for index in range(len(SAMPLES)):
        alone = generate(model, sample_of(inputs, index), num_beams=num_beams)
        assert torch.equal(together[index], alone[0])


@pytest.mark.parametrize("num_beams", [1, 3])
def test_every_way_to_give_pictures_agrees(version, num_beams):
    model, inputs = tiny_model(version), tiny_batch(SAMPLES)
    expected = generate(model, inputs, num_beams=num_beams)
    types = inputs.pop("mm_token_type_ids")
    by_tags = generate(model, inputs, num_beams=num_beams)
    by_bounds = generate(model, inputs | {"image_bound": bounds(types)}, num_beams=num_beams)
    with torch.no_grad():
        features = model.get_image_features(
            inputs["pixel_values"], inputs["target_sizes"], NUM_SLICES
        ).pooler_output
    encoded = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    encoded |= {"mm_token_type_ids": types, "image_features": features}
    by_features = generate(model, encoded, num_beams=num_beams)
    embedded = inputs | {"mm_token_type_ids": types}
    embedded["inputs_embeds"] = model.get_input_embeddings()(embedded.pop("input_ids"))
    by_embeds = generate(model, embedded, num_beams=num_beams)
    for found in (by_tags, by_bounds, by_features, by_embeds):
        assert torch.equal(found, expected)


def test_several_sequences_of_one_prompt_see_the_same_pictures(version):
    model, inputs = tiny_model(version), tiny_batch(SAMPLES)
    beams = generate(model, inputs, num_beams=3, num_return_sequences=3)
    assert torch.equal(beams[::3], generate(model, inputs, num_beams=3))
    torch.manual_seed(0)
    drawn = generate(model, inputs, do_sample=True, top_k=1, num_return_sequences=2)
    greedy = generate(model, inputs)
    assert torch.equal(drawn, greedy.repeat_interleave(2, dim=0))


def test_slices_are_encoded_once(version, monkeypatch):
    model, inputs = tiny_model(version), tiny_batch(SAMPLES)
    calls = []
    resampler = type(model.model.resampler)
    forward = resampler.forward
    monkeypatch.setattr(
        resampler, "forward", lambda self, *args: calls.append(1) or forward(self, *args)
    )
    generate(model, inputs)
    generate(model, inputs, num_beams=3)
    assert len(calls) == 2


def test_continuing_with_a_cache_is_starting_over(version):
    """A second turn on the cache of the first, as in a conversation about one picture."""
    model, inputs = tiny_model(version), tiny_batch([[(3, 4), (2, 5)]])
    config = GenerationConfig(
        max_new_tokens=4, do_sample=False, eos_token_id=None, pad_token_id=0,
        return_dict_in_generate=True,
    )  # fmt: skip
    first = model.generate(**inputs, generation_config=config)
    ids = torch.cat([first.sequences, torch.tensor([[7, 8, 9]])], dim=1)
    second = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    continued = model.generate(
        **second, past_key_values=first.past_key_values, generation_config=config
    )
    num_new = ids.shape[1] - inputs["input_ids"].shape[1]
    types = torch.nn.functional.pad(inputs["mm_token_type_ids"], (0, num_new))
    afresh = model.generate(
        **inputs | second | {"mm_token_type_ids": types}, generation_config=config
    )
    assert torch.equal(continued.sequences, afresh.sequences)

    again = model.generate(**inputs, generation_config=config)
    given_twice = model.generate(
        **inputs | second | {"mm_token_type_ids": types},
        past_key_values=again.past_key_values,
        generation_config=config,
    )
    assert torch.equal(given_twice.sequences, afresh.sequences)


def test_assistants_change_only_the_speed(version):
    model, inputs = tiny_model(version), sample_of(tiny_batch(SAMPLES), 0)
    expected = generate(model, inputs, max_new_tokens=10)
    by_lookup = generate(model, inputs, max_new_tokens=10, prompt_lookup_num_tokens=2)
    assert torch.equal(by_lookup, expected)
    config = GenerationConfig(max_new_tokens=10, do_sample=False, pad_token_id=0)
    config.eos_token_id = None
    small = tiny_model(version, seed=1)
    assisted = model.generate(**inputs, generation_config=config, assistant_model=small)
    assert torch.equal(assisted[:, inputs["input_ids"].shape[1] :], expected)


def test_chunks_of_a_prompt(version):
    """Text may be prefilled in chunks; with pictures that is an error, not a wrong answer."""
    model, inputs = tiny_model(version), tiny_batch(SAMPLES)
    text, pictures = sample_of(inputs, 2), sample_of(inputs, 0)
    assert torch.equal(generate(model, text, prefill_chunk_size=3), generate(model, text))
    for num_beams in (1, 2):
        with pytest.raises(ValueError, match="prefill_chunk_size=3 cannot be used"):
            generate(model, pictures, prefill_chunk_size=3, num_beams=num_beams)


@pytest.mark.parametrize("num_beams", [1, 2])
def test_what_else_generate_returns(version, num_beams):
    model, inputs = tiny_model(version), tiny_batch(SAMPLES)
    model.set_attn_implementation("eager")
    config = GenerationConfig(
        max_new_tokens=3, do_sample=False, eos_token_id=None, pad_token_id=0, num_beams=num_beams,
        return_dict_in_generate=True, output_scores=True, output_logits=True,
        output_hidden_states=True, output_attentions=True,
    )  # fmt: skip
    output = model.generate(**inputs, generation_config=config)
    rows, seq = 3 * num_beams, inputs["input_ids"].shape[1]
    assert [tuple(scores.shape) for scores in output.scores] == [(rows, 96)] * 3
    prefill, step = output.hidden_states[0], output.hidden_states[1]
    assert [tuple(states.shape) for states in prefill] == [(rows, seq, 128)] * 3
    assert [tuple(states.shape) for states in step] == [(rows, 1, 128)] * 3
    assert [tuple(weights.shape) for weights in output.attentions[0]] == [(rows, 4, seq, seq)] * 2


# Plans and streams


def test_stream_gives_the_tokens_of_the_whole(version):
    case = small_case(version)
    plan = plan_generation(
        case.golden.processor, None, {"max_new_tokens": 8, "sampling": True, "seed": 3}
    )
    whole = generate_ids(case.golden.model, case.encoded_inputs, plan)[0].tolist()
    assert list(stream_ids(case.golden.model, case.encoded_inputs, plan)) == whole


def test_errors_inside_a_stream_reach_the_reader(version):
    case = small_case(version)
    plan = plan_generation(case.golden.processor, None, {"sampling": True, "max_new_tokens": 8})
    features = case.encoded_inputs["image_features"].repeat(2, 1, 1)
    with pytest.raises(ValueError, match="do not truncate"):
        list(
            stream_ids(case.golden.model, case.encoded_inputs | {"image_features": features}, plan)
        )


def test_plan_takes_the_callers_word_then_the_files_then_the_releases(version):
    processor = Golden(version).processor
    stored = GenerationConfig(top_p=0.5, temperature=0.3)
    plan = plan_generation(processor, stored, {"sampling": True, "temperature": 0.9})
    defaults = processor.release.sampling
    found = (plan.config.temperature, plan.config.top_p, plan.config.top_k)
    assert found == (0.9, 0.5, defaults.top_k)
    assert plan.repetition_penalty == defaults.repetition_penalty
    assert plan.config.eos_token_id == processor.terminator_ids


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temprature": 1}, "Unknown option 'temprature'.* max_slice_nums,"),
        (
            {"sampling": False, "temperature": 0.5},
            "temperature would have no effect without sampling=True",
        ),
        (
            {"sampling": True, "length_penalty": 2.0},
            "length_penalty would have no effect without num_beams",
        ),
        ({"sampling": True, "do_sample": False}, "contradict each other"),
        ({"temperature": 0.0}, r"temperature is 0\.0; it must be above 0"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0; it must be at least 1"),
        ({"repetition_penalty": 0}, r"repetition_penalty is 0; it must be above 0"),
    ],
)
def test_options_without_sense_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        plan_generation(Golden("2.6").processor, None, options)
