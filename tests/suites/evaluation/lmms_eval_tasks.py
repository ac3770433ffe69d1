"""Small tasks for lmms-eval over pictures that are drawn here: what it needs stands in one folder.

tasks = write_tasks(folder)      # then: lmms_eval --include_path folder --tasks ours_generate
"""

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from minicpmv.scenes import render

NUMBER = 12
SIZES = ((448, 300), (120, 90), (300, 640), (900, 500))
TASKS = ("ours_generate", "ours_messages", "ours_rounds", "ours_video", "ours_choice")

_UTILS = """
import io
from PIL import Image


def pictures(doc):
    return [Image.open(io.BytesIO(each)).convert("RGB") for each in doc["pictures"]]


def messages(doc, lmms_eval_specific_kwargs=None):
    content = [{"type": "text", "text": "First picture:"}]
    for number, image in enumerate(pictures(doc)):
        content.append({"type": "image", "url": image})
        content.append({"type": "text", "text": f"That was picture {number + 1}."})
    content.append({"type": "text", "text": doc["question"]})
    return [{"role": "user", "content": content}]


def video(doc):
    return [doc["video"]]


def rounds(doc, lmms_eval_specific_kwargs=None, previous_output=None, round_idx=None,
           previous_round_info=None):
    if round_idx is None:
        return doc["question"]
    said = list(previous_output)
    if round_idx == 1:
        return pictures(doc), f"You said {said[0]!r}. How many are there?", False, said, "second"
    return None, None, True, said, previous_round_info


def exact(doc, results):
    said = results[0]
    said = said if isinstance(said, str) else said[-1]
    return {"exact": float(said.strip() == doc["answer"])}
"""

_YAML = """\
task: {task}
dataset_path: parquet
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: {kind}
doc_to_visual: !function lmms_utils.{visual}
doc_to_text: {text}
doc_to_target: answer
{more}
metadata:
  version: 1
"""
_GENERATION = """\
generation_kwargs:
  max_new_tokens: 12
  temperature: 0
  do_sample: false
  image_aspect_ratio: original
  until:
    - "\\n\\n"
process_results: !function lmms_utils.exact
metric_list:
  - metric: exact
    aggregation: mean
    higher_is_better: true
"""
_CHOICE = """\
doc_to_choice: choices
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
"""


def rows():
    """The questions, about one picture, or two, of all sizes."""
    found = []
    for number in range(NUMBER):
        shown = []
        for each in range(1 + (number % 3 == 0)):
            file = io.BytesIO()
            image = render(5000 + 10 * number + each, "test").image
            image.resize(SIZES[(number + each) % len(SIZES)]).save(file, "PNG")
            shown.append(file.getvalue())
        question = ("How many things are there?", "What colour is the thing?")[number % 2]
        choices = ["red", "green", "blue"]
        found.append({"question": question, "pictures": shown, "answer": "red", "choices": choices})
    return found


def write_video(path: Path) -> None:
    """Twelve frames in two seconds, which change once."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=6)
        stream.width, stream.height, stream.pix_fmt = 224, 160, "yuv420p"
        for number in range(12):
            image = render(7000 + number // 6, "test").image.resize((224, 160))
            for packet in stream.encode(av.VideoFrame.from_image(image)):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


def write_tasks(folder: Path) -> None:
    """The data and the tasks."""
    asked = rows()
    clip = folder / "clip.mp4"
    write_video(clip)
    data = folder / "rows.parquet"
    pq.write_table(pa.Table.from_pylist([{**row, "video": str(clip)} for row in asked]), data)
    (folder / "lmms_utils.py").write_text(_UTILS)
    plain = '"{{question}}"'
    parts = {
        "ours_generate": ("generate_until", "pictures", plain, _GENERATION),
        "ours_messages": (
            *("generate_until", "pictures", plain),
            f"{_GENERATION}doc_to_messages: !function lmms_utils.messages\n",
        ),
        "ours_rounds": (
            *("generate_until_multi_round", "pictures", "!function lmms_utils.rounds"),
            _GENERATION,
        ),
        "ours_video": ("generate_until", "video", plain, _GENERATION),
        "ours_choice": ("multiple_choice", "pictures", plain, _CHOICE),
    }
    for task, (kind, visual, text, more) in parts.items():
        written = _YAML.format(task=task, data=data, kind=kind, visual=visual, text=text, more=more)
        (folder / f"{task}.yaml").write_text(written)
