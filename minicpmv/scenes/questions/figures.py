"""Questions about figures, shapes and icons alike, and captions, derived from the facts of a scene.

Answers are short: one word, a number, yes or no; descriptions are one sentence. Every task is a
function from scene to question, or None where the scene does not admit one; false statements are
made as near to true ones as the scene allows. What people might dispute is not asked: whether a
tree with a brown trunk is something brown, or whether a ball is a circle.
"""

import random
from collections.abc import Callable

from minicpmv.scenes.figures.colours import COLOURS
from minicpmv.scenes.figures.icon_parts import ICONS
from minicpmv.scenes.figures.shapes import SHAPES
from minicpmv.scenes.questions.naming import (
    absent_name,
    article,
    describe,
    disputed_colours,
    general_name,
    join,
    name_of,
    names_of,
    plural,
    unique_figures,
)
from minicpmv.scenes.scene import Figure, Question, Scene

MAX_COUNT = 6
PLACES = (
    ("top left", "top", "top right"),
    ("left", "centre", "right"),
    ("bottom left", "bottom", "bottom right"),
)
SPELLINGS = {"grey": ("gray",), "centre": ("center", "middle", "the middle")}


def _colour_of(scene: Scene, rng: random.Random) -> Question | None:
    shapes = sorted(
        name
        for name in {figure.shape for figure in scene.figures}
        if len({figure.colour for figure in scene.find(name)}) == 1 and scene.find(name)[0].colour
    )
    if not shapes:
        return None
    shape = rng.choice(shapes)
    found = scene.find(shape)
    colour = found[0].colour
    if len(found) == 1:
        forms = [
            "What colour is the {}?",
            "What color is the {}?",
            "What colour is the {} in the picture?",
            "What is the color of the {}?",
            "Which colour does the {} have?",
            "Which color is the {}?",
            "What is the colour of the {}?",
            "Tell me the colour of the {}.",
        ]
        if len(scene.figures) == 1:
            forms += ["What colour is this {}?", "What color is it?"]
        text = rng.choice(forms).format(shape)
    else:
        form = rng.choice(("What colour are the {}?", "What color are the {}?"))
        text = form.format(plural(shape))
    return Question("colour", text, colour, SPELLINGS.get(colour, ()))


def _shape_of(scene: Scene, rng: random.Random) -> Question | None:
    if len(scene.figures) == 1 and rng.random() < 0.5:
        (figure,) = scene.figures
        forms = ["What is this?", "What is shown?", "What can you see here?", "What is it?"]
        if figure.shape in SHAPES:
            forms = ["What shape is this?", "Which shape do you see?", "What shape is it?"]
        else:
            forms += ["What object is this?", "What thing is shown in the picture?"]
        return Question("shape", rng.choice(forms), figure.shape, names_of(figure))
    disputed = disputed_colours(scene)
    colours = [
        colour
        for colour in COLOURS
        if colour not in disputed
        and len({figure.shape for figure in scene.find(colour=colour)}) == 1
    ]
    if not colours:
        return None
    colour = rng.choice(colours)
    found = scene.find(colour=colour)
    one = found[0]
    if one.shape in SHAPES:
        if len(found) == 1:
            forms = [
                "What shape is {}?",
                "Which shape is {}?",
                "What is the {} shape?",
                "What shape is the {} one?",
                "What shape is the {} object?",
                "What is the shape of the {} object?",
                "What is {}?",
            ]
        else:
            forms = [
                "What shape are the {} ones?",
                "Which shape do the {} ones have?",
                "What shape are the {} objects?",
            ]
    elif len(found) == 1:
        forms = [
            "What is {}?",
            "What is the {} thing?",
            "What is the {} object?",
            "Which thing is {}?",
            "Which object is {}?",
        ]
    else:
        forms = ["What are the {} things?", "What are the {} objects?"]
    text, accepted = rng.choice(forms).format(colour), names_of(one)
    if len(found) > 1 and one.shape in ICONS:
        return Question("shape", text, plural(one.shape), accepted)
    return Question("shape", text, one.shape, accepted)


