"""With pictures, the model is one graph: nothing is read back from the device on the way."""

import pytest
import torch

from minicpmv.model.configuration_minicpm import MiniCPMConfig
from minicpmv.model.minicpm import MiniCPMForCausalLM

from ..helpers.tiny import strips, tiny_batch, tiny_model

SAMPLES = [[(3, 4), (2, 5), (1, 3)], [(4, 2)], []]


@pytest.fixture(autouse=True)
def fresh_dynamo():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def bounds(mm_token_type_ids, num_queries=4):
    starts = [row.nonzero()[::num_queries, 0] for row in mm_token_type_ids]
    return [torch.stack([start, start + num_queries], dim=1) for start in starts]


def test_a_batch_with_pictures_compiles_as_one_graph(version):
    model, inputs = tiny_model(version), tiny_batch(SAMPLES)
    assert model._can_compile_fullgraph
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    with torch.no_grad():
        expected = model(**inputs, use_cache=False).logits
        found = compiled(**inputs, use_cache=False).logits
    is_text = inputs["attention_mask"].bool()
    torch.testing.assert_close(found[is_text], expected[is_text])


@pytest.mark.parametrize("places", ["bounds", "ids"])
def test_however_placeholders_are_given(places):
    model, inputs = tiny_model("2.6"), tiny_batch(SAMPLES)
    types = inputs.pop("mm_token_type_ids")
    if places == "bounds":
        inputs["image_bound"] = bounds(types)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    with torch.no_grad():
        expected = model(**inputs, mm_token_type_ids=types, use_cache=False).logits
        found = compiled(**inputs, use_cache=False).logits
    is_text = inputs["attention_mask"].bool()
    torch.testing.assert_close(found[is_text], expected[is_text])


@pytest.mark.parametrize("version", ["2.6", "2.0"])
def test_image_features_compile_with_gradients(version):
    model, shapes = tiny_model(version).train(), [(3, 4), (2, 5)]
    arguments = strips(shapes), torch.tensor(shapes)

    def features(pixel_values, target_sizes):
        return model.get_image_features(pixel_values, target_sizes).pooler_output

    compiled = torch.compile(features, fullgraph=True, backend="aot_eager")
    grads = []
    for function in (features, compiled):
        model.zero_grad()
        function(*arguments).square().sum().backward()
        grads.append(model.model.vision_tower.get_input_embeddings().weight.grad.clone())
    torch.testing.assert_close(*grads)


class Features(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, pixel_values, target_sizes):
        return self.model.get_image_features(pixel_values, target_sizes).pooler_output


def test_image_features_can_be_exported(version):
    """Other pictures of the same number of patches pass through the same program."""
    model = Features(tiny_model(version)).eval()
    with torch.no_grad():
        program = torch.export.export(
            model, (strips([(3, 4), (2, 5)]), torch.tensor([[3, 4], [2, 5]]))
        )
        others = strips([(2, 6), (1, 9)]), torch.tensor([[2, 6], [1, 9]])
        torch.testing.assert_close(program.module()(*others), model(*others))


@pytest.mark.slow
def test_the_whole_model_can_be_exported(version):
    model, inputs = tiny_model(version), tiny_batch([[(3, 4), (2, 5)]]) | {"use_cache": False}
    with torch.no_grad():
        program = torch.export.export(model, (), inputs)
        torch.testing.assert_close(program.module()(**inputs).logits, model(**inputs).logits)


def test_a_mixture_of_experts_compiles_as_one_graph():
    config = MiniCPMConfig(
        vocab_size=72,
        hidden_size=24,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_experts=4,
        num_experts_per_tok=2,
    )
    model, ids = MiniCPMForCausalLM(config).eval(), torch.arange(3, 17).view(2, 7)
    assert model._can_compile_fullgraph
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(ids).logits, model(ids).logits)
