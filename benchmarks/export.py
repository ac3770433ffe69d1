"""Time `minicpmv export gguf` beside `llama-quantize`, in one run, and compare what they write.

    LLAMA_CPP_DIR=llama.cpp/build python benchmarks/export.py [--types Q4_0 Q8_0 ...]

Ours reads a bfloat16 checkpoint and writes the GGUF file; theirs reads the F16 GGUF file of the
same checkpoint (written by us, not timed). Both run one after another on all cores, each as often
as `--times` says; the shorter time counts. Quantisers are compiled before, once per machine; the
longest of them is printed. The weights are random: the time hardly depends on them.

    LLAMA_CPP_DIR=llama.cpp/build python benchmarks/export.py --load MODEL.gguf [--tokens 64 512]

times the way back instead, from starting a process to the first token of an answer; see
`first_token.py`.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parents[1]))
import first_token

from minicpmv.bench.llama_cpp import program
from minicpmv.bench.machine import machine_facts
from minicpmv.checkpoint.tensors import skeleton
from minicpmv.devices import num_cores
from minicpmv.export.gguf.run import export_gguf
from minicpmv.gguf.container import GGUFFile
from minicpmv.gguf.quantise import quantise
from minicpmv.gguf.types import FILE_TYPES, TYPES, UNQUANTISED
from minicpmv.loader import MODEL_CLASSES, model_config

NANO = Path(__file__).parents[1] / "minicpmv" / "nano"
DEFAULT = ["Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_0", "Q3_K_M", "Q2_K", "IQ4_XS"]


def write_checkpoint(folder: Path, layers: int, width: int) -> int:
    """A model in the layout of 2.6 with the vocabulary of nano; number of its weights."""
    folder.mkdir(parents=True)
    for path in NANO.iterdir():
        if path.suffix != ".safetensors":
            shutil.copy(path, folder)
    fields = json.loads((NANO / "config.json").read_text(encoding="utf-8"))
    fields |= {
        "hidden_size": width,
        "intermediate_size": width * 37 // 7 // 256 * 256,  # as that of 2.6
        "num_hidden_layers": layers,
        "num_attention_heads": width // 128,
        "num_key_value_heads": max(1, width // 128 // 7),
    }
    (folder / "config.json").write_text(json.dumps(fields), encoding="utf-8")
    model: Any = skeleton(MODEL_CLASSES["minicpmv"], model_config(fields))
    pool = torch.randn(1 << 22, generator=torch.Generator().manual_seed(0)).mul_(0.02).bfloat16()
    tensors, place = {}, 0
    for name, parameter in model.named_parameters():
        count = parameter.numel()
        repeated = pool.roll(place).repeat(-(-count // len(pool)))[:count]
        tensors[model.released_name(name)] = repeated.reshape(parameter.shape).contiguous()
        place += 7919
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return sum(tensor.numel() for tensor in tensors.values())


def compile_quantisers() -> dict[str, float]:
    """Seconds until the first block of each type is there."""
    found = {}
    for name, type_ in TYPES.items():
        if type_ not in UNQUANTISED:
            start = time.perf_counter()
            quantise(np.zeros((1, 256), np.float32), type_)
            found[name] = time.perf_counter() - start
    return found


def timed(run: Callable[[], object], times: int) -> float:
    best = float("inf")
    for _ in range(times):
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
    return best


def different(ours: Path, theirs: Path) -> int:
    """How many tensors have other bytes."""
    first, second = GGUFFile(ours), GGUFFile(theirs)
    if list(first.tensors) != list(second.tensors):
        raise ValueError("The files have other tensors.")
    return sum(
        first.info(name).type != second.info(name).type
        or not np.array_equal(first.blocks(name), second.blocks(name))
        for name in first.tensors
    )


def measure(folder: Path, name: str, quantiser: str, times: int) -> dict[str, Any]:
    ours, theirs = folder / "ours.gguf", folder / "theirs.gguf"

    def run_ours() -> None:
        options: dict[str, Any] = {"mmproj": None, "progress": False, "overwrite": True}
        export_gguf(folder / "model", ours, [name], **options)

    def run_theirs() -> None:
        command = [quantiser, str(folder / "source.gguf"), str(theirs), name, str(num_cores())]
        environment = os.environ | {"LD_LIBRARY_PATH": str(Path(quantiser).parent)}
        subprocess.run(command, check=True, capture_output=True, env=environment)

    seconds = timed(run_ours, times)
    reference = timed(run_theirs, times)
    found = {
        "type": name,
        "bytes": ours.stat().st_size,
        "ours_s": round(seconds, 2),
        "llama_quantize_s": round(reference, 2),
        "speed": round(reference / seconds, 2),
        "different_tensors": different(ours, theirs),
    }
    ours.unlink()
    theirs.unlink()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--types", nargs="+", default=DEFAULT, choices=list(FILE_TYPES))
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--width", type=int, default=3584)
    parser.add_argument("--times", type=int, default=1)
    parser.add_argument("--folder", help="where files are written, e.g. /dev/shm")
    parser.add_argument("--load", type=Path, help="a GGUF file, to be loaded and asked")
    parser.add_argument("--tokens", type=int, nargs="+", default=[64, 512], help="of its prompt")
    args = parser.parse_args()
    if args.load is not None:
        facts = machine_facts(torch.device("cpu"))
        print(f"{facts['processor']}, {facts['date']}, {facts['commit']}")
        first_token.table(args.load, args.tokens, torch.get_num_threads(), args.times)
        return
    quantiser = program("llama-quantize")
    if quantiser is None:
        sys.exit(
            "There is no llama-quantize: build llama.cpp and let LLAMA_CPP_DIR name the build."
        )
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        weights = write_checkpoint(folder / "model", args.layers, args.width)
        export_gguf(folder / "model", folder / "source.gguf", ["F16"], mmproj=None, progress=False)
        facts = machine_facts(torch.device("cpu"))
        compiled = compile_quantisers()
        print(f"{facts['processor']}, {num_cores()} cores, {facts['date']}, {facts['commit']}")
        print(f"{weights / 1e6:.0f} million weights; first blocks {max(compiled.values()):.1f} s\n")
        print("| type | MB | minicpmv export | llama-quantize | speed | other tensors |")
        print("|---|---|---|---|---|---|")
        for each in args.types:
            row = measure(folder, each, quantiser, args.times)
            print(
                f"| {row['type']} | {row['bytes'] / 1e6:.0f} | {row['ours_s']:.2f} s "
                f"| {row['llama_quantize_s']:.2f} s | {row['speed']:.2f} "
                f"| {row['different_tensors']} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
