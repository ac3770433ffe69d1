#!/usr/bin/env bash
# accelerate 1.15.0: on CPUs, an FSDP plugin is dropped without a word, and every process holds the whole model.
#
# Accelerator(fsdp_plugin=...) or a config file asks for weights that are spread over processes. PyTorch's fully_shard works on
# processors with gloo, and people try a configuration there before they pay for graphics cards. With cpu=True the plugin is taken, the
# distributed type becomes MULTI_CPU, and prepare() returns DistributedDataParallel: losses are right, so the run looks like a
# proof that the configuration works, but nothing of it was used. Nothing is warned or logged. (`accelerate launch --use_cpu` does the same
# to the FSDP of its config file.) torch's own fully_shard in the same two processes spreads the same model.
#
# Seen, two processes of gloo: "MULTI_CPU, DistributedDataParallel, 144 of 144 parameters in each process"; by fully_shard
# "72 of 144 parameters in each process".
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "accelerate==1.15.0" numpy
cat > "$work/spread.py" <<'PYTHON'
import torch
from accelerate import Accelerator, FullyShardedDataParallelPlugin
from torch import nn
from torch.distributed.fsdp import fully_shard


def layers() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))


def held(model: nn.Module) -> int:
    parts = (p.to_local() if hasattr(p, "to_local") else p for p in model.parameters())
    return sum(part.numel() for part in parts)


plugin = FullyShardedDataParallelPlugin(
    fsdp_version=2,
    auto_wrap_policy="transformer_based_wrap",
    transformer_cls_names_to_wrap=["Linear"],
)
accelerator = Accelerator(cpu=True, fsdp_plugin=plugin)
model = accelerator.prepare(layers())
mesh = torch.distributed.init_device_mesh("cpu", (2,))
by_torch = fully_shard(layers(), mesh=mesh)
if accelerator.is_main_process:
    kind = f"{accelerator.distributed_type.name}, {type(model).__name__}"
    print(f"{kind}, {held(model)} of 144 parameters in each process")
    print(f"fully_shard: {held(by_torch)} of 144 parameters in each process")
torch.distributed.destroy_process_group()
PYTHON
OMP_NUM_THREADS=1 "$work/venv/bin/torchrun" --nproc-per-node 2 "$work/spread.py" > "$work/out" 2> "$work/err" || { tail -5 "$work/err"; exit 1; }
cat "$work/out"
if grep -qi "fsdp" "$work/err"; then echo "CHANGED: stderr tells"; cat "$work/err"; exit 1; fi
grep -qx "fully_shard: 72 of 144 parameters in each process" "$work/out" || { echo "CHANGED: fully_shard"; exit 1; }
grep -qx "MULTI_CPU, DistributedDataParallel, 144 of 144 parameters in each process" "$work/out" || {
  echo "CHANGED: the plugin is used, or refused"; exit 1; }
echo "as described: the plugin is dropped, and nobody is told"
