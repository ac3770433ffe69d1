#!/usr/bin/env bash
# torch 2.13.0: a TorchFunctionMode is not there in the backward pass, so what gradient checkpointing computes again escapes it.
#
# A TorchFunctionMode sees every torch function that is called inside its `with` block; it is how one exchanges or counts, say,
# all F.linear of a model without touching it. backward() is called inside the block too, and with gradient checkpointing
# (use_reentrant=False) it runs the Python code of the forward pass once more. An engineer expects the mode to see the second run
# as it saw the first, or the two runs to be refused as different. The mode is off there, silently: the first run computes with the
# exchanged function, the one that the gradients come from with the original. The same holds for a custom Function's backward.
#
# Seen: a layer that the mode doubles gives 2x in the forward pass and 1x when it is computed again; F.linear calls seen: 1 of 2.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" numpy
cat > "$work/mode.py" <<'PYTHON'
import torch
from torch.nn.functional import linear
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

weight = torch.eye(3)
results: list[float] = []
seen = 0


class Doubled(TorchFunctionMode):
    def __torch_function__(self, function, types, args=(), kwargs=None):
        global seen
        result = function(*args, **(kwargs or {}))
        if function is linear:
            seen += 1
            result = 2 * result
        return result


def layer(x):
    result = torch.nn.functional.linear(x, weight)
    results.append(result.sum().item())
    return result.square()


with Doubled():
    checkpoint(layer, torch.ones(1, 3, requires_grad=True), use_reentrant=False).sum().backward()
print(f"forward {results[0]:g}, again {results[1]:g}, calls seen {seen} of {len(results)}")
PYTHON
seen=$("$work/venv/bin/python" "$work/mode.py")
echo "$seen"
[ "$seen" = "forward 6, again 3, calls seen 1 of 2" ] || { echo "CHANGED: the mode holds in the backward pass, or it is refused"; exit 1; }
echo "as described: the mode is off where the layer is computed again"
