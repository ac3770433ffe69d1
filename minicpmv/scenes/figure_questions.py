"""Questions about figures, and captions, derived from the facts of a scene.

Answers are short: one word, a number, yes or no; descriptions are one sentence. Every task is a
function from scene to question, or None where the scene does not admit one; false statements are
made as near to true ones as the scene allows.
"""

import random
from collections.abc import Callable

from minicpmv.scenes.colours import COLOURS
from minicpmv.scenes.scene import Figure, Question, Scene
from minicpmv.scenes.shapes import SHAPES

MAX_COUNT = 6
PLURALS = {"cross": "crosses"}
PLACES = (
    ("top left", "top", "top right"),
    ("left", "centre", "right"),
    ("bottom left", "bottom", "bottom right"),
)


def plural(noun: str) -> str:
    """The plural of a shape's name."""
    return PLURALS.get(noun, noun + "s")


def _article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _colour_of(scene: Scene, rng: random.Random) -> Question | None:
    shapes = [
        shape for shape in SHAPES if len({figure.colour for figure in scene.find(shape)}) == 1
    ]
    if not shapes:
        return None
    shape = rng.choice(shapes)
    found = scene.find(shape)
    if len(found) == 1:
        form = rng.choice(
            (
                "What colour is the {}?",
                "What color is the {}?",
                "What colour is the {} in the picture?",
                "Which colour does the {} have?",
                "What is the colour of the {}?",
            )
        )
        return Question("colour", form.format(shape), found[0].colour)
    form = rng.choice(("What colour are the {}?", "What color are the {}?"))
    return Question("colour", form.format(plural(shape)), found[0].colour)


def _shape_of(scene: Scene, rng: random.Random) -> Question | None:
    colours = [
        colour
        for colour in COLOURS
        if len({figure.shape for figure in scene.find(colour=colour)}) == 1
    ]
    if not colours:
        return None
    colour = rng.choice(colours)
    found = scene.find(colour=colour)
    if len(found) == 1:
        forms = [
            "What shape is {}?",
            "Which shape is {}?",
            "What is the {} shape?",
            "What shape is the {} one?",
            "What is {}?",
        ]
        if len(scene.figures) == 1:
            forms += ["What shape is this?", "Which shape do you see?", "What shape is it?"]
    else:
        forms = ["What shape are the {} ones?", "Which shape do the {} ones have?"]
    return Question("shape", rng.choice(forms).format(colour), found[0].shape)


def _existence(scene: Scene, rng: random.Random) -> Question | None:
    present = {(figure.shape, figure.colour) for figure in scene.figures}
    if not present:
        return None
    seen_shapes = sorted({shape for shape, _ in present})
    seen_colours = sorted({colour for _, colour in present})
    wanted = rng.random() < 0.5
    lot = rng.random()
    sole = [figure for figure in scene.figures if scene.count(figure.shape) == 1]
    if sole and lot > 0.85:
        figure = rng.choice(sole)
        colour = figure.colour
        if not wanted:
            nearby = [c for c in seen_colours if c != colour]
            others = [c for c in COLOURS if c != colour]
            colour = rng.choice(nearby if nearby and rng.random() < 0.6 else others)
        return Question("existence", f"Is the {figure.shape} {colour}?", "yes" if wanted else "no")
    if lot < 0.35:
        shape = rng.choice(seen_shapes if wanted else [s for s in SHAPES if s not in seen_shapes])
        if rng.random() < 0.3:
            text = f"Are there any {plural(shape)}?"
            return Question("existence", text, "yes" if wanted else "no")
        thing = _article(shape)
    elif lot < 0.55:
        colour = rng.choice(
            seen_colours if wanted else [c for c in COLOURS if c not in seen_colours]
        )
        thing = f"anything {colour}" if rng.random() < 0.5 else f"{_article(colour)} shape"
    else:
        if wanted:
            shape, colour = rng.choice(sorted(present))
        else:  # one half of the description fits, often both halves, but not together
            candidates = [
                (shape, colour)
                for shape in SHAPES
                for colour in COLOURS
                if (shape in seen_shapes or colour in seen_colours)
                and (shape, colour) not in present
            ]
            crossed = [
                (shape, colour)
                for shape, colour in candidates
                if shape in seen_shapes and colour in seen_colours
            ]
            shape, colour = rng.choice(crossed if crossed and rng.random() < 0.5 else candidates)
        thing = _article(f"{colour} {shape}")
    form = rng.choice(
        (
            "Is there {}?",
            "Is there {} in the picture?",
            "Is there {} in the image?",
            "Is there {} here?",
            "Do you see {}?",
            "Can you see {}?",
        )
    )
    return Question("existence", form.format(thing), "yes" if wanted else "no")


