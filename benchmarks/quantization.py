"""What fewer bits cost: KL divergence and top-1 agreement against float32, and bytes.

    python benchmarks/quantization.py [FOLDER ...] [--number 8] [--shifts 0]

Without a folder the bundled model is asked held-out questions about rendered scenes; other models
get the conversations of `minicpmv verify`. The answers of the float32 model are given to each
format token by token, so that all see the same text. Every format is loaded as a user loads it.
"Q4_0" has the codes that llama.cpp's rule gives, and the bits of its files: the head in 8 (where
the width is a multiple of 256 a file has 6.6), the rest of the language model in 4; products, and
the tower and the resampler in 8 bits, are those of int4. "int4 by that rule" has the bits of int4.

`--shifts N` compares the two rules once more, N times, with groups that begin at other inputs:
one model is one throw of the dice for rounding errors. Only the decoder's layers are rounded then.
"""

import argparse
import copy
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from minicpmv import load
from minicpmv.evaluate.scenes.samples import draw_samples
from minicpmv.evaluate.scenes.tasks import SUBTASKS, subtasks_of
from minicpmv.quantization import PackedConfig, quantiser
from minicpmv.verify.prompts import Prompt, built_in_prompts
from minicpmv.verify.trace import trace_each, trace_uncached

TOKENS = 24  # of an answer at most
SEED = 7
FORMATS: dict[str, dict[str, Any]] = {
    "float32": {"dtype": "float32"},
    "bfloat16": {"dtype": "bfloat16"},
    "int8": {"dtype": "float32", "quantize": "int8"},
    "int4": {"dtype": "float32", "quantize": "int4"},
    "int4 by that rule": {"dtype": "float32", "quantize": "int4"},
    "Q4_0": {"dtype": "float32", "quantize": "int4"},
    "llm.int8": {"dtype": "float32", "quantize": "llm.int8"},
    "nf4": {"dtype": "float32", "quantize": "nf4"},
}


def q4_0(x: Tensor) -> tuple[Tensor, Tensor]:
    """llama.cpp's rule: the largest number of a group, with its sign, gets the code -8.

    Args:
        x: (32, groups), as the quantiser has it.

    Returns:
        Codes 0 to 15, and scales in float16.
    """
    largest = x.gather(0, x.abs().argmax(dim=0, keepdim=True))
    scale = largest / -8
    inverse = torch.where(scale == 0, 0.0, 1 / scale)
    codes = (x * inverse + 8.5).trunc().clamp_(max=15)
    return codes.to(torch.uint8), scale[0].half()


@contextmanager
def rule_of(name: str) -> Iterator[None]:
    """Inside, `quantize="int4"` rounds by this format's rule, to its bits."""
    rule, resolved = quantiser._int4, PackedConfig.resolved

    def of_files(self: PackedConfig, config: Any) -> dict[str, int]:
        return resolved(self, config) | {"keys_values": 4, "lm_head": 8}

    if name in ("Q4_0", "int4 by that rule"):
        quantiser._int4 = q4_0
    if name == "Q4_0":
        setattr(PackedConfig, "resolved", of_files)  # noqa: B010
    try:
        yield
    finally:
        quantiser._int4 = rule
        setattr(PackedConfig, "resolved", resolved)  # noqa: B010


def scene_prompts(number: int) -> list[Prompt]:
    """Held-out questions of every task with pictures, `number` of each."""
    prompts = []
    for part in subtasks_of(list(SUBTASKS)):
        for sample in draw_samples(part.draw, split="test", seed=SEED, number=number):
            example = sample.examples[0]
            if example.is_video:
                continue
            turns: list[dict[str, Any]] = []
            for turn in example.turns:
                pictures = [example.scenes[index].image for index in turn.shown]
                turns.append({"role": "user", "content": [*pictures, turn.question]})
                turns.append({"role": "assistant", "content": [turn.answer]})
            prompts.append(Prompt(part.name, turns[:-1]))
    return prompts


