"""The plugin for vLLM: its servers run the family with no remote code.

vLLM calls `register` in each of its processes before it reads a config: front end, engine, workers,
and those that inspect classes (entry point group `vllm.general_plugins`). Nothing else imports what
is in here, and nothing of vLLM is imported before it calls.

    versions.py      the versions of vLLM that this was tested with
    registration.py  which architectures are ours; 4.0 and 4.5 stay vLLM's
    settings.py      terminators, tokenizer, and what is refused before anything is loaded
    tokenizer.py     text of messages is data; a token for each picture
    renderer.py      messages to token ids
    processing.py    pictures to slices and placeholders
    model.py         slices to visual tokens, in vLLM's backend for transformers
"""


def register() -> None:
    """The entry point."""
    from .registration import register_all

    register_all()
