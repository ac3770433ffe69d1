"""Validation of `generation_config.json`, and the settings that hold without one.

transformers reads the file, and goes on with its own defaults where it is cut or says what cannot
be; answers then change without a word.
"""

from typing import Any

from transformers import GenerationConfig
from transformers.utils import GENERATION_CONFIG_NAME

from ..checkpoint.fields import (
    FLAG,
    TEXT,
    TOKEN_ID,
    TOKEN_IDS,
    Rule,
    check_fields,
    count,
    damaged,
    number,
)
from ..checkpoint.files import read_json_file
from ..checkpoint.hub import Checkpoint
from ..releases import NANO_GENERATION

_SHARE = number(above=0, most=1)
_IDS = Rule(
    lambda value: isinstance(value, list) and all(map(TOKEN_ID.accepts, value)),
    "a list of token ids",
)
_LISTS_OF_IDS = Rule(
    lambda value: isinstance(value, list) and bool(value) and all(map(_IDS.accepts, value)),
    "a list of lists of token ids",
)
_RULES = {
    "_from_model_config": FLAG,
    "bad_words_ids": _LISTS_OF_IDS.or_null(),
    "begin_suppress_tokens": _IDS.or_null(),
    "bos_token_id": TOKEN_ID.or_null(),
    "do_sample": FLAG.or_null(),
    "early_stopping": Rule(
        lambda value: isinstance(value, bool) or value in (None, "never"), "true, false or 'never'"
    ),
    "eos_token_id": TOKEN_IDS.or_null(),
    "forced_bos_token_id": TOKEN_ID.or_null(),
    "forced_eos_token_id": TOKEN_IDS.or_null(),
    "guidance_scale": number(above=0).or_null(),
    "length_penalty": number().or_null(),
    "max_length": count().or_null(),
    "max_new_tokens": count().or_null(),
    "max_time": number(above=0).or_null(),
    "min_length": count(0).or_null(),
    "min_new_tokens": count(0).or_null(),
    "min_p": number(least=0, most=1).or_null(),
    "no_repeat_ngram_size": count(0).or_null(),
    "num_beams": count(most=1024).or_null(),
    "num_return_sequences": count().or_null(),
    "pad_token_id": TOKEN_ID.or_null(),
    "repetition_penalty": number(above=0).or_null(),
    "suppress_tokens": _IDS.or_null(),
    "temperature": number(least=0, most=1e6).or_null(),
    "top_k": count(0).or_null(),
    "top_p": _SHARE.or_null(),
    "transformers_version": TEXT.or_null(),
    "typical_p": _SHARE.or_null(),
    "use_cache": FLAG.or_null(),
}


def check_generation_config(checkpoint: Checkpoint) -> bool:
    """Check that the values of a checkpoint's `generation_config.json` are valid.

    Returns:
        Whether there is such a file.

    Raises:
        ValueError: names file and field.
    """
    found = checkpoint.find_file(GENERATION_CONFIG_NAME)
    if found is None:
        return False
    fields, file = read_json_file(found), repr(str(found))
    check_fields(file, fields, _RULES)
    if fields.get("do_sample") is not False and fields.get("temperature") == 0:
        raise damaged(file, "temperature", 0, "a number above 0, or do_sample false beside it")
    try:
        GenerationConfig.from_dict(dict(fields)).validate()
    except (ValueError, TypeError, AttributeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{file} cannot be used: {reason} Correct it, or remove it.") from error
    return True


def set_own_generation(model: Any) -> None:
    """Give the bundled model its settings where its `generation_config.json` is missing."""
    if getattr(model.config, "variant", None) == "nano":
        model.generation_config.update(**NANO_GENERATION)
