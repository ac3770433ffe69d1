#!/usr/bin/env bash
# transformers 5.23.0: AutoProcessor gives a bare tokenizer for a folder that names a processor class it does not know.
#
# AutoProcessor.register(MyConfig, MyProcessor) is the documented way to add a processor from outside, and save_pretrained writes
# its name into processor_config.json and tokenizer_config.json. In a process that has not imported the package which registers
# it, AutoConfig refuses the same folder: "Transformers does not recognize this architecture". AutoProcessor does not: a name that
# is not known counts as no name, and the tokenizer in the folder is returned as if it were the processor. It takes images=...
# without a word and returns ids alone, so that a model would answer without the picture. stderr speaks of the model type, not of
# the class.
#
# Seen: registered "MyProcessor: attention_mask, input_ids, pixel_values"; not registered "AutoConfig: ValueError" and
# "TokenizersBackend: attention_mask, input_ids".
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "transformers==5.23.0" \
  "tokenizers==0.23.3" "numpy==2.4.6" "pillow==13.0.0"
cat > "$work/save.py" <<'PYTHON'
import sys

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoProcessor,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    ProcessorMixin,
    ViTImageProcessorPil,
)


class MyConfig(PreTrainedConfig):
    model_type = "my_model"


class MyProcessor(ProcessorMixin):
    def __init__(self, image_processor, tokenizer, **kwargs):
        super().__init__(image_processor, tokenizer, **kwargs)


AutoConfig.register("my_model", MyConfig)
AutoProcessor.register(MyConfig, MyProcessor)
if __name__ == "__main__":
    words = Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]")
    MyProcessor(ViTImageProcessorPil(), tokenizer).save_pretrained(sys.argv[1])
    MyConfig().save_pretrained(sys.argv[1])
PYTHON
cat > "$work/load.py" <<'PYTHON'
import sys

from PIL import Image
from transformers import AutoConfig, AutoProcessor

if sys.argv[2:] == ["registered"]:
    import save  # noqa: F401
try:
    print("AutoConfig:", type(AutoConfig.from_pretrained(sys.argv[1])).__name__)
except ValueError as error:
    assert "does not recognize this architecture" in str(error), error
    print("AutoConfig: ValueError")
processor = AutoProcessor.from_pretrained(sys.argv[1])
inputs = processor(text="a a", images=Image.new("RGB", (32, 32)))
print(f"{type(processor).__name__}: {', '.join(sorted(inputs))}")
PYTHON
cd "$work"
export HF_HUB_OFFLINE=1
venv/bin/python save.py model 2> /dev/null
grep -q '"processor_class": "MyProcessor"' model/processor_config.json
grep -q '"processor_class": "MyProcessor"' model/tokenizer_config.json
echo "registered"
venv/bin/python load.py model registered 2> /dev/null | tee with
grep -qx "AutoConfig: MyConfig" with
grep -qx "MyProcessor: attention_mask, input_ids, pixel_values" with
echo "not registered"
if ! venv/bin/python load.py model > without 2> err; then echo "CHANGED: an error"; cat without err; exit 1; fi
cat without
grep -qx "AutoConfig: ValueError" without
if ! grep -qx "TokenizersBackend: attention_mask, input_ids" without; then echo "CHANGED: no bare tokenizer"; exit 1; fi
if grep -qiE "MyProcessor|images|processor class" err; then echo "CHANGED: stderr tells"; cat err; exit 1; fi
echo "as described: the tokenizer is returned in place of a processor that is not known, and drops the picture"
