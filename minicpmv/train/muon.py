"""Muon for matrices, AdamW for the rest, on float32 master copies of bfloat16 parameters.

Muon (K. Jordan 2024) replaces the momentum of a weight matrix by the nearest orthogonal matrix, so
that every direction is learned at the same pace; on small transformers it needs about half the
samples of AdamW.
"""

from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import nn

# Coefficients of the quintic Newton-Schulz iteration; they push singular values to 0.7 ... 1.2 in
# five rounds.
_QUINTIC = (3.4445, -4.7750, 2.0315)


def orthogonalise(matrices: torch.Tensor, rounds: int = 5) -> torch.Tensor:
    """The nearest orthogonal matrices, roughly; (count, rows, cols), computed in bfloat16."""
    a, b, c = _QUINTIC
    x = matrices.bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT.contiguous()
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(rounds):
        gram = x @ x.mT
        # Fused, a third of the time on CPU: x = a x + (b gram + c gram gram) x.
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, polynomial, x, beta=a)
    return x.mT if tall else x


class MuonAdamW:
    """Steps `matrices` by Muon and `others` by AdamW.

    Args:
        matrices: parameters of two dimensions; others: everything else.
        learning_rate: of Muon; `adam_learning_rate` of AdamW.
        weight_decay: of the matrices.
        slow: numbers of those among `others` that take only a tenth of AdamW's rate.
        max_norm: longest gradient, over all parameters together.
    """

    def __init__(
        self,
        matrices: Sequence[nn.Parameter],
        others: Sequence[nn.Parameter],
        *,
        learning_rate: float,
        adam_learning_rate: float,
        weight_decay: float,
        slow: Collection[int] = (),
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.95),
        max_norm: float = 1.0,
    ) -> None:
        self.matrices: list[torch.Tensor] = list(matrices)
        self.others: list[torch.Tensor] = list(others)
        self.learning_rate, self.adam_learning_rate = learning_rate, adam_learning_rate
        self.weight_decay, self.momentum, self.betas = weight_decay, momentum, betas
        self.max_norm = max_norm
        self.shares = [0.1 if i in slow else 1.0 for i in range(len(self.others))]
        self.num_steps = 0
        parameters = self.parameters
        self.masters = [p.detach().float().clone() for p in parameters]
        self.first = [torch.zeros_like(master) for master in self.masters]
        self.second = [torch.zeros_like(m) for m in self.masters[len(self.matrices) :]]

    @property
    def parameters(self) -> list[torch.Tensor]:
        """All that is stepped."""
        return self.matrices + self.others

    @torch.no_grad()
    def step(self, scale: float) -> float:
        """One step with both learning rates times `scale`; clears the gradients and returns their
        norm.
        """
        self.num_steps += 1
        split = len(self.matrices)
        parameters = self.parameters
        gradients = [
            torch.zeros_like(master) if p.grad is None else p.grad.float()
            for p, master in zip(parameters, self.masters, strict=True)
        ]
        norm = float(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients))))
        torch._foreach_mul_(gradients, min(1.0, self.max_norm / (norm + 1e-6)))
        self._step_matrices(gradients[:split], self.learning_rate * scale)
        if self.others:
            self._step_others(gradients[split:], self.adam_learning_rate * scale)
        torch._foreach_copy_(parameters, self.masters)
        for parameter in parameters:
            parameter.grad = None
        return norm

    def _step_matrices(self, gradients: list[torch.Tensor], rate: float) -> None:
        if not gradients:
            return
        moments = self.first[: len(gradients)]
        torch._foreach_lerp_(moments, gradients, 1 - self.momentum)
        ahead = torch._foreach_lerp(gradients, moments, self.momentum)  # Nesterov
        # Matrices of one shape are orthogonalised together.
        by_shape: dict[torch.Size, list[tuple[torch.Tensor, torch.Tensor]]] = defaultdict(list)
        for master, update in zip(self.masters, ahead, strict=False):
            by_shape[update.shape].append((master, update))
        for (rows, cols), pairs in by_shape.items():
            updates = orthogonalise(torch.stack([update for _, update in pairs])).float()
            masters = [master for master, _ in pairs]
            torch._foreach_mul_(masters, 1 - rate * self.weight_decay)
            step = rate * max(1.0, rows / cols) ** 0.5
            torch._foreach_add_(masters, list(updates.unbind()), alpha=-step)

    def _step_others(self, gradients: list[torch.Tensor], rate: float) -> None:
        split = len(self.matrices)
        masters, first, second = self.masters[split:], self.first[split:], self.second
        beta1, beta2 = self.betas
        torch._foreach_lerp_(first, gradients, 1 - beta1)
        torch._foreach_mul_(second, beta2)
        torch._foreach_addcmul_(second, gradients, gradients, 1 - beta2)
        root = torch._foreach_div(second, 1 - beta2**self.num_steps)
        torch._foreach_sqrt_(root)
        torch._foreach_add_(root, 1e-8)
        steps = [-rate * share / (1 - beta1**self.num_steps) for share in self.shares]
        torch._foreach_addcdiv_(masters, first, root, steps)

    def state_dict(self) -> dict[str, Any]:
        return {
            "num_steps": self.num_steps,
            "masters": self.masters,
            "first": self.first,
            "second": self.second,
        }

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.num_steps = state["num_steps"]
        for name in ("masters", "first", "second"):
            torch._foreach_copy_(getattr(self, name), state[name])
        torch._foreach_copy_(self.parameters, self.masters)
