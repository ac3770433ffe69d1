"""The training tokens of the text models as two released preprocessings made them.

`minicpmv train sft` takes `data.encode` instead, whose tokens are those of inference. These are for
who has to repeat a training of 2024 to the token.

    head        <s> + each message by the chat template, alone + </s>
    early2024   <s> + markers of the role + the message's own tokens, for each message, + </s>

In both, tokens begin anew at each message, so that they differ from those of the whole text.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

IGNORED = -100
Variant = Literal["head", "early2024"]
Array = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, eq=False)
class ReleasedExample:
    """One conversation, padded on the right with the end of text: (max_length,) int64 each.

    Fields:
        input_ids: tokens.
        label_ids: the same where they are trained, -100 elsewhere; not shifted.
        attention_mask: 0 at padding.
    """

    input_ids: Array
    label_ids: Array
    attention_mask: Array


def released_example(
    tokenizer: Any,
    messages: Sequence[Mapping[str, str]],
    max_length: int,
    variant: Variant = "head",
    markers: Mapping[str, Sequence[int]] | None = None,
) -> ReleasedExample:
    """Encode a conversation as a released script did.

    Args:
        messages: each with `role` and `content`.
        max_length: longer conversations are cut, shorter ones are padded.
        variant: "head" trains the answers; "early2024" every message that is not a user's.
        markers: of "early2024": tokens before the messages of a "user" and of an "assistant".

    Raises:
        ValueError: the variant is not known, or its markers are missing.
    """
    if variant not in ("head", "early2024"):
        raise ValueError(f"variant is {variant!r}; it is 'head' or 'early2024'.")
    ids: list[int] = [tokenizer.bos_token_id]
    labels = [IGNORED]
    for message in messages:
        if variant == "head":
            text = tokenizer.apply_chat_template([dict(message)], tokenize=False)
            before: list[int] = []
            content = tokenizer(text, add_special_tokens=False)["input_ids"]
            is_trained = message["role"] == "assistant"
        else:
            if markers is None:
                raise ValueError("'early2024' needs markers={'user': ids, 'assistant': ids}.")
            is_trained = message["role"] != "user"
            before = list(markers["assistant" if is_trained else "user"])
            content = tokenizer(message["content"], add_special_tokens=False)["input_ids"]
        ids += [*before, *content]
        labels += [IGNORED] * len(before)
        labels += content if is_trained else [IGNORED] * len(content)
    end = tokenizer.eos_token_id
    ids, labels = [*ids, end][:max_length], [*labels, end][:max_length]
    padding = max_length - len(ids)
    return ReleasedExample(
        np.array(ids + [end] * padding, np.int64),
        np.array(labels + [IGNORED] * padding, np.int64),
        np.array([1] * len(ids) + [0] * padding, np.int64),
    )
