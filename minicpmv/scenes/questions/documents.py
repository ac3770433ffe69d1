"""Questions about what is written: words, lines, whole pages and the fields of documents."""

import random
from collections.abc import Callable

from minicpmv.scenes.scene import Question, Scene
from minicpmv.scenes.text import words

PRINT_KINDS = ("word", "number", "line", "page", "receipt", "form", "sign", "code")
MAX_PAGE_LINES = 10  # no longer page is asked for as a whole
_READ = (
    "What does it say?",
    "What is written here?",
    "Read the text.",
    "What is the text?",
    "What is written in the image?",
    "What is written in the picture?",
    "What text is in the picture?",
    "What does the picture say?",
    "What text do you see?",
    "What is the text in the image?",
    "Transcribe the text.",
)
_READ_PAGE = (
    "Read the page.",
    "Read the text.",
    "Transcribe the text.",
    "Transcribe the page.",
    "What is written here?",
    "Read the text in the image.",
    "What does it say?",
    "Write down all the text.",
    "OCR this image.",
    "Extract the text from the image.",
    "What text is in the picture?",
    "What is the text in the image?",
)
_ORDINALS = ("first", "second", "third", "fourth")
_MONEY = ("subtotal", "total", "tax", "cash", "change")


def _text(scene: Scene) -> str:
    return "\n".join(text.text for text in scene.texts)


def _reading_word(scene: Scene, rng: random.Random) -> Question | None:
    if len(scene.texts) != 1 or scene.texts[0].kind not in ("word", "number"):
        return None
    (text,) = scene.texts
    forms = [*_READ]
    if text.kind == "word":
        forms += ["Which word is written here?", "What word is this?", "Read the word."]
    else:
        forms += ["Which number is this?", "What number is this?", "Read the number."]
    return Question("reading_word", rng.choice(forms), text.text, spelt=True)


def _reading_line(scene: Scene, rng: random.Random) -> Question | None:
    if len(scene.texts) != 1 or scene.texts[0].kind != "line":
        return None
    forms = (*_READ, "Read the line.", "What does this line say?", "What does the sign say?")
    text = rng.choice(forms[:-1] if scene.kind != "sign" else forms)
    return Question("reading_line", text, scene.texts[0].text, spelt=True)


def _reading_page(scene: Scene, rng: random.Random) -> Question | None:
    if scene.kind not in PRINT_KINDS or not 2 <= len(scene.texts) <= MAX_PAGE_LINES:
        return None
    forms = [*_READ_PAGE]
    if scene.kind in ("sign", "receipt", "form", "code"):
        forms += [f"What does the {scene.kind} say?", f"Read the {scene.kind}."]
    return Question("reading_page", rng.choice(forms), _text(scene), spelt=True)


def _reading_part(scene: Scene, rng: random.Random) -> Question | None:
    """One line of several, or one word of a line."""
    if scene.kind not in PRINT_KINDS or not scene.texts:
        return None
    lines = [text.text for text in scene.texts]
    if len(lines) > 1 and rng.random() < 0.75:
        number = rng.randrange(-1, min(len(lines), len(_ORDINALS)))
        which = "last" if number < 0 else _ORDINALS[number]
        form = rng.choice(
            (
                "What is the {} line?",
                "Read the {} line.",
                "What does the {} line say?",
                "Which text is in the {} line?",
                "What is written in the {} line?",
            )
        )
        return Question("reading_part", form.format(which), lines[number], spelt=True)
    parts = _text(scene).split()
    if len(parts) < 2:
        return None
    which, part = rng.choice((("first", parts[0]), ("last", parts[-1]), ("second", parts[1])))
    form = rng.choice(
        (
            "What is the {} word?",
            "Read the {} word.",
            "Which is the {} word?",
            "What does the {} word say?",
        )
    )
    return Question("reading_part", form.format(which), part, spelt=True)


def _line_count(scene: Scene, rng: random.Random) -> Question | None:
    if scene.kind not in PRINT_KINDS or len(scene.texts) < 2:
        return None
    form = rng.choice(
        (
            "How many lines are there?",
            "How many lines of text are there?",
            "How many lines does the text have?",
            "How many lines do you see?",
            "Count the lines of text.",
        )
    )
    return Question("line_count", form, str(len(scene.texts)))


def _mention(scene: Scene, rng: random.Random) -> Question | None:
    """Whether a word is there: as often a word that is not."""
    if scene.kind not in PRINT_KINDS:
        return None
    present = {part.strip(".,:;!?\"'()").lower() for part in _text(scene).split()}
    named = [part for part in sorted(present) if part.isalpha() and len(part) > 2]
    if not named:
        return None
    word, answer = rng.choice(named), "yes"
    if rng.random() < 0.5:
        # Near words first: those that share their beginning with a printed one.
        near = [w for w in words.words(scene.split) if w[:2] == word[:2] and w not in present]
        others = [w for w in words.words(scene.split) if w not in present]
        word, answer = rng.choice(near if near and rng.random() < 0.6 else others), "no"
    word = rng.choice((word, word.capitalize(), word.upper()))
    form = rng.choice(
        (
            'Does it say "{}"?',
            'Is the word "{}" in the picture?',
            'Is the word "{}" in the image?',
            'Does the text contain "{}"?',
            'Can you read "{}" here?',
            'Is "{}" written here?',
        )
    )
    return Question("mention", form.format(word), answer)


