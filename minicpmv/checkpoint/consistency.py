"""Whether a model and its processor belong together; `load` checks it, `minicpmv info` shows it."""

from collections.abc import Iterable
from typing import Any
from weakref import WeakKeyDictionary

from .token_ids import TAGS, fields_of

# More rows of the embedding than this share without a token are those of another vocabulary;
# released models have none, and rows that round a size up are few.
_UNUSED_SHARE = 0.03
# Pairs of a tokenizer and a config's vocabulary that belong together: looked through once.
_known_pairs: WeakKeyDictionary[Any, set[tuple[Any, ...]]] = WeakKeyDictionary()


def find_mismatches(config: Any, processor: Any) -> list[str]:
    """What the two sides of a checkpoint say differently, one line each; empty when they agree.

    A vocabulary is looked through at the first call with a tokenizer, not at every one.

    Args:
        config: of the model.
        processor: `MiniCPMVProcessor` or `TextProcessor`.
    """
    lines, tags = [], list(processor.release.terminators)
    if hasattr(processor, "image_processor"):
        lines = _about_pictures(config, processor.image_processor)
        tags = [*processor.image_processor.tags_for(), *config.release.terminators]
    size = config.get_text_config().vocab_size
    known = _known_pairs.setdefault(processor.tokenizer, set())
    pair = (size, *tags)
    if pair not in known:
        wrong = _about_tokens(size, processor.tokenizer, tags)
        lines += wrong
        if not wrong:
            known.add(pair)
    if hasattr(processor, "image_processor"):
        lines += [
            f"config.json says {field} {said}, and the tokenizer gives its token the id {token_id}"
            for field, said, token_id in _tag_ids(config, processor)
            if said not in (None, token_id)
        ]
    return lines


def check_pair(config: Any, processor: Any, name: str) -> None:
    """Check that a model and its processor belong together.

    Args:
        name: of the model, for the message.

    Raises:
        ValueError: names what they say differently.
    """
    problems = find_mismatches(config, processor)
    if problems:
        raise ValueError(
            f"The model and the processor of {name!r} do not belong together: "
            f"{'; '.join(problems)}."
        )


def set_token_ids(config: Any, processor: Any) -> None:
    """Fill in the ids of visual tags that a config does not say, from the tokenizer.

    What came from elsewhere than the file is not written to it when the config is saved.
    """
    if not hasattr(processor, "image_processor"):
        return
    for field, _, token_id in _tag_ids(config, processor):
        config.fill_in(field, token_id)


def _tag_ids(config: Any, processor: Any) -> list[tuple[str, int | None, int]]:
    """Field, its value in the config, and the id of its tag, for every tag of the release."""
    images, tokenizer = processor.image_processor, processor.tokenizer
    return [
        (
            field,
            getattr(config, field),
            tokenizer.convert_tokens_to_ids(getattr(images, TAGS[field][0])),
        )
        for field in fields_of(config.release)
    ]


def _about_tokens(size: int, tokenizer: Any, tags: Iterable[str]) -> list[str]:
    """What the vocabularies of a tokenizer and of a model of `size` embeddings say differently."""
    vocabulary, lines = tokenizer.get_vocab(), []
    missing = [tag for tag in tags if tag not in vocabulary]
    if missing:
        lines.append(f"the tokenizer has no token {', '.join(missing)}")
    largest = max(vocabulary.values())
    if largest >= size:
        lines.append(f"the tokenizer's largest id is {largest}, config.json has vocab_size {size}")
    elif len(vocabulary) < (1 - _UNUSED_SHARE) * size:
        lines.append(
            f"the tokenizer has {len(vocabulary)} tokens, config.json has vocab_size {size}: it is "
            "the tokenizer of another model"
        )
    return lines


def _about_pictures(config: Any, images: Any) -> list[str]:
    """What `MiniCPMVConfig` or `OmniLMMConfig` and an image processor say differently."""
    release = config.release
    sliced = getattr(config, "slice_config", None) or {}
    pairs = [
        ("query_num", config.query_num, "image_feature_size", images.image_feature_size),
        (
            "vision_config.patch_size",
            config.vision_config.patch_size,
            "patch_size",
            images.patch_size,
        ),
        ("version", release.version, "version", str(images.version)),
    ]
    if release.slicing == "square":
        pairs.append(("image_size", config.image_size, "image_size", images.image_size))
    else:
        pairs += [
            ("slice_mode", config.slice_mode, "slice_mode", images.slice_mode),
            ("use_image_id", config.use_image_id, "use_image_id", images.use_image_id),
        ]
    for name in ("max_slice_nums", "scale_resolution"):
        if name in sliced:
            pairs.append((f"slice_config.{name}", sliced[name], name, getattr(images, name)))
        elif getattr(config, name, None) is not None:
            pairs.append((name, getattr(config, name), name, getattr(images, name)))
    return [
        f"config.json says {field} {ours!r}, preprocessor_config.json {other} {theirs!r}"
        for field, ours, other, theirs in pairs
        if ours != theirs
    ]
