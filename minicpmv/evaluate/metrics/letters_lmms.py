"""Reading the letter of an option in an answer, as lmms-eval 0.7.3 does it: otherwise for almost
every benchmark. All take the answer without white space at its ends, and give None where it picks
no option.
"""

import re
import string
from collections.abc import Callable, Mapping, Sequence

from .letters import FAILED

_STATEMENTS = (
    *("the answer is", "answer is", "the correct answer is", "correct answer is"),
    *("the best answer is", "best answer is", "the correct option is", "correct option is"),
    *("the best option is", "best option is", "the choice is", "choice is"),
    *("the correct choice is", "correct choice is", "i choose", "i select", "i pick"),
    *("my answer is", "my choice is", "옵션", "정답은", "답은", "답:", "答案是", "答案为", "选"),
    "答えは",
)
_MARKS = ",.!?;:'\""


def most_likely_letter(answer: str, letters: Sequence[str]) -> str | None:
    """The letter in the form that shows best that it is meant, and of several in that form the
    last: at the start, at the end, after "the answer is" and the like, (A), A., A:, A), A and a
    space, anywhere.

    The letter after "the answer is" is the last such letter anywhere after it: "the answer is B,
    not A" is A.
    """
    text = answer.strip()
    for mark in _MARKS:
        text = text.strip(mark)
    padded = f" {text} "
    found: list[tuple[int, int, str]] = []  # how sure, where, which
    for sure, form in ((6, "({})"), (5, "{}."), (4, "{}:"), (3, "{})"), (2, "{} ")):
        for letter in letters:
            place = padded.rfind(form.format(letter))
            if place >= 0:
                found.append((sure, place, letter))
    lower = padded.lower()
    for statement in _STATEMENTS:
        start = lower.find(statement)
        if start < 0:
            continue
        for letter in letters:
            place = padded.find(letter, start + len(statement))
            if place >= 0:
                found.append((7, place, letter))
    text = padded.strip()
    for letter in letters:
        if text.startswith(letter) and not text[1:2].isalpha():
            found.append((10, 0, letter))
        if text.endswith(letter) and not text[-2:-1].isalpha():
            found.append((9, len(padded) - 1, letter))
    if not found:
        found = [(0, padded.rfind(letter), letter) for letter in letters if letter in padded]
    # Of equals the first is taken.
    return max(found, key=lambda each: each[:2])[2] if found else None


def generic(answer: str, options: Mapping[str, str]) -> str | None:
    """For data of one's own."""
    return most_likely_letter(answer, list(options))


def first_four(answer: str, options: Mapping[str, str]) -> str | None:
    """MMStar, Video-MME, RealWorldQA."""
    return most_likely_letter(answer, "ABCD")


def ai2d(answer: str, options: Mapping[str, str]) -> str | None:
    """The letter with a period at the start, else nothing but the letter, in any case and with any
    punctuation."""
    found = re.match(r"\s*([A-Z])\.", answer)
    text = found[1] if found else answer
    letter = text.lower().translate(str.maketrans("", "", string.punctuation)).upper()
    return letter if len(letter) == 1 and letter in string.ascii_uppercase else None


def scienceqa(answer: str, options: Mapping[str, str]) -> str | None:
    """Nothing but the letter, or a capital with a period at the start."""
    found = re.fullmatch(r"[A-Za-z]", answer) or re.match(r"([A-Z])\.", answer)
    return found[0][0].upper() if found else None


def seedbench(answer: str, options: Mapping[str, str]) -> str | None:
    """The first character: "Because" is B."""
    letter = answer[:1].upper()
    return letter if letter and letter in string.ascii_uppercase else None


def blink(answer: str, options: Mapping[str, str]) -> str | None:
    """A first line that is hardly more than the letter; the last letter after "answer" or "answer
    is"; the last one in parentheses; the first character, in any case: "because" is B."""
    letters = "".join(options) or string.ascii_uppercase
    first_line = answer.split("\n", 1)[0].strip()
    if len(first_line) <= 4:
        found = re.match(rf"\(?([{letters}])\)?[.\s:,)]*$", first_line, re.IGNORECASE)
        if found:
            return found[1].upper()
    stated = re.findall(
        rf"answers?(?:\s+is)?\s*[:\-]?\s*\(?([{letters}])\)?(?![A-Za-z])", answer, re.IGNORECASE
    )
    bracketed = stated or re.findall(rf"\(([{letters}])\)", answer)
    if bracketed:
        return str(bracketed[-1]).upper()
    found = re.match(rf"[(\s]*([{letters}])", answer, re.IGNORECASE)
    return found[1].upper() if found else None


def mmbench(answer: str, options: Mapping[str, str]) -> str | None:
    """A word that is the only letter, with the same punctuation; the only option whose text is in
    the answer; else `most_likely_letter`, lmms-eval's way without a judge.

    Options that a question does not have are the text "nan" there, which "banana" contains.
    """
    found = _only_word(answer) if FAILED not in answer else None
    if found:
        return found
    said = answer.lower()
    texts = {letter: options.get(letter, "nan").lower() for letter in "ABCD"}
    contained = [letter for letter, text in texts.items() if text in said]
    return contained[0] if len(contained) == 1 else most_likely_letter(answer, "ABCD")


_DRESSES = ("{}.", "{},", "{}:", "{})", "{}).", "({})", "({}).", ":{}", ":{},", ":{}.", ":{})")


def _only_word(answer: str) -> str | None:
    words = answer.split()
    bare = [letter for letter in "ABCDE" if letter in words]
    # An A in more than three words may be an article.
    if len(bare) == 1 and not ("A" in words and len(words) > 3):
        return bare[0]
    for dress in (*_DRESSES, ":{})."):
        found = [letter for letter in "ABCDE" if dress.format(letter) in words]
        if len(found) == 1:
            return found[0]
    return None


Reader = Callable[[str, Mapping[str, str]], str | None]
READERS: dict[str, Reader] = {
    "ai2d": ai2d,
    "blink": blink,
    "generic": generic,
    "mmbench": mmbench,
    "mmstar": first_four,
    "realworldqa": first_four,
    "scienceqa": scienceqa,
    "seedbench": seedbench,
}
