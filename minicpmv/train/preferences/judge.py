"""Whether claims hold of a picture (RLAIF-V, "conquer"): by a model's next token, or the truth.

A model accepts a claim if yes is likelier than no as the one next token after the question, among
all tokens and without penalties.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ...scenes.figures.colours import COLOURS
from ...scenes.questions.statements import NUMBER_WORDS, mentions
from ...scenes.render import render
from ...scenes.scene import Scene

WORDS: Mapping[str, tuple[str, ...]] = {"yes": ("yes", "Yes"), "no": ("no", "No")}
MIN_MASS = 0.05  # of yes and no together; a model that says something else has no verdict
_OPEN = 32  # questions that are being scored together
_QUOTE = re.compile(r'"([^"]*)"')
_NUMBER = re.compile(rf"^(\d+|{'|'.join(NUMBER_WORDS)})\s", re.IGNORECASE)


@dataclass(frozen=True)
class Asking:
    """A claim with its questions: one that yes answers if it holds, and perhaps one that no does.

    Fields:
        claim: as it was split off.
        question, opposite: "" where it is not asked.
    """

    claim: str
    question: str
    opposite: str = ""


@dataclass(frozen=True)
class Verdict:
    """Fields:
    accepted: whether the claim holds.
    yes: share of yes in the probability of yes and no; 1 or 0 by the truth.
    """

    accepted: bool
    yes: float


class Judge(Protocol):
    """Judges the claims about one row; a claim it cannot judge has None."""

    def verdicts(
        self, pictures: Sequence[Any], rest: Mapping[str, Any], asked: Sequence[Asking]
    ) -> list[Verdict | None]: ...


YesNo = tuple[float, float]


class ModelJudge:
    """A judge that gives probabilities of yes and no. It has no verdict where both together are
    below `MIN_MASS`: then the question was not understood as one.

    Args:
        probabilities: blocks of pictures and questions to p(yes) and p(no) of each question.
        threshold: the share of yes from which on a claim is accepted.
    """

    def __init__(
        self,
        probabilities: Callable[[Sequence[Any], Sequence[str]], list[YesNo]],
        threshold: float = 0.5,
    ) -> None:
        self.probabilities = probabilities
        self.threshold = threshold

    def verdicts(
        self, pictures: Sequence[Any], rest: Mapping[str, Any], asked: Sequence[Asking]
    ) -> list[Verdict | None]:
        questions = list(dict.fromkeys(q for a in asked for q in (a.question, a.opposite) if q))
        found = dict(zip(questions, self.probabilities(pictures, questions), strict=True))
        verdicts: list[Verdict | None] = []
        for one in asked:
            yes, no = found[one.question]
            if one.opposite:
                other_yes, other_no = found[one.opposite]
                yes, no = yes + other_no, no + other_yes
            total = yes + no
            least = MIN_MASS * (2 if one.opposite else 1)
            share = yes / total if total >= least else math.nan
            verdicts.append(Verdict(share > self.threshold, share) if total >= least else None)
        return verdicts


def next_tokens(chat: Any) -> Callable[[Sequence[Any], Sequence[str]], list[YesNo]]:
    """The probabilities by a loaded model."""
    ids = {word: first_tokens(chat.processor.tokenizer, WORDS[word]) for word in WORDS}
    shared = set(ids["yes"]) & set(ids["no"])
    if shared:
        raise ValueError(f"{chat.name} begins yes and no with the same token; take another judge.")
    continuations = [[token] for word in WORDS for token in ids[word]]
    num_yes = len(ids["yes"])

    def probabilities(pictures: Sequence[Any], questions: Sequence[str]) -> list[YesNo]:
        found: list[YesNo] = []
        for start in range(0, len(questions), _OPEN):
            begun = []
            for question in questions[start : start + _OPEN]:
                content = [*pictures, {"type": "text", "text": question}]
                messages = chat.processor.question([{"role": "user", "content": content}])
                settings = chat.engine.settings([messages], {})
                begun.append(chat.engine.begin_score(messages, settings, continuations))
            for scores in begun:
                values = [math.exp(logprobs[0]) for logprobs in scores.read()]
                found.append((math.fsum(values[:num_yes]), math.fsum(values[num_yes:])))
        return found

    return probabilities


def first_tokens(tokenizer: Any, words: Sequence[str]) -> list[int]:
    """The first token of each word, with text in it, where an answer begins and after a blank."""
    found = []
    for word in words:
        for text in (word, f" {word}"):
            for token in tokenizer.encode(text, add_special_tokens=False):
                written = tokenizer.decode([token]).strip()
                if written:
                    # A word that is written in pieces is told apart only if its piece is.
                    if word.startswith(written):
                        found.append(token)
                    break
    return list(dict.fromkeys(found))


class SceneJudge:
    """The truth of drawn pictures, whose rows say how they were drawn, in the column `scene`:
    {"seed": 3, "split": "train", "kind": "few"}.

    Args:
        objects: whether only what is there counts, and not its colour and number.
    """

    def __init__(self, objects: bool = False) -> None:
        self.objects = objects

    def verdicts(
        self, pictures: Sequence[Any], rest: Mapping[str, Any], asked: Sequence[Asking]
    ) -> list[Verdict | None]:
        """
        Raises:
            ValueError: the row does not say how its picture was drawn.
        """
        scene = scene_of(rest)
        truths = [is_true(one.claim, scene, self.objects) for one in asked]
        return [None if truth is None else Verdict(truth, float(truth)) for truth in truths]


def scene_of(rest: Mapping[str, Any]) -> Scene:
    """
    Raises:
        ValueError: the row does not say how its picture was drawn.
    """
    drawn = rest.get("scene")
    if not isinstance(drawn, Mapping) or not isinstance(drawn.get("seed"), int):
        raise ValueError(
            "The judge 'scene' needs rows with a column scene, such as "
            '{"seed": 3, "split": "train", "kind": "few"}; recipes/draw_descriptions.py makes them.'
        )
    return render(drawn["seed"], drawn.get("split", "train"), kind=drawn.get("kind"))


def is_true(claim: str, scene: Scene, objects: bool = False) -> bool | None:
    """Whether a scene shows what a claim names, with its colour and number; None: it names nothing.
    With `objects`, any colour and number will do.

    "A red circle" holds if there is one at least, "2 red circles" if there are two.
    """
    printed = _QUOTE.findall(claim)
    if printed:
        shown = [text.text for text in scene.texts]
        return all(any(text in line for line in shown) for text in printed)
    names = mentions(claim)
    if len(names) != 1:
        return None
    (name,) = names
    if objects:
        return bool(scene.find(name))
    colours = [word for word in re.findall(r"[a-z]+", claim.lower()) if word in COLOURS]
    figures = [
        figure
        for figure in scene.find(name)
        # A figure without a colour of its own may be called by any.
        if not colours or not figure.colour or figure.colour in colours
    ]
    number = _NUMBER.match(claim.strip())
    if number is None:
        return bool(figures)
    said = number[1].lower()
    wanted = int(said) if said.isdigit() else NUMBER_WORDS.index(said)
    return len(figures) == wanted
