"""Replay of what training reads of the text models: gradients, routers, losses of preferences."""

import copy
from functools import cached_property
from typing import Any

import torch

from minicpmv.model.moe import balance_loss, route

from .replayer import compares
from .text_models import TextModel


class Gradients(TextModel):
    kinds = ("grads",)

    @cached_property
    def trained(self) -> tuple[Any, dict[str, torch.Tensor]]:
        """Output and gradients of one backward pass."""
        return backward(self, self.model.config.router_aux_loss_coef if self.has_experts else None)

    @property
    def has_experts(self) -> bool:
        return bool(getattr(self.model.config, "num_experts", 0))

    @compares("loss")
    def loss(self, name: str, recorded: torch.Tensor) -> None:
        self.close(name, self.trained[0].loss, recorded)

    @compares(r"model\..+|lm_head\..+")
    def gradient(self, name: str, recorded: torch.Tensor) -> None:
        self.close(name, self.trained[1][name], recorded)


class GradientsOfExperts(TextModel):
    """With and without the load-balancing loss; the reported loss has it not."""

    kinds = ("train_grads",)

    @cached_property
    def without_aux(self) -> tuple[Any, dict[str, torch.Tensor]]:
        return backward(self, 0.0)

    @cached_property
    def with_aux(self) -> tuple[Any, dict[str, torch.Tensor]]:
        return backward(self, 1.0)

    @compares("loss|logits_train")
    def output_in_training(self, name: str, recorded: torch.Tensor) -> None:
        output = self.without_aux[0]
        self.close(name, output.loss if name == "loss" else output.logits, recorded)

    @compares(r"grad_(with|without)_aux/(.+)")
    def gradient(self, name: str, recorded: torch.Tensor, which: str, weight: str) -> None:
        _, gradients = self.with_aux if which == "with" else self.without_aux
        self.close(name, gradients[weight], recorded)


def backward(case: TextModel, router_loss: float | None) -> tuple[Any, dict[str, torch.Tensor]]:
    model = copy.deepcopy(case.model).train()
    if router_loss is not None:
        model.config.router_aux_loss_coef = router_loss
    output = model(**case.inputs(), labels=case.given("labels"), use_cache=False)
    output.loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return output, gradients


class Router(TextModel):
    """Every mixture of the model, watched in one forward pass."""

    kinds = ("router",)

    @cached_property
    @torch.no_grad()
    def watched(self) -> tuple[Any, dict[int, tuple[torch.Tensor, torch.Tensor]]]:
        """The output; input and output of each layer's mixture."""
        seen: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        hooks = [
            layer.mlp.register_forward_hook(
                lambda module, args, output, index=index: seen.update({index: (args[0], output)})
            )
            for index, layer in enumerate(self.model.model.layers)
        ]
        try:
            return self.model(**self.inputs(), output_router_logits=True), seen
        finally:
            for hook in hooks:
                hook.remove()

    @cached_property
    def output(self) -> Any:
        return self.watched[0]

    @compares(
        r"(mlp_in|mlp_out|router_scores|topk_idx|topk_weight|balance_loss)_(\d+)",
    )
    def mixture(self, name: str, recorded: torch.Tensor, what: str, index: str) -> None:
        output, seen = self.watched
        layer, top_k = int(index), self.model.config.num_experts_per_tok
        logits = output.router_logits[layer]
        weights, chosen = route(logits, top_k)
        found = {
            "mlp_in": seen[layer][0],
            "mlp_out": seen[layer][1],
            "router_scores": logits,
            "topk_idx": chosen,
            "topk_weight": weights,
            "balance_loss": balance_loss((logits,), top_k),
        }
        self.close(name, found[what], recorded)


class MixtureBlock(TextModel):
    kinds = ("moe_block",)

    @compares("y")
    @torch.no_grad()
    def block(self, name: str, recorded: torch.Tensor) -> None:
        mixture = self.model.model.layers[self.given("layer")].mlp
        self.close(name, mixture(self.given("x")), recorded)
