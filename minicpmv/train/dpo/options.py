"""Everything that `minicpmv train dpo` can be told. Imports no torch."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

from minicpmv.errors import ArgumentError
from minicpmv.train.flags import TrainingFlags
from minicpmv.train.options import given, option


@dataclasses.dataclass
class DpoOptions(TrainingFlags):
    """Options of a training on preferences; see the help texts."""

    LEARNING_RATES: ClassVar[Mapping[str, float]] = {"lora": 1e-5, "full": 5e-7, "small": 5e-6}

    learning_rate: float = option(
        0.0,
        "the highest learning rate",
        least=0,
        shown="1e-5 with adapters, 5e-7 without, 5e-6 without below 100 million parameters",
    )
    epochs: float = option(
        1.0, "times that every pair is seen", above=0, aliases=("num_train_epochs",)
    )
    warmup: float = option(
        0.05,
        "share of the steps until the full learning rate; from 1 on, their number",
        least=0,
        aliases=("warmup_ratio", "warmup_steps"),
    )
    weight_decay: float = option(0.01, "of matrices", least=0)
    lora_dropout: float = option(0.0, "share of their inputs that is left out", least=0)

    beta: float = option(
        0.1,
        "how strongly the model is held at where it began",
        above=0,
        aliases=("dpo_beta",),
    )
    sft_weight: float = option(
        0.0, "weight of the mean log-probability of the chosen answer, added to the loss", least=0
    )
    ddpo: bool = option(False, "give corrected spans of the answers more weight (DDPO)")
    ddpo_gamma: float = option(5.0, "their weight", least=1, aliases=("dpo_token_weight",))
    ddpo_average: bool = option(True, "divide by the sum of weights", aliases=("dpo_use_average",))

    def check(self) -> None:
        """Raise ArgumentError for a value out of its range, or one without effect."""
        super().check()
        named = given(self)
        for name in ("ddpo_gamma", "ddpo_average"):
            default = next(f.default for f in dataclasses.fields(self) if f.name == name)
            if name in named and not self.ddpo and getattr(self, name) != default:
                raise ArgumentError(f"`{name}` has no effect without `ddpo`.")
