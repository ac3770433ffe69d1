"""Rows of several conversations, against each conversation alone."""

from functools import partial

import pytest
import torch
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForCausalLM
from transformers.modeling_layers import GradientCheckpointingLayer

from minicpmv.model.packed import (
    use_packed_attention,
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
