"""lm-evaluation-harness 0.4.13 with our text models, by its own class `hf`.

    pip install -e . "lm_eval==0.4.13"
    python tests/suites/evaluation/lm_eval_text.py [FOLDER]

FOLDER is a checkpoint of a text model; by default the tiny recorded ones of the tests. A local task
of choices and one of generated answers run offline in processes of their own, one request at a
time and in batches. Every log-probability is compared with a forward pass of `minicpmv.load`'s
model, every answer with its `generate`.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

import minicpmv

ROOT = Path(__file__).parents[3]
RECORDED = [ROOT / "tests" / "golden" / name / "ckpt" for name in ("minicpm-2b", "minicpm-1b")]
ROWS = [
    {"question": f"{number} and {number + 1} make", "choices": [" a sum", " nothing", " 12"]}
    for number in range(8)
]
MAX_NEW_TOKENS = 12

_YAML = """\
task: {task}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: {kind}
doc_to_text: "{{{{question}}}}"
{more}
metadata:
  version: 1
"""
_CHOICE = """\
doc_to_choice: choices
doc_to_target: 0
target_delimiter: ""
metric_list:
  - metric: acc
"""
_GENERATE = f"""\
doc_to_target: a sum
generation_kwargs:
  max_gen_toks: {MAX_NEW_TOKENS}
  do_sample: false
  until:
    - "zqx"
metric_list:
  - metric: exact_match
"""


def run(folder: Path, model: Path, batch_size: int) -> dict[str, list[dict]]:
    """The harness's samples of both tasks."""
    out = folder / f"{model.parent.name}-{batch_size}"
    command = [sys.executable, "-m", "minicpmv.integrations.lm_eval", "--model", "hf"]
    command += ["--model_args", f"pretrained={model},dtype=float32", "--device", "cpu"]
    command += ["--batch_size", str(batch_size), "--include_path", str(folder)]
    command += ["--tasks", "ours_choice,ours_generate", "--log_samples", "--output_path", str(out)]
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(folder / "hf")}
    done = subprocess.run(command, env={**os.environ, **offline}, capture_output=True, text=True)
    files = {task: list(out.rglob(f"samples_{task}*")) for task in ("ours_choice", "ours_generate")}
    if done.returncode or not all(files.values()):
        sys.exit(f"lm_eval failed:\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}")
    found = {}
    for task, (file,) in files.items():
        samples = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        found[task] = sorted(samples, key=lambda sample: sample["doc_id"])
    return found


@torch.inference_mode()
def logprob_of(model, tokenizer, text: str, continuation: str) -> float:
    """Of the tokens that the continuation adds to a text."""
    before = len(tokenizer(text)["input_ids"])
    ids = torch.tensor([tokenizer(text + continuation)["input_ids"]])
    logprobs = model(input_ids=ids).logits[0].float().log_softmax(-1)
    return sum(float(logprobs[at - 1, ids[0, at]]) for at in range(before, ids.shape[1]))


@torch.inference_mode()
def answer_to(model, tokenizer, text: str) -> str:
    ids = torch.tensor([tokenizer(text)["input_ids"]])
    made = model.generate(input_ids=ids, max_new_tokens=MAX_NEW_TOKENS, do_sample=False)
    text = tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True)
    return text.partition("zqx")[0]


def check(folder: Path, checkpoint: Path) -> None:
    chat = minicpmv.load(checkpoint, device="cpu", dtype="float32", progress=False)
    model, tokenizer = chat.model, chat.processor.tokenizer
    for batch_size in (1, 3):
        found = run(folder, checkpoint, batch_size)
        for row, sample in zip(ROWS, found["ours_choice"], strict=True):
            for choice, (given,) in zip(row["choices"], sample["resps"], strict=True):
                own = logprob_of(model, tokenizer, row["question"], choice)
                assert abs(float(given[0]) - own) < 1e-3, (row, choice, given, own)
        for row, sample in zip(ROWS, found["ours_generate"], strict=True):
            own = answer_to(model, tokenizer, row["question"])
            assert sample["resps"][0][0] == own, (row, sample["resps"], own)
        print(
            f"{checkpoint}, batches of {batch_size}: {3 * len(ROWS)} log-probabilities and "
            f"{len(ROWS)} answers are the same",
            flush=True,
        )


def main(*checkpoints: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = folder / "rows.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
        for task, kind, more in (
            ("ours_choice", "multiple_choice", _CHOICE),
            ("ours_generate", "generate_until", _GENERATE),
        ):
            written = _YAML.format(task=task, data=data, kind=kind, more=more)
            (folder / f"{task}.yaml").write_text(written)
        for checkpoint in map(Path, checkpoints or map(str, RECORDED)):
            check(folder, checkpoint)


if __name__ == "__main__":
    main(*sys.argv[1:])
