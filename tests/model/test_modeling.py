"""Two roads to one number through the whole model, and the numbers that the released code gave."""

import pytest
import torch
from transformers import AutoModel

from ..helpers.tiny import (
    IMAGE,
    NUM_SLICES,
    SAMPLES,
    bounds,
    sample_of,
    strips,
    tiny_batch,
    tiny_model,
)


def logits_of(model, **inputs):
    with torch.no_grad():
        return model(**inputs).logits


def positions(attention_mask):
    return (attention_mask.cumsum(1) - 1).clamp(min=0)


# The recorded numbers


# Where the placeholders are


def test_three_ways_to_say_where_pictures_go_agree(version):
    model, inputs = tiny_model(version), tiny_batch(SAMPLES)
    types = inputs.pop("mm_token_type_ids")
    by_types = logits_of(model, **inputs, mm_token_type_ids=types)
    by_bounds = logits_of(model, **inputs, image_bound=bounds(types))
    by_tags = logits_of(model, **inputs)
    torch.testing.assert_close(by_bounds, by_types)
    torch.testing.assert_close(by_tags, by_types)


def test_placeholder_typed_by_a_user_stays_text(version):
    """Its id is the placeholder's, its place is not."""
    model, inputs = tiny_model(version), tiny_batch([[(3, 4)]])
    typed = (inputs["input_ids"] == IMAGE) & (inputs["mm_token_type_ids"] == 0)
    assert typed.sum() == 1
    mask = model.model.get_placeholder_mask(inputs["input_ids"])
    assert torch.equal(mask, inputs["mm_token_type_ids"].bool())


def test_nothing_to_tell_where_pictures_go():
    inputs = tiny_batch([[(3, 4)]])
    del inputs["mm_token_type_ids"]
    with pytest.raises(ValueError, match="nothing tells where they go"):
        tiny_model("2.6", image_token_id=None)(**inputs)


def test_inputs_embeds_are_input_ids(version):
    model, inputs = tiny_model(version), tiny_batch(SAMPLES)
    expected = logits_of(model, **inputs)
    embeds = model.get_input_embeddings()(inputs.pop("input_ids"))
    torch.testing.assert_close(logits_of(model, **inputs, inputs_embeds=embeds), expected)
    del inputs["mm_token_type_ids"]  # the tags are recognised by their embeddings
    torch.testing.assert_close(logits_of(model, **inputs, inputs_embeds=embeds), expected)


def test_image_features_are_pixel_values(version):
    model, inputs = tiny_model(version), tiny_batch(SAMPLES)
    expected = logits_of(model, **inputs)
    with torch.no_grad():
        features = model.get_image_features(
            inputs.pop("pixel_values"), inputs.pop("target_sizes"), NUM_SLICES
        ).pooler_output
    assert features.shape == (4, 4, 128)
    torch.testing.assert_close(logits_of(model, **inputs, image_features=features), expected)


def test_slices_go_to_their_places_in_order():
    """Swapping two slices' pixels and sizes swaps what stands at their placeholders."""
    model, inputs = tiny_model("2.6"), tiny_batch([[(3, 4), (2, 5)]])
    swapped = inputs | {
        "pixel_values": inputs["pixel_values"].flip(0),
        "target_sizes": inputs["target_sizes"].flip(0),
    }
    assert not torch.allclose(logits_of(model, **swapped), logits_of(model, **inputs), atol=1e-3)


# Batches


def test_batch_is_one_by_one(version):
    """A sample does not depend on its mates: not on their texts, nor on their slices."""
    model, inputs = tiny_model(version), tiny_batch(SAMPLES)
    together = logits_of(model, **inputs, position_ids=positions(inputs["attention_mask"]))
    for index in range(len(SAMPLES)):
        alone = logits_of(model, **sample_of(inputs, index))[0]
        torch.testing.assert_close(together[index, -len(alone) :], alone, atol=1e-4, rtol=1e-4)


