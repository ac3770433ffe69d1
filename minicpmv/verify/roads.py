"""Which roads must lead to one number, how far they may part, and where they do.

A road is the model run another way (`eager`, `batched`, `bfloat16` ...) or another checkpoint
(`against`). It is compared with the reference, stage by stage. Differences are measured in
**spreads**: one spread is the standard deviation of the reference's values at that stage, so that
one table of tolerances holds for every model. Two unrelated models are 1.1 spreads apart on
average.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import PreTrainedConfig

from ..chat import Chat
from ..processing.text import TextProcessor
from ..quantization.files import read_quantization
from ..quiet import progress_bar
from .probes import Probe
from .stages import (
    STAGES,
    Trace,
    trace_batch,
    trace_each,
    trace_streamed,
    trace_uncached,
)


@dataclass(frozen=True)
class Tolerance:
    """How far a stage may drift, in spreads: `mean` over all values, `largest` for the worst."""

    mean: float
    largest: float
    reason: str


# Rounding a number to p bits moves it by up to 2^-p of itself. A value passes some hundred
# roundings on its way through the layers, which add up like a random walk: to about ten times one
# rounding on average, and to five or ten times that average for the worst of millions of values.
# The means below are 25 such roundings for bfloat16 (2^-8) and 20 for float16 (2^-11); float32
# (2^-24) gets 300, far below what a wrong number makes. Weights of 4 bits are off by 10 % each, of
# 8 bits by 1 %, and a layer's sums by as much. In a mixture of experts a near tie in a router sends
# a token to another expert, which no rounding explains: three times the room.
TOLERANCES = {
    "exact": Tolerance(0.0, 0.0, "made before any arithmetic of the model: equal"),
    "float32": Tolerance(2e-5, 1e-3, "24 bits: another order of the sums"),
    "float16": Tolerance(0.01, 0.15, "11 bits"),
    "bfloat16": Tolerance(0.1, 1.0, "8 bits"),
    "int8": Tolerance(0.15, 1.5, "weights of 8 bits"),
    "int4": Tolerance(0.4, 4.0, "weights of 4 bits, 10 % off each"),
    "float16, experts": Tolerance(0.03, 0.5, "11 bits, and routers near a tie"),
    "bfloat16, experts": Tolerance(0.3, 5.0, "8 bits, and routers near a tie"),
    "int8, experts": Tolerance(0.5, 5.0, "weights of 8 bits, and routers near a tie"),
    "int4, experts": Tolerance(0.7, 7.0, "weights of 4 bits, and routers near a tie"),
}
Pair = tuple[str, Trace, Trace]  # name of the probe, reference, found
EXACT_STAGES = ("pixels", "slices", "ids")  # made before any weight is read
MAX_RELOADED_BYTES = 2e9


@dataclass
class StageResult:
    """One stage of one road, over all probes that have it.

    Fields:
        tolerance: its row in the table.
        largest, mean: of the absolute differences, as they are; relative ones are in spreads.
        top1: share of logit rows with the same likeliest token; ties counts the others whose two
            candidates lie closer than the tolerated difference.
        probe: where it is worst.
    """

    stage: str
    passed: bool
    tolerance: str = "exact"
    largest: float | None = None
    mean: float | None = None
    largest_relative: float | None = None
    mean_relative: float | None = None
    top1: float | None = None
    num_ties: int | None = None
    probe: str = ""
    note: str = ""


@dataclass
class RoadResult:
    """One road: its stages, or why it was not taken."""

    road: str
    what: str
    stages: list[StageResult] = field(default_factory=list)
    skipped: str = ""

    @property
    def passed(self) -> bool:
        return all(stage.passed for stage in self.stages)

    @property
    def first_drift(self) -> str | None:
        """The first stage past its tolerance."""
        return next((stage.stage for stage in self.stages if not stage.passed), None)


ROADS = ("batched", "uncached", "streamed", "attention", "reloaded", "dtypes")


def verify(
    load: Callable[..., Chat],
    against: Callable[..., Chat] | None,
    probes_of: Callable[[Chat], Sequence[Probe]],
    *,
    roads: Sequence[str] = ROADS,
    dtype: str = "float32",
    num_tokens: int = 12,
    report: Callable[[str], None] = lambda line: None,
) -> tuple[dict[str, Any], list[RoadResult]]:
    """Walk the roads of one model. One model is in memory at a time; its traces are kept.

    Args:
        load, against: give the model, and the other one to compare it with, in a dtype.
        dtype: of the reference; the same for the other model.
        report: told what is being done.

    Returns:
        What the reference is, and one result per road.
    """
    chat = load(dtype=dtype)
    report(f"reference: {chat.precision or dtype}, one by one, with a cache")
    probes = probes_of(chat)
    facts = describe(chat, probes)
    base = _with_experts(_arithmetic(facts), facts)
    reference = trace_each(chat, probes, num_tokens)
    results = []
    for road, what, run in _same_model(chat, probes, reference, num_tokens):
        if road in roads:
            report(f"{road}: {what}")
            found = run()
            results.append(
                compare(road, what, base, probes, reference, found, of_vision=facts["dtype"])
            )
    if "reloaded" in roads:
        report("reloaded: saved and loaded again")
        results.append(_reloaded(chat, load, probes, reference, num_tokens, facts, base))
    del chat
    if "dtypes" in roads:
        own, ours = facts["stored_dtype"], facts["precision"]
        others = dict.fromkeys(name for name in ("bfloat16", own) if name in TOLERANCES)
        others.pop(ours, None)
        if ours.startswith("int") or not others:
            skipped = f"no other dtype to load a model of {ours} in"
            results.append(RoadResult("dtypes", "loaded in other dtypes", skipped=skipped))
            others = {}
        for other in others:
            coarser = max(other, ours, key=lambda name: TOLERANCES[name].largest)
            limits = _with_experts(coarser, facts)
            what = f"loaded as {other}" + (", as stored" if other == own else "")
            report(f"{other}: {what}")
            traces = trace_each(load(dtype=other), probes, num_tokens)
            results.append(compare(other, what, limits, probes, reference, traces))
    if against is not None:
        report("against: the other model")
        chat = against(dtype=dtype)
        facts["against"] = describe(chat, probes)
        traces = trace_each(chat, probes, num_tokens)
        results.append(
            compare(
                "against",
                f"{chat.name}, {facts['against']['precision']}",
                _with_experts(_tolerance_against(facts, facts["against"], "precision"), facts),
                probes,
                reference,
                traces,
                of_vision=_tolerance_against(facts, facts["against"], "vision_precision"),
            )
        )
    return facts, results


def describe(chat: Chat, probes: Sequence[Probe]) -> dict[str, Any]:
    """What was loaded, as plain data."""
    model = chat.model
    return {
        "model": chat.name,
        "precision": _precision(chat),
        "vision_precision": _vision_precision(chat),
        "dtype": str(model.dtype).removeprefix("torch."),
        "format": model.config.model_type,
        "num_experts": getattr(model.config.get_text_config(), "num_experts", 0),
        "stored_dtype": _stored_dtype(model.name_or_path),
        "device": str(model.device),
        "attn_implementation": model.config._attn_implementation,
        "probes": [probe.name for probe in probes],
    }


def _same_model(
    chat: Chat, probes: Sequence[Probe], reference: Sequence[Trace], num_tokens: int
) -> list[tuple[str, str, Callable[[], list[Trace]]]]:
    """The roads that need no second loading, cheapest first."""
    ours = chat.model.config._attn_implementation
    other = "sdpa" if ours == "eager" else "eager"

    def other_attention() -> list[Trace]:
        chat.model.set_attn_implementation(other)
        try:
            return trace_each(chat, probes, num_tokens)
        finally:
            chat.model.set_attn_implementation(ours)

    return [
        ("batched", "all probes in one batch", lambda: trace_batch(chat, probes, num_tokens)),
        ("uncached", "without a cache", lambda: trace_uncached(chat, probes, reference)),
        ("streamed", "text in pieces", lambda: trace_streamed(chat, probes, num_tokens)),
        ("attention", f"{other} attention, not {ours}", other_attention),
    ]


def _reloaded(
    chat: Chat,
    load: Callable[..., Chat],
    probes: Sequence[Probe],
    reference: Sequence[Trace],
    num_tokens: int,
    facts: dict[str, Any],
    tolerance: str,
) -> RoadResult:
    """Save the reference, load it again, compare every weight and every stage."""
    what = "saved and loaded again"
    weights = chat.model.state_dict()
    size = sum(weight.numel() * weight.element_size() for weight in weights.values())
    if size > MAX_RELOADED_BYTES:
        skipped = f"{size / 1e9:.1f} GB to write; the limit is {MAX_RELOADED_BYTES / 1e9:g} GB"
        return RoadResult("reloaded", what, skipped=skipped)
    with tempfile.TemporaryDirectory(prefix="minicpmv-verify-") as folder, progress_bar(False):
        chat.model.save_pretrained(folder)
        processor = chat.processor
        writer = processor.tokenizer if isinstance(processor, TextProcessor) else processor
        writer.save_pretrained(folder)
        again = load(folder, dtype=facts["dtype"])
        traces = trace_each(again, probes, num_tokens)
    result = compare(
        "reloaded", what, tolerance, probes, reference, traces, of_vision=facts["dtype"]
    )
    found = again.model.state_dict()
    changed = [
        name for name, weight in weights.items() if not _is_equal(weight, found.get(name))
    ] + [name for name in found if name not in weights]
    note = f"{len(changed)} tensors changed, {changed[0]} first" if changed else ""
    result.stages.insert(0, StageResult("weights", not changed, note=note))
    return result


def _is_equal(ours: torch.Tensor, theirs: torch.Tensor | None) -> bool:
    return theirs is not None and ours.dtype == theirs.dtype and torch.equal(ours, theirs)


def compare(
    road: str,
    what: str,
    tolerance: str,
    probes: Sequence[Probe],
    reference: Sequence[Trace],
    found: Sequence[Trace],
    *,
    of_vision: str | None = None,
) -> RoadResult:
    """Hold what a road gave against the reference, stage by stage.

    Args:
        tolerance: row of the table for logits and text.
        of_vision: for vision and resampler, where it is another one.
    """
    result = RoadResult(road, what)
    pairs = list(zip([probe.name for probe in probes], reference, found, strict=True))
    for stage in STAGES[:-1]:
        # A road that starts later, as the streamed one does, has no earlier stages.
        having = [pair for pair in pairs if stage in pair[2].stages]
        lacking = [pair for pair in pairs if stage in pair[1].stages and pair not in having]
        row = of_vision if of_vision and stage in ("vision", "resampler") else tolerance
        if road == "against" and lacking:
            note = "the other model has no such stage"
            result.stages.append(StageResult(stage, False, probe=lacking[0][0], note=note))
        elif having and stage in EXACT_STAGES:
            result.stages.append(_compare_exactly(stage, having))
        elif having:
            result.stages.append(_compare_numbers(stage, having, row))
    result.stages.append(_compare_texts(pairs, tolerance, forgive_ties=result.passed))
    return result


def _compare_exactly(stage: str, pairs: Sequence[Pair]) -> StageResult:
    """Pixels, slices or ids, which no arithmetic of the model touches."""
    result = StageResult(stage, True, largest=0.0, mean=0.0)
    for name, reference, found in pairs:
        ours, theirs = reference.stages.get(stage, []), found.stages[stage]
        if isinstance(theirs, list):
            if ours != theirs:
                return StageResult(stage, False, probe=name, note=_first_difference(ours, theirs))
            continue
        if ours.shape != theirs.shape:
            note = f"{len(ours)} and {len(theirs)} values"
            return StageResult(stage, False, probe=name, note=note)
        difference = (ours - theirs).abs()
        if float(difference.max()) > (result.largest or 0.0):
            result.passed, result.probe = False, name
            result.largest, result.mean = float(difference.max()), float(difference.mean())
    return result


def _first_difference(ours: list[Any], theirs: list[Any]) -> str:
    length = min(len(ours), len(theirs))
    first = next((i for i in range(length) if ours[i] != theirs[i]), length)
    entries = [str(v[first]) if first < len(v) else "the end" for v in (ours, theirs)]
    return f"{len(ours)} and {len(theirs)} entries, first different at {first}: " + " and ".join(
        entries
    )


def _compare_numbers(stage: str, pairs: Sequence[Pair], tolerance: str) -> StageResult:
    """Vision, resampler or logits: the worst of every number over all probes."""
    limits = TOLERANCES[tolerance]
    result = StageResult(stage, True, tolerance, 0.0, 0.0, 0.0, 0.0)
    num_rows = num_same = num_ties = 0
    for name, reference, found in pairs:
        ours, theirs = reference.stages[stage], found.stages[stage]
        if stage == "logits":
            ours, theirs = _comparable_rows(reference, found)
        if ours.shape != theirs.shape:
            note = f"shapes {tuple(ours.shape)} and {tuple(theirs.shape)}"
            return StageResult(stage, False, tolerance, probe=name, note=note)
        difference = (ours - theirs).abs()
        if not bool(difference.isfinite().all()):
            return StageResult(stage, False, tolerance, probe=name, note="values not finite")
        spread = max(float(ours.std()), 1e-12)
        largest, mean = float(difference.max()), float(difference.mean())
        result.largest = max(result.largest or 0.0, largest)
        result.mean = max(result.mean or 0.0, mean)
        result.mean_relative = max(result.mean_relative or 0.0, mean / spread)
        if largest / spread >= (result.largest_relative or 0.0):
            result.largest_relative, result.probe = largest / spread, name
        if stage == "logits":
            differs = ours.argmax(dim=-1) != theirs.argmax(dim=-1)
            num_rows, num_same = num_rows + len(ours), num_same + int((~differs).sum())
            num_ties += int((differs & (_margins(ours) <= _closeness(ours, limits))).sum())
    if stage == "logits":
        result.top1, result.num_ties = num_same / num_rows, num_ties
    result.passed = (result.largest_relative or 0.0) <= limits.largest and (
        result.mean_relative or 0.0
    ) <= limits.mean
    return result


def _comparable_rows(reference: Trace, found: Trace) -> tuple[torch.Tensor, torch.Tensor]:
    """The logit rows that both computed from the same text: up to where the answers part."""
    prompt = min(reference.num_prompt_rows, found.num_prompt_rows)
    rows = prompt + _common_length(reference.new_ids, found.new_ids)
    ours = reference.stages["logits"][reference.num_prompt_rows - prompt :][:rows]
    theirs = found.stages["logits"][found.num_prompt_rows - prompt :][:rows]
    rows = min(len(ours), len(theirs))
    return ours[:rows], theirs[:rows]


def _common_length(ours: Sequence[int], theirs: Sequence[int]) -> int:
    """How many tokens two answers begin with in common."""
    length = min(len(ours), len(theirs))
    return next((i for i in range(length) if ours[i] != theirs[i]), length)


def _margins(logits: torch.Tensor) -> torch.Tensor:
    """How far the likeliest token is ahead of the next, per row."""
    first, second = logits.topk(2, dim=-1).values.unbind(-1)
    return first - second


def _closeness(logits: torch.Tensor, limits: Tolerance) -> float:
    """Two candidates that are no further apart may change places within the tolerance."""
    return 2 * limits.largest * float(logits.std())


def _compare_texts(
    pairs: Sequence[Pair], tolerance: str, *, forgive_ties: bool = True
) -> StageResult:
    """Greedy answers; where they part at a near tie, that is said and forgiven.

    After a drift no tie explains why they part: `forgive_ties` is False.
    """
    limits = TOLERANCES[tolerance]
    result, notes = StageResult("text", True, tolerance, num_ties=0), []
    for name, reference, found in pairs:
        if reference.text == found.text:
            continue
        result.probe = name
        if not found.new_ids:  # a stream has only its text
            return StageResult(
                "text",
                False,
                tolerance,
                probe=name,
                note=f"{reference.text!r} became {found.text!r}",
            )
        place = _common_length(reference.new_ids, found.new_ids)
        if place == min(len(reference.new_ids), len(found.new_ids)):
            note = f"the answer has {len(reference.new_ids)} and {len(found.new_ids)} tokens"
            return StageResult("text", False, tolerance, probe=name, note=note)
        logits = reference.stages["logits"]
        row = logits[reference.num_prompt_rows - 1 + place]
        margin = float(_margins(row[None]))
        is_tie = forgive_ties and margin <= _closeness(logits, limits)
        notes.append(
            f"token {place + 1} of {len(reference.new_ids)} differs, margin {margin:.2g}"
            + (": a tie" if is_tie else "")
        )
        if not is_tie:
            return StageResult("text", False, tolerance, probe=name, note=notes[-1])
        result.num_ties = (result.num_ties or 0) + 1
    result.note = notes[0] if notes else ""
    return result


def _precision(chat: Chat) -> str:
    """The tolerance that a loaded model calls for: its quantisation, else its dtype.

    Weights that were unpacked while loading have lost what their files say.
    """
    config = chat.model.config
    written: Any = getattr(config, "quantization_config", None)
    fields = written.to_dict() if hasattr(written, "to_dict") else written
    fields = fields or read_quantization(chat.model.name_or_path, {})
    if fields is None:
        return str(chat.model.dtype).removeprefix("torch.")
    return f"int{fields.get('bits') or (4 if fields.get('load_in_4bit') else 8)}"


def _stored_dtype(path: str) -> str:
    """The dtype that a checkpoint's config.json names."""
    fields, _ = PreTrainedConfig.get_config_dict(path)
    dtype = fields.get("dtype") or fields.get("torch_dtype") or "float32"
    return str(dtype).removeprefix("torch.")


