"""Which configurations of a model must give the same results.

A check is the model run another way (`batched`, `attention`, `dtypes` ...) or another checkpoint
(`against`). Its results are compared with the reference's, stage by stage.
"""

import tempfile
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from .. import kernels
from ..adapters.save import save_adapter
from ..chat import Chat
from ..engine.decoder import Decoder
from ..engine.supported import causal_model
from ..errors import first_line
from ..processing.text import TextProcessor
from ..quiet import progress_bar
from . import CHECKS
from .compare import CheckResult, StageResult, compare
from .prompts import Prompt
from .tolerances import (
    TOLERANCES,
    describe,
    tolerance_against,
    tolerance_of,
    vision_tolerance_of,
    with_experts,
)
from .trace import (
    Trace,
    trace_batch,
    trace_each,
    trace_engine,
    trace_streamed,
    trace_uncached,
)

MAX_RELOADED_BYTES = 2e9


def verify(
    load: Callable[..., Chat],
    against: Callable[..., Chat] | None,
    prompts_of: Callable[[Chat], Sequence[Prompt]],
    *,
    checks: Sequence[str] = CHECKS,
    dtype: str = "float32",
    num_tokens: int = 12,
    report: Callable[[str], None] = lambda line: None,
) -> tuple[dict[str, Any], list[CheckResult]]:
    """Run the checks of one model. One model is in memory at a time; its traces are kept.

    Args:
        load, against: give the model, and the other one to compare it with, in a dtype.
        dtype: of the reference; the same for the other model.
        report: told what is being done.

    Returns:
        What the reference is, and one result per check.
    """
    chat = load(dtype=dtype)
    report(f"reference: {chat.precision or dtype}, one by one, with a cache")
    prompts = prompts_of(chat)
    facts = describe(chat, prompts)
    base = with_experts(tolerance_of(facts), facts)
    reference = trace_each(chat, prompts, num_tokens)
    results: list[CheckResult] = []
    for check, what, run in _same_model(chat, prompts, reference, num_tokens):
        if check in checks:
            report(f"{check}: {what}")
            found = run()
            vision = vision_tolerance_of(facts)
            results.append(compare(check, what, base, prompts, reference, found, of_vision=vision))
    for check in ("engine", "kernels"):
        if check in checks:
            results.append(_engine(check, chat, prompts, reference, num_tokens, base, report))
    if "reloaded" in checks:
        report("reloaded: saved and loaded again")
        results.append(_reloaded(chat, load, prompts, reference, num_tokens, facts, base))
    del chat
    if "dtypes" in checks:
        own, ours = facts["stored_dtype"], facts["precision"]
        others = dict.fromkeys(name for name in ("bfloat16", own) if name in TOLERANCES)
        others.pop(ours, None)
        if ours.startswith("int") or not others:
            skipped = f"no other dtype to load a model of {ours} in"
            results.append(CheckResult("dtypes", "loaded in other dtypes", skipped=skipped))
            others = {}
        for other in others:
            coarser = max(other, ours, key=lambda name: TOLERANCES[name].largest)
            limits = with_experts(coarser, facts)
            what = f"loaded as {other}" + (", as stored" if other == own else "")
            report(f"{other}: {what}")
            traces = trace_each(load(dtype=other), prompts, num_tokens)
            results.append(compare(other, what, limits, prompts, reference, traces))
    for bits in ("int8", "int4"):
        if bits in checks:
            results.append(_packed(bits, load, facts, prompts, reference, num_tokens, report))
    if against is not None:
        report("against: the other model")
        chat = against(dtype=dtype)
        facts["against"] = describe(chat, prompts)
        traces = trace_each(chat, prompts, num_tokens)
        results.append(
            compare(
                "against",
                f"{chat.name}, {facts['against']['precision']}",
                with_experts(tolerance_against(facts, facts["against"], "precision"), facts),
                prompts,
                reference,
                traces,
                of_vision=tolerance_against(facts, facts["against"], "vision_precision"),
            )
        )
    return facts, results


