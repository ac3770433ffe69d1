"""Training on preferences from options to a folder, as `minicpmv train dpo` does."""

from functools import partial
from typing import Any

from ...data.prepared import Prepared
from ..sft.run import carry_out
from ..sft.tuning import FineTuning, Result
from .options import DpoOptions
from .pairs import plan_pairs
from .trainer import PreferenceTuner


def run(options: DpoOptions) -> Result | None:
    """Train as the options say.

    Raises:
        DataError: rows have faults.
        ValueError, OSError: something else is wrong, in one line.
    """
    options.check()
    return carry_out(PreferenceTuning(options))


class PreferenceTuning(FineTuning):
    """One run on pairs of answers in its folder."""

    is_preference = True
    options: DpoOptions

    def planned(self, prepared: Prepared, group: int) -> list[list[int]]:
        """Which examples stand in which row; both answers of a pair in the same."""
        one_pair = not self.is_packed and self.options.batch == 1
        capacity = 1 if one_pair else self.capacity
        return plan_pairs(prepared.lengths, capacity, seed=self.options.seed, group=group)

    def settle(self) -> None:
        super().settle()
        self.trainer_class: Any = partial(
            PreferenceTuner,
            dpo=self.options,
            folder=self.folder,
            keys=(self._key(self.prepared), self._key(self.eval_prepared)),
            capacity=self.capacity,
        )

    def _key(self, prepared: Prepared | None) -> Any:
        """What the reference's log-probabilities depend on."""
        if prepared is None:
            return None
        options = self.options
        return {
            "examples": prepared.about["key"],
            "model": options.model,
            "revision": self.checkpoint.commit,
            "adapter": options.adapter,
            "dtype": str(self.precision.dtype).removeprefix("torch."),
            "qlora": options.qlora,
        }


__all__ = ["PreferenceTuning", "run"]
