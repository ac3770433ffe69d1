"""What tests of the scenes share."""

import random
import re

from minicpmv.scenes.figures import icons
from minicpmv.scenes.figures.colours import COLOURS
from minicpmv.scenes.figures.things import NAMES
from minicpmv.scenes.questions.figures import QUESTIONS
from minicpmv.scenes.questions.naming import plural


def icon_scene(seed, split="train", size=None):
    return icons.paint(random.Random(f"{split}:{seed}"), split, seed, "icons", size)


def asked(scenes, task, tries=6):
    for scene in scenes:
        for trial in range(tries):
            question = QUESTIONS[task](scene, random.Random(1000 * scene.seed + trial))
            if question is not None:
                yield scene, question


def named_in(text):
    """Names and colours that stand in a text, in order."""
    forms = {form: name for name in NAMES for form in (plural(name), name)}
    ordered = sorted(forms, key=len, reverse=True)
    names = [forms[m] for m in re.findall(rf"\b({'|'.join(ordered)})\b", text)]
    return names, re.findall(rf"\b({'|'.join(COLOURS)})\b", text)


def options_of(question):
    pattern = r"\(?\b([A-D])[.)] ([\w ]+?)(?= \(?[A-D][.)] |\n|$)"
    return dict(re.findall(pattern, question))
