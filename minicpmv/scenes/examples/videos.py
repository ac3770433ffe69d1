"""Short videos: four to eight frames in which something moves, comes and goes, flashes, grows or
changes its colour; and what can be asked about that, openly or as a choice.
"""

import dataclasses
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from minicpmv.scenes.figures.colours import COLOURS
from minicpmv.scenes.figures.degrade import add_noise, compress
from minicpmv.scenes.figures.icon_parts import ICONS
from minicpmv.scenes.figures.icons import sample_layout
from minicpmv.scenes.figures.shapes import SHAPES
from minicpmv.scenes.figures.things import Layout, Thing, colours_for, draw, sample_rgb, visible
from minicpmv.scenes.questions.naming import article
from minicpmv.scenes.questions.statements import lettered
from minicpmv.scenes.scene import Example, Scene, Turn

NUM_FRAMES = (4, 8)
SIZES = ((112, 112), (168, 168), (224, 224), (126, 168), (168, 126), (180, 224))
DIRECTIONS = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}
CHOICE_SHARE = 0.5
MAX_FLASHES = 3


@dataclass(frozen=True)
class Fact:
    """A question about a video, its answer, and wrong answers near the truth."""

    question: str
    answer: str
    wrong: tuple[str, ...]
    accepted: tuple[str, ...] = ()


_Filmed = tuple[list[Scene], list[Fact]]


def video(rng: random.Random, split: str, seed: int) -> Example:
    """The frames, and one to three questions; held-out videos have one."""
    film = rng.choices(list(_FILMS), list(_FILMS.values()))[0]
    scenes, facts = film(rng, split, seed)
    if rng.random() < 0.2:  # as cameras and files do, all frames alike
        spoil = rng.choice((add_noise, compress))
        scenes = [spoil(scene, rng, 0.4) for scene in scenes]
    rng.shuffle(facts)
    limit = 1 if split == "test" else 3
    turns: list[Turn] = []
    for fact in facts[:limit]:
        shown = () if turns else tuple(range(len(scenes)))
        is_choice = len(fact.wrong) > 0 and rng.random() < CHOICE_SHARE
        turns.append(_choice(fact, rng, shown) if is_choice else _open(fact, shown))
    return Example(tuple(scenes), tuple(turns), is_video=True)


def _open(fact: Fact, shown: tuple[int, ...]) -> Turn:
    return Turn("video", fact.question, fact.answer, shown, fact.accepted)


def _choice(fact: Fact, rng: random.Random, shown: tuple[int, ...]) -> Turn:
    question, letter = lettered(fact.question, fact.answer, fact.wrong, rng)
    return Turn("video", question, letter, shown)


def _start(rng: random.Random, split: str, number: int) -> Layout:
    size = rng.choice(SIZES)
    sort = rng.choice(("icons", "shapes", "shapes", "mixed")) if number > 1 else "shapes"
    if number == 1 and rng.random() < 0.5:
        sort = "icons"
    while True:
        layout = sample_layout(rng, split, size, number, crowd=False, sort=sort, named=True)
        if len(layout.things) == number and all(t.radius > 0.12 for t in layout.things):
            return layout


def _film(layouts: Sequence[Layout], split: str, seed: int) -> list[Scene]:
    return [draw(layout, split, seed, "frame") for layout in layouts]


def _called(thing: Thing, rng: random.Random) -> str:
    return f"{thing.colour} {thing.name}" if rng.random() < 0.3 else thing.name


def _moving(rng: random.Random, split: str, seed: int) -> _Filmed:
    """One thing moves straight on; beside it something may stand still."""
    number = rng.randint(*NUM_FRAMES)
    layout = _start(rng, split, rng.choice((1, 1, 2)))
    direction = rng.choice(list(DIRECTIONS))
    down, across = DIRECTIONS[direction]
    radius = min(layout.things[0].radius, 0.2)
    start, stop = radius + 0.02, 1 - radius - 0.02
    length = rng.uniform(0.45, 1.0) * (stop - start)
    begin = rng.uniform(start, stop - length)
    steps = [begin + length * i / (number - 1) for i in range(number)]
    if down + across < 0:
        steps.reverse()
    lane = rng.uniform(start, stop)
    mover = dataclasses.replace(layout.things[0], radius=radius)
    others = []
    for other in layout.things[1:]:  # beside the lane
        side = 0.04 + radius if lane > 0.5 else 1 - 0.04 - radius
        if abs(side - lane) < 2 * radius + 0.04:
            continue
        place = rng.uniform(start, stop)
        centre = (place, side) if down else (side, place)
        others.append(dataclasses.replace(other, centre=centre, radius=0.9 * radius))
    frames = []
    for step in steps:
        centre = (step, lane) if down else (lane, step)
        frames.append(layout.with_things([dataclasses.replace(mover, centre=centre), *others]))
    name = _called(mover, rng)
    words = tuple(DIRECTIONS)
    question = rng.choice(
        (
            "In which direction does the {} move?",
            "Which way does the {} move?",
            "Where does the {} move to?",
            "Which direction is the {} moving in?",
            "Where does the {} go?",
        )
    ).format(name)
    pair = ("left", "right") if across else ("up", "down")
    opposite = pair[direction == pair[0]]
    order = list(pair)
    rng.shuffle(order)
    facts = [
        Fact(
            question,
            direction,
            tuple(word for word in words if word != direction),
            (f"to the {direction}", f"{direction}wards", f"{direction}ward"),
        ),
        Fact(f"Does the {name} move {order[0]} or {order[1]}?", direction, (opposite,)),
    ]
    if others:
        still = _called(others[0], rng)
        facts.append(Fact("What moves?", f"the {mover.name}", (f"the {others[0].name}",), (name,)))
        facts.append(
            Fact(
                rng.choice(("What stands still?", "What does not move?")),
                f"the {others[0].name}",
                (f"the {mover.name}",),
                (still,),
            )
        )
    return _film(frames, split, seed), facts