def _vision_precision(chat: Chat) -> str:
    """The same for the tower, which released int4 files leave as it was."""
    tower = getattr(chat.model.base_model, "vision_tower", None)
    parameters = [] if tower is None else list(tower.parameters())
    if all(p.is_floating_point() and not hasattr(p, "quant_state") for p in parameters):
        return str(chat.model.dtype).removeprefix("torch.")
    return _precision(chat)


def _arithmetic(facts: dict[str, Any]) -> str:
    """What two runs of the same weights may differ by: int8 rounds the activations, too."""
    return "int8" if facts["precision"] == "int8" else facts["dtype"]


def _tolerance_against(ours: dict[str, Any], theirs: dict[str, Any], field: str) -> str:
    """The widest tolerance of the two, of those that can have changed a weight.

    Weights that were written in another dtype or another format were rounded on the way.
    """
    names = {ours[field], theirs[field]}
    if (ours["format"], ours["stored_dtype"]) != (theirs["format"], theirs["stored_dtype"]):
        names |= {ours["stored_dtype"], theirs["stored_dtype"]}
    return max(names & set(TOLERANCES), key=lambda name: TOLERANCES[name].largest)


def _with_experts(precision: str, facts: dict[str, Any]) -> str:
    """The row of the table for this precision in a model of that kind."""
    name = f"{precision}, experts"
    return name if facts["num_experts"] and name in TOLERANCES else precision