def _same_model(
    chat: Chat, prompts: Sequence[Prompt], reference: Sequence[Trace], num_tokens: int
) -> list[tuple[str, str, Callable[[], list[Trace]]]]:
    """The checks that need no second loading, cheapest first."""
    ours = chat.model.config._attn_implementation
    other = "sdpa" if ours == "eager" else "eager"

    def other_attention() -> list[Trace]:
        chat.model.set_attn_implementation(other)
        try:
            return trace_each(chat, prompts, num_tokens)
        finally:
            chat.model.set_attn_implementation(ours)

    return [
        ("batched", "all prompts in one batch", lambda: trace_batch(chat, prompts, num_tokens)),
        ("uncached", "without a cache", lambda: trace_uncached(chat, prompts, reference)),
        ("streamed", "text in pieces", lambda: trace_streamed(chat, prompts, num_tokens)),
        ("attention", f"{other} attention, not {ours}", other_attention),
    ]


def _engine(
    check: str,
    chat: Chat,
    prompts: Sequence[Prompt],
    reference: Sequence[Trace],
    num_tokens: int,
    tolerance: str,
    report: Callable[[str], None],
) -> CheckResult:
    """The engine in place of transformers' `generate`: by torch alone, or by compiled kernels."""
    what = "all prompts at a time, in pieces, "
    what += "by torch alone" if check == "engine" else "by compiled kernels"
    reason = Decoder.why_not(chat.model)
    if reason is None and check == "kernels" and kernels.library() is None:
        reason = f"no compiled kernels: {kernels.why_not()}"
    if reason is not None:
        return CheckResult(check, what, skipped=reason)
    report(f"{check}: {what}")
    chat.engine.forget()
    with kernels.disabled() if check == "engine" else nullcontext():
        found = trace_engine(chat, prompts, reference, num_tokens)
    return compare(check, what, tolerance, prompts, reference, found)


def _packed(
    bits: str,
    load: Callable[..., Chat],
    facts: dict[str, Any],
    prompts: Sequence[Prompt],
    reference: Sequence[Trace],
    num_tokens: int,
    report: Callable[[str], None],
) -> CheckResult:
    """The weights packed in fewer bits while they are loaded."""
    what = f"weights packed as {bits}"
    if facts["precision"].startswith("int"):
        return CheckResult(bits, what, skipped=f"the weights are {facts['precision']} already")
    report(f"{bits}: {what}")
    try:
        chat = load(quantize=bits)
    except (ValueError, ImportError) as error:
        return CheckResult(bits, what, skipped=first_line(error))
    own = describe(chat, prompts)
    return compare(
        bits,
        what,
        with_experts(tolerance_against(facts, own, "precision"), own),
        prompts,
        reference,
        trace_each(chat, prompts, num_tokens),
        of_vision=tolerance_against(facts, own, "vision_precision"),
    )


def _reloaded(
    chat: Chat,
    load: Callable[..., Chat],
    prompts: Sequence[Prompt],
    reference: Sequence[Trace],
    num_tokens: int,
    facts: dict[str, Any],
    tolerance: str,
) -> CheckResult:
    """Save the reference, load it again, compare every weight and every stage."""
    what = "saved and loaded again"
    weights = chat.model.state_dict()
    size = sum(weight.numel() * weight.element_size() for weight in weights.values())
    if size > MAX_RELOADED_BYTES:
        skipped = f"{size / 1e9:.1f} GB to write; the limit is {MAX_RELOADED_BYTES / 1e9:g} GB"
        return CheckResult("reloaded", what, skipped=skipped)
    with tempfile.TemporaryDirectory(prefix="minicpmv-verify-") as folder, progress_bar(False):
        processor = chat.processor
        if causal_model(chat.model) is not chat.model:
            save_adapter(chat.model, processor, Path(folder), {})
        else:
            chat.model.save_pretrained(folder)
            writer = processor.tokenizer if isinstance(processor, TextProcessor) else processor
            writer.save_pretrained(folder)
        again = load(folder, dtype=facts["dtype"])
        traces = trace_each(again, prompts, num_tokens)
    result = compare(
        "reloaded", what, tolerance, prompts, reference, traces, of_vision=facts["dtype"]
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