def _existence(scene: Scene, rng: random.Random) -> Question | None:
    if not scene.figures:
        return None
    answer = rng.choice(("yes", "no"))
    lot = rng.random()
    named = [figure for figure in scene.figures if figure.colour]
    thing = None
    if lot < 0.45 or not named:
        if answer == "yes":
            name = rng.choice(scene.figures).shape
        else:
            name = absent_name(scene, rng)
        if rng.random() < 0.25:
            form = rng.choice(("Are there any {}?", "Are there any {} in the picture?"))
            return Question("existence", form.format(plural(name)), answer)
        thing = article(name)
    elif lot < 0.6:
        disputed = disputed_colours(scene)
        seen = {figure.colour for figure in named}
        if answer == "yes":
            colours = sorted(seen)
        else:
            colours = [c for c in COLOURS if c not in seen and c not in disputed]
        if colours:
            colour = rng.choice(colours)
            if rng.random() < 0.4 and scene.background:
                thing = f"anything {colour}"
            else:
                thing = article(f"{colour} {general_name(scene.figures, rng)}")
    if thing is None:
        thing = article(described(scene, answer == "yes", rng))
    form = rng.choice(
        (
            "Is there {}?",
            "Is there {} in the picture?",
            "Is there {} in the image?",
            "Is there {} in this picture?",
            "Is there {} here?",
            "Do you see {}?",
            "Can you see {}?",
            "Does the picture show {}?",
        )
    )
    return Question("existence", form.format(thing), answer)


def described(scene: Scene, truly: bool, rng: random.Random) -> str:
    """Colour and name of something on the picture; where not `truly`, of nothing on it, though one
    half of the description fits, often both halves, but not together.
    """
    named = [figure for figure in scene.figures if figure.colour]
    if truly:
        return describe(rng.choice(named))
    present = {(figure.shape, figure.colour) for figure in scene.figures}
    colours = sorted({figure.colour for figure in named})
    # The name of a line drawing goes with no colour at all.
    names = sorted({f.shape for f in named if all(g.colour for g in scene.find(f.shape))})
    wrong = [
        (name, colour)
        for name in names
        for colour in COLOURS
        if (name, colour) not in present and not (name in ICONS and colour in ICONS[name].extras)
    ]
    crossed = [pair for pair in wrong if pair[1] in colours]
    if crossed and rng.random() < 0.5:
        name, colour = rng.choice(crossed)
    elif wrong and rng.random() < 0.6:
        name, colour = rng.choice(wrong)
    else:
        name, colour = absent_name(scene, rng), rng.choice(colours)
    return f"{colour} {name}"


def _counting(scene: Scene, rng: random.Random) -> Question | None:
    if not scene.figures:
        return None
    seen = rng.choice(scene.figures)
    lot = rng.random()
    kind = general_name(scene.figures, rng) + "s"
    disputed = disputed_colours(scene)
    all_shapes = all(figure.shape in SHAPES for figure in scene.figures)
    if lot < 0.4:
        name = seen.shape if rng.random() < 0.9 else absent_name(scene, rng)
        number, things = scene.count(name), plural(name)
    elif lot < 0.6 and (seen.colour and (all_shapes or seen.colour not in disputed)):
        colour = seen.colour
        if rng.random() < 0.1:
            others = [c for c in COLOURS if not scene.count(colour=c) and c not in disputed]
            colour = rng.choice(others or [colour])
        number, things = scene.count(colour=colour), f"{colour} {kind}"
    elif lot < 0.8 and all(figure.colour for figure in scene.find(seen.shape)):
        name, colour = seen.shape, seen.colour
        if rng.random() < 0.15:
            own = ICONS[name].extras if name in ICONS else ()
            colour = rng.choice([c for c in COLOURS if c == colour or c not in own])
        number, things = scene.count(name, colour), f"{colour} {plural(name)}"
    elif not scene.texts or all_shapes:
        number, things = len(scene.figures), "shapes" if scene.texts else kind
    else:
        number, things = scene.count(seen.shape), plural(seen.shape)
    if number > MAX_COUNT:
        return None
    form = rng.choice(
        (
            "How many {} are there?",
            "How many {} are in the picture?",
            "How many {} are in the image?",
            "How many {} are there in the picture?",
            "How many {} do you see?",
            "How many {} can you see?",
            "How many {}?",
            "Count the {}.",
            "What is the number of {}?",
        )
    )
    return Question("counting", form.format(things), str(number))


