"""The ids of a checkpoint's visual tags, read from the small files of its tokenizer.

For models that are loaded without a processor: transformers' own code, and engines, look for the
placeholder of pictures in `config.image_token_id`.
"""

from collections.abc import Collection
from typing import Any

from .files import read_json_file
from .hub import Checkpoint

# Field of the config, name of the tag in `preprocessor_config.json`, and the tag of the releases.
TAGS = {
    "image_token_id": ("unk", "<unk>"),
    "image_start_id": ("im_start", "<image>"),
    "image_end_id": ("im_end", "</image>"),
    "slice_start_id": ("slice_start", "<slice>"),
    "slice_end_id": ("slice_end", "</slice>"),
}


def fields_of(release: Any) -> list[str]:
    """The fields that pictures of a release need: those of slices only where pictures are cut."""
    return [field for field in TAGS if release.slicing == "adaptive" or "slice" not in field]


def read_token_ids(checkpoint: Checkpoint, release: Any) -> dict[str, int]:
    """Ids of the tags of a release, by field of the config; without those that are not found.

    Args:
        release: the row of the model.
    """
    settings = _content(checkpoint, "preprocessor_config.json")
    tags = {}
    for field in fields_of(release):
        name, usual = TAGS[field]
        tags[field] = settings.get(name, release.tags.get(name, usual))
    ids = added_token_ids(checkpoint, tags.values())
    return {field: ids[tag] for field, tag in tags.items() if tag in ids}


def added_token_ids(checkpoint: Checkpoint, texts: Collection[str]) -> dict[str, int]:
    """Ids of added tokens by their text, as the tokenizer's files say; others are left out.

    Raises:
        ValueError: a file is damaged.
        OSError: the hub cannot be reached.
    """
    ids: dict[str, int] = {}
    for known in (_from_settings, _from_added_tokens, _from_tokenizer):
        ids = known(checkpoint) | ids
        if all(text in ids for text in texts):
            break
    return {text: ids[text] for text in dict.fromkeys(texts) if text in ids}


def _from_settings(checkpoint: Checkpoint) -> dict[str, int]:
    decoder = _content(checkpoint, "tokenizer_config.json").get("added_tokens_decoder") or {}
    return {token["content"]: int(token_id) for token_id, token in decoder.items()}


def _from_added_tokens(checkpoint: Checkpoint) -> dict[str, int]:
    return dict(_content(checkpoint, "added_tokens.json"))


def _from_tokenizer(checkpoint: Checkpoint) -> dict[str, int]:
    content = _content(checkpoint, "tokenizer.json")
    return {token["content"]: token["id"] for token in content.get("added_tokens") or []}


def _content(checkpoint: Checkpoint, name: str) -> dict[str, Any]:
    path = checkpoint.find_file(name)
    return {} if path is None else read_json_file(path)
