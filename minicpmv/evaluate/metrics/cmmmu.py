"""CMMMU (Zhang 2024): college subjects in Chinese; options, statements to judge, gaps to fill."""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .contract import Scored, check_rules
from .mmmu_text import MARKS, Read, number, numbers_in, shortest_tails
from .plain import MeanMetric, references

if TYPE_CHECKING:
    from minicpmv.evaluate.items import Item

_CHOICE, _STATEMENT = "选择", "判断"
_INDICATORS = (
    *("是", "为", "所以", "等于", "方案", "选择", "正确答案", "因此", "最后", "答案", "结果"),
)
_VERDICTS = ("是", "为", "所以", "判断", "陈述", "说法", "表达", "答案", "结果")
_TRUE = ("正确", "对", "准确", "肯定")
_FALSE = ("错误", "不合适", "否定", "错")
_AMBIGUOUS = ("对错", "是否正确", "否正确", "或者", "是否", "正确性", "对不")
_NUMBER_FORMS = (
    r"-?\d{1,3}(?:，\d{3})+",
    r"-?\d+(?:\.\d+)?[eE][+-]?\d+",
    r"-?(?:\d+\.\d+|\.\d+|\d+)(?![eE][+-]?\d+)(?!，\d)",
)


@dataclass(frozen=True)
class CMMMU(MeanMetric):
    """Accuracy, by the parser of its authors in all three programs. Where that draws an answer at
    random, none is read here.

    VLMEvalKit counts a filled gap once for everything in the answer that is right, so that one
    answer can count twice; "不对" and "不正确" are read as true, for the words that are in them.
    """

    by: tuple[str, ...] = ("category", "subcategory", "type")

    def score(self, item: "Item", answer: str, rules: str) -> Scored:
        check_rules(rules)
        true = references(item)[0]
        answer = answer.strip() if rules == "lmms-eval" else answer
        options = item.options or _options(item.fields)
        kind = item.fields.get("type") or (_CHOICE if options else "")
        if kind in (_CHOICE, _STATEMENT):
            said = read_options(answer, options) if kind == _CHOICE else read_verdict(answer)
            return Scored(None if said is None else float(said == true), said)
        if not answer.strip():
            return Scored(None)
        filled = read_gap(answer, true)
        gold = _normalised(true, true)
        right = sum(
            any(isinstance(each, str) and each in read for each in gold)
            if isinstance(read, str)
            else read in gold
            for read in filled
        )
        value = float(right if rules != "lmms-eval" else right > 0)
        return Scored(value, " | ".join(sorted(map(str, filled))))


def _options(fields: Mapping[str, object]) -> dict[str, str]:
    texts = [fields.get(f"option{number}") for number in range(1, 5)]
    return {
        letter: str(text) for letter, text in zip("ABCD", texts, strict=True) if text is not None
    }


def read_options(answer: str, options: Mapping[str, str]) -> str | None:
    """The option most often named, or several named as often, in order: by (A), else by the letter
    anywhere, also within words, else by its text."""
    for mark in MARKS:
        answer = answer.strip(mark)
    for form in ("({})", "{}"):
        counts = Counter({letter: answer.count(form.format(letter)) for letter in options})
        if counts.total():
            break
    else:
        if not answer.strip():
            return None
        counts = Counter({letter: f" {answer} ".count(text) for letter, text in options.items()})
    most = max(counts.values(), default=0)
    return "".join(letter for letter in options if counts[letter] == most) if most else None


def read_verdict(answer: str) -> str | None:
    """对 or 错, whichever is said in more of what follows "是", "判断" and the like."""
    answer = answer.strip("。").strip()
    found = set(shortest_tails(re.split("[。\n]", answer), _VERDICTS) or [answer])
    plain = [text for text in found if not any(word in text for word in _AMBIGUOUS)]
    true = [any(word in text for word in _TRUE) for text in plain]
    false = [
        not holds and any(word in text for word in _FALSE)
        for holds, text in zip(true, plain, strict=True)
    ]
    if sum(true) == sum(false):
        return None
    return "对" if sum(true) > sum(false) else "错"


def read_gap(answer: str, reference: str) -> set[Read]:
    """Everything that an answer may say, but what is far longer than the reference."""
    answer = answer.strip("。").strip()
    found = shortest_tails(re.split("[。\n]", answer), _INDICATORS, ("=",)) or [answer]
    texts = [*found, *(text for each in found for text in numbers_in(each, _NUMBER_FORMS))]
    return {read for text in texts for read in _normalised(text, reference)}


def _normalised(text: str, reference: str) -> list[Read]:
    text = text.strip()
    found = number(text)
    if found is not None:
        return [found]
    too_long = len(text) > len(reference) + 20 or _letters(text) > _letters(reference) + 2
    return [] if too_long else [text]


def _letters(text: str) -> int:
    return len(re.findall("[A-Za-z]", text))
