"""Pairs of pictures: whether they are the same, which of them shows something, what is different.

They are drawn from layouts: one is sampled, and the other is the same layout with one thing
changed, so the facts that tell them apart are known. Training asks several questions about most
pairs, as one alone teaches next to nothing; held-out examples ask one.
"""

import dataclasses
import random
from collections.abc import Sequence

from minicpmv.scenes.examples.changes import (
    change_ground,
    change_one,
    recolour,
    rename,
    resize,
    shift,
)
from minicpmv.scenes.examples.few_shot import print_text
from minicpmv.scenes.figures import colours
from minicpmv.scenes.figures.degrade import add_noise, compress, degrade
from minicpmv.scenes.figures.icons import sample_layout
from minicpmv.scenes.figures.shapes import SHAPES
from minicpmv.scenes.figures.things import Layout, draw
from minicpmv.scenes.questions.figures import MAX_COUNT, relations
from minicpmv.scenes.questions.naming import article, describe, plural
from minicpmv.scenes.questions.statements import misprint
from minicpmv.scenes.scene import Example, Figure, Scene, Turn
from minicpmv.scenes.text.lettering import random_word

ORDINALS = ("first", "second", "third")
COMPARED_SHARE = 0.6  # of the training pairs that are the same or not, those asked about in detail
SHOWN_SHARE = 0.3  # of the training pairs of which one fits, those asked for all that they show
MAX_QUESTIONS = 8  # about a pair, in training


def sample_small_size(rng: random.Random) -> tuple[int, int]:
    """Height and width of one picture among several: at most one slice."""
    if rng.random() < 0.6:
        return 224, 224
    side, ratio = rng.uniform(150, 224), rng.uniform(0.66, 1.5)
    return int(side / ratio**0.5), int(side * ratio**0.5)


def _sort(rng: random.Random) -> str:
    return rng.choice(("icons", "icons", "shapes", "shapes", "mixed"))


# Same or not


_SAME = (
    "Are the two pictures the same?",
    "Are these pictures the same?",
    "Are the two images identical?",
    "Do both pictures show the same?",
    "Is the second picture the same as the first?",
    "Are these two images the same?",
    "Same or different?",
    "Are the pictures the same or different?",
)


def same(rng: random.Random, split: str, seed: int) -> Example:
    """Two pictures that are the same or differ in one thing or in everything."""
    if split == "train" and rng.random() < COMPARED_SHARE:
        return _compared(rng, split, seed)
    alike = rng.random() < 0.5
    if rng.random() < 0.18:
        scenes = _two_prints(alike, rng, split, seed)
    else:
        scenes = _two_layouts(alike, rng, split, seed)
    if rng.random() < 0.15:
        spoil = rng.choice((add_noise, compress))
        scenes = [spoil(scene, rng, 0.2) for scene in scenes]
    return Example(tuple(scenes), (_whether_same(alike, rng),))


def _whether_same(alike: bool, rng: random.Random) -> Turn:
    question = rng.choice(_SAME)
    if "different" not in question:
        return Turn("same", question, "yes" if alike else "no", (0, 1))
    if alike:
        return Turn("same", question, "the same", (0, 1), ("same",))
    return Turn("same", question, "different", (0, 1))


def _compared(rng: random.Random, split: str, seed: int) -> Example:
    """Two pictures of a few things, and one question about each of them.

    In half of the cases the first question is whether the pictures are the same. Where they are, it
    is the only one, as its answer tells all the others.
    """
    size, sort = sample_small_size(rng), _sort(rng)
    number = rng.choice((1, 2, 3, 3, 4, 4))
    first = sample_layout(rng, split, size, number, crowd=False, sort=sort, named=True)
    second, lot = first, rng.random()
    if lot < 0.25:
        number = rng.choice((1, 2, 3))
        second = sample_layout(rng, split, size, number, crowd=False, sort=_sort(rng), named=True)
    elif lot < 0.6:
        for i in range(len(first.things)):
            if i == 0 or rng.random() < 0.5:
                change = rng.choice((recolour, recolour, rename, resize, shift))
                second = change(second, i, rng) or second
    pair = [first, second]
    if rng.random() < 0.5:
        pair.reverse()
    names = list({thing.name: None for layout in pair for thing in layout.things})
    rng.shuffle(names)
    turns = [_about_both(name, pair, rng) for name in names[: MAX_QUESTIONS - 1]]
    if rng.random() < 0.5:
        turns = [_whether_same(first == second, rng), *(turns if first != second else ())]
    turns[0] = dataclasses.replace(turns[0], shown=(0, 1))
    return Example(tuple(draw(layout, split, seed) for layout in pair), tuple(turns))