def _appearing(rng: random.Random, split: str, seed: int) -> _Filmed:
    """One thing comes, or goes, while others stay."""
    number = rng.randint(*NUM_FRAMES)
    layout = _start(rng, split, rng.choice((1, 2, 2, 3)))
    when = rng.randint(1, number - 1)
    comes = rng.random() < 0.5
    without = layout.with_things(layout.things[1:])
    frames = [layout if (i >= when) == comes else without for i in range(number)]
    subject = layout.things[0]
    word = "appears" if comes else "disappears"
    stem = word.removesuffix("s")
    options = ["appear", "disappear"]
    rng.shuffle(options)
    others = tuple(f"the {thing.name}" for thing in layout.things[1:])
    facts = [
        Fact(
            f"Does the {_called(subject, rng)} {options[0]} or {options[1]}?",
            stem,
            (options[options[0] == stem],),
            (word, f"it {word}"),
        ),
        Fact(
            rng.choice(
                (f"What {word}?", f"Which {_sort_of(layout)} {word}?", f"What {word} in the video?")
            ),
            f"the {subject.name}",
            others or tuple(f"the {name}" for name in _other_names(subject.name, rng)),
            (subject.name, f"{subject.colour} {subject.name}", article(subject.name)),
        ),
    ]
    if rng.random() < 0.5:
        asked = rng.choice((subject, *layout.things[1:]))
        stays = asked is not subject
        facts.append(
            Fact(
                f"Is the {asked.name} there until the end?",
                "yes" if stays or comes else "no",
                ("no" if stays or comes else "yes",),
            )
        )
    return _film(frames, split, seed), facts


def _sort_of(layout: Layout) -> str:
    return "shape" if all(thing.name in SHAPES for thing in layout.things) else "thing"


def _other_names(name: str, rng: random.Random) -> list[str]:
    pool = SHAPES if name in SHAPES else ICONS
    return rng.sample([other for other in pool if other != name], 3)


def _ordered(rng: random.Random, split: str, seed: int) -> _Filmed:
    """One thing after another, each alone or all staying."""
    total = rng.choice((2, 2, 3, 3, 4))
    layout = _start(rng, split, total)
    staying = rng.random() < 0.4
    each = 2 if total <= 4 and rng.random() < 0.7 else 1
    if total * each < NUM_FRAMES[0]:
        each = 2
    frames = []
    for i in range(total):
        shown = layout.things[: i + 1] if staying else layout.things[i : i + 1]
        frames += [layout.with_things(shown)] * each
    names = [thing.name for thing in layout.things]
    facts = []
    for word, index in (("first", 0), ("last", total - 1)):
        facts.append(
            Fact(
                rng.choice(
                    (
                        f"What comes {word}?",
                        f"Which {_sort_of(layout)} comes {word}?",
                        f"What appears {word}?",
                    )
                ),
                f"the {names[index]}",
                tuple(f"the {name}" for name in names if name != names[index]),
                (names[index], f"{layout.things[index].colour} {names[index]}"),
            )
        )
    early, late = sorted(rng.sample(range(total), 2))
    order = [names[early], names[late]]
    rng.shuffle(order)
    facts.append(
        Fact(
            rng.choice(
                (
                    f"What comes first, the {order[0]} or the {order[1]}?",
                    f"Which came first, the {order[0]} or the {order[1]}?",
                )
            ),
            f"the {names[early]}",
            (f"the {names[late]}",),
            (names[early],),
        )
    )
    if early + 1 == late:
        others = tuple(f"the {name}" for name in names if name != names[late])
        facts.append(
            Fact(
                rng.choice(("What comes after the {}?", "What comes right after the {}?")).format(
                    names[early]
                ),
                f"the {names[late]}",
                others if len(others) > 1 else (),
                (names[late],),
            )
        )
    if not staying or rng.random() < 0.5:
        facts.append(
            Fact(
                f"How many different {_sort_of(layout)}s are shown?",
                str(total),
                tuple(str(n) for n in (1, 2, 3, 4, 5) if n != total),
            )
        )
    return _film(frames, split, seed), facts


