"""transformers' Trainer over packed pairs.

One forward pass computes both answers of several pairs; their log-probabilities come token by
token, and everything else is arithmetic on them (`loss`).
"""

from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..sft.trainer import FineTuner
from . import reference
from .loss import Average, dpo_loss, sequence_logprobs
from .options import DpoOptions
from .pairs import PairCollator, plan_pairs

_BESIDE = ("num_pairs", "borders", "reference_logps", "pair_weights")


class PreferenceTuner(FineTuner):
    """Trains on pairs of answers.

    Args:
        dpo: the options.
        folder: of the run, for the reference's log-probabilities.
        keys: what they depend on, of the training and the evaluation.
        capacity: tokens of a row, when they are computed.
        options: as of `FineTuner`.
    """

    def __init__(
        self,
        *,
        dpo: DpoOptions,
        folder: Path,
        keys: tuple[Any, Any],
        capacity: int,
        data_collator: Any,
        eval_collator: Any = None,
        **options: Any,
    ) -> None:
        self.dpo = dpo
        self.folder = folder
        self.keys = keys
        self.capacity = capacity
        self.measured: dict[str, list[float]] = defaultdict(list)
        gamma = dpo.ddpo_gamma if dpo.ddpo else None
        own_eval = eval_collator is not None and eval_collator is not data_collator
        super().__init__(
            data_collator=PairCollator(data_collator, gamma=gamma),
            eval_collator=PairCollator(eval_collator, gamma=gamma) if own_eval else None,
            **options,
        )

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Compute the reference's log-probabilities, or read them, and train."""
        collators = [(self.data_collator, "reference.npy", self.keys[0])]
        if self.eval_collator is not None:
            collators.append((self.eval_collator, "eval_reference.npy", self.keys[1]))
        for collator, name, key in collators:
            collator.reference = self._reference(collator, self.folder / name, key)
        return super().train(*args, **kwargs)

    def _reference(self, collator: Any, path: Path, key: Any) -> reference.Reference:
        """By the model as it is now, before its first step: adapters begin with no effect."""
        prepared = collator.collate.prepared
        found = reference.read(path, key, prepared.num_trained)
        if found is not None:
            return found
        model: Any = self.model
        was_training = model.training
        model.to(self.args.device).eval()

        def logprobs(batch: dict[str, Any]) -> Tensor:
            with self.accelerator.autocast():  # the model is not wrapped yet
                return self._token_logprobs(model, self._prepare_inputs(batch))

        rank, count = self.args.process_index, self.args.world_size
        # Both answers of a pair stand together, so that their pictures are encoded once.
        plan = plan_pairs(prepared.lengths, self.capacity, seed=0, group=count)
        values = reference.compute(
            logprobs, collator.collate, plan, prepared.num_trained, rank=rank, count=count
        )
        model.train(was_training)
        if count > 1:
            shared = torch.from_numpy(values).to(self.args.device)
            torch.distributed.all_reduce(shared)
            values = shared.cpu().numpy()
        if self.args.should_save:
            reference.write(path, key, values)
        return reference.Reference(values, prepared.num_trained)

    def _token_logprobs(self, model: nn.Module, inputs: dict[str, Any]) -> Tensor:
        """(num_tokens,) of a batch, 0 where there is no target."""
        given = {name: value for name, value in inputs.items() if name not in _BESIDE}
        losses: Tensor = model(**given, token_losses=True).loss
        return -losses.flatten()

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The sum over pairs, divided by the pairs of the step."""
        total, _ = self._pair_losses(model, inputs)
        num_pairs = num_items_in_batch if num_items_in_batch is not None else inputs["num_pairs"]
        loss = total / num_pairs
        if num_items_in_batch is not None and self.args.average_tokens_across_devices:
            loss = loss * self.accelerator.num_processes  # gradients are averaged over them
        return (loss, {}) if return_outputs else loss

    def _pair_losses(self, model: nn.Module, inputs: dict[str, Any]) -> tuple[Tensor, int]:
        """The sum of the losses of a batch's pairs, and their number."""
        logps = self._token_logprobs(model, inputs)
        num_pairs = int(inputs["num_pairs"])
        if not num_pairs:  # a row that fills the last step
            return logps.sum() * 0, 0
        targets = inputs["shift_labels"].flatten()
        is_target = targets != -100
        logps, targets = logps[is_target], targets[is_target]
        weights = inputs.get("pair_weights")
        average: Average = "answer" if self.dpo.ddpo and self.dpo.ddpo_average else "no"

        def sums(values: Tensor) -> tuple[Tensor, Tensor]:
            found = sequence_logprobs(
                values, inputs["borders"], targets, weights=weights, average=average
            )
            return found[0::2], found[1::2]

        policy, before = sums(logps), sums(inputs["reference_logps"])
        means = sequence_logprobs(logps, inputs["borders"], targets, average="answer")[0::2]
        loss, chosen, rejected = dpo_loss(
            *policy, *before, self.dpo.beta, sft_weight=self.dpo.sft_weight, chosen_means=means
        )
        mode = "" if model.training else "eval_"
        for name, values in (
            ("rewards/chosen", chosen),
            ("rewards/rejected", rejected),
            ("rewards/margins", chosen - rejected),
            ("rewards/accuracies", (chosen > rejected).float()),
            ("logps/chosen", means.detach()),
        ):
            self.measured[mode + name] += values.tolist()
        return loss * num_pairs, num_pairs

    def loss_sums(self, model: nn.Module, inputs: dict[str, Any]) -> Tensor:
        with self.compute_loss_context_manager():
            total, num_pairs = self._pair_losses(model, inputs)
        return torch.tensor([float(total), num_pairs], dtype=torch.float64)

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: Any) -> Any:
        num_pairs = torch.tensor(sum(batch["num_pairs"] for batch in batch_samples), device=device)
        if self.args.world_size > 1 and self.args.average_tokens_across_devices:
            num_pairs = self.accelerator.gather(num_pairs).sum()
        return num_pairs

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """With the means of this process's pairs since the last time."""
        mode = "eval_" if "eval_loss" in logs else ""
        if mode or "loss" in logs:
            for name in [n for n in self.measured if n.startswith("eval_") == bool(mode)]:
                values = self.measured.pop(name)
                logs[name] = round(sum(values) / len(values), 6)
        super().log(logs, *args, **kwargs)


__all__ = ["PreferenceTuner"]
