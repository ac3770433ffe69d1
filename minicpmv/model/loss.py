"""The head and its loss in tiles: logits exist for some tens to hundreds of tokens at a time, and
only where a target is.

With a vocabulary of 150,000 words the logits of 2,048 tokens are 1.2 GB in float32, and the loss
needs them several times over. Here each tile's gradient is computed beside its loss, in place in
the tile, so that no second pass over the head is needed and nothing of the size of the logits is
kept. The idea is that of Liger's fused linear cross-entropy (arXiv 2410.10989).
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

IGNORED = -100  # as in torch.nn.functional.cross_entropy

BUFFER_BYTES = 64 << 20
ACCELERATOR_BUFFER_BYTES = 256 << 20  # smaller tiles would wait for the head's weights


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor | nn.Module,
    targets: Tensor,
    *,
    scaling: float = 1.0,
    num_items: int | Tensor | None = None,
    weights: Tensor | None = None,
    buffer_bytes: int = BUFFER_BYTES,
) -> Tensor:
    """Cross-entropy of `hidden / scaling @ weight.T` with `targets`, a float32 scalar.

    Args:
        hidden: (n, hidden).
        weight: (vocab, hidden), or the head itself, which may be an adapter or hold few bits.
        targets: (n,), the token to emit after each place; -100 for none.
        num_items: what the sum is divided by; None: the number of targets.
        weights: (n,), factors of the targets' losses; None: 1.
        buffer_bytes: memory for the logits of a tile.
    """
    hidden, targets, weights = _trained_rows(hidden, targets, weights)
    factors = torch.ones_like(targets, dtype=torch.float32) if weights is None else weights.float()
    if num_items is None:
        num_items = max(1, len(targets))
    elif isinstance(num_items, Tensor):
        num_items = num_items.to(factors.device)
    factors = factors / num_items
    plain = _plain_weight(weight)
    if plain is None:
        assert isinstance(weight, nn.Module)
        losses = -_logprobs_of_module(weight, hidden, targets, scaling, buffer_bytes)
        return (losses * factors).sum()
    product = _Product(scaling, _product_dtype(hidden), buffer_bytes)
    loss: Any = _CrossEntropy.apply(hidden, plain, targets, factors, product)
    return loss


def token_logprobs(
    hidden: Tensor,
    weight: Tensor | nn.Module,
    targets: Tensor,
    *,
    scaling: float = 1.0,
    buffer_bytes: int = BUFFER_BYTES,
) -> Tensor:
    """Natural logarithms of the probabilities of `targets`: (n,) float32, 0 where there is none.

    Differentiable in `hidden` and `weight`; the backward pass computes the logits again. Arguments
    as of `linear_cross_entropy`.
    """
    rows, wanted, _ = _trained_rows(hidden, targets, None)
    plain = _plain_weight(weight)
    if plain is None:
        assert isinstance(weight, nn.Module)
        values: Any = _logprobs_of_module(weight, rows, wanted, scaling, buffer_bytes)
    else:
        product = _Product(scaling, _product_dtype(hidden), buffer_bytes)
        values = _LogProbabilities.apply(rows, plain, wanted, product)
    if len(wanted) == len(targets):
        return values
    places = (targets != IGNORED).nonzero()[:, 0]
    return values.new_zeros(len(targets)).index_put((places,), values)


def loss_of_head(
    head: nn.Module,
    hidden: Tensor,
    shift_labels: Tensor,
    *,
    scaling: float,
    num_items: int | Tensor | None,
    weights: Tensor | None,
    per_token: bool = False,
) -> Tensor:
    """`linear_cross_entropy` of whole batches.

    Args:
        hidden: (batch, seq, hidden); shift_labels, weights: (batch, seq).
        per_token: give the loss of each token, (batch, seq), instead of their sum.

    Raises:
        ValueError: shapes differ.
    """
    for name, given in (("shift_labels", shift_labels), ("loss_weights", weights)):
        if given is not None and given.shape != hidden.shape[:2]:
            raise ValueError(
                f"{name} has shape {tuple(given.shape)}; expected {tuple(hidden.shape[:2])}, one "
                "per token."
            )
    if per_token:
        targets = shift_labels.flatten().to(hidden.device)
        values = token_logprobs(hidden.flatten(0, 1), head, targets, scaling=scaling)
        return -values.view(shift_labels.shape)
    return linear_cross_entropy(
        hidden.flatten(0, 1),
        head,
        shift_labels.flatten().to(hidden.device),
        scaling=scaling,
        num_items=num_items,
        weights=None if weights is None else weights.flatten().to(hidden.device),
        buffer_bytes=BUFFER_BYTES if hidden.device.type == "cpu" else ACCELERATOR_BUFFER_BYTES,
    )


class _Product(NamedTuple):
    """How the logits are computed, a tile at a time."""

    scaling: float
    dtype: torch.dtype
    buffer_bytes: int


class _CrossEntropy(torch.autograd.Function):
    """Loss and, in the same pass, its gradients; the backward pass multiplies them."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        factors: Tensor,
        product: _Product,
    ) -> Tensor:
        values, *gradients = _tile_by_tile(
            hidden, weight, targets, product, factors, ctx.needs_input_grad[:2]
        )
        ctx.save_for_backward(*gradients)
        return -(values * factors).sum()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Any, ...]:
        grad_hidden, grad_weight = ctx.saved_tensors
        grad = grads[0]
        if grad_hidden is not None:
            grad_hidden = grad_hidden * grad.to(grad_hidden.dtype)
        # On a CPU, where looking costs nothing, spare the copy of a table of 2 GB.
        if grad_weight is not None and not (grad.device.type == "cpu" and grad.item() == 1):
            grad_weight = grad_weight * grad.to(grad_weight.dtype)
        return grad_hidden, grad_weight, None, None, None