RELATIONS = {  # a relation, its opposite, and how else it is said
    "left of": ("right of", ("to the left of", "on the left side of", "left of")),
    "right of": ("left of", ("to the right of", "on the right side of", "right of")),
    "above": ("below", ("above", "above", "higher than")),
    "below": ("above", ("below", "under", "lower than")),
}
COMPARISONS = {
    "left of": ("further left", "further to the left"),
    "right of": ("further right", "further to the right"),
    "above": ("higher", "further up"),
    "below": ("lower", "further down"),
}
MIN_DISTANCE = 0.12  # of the picture's side: nearer than this, people would say "beside"


def relations(scene: Scene, first: Figure, second: Figure) -> list[str]:
    """How the first figure lies to the second: one or two of `RELATIONS`, the clearest first."""
    down = first.centre[0] - second.centre[0]
    across = first.centre[1] - second.centre[1]
    found = []
    if abs(down) >= MIN_DISTANCE:
        found.append((abs(down) * scene.image.height, "below" if down > 0 else "above"))
    if abs(across) >= MIN_DISTANCE:
        found.append((abs(across) * scene.image.width, "right of" if across > 0 else "left of"))
    return [relation for _length, relation in sorted(found, reverse=True)]


def _relation(scene: Scene, rng: random.Random) -> Question | None:
    unique = unique_figures(scene)
    if len(unique) < 2:
        return None
    first, second = rng.sample(unique, 2)
    true = relations(scene, first, second)
    if not true:
        return None
    truth = true[0] if rng.random() < 0.75 else true[-1]
    opposite = RELATIONS[truth][0]
    names = name_of(scene, first, rng), name_of(scene, second, rng)
    lot = rng.random()
    if lot < 0.45:
        said, answer = (truth, "yes") if rng.random() < 0.5 else (opposite, "no")
        words = rng.choice((said, said, *RELATIONS[said][1]))
        return Question("relation", f"Is the {names[0]} {words} the {names[1]}?", answer)
    if lot < 0.75:
        options = [truth, opposite]
        rng.shuffle(options)
        form = rng.choice(("Is the {0} {2} or {3} the {1}?", "Is the {0} {2} the {1} or {3} it?"))
        text = form.format(*names, *options)
        return Question("relation", text, truth, RELATIONS[truth][1])
    if lot < 0.9:
        comparison = rng.choice(COMPARISONS[truth])
        order = [names[0], names[1]]
        rng.shuffle(order)
        form = rng.choice(("Which is {}, the {} or the {}?", "What is {}, the {} or the {}?"))
        text = form.format(comparison, *order)
        return Question("relation", text, f"the {names[0]}", names_of(first))
    if len(true) == 2:  # "left" and "above" would both be right
        return None
    form = rng.choice(
        ("Where is the {} in relation to the {}?", "Where is the {}, seen from the {}?")
    )
    side = truth.removesuffix(" of")
    accepted = (side, f"to the {side}", f"on the {side}", *RELATIONS[truth][1])
    return Question("relation", form.format(*names), truth, accepted)


def place_of(figure: Figure) -> str:
    """The ninth of the picture in which the middle of a figure lies."""
    y, x = figure.centre
    return PLACES[min(2, int(3 * y))][min(2, int(3 * x))]


def is_clear(figure: Figure) -> bool:
    """Whether the middle lies off the borders between ninths, where its place would be a matter of
    taste.
    """
    return all(abs(part - border) > 0.05 for part in figure.centre for border in (1 / 3, 2 / 3))


def _position(scene: Scene, rng: random.Random) -> Question | None:
    unique = unique_figures(scene)
    if not unique:
        return None
    figure = rng.choice(unique)
    name = name_of(scene, figure, rng)
    y, x = figure.centre
    lot = rng.random()
    if lot < 0.25 and abs(x - 0.5) > 0.1:
        form = rng.choice(
            (
                "Is the {} on the left or on the right?",
                "Is the {} on the left or the right side of the picture?",
                "Is the {} in the left or right half of the image?",
                "On which side is the {}, left or right?",
            )
        )
        side = "left" if x < 0.5 else "right"
        return Question("position", form.format(name), side, (f"on the {side}",))
    if lot < 0.45 and abs(y - 0.5) > 0.1:
        side = "top" if y < 0.5 else "bottom"
        form = rng.choice(
            (
                "Is the {} at the top or at the bottom?",
                "Is the {} in the top or the bottom half?",
                "Is the {} in the top or bottom half of the picture?",
            )
        )
        return Question("position", form.format(name), side, (f"at the {side}",))
    if not is_clear(figure):
        return None
    place = place_of(figure)
    if lot < 0.6 and all(other is figure or place_of(other) != place for other in scene.figures):
        if not all(map(is_clear, scene.figures)) or scene.texts:
            return None
        if " " not in place and place != "centre":  # the top is more than its middle
            return None
        form = rng.choice(("What is in the {}?", "What is in the {} of the picture?"))
        where = place if place == "centre" else f"{place} corner"
        answer = name_of(scene, figure)
        accepted = (*names_of(figure), article(answer), f"the {answer}")
        return Question("position", form.format(where), answer, accepted)
    form = rng.choice(
        (
            "Where is the {}?",
            "Where is the {} in the picture?",
            "Where in the picture is the {}?",
            "In which part of the picture is the {}?",
            "What is the position of the {}?",
        )
    )
    accepted = (f"at the {place}", f"in the {place}", f"on the {place}", *SPELLINGS.get(place, ()))
    return Question("position", form.format(name), place, accepted)


