"""Draw seven-segment displays, a kind of picture that nano has never seen, and read them.

    python recipes/draw_gauges.py draw FOLDER        300 to train on, 200 held out, their JSON
    python recipes/draw_gauges.py read FOLDER -m M   how many of the held-out ones M reads

FOLDER/train.json and FOLDER/held_out.json are in the released format (`image`, `conversations`).
With `--seed N` the held-out ones are others, in FOLDER/held_out-N.json: those to look at while
choosing options need not be those that are reported. No reading is trained and held out, and none
of the first held-out displays comes in those of another seed.
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


def held_out_name(seed: int) -> str:
    """Of the folder and the JSON file of held-out displays."""
    return f"held_out-{seed}" if seed else "held_out"


def readings_of(num_train: int, num_held_out: int, seed: int) -> tuple[list[str], list[str]]:
    """What is trained, always the same, and what is held out with a seed.

    Raises:
        ValueError: there are fewer readings than that.
    """
    readings = [f"{number:0{DIGITS}}" for number in range(10**DIGITS)]
    random.Random(0).shuffle(readings)
    rest = readings[num_train:]
    if seed:
        rest = rest[num_held_out:]
        random.Random(seed).shuffle(rest)
    if len(rest) < num_held_out:
        raise ValueError(
            f"{num_train} trained readings leave {len(rest)} of {len(readings)} for seed {seed}; "
            f"--held-out is {num_held_out}."
        )
    return readings[:num_train], rest[:num_held_out]


def draw(folder: Path, num_train: int, num_held_out: int, seed: int) -> None:
    """Write pictures and both JSON files; no reading is in both."""
    trained, held_out = readings_of(num_train, num_held_out, seed)
    for part, own, drawn_by in (
        ("train", trained, 1),
        (held_out_name(seed), held_out, 2 + seed),
    ):
        rng, rows = random.Random(drawn_by), []
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


def read(folder: Path, model: str, seed: int) -> None:
    """Print how many held-out displays a model (or an adapter's folder) reads exactly."""
    from minicpmv import load
    from minicpmv.evaluate.intervals import wilson_interval

    rows = json.loads((folder / f"{held_out_name(seed)}.json").read_text(encoding="utf-8"))
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
    low, high = (100 * end for end in wilson_interval(right, len(rows)))
    print(
        f"{model}: {right} of {len(rows)} displays of {held_out_name(seed)} exact ({share:.1f} %, "
        f"95 % interval {low:.1f} to {high:.1f}), {of_digits:.1f} % of digits"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("action", choices=("draw", "read"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("-m", "--model", default="nano", help="of read: a model or an adapter")
    parser.add_argument("--train", type=int, default=300, help="displays to train on")
    parser.add_argument("--held-out", type=int, default=200, help="displays held out")
    parser.add_argument("--seed", type=int, default=0, help="of the held-out displays (default: 0)")
    args = parser.parse_args()
    if args.seed < 0:
        parser.error(f"--seed is {args.seed}; it must be at least 0")
    if args.action == "draw":
        try:
            draw(args.folder, args.train, args.held_out, args.seed)
        except ValueError as error:
            parser.error(str(error))
    else:
        read(args.folder, args.model, args.seed)


if __name__ == "__main__":
    main()
