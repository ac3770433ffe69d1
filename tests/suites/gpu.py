"""The engine on an accelerator, beside `generate` there and float32 on the CPU.

    python -m pytest tests/suites/gpu.py   # DEVICE=cuda:1: another; DEVICE=cpu: try the file

Float32 products are exact here (no TF32), so answers are equal up to ties, which `compared` knows.
"""

import os
import random
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch

from minicpmv import Chat, kernels, load
from minicpmv.engine.graphs import RecordedSteps
from minicpmv.engine.limits import EngineLimits
from minicpmv.kernels import ops
from minicpmv.scenes import render
from tests.helpers.alone import Report
from tests.helpers.chats import FOLDERS
from tests.helpers.mixes import check_mix

DEVICE = os.environ.get("DEVICE", "cuda")
QUESTIONS = ["What is written?", "How many shapes are there?", "What colour is the background?"]
NUM_MIXES = int(os.environ.get("MIXES", "40"))


@pytest.fixture(scope="module", autouse=True)
def _exact_products() -> None:
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def in_torch(function: Callable, *given: Any) -> Any:
    """What an operation gives without kernels."""
    with kernels.disabled():
        return function(*given)


def near(found: torch.Tensor, expected: torch.Tensor) -> None:
    limits = {
        torch.float32: (1e-5, 1e-5),
        torch.bfloat16: (2e-2, 2e-2),
        torch.float16: (2e-3, 2e-3),
    }
    rtol, atol = limits[found.dtype]
    torch.testing.assert_close(found, expected, rtol=rtol, atol=atol)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_kernels_are_the_operations_in_torch(dtype: torch.dtype) -> None:
    assert DEVICE == "cpu" or ops.triton_kernels() is not None
    torch.manual_seed(0)
    options: dict[str, Any] = {"dtype": dtype, "device": DEVICE}
    for width in (64, 1152, 3584):
        x, weight = torch.randn(7, width, **options), torch.randn(width, **options)
        near(ops.rms_norm(x, weight, 1e-6), in_torch(ops.rms_norm, x, weight, 1e-6))
        near(ops.silu_and_mul(x, x.flip(0)), in_torch(ops.silu_and_mul, x, x.flip(0)))
    for heads, kv_heads, dim in ((28, 4, 128), (36, 36, 64), (4, 2, 24), (32, 8, 80)):
        keys, values = torch.randn(2, 40, 32, kv_heads, dim, **options)
        tables = torch.randint(0, 40, (5, 24), dtype=torch.int32, device=DEVICE)
        lengths = torch.tensor([1, 768, 65, 32, 333], dtype=torch.int32, device=DEVICE)
        query = torch.randn(5, heads, dim, **options)
        for window in (None, 50):
            given = (query, keys, values, tables, lengths, dim**-0.5, window)
            near(ops.paged_attention(*given), in_torch(ops.paged_attention, *given))
        for angle in {dtype, torch.float32}:
            turns = torch.randn(5, dim, device=DEVICE)
            cos, sin = turns.cos().to(angle), turns.sin().to(angle)
            key, value = torch.randn(2, 5, kv_heads, dim, **options)
            slots = torch.tensor([3, 40, 99, 140, 1279], device=DEVICE)
            given = (query, key, value, cos, sin, keys, values, slots)
            one = [part.clone() for part in given]
            other = [part.clone() for part in given]
            ops.rotate_and_write(*one)
            in_torch(ops.rotate_and_write, *other)
            for found, expected in zip(one, other, strict=True):
                if found.is_floating_point():
                    near(found, expected)


@pytest.fixture(scope="module")
def nano() -> Chat:
    return load(device=DEVICE, dtype="float32")


@pytest.fixture(scope="module")
def pictures() -> list:
    return [render(seed, split="test").image for seed in range(8)]


def recorded(chat: Chat) -> RecordedSteps | None:
    runtime = chat.engine._current()
    assert runtime is not None
    return runtime.decoder.recorded_steps


def test_nano_answers_as_on_the_cpu(nano: Chat, pictures: list) -> None:
    on_cpu = load(device="cpu", dtype="float32")
    requests = [(question, [picture]) for picture in pictures for question in QUESTIONS]
    together = nano.batch(requests, sampling=False)
    expected = on_cpu.batch(requests, sampling=False)
    assert [str(one) for one in together] == [str(one) for one in expected]
    alone = [nano.ask(*request, sampling=False) for request in requests]
    assert [str(one) for one in alone] == [str(one) for one in expected]
    steps = recorded(nano)
    if torch.device(DEVICE).type == "cuda":
        assert steps is not None
        assert len(steps._sizes) >= 2, "nothing was recorded"


def test_seeds_draw_the_same_alone_and_together(nano: Chat, pictures: list) -> None:
    options = {"sampling": True, "temperature": 1.5, "max_new_tokens": 24}
    alone = [str(nano.ask("Describe it.", [pictures[0]], seed=s, **options)) for s in range(6)]
    found: dict[int, str] = {}

    def ask(seed: int) -> None:
        found[seed] = str(nano.ask("Describe it.", [pictures[0]], seed=seed, **options))

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[seed] for seed in range(6)] == alone
    assert len(set(alone)) > 1


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_answers_most_questions_alike(dtype: str, pictures: list) -> None:
    half, full = (load(device=DEVICE, dtype=name) for name in (dtype, "float32"))
    requests = [(question, [picture]) for picture in pictures for question in QUESTIONS]
    pairs = zip(half.batch(requests), full.batch(requests), strict=True)
    same = [str(one) == str(other) for one, other in pairs]
    assert sum(same) >= 0.9 * len(same)


@pytest.mark.parametrize("name", FOLDERS)
def test_mixes_are_answered_as_alone(name: str) -> None:
    loaded = load(FOLDERS[name], device=DEVICE, dtype="float32")
    report = Report()
    for seed in range(max(1, NUM_MIXES // len(FOLDERS))):
        rng = random.Random(seed)
        limits = EngineLimits(
            max_running=rng.choice([1, 3, 64]), piece_tokens=rng.choice([7, 32, 100])
        )
        with Chat(loaded.model, loaded.processor, limits=limits) as chat:
            report += check_mix(chat, seed)
    print(name, report)
    assert report.answers > 0
