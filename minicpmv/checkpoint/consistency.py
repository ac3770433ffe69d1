"""Whether a model and its processor belong together; `load` asks once, `minicpmv info` shows it."""

from typing import Any

from ..processing.text import TextProcessor


def find_mismatches(config: Any, processor: Any) -> list[str]:
    """What the two sides of a checkpoint say differently, one line each; empty when they agree.

    Args:
        config: of the model.
        processor: `MiniCPMVProcessor` or `TextProcessor`.
    """
    lines, tags = [], list(processor.release.terminators)
    if not isinstance(processor, TextProcessor):
        lines = _about_pictures(config, processor.image_processor)
        tags = [*processor.image_processor.tags_for(), *config.release.terminators]
    vocabulary = processor.tokenizer.get_vocab()
    missing = [tag for tag in tags if tag not in vocabulary]
    if missing:
        lines.append(f"the tokenizer has no token {', '.join(missing)}")
    largest, size = max(vocabulary.values()), config.get_text_config().vocab_size
    if largest >= size:
        lines.append(f"the tokenizer's largest id is {largest}, config.json has vocab_size {size}")
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
