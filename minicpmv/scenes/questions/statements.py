"""True statements about a scene and near ones that are false; choices among lettered options; and
what a description claims to be there.

Both a true and a false statement of each kind can be drawn for one scene, as benchmarks of yes-no
pairs do (MME, Fu 2023; POPE, Li 2023). What is false differs from the truth in one word, most often
by something else that is on the picture.
"""

import functools
import itertools
import random
import re
from collections.abc import Callable, Sequence

from minicpmv.scenes.figures.colours import COLOURS
from minicpmv.scenes.figures.icon_parts import ICONS
from minicpmv.scenes.figures.shapes import SHAPES
from minicpmv.scenes.questions.figures import (
    MAX_COUNT,
    PLACES,
    RELATIONS,
    described,
    is_clear,
    place_of,
    relations,
)
from minicpmv.scenes.questions.naming import (
    absent_name,
    article,
    describe,
    disputed_colours,
    general_name,
    name_of,
    plural,
    unique_figures,
)
from minicpmv.scenes.scene import Figure, Question, Scene

NUMBER_WORDS = ("no", "one", "two", "three", "four", "five", "six", "seven")
LETTERS = "ABCD"
MAX_OPTIONS = 4
MAX_PRINTED = 12  # characters of an option that is to be read


def lettered(
    question: str, answer: str, wrong: Sequence[str], rng: random.Random
) -> tuple[str, str]:
    """The question with two to four lettered options, and the letter of the right one."""
    options = [answer, *rng.sample(list(wrong), min(MAX_OPTIONS - 1, len(wrong)))]
    rng.shuffle(options)
    mark = rng.choice(("{}. ", "{}. ", "{}. ", "({}) ", "{}) "))
    between = rng.choice(("\n", "\n", " "))
    listed = [
        mark.format(letter) + option for letter, option in zip(LETTERS, options, strict=False)
    ]
    ending = rng.choice(
        (
            "",
            "",
            "",
            "\nAnswer with the letter.",
            "\nAnswer:",
            "\nAnswer with the option's letter from the given choices directly.",
        )
    )
    return between.join((question, *listed)) + ending, LETTERS[options.index(answer)]


def near_colours(scene: Scene, figure: Figure) -> list[str]:
    """Colours that a figure certainly has not, those seen elsewhere in the scene twice."""
    own = ICONS[figure.shape].extras if figure.shape in ICONS else frozenset()
    colours = [colour for colour in COLOURS if colour != figure.colour and colour not in own]
    return colours + [colour for colour in colours if scene.count(colour=colour)] * 2


def near_names(scene: Scene, rng: random.Random, *but: str) -> list[str]:
    """Other names: what else is there, and what is not."""
    names = {figure.shape for figure in scene.figures} | {absent_name(scene, rng) for _ in range(4)}
    return sorted(names - set(but))


def misprint(text: str, rng: random.Random) -> str:
    """Another letter or digit at one place, or two exchanged."""
    places = [i for i, character in enumerate(text) if character.isalnum()]
    if not places:
        return text + "s"
    swaps = [i for i, j in itertools.pairwise(places) if text[i] != text[j] and j == i + 1]
    if swaps and rng.random() < 0.25:
        i = rng.choice(swaps)
        return text[:i] + text[i + 1] + text[i] + text[i + 2 :]
    place = rng.choice(places)
    letters = "123456789" if text[place].isdigit() else "abcdefghiklmnoprstuwy"
    letters = letters.upper() if text[place].isupper() else letters
    letter = rng.choice([letter for letter in letters if letter != text[place]])
    return text[:place] + letter + text[place + 1 :]


def _yes_no(answer: bool) -> str:
    return "yes" if answer else "no"


def _of_one_colour(scene: Scene) -> list[Figure]:
    """The first figure of every name whose figures share one colour with a name."""
    found = []
    for name in dict.fromkeys(figure.shape for figure in scene.figures):
        alike = scene.find(name)
        if alike[0].colour and all(figure.colour == alike[0].colour for figure in alike):
            found.append(alike[0])
    return found


def _colour_statement(scene: Scene, rng: random.Random) -> Question | None:
    figures = _of_one_colour(scene)
    if not figures:
        return None
    figure = rng.choice(figures)
    truth = rng.random() < 0.5
    colour = figure.colour if truth else rng.choice(near_colours(scene, figure))
    if scene.count(figure.shape) > 1:
        forms = ["Are the {1} {2}?", "Are the {1} in the picture {2}?", "Are all {1} {2}?"]
    else:
        forms = [
            "Is the {0} {2}?",
            "Is the {0} {2}?",
            "Is the {0} in the picture {2}?",
            "Is the colour of the {0} {2}?",
            "Is the {0} in the image {2} in color?",
            "Does the {0} have the colour {2}?",
        ]
        if len(scene.figures) == 1:
            forms += ["Is this {0} {2}?", "Is it {2}?"]
    text = rng.choice(forms).format(figure.shape, plural(figure.shape), colour)
    return Question("colour_statement", text, _yes_no(truth))


