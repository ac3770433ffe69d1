"""A few solved examples, then a question whose answer has to follow their form.

A form is put together from parts: which facts are told and in what order, under what names, with
what between and around them, in small letters or capitals. One in ten of all combinations is held
out, decided by a checksum, so the form has to be read off the examples and cannot be recalled.
"""

import dataclasses
import json
import random
import zlib
from dataclasses import dataclass

from minicpmv.scenes.figures import shapes
from minicpmv.scenes.figures.colours import COLOURS
from minicpmv.scenes.figures.degrade import degrade
from minicpmv.scenes.figures.icon_parts import ICONS
from minicpmv.scenes.figures.icons import sample_layout
from minicpmv.scenes.figures.things import draw
from minicpmv.scenes.questions.naming import article, plural
from minicpmv.scenes.scene import Example, Scene, Turn
from minicpmv.scenes.text import fonts
from minicpmv.scenes.text.lettering import Sheet, ink_and_paper, largest_size, random_word

REHEARSED_SHARE = 0.75  # of the training examples not about print, those solved in words first
HELD_OUT_SHARE = 10  # one form in ten is kept for testing
KEYS = {  # what a fact is called
    "colour": ("colour", "color", "c", "paint"),
    "thing": ("shape", "thing", "object", "what", "name", "label"),
    "number": ("count", "number", "n", "how many", "total"),
    "text": ("text", "word", "says", "t"),
}
BETWEEN = (" ", ", ", "/", "-", " - ", ": ", "|", " | ", "; ", "_", "+", " & ")
EQUALS = ("=", ": ", ":", " = ", " is ")
BRACKETS = (("", ""), ("(", ")"), ("[", "]"), ("<", ">"), ("{", "}"), ("**", "**"), ('"', '"'))
ENDS = ("", "", "", ".", "!", ";")
SENTENCES = {
    ("colour",): ("It is {colour}.", "I see {colour}.", "The colour is {colour}."),
    ("thing",): ("It is {a_thing}.", "This is {a_thing}.", "I see {a_thing}."),
    ("colour", "thing"): (
        "It is {a_colour} {thing}.",
        "The {thing} is {colour}.",
        "{thing} in {colour}",
        "I see {a_colour} {thing}.",
        "{a_colour} {thing}",
    ),
    ("number",): ("There are {number}.", "I count {number}.", "{number} of them"),
    ("number", "thing"): ("{number} {things}", "I see {number} {things}.", "{things} x {number}"),
    ("text",): ("It says {text}.", "I read {text}.", "The word is {text}."),
}
PROMPTS = (
    "What is this?",
    "What is it?",
    "Answer:",
    "Label:",
    "Label this picture.",
    "Same again.",
    "Output:",
    "And this?",
    "Picture:",
    "Describe it in the same form.",
    "What do you see?",
)


@dataclass(frozen=True)
class Form:
    """How facts are written down."""

    facts: tuple[str, ...]
    style: str  # "values", "keyed", "json" or "sentence"
    keys: tuple[str, ...]
    between: str
    equals: str
    brackets: tuple[str, str]
    end: str
    case: str  # "lower", "upper" or "title"
    sentence: str = ""

    def write(self, values: dict[str, str]) -> str:
        """The facts in this form."""
        cased = {fact: _in_case(value, self.case) for fact, value in values.items()}
        if self.style == "sentence":
            lower = {
                "a_thing": article(values.get("thing", "thing")),
                "a_colour": article(values.get("colour", "colour")),
                "things": plural(values.get("thing", "thing")),
            }
            text = self.sentence.format(**values, **lower)
            return text.upper() if self.case == "upper" else text
        told = [cased[fact] for fact in self.facts]
        if self.style == "json":
            pairs = {
                key: int(value) if value.isdigit() else value
                for key, value in zip(self.keys, told, strict=True)
            }
            return json.dumps(pairs)
        if self.style == "keyed":
            told = [
                f"{key}{self.equals}{value}" for key, value in zip(self.keys, told, strict=True)
            ]
        return f"{self.brackets[0]}{self.between.join(told)}{self.brackets[1]}{self.end}"


def _in_case(text: str, case: str) -> str:
    return {"lower": text, "upper": text.upper(), "title": text.title()}[case]


def sample_form(facts: tuple[str, ...], rng: random.Random, split: str) -> Form:
    """A form for some facts; held-out forms are drawn for testing alone, and then often."""
    held_out = split == "test" and rng.random() < 0.3
    while True:
        order = list(facts)
        if rng.random() < 0.35:
            rng.shuffle(order)
        style = rng.choices(("values", "keyed", "json", "sentence"), (45, 20, 12, 23))[0]
        if style == "sentence" and facts not in SENTENCES:
            continue
        prints = "text" in facts  # what is printed is told as it is printed
        form = Form(
            tuple(order),
            style,
            tuple(rng.choice(KEYS[fact]) for fact in order),
            rng.choice(BETWEEN),
            rng.choice(EQUALS),
            rng.choice(BRACKETS) if rng.random() < 0.4 else ("", ""),
            rng.choice(ENDS),
            "lower" if prints else rng.choice(("lower", "lower", "upper", "title")),
            rng.choice(SENTENCES[facts]) if style == "sentence" else "",
        )
        probe = form.write({"colour": "red", "thing": "car", "number": "3", "text": "Hi"})
        if (zlib.crc32(probe.encode()) % HELD_OUT_SHARE == 0) == held_out:
            return form


