"""The mixture of experts of MiniCPM-MoE-8x2B: eight MLPs, two of them for each token."""

import torch
from torch import nn
from transformers.activations import ACT2FN
from transformers.utils.import_utils import is_tracing

from .configuration_minicpm import MiniCPMConfig


class MiniCPMExpert(nn.Module):
    """An MLP in the names of the released mixture: w1 is the gate, w3 goes up, w2 down."""

    def __init__(self, config: MiniCPMConfig):
        super().__init__()
        self.activation = ACT2FN[config.hidden_act]
        self.w1 = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.w2 = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)
        self.w3 = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.w2(self.activation(self.w1(hidden_states)) * self.w3(hidden_states))


class MiniCPMMoE(nn.Module):
    """A router and its experts. No token is dropped, whatever the load."""

    def __init__(self, config: MiniCPMConfig):
        super().__init__()
        self.top_k = config.num_experts_per_tok
        self.num_experts = config.num_experts
        self.gate = nn.Linear(config.hidden_size, config.num_experts, bias=False)
        self.experts = nn.ModuleList(MiniCPMExpert(config) for _ in range(config.num_experts))

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        tokens = hidden_states.flatten(0, -2)  # (num_tokens, hidden)
        weights, chosen = route(self.gate(tokens), self.top_k)
        mix = self._mix_of_all if is_tracing(tokens) else self._mix_of_chosen
        return mix(tokens, weights, chosen).view(hidden_states.shape)

    def _mix_of_chosen(
        self, tokens: torch.Tensor, weights: torch.Tensor, chosen: torch.Tensor
    ) -> torch.Tensor:
        """Each expert on its own tokens. How many those are is read back once for all experts."""
        slots = chosen.flatten()  # (num_tokens * top_k), the expert of each slot
        order = slots.argsort(stable=True)
        experts = torch.arange(self.num_experts, device=slots.device)
        counts = (slots[:, None] == experts).sum(dim=0).tolist()
        outputs = [
            expert(chunk)
            for expert, chunk in zip(
                self.experts, tokens[order // self.top_k].split(counts), strict=True
            )
            # Trained on several devices, every expert must take its turn on each of them.
            if len(chunk) or self.training
        ]
        by_slot = torch.cat(outputs)[order.argsort()].view(*chosen.shape, -1)
        return (by_slot * weights[..., None].to(by_slot.dtype)).sum(dim=1)

    def _mix_of_all(
        self, tokens: torch.Tensor, weights: torch.Tensor, chosen: torch.Tensor
    ) -> torch.Tensor:
        """Each expert on all tokens, for a graph, whose shapes may not depend on the routing:
        more arithmetic, nothing read back, the same sums."""
        mixed = torch.zeros_like(tokens)
        for index, expert in enumerate(self.experts):
            is_chosen = chosen == index  # (num_tokens, top_k)
            weight = (weights * is_chosen).sum(dim=-1, keepdim=True)
            output = expert(tokens)
            output = output * weight.to(output.dtype)
            mixed = mixed + output.where(is_chosen.any(dim=-1, keepdim=True), 0.0)
        return mixed


def route(router_logits: torch.Tensor, top_k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The experts of each token and their weights, which sum to 1, in float32.

    Args:
        router_logits: (num_tokens, num_experts).

    Returns:
        Weights and indices of experts, each (num_tokens, top_k), most probable first.
    """
    probabilities = router_logits.softmax(dim=-1, dtype=torch.float32)
    weights, chosen = probabilities.topk(top_k, dim=-1)
    return weights / weights.sum(dim=-1, keepdim=True), chosen


def balance_loss(
    router_logits: tuple[torch.Tensor, ...],
    top_k: int,
    attention_mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Load-balancing auxiliary loss: 1 per layer when experts are evenly busy, more when not.

    Per layer, the sum over experts of (mean probability) x (share of the slots), times their
    number. Padding does not count.

    Args:
        router_logits: per layer (num_tokens, num_experts).
        attention_mask: (batch, seq), 0 at padding; its last columns are the tokens.
    """
    losses = []
    for logits in router_logits:
        num_tokens, num_experts = logits.shape
        probabilities = logits.softmax(dim=-1, dtype=torch.float32)
        load = torch.zeros_like(probabilities)
        load = load.scatter(1, probabilities.topk(top_k, dim=-1).indices, 1 / top_k)
        if attention_mask is None:
            shares, load = probabilities.mean(dim=0), load.mean(dim=0)
        else:
            seq = num_tokens // len(attention_mask)
            mask = attention_mask[:, -seq:].flatten().to(probabilities)
            mask = mask[:, None] / mask.sum()
            shares, load = (probabilities * mask).sum(dim=0), (load * mask).sum(dim=0)
        losses.append(num_experts * (shares * load).sum())
    return torch.stack([loss.to(losses[0].device) for loss in losses]).sum()


__all__ = ["MiniCPMExpert", "MiniCPMMoE", "balance_loss", "route"]
