"""Whether a model and its processor belong together; `load` asks once, `minicpmv info` shows it."""

from typing import Any

from .processing.text import TextProcessor


def disagreements(config: Any, processor: Any) -> list[str]:
    """What the two sides of a checkpoint say differently, one line each; empty when they agree.

    Args:
        config: of the model.
        processor: `MiniCPMVProcessor` or `TextProcessor`.
    """
    lines, tags = [], list(processor.release.terminators)
    if not isinstance(processor, TextProcessor):
        lines = _about_pictures(config, processor)
        images = processor.image_processor
        tags = [images.im_start, images.im_end, images.slice_start, images.slice_end, images.unk]
        if images.use_image_id:
            tags += [images.im_id_start, images.im_id_end]
        tags += config.release.terminators
    vocabulary = processor.tokenizer.get_vocab()
    missing = [tag for tag in tags if tag not in vocabulary]
    if missing:
        lines.append(f"the tokenizer has no token {', '.join(missing)}")
    largest, size = max(vocabulary.values()), config.get_text_config().vocab_size
    if largest >= size:
        lines.append(f"the tokenizer's largest id is {largest}, config.json has vocab_size {size}")
    return lines


def _about_pictures(config: Any, processor: Any) -> list[str]:
    images = processor.image_processor
    sliced = config.slice_config or {}
    pairs = [
        ("query_num", config.query_num, "image_feature_size", images.image_feature_size),
        (
            "vision_config.patch_size",
            config.vision_config.patch_size,
            "patch_size",
            images.patch_size,
        ),
        ("version", config.version, "version", str(images.version)),
        ("slice_mode", config.slice_mode, "slice_mode", images.slice_mode),
        ("use_image_id", config.use_image_id, "use_image_id", images.use_image_id),
    ]
    for name in ("max_slice_nums", "scale_resolution"):
        if name in sliced:
            pairs.append((f"slice_config.{name}", sliced[name], name, getattr(images, name)))
    return [
        f"config.json says {field} {ours!r}, preprocessor_config.json {other} {theirs!r}"
        for field, ours, other, theirs in pairs
        if ours != theirs
    ]
