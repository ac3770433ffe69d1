"""The MiniCPM language models: recorded numbers, and two roads to one number.

`MINICPMV_GOLDEN` names another folder of recorded data, e.g. one that was not thinned out.
"""

import json
import os
import re
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    DynamicCache,
    GraniteConfig,
    GraniteForCausalLM,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from minicpmv.model.configuration_minicpm import MiniCPMConfig
from minicpmv.model.minicpm import (
    MiniCPMForCausalLM,
    MiniCPMForSequenceClassification,
    MiniCPMModel,
    MiniCPMRotaryEmbedding,
)
from minicpmv.model.moe import balance_loss, route

GOLDEN = Path(os.environ.get("MINICPMV_GOLDEN", Path(__file__).parent / "golden"))
NAMES = ["2b", "1b", "2b-128k", "moe-8x2b"]


@lru_cache
class Recorded:
    """What the released code computed with the tiny checkpoint of one release."""

    def __init__(self, name: str):
        self.folder = GOLDEN / f"minicpm-{name}"
        self.checkpoint = self.folder / "ckpt"

    @cached_property
    def cases(self) -> dict[str, dict[str, Any]]:
        manifest = json.loads((self.folder / "public" / "manifest.json").read_text())
        return {case["name"]: case for case in manifest["cases"]}

    @cached_property
    def tensors(self) -> dict[str, torch.Tensor]:
        return load_file(self.folder / "public" / "cases.safetensors")

    @cached_property
    def model(self) -> Any:
        return MiniCPMForCausalLM.from_pretrained(self.checkpoint).eval()

    def variant(self, **changes: Any) -> Any:
        """The model with other numbers in its config.json."""
        fields = json.loads((self.checkpoint / "config.json").read_text()) | changes
        model = MiniCPMForCausalLM(MiniCPMConfig.from_dict(fields)).eval()
        model.load_state_dict(self.model.state_dict())
        return model


class Case:
    """One recorded case: `inputs` and `expected`, arrays and plain values alike."""

    def __init__(self, name: str, record: dict[str, Any]):
        self.recorded = Recorded(name)
        self.record = record
        self.tolerance = record.get("atol", 2e-4)
        self.inputs = {key: self._value(entry) for key, entry in record["inputs"].items()}
        self.expected = {key: self._value(entry) for key, entry in record["expect"].items()}

    def _value(self, entry: dict[str, Any]) -> Any:
        return self.recorded.tensors[entry["tensor"]] if "tensor" in entry else entry["json"]

    @property
    def model(self) -> Any:
        changes = self.record.get("config_override")
        return self.recorded.variant(**changes) if changes else self.recorded.model

    def model_inputs(self, *names: str) -> dict[str, Any]:
        known = names or ("input_ids", "inputs_embeds", "attention_mask", "position_ids")
        return {name: self.inputs[name] for name in known if name in self.inputs}

    def check(self, actual: torch.Tensor, name: str) -> None:
        """`actual` is what was recorded, as far as it was and where it is not padding."""
        expected = self.expected[name]
        if re.search(r"_last\d+$", name):
            actual = actual[:, -expected.shape[1] :]
        mask = self.inputs.get("attention_mask")
        if mask is not None:
            mask = mask[:, -expected.shape[1] :].bool()
            actual, expected = actual[mask], expected[mask]
        torch.testing.assert_close(actual, expected, atol=self.tolerance, rtol=0)


def cases(*kinds: str) -> list[Any]:
    """Parameters for every recorded case of these kinds."""
    return [
        pytest.param(Case(name, record), id=f"{name}-{record['name']}")
        for name in NAMES
        for record in Recorded(name).cases.values()
        if record["kind"] in kinds and "checkpoint_override" not in record
    ]


@torch.no_grad()
@pytest.mark.parametrize("case", cases("logits"))
def test_logits_are_the_recorded_ones(case):
    logits = case.model(**case.model_inputs()).logits
    for name in case.expected:
        case.check(logits, name)