def _about_both(name: str, pair: Sequence[Layout], rng: random.Random) -> Turn:
    """Whether a thing is on both pictures, where it is if not, or whether it is the same there."""
    one, other = (next((t for t in layout.things if t.name == name), None) for layout in pair)
    lot = rng.random()
    if lot < 0.35:
        form = rng.choice(
            ("Do both pictures show {}?", "Is there {} in both pictures?", "Do you see {} in both?")
        )
        on_both = one is not None and other is not None
        return Turn("same_part", form.format(article(name)), "yes" if on_both else "no")
    if one is None or other is None:
        form = rng.choice(("Which picture shows {}?", "In which picture is there {}?"))
        return Turn("which", form.format(article(name)), f"the {ORDINALS[one is None]}")
    if lot < 0.7:
        form = rng.choice(
            ("Does the {} have the same colour in both pictures?", "Has the {} another colour now?")
        )
        truth = (one.colour == other.colour) == form.startswith("Does")
    else:
        form = rng.choice(
            ("Is the {} unchanged in the second picture?", "Has anything about the {} changed?")
        )
        truth = (one == other) == form.startswith("Is")
    return Turn("same_part", form.format(name), "yes" if truth else "no")


def _two_layouts(alike: bool, rng: random.Random, split: str, seed: int) -> list[Scene]:
    size = sample_small_size(rng)
    layout = sample_layout(rng, split, size, rng.choice((1, 2, 2, 3, 3, 4)), sort=_sort(rng))
    other = layout
    if not alike:
        change = change_one(layout, rng) if rng.random() < 0.75 else None
        other = change[2] if change else sample_layout(rng, split, size, sort=_sort(rng))
    pair = [layout, other]
    if rng.random() < 0.5:
        pair.reverse()
    return [draw(layout, split, seed) for layout in pair]


def _two_prints(alike: bool, rng: random.Random, split: str, seed: int) -> list[Scene]:
    text = _short_text(rng, split)
    state = rng.getrandbits(32)
    other = (
        text if alike else misprint(text, rng) if rng.random() < 0.5 else _short_text(rng, split)
    )
    if not alike and other == text:
        other = misprint(text, rng)
    return [print_text(t, random.Random(state), split, seed) for t in (text, other)]


def _short_text(rng: random.Random, split: str) -> str:
    if rng.random() < 0.3:
        return str(rng.randint(1, 9999))
    while True:
        text = random_word(rng, split)
        if 2 <= len(text) <= 8:
            return text


# Which of them


def which(rng: random.Random, split: str, seed: int) -> Example:
    """Two pictures, now and then three, of which only one fits the question."""
    number = 3 if rng.random() < 0.15 else 2
    lot = rng.random()
    asks_all = split == "train" and rng.random() < SHOWN_SHARE
    if lot < 0.2:
        texts: list[str] = []
        while len(texts) < number:
            text = _short_text(rng, split)
            if text.lower() not in [t.lower() for t in texts]:
                texts.append(text)
        scenes = [print_text(text, rng, split, seed) for text in texts]
        facts: list[tuple[str, int] | None] = [_word_fact(texts, rng) for _ in range(2)]
    else:
        crowd = lot > 0.65
        sort = _sort(rng)
        layouts = [
            sample_layout(
                rng,
                split,
                sample_small_size(rng),
                None if crowd else rng.choice((1, 1, 2, 3)),
                crowd=crowd,
                sort=sort,
                named=True,
            )
            for _ in range(number)
        ]
        if rng.random() < 0.4:  # alike but for one thing
            change = change_one(layouts[0], rng)
            if change is not None:
                layouts[1] = change[2]
        elif crowd:  # the same things in another number
            layouts = [_repaint(layouts[0], layout) for layout in layouts]
        scenes = [draw(layout, split, seed) for layout in layouts]
        if rng.random() < 0.25:
            scenes = [degrade(scene, rng, 0.4 * rng.random()) for scene in scenes]
        facts = _all_shown(scenes, rng) if asks_all else [_fact(scenes, rng) for _ in range(4)]
    order = list(range(number))
    rng.shuffle(order)
    asked: dict[str, str] = {}
    for fact in facts:
        if fact is not None:
            asked.setdefault(fact[0], ORDINALS[order.index(fact[1])])
    if not asked:  # nothing tells them apart
        return which(rng, split, seed)
    limit = 1 if split == "test" else MAX_QUESTIONS
    turns: list[Turn] = []
    for question, ordinal in list(asked.items())[:limit]:
        shown = tuple(range(number)) if not turns else ()
        digit = str(ORDINALS.index(ordinal) + 1)
        accepted = (
            ordinal,
            f"in the {ordinal}",
            f"the {ordinal} one",
            f"the {ordinal} picture",
            f"the {ordinal} image",
            f"picture {digit}",
            f"image {digit}",
            digit,
        )
        turns.append(Turn("which", question, f"the {ordinal}", shown, accepted))
    return Example(tuple(scenes[i] for i in order), tuple(turns))