def _flashing(rng: random.Random, split: str, seed: int) -> _Filmed:
    """A thing comes and goes one to three times."""
    times = rng.randint(1, MAX_FLASHES)
    number = rng.randint(max(NUM_FRAMES[0], 2 * times + 1), NUM_FRAMES[1])
    # Dark frames stand before, between and after the flashes; what is left over makes any longer.
    lengths = [1] * (2 * times + 1)
    for _ in range(number - len(lengths)):
        lengths[rng.randrange(len(lengths))] += 1
    layout = _start(rng, split, rng.choice((1, 1, 2)))
    without = layout.with_things(layout.things[1:])
    frames = []
    for i, length in enumerate(lengths):
        frames += [layout if i % 2 else without] * length
    name = _called(layout.things[0], rng)
    question = rng.choice(
        (
            "How many times does the {} appear?",
            "How often does the {} appear?",
            "How many times does the {} flash?",
            "How often does the {} flash?",
            "How many times is the {} shown?",
        )
    ).format(name)
    wrong = tuple(str(n) for n in range(1, 5) if n != times)
    words = {1: ("once", "1 time"), 2: ("twice", "2 times"), 3: ("three times", "3 times")}[times]
    return _film(frames, split, seed), [Fact(question, str(times), wrong, words)]


def _growing(rng: random.Random, split: str, seed: int) -> _Filmed:
    """A thing grows or shrinks, or keeps its size."""
    number = rng.randint(*NUM_FRAMES)
    layout = _start(rng, split, 1)
    (thing,) = layout.things
    small, large = rng.uniform(0.1, 0.16), rng.uniform(0.3, 0.42)
    word = rng.choice(("grow", "shrink"))
    radii = [small + (large - small) * i / (number - 1) for i in range(number)]
    if word == "shrink":
        radii.reverse()
    height, width = (side / min(layout.size) for side in layout.size)
    rim = large + 0.02
    centre = rng.uniform(rim / height, 1 - rim / height), rng.uniform(rim / width, 1 - rim / width)
    frames = [layout.with_thing(0, radius=radius, centre=centre) for radius in radii]
    name = _called(thing, rng)
    options = ["grow", "shrink"]
    rng.shuffle(options)
    longer = {"grow": "bigger", "shrink": "smaller"}
    compared = ["bigger", "smaller"]
    rng.shuffle(compared)
    opposite = "shrink" if word == "grow" else "grow"
    facts = [
        Fact(
            f"Does the {name} {options[0]} or {options[1]}?",
            word,
            (opposite,),
            (f"{word}s", f"it {word}s", longer[word]),
        ),
        Fact(
            f"Does the {name} get {compared[0]} or {compared[1]}?",
            longer[word],
            (longer[opposite],),
            (f"it gets {longer[word]}", f"it {word}s"),
        ),
        Fact(
            f"What happens to the {name}?",
            f"it {word}s",
            (f"it {opposite}s", "it moves", "it changes colour"),
            (f"{word}s", f"it gets {longer[word]}"),
        ),
    ]
    return _film(frames, split, seed), facts


def _recolouring(rng: random.Random, split: str, seed: int) -> _Filmed:
    """A thing changes its colour once."""
    number = rng.randint(*NUM_FRAMES)
    while True:
        layout = _start(rng, split, rng.choice((1, 1, 2)))
        thing = layout.things[0]
        extras = ICONS[thing.name].extras if thing.name in ICONS else frozenset()
        fitting = sorted(set(colours_for(thing.name, visible(layout.ground))) - extras)
        if len(fitting) > 1 and thing.colour not in extras:
            break
    new = rng.choice([colour for colour in fitting if colour != thing.colour])
    when = rng.randint(1, number - 1)
    after = layout.with_thing(0, colour=new, rgb=sample_rgb(new, layout.ground, rng))
    frames = [after if i >= when else layout for i in range(number)]
    others = [colour for colour in COLOURS if colour not in (new, thing.colour)]
    wrong = tuple(rng.sample(others, 2))
    facts = [
        Fact(
            rng.choice(
                (
                    "What colour does the {} become?",
                    "What colour is the {} at the end?",
                    "What color does the {} turn?",
                    "Which colour does the {} change to?",
                )
            ).format(thing.name),
            new,
            (thing.colour, *wrong),
        ),
        Fact(
            rng.choice(
                (
                    "What colour is the {} at first?",
                    "What colour is the {} at the beginning?",
                    "What color does the {} have first?",
                )
            ).format(thing.name),
            thing.colour,
            (new, *wrong),
        ),
        Fact(
            f"What happens to the {thing.name}?",
            "it changes colour",
            ("it grows", "it shrinks", "it moves"),
            ("it changes color", f"it turns {new}", f"it becomes {new}"),
        ),
    ]
    return _film(frames, split, seed), facts


_FILMS: dict[Callable[[random.Random, str, int], _Filmed], float] = {
    _moving: 3.0,
    _appearing: 2.0,
    _ordered: 2.0,
    _flashing: 1.5,
    _growing: 1.0,
    _recolouring: 1.5,
}
