#!/usr/bin/env bash
# transformers 5.23.0: apply_chat_template writes into the caller's processor_kwargs, so a later call loses its start token.
#
# processor.apply_chat_template(..., processor_kwargs=options) passes a dictionary on to the processor. When the rendered text begins with
# the tokenizer's start token, `add_special_tokens=False` is set so that it is not written twice: into the caller's own dictionary.
# A program that keeps one dictionary for all of its requests, as one does with options, then gets no start token for any text
# whose template does not write one: other ids, other answers, no message.
#
# Seen: with a dictionary of its own "[1, 5]"; with the dictionary that an earlier call was given "[5]"; the dictionary then
# is {'add_special_tokens': False}.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "transformers==5.23.0" \
  "tokenizers==0.23.3" "numpy==2.4.6" "jinja2==3.1.6"
cat > "$work/chat.py" <<'PYTHON'
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, ProcessorMixin


class Processor(ProcessorMixin):
    def __init__(self, tokenizer, **kwargs):
        super().__init__(tokenizer, **kwargs)


words = Tokenizer(models.WordLevel({"<unk>": 0, "<s>": 1, "hello": 5}, unk_token="<unk>"))
words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
words.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
processor = Processor(PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", unk_token="<unk>"))
with_start = "{{ bos_token }} {{ messages[0]['content'] }}"
without = "{{ messages[0]['content'] }}"


def ids(template, options):
    messages = [{"role": "user", "content": "hello"}]
    return processor.apply_chat_template(
        messages, chat_template=template, tokenize=True, return_dict=True, processor_kwargs=options
    )["input_ids"]


print("own", ids(without, {"padding": False}))
options = {"padding": False}
ids(with_start, options)
print("shared", ids(without, options))
print("options", {key: options[key] for key in options if key != "padding"})
PYTHON
"$work/venv/bin/python" "$work/chat.py" 2> "$work/err" > "$work/out" || { tail -3 "$work/err"; exit 1; }
cat "$work/out"
grep -qx "own \[1, 5\]" "$work/out" || { echo "CHANGED: no start token at all"; exit 1; }
grep -qx "shared \[5\]" "$work/out" || { echo "CHANGED: the second call keeps its start token"; exit 1; }
echo "as described: one call's add_special_tokens=False stays in the caller's dictionary"
