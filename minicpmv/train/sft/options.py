"""Everything that `minicpmv train sft` can be told. Imports no torch."""

import dataclasses

from minicpmv.train.flags import TrainingFlags


@dataclasses.dataclass
class SftOptions(TrainingFlags):
    """Options of a supervised fine-tuning; see the help texts."""
