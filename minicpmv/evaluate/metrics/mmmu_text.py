"""Reading answers to MMMU by the parser of its authors (Yue 2024), which MIRB shares. Where that
draws an option at random, nothing is read here.
"""

import re
from collections.abc import Iterable, Mapping, Sequence

MARKS = ",.!?;:'"  # taken off both ends of an answer, one after the other
_NUMBER_FORMS = (
    r"-?\b\d{1,3}(?:,\d{3})+\b",  # 1,000
    r"-?\d+(?:\.\d+)?[eE][+-]?\d+",  # 1e-3
    r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])",
)
_INDICATORS = (*("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result "),)
# Nothing but one of these is no answer.
_TRIVIAL = (":", ",", ".", "!", "?", ";", "'")
Read = str | float


def read_letter(answer: str, options: Mapping[str, str]) -> str | None:
    """The option that an answer picks: (A), else A before a space, else A before a period, else by
    its text in an answer of more than five words. Of several the one that stands last.

    A letter before a space may end a word: "vitamin A " and "DNA " are both A.
    """
    for mark in MARKS:
        answer = answer.strip(mark)
    answer = f" {answer} "
    for form, place in (("({})", "({})"), ("{} ", " {} "), ("{}.", " {} ")):
        found = [letter for letter in options if form.format(letter) in answer]
        if found:
            return max(found, key=lambda letter: answer.rfind(place.format(letter)))
    if len(answer.split()) <= 5:
        return None
    said = answer.lower()
    found = [letter for letter, text in options.items() if text.lower() in said]
    return max(found, key=lambda each: said.rfind(options[each].lower()), default=None)


def numbers_in(text: str, forms: Sequence[str] = _NUMBER_FORMS) -> list[str]:
    """Everything that looks like a number."""
    return [number for form in forms for number in re.findall(form, text)]


def number(text: str) -> float | None:
    """Rounded to two decimals; None where it is no number."""
    try:
        return round(float(text.replace(",", "")), 2)
    except ValueError:
        return None


def normalised(text: str) -> list[Read]:
    """A number, or text in lower case; a single character with a space on either side, lest it be
    found in every word."""
    text = text.strip()
    found = number(text)
    if found is not None:
        return [found]
    text = text.lower()
    return [f" {text}", f"{text} "] if len(text) == 1 else [text]


def shortest_tails(
    parts: Sequence[str], indicators: Sequence[str], at_the_end: Sequence[str] = ()
) -> list[str]:
    """What follows the words that announce an answer, of each part of one the shortest.

    Args:
        at_the_end: further such words of the last part.
    """
    tails = []
    for place, part in enumerate(parts):
        last = place == len(parts) - 1
        shortest = ""
        for indicator in (*indicators, *(at_the_end if last else ())):
            if indicator in part:
                tail = part.split(indicator)[-1].strip()
                if not shortest or len(tail) < len(shortest):
                    shortest = tail
        if shortest and shortest not in _TRIVIAL:
            tails.append(shortest)
    return tails


def read_open(answer: str) -> set[Read]:
    """Everything that a free answer may say: what follows "is", "answer" and the like, in lower
    case, with the numbers in it; all of it where there is no such word."""
    answer = answer.strip().strip(".").lower()
    # The parser also splits at a period before a capital, of which none is left by now.
    found = shortest_tails(answer.split("\n"), _INDICATORS, ("=",)) or [answer]
    texts = [*found, *(text for each in found for text in numbers_in(each))]
    return {read for text in texts for read in normalised(text)}


def is_right(said: Iterable[Read], references: Sequence[str]) -> bool:
    """Whether a reference stands in a text, or is one of the numbers."""
    true = [read for reference in references for read in normalised(reference)]
    return any(
        any(isinstance(each, str) and each in read for each in true)
        if isinstance(read, str)
        else read in true
        for read in said
    )