class _LogProbabilities(torch.autograd.Function):
    """Logarithms of probabilities; the backward pass, which alone knows their gradients, computes
    the tiles again."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, product: _Product
    ) -> Tensor:
        ctx.save_for_backward(hidden, weight, targets)
        ctx.product = product
        return _tile_by_tile(hidden, weight, targets, product)[0]

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Any, ...]:
        hidden, weight, targets = ctx.saved_tensors
        factors = -grads[0].float()
        _, grad_hidden, grad_weight = _tile_by_tile(
            hidden, weight, targets, ctx.product, factors, ctx.needs_input_grad[:2]
        )
        return grad_hidden, grad_weight, None, None


def _tile_by_tile(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    product: _Product,
    factors: Tensor | None = None,
    wanted: Sequence[bool] = (False, False),
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The head, its softmax and, from the same logits, gradients.

    Args:
        factors: (n,), of the cross-entropies whose sum is differentiated; None where no gradient is
            wanted.
        wanted: whether gradients of `hidden` and of `weight` are.

    Returns:
        Logarithms of the targets' probabilities, (n,) float32; the two gradients, None where not
        wanted.
    """
    scaling, dtype, buffer_bytes = product
    values = torch.empty(len(targets), device=hidden.device)
    gradients = _Gradients(hidden, weight, scaling, wanted)
    with torch.autocast(hidden.device.type, enabled=False):
        table = weight.detach().to(dtype)
        for rows in _tiles(len(targets), len(weight), buffer_bytes, dtype):
            states = _scaled(hidden[rows], scaling, dtype)
            logits = F.linear(states, table).float()
            picked, largest, total = _softmax_(logits, targets[rows])
            values[rows] = picked - largest - total.log()
            if factors is not None and any(wanted):
                _derivative_(logits, targets[rows], factors[rows], total)
                gradients.add(rows, logits.to(dtype), states, table)
            del logits  # before the next tile's are made
    return values, gradients.hidden, gradients.weight


