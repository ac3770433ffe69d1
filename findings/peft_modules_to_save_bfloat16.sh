#!/usr/bin/env bash
# peft 0.21.2: on a bfloat16 model, adapters are trained in float32 but modules_to_save stay in bfloat16, and hardly move.
#
# get_peft_model(..., autocast_adapter_dtype=True), the default, makes the new LoRA weights float32 "for stable training". Modules
# named in modules_to_save (a new head, a projector between tower and language model) are new trained copies too, but keep the
# model's bfloat16. A bfloat16 weight has 8 bits: an optimiser's step of 1e-4 on a weight of 0.1 is less than half of the distance
# to the next one, and is rounded away. So the part that the user asked to train in full is the one that stands still, and nothing
# is said. Casting these parameters to float32 by hand is the cure.
#
# Seen: dtypes "lora torch.float32, head torch.bfloat16"; after 50 AdamW steps of 1e-4, share of the head's weights that moved:
# bfloat16 0.27, float32 1.00.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "peft==0.21.2" "transformers==5.23.0" numpy
cat > "$work/train.py" <<'PYTHON'
import torch
from peft import LoraConfig, get_peft_model
from torch import nn


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(64, 64)
        self.head = nn.Linear(64, 16)

    def forward(self, x):
        return self.head(self.body(x))


def share_moved(by_hand: bool) -> float:
    torch.manual_seed(0)
    settings = LoraConfig(target_modules=["body"], modules_to_save=["head"])
    model = get_peft_model(Model().bfloat16(), settings)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    lora = {p.dtype for name, p in trained.items() if "lora_" in name}
    head = {p.dtype for name, p in trained.items() if "modules_to_save" in name}
    if by_hand:
        model.float()
    else:
        print("lora", *lora, "head", *head)
    weight = next(p for name, p in trained.items() if name.endswith("head.modules_to_save.default.weight"))
    before = weight.detach().clone()
    optimizer = torch.optim.AdamW(trained.values(), lr=1e-4, weight_decay=0.0)
    for _ in range(50):
        inputs = torch.randn(32, 64, dtype=weight.dtype)
        (model(inputs).float() - 1).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return (weight != before).float().mean().item()


half, full = share_moved(by_hand=False), share_moved(by_hand=True)
print(f"moved: bfloat16 {half:.2f}, float32 {full:.2f}")
assert half < 0.5 < full, "CHANGED"
PYTHON
"$work/venv/bin/python" "$work/train.py" 2> "$work/err" | tee "$work/out" || { tail -1 "$work/err"; exit 1; }
grep -qx "lora torch.float32 head torch.bfloat16" "$work/out" || { echo "CHANGED: other dtypes"; exit 1; }
echo "as described: the modules that are saved whole stay in bfloat16 and hardly move"
