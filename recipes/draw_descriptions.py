#!/usr/bin/env python
"""Drawn pictures with the question what is on them, for recipes/align_nano.sh.

    python recipes/draw_descriptions.py runs/pictures --number 400

writes FOLDER/descriptions.json in the official format, and the pictures beside it. Each row says in
`scene` how its picture was drawn, so that the judge "scene" knows what is true of it. Pictures of
the split "train" and of "test", which `minicpmv evaluate scenes` asks about, share nothing.
"""

import argparse
import json
import random
from pathlib import Path

from minicpmv.scenes.questions.figures import QUESTIONS
from minicpmv.scenes.render import render

KINDS = ("few", "many", "icons", "icons")  # icons are taken for one another most often
FIRST_SEED = 7_000_000  # far from the seeds that nano was trained on


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--number", type=int, default=400, help="pictures (default: 400)")
    parser.add_argument("--split", choices=("train", "test"), default="train")
    args = parser.parse_args()
    (args.folder / "pictures").mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(args.number):
        seed, kind = FIRST_SEED + number, KINDS[number % len(KINDS)]
        scene = render(seed, args.split, kind=kind)
        asked = QUESTIONS["caption"](scene, random.Random(seed))
        assert asked is not None
        name = f"pictures/{args.split}-{number:05}.png"
        scene.image.save(args.folder / name)
        rows.append(
            {
                "id": f"{args.split}-{number:05}",
                "image": name,
                "conversations": [
                    {"role": "user", "content": f"<image>\n{asked.text}"},
                    {"role": "assistant", "content": asked.answer},
                ],
                "scene": {"seed": seed, "split": args.split, "kind": kind},
            }
        )
    path = args.folder / "descriptions.json"
    path.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    print(f"{len(rows)} pictures and {path}")


if __name__ == "__main__":
    main()
