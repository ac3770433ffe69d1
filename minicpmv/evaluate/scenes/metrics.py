"""Scores of answers about drawn pictures.

Each measure is that of a public benchmark, named where it is defined, as its paper has it; the
benchmarks themselves, with the faults of the programs that run them, are in `evaluate/metrics/`.
All compare one answer with what is known to be true; `character_error_rate` takes many.
"""

import re
from collections.abc import Sequence
from statistics import fmean

from minicpmv.evaluate.metrics.distance import edit_distance
from minicpmv.evaluate.metrics.plain import on_one_line

_NUMBER_WORDS = (
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
)
_SYNONYMS = {"gray": "grey", "center": "centre", "color": "colour", "none": "0"} | {
    word: str(number) for number, word in enumerate(_NUMBER_WORDS)
}
# All punctuation but the point in 3.5 and the minus in -2.
_PUNCTUATION = re.compile(r"(?!(?<=\d)\.(?=\d)|(?<!\w)-(?=\d))[^\w\s]")
_NUMBER = re.compile(r"[$€£]?\s*([+-]?\d+(?:\.\d+)?)\s*%?\.?")
_RULE = re.compile(r":?-{3,}:?")  # a cell of the line under a Markdown table's header
_LETTER = re.compile(r"\(?([A-Z])(?:[).:].*|\))?", re.DOTALL)
_NAMED_LETTER = re.compile(r"\b(?:answer|option|choice)\b(?: is)?:? *\(?([A-Z])\b", re.IGNORECASE)


def normalise(answer: str) -> str:
    """Lower case without punctuation and articles; spellings and number words of one kind (the
    rules of VQA, Antol 2015).
    """
    text = re.sub(r"(?<=\d),(?=\d{3}\b)", "", answer.lower())
    words = _PUNCTUATION.sub(" ", text).split()
    return " ".join(_SYNONYMS.get(word, word) for word in words if word not in ("a", "an", "the"))


def is_right(answer: str, *accepted: str) -> bool:
    """Whether the answer says the same as one of those accepted, up to `normalise`."""
    return normalise(answer) in {normalise(truth) for truth in accepted}


def vqa_accuracy(answer: str, people: Sequence[str]) -> float:
    """The share of the answer's agreement with people (VQA, Antol 2015): three who said the same
    make it wholly right; averaged over leaving out each of them in turn.

    Args:
        people: what each person answered, ten of them in VQA.
    """
    same = [normalise(said) == normalise(answer) for said in people]
    return fmean(min(1.0, (sum(same) - left_out) / 3) for left_out in same)


def yes_or_no(answer: str) -> str | None:
    """The yes or no with which the answer begins (MME, Fu 2023), else None."""
    first = normalise(answer).partition(" ")[0]
    return first if first in ("yes", "no") else None


def chosen_option(answer: str, options: Sequence[str]) -> int | None:
    """Index of the option that the answer picks, by its letter or by its text (MMBench, Liu 2023);
    None where it picks none.
    """
    for index, option in enumerate(options):
        if is_right(answer, option):
            return index
    found = _LETTER.fullmatch(answer.strip()) or _NAMED_LETTER.search(answer)
    index = ord(found[1].upper()) - ord("A") if found else len(options)
    return index if index < len(options) else None


def is_close(answer: str, truth: str, tolerance: float = 0.05) -> bool:
    """Relaxed accuracy (PlotQA, Methani 2020; ChartQA, Masry 2022): numbers may be off by a
    twentieth of the true one; everything else is compared by `is_right`.
    """
    given, wanted = _number(answer), _number(truth)
    if given is None or wanted is None:
        return is_right(answer, truth)
    return abs(given - wanted) <= tolerance * abs(wanted) + 1e-9  # 1e-9: 0.05 * 20 is 1


def _number(text: str) -> float | None:
    text = text.strip().lower()
    found = _NUMBER.fullmatch(_SYNONYMS.get(text, re.sub(r"(?<=\d),(?=\d{3}\b)", "", text)))
    return float(found[1]) if found else None


def character_errors(answer: str, truth: str) -> int:
    """Edit distance in characters, upper and lower case told apart."""
    return edit_distance(on_one_line(answer), on_one_line(truth))


def character_error_rate(answers: Sequence[str], truths: Sequence[str]) -> float:
    """Edit distance over the number of true characters, of all answers together; can exceed 1."""
    errors = sum(character_errors(a, t) for a, t in zip(answers, truths, strict=True))
    return errors / max(1, sum(len(on_one_line(truth)) for truth in truths))


def contains_text(answer: str, truth: str) -> bool:
    """Whether what is printed stands somewhere in the answer, in whatever case (OCRBench, Liu
    2023).
    """
    return on_one_line(truth).lower() in on_one_line(answer).lower()


def anls(answer: str, *accepted: str) -> float:
    """Normalised Levenshtein similarity to the nearest of the accepted answers, 0 below a half
    (ANLS; ST-VQA, Biten 2019).
    """
    given = on_one_line(answer).lower()
    best = 0.0
    for truth in map(on_one_line, accepted):
        longer = max(len(given), len(truth), 1)
        best = max(best, 1 - edit_distance(given, truth.lower()) / longer)
    return best if best > 0.5 else 0.0


def markdown_rows(text: str) -> list[list[str]]:
    """Cells of a Markdown table, header first, without the line of dashes; lines without a bar are
    left out.
    """
    rows = []
    for line in text.splitlines():
        line = line.strip()
        if "|" not in line:
            continue
        cells = [cell.strip() for cell in line.removeprefix("|").removesuffix("|").split("|")]
        if not all(_RULE.fullmatch(cell) for cell in cells):
            rows.append(cells)
    return rows


def cell_f1(answer: str, truth: str) -> float:
    """F1 of the cells of a Markdown table: one is found where the same text stands in the same row
    and column (after the cell measure of text-to-table, Wu 2022, with places for headings).
    """
    given, wanted = (
        {
            (row, column, on_one_line(cell))
            for row, cells in enumerate(markdown_rows(text))
            for column, cell in enumerate(cells)
        }
        for text in (answer, truth)
    )
    return 2 * len(given & wanted) / max(1, len(given) + len(wanted))
