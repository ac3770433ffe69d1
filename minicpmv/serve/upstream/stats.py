"""Counters of a server behind this one, from its page of metrics."""

import re
from collections.abc import Iterable

Stats = dict[str, dict[str, dict[str, int]]]

_LINE = re.compile(r'(?:vllm|minicpmv):(\w+)\{(?:[^}]*,)?model_name="([^"]*)"[^}]*\} ([0-9.eE+-]+)')
_WHOLE = 1 << 20  # bytes that stand for the whole cache, of which a share is told
# By name: the group and the counter of `Engine.stats`, and a factor.
_NAMES = {
    "num_requests_running": ("requests", "running", 1),
    "num_requests_waiting": ("requests", "waiting", 1),
    "num_preemptions_total": ("requests", "preempted", 1),
    "kv_cache_usage_perc": ("prefixes", "held_bytes", _WHOLE),
    "prefix_cache_queries_total": ("prefixes", "prompt_tokens", 1),
    "prefix_cache_hits_total": ("prefixes", "known_tokens", 1),
    "mm_cache_queries_total": ("features", "misses", 1),  # less the hits
    "mm_cache_hits_total": ("features", "hits", 1),
}


def read_page(text: str) -> Stats:
    """By model, the counters in the form of `Engine.stats`."""
    found: Stats = {}
    for name, model, value in _LINE.findall(text):
        if name in _NAMES:
            group, counter, factor = _NAMES[name]
            counters = found.setdefault(model, {}).setdefault(group, {})
            counters[counter] = counters.get(counter, 0) + _whole(value, factor)
    for groups in found.values():
        if "prefixes" in groups:
            groups["prefixes"]["max_bytes"] = _WHOLE
        if "features" in groups:
            features = groups["features"]
            features["misses"] = features.get("misses", 0) - features.get("hits", 0)
    return found


def _whole(text: str, factor: int) -> int:
    """0 where it is no number, or without an end."""
    try:
        return max(int(float(text) * factor), 0)
    except (ValueError, OverflowError):
        return 0


def added(all_stats: Iterable[dict[str, dict[str, int]]]) -> dict[str, dict[str, int]]:
    """Those of several servers together."""
    total: dict[str, dict[str, int]] = {}
    for stats in all_stats:
        for group, counters in stats.items():
            own = total.setdefault(group, {})
            for name, value in counters.items():
                own[name] = own.get(name, 0) + value
    return total