def _repaint(model: Layout, layout: Layout) -> Layout:
    """The places of `layout` taken by the things of `model`, over and over."""
    things = [
        dataclasses.replace(
            model.things[i % len(model.things)], centre=thing.centre, radius=thing.radius
        )
        for i, thing in enumerate(layout.things)
    ]
    return Layout(layout.size, model.ground, tuple(things))


def _word_fact(texts: list[str], rng: random.Random) -> tuple[str, int]:
    index = rng.randrange(len(texts))
    text = texts[index]
    kind = "number" if text.isdigit() else "word"
    form = rng.choice(
        (
            'Which picture says "{0}"?',
            'In which picture does it say "{0}"?',
            "Which picture shows the {1} {0}?",
            'Which image contains the {1} "{0}"?',
            "Where is {0} written, in the first or the second picture?"
            if len(texts) == 2
            else "In which picture is {0} written?",
        )
    )
    return form.format(text, kind), index


def _fact(scenes: list[Scene], rng: random.Random) -> tuple[str, int] | None:
    """A question that only one of the scenes answers, and the number of that scene."""
    return rng.choice((_shows, _shows, _has_more, _colour_there, _size_there, _place_there))(
        scenes, rng
    )


def _shows(scenes: list[Scene], rng: random.Random) -> tuple[str, int] | None:
    index = rng.randrange(len(scenes))
    return _shown(scenes, index, rng.choice(scenes[index].figures), rng)


def _all_shown(scenes: list[Scene], rng: random.Random) -> list[tuple[str, int] | None]:
    """One question about every thing that is on one of the scenes only."""
    figures = {
        (i, describe(figure)): figure for i, scene in enumerate(scenes) for figure in scene.figures
    }
    facts = [_shown(scenes, i, figure, rng) for (i, _), figure in figures.items()]
    rng.shuffle(facts)
    return facts


def _shown(
    scenes: list[Scene], index: int, figure: Figure, rng: random.Random
) -> tuple[str, int] | None:
    others = [f for i, scene in enumerate(scenes) if i != index for f in scene.figures]
    by_name = all(f.shape != figure.shape for f in others)
    if any((f.shape, f.colour) == (figure.shape, figure.colour) for f in others):
        return None
    thing = article(figure.shape if by_name and rng.random() < 0.5 else describe(figure))
    form = rng.choice(
        (
            "Which picture shows {}?",
            "In which picture is there {}?",
            "Which image contains {}?",
            "Which picture has {}?",
            "Where do you see {}, in the first or the second picture?"
            if len(scenes) == 2
            else "In which image do you see {}?",
        )
    )
    return form.format(thing), index


def _has_more(scenes: list[Scene], rng: random.Random) -> tuple[str, int] | None:
    figure = rng.choice([f for scene in scenes for f in scene.figures])
    if rng.random() < 0.6:
        name, things = figure.shape, plural(figure.shape)
    else:
        name = None
        all_shapes = all(f.shape in SHAPES for scene in scenes for f in scene.figures)
        things = "shapes" if all_shapes else rng.choice(("things", "objects"))
    counts = [scene.count(name) for scene in scenes]
    more = rng.random() < 0.6 or (name is not None and 0 in counts)
    extreme = max(counts) if more else min(counts)
    if counts.count(extreme) > 1 or max(counts) > MAX_COUNT:
        return None
    word = (
        ("more" if more else "fewer")
        if len(scenes) == 2
        else ("the most" if more else "the fewest")
    )
    form = rng.choice(
        (
            "In which picture are there {} {}?",
            "Which picture has {} {}?",
            "Which picture shows {} {}?",
        )
    )
    return form.format(word, things), counts.index(extreme)


def _single(scenes: list[Scene], rng: random.Random) -> tuple[str, list[Figure]] | None:
    """A name of which every scene has exactly one, and those figures."""
    names = sorted(
        name
        for name in {figure.shape for figure in scenes[0].figures}
        if all(scene.count(name) == 1 for scene in scenes)
    )
    if not names:
        return None
    name = rng.choice(names)
    return name, [scene.find(name)[0] for scene in scenes]


def _colour_there(scenes: list[Scene], rng: random.Random) -> tuple[str, int] | None:
    found = _single(scenes, rng)
    if found is None:
        return _background_there(scenes, rng)
    name, figures = found
    index = rng.randrange(len(scenes))
    colour = figures[index].colour
    if not colour or [figure.colour for figure in figures].count(colour) > 1:
        return None
    return f"In which picture is the {name} {colour}?", index


