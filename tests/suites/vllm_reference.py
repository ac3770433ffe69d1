"""What our own model answers, for `vllm.py`: greedy tokens and their log-probabilities.

    python -m tests.suites.vllm_reference GOLDEN OUT

Writes checkpoints where they must be made, and OUT/cases.json: for each member its folder and its
cases. A process of its own, since vLLM changes transformers' classes where it runs.
"""

import base64
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from PIL import Image

import minicpmv
from minicpmv import load

from ..replay.formats import read_all
from ..replay.kinds import REPLAYS
from .vllm_checkpoints import adapter_for, text_checkpoint

MAX_NEW_TOKENS = 12
LONGEST = 2048  # tokens of a recorded prompt
NANO = Path(minicpmv.__file__).parent / "nano"
SETTINGS = {"max_slice_nums", "use_image_id"}
TYPED = "Is (<image>./</image>) <image> or </s><|im_end|> <unk> seen?"
PNG_MODES = {"1", "L", "LA", "P", "RGB", "RGBA"}


class Member:
    """One checkpoint: its cases by name."""

    def __init__(self, folder: Path):
        self.folder = folder
        chat = load(folder, dtype="float32", device="cpu")
        self.model, self.processor = chat.model, chat.processor
        self.cases: dict[str, Any] = {}

    @torch.inference_mode()
    def add(self, name: str, messages: Any, **settings: Any) -> None:
        """A conversation with blocks `{"image": picture}`, `{"video": frames}`, or texts."""
        inputs = self.processor.apply_chat_template(
            messages,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            **({"processor_kwargs": settings} if settings else {}),
        )
        prompt = inputs["input_ids"]
        output = self.model.generate(
            **inputs,
            do_sample=False,
            num_beams=1,
            repetition_penalty=1.0,
            max_new_tokens=MAX_NEW_TOKENS,
            output_logits=True,
            return_dict_in_generate=True,
            temperature=None,
            top_p=None,
            top_k=None,
        )
        ids = output.sequences[0, prompt.shape[1] :].tolist()
        scores = torch.stack(output.logits)[:, 0].float().log_softmax(dim=-1)
        self.cases[name] = {
            "messages": [openai_message(message) for message in messages],
            "settings": settings,
            "prompt_ids": prompt[0].tolist(),
            "ids": ids,
            "logprobs": scores.gather(1, torch.tensor(ids)[:, None])[:, 0].tolist(),
        }


def openai_message(message: dict[str, Any]) -> dict[str, Any]:
    content = message["content"]
    parts = content if isinstance(content, list) else [content]
    return {"role": message["role"], "content": [openai_part(part) for part in parts]}


def openai_part(part: Any) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    if isinstance(part, Image.Image):
        return {"type": "image_url", "image_url": {"url": png(part)}}
    if part.get("type") == "text":
        return part
    if "video" in part:
        frames = ",".join(frame.info["encoded"] for frame in part["video"])
        return {"type": "video_url", "video_url": {"url": f"data:video/jpeg;base64,{frames}"}}
    return openai_part(part["image"])


def png(image: Image.Image) -> str:
    image = image if image.mode in PNG_MODES else image.convert("RGB")
    return f"data:image/png;base64,{encoded(image, 'PNG')}"


def encoded(image: Image.Image, form: str) -> str:
    stream = io.BytesIO()
    image.save(stream, form)
    return base64.b64encode(stream.getvalue()).decode()


def as_jpeg(image: Image.Image) -> Image.Image:
    text = encoded(image.convert("RGB"), "JPEG")
    frame = Image.open(io.BytesIO(base64.b64decode(text)))
    frame.info["encoded"] = text
    return frame


def add_recorded(member: Member, cases: list[Any]) -> list[Image.Image]:
    """The recorded conversations that can be asked over HTTP; returns their pictures."""
    pictures: dict[str, Image.Image] = {}
    for case in cases:
        replay = REPLAYS[case.kind](case)
        options = dict(replay.settings)
        if options.get("max_inp_length", 0) >= LONGEST:  # cuts nothing
            del options["max_inp_length"]
        if set(options) - SETTINGS:
            continue
        for number, conversation in enumerate(replay.conversations):
            name = f"{case.name}-{number}" if len(replay.conversations) > 1 else case.name
            member.add(name, conversation, **options)
            pictures |= {png(image): image for image in pictures_of(conversation)}
    return list(pictures.values())


def pictures_of(conversation: Any) -> Iterator[Image.Image]:
    for message in conversation:
        if isinstance(message["content"], list):
            for part in message["content"]:
                if isinstance(part, Image.Image):
                    yield part


def add_ours(member: Member, pictures: list[Image.Image]) -> None:
    """Pictures of unlike shape in both orders, a video, settings, typed tags."""
    first, *_, second = sorted(pictures, key=lambda image: image.width / image.height)
    adaptive = member.processor.release.slicing == "adaptive"
    settings: list[dict[str, Any]] = [{}]
    if adaptive:
        settings += [{"max_slice_nums": 1}, {"max_slice_nums": 4}]
    for setting in settings:
        name = "-".join(["", *(str(value) for value in setting.values())])
        for order, pair in (("ab", (first, second)), ("ba", (second, first))):
            content = [*pair, "Which is larger?"]
            member.add(f"pair-{order}{name}", [{"role": "user", "content": content}], **setting)
    typed = {"role": "user", "content": [first, TYPED]}
    member.add("typed-tags", [typed])
    member.add("typed-tags-alone", [{"role": "user", "content": TYPED}])
    small = [as_jpeg(image.convert("RGB").resize((80, 60))) for image in (first, second, first)]
    video = {"role": "user", "content": [{"type": "video", "video": small}, "What moves?"]}
    member.add("video", [video])
    both = [{"type": "video", "video": small}, second, "Which came first?"]
    member.add("video-and-picture", [{"role": "user", "content": both}])


def members(golden: Path, out: Path) -> Iterator[tuple[str, Member]]:
    by_folder: dict[Path, list[Any]] = {}
    for case in read_all(golden):
        if case.kind == "conversation":
            by_folder.setdefault(case.checkpoint, []).append(case)
    pictures: list[Image.Image] = []
    for folder, cases in by_folder.items():
        member = Member(folder)
        pictures = add_recorded(member, cases) or pictures
        print(f"{cases[0].model}: {len(member.cases)} prompts of {len(cases)} calls", flush=True)
        add_ours(member, pictures)
        yield cases[0].model, member
    nano = Member(NANO)
    add_ours(nano, pictures)
    yield "nano", nano
    adapted = Member(NANO)
    adapter_for(adapted.model, out / "adapter")
    adapted.add("lora", [{"role": "user", "content": [pictures[0], "What is this?"]}])
    yield "nano-lora", adapted
    text_checkpoint(golden, out / "text-moe", "moe")
    for kind in ("dense", "grouped", "dynamic"):
        text = Member(text_checkpoint(golden, out / f"text-{kind}", kind))
        for number, words in enumerate(("Hello", "Name three colours.", TYPED)):
            text.add(f"text-{number}", [{"role": "user", "content": words}])
        yield f"text-{kind}", text


def main() -> None:
    golden, out = map(Path, sys.argv[1:])
    found = {}
    for name, member in members(golden, out):
        print(name, len(member.cases), flush=True)
        found[name] = {"folder": str(member.folder), "cases": member.cases}
    (out / "cases.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
