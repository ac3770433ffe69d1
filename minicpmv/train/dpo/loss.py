"""The loss of preferences, from the log-probabilities of tokens.

    -log sigmoid(beta * ((policy_c - reference_c) - (policy_r - reference_r)))

(arXiv 2305.18290). c is the chosen answer and r the rejected one. What stands for an answer is the
sum of its tokens' log-probabilities, or their mean, or a weighted sum or mean (DDPO, arXiv
2312.00849, section 3.2).
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

NO_TARGET = -100
Average = Literal["no", "answer", "all"]


def sequence_logprobs(
    token_logps: Tensor,
    cu_seq_lens: Tensor,
    targets: Tensor,
    *,
    weights: Tensor | None = None,
    average: Average = "no",
) -> Tensor:
    """One log-probability per sequence of a packed row: (num_sequences,) float32.

    Args:
        token_logps: (num_tokens,), of each target; other places are not looked at.
        cu_seq_lens: (num_sequences + 1,), where each sequence begins, and the end of the last.
        targets: (num_tokens,), the token to emit after each place, -100 for none.
        weights: (num_tokens,), factors of the tokens.
        average: "no" gives the sum; "answer" divides it by the weights of the targets, which are 1
            each where `weights` is None; "all" by the number of tokens that follow another one, the
            prompt's among them, as the released training of the text models did.

    Raises:
        ValueError: `average` is not known, or shapes differ.
    """
    if average not in ("no", "answer", "all"):
        raise ValueError(f"average is {average!r}; it is 'no', 'answer' or 'all'.")
    if token_logps.shape != targets.shape or (
        weights is not None and weights.shape != targets.shape
    ):
        raise ValueError(
            f"token_logps has shape {tuple(token_logps.shape)} and targets {tuple(targets.shape)}; "
            "both, and weights, need one number per token."
        )
    is_target = targets != NO_TARGET
    factors = is_target.float() if weights is None else weights.float() * is_target
    values = torch.where(is_target, token_logps.float(), 0.0) * factors
    lengths = cu_seq_lens.diff().to(targets.device).long()
    if int(lengths.sum()) != len(targets):
        raise ValueError(f"cu_seq_lens ends at {int(cu_seq_lens[-1])} of {len(targets)} tokens.")
    sums = _sum_by_sequence(values, lengths)
    if average == "no":
        return sums
    counts = _sum_by_sequence(factors, lengths) if average == "answer" else (lengths - 1).float()
    return sums / counts


def _sum_by_sequence(values: Tensor, lengths: Tensor) -> Tensor:
    numbers = torch.arange(len(lengths), device=values.device).repeat_interleave(lengths)
    return values.new_zeros(len(lengths)).index_add(0, numbers, values)


def dpo_loss(
    policy_chosen: Tensor,
    policy_rejected: Tensor,
    reference_chosen: Tensor,
    reference_rejected: Tensor,
    beta: float,
    *,
    sft_weight: float = 0.0,
    chosen_means: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The mean loss over pairs, and the rewards of both answers.

    Args:
        policy_chosen, policy_rejected: (num_pairs,) log-probabilities by the model in training.
        reference_chosen, reference_rejected: the same by the reference.
        beta: how strongly the reference is held.
        sft_weight: of the log-probability of the chosen answer, which is added to the loss.
        chosen_means: (num_pairs,), that log-probability as a mean over the answer's tokens; needed
            with `sft_weight`.

    Returns:
        A scalar, and beta * (policy - reference) of the chosen and of the rejected answers, without
        gradients: (num_pairs,).

    Raises:
        ValueError: `sft_weight` is given without `chosen_means`.
    """
    rewards_chosen = beta * (policy_chosen - reference_chosen)
    rewards_rejected = beta * (policy_rejected - reference_rejected)
    losses = -F.logsigmoid(rewards_chosen - rewards_rejected)
    if sft_weight:
        if chosen_means is None:
            raise ValueError("sft_weight needs chosen_means, the mean log-probability per token.")
        losses = losses - sft_weight * chosen_means
    return losses.mean(), rewards_chosen.detach(), rewards_rejected.detach()
