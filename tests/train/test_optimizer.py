"""The optimizer, its rate, and the sizes of models."""

import pytest
import torch

from minicpmv.train.muon import MuonAdamW, orthogonalise
from minicpmv.train.pretrain.recipe import SIZES, STAGES, build_config
from minicpmv.train.pretrain.run import Pretraining


def test_orthogonalised_matrices_have_singular_values_near_one():
    matrices = torch.randn(3, 24, 40, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalise(matrices).float())
    assert values.min() > 0.5
    assert values.max() < 1.4


def test_the_optimizer_descends():
    weight = torch.nn.Parameter(torch.ones(4, 4))
    bias = torch.nn.Parameter(torch.ones(4))
    optimizer = MuonAdamW(
        [weight], [bias], learning_rate=0.1, adam_learning_rate=0.1, weight_decay=0.0
    )
    for _ in range(30):
        (weight.square().sum() + bias.square().sum()).backward()
        optimizer.step(1.0)
    assert weight.abs().max() < 0.6
    assert bias.abs().max() < 0.3


def test_the_rate_warms_up_in_every_stage_and_falls_to_zero_in_the_last(tiny):
    run = Pretraining(tiny(warmup_steps=10))
    others = len(STAGES) - 1
    run.plan = [*(others * [100]), 50]
    rates = [run.rate(step) for step in range(sum(run.plan))]
    full = [stage.rate[0] for stage in STAGES]
    assert rates[0::100] == pytest.approx([0.1 * rate for rate in full])
    halfway = [sum(stage.rate) / 2 for stage in STAGES]
    assert [*rates[50:-50:100], rates[-25]] == pytest.approx(halfway)
    assert rates[-1] == pytest.approx(0.02 * full[-1])
    weights = [run.dense_weight(step) for step in (0, 100, 199)]
    assert weights[0] == 1.0
    assert weights[1:] == pytest.approx([0.6, 0.6])


@pytest.mark.parametrize("name", list(SIZES))
def test_the_sizes_are_models(name):
    config = build_config(SIZES[name], 700)
    assert config.hidden_size % 128 == 0
    assert config.hidden_size % config.num_attention_heads == 0
