"""transformers' Trainer over packed rows.

What differs: rows come in the order of the plan, a step on a CPU takes the faster products, the
loss of an evaluation is the mean over tokens, and what is written are adapters with their settings
or checkpoints in the released layout.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import SequentialSampler
from transformers import Trainer

from ..step import fast_step
from .full import load_weights

Save = Callable[[Any, Path, "dict[str, Tensor] | None"], None]


class FineTuner(Trainer):
    """Trains on the rows of a plan; a subclass may have another `compute_loss`.

    Args:
        eval_collator: of the rows of the evaluation, which are another file's.
        save: writes the model, or its adapter, to a folder: (model, folder, state), where `state`
            holds the weights when they are spread over processes.
        rate: the share of the learning rate in a step: (step, num_steps=), from 0; None: as the
            arguments say.
        options: of transformers' Trainer: model, args, train_dataset, eval_dataset, data_collator,
            callbacks.

    Attributes:
        num_tokens: that this process has trained on in this session.
    """

    def __init__(
        self,
        *,
        save: Save,
        eval_collator: Any = None,
        rate: Callable[..., float] | None = None,
        **options: Any,
    ) -> None:
        self.num_tokens = 0
        self.rate = rate
        self.save_to = save
        self.eval_collator = eval_collator
        super().__init__(**options)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        # The dataset itself puts its rows in another order in each epoch.
        return SequentialSampler(self.train_dataset)

    def _get_eval_sampler(self, eval_dataset: Any) -> Any:
        return SequentialSampler(eval_dataset)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        if self.rate is None or self.lr_scheduler is not None:
            return super().create_scheduler(num_training_steps, optimizer)
        rate = partial(self.rate, num_steps=num_training_steps)
        self.lr_scheduler: Any = LambdaLR(optimizer or self.optimizer, rate)
        self._created_lr_scheduler = True
        return self.lr_scheduler

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> Tensor:
        mask = inputs.get("attention_mask")
        self.num_tokens += int(inputs["input_ids"].numel() if mask is None else mask.sum())
        is_spread = self.is_fsdp_enabled or self.is_deepspeed_enabled  # with dtypes of their own
        autocast = (self.args.bf16 or self.args.fp16) and not is_spread
        with fast_step(model, autocast=autocast):
            loss: Tensor = super().training_step(model, inputs, num_items_in_batch)
        return loss

    @torch.no_grad()
    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: Any = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """The mean loss over the trained tokens of the evaluation's rows, in nats."""
        model = self.model_wrapped
        was_training = model.training
        model.eval()
        totals = torch.zeros(2, dtype=torch.float64)
        for batch in self._eval_batches(eval_dataset):
            totals += self.loss_sums(model, self._prepare_inputs(batch))
        model.train(was_training)
        if self.args.world_size > 1:
            gathered: Any = self.accelerator.gather(totals[None].to(self.args.device, torch.float))
            totals = gathered.double().sum(dim=0).cpu()
        metrics = {f"{metric_key_prefix}_loss": float(totals[0] / max(1.0, float(totals[1])))}
        self.log(metrics)
        self.control: Any = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    def _eval_batches(self, eval_dataset: Any) -> Any:
        training: Any = self.data_collator
        self.data_collator: Any = self.eval_collator or training
        try:
            return self.get_eval_dataloader(eval_dataset)
        finally:
            self.data_collator = training

    def loss_sums(self, model: nn.Module, inputs: dict[str, Any]) -> Tensor:
        """The sum of the losses of a batch, and the number of its trained tokens: (2,)."""
        num_trained = int((inputs["shift_labels"] != -100).sum())
        if not num_trained and self.args.world_size == 1:
            return torch.zeros(2, dtype=torch.float64)
        with self.compute_loss_context_manager():
            loss = model(**inputs, num_items_in_batch=1).loss
        return torch.tensor([float(loss), num_trained], dtype=torch.float64)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        if not self.args.should_save:
            return
        folder = Path(output_dir or str(self.args.output_dir))
        self.save_to(self.accelerator.unwrap_model(self.model), folder, state_dict)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        unwrapped: Any = self.accelerator.unwrap_model(self.model)
        if hasattr(unwrapped, "peft_config"):
            load_adapter(unwrapped, Path(resume_from_checkpoint))
        else:
            load_weights(unwrapped, Path(resume_from_checkpoint))


def load_adapter(model: Any, folder: Path) -> None:
    """Put the adapter of a checkpoint into a model that is being trained, to the bit.

    Raises:
        ValueError: its tensors are not those that are trained.
    """
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    state = load_file(folder / "adapter_model.safetensors")
    result: Any = set_peft_model_state_dict(model, state)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    wrong = sorted(trained & set(result.missing_keys)) or sorted(result.unexpected_keys)
    if wrong:
        raise ValueError(
            f"{folder} does not hold what is trained ({wrong[0]}), so it was written by another "
            "run. Give another --output."
        )


__all__ = ["FineTuner", "load_adapter"]
