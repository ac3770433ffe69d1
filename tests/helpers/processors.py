"""Processors of the recorded checkpoints, shared: a test that changes one makes its own."""

from functools import lru_cache

import minicpmv.auto  # noqa: F401
from minicpmv.processing import MiniCPMVProcessor

from .golden import CHECKPOINTS


@lru_cache
def golden_processor(version: str, compat: str | None = None) -> MiniCPMVProcessor:
    """The processor of the golden checkpoint of that release."""
    return MiniCPMVProcessor.from_pretrained(CHECKPOINTS[version], compat=compat)


def inputs_of(processor, conversation, add_generation_prompt=True, **processor_kwargs):
    return processor.apply_chat_template(
        conversation,
        add_generation_prompt=add_generation_prompt,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs=processor_kwargs,
    )


def user(*content) -> list[dict]:
    return [{"role": "user", "content": list(content)}]