def _shape_statement(scene: Scene, rng: random.Random) -> Question | None:
    if not scene.figures:
        return None
    truth = rng.random() < 0.5
    disputed = disputed_colours(scene)
    clear = [
        figure
        for figure in scene.figures
        if figure.colour
        and figure.colour not in disputed
        and scene.count(colour=figure.colour) == 1
    ]
    kind = general_name(scene.figures, rng)
    forms: tuple[str, ...]
    if len(scene.figures) == 1:
        name = scene.figures[0].shape if truth else absent_name(scene, rng)
        forms = ("Is this {}?", "Is it {}?", "Is this a picture of {}?", "Does this show {}?")
        text = rng.choice(forms).format(article(name))
    elif clear and rng.random() < 0.8:
        figure = rng.choice(clear)
        name = figure.shape
        if not truth:
            name = rng.choice(near_names(scene, rng, name))
        forms = (
            "Is the {0} {1} {2}?",
            "Is the {0} one {2}?",
            "Is the {0} {1} in the picture {2}?",
        )
        text = rng.choice(forms).format(figure.colour, kind, article(name))
    else:
        name = rng.choice(scene.figures).shape if truth else absent_name(scene, rng)
        forms = ("Is one of the {0}s {1}?", "Is {1} among the {0}s?", "Does the picture show {1}?")
        text = rng.choice(forms).format(kind, article(name))
    return Question("shape_statement", text, _yes_no(truth))


def _counted(scene: Scene, rng: random.Random) -> tuple[int, str, str] | None:
    """How many there are of something, and its name for one and for several."""
    figure = rng.choice(scene.figures)
    named = all(other.colour for other in scene.find(figure.shape))
    lot = rng.random()
    if lot < 0.55 or (lot < 0.8 and not named):
        number, one = scene.count(figure.shape), figure.shape
        several = plural(one)
    elif lot < 0.8:
        number, one = scene.count(figure.shape, figure.colour), describe(figure)
        several = f"{figure.colour} {plural(figure.shape)}"
    elif not scene.texts:
        number, one = len(scene.figures), general_name(scene.figures, rng)
        several = f"{one}s"
    else:
        return None
    return (number, one, several) if number <= MAX_COUNT else None


def _near_number(number: int, rng: random.Random) -> int:
    return rng.choice([n for n in (number - 1, number + 1, number + 1, number + 2) if n > 0])


def _number_statement(scene: Scene, rng: random.Random) -> Question | None:
    counted = _counted(scene, rng) if scene.figures else None
    if counted is None:
        return None
    number, one, several = counted
    truth = rng.random() < 0.5
    said = number if truth else _near_number(number, rng)
    if said == 1:
        forms: tuple[str, ...] = ("Is there only one {1}?", "Is there exactly one {1}?")
    else:
        forms = (
            "Are there {0} {2}?",
            "Are there {0} {2} in the picture?",
            "Are there exactly {0} {2}?",
            "Do you see {0} {2}?",
            "Are there {0} {2} in the image?",
        )
    shown = NUMBER_WORDS[said] if said < len(NUMBER_WORDS) and rng.random() < 0.4 else said
    text = rng.choice(forms).format(shown, one, several)
    return Question("number_statement", text, _yes_no(truth))


def _printed_words(scene: Scene) -> list[str]:
    return [word for text in scene.texts for word in text.text.split()]


def _text_statement(scene: Scene, rng: random.Random) -> Question | None:
    """Whether something is written, wrong in one letter at least."""
    found = _printed_words(scene)
    candidates = [
        word for word in found if len(word) > 1 and word[-1] not in ".,:;" and '"' not in word
    ]
    if not candidates:
        return None
    truth = rng.random() < 0.5
    whole = len(scene.texts) == 1 and '"' not in scene.texts[0].text
    text = scene.texts[0].text if whole and rng.random() < 0.6 else rng.choice(candidates)
    if not truth:
        wrong = misprint(text, rng)
        if wrong in found or wrong in text:
            return None
        text = wrong
    forms = ['Does it say "{}"?', 'Is "{}" written here?', 'Does the picture say "{}"?']
    if len(text.split()) == 1:
        kind = "number" if text.isdigit() else "word"
        forms += [
            f'Is the {kind} "{{}}" in the picture?',
            f'Can you read the {kind} "{{}}"?',
            f'Is the {kind} in the image "{{}}"?' if len(found) == 1 else 'Is there "{}"?',
        ]
    return Question("text_statement", rng.choice(forms).format(text), _yes_no(truth))