def test_padding_side_does_not_matter(version):
    model, inputs = tiny_model(version), sample_of(tiny_batch(SAMPLES), 0)
    expected = logits_of(model, **inputs)[0]
    for side in ((4, 0), (0, 4)):
        padded = inputs | {
            name: torch.nn.functional.pad(inputs[name], side)
            for name in ("input_ids", "attention_mask", "mm_token_type_ids")
        }
        found = logits_of(model, **padded, position_ids=positions(padded["attention_mask"]))[0]
        kept = found[padded["attention_mask"][0].bool()]
        torch.testing.assert_close(kept, expected, atol=1e-4, rtol=1e-4)


def test_cached_logits_are_uncached(version):
    model, inputs = tiny_model(version), tiny_batch(SAMPLES)
    ids, mask, types = (
        inputs[name] for name in ("input_ids", "attention_mask", "mm_token_type_ids")
    )
    places = positions(mask)
    whole = logits_of(model, **inputs, position_ids=places)
    cut = ids.shape[1] - 3
    with torch.no_grad():
        first = model(
            **inputs
            | {
                "input_ids": ids[:, :cut],
                "attention_mask": mask[:, :cut],
                "mm_token_type_ids": types[:, :cut],
            },
            position_ids=places[:, :cut],
            use_cache=True,
        )
        torch.testing.assert_close(first.logits[:, -1], whole[:, cut - 1], atol=1e-4, rtol=1e-4)
        for step in range(cut, ids.shape[1]):
            logits = model(
                input_ids=ids[:, step : step + 1],
                attention_mask=mask[:, : step + 1],
                position_ids=places[:, step : step + 1],
                past_key_values=first.past_key_values,
            ).logits
            torch.testing.assert_close(logits[:, -1], whole[:, step], atol=1e-4, rtol=1e-4)


def test_logits_to_keep_are_the_last(version):
    model, inputs = tiny_model(version), tiny_batch(SAMPLES)
    whole = logits_of(model, **inputs)
    torch.testing.assert_close(logits_of(model, **inputs, logits_to_keep=2), whole[:, -2:])
    places = torch.tensor([1, 4])
    torch.testing.assert_close(logits_of(model, **inputs, logits_to_keep=places), whole[:, places])


def test_sdpa_is_eager(version):
    model, inputs = tiny_model(version), tiny_batch(SAMPLES)
    logits = {}
    for implementation in ("sdpa", "eager"):
        model.set_attn_implementation(implementation)
        logits[implementation] = logits_of(model, **inputs)
    mask = inputs["attention_mask"].bool()
    torch.testing.assert_close(logits["sdpa"][mask], logits["eager"][mask], atol=1e-4, rtol=1e-4)


# Training


def test_loss_is_cross_entropy_of_the_next_token_but_of_no_placeholder(version):
    model, inputs = tiny_model(version), tiny_batch(SAMPLES)
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    output = model(**inputs, labels=labels)
    labels = labels.masked_fill(inputs["mm_token_type_ids"] > 0, -100)
    expected = torch.nn.functional.cross_entropy(
        output.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
    )
    torch.testing.assert_close(output.loss, expected)


