"""Speed of the products of packed weights against reading memory, and against torch's products.

    python benchmarks/kernels.py [--threads 2] [--seconds 1] [--rows 1 4 512] [--layers decoder]

One row: bytes of weights per second, over the rate at which the same threads read memory in turn
with it. Many rows: billions of operations per second, over torch's float32 and bfloat16 products
of the same shape. Every figure is the best of many runs that alternate with its peers: in wall
time, and with one thread in CPU time, which other work on the machine disturbs less.
"""

import argparse
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from minicpmv.kernels import PackedWeight, library, packed_linear, why_not
from minicpmv.kernels.processor import instruction_sets, processor_name

# (outputs, inputs): of Qwen2-7B, the decoder of 2.6, and of its vision tower.
LAYERS = {
    "decoder": [(3584, 3584), (512, 3584), (18944, 3584), (3584, 18944)],
    "vision": [(1152, 1152), (4304, 1152), (1152, 4304)],
}
CACHE = 256 << 20  # bytes that are walked through, so that no weight is still in the cache


def random_weight(bits: int, outputs: int, inputs: int) -> PackedWeight:
    """Any bytes: the time does not depend on them, except on scales that are not finite."""
    packed = PackedWeight.empty(bits, outputs, inputs)
    packed.data.random_(0, 127)
    packed.data[:, :, :32].view(torch.float16).fill_(0.01)
    return packed


def best_of(calls: dict[str, Callable[[], object]], seconds: float) -> dict[str, float]:
    """The least seconds of each call, taken in turn: wall time, and CPU time with one thread."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    best = dict.fromkeys(calls, float("inf"))
    for call in calls.values():
        call()
    end = time.perf_counter() + seconds * len(calls)
    while time.perf_counter() < end:
        for name, call in calls.items():
            start = clock()
            call()
            best[name] = min(best[name], clock() - start)
    return best


def measure_one_row(bits: int, outputs: int, inputs: int, seconds: float) -> str:
    """Reading weights of one shape, against reading the same number of bytes."""
    first = random_weight(bits, outputs, inputs)
    count = max(2, CACHE // first.data.numel())
    weights = [first, *(random_weight(bits, outputs, inputs) for _ in range(count - 1))]
    x = torch.randn(1, inputs)
    state = {"next": 0}

    def each(work: Callable[[PackedWeight], object]) -> Callable[[], object]:
        def call() -> object:
            state["next"] = (state["next"] + 1) % count
            return work(weights[state["next"]])

        return call

    plain = [weight.data.view(-1).view(torch.float32) for weight in weights]
    calls = {
        "product": each(lambda weight: packed_linear(x, weight)),
        "read": lambda: read(plain, state, count),
    }
    best = best_of(calls, seconds)
    size = first.data.numel() / 1e9
    product, reading = size / best["product"], size / best["read"]
    return f"{product:6.1f} GB/s  read {reading:6.1f} GB/s  ratio {product / reading:.2f}"


def read(plain: list[torch.Tensor], state: dict[str, int], count: int) -> None:
    """Read the bytes of one weight; what is computed with them is one addition per vector."""
    state["next"] = (state["next"] + 1) % count
    plain[state["next"]].sum()


def measure_rows(bits: int, outputs: int, inputs: int, rows: int, seconds: float) -> str:
    """Many rows, against torch."""
    packed = random_weight(bits, outputs, inputs)
    x, dense = torch.randn(rows, inputs), torch.randn(outputs, inputs)
    x_half, dense_half = x.bfloat16(), dense.bfloat16()
    calls: dict[str, Callable[[], object]] = {
        "packed": lambda: packed_linear(x, packed),
        "float32": lambda: F.linear(x, dense),
    }
    if instruction_sets() & {"avx512_bf16", "amx_bf16"}:
        calls["bfloat16"] = lambda: F.linear(x_half, dense_half)
    best = best_of(calls, seconds)
    work = 2 * rows * outputs * inputs / 1e9
    figures = [f"{name} {work / best[name]:7.0f}" for name in calls]
    ratios = [f"{best[name] / best['packed']:.2f} of {name}" for name in calls if name != "packed"]
    return "  ".join([*figures, "Gop/s ", *ratios])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seconds", type=float, default=1.0, help="of each figure")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 4, 16, 64, 512])
    parser.add_argument("--layers", choices=LAYERS, nargs="+", default=list(LAYERS))
    parser.add_argument("--bits", type=int, choices=(4, 8), nargs="+", default=[4, 8])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    found = library()
    compiled = " ".join(found.target) if found else f"none, {why_not()}"
    print(f"{processor_name()}, {options.threads} threads, kernels: {compiled}", flush=True)
    for name in options.layers:
        for outputs, inputs in LAYERS[name]:
            for bits in options.bits:
                for rows in options.rows:
                    if rows == 1:
                        line = measure_one_row(bits, outputs, inputs, options.seconds)
                    else:
                        line = measure_rows(bits, outputs, inputs, rows, options.seconds)
                    shape = f"{outputs} x {inputs}"
                    print(f"{shape:14} {bits} bits  {rows:4} rows  {line}", flush=True)


if __name__ == "__main__":
    main()
