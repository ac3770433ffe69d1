"""Inputs of the model that do not belong together are named errors, not numbers."""

import pytest
import torch
from transformers import DynamicCache

from minicpmv.model.configuration_minicpm import MiniCPMConfig
from minicpmv.model.minicpm import MiniCPMForCausalLM

from ..helpers.tiny import strips, tiny_batch, tiny_model

BATCH = tiny_batch([[(3, 4)], []])
SEQ = BATCH["input_ids"].shape[1]


def refused(model, inputs, message):
    with pytest.raises(ValueError, match=message) as caught, torch.no_grad():
        model(**inputs)
    assert len(str(caught.value).splitlines()) == 1


def without(inputs, *names):
    return {name: value for name, value in inputs.items() if name not in names}


@pytest.mark.parametrize("places", ["types", "bounds"])
def test_placeholders_without_pictures(version, places):
    inputs = without(BATCH, "pixel_values", "target_sizes")
    if places == "bounds":
        inputs = without(inputs, "mm_token_type_ids")
        inputs["image_bound"] = [torch.tensor([[9, 13]]), torch.zeros(0, 2)]
    refused(tiny_model(version), inputs, "The text has 4 image placeholders, and no picture")


def test_a_typed_placeholder_needs_no_picture(version):
    """`tiny_batch` has one in every text."""
    inputs = without(tiny_batch([[], []]), "mm_token_type_ids")
    with torch.no_grad():
        assert tiny_model(version)(**inputs).logits.isfinite().all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"attention_mask": BATCH["attention_mask"][:, :-3]},
            rf"attention_mask has shape \(2, {SEQ - 3}\); expected \(2, {SEQ}\)",
        ),
        (
            {"attention_mask": torch.ones(2, SEQ + 1)},
            rf"attention_mask has shape \(2, {SEQ + 1}\); expected \(2, {SEQ}\)",
        ),
        ({"attention_mask": torch.ones(1, SEQ)}, r"attention_mask has shape \(1, "),
        ({"position_ids": torch.arange(4)[None]}, r"position_ids has shape \(1, 4\); expected"),
        ({"position_ids": torch.arange(SEQ)}, r"position_ids has shape \(\d+,\); expected"),
        (
            {"mm_token_type_ids": BATCH["mm_token_type_ids"][:, 1:]},
            rf"mm_token_type_ids has shape \(2, {SEQ - 1}\); expected",
        ),
        ({"labels": BATCH["input_ids"][:, 1:]}, rf"labels has shape \(2, {SEQ - 1}\); expected"),
        ({"labels": BATCH["input_ids"][:1]}, rf"labels has shape \(1, {SEQ}\); expected"),
        ({"input_ids": BATCH["input_ids"][0]}, r"input_ids has shape .*; expected \(batch, seq\)"),
        ({"input_ids": BATCH["input_ids"] - 100}, "input_ids has the id -"),
        ({"input_ids": BATCH["input_ids"] + 1000}, "input_ids has the id 10.*, and the model"),
        ({"target_sizes": torch.tensor([[0, 4]])}, r"Row 0 of target_sizes is \(0, 4\)"),
        ({"target_sizes": torch.tensor([[3, -1]])}, r"Row 0 of target_sizes is \(3, -1\)"),
        ({"target_sizes": torch.tensor([[3.0, 4.0]])}, "target_sizes is of type torch.float32"),
        ({"pixel_values": strips([(3, 4)])[:, :1]}, r"pixel_values has shape \(1, 1, 4, 48\)"),
        ({"pixel_values": strips([(3, 4)])[..., 1:]}, r"pixel_values has shape \(1, 3, 4, 47\)"),
        ({"pixel_values": strips([(3, 4)]).byte()}, "pixel_values is of type torch.uint8"),
        ({"pixel_values": None}, "target_sizes are given without pixel_values"),
        ({"image_features": torch.zeros(1, 4, 128)}, "either pixel_values or image_features"),
        ({"image_bound": [torch.tensor([[9, 13]])]}, "image_bound has 1 entries for 2 samples"),
        (
            {"image_bound": [torch.tensor([[9, 99]]), []]},
            rf"image_bound of sample 0 has \[9, 99\), and the text {SEQ} tokens",
        ),
        ({"image_bound": [torch.tensor([[-4, 0]]), []]}, r"image_bound of sample 0 has \[-4, 0\)"),
        ({"image_bound": [torch.tensor([[1, 2, 3]]), []]}, r"sample 0 has shape \(1, 3\)"),
    ],
)
def test_inputs_that_disagree(change, message):
    refused(tiny_model("2.6"), BATCH | change, message)


@pytest.mark.parametrize("shape", [(1, 4, 64), (1, 5, 128), (4, 128), (2, 4, 128)])
def test_features_of_another_shape(version, shape):
    inputs = without(BATCH, "pixel_values", "target_sizes")
    inputs["image_features"] = torch.zeros(shape)
    refused(tiny_model(version), inputs, "image_features has shape|The text has 4 placeholders")


def test_a_mask_counts_the_tokens_of_the_cache():
    model, cache = tiny_model("2.6"), DynamicCache()
    inputs = without(tiny_batch([[]]), "mm_token_type_ids")
    with torch.no_grad():
        model(**inputs, past_key_values=cache)
        past, step = cache.get_seq_length(), {"input_ids": torch.tensor([[5]])}
        refused(
            model,
            step | {"past_key_values": cache, "attention_mask": torch.ones(1, 1)},
            rf"expected \(1, {past + 1}\), one column per token \(of which {past} in the cache",
        )
        mask = torch.ones(1, past + 1)
        assert model(**step, past_key_values=cache, attention_mask=mask).logits.shape[1] == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attention_mask": torch.ones(2, 5)}, r"attention_mask has shape \(2, 5\); expected"),
        ({"position_ids": torch.arange(5)[None]}, r"position_ids has shape \(1, 5\)"),
        ({"labels": torch.ones(2, 5, dtype=torch.long)}, r"labels has shape \(2, 5\)"),
        ({"input_ids": torch.full((2, 7), 72)}, "input_ids has the id 72, and the model 72"),
    ],
)
def test_inputs_of_the_text_models(change, message):
    config = MiniCPMConfig(
        vocab_size=72,
        hidden_size=24,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
    )
    inputs = {"input_ids": torch.ones(2, 7, dtype=torch.long)}
    refused(MiniCPMForCausalLM(config), inputs | change, message)