def _size(scene: Scene, rng: random.Random) -> Question | None:
    unique = unique_figures(scene)
    if len(unique) < 2:
        return None
    bigger = rng.random() < 0.5
    if len(scene.figures) > 2 and rng.random() < 0.35:
        order = sorted(scene.figures, key=lambda figure: figure.area, reverse=bigger)
        extreme, runner_up = order[:2]
        if max(extreme.area, runner_up.area) < 1.5 * min(extreme.area, runner_up.area):
            return None
        if extreme not in unique:
            return None
        word = rng.choice(("biggest", "largest")) if bigger else "smallest"
        kind = general_name(scene.figures, rng)
        form = rng.choice(("What is the {0} {1}?", "Which {1} is the {0}?"))
        name = name_of(scene, extreme)
        return Question("size", form.format(word, kind), f"the {name}", names_of(extreme))
    first, second = rng.sample(unique, 2)
    if max(first.area, second.area) < 1.5 * min(first.area, second.area):
        return None
    names = name_of(scene, first), name_of(scene, second)
    first_wins = (first.area > second.area) == bigger
    word = rng.choice(("bigger", "larger")) if bigger else "smaller"
    if rng.random() < 0.35:
        text = f"Is the {names[0]} {word} than the {names[1]}?"
        return Question("size", text, "yes" if first_wins else "no")
    text = f"Which is {word}, the {names[0]} or the {names[1]}?"
    winner = first if first_wins else second
    name = names[0] if first_wins else names[1]
    return Question("size", text, f"the {name}", names_of(winner))


def _background(scene: Scene, rng: random.Random) -> Question | None:
    if not scene.figures or scene.background not in COLOURS:
        return None
    form = rng.choice(
        (
            "What colour is the background?",
            "What color is the background?",
            "What is the colour of the background?",
            "What is the background color?",
        )
    )
    return Question("background", form, scene.background, SPELLINGS.get(scene.background, ()))


def caption(scene: Scene) -> str:
    """One sentence that names everything: figures from top to bottom grouped by kind, then the
    text; of a table, chart or document only what it is.
    """
    if scene.table is not None:
        rows, cols = len(scene.table.rows), len(scene.table.header)
        return f"A table with {rows} rows and {cols} columns."
    if scene.chart is not None:
        title = f' titled "{scene.chart.title}"' if scene.chart.title else ""
        return f"A {scene.chart.kind} chart{title}."
    if len(scene.texts) > 2:
        name = scene.kind if scene.kind in ("receipt", "form", "sign") else "page"
        return f"A {name} with {len(scene.texts)} lines of text."
    groups: dict[tuple[str, str], int] = {}
    for figure in sorted(scene.figures, key=lambda figure: figure.centre):
        key = figure.colour, figure.shape
        groups[key] = groups.get(key, 0) + 1
    parts = [
        article(f"{colour} {shape}".strip())
        if number == 1
        else f"{number} {f'{colour} {plural(shape)}'.strip()}"
        for (colour, shape), number in groups.items()
    ]
    parts += [f'the {text.kind} "{text.text}"' for text in scene.texts]
    if not parts:
        return "Nothing."
    sentence = join(parts)
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
            "Describe this picture.",
            "Describe the image in one sentence.",
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
    "colour": 1.5,
    "shape": 1.5,
    "existence": 3,
    "counting": 4,
    "relation": 5,
    "position": 4,
    "size": 1,
    "background": 0.5,
    "caption": 1.5,
}