class Reference:
    """The float32 model's answers, and how far another model's logits lie from its own."""

    def __init__(self, chat: Any, prompts: list[Prompt]):
        self.prompts = prompts
        self.traces = trace_each(chat, prompts, TOKENS)

    def compare(self, chat: Any) -> tuple[float, float, float, int]:
        """Mean and 99th percentile of the KL divergence, equal likeliest tokens, all tokens."""
        divergences, agreements = [], []
        found = trace_uncached(chat, self.prompts, self.traces)
        for reference, trace in zip(self.traces, found, strict=True):
            rows = len(reference.new_ids)
            ours = reference.stages["logits"][-rows:].log_softmax(dim=-1)
            theirs = trace.stages["logits"][-rows:].log_softmax(dim=-1)
            divergences.append((ours.exp() * (ours - theirs)).sum(dim=-1))
            agreements.append((ours.argmax(dim=-1) == theirs.argmax(dim=-1)).float())
        all_kl, same = torch.cat(divergences), torch.cat(agreements)
        return float(all_kl.mean()), float(all_kl.quantile(0.99)), float(same.mean()), len(all_kl)


def bytes_of(model: nn.Module) -> int:
    """Of all weights, and of what stands beside them in a file."""
    seen = {tensor.data_ptr(): tensor.nbytes for tensor in model.state_dict().values()}
    return sum(seen.values())


def compare_formats(model: str, number: int) -> None:
    chat = load(model, "cpu", "float32", progress=False)
    prompts = scene_prompts(number) if model == "nano" else built_in_prompts(chat.supports_images)
    reference = Reference(chat, prompts)
    print(f"\n{model}: {len(prompts)} questions\n")
    print("| format | MB | KL, mean | KL, 99th percentile | same likeliest token | tokens |")
    print("|---|---|---|---|---|---|")
    for name, options in FORMATS.items():
        try:
            with rule_of(name):
                other = load(model, "cpu", progress=False, **options)
        except ValueError as error:
            print(f"| {name} | {error} |")
            continue
        mean, high, same, count = reference.compare(other)
        size = bytes_of(other.model) / 1e6
        print(
            f"| {name} | {size:.2f} | {mean:.5f} | {high:.4f} | {same:.1%} | {count} |", flush=True
        )


def compare_rules(model: str, number: int, shifts: int) -> None:
    """Both rules of 4 bits on the decoder's layers, with groups that begin elsewhere each time."""
    chat = load(model, "cpu", "float32", progress=False)
    prompts = scene_prompts(number) if model == "nano" else built_in_prompts(chat.supports_images)
    reference = Reference(chat, prompts)
    names = [
        name
        for name in PackedConfig("int4", {"embed_tokens": 0, "lm_head": 0}).bits_of(chat.model)
        if "vision_tower" not in name and "resampler" not in name
    ]
    print(f"\n{model}: the decoder's layers alone, {shifts} shifts\n")
    print("| rule | squared error | KL, mean | spread of that mean | same likeliest token |")
    print("|---|---|---|---|---|")
    rules: dict[str, Callable[[Tensor], tuple[Tensor, Tensor]]] = {
        "int4": quantiser._int4,
        "Q4_0": q4_0,
    }
    for label, rule in rules.items():
        results, errors = [], []
        for shift in range(0, 32, max(1, 32 // shifts)):
            other = copy.copy(chat)
            other.model = copy.deepcopy(chat.model)
            off, size = 0.0, 0.0
            for name in names:
                weight = other.model.get_submodule(name).weight.data
                rounded = _rounded(weight.roll(shift, 1), rule).roll(-shift, 1)
                off += float((rounded - weight).square().sum())
                size += float(weight.square().sum())
                weight.copy_(rounded)
            results.append(reference.compare(other))
            errors.append(off / size)
        means = [result[0] for result in results]
        spread = statistics.stdev(means) / len(means) ** 0.5 if len(means) > 1 else 0.0
        same = statistics.mean(result[2] for result in results)
        print(
            f"| {label} | {statistics.mean(errors):.5f} | {statistics.mean(means):.5f} | "
            f"{spread:.5f} | {same:.1%} |",
            flush=True,
        )


def _rounded(weight: Tensor, rule: Callable[[Tensor], tuple[Tensor, Tensor]]) -> Tensor:
    rows, width = weight.shape
    groups = nn.functional.pad(weight, (0, -width % 32)).view(-1, 32).t().contiguous()
    codes, scales = rule(groups)
    return ((codes.float() - 8) * scales.float()).t().reshape(rows, -1)[:, :width]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("models", nargs="*", default=["nano"], metavar="FOLDER")
    parser.add_argument("--number", type=int, default=8, help="questions of each task (default: 8)")
    parser.add_argument("--shifts", type=int, default=0, help="compare the rules so many times")
    args = parser.parse_args()
    for model in args.models:
        compare_formats(model, args.number)
        if args.shifts:
            compare_rules(model, args.number, args.shifts)


if __name__ == "__main__":
    main()
