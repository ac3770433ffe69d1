"""A check of the logits: NaN or infinity raises, instead of choosing a token."""

import torch
from transformers.generation import LogitsProcessor

NOT_FINITE = (
    "The model's numbers are not finite (NaN or infinity), so there is no answer. Its weights are "
    "damaged, or dtype is too narrow for it: download the checkpoint again, or load it with "
    "dtype='float32'."
)


class FiniteLogits(LogitsProcessor):
    """Raises at the first row of logits with a NaN or an infinity. Put it first in the list.

    Some processors of transformers stand before it and forbid tokens with minus infinity, which is
    no fault; a row of nothing else is. The largest logit tells all of this, since NaN is larger
    than any number: one pass over the row, and one number to the host.
    """

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Scores (batch, vocabulary), as they came.

        Raises:
            ValueError: a row is not finite.
        """
        if not bool(scores.amax(dim=-1).isfinite().all()):
            raise ValueError(NOT_FINITE)
        return scores
