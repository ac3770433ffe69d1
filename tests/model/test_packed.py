"""Rows of several conversations, against each conversation alone."""

from functools import partial

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForCausalLM, DynamicCache
from transformers.modeling_layers import GradientCheckpointingLayer

from minicpmv.model.packed import (
    PACKED,
    packed_attention,
    plain_attention,
    use_packed_attention,
    why_not_packed,
)

from ..helpers.golden import CHECKPOINTS, GOLDEN

LENGTHS = [9, 1, 17, 5]
TEXT = {name: GOLDEN / name / "ckpt" for name in ("minicpm-2b", "minicpm-1b", "minicpm-moe-8x2b")}
MODELS = CHECKPOINTS | TEXT


def model_of(name, **keywords):
    return AutoModelForCausalLM.from_pretrained(
        MODELS[name], dtype=torch.float32, attn_implementation="sdpa", **keywords
    )


def conversations(vocab_size, lengths=LENGTHS, seed=0):
    """Ids and shifted targets of so many texts: each (1, length)."""
    generator = torch.Generator().manual_seed(seed)
    for length in lengths:
        ids = torch.randint(3, min(vocab_size, 200), (1, length), generator=generator)
        targets = ids.roll(-1, dims=1)
        targets[torch.rand(1, length, generator=generator) < 0.3] = -100
        targets[:, -1] = 2
        yield ids, targets


def packed_row(texts):
    lengths = [ids.shape[1] for ids, _ in texts]
    borders = torch.tensor([0, *lengths]).cumsum(0).int()
    return {
        "input_ids": torch.cat([ids for ids, _ in texts], dim=1),
        "shift_labels": torch.cat([targets for _, targets in texts], dim=1),
        "position_ids": torch.cat([torch.arange(n) for n in lengths])[None],
        "cu_seq_lens_q": borders,
        "cu_seq_lens_k": borders,
        "max_length_q": max(lengths),
        "max_length_k": max(lengths),
    }


def loss_and_gradients(model, batches, num_items):
    model.zero_grad(set_to_none=True)
    total = 0.0
    for batch in batches:
        loss = model(**batch, num_items_in_batch=num_items).loss
        loss.backward()
        total += loss.item()
    return total, {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def assert_same(found, expected, limit=1e-5):
    assert found[0] == pytest.approx(expected[0], abs=limit)
    assert found[1].keys() == expected[1].keys()
    for name, gradient in expected[1].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=limit, atol=limit, msg=name)


def num_targets(texts):
    return sum(int((targets != -100).sum()) for _, targets in texts)


@pytest.mark.parametrize("name", sorted(MODELS))
@pytest.mark.parametrize("is_checkpointed", [False, True], ids=["", "checkpointed"])
def test_packed_text_is_text_alone(name, is_checkpointed):
    model = model_of(name)
    texts = list(conversations(model.config.get_text_config().vocab_size))
    count = num_targets(texts)
    alone = [{"input_ids": ids, "shift_labels": targets} for ids, targets in texts]
    expected = loss_and_gradients(model, alone, count)
    use_packed_attention(model)
    if is_checkpointed:
        # `gradient_checkpointing_enable` is deprecated in the newest transformers, which sets this.
        for module in model.modules():
            if isinstance(module, GradientCheckpointingLayer):
                module.gradient_checkpointing = True
                module._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)
        model.train()
    assert_same(loss_and_gradients(model, [packed_row(texts)], count), expected)


@pytest.mark.parametrize("name", ["2.6", "minicpm-2b"])
def test_shift_labels_are_labels_shifted(name):
    model = model_of(name)
    ((ids, targets),) = conversations(200, [12])
    labels = torch.cat([torch.tensor([[-100]]), targets[:, :-1]], dim=1)
    targets[:, -1] = -100
    expected = model(input_ids=ids, labels=labels).loss
    output = model(input_ids=ids, shift_labels=targets, labels=labels)
    assert output.logits is None
    torch.testing.assert_close(output.loss, expected, rtol=1e-6, atol=1e-6)
    weights = torch.full(ids.shape, 0.5)
    output = model(input_ids=ids, shift_labels=targets, loss_weights=weights, num_items_in_batch=10)
    share = 0.5 * num_targets([(ids, targets)]) / 10
    torch.testing.assert_close(output.loss, expected * share, rtol=1e-6, atol=1e-6)
    with pytest.raises(ValueError, match=r"shift_labels has shape \(1, 11\)"):
        model(input_ids=ids, shift_labels=targets[:, 1:])
    with pytest.raises(ValueError, match="loss_weights has shape"):
        model(input_ids=ids, shift_labels=targets, loss_weights=weights[0])


def test_a_packed_row_and_nothing_else():
    model = model_of("2.6")
    ((ids, _),) = conversations(200, [12])
    expected = model(input_ids=ids).logits
    assert why_not_packed(model, 4096) is None
    use_packed_attention(model)
    assert why_not_packed(model, 4096) is None
    with pytest.raises(ValueError, match="cu_seq_lens_q is missing"):
        model(input_ids=ids)
    borders = torch.tensor([0, 12], dtype=torch.int32)
    with pytest.raises(ValueError, match="no attention_mask"):
        model(input_ids=ids, attention_mask=torch.ones_like(ids), cu_seq_lens_q=borders)
    with pytest.raises(ValueError, match="segments up to 11"):
        model(input_ids=ids, cu_seq_lens_q=borders - torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="segments up to 12"):
        model(input_ids=ids.repeat(2, 1), cu_seq_lens_q=borders)
    with plain_attention(model):
        torch.testing.assert_close(model(input_ids=ids).logits, expected, rtol=0, atol=0)
        generated = model.generate(input_ids=ids, max_new_tokens=3, do_sample=False)
    assert generated.shape[1] > 12
    assert model.config.get_text_config()._attn_implementation == PACKED
    assert model.config.vision_config._attn_implementation == "sdpa"