class _Gradients:
    """Gradients of hidden states and of the head, tile by tile; None where not wanted."""

    def __init__(self, hidden: Tensor, weight: Tensor, scaling: float, wanted: Sequence[bool]):
        self.scaling = scaling
        self.hidden = torch.empty_like(hidden) if wanted[0] else None
        self.weight = torch.zeros_like(weight) if wanted[1] else None

    def add(self, rows: slice, grad: Tensor, states: Tensor, table: Tensor) -> None:
        """
        Args:
            grad: of the logits, (rows, vocab); states: (rows, hidden), scaled; table: the head.
        """
        if self.hidden is not None:
            part = F.linear(grad, table.t())
            self.hidden[rows] = part / self.scaling if self.scaling != 1 else part
        if self.weight is not None:
            if grad.dtype == self.weight.dtype:
                self.weight.addmm_(grad.t(), states)
            else:
                self.weight += grad.t() @ states


def _tiles(
    num_rows: int, vocab_size: int, buffer_bytes: int, dtype: torch.dtype
) -> Iterator[slice]:
    # Logits in float32; and as they come from a product of fewer bits, or go back into one.
    width = 4 if dtype == torch.float32 else 4 + dtype.itemsize
    step = max(16, buffer_bytes // (width * vocab_size))
    return (slice(start, start + step) for start in range(0, num_rows, step))


def _scaled(states: Tensor, scaling: float, dtype: torch.dtype) -> Tensor:
    """Hidden states as the head takes them."""
    return (states / scaling if scaling != 1 else states).to(dtype)


def _softmax_(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Turn `logits` into exp(logits - largest) in place.

    Returns:
        The targets' logits, the largest of each row, and the sums of the exponentials: (rows,).
    """
    picked = logits.gather(1, targets[:, None])[:, 0]
    largest = logits.amax(dim=1)
    logits.sub_(largest[:, None]).exp_()
    return picked, largest, logits.sum(dim=1)


def _derivative_(exps: Tensor, targets: Tensor, factors: Tensor, total: Tensor) -> None:
    """Turn exponentials into the gradient of `factors` * cross-entropy, in place."""
    exps.mul_((factors / total)[:, None])
    exps.scatter_add_(1, targets[:, None], -factors[:, None])


def _trained_rows(
    hidden: Tensor, targets: Tensor, weights: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """All three without the rows that have no target."""
    is_target = targets != IGNORED
    if bool(is_target.all()):
        return hidden, targets.long(), weights
    rows = is_target.nonzero()[:, 0]
    return hidden[rows], targets[rows].long(), None if weights is None else weights[rows]


def _product_dtype(hidden: Tensor) -> torch.dtype:
    device = hidden.device.type
    if torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return hidden.dtype


def _plain_weight(head: Tensor | nn.Module) -> Tensor | None:
    """The table of a head that is nothing but a table; None: the module has to be called."""
    if isinstance(head, Tensor):
        return head
    if (
        type(head) is not nn.Linear
        or head.bias is not None
        or "forward" in head.__dict__  # a hook of accelerate
        or head._forward_hooks
        or head._forward_pre_hooks
        or _is_sharded(head)
    ):
        return None
    weight = head.weight
    return weight if type(weight) in (Tensor, nn.Parameter) else None


def _is_sharded(head: nn.Module) -> bool:
    """Whether the head's weights are spread over processes (FSDP2, ZeRO-3)."""
    return any(
        type(weight).__name__ == "DTensor" or getattr(weight, "ds_id", None) is not None
        for weight in head.parameters()
    )


def _logprobs_of_module(
    head: nn.Module, hidden: Tensor, targets: Tensor, scaling: float, buffer_bytes: int
) -> Tensor:
    """As `token_logprobs`, through the module: (n,)."""

    def part(states: Tensor, wanted: Tensor) -> Tensor:
        logits = head(states / scaling if scaling != 1 else states).float()
        return -F.cross_entropy(logits, wanted, reduction="none")

    # All processes have to gather a sharded head equally often, whatever their targets are.
    vocab_size: Any = getattr(head, "out_features", None)
    steps: Any = [slice(None)]
    if vocab_size and len(targets) and not _is_sharded(head):
        steps = _tiles(len(targets), vocab_size, buffer_bytes, hidden.dtype)
    values = [checkpoint(part, hidden[rows], targets[rows], use_reentrant=False) for rows in steps]
    return torch.cat(values)


__all__ = ["BUFFER_BYTES", "IGNORED", "linear_cross_entropy", "loss_of_head", "token_logprobs"]
