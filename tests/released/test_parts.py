"""Names of the released classes that other programs use, and what stands behind them."""

import copy

import pytest
import torch
from PIL import Image
from transformers import GenerationMixin

import minicpmv
from minicpmv.released_api import MiniCPMForCausalLM, MiniCPMV, MiniCPMV2

from ..helpers.golden import CHECKPOINTS
from ..helpers.tiny import tiny_batch, tiny_model


def noise(width, height):
    return Image.effect_noise((width, height), 80).convert("RGB")


def encoded(version, picture):
    model = minicpmv.AutoModel.from_pretrained(CHECKPOINTS[version]).eval()
    processor = minicpmv.AutoProcessor.from_pretrained(CHECKPOINTS[version])
    inputs = processor(text="(<image>./</image>)\nWhat is this?", images=[picture])
    places = inputs["mm_token_type_ids"][0].nonzero()[:, 0].view(-1, model.config.query_num)
    bounds = torch.stack([places[:, 0], places[:, -1] + 1], dim=1)
    return model, processor, inputs, bounds


def test_parts_have_their_released_names_and_no_tensor_two(version):
    model = tiny_model(version)
    before = list(model.state_dict()), [name for name, _ in model.named_parameters()]
    assert model.vpm is model.model.vision_tower
    assert model.resampler is model.model.resampler
    assert model.llm.model is model.model.language_model
    assert model.llm.lm_head is model.lm_head
    assert before == (list(model.state_dict()), [name for name, _ in model.named_parameters()])


def test_the_language_model_stands_alone(version):
    model, inputs = tiny_model(version), tiny_batch([[]])
    ids = inputs["input_ids"]
    with torch.no_grad():
        assert torch.equal(model.llm(ids).logits, model(ids).logits)
        embeds = model.llm.get_input_embeddings()(ids)
        assert torch.equal(model.llm(inputs_embeds=embeds).logits, model(ids).logits)
    assert model.llm.generate(ids, max_new_tokens=2, do_sample=False).shape[1] == ids.shape[1] + 2


def test_the_language_model_follows_the_model(version):
    model = tiny_model(version)
    assert not model.llm.training
    assert model.train().llm.training
    assert copy.deepcopy(model).llm.lm_head is not model.llm.lm_head
    model.half()
    assert model.llm.dtype == torch.float16
    model.resize_token_embeddings(100, mean_resizing=False)
    assert model.llm.lm_head is model.lm_head


def test_sizes_have_their_released_name(version):
    model, inputs = tiny_model(version), tiny_batch([[(3, 4), (2, 5)]])
    sizes = inputs.pop("target_sizes")
    with torch.no_grad():
        expected = model(**inputs, target_sizes=sizes).logits
        assert torch.equal(model(**inputs, tgt_sizes=sizes).logits, expected)
        features = model.get_image_features(inputs["pixel_values"], tgt_sizes=sizes)
    assert len(features.pooler_output) == 2
    options = {"max_new_tokens": 2, "do_sample": False}
    for num_beams in (1, 2):
        found, wanted = (
            model.generate(**inputs, **{name: sizes}, num_beams=num_beams, **options)
            for name in ("tgt_sizes", "target_sizes")
        )
        assert torch.equal(found, wanted)
    with pytest.raises(ValueError, match="either target_sizes or tgt_sizes"):
        model(**inputs, target_sizes=sizes, tgt_sizes=sizes)


@pytest.mark.parametrize("version", ["2.5", "2.6"])
def test_vectors_of_text_and_strips(version):
    model, processor, inputs, bounds = encoded(version, noise(500, 300))
    nested = processor(["(<image>./</image>)\nWhat is this?"], [[noise(500, 300)]])
    data = {
        "input_ids": inputs["input_ids"],
        "pixel_values": [[strip.clone() for strip in inputs["pixel_values"]]],
        "tgt_sizes": [inputs["target_sizes"]],
        "image_bound": [bounds],
    }
    assert nested["input_ids"].shape == inputs["input_ids"].shape
    with torch.no_grad():
        embeds, features = model.get_vllm_embedding(data)
        torch.testing.assert_close(model(inputs_embeds=embeds).logits, model(**inputs).logits)
        again, _ = model.get_vllm_embedding(data | {"vision_hidden_states": features})
    assert torch.equal(again, embeds)


@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_vectors_of_text_and_pictures(version):
    picture = noise(700, 500)
    model, processor, inputs, bounds = encoded(version, picture)
    pictures, text = model.get_slice_image_placeholder(picture, processor.tokenizer)
    pixels = [model.transform(part) for part in pictures]
    assert text.count("<unk>") == len(pixels) * model.config.query_num
    with torch.no_grad():
        expected = model.get_image_features(inputs["pixel_values"], inputs["target_sizes"])
        found = model.get_vision_embedding(pixels)
        torch.testing.assert_close(found, expected.pooler_output)
        data = {"input_ids": inputs["input_ids"], "pixel_values": [pixels], "image_bound": [bounds]}
        embeds, features = model.get_vllm_embedding(data)
        torch.testing.assert_close(model(inputs_embeds=embeds).logits, model(**inputs).logits)
    assert [part.shape for part in features] == [found.shape]


def test_text_alone_has_vectors():
    model = minicpmv.AutoModel.from_pretrained(CHECKPOINTS["2.6"])
    ids = torch.tensor([[3, 4, 5]])
    embeds, features = model.get_vllm_embedding(
        {"input_ids": ids, "pixel_values": [[]], "tgt_sizes": [[]], "image_bound": [[]]}
    )
    assert torch.equal(embeds, model.get_input_embeddings()(ids))
    assert features == [[]]


@pytest.mark.parametrize(
    "generating",
    [
        minicpmv.MiniCPMVForConditionalGeneration,
        minicpmv.OmniLMMForConditionalGeneration,
        MiniCPMV,
        MiniCPMV2,
        MiniCPMForCausalLM,
    ],
)
def test_generating_classes_name_the_mixin_among_their_bases(generating):
    """transformers looks there."""
    assert GenerationMixin in generating.__bases__
