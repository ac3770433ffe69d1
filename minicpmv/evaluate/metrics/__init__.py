"""Metrics of the benchmarks, by name; each is loaded when it is asked for.

Every metric reads answers by the rules of one of three programs, faults included, so that a score
can be compared with one that they published.
"""

import warnings
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from ...errors import meant
from .contract import RULES, JudgedMetric, Metric, Score, Scored, ScoredItems

__all__ = [
    "METRICS",
    "RULES",
    "JudgedMetric",
    "Metric",
    "Score",
    "Scored",
    "ScoredItems",
    "metric",
]

# name: module below here, class, and the options that make it this metric.
METRICS: dict[str, tuple[str, str, Mapping[str, Any]]] = {
    "ai2d": ("choice", "MultipleChoice", {"reader": "ai2d"}),
    "anls": ("vqa", "ANLS", {}),
    "blink": ("choice", "MultipleChoice", {"reader": "blink"}),
    "character-error-rate": ("plain", "CharacterErrorRate", {}),
    "cmmmu": ("cmmmu", "CMMMU", {}),
    "contains": ("plain", "Contains", {}),
    "exact-match": ("plain", "ExactMatch", {}),
    "hallusionbench": ("hallusionbench", "HallusionBench", {}),
    "interleave": ("multi_image", "Interleave", {}),
    "llava-bench": ("judged.llava_bench", "LLaVABench", {}),
    "mantis": ("multi_image", "Mantis", {}),
    "mathvista": ("mathvista", "MathVista", {}),
    "mcq": ("choice", "MultipleChoice", {}),
    "mcq-circular": ("choice", "CircularChoice", {}),
    "mirb": ("multi_image", "MIRB", {}),
    "mme": ("mme", "MME", {}),
    "mmhal": ("judged.mmhal", "MMHalBench", {}),
    "mmmu": ("mmmu", "MMMU", {}),
    "mmstar": ("choice", "MultipleChoice", {"reader": "mmstar", "mean_of": "l2_category"}),
    "mmvet": ("judged.mm_vet", "MMVet", {}),
    "object-halbench": ("judged.object_halbench", "ObjectHalBench", {}),
    "ocrbench": ("ocrbench", "OCRBench", {}),
    "pope": ("pope", "POPE", {}),
    "realworldqa": ("choice", "MultipleChoice", {"reader": "realworldqa"}),
    "relaxed-accuracy": ("vqa", "RelaxedAccuracy", {}),
    "scienceqa": ("choice", "MultipleChoice", {"reader": "scienceqa"}),
    "seedbench": ("choice", "MultipleChoice", {"reader": "seedbench"}),
    "token-f1": ("plain", "TokenF1", {}),
    "video-chatgpt-consistency": ("judged.video_chatgpt", "Consistency", {}),
    "video-chatgpt-generic": ("judged.video_chatgpt", "VideoChatGPT", {}),
    "video-chatgpt-temporal": ("judged.video_chatgpt", "VideoChatGPT", {"axes": ("temporal",)}),
    "video-mme": ("video_mme", "VideoMME", {}),
    "vizwiz": ("vqa", "VQAAccuracy", {"dataset": "vizwiz"}),
    "vqa": ("vqa", "VQAAccuracy", {}),
    "vqav2": ("vqa", "VQAAccuracy", {"dataset": "vqav2"}),
    "yes-no": ("yes_no", "YesNo", {}),
}


def metric(name: str, **options: Any) -> Metric:
    """The metric of this name.

    Args:
        options: of the metric, `metric_options` of a page.

    Raises:
        ValueError: no metric has this name, or it has no such option.
    """
    if name not in METRICS:
        raise ValueError(f"The metric {name!r} is not known.{meant(name, sorted(METRICS))}")
    module, kind, fixed = METRICS[name]
    found = getattr(import_module(f"{__name__}.{module}"), kind)
    try:
        return found(name=name, **{**fixed, **options})
    except TypeError as error:
        raise ValueError(f"The metric {name!r} does not take {options}: {error}.") from error


# Names that this module had when it held the measures of the drawn benchmark alone.
_MOVED = {
    **dict.fromkeys(("wilson_interval", "bootstrap_interval", "ratio"), "intervals"),
    **dict.fromkeys(("edit_distance", "levenshtein"), "metrics.distance"),
    **dict.fromkeys(
        (
            *("normalise", "is_right", "vqa_accuracy", "yes_or_no", "chosen_option", "is_close"),
            *("on_one_line", "character_errors", "character_error_rate", "contains_text", "anls"),
            *("markdown_rows", "cell_f1"),
        ),
        "scenes.metrics",
    ),
}


def __getattr__(name: str) -> Any:
    if name not in _MOVED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = f"minicpmv.evaluate.{_MOVED[name]}"
    warnings.warn(
        f"{__name__}.{name} is now {home}.{name}; the old name goes with the next version.",
        DeprecationWarning,
        stacklevel=2,
    )
    return getattr(import_module(home), name)
