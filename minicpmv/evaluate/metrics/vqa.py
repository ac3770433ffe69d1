"""Short answers compared with those of people: VQA accuracy, ANLS, relaxed accuracy."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Literal

from .contract import Scored, check_rules
from .distance import edit_distance
from .plain import MeanMetric, references
from .vqa_text import evalai_answer, reference_of_runner, vqa_answer, vqav2_answer

if TYPE_CHECKING:
    from minicpmv.evaluate.items import Item


def agreement(said: str, people: Sequence[str]) -> float:
    """VQA accuracy: three who say the same make an answer right, averaged over leaving out each
    person in turn (Antol 2015). 3 of 10 make 0.9, 4 make 1."""
    same = sum(said == each for each in people)
    # Leaving out one of those who say the same leaves one fewer.
    return fmean(min(1.0, (same - (said == each)) / 3) for each in people)


@dataclass(frozen=True)
class VQAAccuracy(MeanMetric):
    """Agreement with people (TextVQA, VQAv2, OK-VQA, VizWiz).

    Fields:
        dataset: lmms-eval gives all but VQAv2 to the processor of the EvalAI server; VLMEvalKit
            scores VizWiz by the share of people who say the same.
    """

    dataset: Literal["textvqa", "okvqa", "vizwiz", "vqav2"] = "textvqa"

    def __post_init__(self) -> None:
        super().__post_init__()
        known = ("textvqa", "okvqa", "vizwiz", "vqav2")
        if self.dataset not in known:
            raise ValueError(f"`dataset` is {self.dataset!r}; expected one of {', '.join(known)}.")

    def score(self, item: "Item", answer: str, rules: str) -> Scored:
        check_rules(rules)
        people = references(item)
        if rules == "lmms-eval":
            read = vqav2_answer if self.dataset == "vqav2" else evalai_answer
            said = read(answer.strip())
            return Scored(agreement(said, [read(each) for each in people]), said)
        said = vqa_answer(answer)
        read = reference_of_runner if rules == "vlmevalkit-fork" else vqa_answer
        true = [read(each) for each in people]
        if self.dataset == "vizwiz" and rules == "vlmevalkit":
            return Scored(fmean(said == each for each in true), said)
        return Scored(agreement(said, true), said)


@dataclass(frozen=True)
class ANLS(MeanMetric):
    """Normalised Levenshtein similarity to the nearest reference, 0 below a half (ST-VQA, Biten
    2019): case and white space do not count.

    The distance is taken over the longer of both. VLMEvalKit and lmms-eval take the lengths before
    white space is collapsed, which makes them longer and the score a little higher; the runner
    that the cards' DocVQA was measured with (rules vlmevalkit-fork) takes them after.
    """

    def score(self, item: "Item", answer: str, rules: str) -> Scored:
        check_rules(rules)
        answer = answer.strip() if rules == "lmms-eval" else answer
        said = " ".join(answer.lower().split())
        best = 0.0
        for reference in references(item):
            true = " ".join(reference.lower().split())
            if rules == "vlmevalkit-fork":
                longer = max(len(said), len(true))
            else:  # in upper case "ß" is longer
                longer = max(len(answer.upper()), len(reference.upper()))
            best = max(best, 1 - edit_distance(said, true) / longer if longer else 1.0)
        return Scored(best if best >= 0.5 else 0.0, said)


@dataclass(frozen=True)
class RelaxedAccuracy(MeanMetric):
    """Numbers may be off by a twentieth of the true one; everything else must be the same in
    whatever case (ChartQA, Masry 2022).

    OpenBMB's VLMEvalKit takes a twentieth of the answer instead.
    """

    by: tuple[str, ...] = ("split", "type")

    def score(self, item: "Item", answer: str, rules: str) -> Scored:
        check_rules(rules)
        said = answer.strip()
        right = (
            within_a_twentieth(each, of=said)
            if rules == "vlmevalkit-fork"
            else within_a_twentieth(said, of=each)
            for each in references(item)
        )
        return Scored(float(any(right)), said)


def within_a_twentieth(text: str, of: str) -> bool:
    """Whether two numbers, in % or not, are so near, or two texts the same; nothing is near 0."""
    number, true = _number(text), _number(of)
    if number is not None and true:
        return abs(number - true) / abs(true) <= 0.05
    return text.lower() == of.lower()


def _number(text: str) -> float | None:
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None