def few_shot(rng: random.Random, split: str, seed: int) -> Example:
    """One to four solved pictures and one to solve, each told in the same form. Most training
    examples are solved in words instead: a form is learned from many answers.
    """
    facts, draw_one = rng.choice(
        (
            (("colour",), _draw_thing),
            (("thing",), _draw_thing),
            (("thing",), _draw_thing),
            (("colour", "thing"), _draw_thing),
            (("colour", "thing"), _draw_thing),
            (("colour", "thing"), _draw_thing),
            (("number",), _draw_crowd),
            (("number", "thing"), _draw_crowd),
            (("text",), _draw_text),
        )
    )
    form = sample_form(facts, rng, split)
    prompt = rng.choice(PROMPTS)
    solved = rng.choice((1, 2, 2, 2, 3, 3, 4))
    sort = rng.choice(("icons", "shapes"))
    scenes: list[Scene] = []
    turns: list[Turn] = []
    # In training, the form can be told from the first answer on.
    first_asked = 1 if split == "train" else solved
    if split == "train" and facts != ("text",) and rng.random() < REHEARSED_SHARE:
        turns = _rehearsal(facts, form, prompt, sort, rng)
        first_asked, solved = 0, rng.choice((0, 0, 1))
    seen: set[str] = set()
    while len(scenes) <= solved:
        scene, values = draw_one(rng, split, seed, sort)
        answer = form.write({fact: values[fact] for fact in facts})
        if answer in seen and rng.random() < 0.8:
            continue
        seen.add(answer)
        is_asked = len(scenes) >= first_asked
        turns.append(
            Turn(
                "few_shot" if is_asked else "",
                prompt,
                answer,
                (len(scenes),),
                (),
                facts == ("text",),
            )
        )
        scenes.append(degrade(scene, rng, 0.4 * rng.random()) if rng.random() < 0.2 else scene)
    return Example(tuple(scenes), tuple(turns))


def _rehearsal(
    facts: tuple[str, ...], form: Form, prompt: str, sort: str, rng: random.Random
) -> list[Turn]:
    """Two to six things told in words and then in the form, at the cost of no picture."""
    turns: list[Turn] = []
    for _ in range(rng.randint(2, 6)):
        values = {
            "number": str(rng.randint(2, 6)),
            "colour": rng.choice(list(COLOURS)),
            "thing": rng.choice(_names(sort)),
        }
        several = "number" in facts
        words = values | {"thing": plural(values["thing"]) if several else values["thing"]}
        told = " ".join(words[fact] for fact in words if fact in facts)
        question = rng.choice(("{0}. {1}", "{0}. {1}", "{1} {0}", "{0}\n{1}")).format(told, prompt)
        answer = form.write({fact: values[fact] for fact in facts})
        turns.append(Turn("few_shot_told" if turns else "", question, answer))
    return turns


def _names(sort: str) -> list[str]:
    """Names of one word."""
    return [name for name in (ICONS if sort == "icons" else shapes.SHAPES) if " " not in name]


_Drawn = tuple[Scene, dict[str, str]]


def _draw_thing(rng: random.Random, split: str, seed: int, sort: str) -> _Drawn:
    side = rng.choice((168, 196, 224))
    while True:
        layout = sample_layout(rng, split, (side, side), 1, crowd=False, sort=sort, named=True)
        (thing,) = layout.things
        if " " not in thing.name:
            return draw(layout, split, seed), {"colour": thing.colour, "thing": thing.name}


def _draw_crowd(rng: random.Random, split: str, seed: int, sort: str) -> _Drawn:
    """Some of one thing."""
    name = rng.choice(_names(sort))
    layout = sample_layout(
        rng, split, (224, 224), rng.randint(2, 6), crowd=True, sort=sort, named=True
    )
    things = [
        dataclasses.replace(thing, name=name, degrees=0.0, style="flat") for thing in layout.things
    ]
    scene = draw(layout.with_things(things), split, seed)
    return scene, {"number": str(len(things)), "thing": name}


def _draw_text(rng: random.Random, split: str, seed: int, sort: str) -> _Drawn:
    while True:
        text = random_word(rng, split)
        if 2 <= len(text) <= 7:
            break
    return print_text(text, rng, split, seed), {"text": text}


def print_text(text: str, rng: random.Random, split: str, seed: int) -> Scene:
    """A small picture of one printed word or number."""
    height, width = rng.choice(((224, 224), (160, 224), (112, 224), (96, 192)))
    ink, paper = ink_and_paper(rng)
    face = fonts.choose(split, rng)
    fit = largest_size(face, text, 0.5 * height, 0.94 * width - 2)
    size_px = max(12, round(rng.uniform(0.6, 1.0) * fit))
    sheet = Sheet(height, width, paper, ink)
    left, top, right, bottom = fonts.load(face, size_px).getbbox(
        text, anchor="ls", stroke_width=2 * face.stroke
    )
    x = 1 + max(0.0, width - 2 - (right - left)) * rng.random() - left
    y = 1 + max(0.0, height - 2 - (bottom - top)) * rng.random() - top
    sheet.write(text, face, size_px, x, y, kind="number" if text.isdigit() else "word")
    return Scene(split, seed, sheet.image, "", (), tuple(sheet.texts), "word")