def _counting(scene: Scene, rng: random.Random) -> Question | None:
    if not scene.figures:
        return None
    seen = rng.choice(scene.figures)
    lot = rng.random()
    if lot < 0.4:
        shape = seen.shape if rng.random() < 0.9 else rng.choice(list(SHAPES))
        number, things = scene.count(shape), plural(shape)
    elif lot < 0.6:
        colour = seen.colour if rng.random() < 0.9 else rng.choice(list(COLOURS))
        number, things = scene.count(colour=colour), f"{colour} shapes"
    elif lot < 0.8:
        shape, colour = seen.shape, seen.colour
        if rng.random() < 0.15:
            colour = rng.choice(list(COLOURS))
        number, things = scene.count(shape, colour), f"{colour} {plural(shape)}"
    else:
        number, things = len(scene.figures), "shapes"
    if number > MAX_COUNT:
        return None
    form = rng.choice(
        (
            "How many {} are there?",
            "How many {} are in the picture?",
            "How many {} are in the image?",
            "How many {} do you see?",
            "How many {} can you see?",
            "Count the {}.",
        )
    )
    return Question("counting", form.format(things), str(number))


def _describe(figure: Figure) -> str:
    return f"{figure.colour} {figure.shape}"


def _unique(scene: Scene) -> list[Figure]:
    return [f for f in scene.figures if scene.count(f.shape, f.colour) == 1]


def _name(scene: Scene, figure: Figure) -> str:
    """The shortest name that fits no other figure."""
    return figure.shape if scene.count(figure.shape) == 1 else _describe(figure)


def _relation(scene: Scene, rng: random.Random) -> Question | None:
    unique = _unique(scene)
    if len(unique) < 2:
        return None
    first, second = rng.sample(unique, 2)
    down = first.centre[0] - second.centre[0]
    across = first.centre[1] - second.centre[1]
    if max(abs(down), abs(across)) < 0.12:
        return None
    if abs(across) > abs(down):
        truth, opposite = ("right of", "left of") if across > 0 else ("left of", "right of")
    else:
        truth, opposite = ("below", "above") if down > 0 else ("above", "below")
    names = _name(scene, first), _name(scene, second)
    if rng.random() < 0.5:
        said, answer = (truth, "yes") if rng.random() < 0.5 else (opposite, "no")
        return Question("relation", f"Is the {names[0]} {said} the {names[1]}?", answer)
    options = [truth, opposite]
    rng.shuffle(options)
    text = f"Is the {names[0]} {options[0]} or {options[1]} the {names[1]}?"
    return Question("relation", text, truth)


def place_of(figure: Figure) -> str:
    """The ninth of the picture in which the middle of a figure lies."""
    y, x = figure.centre
    return PLACES[min(2, int(3 * y))][min(2, int(3 * x))]


def _position(scene: Scene, rng: random.Random) -> Question | None:
    # A middle close to the border between two ninths would make the answer a matter of taste.
    clear = [
        figure
        for figure in _unique(scene)
        if all(abs(part - border) > 0.05 for part in figure.centre for border in (1 / 3, 2 / 3))
    ]
    if not clear:
        return None
    figure = rng.choice(clear)
    form = rng.choice(("Where is the {}?", "Where is the {} in the picture?"))
    return Question("position", form.format(_name(scene, figure)), place_of(figure))


def _size(scene: Scene, rng: random.Random) -> Question | None:
    unique = _unique(scene)
    if len(unique) < 2:
        return None
    first, second = rng.sample(unique, 2)
    if max(first.area, second.area) < 1.5 * min(first.area, second.area):
        return None
    word = rng.choice(("bigger", "smaller"))
    larger = first if first.area > second.area else second
    answer = larger if word == "bigger" else (first if larger is second else second)
    names = _name(scene, first), _name(scene, second)
    text = f"Which is {word}, the {names[0]} or the {names[1]}?"
    return Question("size", text, f"the {_name(scene, answer)}")


def _background(scene: Scene, rng: random.Random) -> Question | None:
    if not scene.figures or scene.background not in COLOURS:
        return None
    form = rng.choice(("What colour is the background?", "What color is the background?"))
    return Question("background", form, scene.background)


def caption(scene: Scene) -> str:
    """One sentence that names everything: figures from top to bottom grouped by kind, then the
    text.
    """
    groups: dict[tuple[str, str], int] = {}
    for figure in sorted(scene.figures, key=lambda figure: figure.centre):
        key = figure.colour, figure.shape
        groups[key] = groups.get(key, 0) + 1
    parts = [
        _article(f"{colour} {shape}") if number == 1 else f"{number} {colour} {plural(shape)}"
        for (colour, shape), number in groups.items()
    ]
    parts += [f'the {text.kind} "{text.text}"' for text in scene.texts]
    if not parts:
        return "Nothing."
    sentence = parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
    return f"{sentence[0].upper()}{sentence[1:]}."


def _caption(scene: Scene, rng: random.Random) -> Question | None:
    form = rng.choice(
        (
            "What is in the picture?",
            "What is in this picture?",
            "What is in the image?",
            "What do you see?",
            "What does the picture show?",
            "Describe the picture.",
            "Describe the image.",
        )
    )
    return Question("caption", form, caption(scene))


QUESTIONS: dict[str, Callable[[Scene, random.Random], Question | None]] = {
    "colour": _colour_of,
    "shape": _shape_of,
    "existence": _existence,
    "counting": _counting,
    "relation": _relation,
    "position": _position,
    "size": _size,
    "background": _background,
    "caption": _caption,
}
# How often each task is asked in training, relative to the others.
WEIGHTS: dict[str, float] = {
    "colour": 3,
    "shape": 3,
    "existence": 4,
    "counting": 7,
    "relation": 2,
    "position": 2,
    "size": 1,
    "background": 0.5,
    "caption": 1,
}