def _text_colour(scene: Scene, rng: random.Random) -> Question | None:
    if len(scene.texts) != 1 or not scene.texts[0].colour or scene.kind not in PRINT_KINDS:
        return None
    nouns = ["text", "lettering", "writing", scene.texts[0].kind]
    form = rng.choice(
        (
            "What colour is the {}?",
            "What color is the {}?",
            "Which colour does the {} have?",
            "What is the colour of the {}?",
            "What is the color of the {}?",
        )
    )
    return Question("text_colour", form.format(rng.choice(nouns)), scene.texts[0].colour)


def _document(scene: Scene, rng: random.Random) -> Question | None:
    """Look up one field."""
    if not scene.fields or scene.kind not in PRINT_KINDS:
        return None
    printed = _text(scene)
    fields = [(name, value) for name, value in scene.fields if value in printed]
    if not fields:
        return None
    name, value = rng.choice(fields)
    if scene.kind == "receipt" and rng.random() < 0.35:  # what most people want to know
        name, value = next((f for f in fields if f[0] == "total"), (name, value))
    form = rng.choice(_forms(scene.kind, name))
    answers = {value.replace("$", ""), value} - {value}
    return Question("document", form.format(name), value, tuple(sorted(answers)), spelt=True)


def _forms(kind: str, name: str) -> tuple[str, ...]:
    """Ways to ask for the field `name` of a document of this kind."""
    if kind == "receipt":
        if name in _MONEY:
            forms: tuple[str, ...]
            forms = ("What is the {}?", "How much is the {}?", "What is the {} on the receipt?")
            if name == "total":
                forms += ("What is the total amount?", "How much was paid in total?")
                forms += ("What is the total price?", "How much is it in total?")
            return forms
        if name in ("date", "time"):
            return (
                "What is the {}?",
                "What is the {} on the receipt?",
                "What {} is on the receipt?",
                "Which {} is printed?",
                "When was this bought?",
            )[: 5 if name == "date" else 4]
        if name == "shop":
            return (
                "What is the name of the shop?",
                "What is the name of the store?",
                "Which shop is it?",
                "What is the shop called?",
                "Where was this bought?",
            )
        return _price_forms(name)
    if kind == "form":
        name = name if name == "ID" else name.lower()
        return (
            f"What is the {name}?",
            f"What is the {name} on the form?",
            f"What {name} is given?",
            f"What is written under {name}?",
            f"Which {name} is filled in?",
            f"Give the {name}.",
        )
    if name == "opens":
        return (
            "When does it open?",
            "What time does it open?",
            "From when is it open?",
            "At what time does it open?",
            "What is the opening time?",
        )
    if name == "closes":
        return (
            "When does it close?",
            "What time does it close?",
            "Until when is it open?",
            "At what time does it close?",
            "What is the closing time?",
        )
    if name in ("Platform", "Gate", "Room", "Floor", "Exit", "Track"):
        name = name.lower()
        return (
            f"Which {name} is it?",
            f"What is the {name} number?",
            f"What {name} is this?",
            f"What is the number of the {name}?",
            f"Which {name} is on the sign?",
        )
    if name in words.vocabulary("city", "train") + words.vocabulary("city", "test"):
        return (
            "How far is {}?",
            "How far is it to {}?",
            "What is the distance to {}?",
            "How many km is it to {}?",
            "How far away is {}?",
        )
    return _price_forms(name)


def _price_forms(name: str) -> tuple[str, ...]:
    name = name.lower()
    verb, does = ("are", "do") if name.endswith("s") else ("is", "does")
    return (
        f"How much {verb} the {name}?",
        f"What {does} the {name} cost?",
        f"What is the price of the {name}?",
        f"How much {does} the {name} cost?",
        f"What {verb} the price of the {name}?" if verb == "is" else f"Price of the {name}?",
    )


QUESTIONS: dict[str, Callable[[Scene, random.Random], Question | None]] = {
    "reading_word": _reading_word,
    "reading_line": _reading_line,
    "reading_page": _reading_page,
    "reading_part": _reading_part,
    "line_count": _line_count,
    "mention": _mention,
    "text_colour": _text_colour,
    "document": _document,
}
WEIGHTS: dict[str, float] = {
    "reading_word": 6,
    "reading_line": 8,
    "reading_page": 8,
    "reading_part": 4,
    "line_count": 0.7,
    "mention": 2,
    "text_colour": 1,
    "document": 8,
}
