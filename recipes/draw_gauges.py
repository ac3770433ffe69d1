"""Draw seven-segment displays, a kind of picture that nano has never seen, and read them.

    python recipes/draw_gauges.py draw FOLDER        300 to train on, 200 held out, their JSON
    python recipes/draw_gauges.py read FOLDER -m M   how many of the held-out ones M reads

FOLDER/train.json and FOLDER/held_out.json are in the released format (`image`, `conversations`).
"""

import argparse
import json
import random
from pathlib import Path

from PIL import Image, ImageDraw

QUESTION = "What does the display read?"
SIDE = 224  # pixels: one slice of nano
DIGITS = 3
# Segments: top, upper left, upper right, middle, lower left, lower right, bottom.
SEGMENTS = {
    "0": "1110111", "1": "0010010", "2": "1011101", "3": "1011011", "4": "0111010",
    "5": "1101011", "6": "1101111", "7": "1010010", "8": "1111111", "9": "1111011",
}  # fmt: skip
COLOURS = [(230, 40, 30), (30, 200, 60), (240, 160, 20), (60, 160, 250), (235, 235, 235)]
_SEEDS = {"train": 1, "held_out": 2}


def draw_display(reading: str, rng: random.Random) -> Image.Image:
    """A dark panel with the digits of `reading` somewhere on it, (SIDE, SIDE) RGB."""
    dark = rng.randrange(0, 40)
    image = Image.new("RGB", (SIDE, SIDE), (dark, dark, dark + 8))
    pen = ImageDraw.Draw(image)
    width = rng.randrange(40, 50)
    height, gap, thick = int(width * 1.7), rng.randrange(18, 24), rng.randrange(6, 10)
    whole = len(reading) * width + (len(reading) - 1) * gap
    left = rng.randrange(8, SIDE - whole - 7)
    top = rng.randrange(12, SIDE - height - 11)
    lit = rng.choice(COLOURS)
    unlit = tuple(dark + (value - dark) // 12 for value in lit)  # as on real displays
    for digit in reading:
        for is_lit, box in zip(
            SEGMENTS[digit], _boxes(left, top, width, height, thick), strict=True
        ):
            pen.rounded_rectangle(box, radius=thick // 2, fill=lit if is_lit == "1" else unlit)
        left += width + gap
    return image


def _boxes(
    left: int, top: int, width: int, height: int, thick: int
) -> list[tuple[int, int, int, int]]:
    """The segments of one digit, in the order of SEGMENTS."""
    right, bottom, middle = left + width, top + height, top + height // 2
    half = thick // 2
    across = [(left + thick, y - half, right - thick, y + half) for y in (top, middle, bottom)]
    down = [
        (x - half, y0 + thick, x + half, y1 - thick)
        for y0, y1 in ((top, middle), (middle, bottom))
        for x in (left, right)
    ]
    return [across[0], down[0], down[1], across[1], down[2], down[3], across[2]]


def draw(folder: Path, num_train: int, num_held_out: int) -> None:
    """Write pictures and both JSON files; no reading is in both."""
    readings = [f"{number:0{DIGITS}}" for number in range(10**DIGITS)]
    random.Random(0).shuffle(readings)
    parts = {"train": readings[:num_train], "held_out": readings[num_train:][:num_held_out]}
    for part, own in parts.items():
        rng, rows = random.Random(_SEEDS[part]), []
        (folder / part).mkdir(parents=True, exist_ok=True)
        for number, reading in enumerate(own):
            name = f"{part}/{number:04}.png"
            draw_display(reading, rng).save(folder / name)
            talk = [
                {"role": "user", "content": f"<image>\n{QUESTION}"},
                {"role": "assistant", "content": reading},
            ]
            rows.append({"id": f"{part}-{number}", "image": name, "conversations": talk})
        text = json.dumps(rows, indent=1)
        (folder / f"{part}.json").write_text(text, encoding="utf-8")
        print(f"{folder / part}.json: {len(rows)} displays")


def read(folder: Path, model: str) -> None:
    """Print how many held-out displays a model (or an adapter's folder) reads exactly."""
    from minicpmv import load

    rows = json.loads((folder / "held_out.json").read_text(encoding="utf-8"))
    chat = load(model, progress=False)
    asked = [
        [{"role": "user", "content": [Image.open(folder / row["image"]).convert("RGB"), QUESTION]}]
        for row in rows
    ]
    answers = chat.batch(asked, sampling=False, num_beams=1, max_new_tokens=8)
    wanted = [row["conversations"][1]["content"] for row in rows]
    right = sum(str(answer).strip() == text for answer, text in zip(answers, wanted, strict=True))
    digits = sum(
        a == b
        for answer, text in zip(answers, wanted, strict=True)
        for a, b in zip(str(answer).strip().ljust(DIGITS)[:DIGITS], text, strict=True)
    )
    share, of_digits = 100 * right / len(rows), 100 * digits / (DIGITS * len(rows))
    print(
        f"{model}: {right} of {len(rows)} held-out displays exact ({share:.1f} %), "
        f"{of_digits:.1f} % of digits"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("action", choices=("draw", "read"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("-m", "--model", default="nano", help="of read: a model or an adapter")
    parser.add_argument("--train", type=int, default=300, help="displays to train on")
    parser.add_argument("--held-out", type=int, default=200, help="displays held out")
    args = parser.parse_args()
    if args.action == "draw":
        draw(args.folder, args.train, args.held_out)
    else:
        read(args.folder, args.model)


if __name__ == "__main__":
    main()
