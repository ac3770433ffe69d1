"""Which models the decoder computes, those with adapters among them."""

from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, GPT2Config

from minicpmv.engine.decoder import Decoder
from minicpmv.engine.supported import max_tokens, windows

from ..helpers.decoders import check_all_ways, small

peft = pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")  # its own


def with_lora(model: Any, **changes: Any) -> Any:
    config = peft.LoraConfig(
        r=4, target_modules=["q_proj", "v_proj", "down_proj"], init_lora_weights=False, **changes
    )
    return peft.get_peft_model(model, config).eval()


@pytest.mark.parametrize("name", ["qwen2", "minicpm"])
def test_adapters_take_effect(name: str) -> None:
    torch.manual_seed(0)
    plain = small(name)
    model = with_lora(plain, modules_to_save=["lm_head"])
    assert Decoder.why_not(model) is None
    check_all_ways(model)
    with model.disable_adapter():
        check_all_ways(model)
    peft.inject_adapter_in_model(peft.LoraConfig(r=2, target_modules=["o_proj"]), plain, "other")
    check_all_ways(plain)


@pytest.mark.parametrize(
    "config",
    [
        peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
        peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
        peft.LoraConfig(
            task_type="CAUSAL_LM", r=2, alora_invocation_tokens=[3], target_modules=["q_proj"]
        ),
    ],
    ids=["prefix", "prompt", "alora"],
)
def test_adapters_that_are_no_layers_are_not_supported(config: Any) -> None:
    reason = Decoder.why_not(peft.get_peft_model(small("llama"), config))
    assert reason is not None
    assert "adapter 'default'" in reason


def test_other_models_are_not_supported() -> None:
    other = AutoModelForCausalLM.from_config(GPT2Config(n_layer=1, n_embd=8, n_head=1))
    assert Decoder.why_not(other) == "GPT2LMHeadModel is not one of the models that it knows"
    assert Decoder.why_not(object()) == "object is not one of the models that it knows"
    with pytest.raises(ValueError, match="GPT2LMHeadModel is not one of the models"):
        Decoder(other)


def test_a_class_with_its_own_forward_is_another_model() -> None:
    model = small("llama")
    attention = model.model.layers[1].self_attn

    class Own(type(attention)):  # type: ignore[misc]
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            return super().forward(*args, **kwargs)

    class Same(type(model)):  # type: ignore[misc]
        pass

    model.__class__ = Same
    assert Decoder.why_not(model) is None
    attention.__class__ = Own
    assert "Own" in str(Decoder.why_not(model))


def test_a_replaced_forward_is_not_supported() -> None:
    model = small("llama")
    model.model.layers[0].forward = lambda hidden, **_: hidden
    assert "LlamaDecoderLayer" in str(Decoder.why_not(model))


def test_several_devices_are_not_supported() -> None:
    model = small("llama")
    model.hf_device_map = {"": "cpu"}
    assert Decoder.why_not(model) is None
    model.hf_device_map = {"model": 0, "lm_head": "cpu"}
    assert "several devices" in str(Decoder.why_not(model))
    model = small("llama")
    model.lm_head._hf_hook = nn.Identity()
    assert "several devices" in str(Decoder.why_not(model))


def test_lengths_and_windows() -> None:
    assert max_tokens(small("llama").config) is None
    assert max_tokens(small("minicpm-dynamic").config) == 512
    assert max_tokens(small("minicpm-longrope").config) == 256
    assert windows(small("qwen2").model) == [None] * 3
    assert windows(small("qwen2-window").model) == [None, 7, 7]
    assert windows(small("mistral-window").model) == [37] * 3