def statement(scene: Scene, truth: bool, rng: random.Random) -> str | None:
    """A sentence about the scene that is true or false as wanted, without capital or full stop;
    None where the scene does not admit one of the kind drawn.
    """
    if not scene.figures:
        if len(scene.texts) != 1:
            return None
        text = scene.texts[0].text
        return f'it says "{text if truth else misprint(text, rng)}"'
    lot = rng.random()
    if lot < 0.25:
        figures = _of_one_colour(scene)
        if not figures:
            return None
        figure = rng.choice(figures)
        colour = figure.colour if truth else rng.choice(near_colours(scene, figure))
        if scene.count(figure.shape) > 1:
            return f"the {plural(figure.shape)} are {colour}"
        return f"the {figure.shape} is {colour}"
    if lot < 0.5:
        if not any(figure.colour for figure in scene.figures):
            return None
        thing = described(scene, truth, rng)
        return rng.choice(("there is {}", "the picture shows {}")).format(article(thing))
    if lot < 0.7:
        counted = _counted(scene, rng)
        if counted is None:
            return None
        number, one, several = counted
        said = number if truth else _near_number(number, rng)
        return f"there is only one {one}" if said == 1 else f"there are {said} {several}"
    unique = unique_figures(scene)
    if len(unique) < 2:
        return None
    first, second = rng.sample(unique, 2)
    true = relations(scene, first, second)
    if not true:
        return None
    relation = true[0] if truth else RELATIONS[true[0]][0]
    return f"the {name_of(scene, first)} is {relation} the {name_of(scene, second)}"


def _statement(scene: Scene, rng: random.Random) -> Question | None:
    truth = rng.random() < 0.5
    said = statement(scene, truth, rng)
    if said is None:
        return None
    capital = said[0].upper() + said[1:]
    if rng.random() < 0.5:
        form = rng.choice(("True or false: {0}.", "{1}. True or false?", "True or false? {1}."))
        return Question("statement", form.format(said, capital), "true" if truth else "false")
    form = rng.choice(
        ("Is it true that {0}?", "{1}. Is that right?", "Is this correct: {0}?", "{1}, right?")
    )
    return Question("statement", form.format(said, capital), _yes_no(truth))


# Choices


def _choice_of_colour(scene: Scene, rng: random.Random) -> tuple[str, str, list[str]] | None:
    figures = _of_one_colour(scene)
    if not figures:
        return None
    figure = rng.choice(figures)
    if scene.count(figure.shape) > 1:
        text = f"What colour are the {plural(figure.shape)}?"
    else:
        form = rng.choice(
            ("What colour is the {}?", "What color is the {}?", "What is the color of the {}?")
        )
        text = form.format(figure.shape)
    wrong = near_colours(scene, figure)
    rng.shuffle(wrong)
    return text, figure.colour, list(dict.fromkeys(wrong))[: MAX_OPTIONS - 1]


def _choice_of_name(scene: Scene, rng: random.Random) -> tuple[str, str, list[str]] | None:
    figure = rng.choice(scene.figures)
    wrong = near_names(scene, rng, figure.shape)
    if len(scene.figures) == 1:
        kind = "shape" if figure.shape in SHAPES else "thing"
        text = rng.choice(
            ("What is this?", f"Which {kind} is this?", "What does the picture show?")
        )
        return text, figure.shape, wrong
    if (
        not figure.colour
        or figure.colour in disputed_colours(scene)
        or scene.count(colour=figure.colour) > 1
    ):
        return None
    form = rng.choice(("What is {}?", "What is the {} {}?", "Which {1} is {0}?"))
    return form.format(figure.colour, general_name(scene.figures, rng)), figure.shape, wrong


def _choice_of_number(scene: Scene, rng: random.Random) -> tuple[str, str, list[str]] | None:
    counted = _counted(scene, rng)
    if counted is None:
        return None
    number, _one, several = counted
    wrong = [str(n) for n in range(max(0, number - 3), number + 4) if n != number]
    form = rng.choice(("How many {} are there?", "How many {} are in the picture?"))
    return form.format(several), str(number), wrong