def _background_there(scenes: list[Scene], rng: random.Random) -> tuple[str, int] | None:
    index = rng.randrange(len(scenes))
    name = scenes[index].background
    if name not in colours.COLOURS or [scene.background for scene in scenes].count(name) > 1:
        return None
    form = rng.choice(
        ("Which picture has a {} background?", "In which picture is the background {}?")
    )
    return form.format(name), index


def _size_there(scenes: list[Scene], rng: random.Random) -> tuple[str, int] | None:
    found = _single(scenes, rng)
    if found is None or len(scenes) > 2:
        return None
    name, figures = found
    areas = [figure.area for figure in figures]
    if max(areas) < 1.6 * min(areas):
        return None
    bigger = rng.random() < 0.5
    word = rng.choice(("bigger", "larger")) if bigger else "smaller"
    return f"In which picture is the {name} {word}?", areas.index((max if bigger else min)(areas))


def _place_there(scenes: list[Scene], rng: random.Random) -> tuple[str, int] | None:
    """Where two things lie to each other, if all pictures have both; else which half one is in."""
    found = _single(scenes, rng)
    if found is None:
        return None
    name, figures = found
    other = _single(scenes, rng)
    if other is not None and other[0] != name:
        pairs = zip(scenes, figures, other[1], strict=True)
        true = [relations(scene, one, two) for scene, one, two in pairs]
        index = rng.randrange(len(scenes))
        if not true[index]:
            return None
        relation = true[index][0]
        axis = {"left of", "right of"} if relation.endswith("of") else {"above", "below"}
        if any(
            relation in said or not axis & set(said) for i, said in enumerate(true) if i != index
        ):
            return None
        return f"In which picture is the {name} {relation} the {other[0]}?", index
    index = rng.randrange(len(scenes))
    axis_number = rng.randrange(2)
    parts = [figure.centre[axis_number] for figure in figures]
    if any(abs(part - 0.5) < 0.1 for part in parts):
        return None
    low = parts[index] < 0.5
    if sum((part < 0.5) == low for part in parts) > 1:
        return None
    side = (("at the top", "at the bottom"), ("on the left", "on the right"))[axis_number][not low]
    return f"In which picture is the {name} {side}?", index


# What is different


def difference(rng: random.Random, split: str, seed: int) -> Example:
    """Two pictures that differ in one thing, which is to be named."""
    size = sample_small_size(rng)
    found = None
    while found is None:
        number = rng.choice((1, 2, 3, 4))
        before = sample_layout(rng, split, size, number, crowd=False, sort=_sort(rng), named=True)
        if rng.random() < 0.1:
            found = change_ground(before, rng)
        else:
            found = change_one(before, rng)
    kind, index, after = found
    if kind == "removed" and rng.random() < 0.5:
        kind, before, after = "added", after, before
    scenes = draw(before, split, seed), draw(after, split, seed)
    name = (after if kind == "added" else before).things[index].name
    question = rng.choice(
        (
            "What is different?",
            "What is the difference?",
            "What is the difference between the two pictures?",
            "What has changed?",
            "What changed from the first to the second picture?",
            "Find the difference.",
            "Spot the difference.",
        )
    )
    follow_up: tuple[str, str] | None = None
    if kind == "colour":
        answer, new = f"the colour of the {name}", after.things[index].colour
        accepted: tuple[str, ...] = (f"the color of the {name}", f"the {name} is {new}")
        follow_up = f"What colour is the {name} in the second picture?", new
    elif kind == "name":
        new = after.things[index].name
        answer = f"the {name} became {article(new)}"
        accepted = (f"the {name} is {article(new)}", f"{article(new)} instead of {article(name)}")
    elif kind == "size":
        grew = after.things[index].radius > before.things[index].radius
        answer = f"the size of the {name}"
        accepted = (f"the {name} is {'bigger' if grew else 'smaller'}",)
        follow_up = f"Is the {name} bigger or smaller now?", "bigger" if grew else "smaller"
    elif kind == "place":
        answer, accepted = f"the place of the {name}", (f"the {name} moved",)
    elif kind == "ground":
        answer, accepted = "the background", ("the colour of the background",)
        follow_up = "What colour is the background now?", after.ground.name
    elif kind == "added":
        answer, accepted = f"the {name} is new", (f"there is {article(name)}", f"the {name}")
    else:
        answer, accepted = f"the {name} is gone", (f"the {name} is missing", f"the {name}")
    turns = [Turn("difference", question, answer, (0, 1), accepted)]
    if follow_up is not None and split == "train":
        turns.append(Turn("difference", *follow_up))
    return Example(scenes, tuple(turns))