def test_text_models_say_so_too():
    model = model_of("minicpm-2b")
    use_packed_attention(model)
    ids = torch.tensor([[1, 5, 6]])
    with pytest.raises(ValueError, match="cu_seq_lens_q is missing"):
        model(input_ids=ids)
    with plain_attention(model), plain_attention(model):
        assert model(input_ids=ids).logits.shape[1] == 3
    with pytest.raises(ValueError, match="take no past_key_values"):
        model(input_ids=ids, past_key_values=DynamicCache(), cu_seq_lens_q=torch.tensor([0, 3]))


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of PEFT
def test_adapters_are_looked_through():
    model = get_peft_model(model_of("2.6"), LoraConfig(target_modules=["q_proj"]))
    use_packed_attention(model)
    texts = list(conversations(200))
    count = num_targets(texts)
    found = loss_and_gradients(model, [packed_row(texts)], count)
    with plain_attention(model):
        alone = [{"input_ids": ids, "shift_labels": targets} for ids, targets in texts]
        assert_same(found, loss_and_gradients(model, alone, count))


@pytest.mark.parametrize("window", [None, 6, 100])
@pytest.mark.parametrize("num_key_values", [4, 2])
def test_each_segment_attends_to_itself(window, num_key_values):
    """Against the formula, written out."""
    torch.manual_seed(0)
    query = torch.randn(1, 4, 30, 8)
    key, value = torch.randn(2, 1, num_key_values, 30, 8)
    borders = torch.tensor([0, 9, 10, 30], dtype=torch.int32)
    output, weights = packed_attention(
        torch.nn.Module(),
        query,
        key,
        value,
        None,
        0.3,
        cu_seq_lens_q=borders,
        sliding_window=window,
    )
    assert weights is None
    index = torch.arange(30)
    segment = torch.searchsorted(borders[1:], index, right=True)
    distance = index[:, None] - index
    is_seen = (segment[:, None] == segment) & (distance >= 0)
    if window:
        is_seen &= distance < window
    groups = 4 // num_key_values
    key, value = (x.repeat_interleave(groups, dim=1) for x in (key, value))
    scores = (query @ key.transpose(2, 3) * 0.3).masked_fill(~is_seen, -torch.inf)
    expected = (scores.softmax(dim=-1) @ value).transpose(1, 2)
    torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"_attn_implementation": "eager"}, "attention 'eager' has no packed form"),
        ({"rope_type": "dynamic"}, "dynamic rotary positions stretch"),
        ({"rope_type": "longrope"}, "longrope rotary positions stretch"),
    ],
)
def test_models_that_are_not_packed(change, reason):
    model = model_of("minicpm-2b")
    config = model.config
    if "rope_type" in change:
        config.rope_parameters = dict(config.rope_parameters) | change
        known = config.max_position_embeddings
        assert why_not_packed(model, known) is None
        assert reason in why_not_packed(model, known + 1)
    else:
        model.set_attn_implementation("eager")
        assert reason in why_not_packed(model, 10)
        with pytest.raises(ValueError, match=reason):
            use_packed_attention(model)


def test_models_on_several_devices_are_not_packed():
    model = model_of("2.6")
    model.hf_device_map = {"model": "cpu", "lm_head": "meta"}
    assert "spread over 2 devices" in why_not_packed(model, 10)


def test_routers_are_balanced_over_the_step():
    """The balance of a row counts as much as the row has of the step's targets."""
    model = model_of("minicpm-moe-8x2b", router_aux_loss_coef=0.1).train()
    use_packed_attention(model)
    texts = list(conversations(200))
    row, count = packed_row(texts), num_targets(texts)
    alone = model(**row)
    half = model(**row, num_items_in_batch=2 * count)
    torch.testing.assert_close(half.loss * 2, alone.loss)
    model.config.router_aux_loss_coef = 0.0
    assert model(**row).loss < alone.loss


@pytest.mark.skipif(not torch.cuda.is_available(), reason="the kernel for all segments is CUDA's")
@pytest.mark.parametrize("window", [None, 6])
@pytest.mark.parametrize("num_key_values", [4, 2])
def test_one_kernel_for_all_segments(window, num_key_values):
    torch.manual_seed(0)
    shapes = [(1, 4, 200, 64), *[(1, num_key_values, 200, 64)] * 2]
    borders = torch.tensor([0, 90, 91, 200], dtype=torch.int32)
    results = []
    for device, dtype in (("cpu", torch.float32), ("cuda", torch.bfloat16)):
        torch.manual_seed(0)
        inputs = [torch.randn(shape).bfloat16().to(device, dtype) for shape in shapes]
        inputs = [x.requires_grad_() for x in inputs]
        output, _ = packed_attention(
            torch.nn.Module(),
            *inputs,
            None,
            0.2,
            cu_seq_lens_q=borders.to(device),
            sliding_window=window,
        )
        output.square().sum().backward()
        results.append([x.float().cpu() for x in (output, *(x.grad for x in inputs))])
    for found, expected in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(found, expected, rtol=5e-2, atol=5e-2)
