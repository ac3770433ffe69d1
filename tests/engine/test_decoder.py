"""The decoder over blocks gives the logits that the model gives."""

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from minicpmv.engine.attention import Span
from minicpmv.engine.decoder import Decoder
from minicpmv.engine.widen import widen
from minicpmv.kernels import pack
from minicpmv.quantization.packed_config import packed_layer
from minicpmv.quantization.quantiser import quantise

from ..helpers.decoders import CONFIGS, Sequences, check_all_ways, small
from ..helpers.golden import GOLDEN
from ..helpers.text_models import in_llama_format
from ..helpers.tiny import VERSIONS, tiny_model


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_are_those_of_the_model(name: str) -> None:
    # With another seed one token has two experts that are equally likely but for rounding.
    check_all_ways(small(name), seed=1)


@pytest.mark.parametrize("version", VERSIONS)
def test_logits_of_models_with_pictures(version: str) -> None:
    check_all_ways(tiny_model(version))


@pytest.mark.parametrize("name", ["minicpm-2b", "minicpm-1b", "minicpm-moe-8x2b"])
def test_logits_of_recorded_text_models(name: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(GOLDEN / name / "ckpt").eval()
    check_all_ways(model, tolerance=1e-4)


def test_logits_of_a_recorded_model_as_llama(tmp_path: Any) -> None:
    folder = in_llama_format("minicpm-2b", tmp_path / "llama")
    check_all_ways(AutoModelForCausalLM.from_pretrained(folder).eval(), tolerance=1e-4)


@pytest.mark.parametrize("name", ["minicpm-dynamic", "minicpm-longrope", "llama-dynamic"])
def test_positions_that_stretch_are_those_of_short_texts(name: str) -> None:
    model = small(name)
    limit = Decoder(model).max_tokens()
    assert limit is not None
    sequences = Sequences(model, [limit])
    with torch.inference_mode():
        model(input_ids=torch.full((1, limit + 40), 5))  # a state of transformers' module
    sequences.check((0, limit - 20))
    sequences.check((0, 20))


def test_positions_of_the_recorded_long_model() -> None:
    model = AutoModelForCausalLM.from_pretrained(GOLDEN / "minicpm-2b-128k" / "ckpt").eval()
    limit = Decoder(model).max_tokens()
    assert limit == 48
    sequences = Sequences(model, [limit, 20])
    sequences.check((0, 30), (1, 1))
    sequences.check((0, 18), (1, 19))


@pytest.mark.parametrize("is_widened", [False, True])
@pytest.mark.parametrize("name", ["llama", "minicpm", "qwen2-window"])
def test_bfloat16(name: str, is_widened: bool) -> None:
    model = small(name).to(torch.bfloat16)
    if is_widened:
        widen(model)
    check_all_ways(model, tolerance=0.1)


def test_packed_weights() -> None:
    model = small("minicpm").to(torch.bfloat16)
    for parent in [*model.modules()]:
        for name, layer in parent.named_children():
            if isinstance(layer, (torch.nn.Linear, torch.nn.Embedding)):
                packed = packed_layer(layer, 8)
                weight = pack(*quantise(layer.weight.detach().float(), 8), 8)
                packed.weight = torch.nn.Parameter(weight.data, requires_grad=False)
                setattr(parent, name, packed)
    assert Decoder(model).dtype == torch.bfloat16
    check_all_ways(model, tolerance=0.2)  # activations are rounded to 8 bits, too


@pytest.mark.parametrize("keep", [[], [0], [8, 3], [11], list(range(12))])
def test_only_kept_tokens_have_logits(keep: list[int]) -> None:
    sequences = Sequences(small("qwen2"), [20, 9])
    wanted = torch.cat([sequences.wanted[0][:11], sequences.wanted[1][:1]])
    (logits,) = sequences.step((0, 11), (1, 1), keep=keep)
    torch.testing.assert_close(logits, wanted[keep], atol=1e-5, rtol=1e-5)
    sequences.check((0, 9), (1, 1))  # keys and values were written all the same


@pytest.mark.parametrize("name", ["llama", "qwen2-window", "minicpm"])
@pytest.mark.parametrize("keep", [[69], [0], [64, 69]])
def test_the_ends_of_long_prompts_are_attended_to_alone(name: str, keep: list[int]) -> None:
    sequences = Sequences(small(name), [120, 9])
    sequences.check((0, 30), (1, 2))
    wanted = torch.cat([sequences.wanted[0][30:95], sequences.wanted[1][2:7]])
    (logits,) = sequences.step((0, 65), (1, 5), keep=keep)
    torch.testing.assert_close(logits, wanted[keep], atol=1e-5, rtol=1e-5)
    sequences.check((0, 25), (1, 2))


@pytest.mark.parametrize("name", ["llama", "minicpm"])
def test_hooks_of_products_norms_and_mlps_are_called(name: str) -> None:
    model = small(name)
    layer = model.model.layers[1]
    modules = [layer.self_attn.q_proj, layer.input_layernorm, layer.mlp, layer.mlp.up_proj]
    modules += [model.model.norm, model.lm_head]
    kept = []
    for module in modules:
        module.register_forward_hook(lambda _, inputs, output: kept.append(output) or output * 1.5)
    sequences = Sequences(model, [20])
    kept.clear()
    sequences.check((0, 19))
    sequences.check((0, 1))
    assert len(kept) == 2 * len(modules)


def test_weights_are_those_of_the_moment() -> None:
    model = small("qwen2")
    sequences = Sequences(model, [20])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
        model.model.layers[0].mlp.up_proj = torch.nn.Linear(64, 48, bias=False)
        wanted = model(input_ids=sequences.ids[0][None]).logits[0]
    assert (wanted - sequences.wanted[0]).abs().max() > 0.1
    sequences.wanted = [wanted]
    sequences.check((0, 20))


def test_spans_and_embeddings_belong_together() -> None:
    sequences = Sequences(small("llama"), [40])
    decoder, store = sequences.decoder, sequences.store
    embeds = decoder.embed(sequences.ids[0])
    with pytest.raises(ValueError, match="40 embeddings and spans of 39 tokens"):
        decoder.forward(embeds, [Span(0, 39, [0, 1])], store, [0])
    with pytest.raises(ValueError, match="40 tokens after 30 has 2 blocks"):
        decoder.forward(embeds, [Span(30, 40, [0, 1])], store, [0])
