"""Object HalBench (Rohrbach 2018, Yu 2023): objects that answers name and pictures do not show.

With a judge, it lists what an answer names, and every word counts once; without, every mention of
a word of CHAIR's list counts. The two give different numbers; the table says which it was.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from minicpmv.evaluate.intervals import percentiles, resampled_sums
from minicpmv.evaluate.items import Item
from minicpmv.evaluate.judges import JudgeReply, JudgeRequest
from minicpmv.evaluate.metrics.contract import Score, Scored, ScoredItems, check_rules
from minicpmv.evaluate.metrics.judged.asking import Answered, SeveralQuestions, no_verdict
from minicpmv.evaluate.metrics.judged.objects.coco import annotation_files, true_objects
from minicpmv.evaluate.metrics.judged.objects.words import (
    Mention,
    class_of,
    mentions_in,
    mentions_of,
)
from minicpmv.evaluate.metrics.summaries import check_some, unparsed_in, widened

_SHORT = 3  # words of an answer that names nothing, and that no judge is asked about
_TRIES, _WARMER, _MAX_TOKENS = 5, 0.5, 1024
_LIST = re.compile(r"\[[^\[\]]*\]", re.DOTALL)

_PROMPT = """\
Somebody was asked about a picture. List the things that the answer says can be seen in it.

- Take the answer for true, and list only what it names itself.
- Give names of things alone, without colour, size, material, number or place.
- Leave out what the answer says is not there, or would only expect.
- Reply with a JSON list of texts, as in ["dog", "traffic light"], and [] where it names nothing.

Question: {question}

Answer: {answer}"""


def names_in(reply: str) -> list[str] | None:
    """The last JSON list of texts in a reply; None where it has none."""
    for found in reversed(_LIST.findall(reply)):
        try:
            names = json.loads(found)
        except ValueError:
            continue
        if all(isinstance(name, str) for name in names):
            return list(names)
    return None


@dataclass(frozen=True)
class ObjectHalBench(SeveralQuestions):
    """Rates of invented objects, of answers and of mentions; the same the other way round, as some
    cards give them; the share of all objects that are named; words. Less is better: an answer with
    an invented object has the value 1.

    Fields:
        coco: the folder with COCO's annotations; not needed where the rows say what is in their
            pictures.
        objects: fields that do, tried in order: lists of things, in words of CHAIR's list.
        image_id: the field with COCO's number of a picture.
    """

    name: str = ""
    coco: str = ""
    objects: tuple[str, ...] = ("gt_object", "objects")
    image_id: str = "image_id"
    _cache: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.coco:
            annotation_files(Path(self.coco))  # a missing one is named before anything is answered

    def score(self, item: Item, answer: str, rules: str) -> Scored:
        check_rules(rules)
        return self._scored(item, answer, mentions_in(answer), "words")

    def questions(self, answered: Sequence[Answered]) -> list[tuple[JudgeRequest, ...]]:
        return [() if _is_short(each.answer) else (_request(each),) for each in answered]

    def verdict(self, answered: Answered, replies: tuple[JudgeReply, ...]) -> Scored:
        if not replies:
            return self._scored(answered.item, answered.answer, [], "judge")
        names = None if replies[0].text is None else names_in(replies[0].text)
        if names is None:
            lost = no_verdict(replies[0])
            detail = self._scored(answered.item, answered.answer, [], "judge").detail
            return Scored(None, detail={**detail, **lost.detail})
        return self._scored(answered.item, answered.answer, mentions_of(names), "judge")

    def _scored(self, item: Item, answer: str, mentions: Sequence[Mention], by: str) -> Scored:
        true = self._true(item)
        wrong = [each.word for each in mentions if each.object not in true]
        detail = {
            "by": by,
            "mentions": [each.word for each in mentions],
            "wrong": wrong,
            "found": sorted({each.object for each in mentions} & true),
            "true": sorted(true),
            "words": len(answer.strip().split(" ")),
        }
        return Scored(float(bool(wrong)), ", ".join(wrong), detail)

    def _true(self, item: Item) -> frozenset[str]:
        for name in self.objects:
            if isinstance(given := item.fields.get(name), list | tuple):
                return frozenset(class_of(str(each)) or str(each) for each in given)
        if not self.coco:
            raise ValueError(
                f"Item {item.id!r} does not say what is in its picture. Give the folder with "
                "COCO's annotations of 2014 (--coco DIR), or rows with a list in `objects`."
            )
        image = item.fields.get(self.image_id)
        try:
            return self._pictures[int(str(image))]
        except (KeyError, ValueError):
            raise ValueError(
                f"Item {item.id!r} has {self.image_id} {image!r}, which is none of COCO's pictures "
                f"in {self.coco}."
            ) from None

    @property
    def _pictures(self) -> dict[int, frozenset[str]]:
        if "coco" not in self._cache:
            self._cache["coco"] = true_objects(Path(self.coco))
        return self._cache["coco"]

    def summarise(self, scored: ScoredItems, rules: str) -> list[Score]:
        """An answer that the judge has not read counts as one with an invented object."""
        check_some(scored)
        details = [each.detail for _, each in scored]
        lost = np.array([each.value is None for _, each in scored], float)
        mentions = np.array([len(each["mentions"]) for each in details], float)
        wrong = np.array([len(each["wrong"]) for each in details], float)
        found = np.array([len(each["found"]) for each in details], float)
        true = np.array([len(each["true"]) for each in details], float)
        words = np.array([each["words"] for each in details], float)
        bad = np.maximum(wrong > 0, lost)
        names = np.maximum(mentions > 0, lost)
        ones = np.ones_like(bad)
        unread = unparsed_in(scored)
        by = "judge" if any(each["by"] == "judge" for each in details) else "word list"

        def row(name: str, part: Any, whole: Any, less_is_better: bool = False) -> Score:
            value, low, high = _share(part, whole)
            return Score(name, value, low, high, len(scored), unread, "%", less_is_better)

        return [
            row(f"answers (objects by {by})", bad, names, True),
            row("mentions", wrong, mentions, True),
            row("answers without hallucination", names - bad, names),
            row("mentions without hallucination", mentions - wrong, mentions),
            row("of all answers (CHAIRs)", bad, ones, True),
            row("objects named, of all there", found, true),
            _words(words, unread),
        ]


def _share(part: Any, whole: Any) -> tuple[float, float, float]:
    """100 * the sum of one over that of the other, drawn again by answer."""
    total = whole.sum()
    if not total:
        return 0.0, 0.0, 100.0  # nothing is known of a share of nothing
    value = 100 * float(part.sum() / total)
    drawn = resampled_sums(np.stack([part, whole], axis=1))
    with np.errstate(invalid="ignore"):
        interval = percentiles(100 * drawn[:, 0] / drawn[:, 1])
    return value, *widened(interval, value, 100.0, round(total))


def _words(words: Any, unread: int) -> Score:
    drawn = resampled_sums(words[:, None])[:, 0] / len(words)
    low, high = percentiles(drawn)
    return Score("words of an answer", float(words.mean()), low, high, len(words), unread, "words")


def _is_short(answer: str) -> bool:
    return len(answer.split()) <= _SHORT


def _request(answered: Answered) -> JudgeRequest:
    text = _PROMPT.format(question=answered.item.question, answer=answered.answer)
    return JudgeRequest(
        [{"role": "user", "content": text}],
        _MAX_TOKENS,
        tries=_TRIES,
        warmer=_WARMER,
        valid=lambda reply: names_in(reply) is not None,
    )
