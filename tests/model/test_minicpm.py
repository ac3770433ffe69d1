"""The MiniCPM language models: the same number, computed in two ways."""

from typing import Any

import pytest
import torch
from transformers import (
    GraniteConfig,
    GraniteForCausalLM,
)

from minicpmv.model.configuration_minicpm import MiniCPMConfig
from minicpmv.model.minicpm import (
    MiniCPMForCausalLM,
    MiniCPMForSequenceClassification,
    MiniCPMModel,
)
from minicpmv.model.moe import balance_loss

from ..helpers.text_models import Recorded

# Two roads to one number.


def tiny_config(**changes: Any) -> MiniCPMConfig:
    fields = {
        "vocab_size": 96,
        "hidden_size": 48,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 16,
        "scale_emb": 12,
        "scale_depth": 1.4,
        "dim_model_base": 8,
    }
    return MiniCPMConfig(**fields | changes)


EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2}
DYNAMIC = {"rope_scaling": {"type": "dynamic", "factor": 4.0}}
KINDS = [
    pytest.param({}, id="dense"),
    pytest.param(EXPERTS, id="moe"),
    pytest.param(DYNAMIC, id="dynamic"),
]


def tiny_model(model_class: Any = MiniCPMForCausalLM, **changes: Any) -> Any:
    """A random model, the same at every call, whose weights all move the logits."""
    torch.manual_seed(0)
    model = model_class(tiny_config(**changes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2).add_(parameter.ndim == 1)
    return model


def tiny_ids(*shape: int) -> torch.Tensor:
    return torch.randint(3, 96, shape, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_a_new_head_is_said(caplog):
    MiniCPMForSequenceClassification.from_pretrained(Recorded("2b").checkpoint, num_labels=2)
    assert "score.weight is not in" in caplog.text


@pytest.mark.parametrize("name", ["2b", "1b"])
def test_dense_is_granite_with_these_multipliers(name):
    recorded = Recorded(name)
    config = recorded.model.config
    granite = GraniteForCausalLM(
        GraniteConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.num_hidden_layers,
            num_attention_heads=config.num_attention_heads,
            num_key_value_heads=config.num_key_value_heads,
            rms_norm_eps=config.rms_norm_eps,
            tie_word_embeddings=True,
            embedding_multiplier=config.scale_emb,
            residual_multiplier=config.residual_scale,
            logits_scaling=config.logits_scaling,
            attention_multiplier=(config.hidden_size // config.num_attention_heads) ** -0.5,
        )
    ).eval()
    granite.load_state_dict(recorded.model.state_dict())
    ids = torch.arange(3, 63).view(3, 20)
    torch.testing.assert_close(recorded.model(ids).logits, granite(ids).logits, atol=2e-5, rtol=0)


@torch.no_grad()
def test_equal_experts_are_a_dense_model():
    dense, mixed = tiny_model(), tiny_model(**EXPERTS)
    weights = dense.state_dict()
    for name, weight in mixed.state_dict().items():
        for part, ours in (("w1", "gate_proj"), ("w3", "up_proj"), ("w2", "down_proj")):
            if f".{part}." in name:
                weight.copy_(weights[f"{name.partition('experts')[0]}{ours}.weight"])
        if name in weights:
            weight.copy_(weights[name])
    ids = tiny_ids(2, 9)
    torch.testing.assert_close(mixed(ids).logits, dense(ids).logits, atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("changes", KINDS)
def test_embeddings_given_are_those_of_the_table(changes):
    model, ids = tiny_model(**changes), tiny_ids(2, 7)
    embeds = model.get_input_embeddings()(ids)
    torch.testing.assert_close(model(inputs_embeds=embeds).logits, model(ids).logits)
    with pytest.raises(ValueError, match="either input_ids or inputs_embeds"):
        model(ids, inputs_embeds=embeds)


@torch.no_grad()
@pytest.mark.parametrize("changes", KINDS)
def test_eager_attention_and_sdpa_agree(changes):
    model, ids = tiny_model(**changes), tiny_ids(2, 20)
    logits = model(ids).logits
    model.set_attn_implementation("eager")
    torch.testing.assert_close(model(ids).logits, logits, atol=1e-5, rtol=0)


@pytest.mark.parametrize("changes", KINDS)
def test_left_padding_changes_no_answer(changes):
    model, ids = tiny_model(**changes), tiny_ids(2, 8)
    ids[1, :3] = 0
    mask = (ids != 0).long()
    settings = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    together = model.generate(ids, attention_mask=mask, **settings)
    alone = model.generate(ids[1:, 3:], attention_mask=mask[1:, 3:], **settings)
    assert together[1, 8:].tolist() == alone[0, 5:].tolist()


@pytest.mark.parametrize("changes", KINDS)
def test_every_cache_gives_the_same_ids(changes):
    model, ids = tiny_model(**changes), tiny_ids(2, 8)
    settings = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    expected = model.generate(ids, **settings).tolist()  # 20 positions: past the trained 16
    static = model.generate(ids, cache_implementation="static", disable_compile=True, **settings)
    assert static.tolist() == expected
    if changes != DYNAMIC:  # whose cached keys keep an older rotation
        assert model.generate(ids, use_cache=False, **settings).tolist() == expected


@torch.no_grad()
@pytest.mark.parametrize("changes", KINDS)
def test_logits_to_keep(changes):
    model, ids = tiny_model(**changes), tiny_ids(2, 7)
    logits = model(ids).logits
    torch.testing.assert_close(model(ids, logits_to_keep=2).logits, logits[:, -2:])
    places = torch.tensor([0, 3])
    torch.testing.assert_close(model(ids, logits_to_keep=places).logits, logits[:, places])


@pytest.mark.parametrize("changes", KINDS)
def test_checkpointing_gives_the_same_gradients(changes):
    ids, gradients = tiny_ids(2, 9), []
    for is_checkpointed in (False, True):
        model = tiny_model(**changes, router_aux_loss_coef=0.5).train()
        if is_checkpointed:
            newer = getattr(model, "activation_checkpointing_enable", None)
            (newer or model.gradient_checkpointing_enable)()
        model(ids, labels=ids, use_cache=False).loss.backward()
        gradients.append({name: value.grad for name, value in model.named_parameters()})
    plain, checkpointed = gradients
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient, msg=name)


def test_padding_counts_for_no_expert():
    model, ids = tiny_model(**EXPERTS), tiny_ids(1, 6)
    logits = model(ids, output_router_logits=True).router_logits
    padded = tuple(torch.cat([torch.ones(3, 4), layer]) for layer in logits)
    mask = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1, 1]])
    torch.testing.assert_close(balance_loss(padded, 2, mask), balance_loss(logits, 2))
    busy = torch.eye(4).repeat(3, 1) * 50
    assert balance_loss((busy,), 1).item() == pytest.approx(1)  # evenly busy
    assert balance_loss((busy[:1].repeat(3, 1),), 1).item() == pytest.approx(4)  # one does it all


