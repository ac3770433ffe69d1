"""The loss of preferences against numbers computed by hand."""

import math

import pytest
import torch

from minicpmv.train.dpo.loss import dpo_loss, sequence_logprobs

LOGPS = torch.tensor([9.0, -1.0, -2.0, 9.0, 9.0, -3.0, -4.0, -5.0, 9.0])
TARGETS = torch.tensor([-100, 4, 5, -100, -100, 4, 5, 6, -100])
BORDERS = torch.tensor([0, 4, 9], dtype=torch.int32)


def test_sums_are_over_the_answer_alone() -> None:
    found = sequence_logprobs(LOGPS, BORDERS, TARGETS)
    assert found.tolist() == [-3.0, -12.0]


def test_means_over_the_answer_and_over_all_tokens_that_follow_another() -> None:
    answer = sequence_logprobs(LOGPS, BORDERS, TARGETS, average="answer")
    assert answer.tolist() == [-1.5, -4.0]
    everything = sequence_logprobs(LOGPS, BORDERS, TARGETS, average="all")
    assert everything.tolist() == [-1.0, -3.0]


def test_weights_of_ddpo() -> None:
    """(1 / N) (sum of unchanged + gamma * sum of corrected), N = unchanged + gamma * corrected."""
    weights = torch.tensor([1.0, 5.0, 1.0, 1.0, 1.0, 1.0, 5.0, 5.0, 1.0])
    mean = sequence_logprobs(LOGPS, BORDERS, TARGETS, weights=weights, average="answer")
    expected = [(-2 + 5 * -1) / (1 + 5 * 1), (-3 + 5 * (-4 - 5)) / (1 + 5 * 2)]
    torch.testing.assert_close(mean, torch.tensor(expected))
    total = sequence_logprobs(LOGPS, BORDERS, TARGETS, weights=weights)
    assert total.tolist() == [-7.0, -48.0]


def test_the_loss_by_hand() -> None:
    numbers = [torch.tensor(values) for values in ([-3.0, -8.0], [-6.0, -4.0], [-5.0, -6.0])]
    chosen, rejected, reference = numbers
    loss, rewards_c, rewards_r = dpo_loss(chosen, rejected, reference, reference, 0.1)
    torch.testing.assert_close(rewards_c, torch.tensor([0.2, -0.2]))
    torch.testing.assert_close(rewards_r, torch.tensor([-0.1, 0.2]))
    first, second = (math.log(1 + math.exp(-margin)) for margin in (0.3, -0.4))
    assert float(loss) == pytest.approx((first + second) / 2, abs=1e-6)


def test_the_loss_before_training_is_the_logarithm_of_two() -> None:
    same = torch.tensor([-3.0])
    loss, _, _ = dpo_loss(same, same - 4, same, same - 4, 0.1)
    assert float(loss) == pytest.approx(math.log(2))


def test_the_sft_term_is_a_mean_over_tokens() -> None:
    same = torch.tensor([-3.0])
    means = torch.tensor([-1.5])
    loss, _, _ = dpo_loss(same, same, same, same, 0.1, sft_weight=0.2, chosen_means=means)
    assert float(loss) == pytest.approx(math.log(2) + 0.2 * 1.5)
    with pytest.raises(ValueError, match="sft_weight needs chosen_means"):
        dpo_loss(same, same, same, same, 0.1, sft_weight=0.2)


def test_the_gradient_by_hand() -> None:
    policy = torch.tensor([-3.0], requires_grad=True)
    reference = torch.tensor([-3.0])
    dpo_loss(policy, reference, reference, reference, 0.1)[0].backward()
    torch.testing.assert_close(policy.grad, torch.tensor([-0.05]))  # -beta * sigmoid(0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"average": "mean"}, "average is 'mean'"),
        ({"targets": TARGETS[:4]}, "one number per token"),
        ({"cu_seq_lens": torch.tensor([0, 4])}, "ends at 4 of 9 tokens"),
    ],
)
def test_wrong_arguments(change: dict, message: str) -> None:
    arguments = {"token_logps": LOGPS, "cu_seq_lens": BORDERS, "targets": TARGETS}
    with pytest.raises(ValueError, match=message):
        sequence_logprobs(**arguments | change)