def gradients(model, inputs):
    model.train()
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    model(**inputs, labels=labels, use_cache=False).loss.backward()
    return {
        name: parameter.grad
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def test_every_parameter_learns(version):
    grads = gradients(tiny_model(version), tiny_batch(SAMPLES))
    idle = [name for name, grad in grads.items() if grad is None or not grad.any()]
    assert idle == []


def test_gradient_checkpointing_gives_the_same_gradients(version):
    inputs = tiny_batch(SAMPLES)
    plain = gradients(tiny_model(version), inputs)
    model = tiny_model(version)
    # Newer transformers deprecate one name, older ones do not know the other.
    newer = getattr(model, "activation_checkpointing_enable", None)
    (newer or model.gradient_checkpointing_enable)()
    checkpointed = gradients(model, inputs)
    for name, grad in plain.items():
        torch.testing.assert_close(checkpointed[name], grad, msg=name)


def test_eight_samples_are_learnt_by_heart(version):
    model = tiny_model(version).train()
    inputs = tiny_batch(
        [[(3, 4)], [(2, 5), (1, 3)], [], [(4, 2)], [(2, 2)], [], [(1, 7)], [(3, 3)]]
    )
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    optimizer = torch.optim.AdamW(model.parameters(), lr=6e-3)
    losses = []
    for _ in range(30):
        loss = model(**inputs, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[0] > 3
    assert losses[-1] < 0.3


# Mistakes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"pixel_values": strips([(3, 4)]), "target_sizes": torch.tensor([[3, 4]])},
            r"The text has 8 placeholders \(\[8\] per sample\) and the pictures give 4 visual "
            r"tokens \(1 slices x 4\)",
        ),
        ({"target_sizes": None}, "pixel_values need target_sizes"),
        (
            {"target_sizes": torch.tensor([[3, 4]])},
            r"target_sizes has shape \(1, 2\) and pixel_values 2 rows",
        ),
        (
            {"target_sizes": torch.tensor([[3, 4], [5, 5]])},
            "Row 1 of target_sizes tells of a slice of 5 x 5 = 25 patches, and .* holds 12",
        ),
        (
            {"pixel_values": torch.zeros(2, 3, 16, 16)},
            r"pixel_values has shape \(2, 3, 16, 16\); expected \(num_slices, 3, 4, 4 \*",
        ),
        ({"inputs_embeds": torch.zeros(1, 17, 128)}, "either input_ids or inputs_embeds"),
    ],
)
def test_inputs_that_disagree_are_named(version, change, message):
    inputs = tiny_batch([[(3, 4), (2, 5)]]) | change
    with pytest.raises(ValueError, match=message):
        tiny_model(version)(**inputs)


def test_cut_placeholders_are_an_error(version):
    inputs = tiny_batch([[(3, 4)]])
    for name in ("input_ids", "attention_mask", "mm_token_type_ids"):
        inputs[name] = inputs[name][:, :4]  # after the second of four
    with pytest.raises(ValueError, match="do not truncate"):
        tiny_model(version)(**inputs)


def test_slices_of_samples_must_add_up():
    model = tiny_model("2.5")
    with pytest.raises(
        ValueError, match="slices_per_sample counts 3 slices and pixel_values has 2"
    ):
        model.get_image_features(strips([(3, 4), (2, 5)]), torch.tensor([[3, 4], [2, 5]]), [2, 1])


# What else the outside asks for


def test_hidden_states_and_attentions_of_the_tower(version):
    """Zero-padded to one length, even where each sample is encoded by itself."""
    model = tiny_model(version, AutoModel)
    model.set_attn_implementation("eager")
    output = model.get_image_features(
        strips([(3, 4), (2, 5)]),
        torch.tensor([[3, 4], [2, 5]]),
        slices_per_sample=[1, 1],
        output_hidden_states=True,
        output_attentions=True,
    )
    assert output.last_hidden_state.shape == (2, 12, 24)
    seq = 13 if model.config.vision_config.to_dict().get("has_class_token") else 12
    assert [tuple(states.shape) for states in output.hidden_states] == [(2, seq, 24)] * 3
    assert [tuple(weights.shape) for weights in output.attentions] == [(2, 3, seq, seq)] * 2


def test_parts_are_found_by_their_usual_names(version):
    model = tiny_model(version)
    assert model.get_decoder() is model.model.language_model
    assert model.get_encoder(modality="image") is model.model.vision_tower
    assert model.get_output_embeddings() is model.lm_head


def test_more_tokens_can_be_added(version):
    model, inputs = tiny_model(version), tiny_batch(SAMPLES)
    before = logits_of(model, **inputs)
    model.resize_token_embeddings(100, mean_resizing=False)
    assert model.config.vocab_size == model.config.text_config.vocab_size == 100
    torch.testing.assert_close(logits_of(model, **inputs)[..., :96], before)
