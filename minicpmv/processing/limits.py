"""How long a prompt may be, and whether it may be cut there."""

from collections.abc import Mapping, Sequence
from typing import Any

from .encoding import Encoded, Span


def length_limit(text_kwargs: Mapping[str, Any], tokenizer: Any) -> int | None:
    """The most tokens that a prompt may have, from `max_inp_length` and `truncation`; None: any."""
    limit = text_kwargs.get("max_inp_length")
    if limit is not None and (type(limit) is not int or limit < 1):
        raise ValueError(f"max_inp_length is {limit!r}; it must be a whole number of at least 1.")
    truncation = text_kwargs.get("truncation")
    if truncation and getattr(truncation, "value", truncation) != "do_not_truncate":
        max_length = text_kwargs.get("max_length") or tokenizer.model_max_length
        limit = max_length if limit is None else min(limit, max_length)
    return limit


def check_cut(
    index: int, prompt: Encoded, spans: Sequence[Span], limit: int, max_slice_nums: int | None
) -> None:
    """Check that cutting prompt `index` to `limit` tokens leaves every image whole."""
    last_token = prompt.tokens_before(spans[-1][1]) if spans else 0
    if last_token > limit:
        fewer = f"lower max_slice_nums (now {max_slice_nums}), " if max_slice_nums else ""
        raise ValueError(
            f"Sample {index} has {len(prompt.ids)} tokens and its last image ends at token "
            f"{last_token}, but the prompt may have {limit}; cutting there would cut an image. "
            f"Raise max_inp_length to at least {len(prompt.ids)}, {fewer}or give fewer images."
        )
