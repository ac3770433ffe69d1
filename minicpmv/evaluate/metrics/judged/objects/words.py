"""From words to COCO's 80 classes, as CHAIR maps them: singular forms, compounds, synonyms."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_TOKEN = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*|[^\w\s]")
_ANIMALS = ("bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe")
_VEHICLES = ("jet", "train")
_IRREGULAR = {
    "men": "man",
    "women": "woman",
    "policemen": "policeman",
    "gentlemen": "gentleman",
    "servicemen": "serviceman",
    "children": "child",
    "grandchildren": "grandchild",
    "geese": "goose",
    "mice": "mouse",
    "oxen": "ox",
    "knives": "knife",
    "pocketknives": "pocketknife",
    "calves": "calf",
    "thieves": "thief",
    "buses": "bus",
    "minibuses": "minibus",
}
# What may stand before the name of a thing and is no part of it.
_ADJECTIVES = frozenset(
    (
        *("a", "an", "the", "some", "several", "many", "few", "another", "other", "two", "three"),
        *(
            "four",
            "five",
            "six",
            "seven",
            "eight",
            "nine",
            "ten",
            "small",
            "large",
            "big",
            "little",
        ),
        *("tiny", "huge", "tall", "short", "long", "old", "young", "new", "round", "open", "empty"),
        *("parked", "standing", "sitting", "red", "blue", "green", "yellow", "black", "white"),
        *("brown", "gray", "grey", "pink", "purple", "golden", "silver", "colorful", "colourful"),
        *("wooden", "metal", "plastic", "leather"),
    )
)
_BETWEEN = frozenset(
    ("of", "and", "or", "with", "in", "on", "at", "by", "from", "near", "for", "to")
)


@dataclass(frozen=True)
class Mention:
    """A word of an answer, and the class that it counts as."""

    word: str
    object: str


@dataclass(frozen=True)
class _Lists:
    objects: dict[str, str]  # word -> class
    compounds: dict[str, str]  # two words -> what they count as
    parts: frozenset[str]  # single words of either


@cache
def _lists() -> _Lists:
    objects: dict[str, str] = {}
    for line in (Path(__file__).parent / "words.txt").read_text("utf-8").splitlines():
        if line and not line.startswith("#"):
            name, _, others = line.partition(":")
            for word in (name, *others.split(",")):
                objects.setdefault(word.strip(), name)
    del objects[""]
    compounds = {word: word for word in objects if word.count(" ") == 1}
    # Places, not things of the lists.
    compounds |= {"home plate": "home plate", "train track": "train track"}
    for animal in (*_ANIMALS, "animal", "cub"):
        compounds |= {f"baby {animal}": animal, f"adult {animal}": animal}
    compounds |= {f"passenger {vehicle}": vehicle for vehicle in _VEHICLES}
    compounds |= {"bow tie": "tie", "toilet seat": "toilet"}
    parts = frozenset(part for word in (*objects, *compounds) for part in word.split())
    return _Lists(objects, compounds, parts)


def classes() -> tuple[str, ...]:
    """The 80 classes, in COCO's order."""
    return tuple(dict.fromkeys(_lists().objects.values()))


def class_of(word: str) -> str | None:
    """The class that a word, or a name of COCO, counts as."""
    return _lists().objects.get(word)


def singular(word: str) -> str:
    """The singular of a noun, by rule. What the lists know wins: canoes are canoes, buses buses."""
    known = _lists().parts
    if word in known:
        return word
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    found = list(_singulars(word))
    return next((each for each in found if each in known), found[-1] if found else word)


def _singulars(word: str) -> Iterator[str]:
    """Forms that a plural can come from, the likeliest last."""
    if len(word) < 4 or not word.endswith("s") or word.endswith(("ss", "us", "is")):
        return
    if word.endswith("ies"):
        yield word[:-1]  # ties, movies
        yield word[:-3] + "y"
    elif word.endswith(("ches", "shes", "xes", "sses", "zzes", "oes")):
        yield word[:-1]  # canoes
        yield word[:-2]
    else:
        yield word[:-1]


def mentions_in(text: str) -> list[Mention]:
    """Every mention of a thing in free text, in order, repetitions among them."""
    words = [singular(token) for token in _TOKEN.findall(text.lower())]
    return _mapped(_with_compounds(words))


def mentions_of(names: Iterable[str]) -> list[Mention]:
    """Things in a list of names, each word once.

    A name with a compound of the lists counts as that. Another is cut at prepositions and freed of
    the adjectives before it; what is left counts as a whole: a coffee table is no table.
    """
    found: list[str] = []
    for name in names:
        words = [singular(token) for token in _TOKEN.findall(name.lower())]
        pairs = [word for word, is_compound in _compounds(words) if is_compound]
        found += pairs or [noun for noun in _nouns(words) if noun]
    return _mapped(list(dict.fromkeys(found)))


def _nouns(words: Sequence[str]) -> Iterator[str]:
    run: list[str] = []
    for word in (*words, ","):
        if word in _BETWEEN or not word[0].isalnum():
            yield " ".join(run)
            run = []
        elif run or word not in _ADJECTIVES:
            run.append(word)


def _compounds(words: Sequence[str]) -> Iterator[tuple[str, bool]]:
    """The words with what two of them count as together, and whether it was two."""
    compounds = _lists().compounds
    place = 0
    while place < len(words):
        pair = compounds.get(" ".join(words[place : place + 2]))
        yield (words[place], False) if pair is None else (pair, True)
        place += 1 if pair is None else 2


def _with_compounds(words: Sequence[str]) -> list[str]:
    return [word for word, _ in _compounds(words)]


def _mapped(words: Sequence[str]) -> list[Mention]:
    objects = _lists().objects
    has_toilet = "toilet" in words  # whose seat is no chair
    return [
        Mention(word, objects[word])
        for word in words
        if word in objects and not (has_toilet and word == "seat")
    ]
