"""Replay of what training reads of the text models: tokens, gradients, routers, preferences."""

import copy
from functools import cached_property
from typing import Any

import torch

from minicpmv.data.released_text import ReleasedExample, released_example
from minicpmv.model.loss import token_logprobs
from minicpmv.model.moe import balance_loss, route
from minicpmv.train.dpo.loss import dpo_loss, sequence_logprobs
from minicpmv.train.schedules import warmup_stable_decay

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


class Preprocessing(TextModel):
    """A conversation to tokens and labels, by two released scripts."""

    kinds = ("sft_preprocess",)

    @cached_property
    def example(self) -> ReleasedExample:
        return released_example(
            self.tokenizer,
            self.given("messages"),
            self.given("model_max_length"),
            self.given("variant"),
            self.given("chat_marker_ids"),
        )

    @compares("input_ids|label_ids|attention_mask")
    def ids(self, name: str, recorded: torch.Tensor) -> None:
        self.check.equal(name, getattr(self.example, name).tolist(), recorded.tolist())


class PreferenceLoss(TextModel):
    """DPO with means over all tokens, of two pairs whose rows stand one behind another."""

    kinds = ("dpo_loss",)

    @cached_property
    def reference(self) -> Any:
        model = copy.deepcopy(self.model)
        weights = dict(model.named_parameters())
        for name, change in self.given("reference_transform").items():
            weights[name].data *= float(change.removeprefix("*"))
        return model

    @torch.no_grad()
    def logps(self, model: Any, answer: str) -> torch.Tensor:
        ids = self.given(f"{answer}_input_ids")
        mask = self.given(f"{answer}_attention_mask")
        hidden = model.model(input_ids=ids, attention_mask=mask).last_hidden_state
        is_token = mask.bool()
        targets = torch.full_like(ids, -100)
        targets[:, :-1] = ids[:, 1:].where(is_token[:, 1:], -100)
        targets = targets[is_token]
        values = token_logprobs(
            hidden[is_token], model.lm_head, targets, scaling=model.config.logits_scaling
        )
        borders = torch.nn.functional.pad(mask.sum(1).cumsum(0), (1, 0))
        return sequence_logprobs(values, borders, targets, average="all")

    @cached_property
    def found(self) -> dict[str, torch.Tensor]:
        answers = ("chosen", "rejected")
        policy = [self.logps(self.model, answer) for answer in answers]
        reference = [self.logps(self.reference, answer) for answer in answers]
        loss, chosen, rejected = dpo_loss(*policy, *reference, self.given("beta"))
        return {
            "policy_chosen_logps": policy[0],
            "policy_rejected_logps": policy[1],
            "reference_chosen_logps": reference[0],
            "reference_rejected_logps": reference[1],
            "loss": loss,
            "accuracy": (chosen > rejected).float().mean(),
        }

    @compares("(?:policy|reference)_(?:chosen|rejected)_logps|loss|accuracy")
    def value(self, name: str, recorded: torch.Tensor) -> None:
        self.close(name, self.found[name], recorded)


class Schedule(TextModel):
    kinds = ("wsd_schedule",)

    @compares("lr")
    def rates(self, name: str, recorded: list[float]) -> None:
        found = [
            warmup_stable_decay(
                step,
                warmup_steps=self.given("warmup_steps"),
                stable_end=self.given("stable_end"),
                half_life=self.given("half_life_T"),
                max_lr=self.given("max_lr"),
            )
            for step in self.given("steps")
        ]
        self.check.close(
            name, torch.tensor(found).double(), torch.tensor(recorded), self.case.tolerance
        )
