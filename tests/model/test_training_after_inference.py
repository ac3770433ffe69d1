"""Nothing that inference leaves behind stands in the way of training."""

import torch

from ..helpers.tiny import strips, tiny_batch, tiny_model


def test_gradients_flow_after_inference(version):
    inputs = tiny_batch([[(3, 4), (2, 5)]])
    model = tiny_model(version)
    with torch.inference_mode():
        model(**inputs)
    model.train()
    model(**inputs, labels=inputs["input_ids"], use_cache=False).loss.backward()
    assert model.model.vision_tower.get_input_embeddings().weight.grad.abs().sum() > 0


def test_gradients_flow_through_another_model_of_the_same_shapes(version):
    shapes = [(2, 3)]
    arguments = strips(shapes), torch.tensor(shapes)
    with torch.inference_mode():
        tiny_model(version).get_image_features(*arguments)
    model = tiny_model(version).train()
    model.get_image_features(*arguments).pooler_output.sum().backward()
    assert model.model.resampler.query.grad is not None