def _choice_of_place(scene: Scene, rng: random.Random) -> tuple[str, str, list[str]] | None:
    figures = [figure for figure in unique_figures(scene) if is_clear(figure)]
    if not figures:
        return None
    figure = rng.choice(figures)
    place = place_of(figure)
    wrong = [other for row in PLACES for other in row if other != place]
    return f"Where is the {name_of(scene, figure)}?", place, wrong


def _choice_of_relation(scene: Scene, rng: random.Random) -> tuple[str, str, list[str]] | None:
    unique = unique_figures(scene)
    if len(unique) < 2:
        return None
    first, second = rng.sample(unique, 2)
    true = relations(scene, first, second)
    if len(true) != 1:
        return None
    names = name_of(scene, first), name_of(scene, second)
    form = rng.choice(("Where is the {} in relation to the {}?", "How does the {} lie to the {}?"))
    return form.format(*names), true[0], [word for word in RELATIONS if word != true[0]]


def _choice_of_presence(scene: Scene, rng: random.Random) -> tuple[str, str, list[str]] | None:
    present = list(dict.fromkeys(figure.shape for figure in scene.figures))
    absent = list(dict.fromkeys(absent_name(scene, rng) for _ in range(8)))
    if len(present) > 1 and rng.random() < 0.4:
        text = rng.choice(("Which of these is not in the picture?", "What is not in the picture?"))
        return text, article(absent[0]), [article(name) for name in present]
    text = rng.choice(("Which of these is in the picture?", "What is in the picture?"))
    return text, article(rng.choice(present)), [article(name) for name in absent]


def _choice_of_text(scene: Scene, rng: random.Random) -> tuple[str, str, list[str]] | None:
    if len(scene.texts) != 1 or len(scene.texts[0].text) > MAX_PRINTED:
        return None
    text = scene.texts[0].text
    wrong = {misprint(text, rng) for _ in range(5)} - {text}
    form = rng.choice(("What does it say?", "What is written here?", "Which text is in the image?"))
    return form, text, sorted(wrong)


_CHOICES: dict[Callable[[Scene, random.Random], tuple[str, str, list[str]] | None], float] = {
    _choice_of_colour: 3,
    _choice_of_name: 3,
    _choice_of_number: 3,
    _choice_of_place: 2,
    _choice_of_relation: 2,
    _choice_of_presence: 2,
}


def _choice(scene: Scene, rng: random.Random) -> Question | None:
    for _attempt in range(4):
        if scene.figures:
            draw = rng.choices(list(_CHOICES), list(_CHOICES.values()))[0]
        else:
            draw = _choice_of_text
        drawn = draw(scene, rng)
        if drawn is not None and drawn[2]:
            text, letter = lettered(*drawn, rng)
            return Question("choice", text, letter)
    return None


# What a description names


@functools.cache
def _names() -> tuple[re.Pattern[str], dict[str, str]]:
    """A pattern of all names, their plurals and aliases, and what they stand for."""
    forms: dict[str, str] = {}
    for name in (*SHAPES, *ICONS):
        aliases = ICONS[name].aliases if name in ICONS else ()
        for form in (name, plural(name), *aliases):
            forms.setdefault(form.lower(), name)
    ordered = sorted(forms, key=len, reverse=True)
    return re.compile(rf"\b({'|'.join(map(re.escape, ordered))})\b"), forms


def mentions(text: str) -> set[str]:
    """The figures and icons that a text names, by their names; what it quotes is print, and names
    nothing.
    """
    pattern, forms = _names()
    return {forms[form] for form in pattern.findall(re.sub(r'"[^"]*"', '""', text).lower())}


def unnamed(claim: str) -> str:
    """A claim with "thing", or "things" after a number, in the place of what `mentions` finds in
    it: "An umbrella." becomes "A thing.", "2 blue fish." "2 blue things."."""
    if '"' in claim:
        return claim
    word = "things" if re.match(r"\d|two |three |four |five ", claim.lower()) else "thing"
    text = re.sub(_names()[0].pattern, word, claim, flags=re.IGNORECASE)
    return re.sub(rf"\b(A|a)n {word}\b", rf"\1 {word}", text)


QUESTIONS: dict[str, Callable[[Scene, random.Random], Question | None]] = {
    "colour_statement": _colour_statement,
    "shape_statement": _shape_statement,
    "number_statement": _number_statement,
    "text_statement": _text_statement,
    "statement": _statement,
    "choice": _choice,
}
# How often each task is asked in training, relative to the others.
WEIGHTS: dict[str, float] = {
    "colour_statement": 1,
    "shape_statement": 1,
    "number_statement": 1,
    "text_statement": 0.7,
    "statement": 1,
    "choice": 2.5,
}
