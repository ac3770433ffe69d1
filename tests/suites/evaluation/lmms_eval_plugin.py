"""lmms-eval with our classes gives our own answers: every kind of request, one by one.

    pip install -e . "lmms_eval==0.7.3"      # or with --no-deps and what it asks for
    python tests/suites/evaluation/lmms_eval_plugin.py [MODEL]

lmms-eval runs in processes of its own, offline, finds the model by the entry point, and writes its
samples; this script asks the same of `minicpmv.load(MODEL)`, one request at a time.
"""

import io
import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from lmms_eval_tasks import rows, write_tasks
from PIL import Image

import minicpmv
from minicpmv.decisions.answers import AnswerTokens

OPTIONS = {"max_new_tokens": 12, "sampling": False, "num_beams": 1, "stop": ["\n\n"]}


def run(folder: Path, out: Path, model: str, tasks: str, *flags: str) -> dict[str, list[dict]]:
    """lmms-eval's samples of each task, in the order of the rows."""
    command = [sys.executable, "-m", "lmms_eval", "--model", "minicpmv"]
    command += [
        "--model_args",
        f"pretrained={model},dtype=float32,num_frames=4",
        "--batch_size",
        "5",
    ]
    command += ["--include_path", str(folder), "--tasks", tasks, "--log_samples"]
    command += ["--output_path", str(out), *flags]
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(folder / "hf")}
    done = subprocess.run(command, env={**os.environ, **offline}, capture_output=True, text=True)
    files = {task: list(out.rglob(f"*samples_{task}.jsonl")) for task in tasks.split(",")}
    if done.returncode or not all(files.values()):  # some errors end it with 0
        sys.exit(f"lmms-eval failed:\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}")
    found = {}
    for task, (file,) in files.items():
        samples = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        found[task] = sorted(samples, key=lambda sample: sample["doc_id"])
    return found


def said(sample):
    """What lmms-eval got; several texts where there were several rounds."""
    texts = sample["filtered_resps"]
    while isinstance(texts, list) and len(texts) == 1:
        texts = texts[0]
    return texts


def pictures(row):
    return [Image.open(io.BytesIO(each)).convert("RGB") for each in row["pictures"]]


def interleaved(row):
    blocks = [{"type": "text", "text": "First picture:"}]
    for number, image in enumerate(pictures(row)):
        blocks.append({"type": "image", "image": image})
        blocks.append({"type": "text", "text": f"That was picture {number + 1}."})
    return [{"role": "user", "content": [*blocks, {"type": "text", "text": row["question"]}]}]


def likelihoods(chat, row):
    """Log-probability of every choice by a forward pass of its own."""
    blocks = [{"type": "image", "image": image} for image in pictures(row)]
    messages = [{"role": "user", "content": [*blocks, {"type": "text", "text": row["question"]}]}]
    tokens = AnswerTokens.of_processor(chat.engine.processor)
    conversation = chat.processor.question(messages)
    settings = chat.engine.settings([conversation], {})
    found = []
    for choice in row["choices"]:
        ids = tokens.of(choice)[0]
        found.append(math.fsum(chat.engine.score(conversation, settings, [ids])[0]))
    return found


def their_likelihoods(folder: Path, chat) -> list[list[float]]:
    """What our class says to the requests of a task of choices, as lmms-eval builds them.

    Its evaluator cannot use the answers of any model: `unwrap_generation_output` of 0.7.3 makes a
    text of every (logprob, is_greedy), and the task fails to take it apart.
    """
    from lmms_eval.tasks import TaskManager, get_task_dict

    from minicpmv.integrations.lmms_eval.model import SimpleMiniCPMV

    manager = TaskManager(include_path=str(folder), model_name="minicpmv")
    task = get_task_dict(["ours_choice"], manager, "simple")["ours_choice"]
    task.build_all_requests()
    model = SimpleMiniCPMV(chat.name, dtype="float32")
    model.task_dict["ours_choice"] = task.dataset
    requests = sorted(task.instances, key=lambda each: (each.doc_id, each.idx))
    found = [logprob for logprob, _ in model.loglikelihood(requests)]
    model.clean()
    return [found[start : start + 3] for start in range(0, len(found), 3)]


def compare(name, theirs, ours):
    different = [(a, b) for a, b in zip(theirs, ours, strict=True) if a != b]
    if different:
        sys.exit(f"{name}: {len(different)} of {len(ours)} differ: {different[0]}")
    print(f"{name}: {len(ours)} answers are the same", flush=True)


def main(model: str = "nano") -> None:
    with tempfile.TemporaryDirectory() as folder:
        folder, out = Path(folder), Path(folder, "out")
        write_tasks(folder)
        chat_tasks = "ours_generate,ours_messages,ours_rounds,ours_video"
        theirs = run(folder, out / "chat", model, chat_tasks)
        simple_tasks = "ours_generate,ours_rounds"
        simple = run(folder, out / "simple", model, simple_tasks, "--force_simple")
        asked = rows()
        chat = minicpmv.load(model, dtype="float32", progress=False)  # no ties by rounding
        plain = [chat.ask(row["question"], pictures(row), **OPTIONS).text for row in asked]
        second = [
            chat.ask(f"You said {first!r}. How many are there?", pictures(row), **OPTIONS).text
            for row, first in zip(asked, plain, strict=True)
        ]
        video = {"type": "video", "video": str(folder / "clip.mp4"), "num_frames": 4}
        shown = [
            [{"role": "user", "content": [video, {"type": "text", "text": row["question"]}]}]
            for row in asked
        ]
        rounds = [list(pair) for pair in zip(plain, second, strict=True)]
        for kind, found in (("chat", theirs), ("simple", simple)):
            compare(f"{kind}, generate_until", list(map(said, found["ours_generate"])), plain)
            compare(f"{kind}, rounds", list(map(said, found["ours_rounds"])), rounds)
        compare(
            "chat, messages",
            list(map(said, theirs["ours_messages"])),
            [chat.ask(interleaved(row), **OPTIONS).text for row in asked],
        )
        compare(
            "chat, video",
            list(map(said, theirs["ours_video"])),
            [chat.ask(messages, **OPTIONS).text for messages in shown],
        )
        for row, given in zip(asked, their_likelihoods(folder, chat), strict=True):
            expected = likelihoods(chat, row)
            assert all(abs(a - b) < 1e-4 for a, b in zip(given, expected, strict=True)), given
        print(f"simple, likelihoods: {3 * len(asked)} are the same")


if __name__ == "__main__":
    main(*sys.argv[1:])