def test_loss_of_a_test_set_is_that_of_the_text_alone():
    ids = tiny_ids(2, 9)
    model = tiny_model(**EXPERTS, router_aux_loss_coef=0.5)
    plain = tiny_model(**EXPERTS)(ids, labels=ids).loss
    torch.testing.assert_close(model(ids, labels=ids).loss, plain)
    assert model.train()(ids, labels=ids).loss > plain


@torch.no_grad()
@pytest.mark.parametrize(
    "changes", [*KINDS, pytest.param({"tie_word_embeddings": False}, id="untied")]
)
def test_saved_model_is_the_same(changes, tmp_path):
    model, ids = tiny_model(**changes), tiny_ids(1, 20)
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    loaded = MiniCPMForCausalLM.from_pretrained(tmp_path).eval()
    assert torch.equal(loaded(ids).logits, model(ids).logits)
    is_tied = loaded.lm_head.weight is loaded.model.embed_tokens.weight
    assert is_tied == loaded.config.tie_word_embeddings == model.config.tie_word_embeddings
    base = MiniCPMModel.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(
        base(ids).last_hidden_state, model.model(ids).last_hidden_state, atol=0, rtol=0
    )


def test_resized_table_is_still_scaled():
    model, ids = tiny_model(), tiny_ids(1, 5)
    before = model(ids).logits
    model.resize_token_embeddings(100)
    after = model(ids).logits
    assert after.shape[-1] == 100
    torch.testing.assert_close(after[..., :96], before)