@pytest.mark.parametrize("case", cases("generate"))
def test_search_finds_the_recorded_ids(case):
    inputs = case.model_inputs("input_ids", "attention_mask")
    out = case.model.generate(
        **inputs,
        **case.inputs["generate"],
        max_length=None,
        output_logits=True,
        output_scores=True,
        return_dict_in_generate=True,
    )
    assert out.sequences.tolist() == case.expected["sequences"].tolist()
    if "step_logits" in case.expected:
        logits = torch.stack(out.logits, dim=1)
        expected = case.expected["step_logits"]
        torch.testing.assert_close(logits, expected, atol=case.tolerance, rtol=0)
    if "sequences_scores" in case.expected:
        expected = case.expected["sequences_scores"]
        torch.testing.assert_close(out.sequences_scores, expected, atol=case.tolerance, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("case", cases("hidden_states"))
def test_every_layer_gives_what_was_recorded(case):
    model = MiniCPMForCausalLM.from_pretrained(
        case.recorded.checkpoint, attn_implementation="eager"
    ).eval()
    out = model(**case.model_inputs(), output_hidden_states=True, output_attentions=True)
    case.check(out.logits, "logits")
    for index, hidden_states in enumerate(out.hidden_states):
        case.check(hidden_states, f"hidden_{index}")
    for index, weights in enumerate(out.attentions):
        case.check(weights, f"attn_{index}")


@pytest.mark.parametrize("case", cases("loss", "grads"))
def test_loss_and_gradients(case):
    model = case.recorded.variant()
    out = model(**case.model_inputs(), labels=case.inputs["labels"])
    case.check(out.loss, "loss")
    if "logits" in case.expected:
        case.check(out.logits, "logits")
    out.loss.backward()
    for name in case.expected.keys() - {"loss", "logits"}:
        case.check(model.get_parameter(name).grad, name)


@torch.no_grad()
@pytest.mark.parametrize("case", cases("kv_cache"))
def test_cache_in_pieces(case):
    ids, cache, logits = case.inputs["input_ids"], DynamicCache(), []
    for piece in ids.split(case.inputs["chunks"], dim=1):
        logits.append(case.model(piece, past_key_values=cache).logits)
    full = case.model(ids).logits
    for name in case.expected:
        kind, _, rest = name.partition("_")
        if kind == "logits":
            case.check(full if "full" in rest else torch.cat(logits, dim=1), name)
        else:
            layer = cache.layers[int(rest)]
            case.check(layer.keys if kind == "key" else layer.values, name)


@torch.no_grad()
@pytest.mark.parametrize("case", cases("warped_probs"))
def test_probabilities_to_draw_from(case):
    ids = case.inputs["input_ids"]
    scores = case.model(ids).logits[:, -1]
    warpers = [TemperatureLogitsWarper(case.inputs["temperature"])]
    if case.inputs["top_k"]:
        warpers.append(TopKLogitsWarper(case.inputs["top_k"]))
    warpers.append(TopPLogitsWarper(case.inputs["top_p"]))
    for warper in warpers:
        scores = warper(ids, scores)
    case.check(scores.softmax(dim=-1), "probs")


@torch.no_grad()
@pytest.mark.parametrize("case", cases("logits_bf16"))
def test_bfloat16_is_as_close_as_the_released_code(case):
    model = MiniCPMForCausalLM.from_pretrained(case.recorded.checkpoint, dtype=torch.bfloat16)
    logits = model.eval()(**case.model_inputs()).logits.float()
    distance = (case.expected["logits"] - case.expected["logits_fp32"]).abs().mean()
    assert (logits - case.expected["logits"]).abs().mean() <= 2 * distance
    assert (logits - case.expected["logits_fp32"]).abs().mean() <= 2 * distance


@torch.no_grad()
@pytest.mark.parametrize("case", cases("seqcls"))
def test_sequence_classification(case, caplog):
    model = MiniCPMForSequenceClassification.from_pretrained(
        case.recorded.checkpoint,
        num_labels=case.inputs["num_labels"],
        pad_token_id=case.inputs["pad_token_id"],
    ).eval()
    assert "score.weight is not in" in caplog.text
    model.score.weight.copy_(
        load_file(case.recorded.folder / "seqcls" / "score.safetensors")["score.weight"]
    )
    case.check(model(**case.model_inputs()).logits, "logits")


@pytest.mark.parametrize("case", cases("rope_table"))
def test_rotary_table(case):
    inputs = case.inputs
    assert inputs["head_dim"] == 12
    config = MiniCPMConfig(
        hidden_size=24,
        num_attention_heads=2,
        max_position_embeddings=inputs["max_position_embeddings"],
        rope_theta=inputs["rope_theta"],
        rope_scaling={"type": "dynamic", "factor": inputs["factor"]},
    )
    rotary, seq = MiniCPMRotaryEmbedding(config), inputs["seq_len"]
    case.check(rotary.frequencies(seq)[0], "inv_freq")
    cos, sin = rotary(torch.tensor([[seq - 1]]), seq)
    case.check(cos[0, 0], "cos_last")
    case.check(sin[0, 0], "sin_last")


@torch.no_grad()
@pytest.mark.parametrize("case", cases("logits_quirk"))
def test_a_long_call_leaves_no_trace(case):
    """Where the released code keeps the long call's rotation for all that follow."""
    model = case.model
    model(torch.zeros(1, case.inputs["preceding_length"], dtype=torch.long))
    case.check(model(case.inputs["input_ids"]).logits, "logits_fresh")


@torch.no_grad()
@pytest.mark.parametrize("case", cases("router"))
def test_router(case):
    out = case.model(**case.model_inputs(), output_router_logits=True)
    case.check(out.logits, "logits")
    losses = []
    for index, layer in enumerate(case.model.model.layers):
        hidden_states = case.expected[f"mlp_in_{index}"]
        logits = layer.mlp.gate(hidden_states).flatten(0, 1)
        weights, chosen = route(logits, layer.mlp.top_k)
        case.check(logits, f"router_scores_{index}")
        case.check(out.router_logits[index], f"router_scores_{index}")
        case.check(chosen, f"topk_idx_{index}")
        case.check(weights, f"topk_weight_{index}")
        case.check(layer.mlp(hidden_states), f"mlp_out_{index}")
        losses.append(case.expected[f"balance_loss_{index}"])
    torch.testing.assert_close(out.aux_loss, sum(losses), atol=case.tolerance, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("case", cases("moe_block"))
def test_mixture_of_experts(case):
    block = case.model.model.layers[case.inputs["layer"]].mlp
    case.check(block(case.inputs["x"]), "y")


@pytest.mark.parametrize("with_aux", [True, False])
@pytest.mark.parametrize("case", cases("train_grads"))
def test_balance_loss_trains_the_router(case, with_aux):
    model = case.recorded.variant(router_aux_loss_coef=1.0 if with_aux else 0.0).train()
    out = model(case.inputs["input_ids"], labels=case.inputs["labels"])
    case.check(out.logits, "logits_train")
    plain = out.loss - out.aux_loss if with_aux else out.loss
    case.check(plain, "loss")
    out.loss.backward()
    prefix = "grad_with_aux/" if with_aux else "grad_without_aux/"
    for name in case.expected:
        if name.startswith(prefix):
            case.check(model.get_parameter(name.removeprefix(prefix)).grad, name)


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
