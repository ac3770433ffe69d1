#!/usr/bin/env bash
# lmms-eval 0.7.3: its model `huggingface` loads every checkpoint without its head, and the first question fails.
#
# The class is for any checkpoint of the hub, and means to choose between AutoModelForCausalLM, AutoModelForImageTextToText and AutoModel.
# It looks for the name of the model type ("llama") among the keys of transformers' mappings; those keys are configuration classes, so the
# name is never there, and AutoModel, the model without a head, is what is loaded: with no error and no warning. Models without
# a head do not generate in transformers 5, so an evaluation ends at its first question; where only hidden states are read, nothing tells.
#
# Seen: "loaded LlamaModel", "can generate False", for a folder whose config.json says LlamaForCausalLM and which
# AutoModelForCausalLM loads with its head.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
pip="$work/venv/bin/pip install --quiet --disable-pip-version-check"
$pip "torch==2.13.0" "transformers==5.23.0" "tokenizers==0.23.3" "numpy==2.4.6" "accelerate==1.15.0" "datasets==5.2.0" \
  "evaluate==0.4.6" "loguru==0.7.3" "pytz==2026.6" "pandas==3.1.1" "pillow" "tqdm" "pyyaml" "pydantic"
$pip --no-deps "lmms_eval==0.7.3"
cat > "$work/load.py" <<'PYTHON'
import sys

from lmms_eval.models.chat.huggingface import Huggingface
from tokenizers import Tokenizer, models
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

folder = sys.argv[1]
size = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 8}
LlamaForCausalLM(LlamaConfig(**size)).save_pretrained(folder)
words = Tokenizer(models.WordLevel({"<unk>": 0, "hello": 1}, unk_token="<unk>"))
PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>").save_pretrained(folder)
print("by transformers", type(AutoModelForCausalLM.from_pretrained(folder)).__name__)
model = Huggingface(pretrained=folder, device="cpu", device_map="cpu")._model
print("loaded", type(model).__name__)
print("can generate", hasattr(model, "generate"))
PYTHON
"$work/venv/bin/python" "$work/load.py" "$work/llama" 2> "$work/err" > "$work/out" || { tail -3 "$work/err"; exit 1; }
cat "$work/out"
grep -qx "by transformers LlamaForCausalLM" "$work/out" || { echo "CHANGED: transformers loads another class"; exit 1; }
grep -qx "loaded LlamaModel" "$work/out" || { echo "CHANGED: lmms-eval loads the head"; exit 1; }
grep -qx "can generate False" "$work/out" || { echo "CHANGED: the model generates"; exit 1; }
echo "as described: lmms-eval's model for any checkpoint loads none with its head"
