"""Reading the letter of an option in an answer, by VLMEvalKit's rules: `infer_option`.

An "A" is always the option, never the article: "A dog" picks option A where it is the only letter.
"""

import re
from collections.abc import Mapping

from .contract import check_rules

NONE_OF_THEM = "Z"  # what VLMEvalKit makes of an answer that refuses; always wrong
_REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)
FAILED = "Failed to obtain answer via API"
_AS_BLANKS = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
_STATED = re.compile(r"(?:correct\s+)?answer\s+is\s+\**([ABCD])\**", re.IGNORECASE)


def infer_option(answer: str, options: Mapping[str, str], rules: str) -> str | None:
    """The option that an answer picks: by its letter, else by its text; "Z" is none of them, None
    that it could not be read.

    OpenBMB's fork takes the only letter wherever it stands. VLMEvalKit has since come to take it
    only as one of the last four words, or after "answer is" (only A to D); and the text only in an
    answer that is not over twice as long as all options together.
    """
    check_rules(rules)
    upstream = rules != "vlmevalkit-fork"
    return _by_letter(answer, options, upstream) or _by_text(answer, options, upstream)


def _by_letter(answer: str, options: Mapping[str, str], upstream: bool) -> str | None:
    if FAILED in answer:
        return None
    if any(refusal in answer for refusal in _REFUSALS):
        return NONE_OF_THEM
    words = answer.translate(_AS_BLANKS).split()
    found = [letter for letter in options if letter in words]
    if len(found) == 1:
        if not upstream or words.index(found[0]) > len(words) - 5:
            return found[0]
    elif not found and NONE_OF_THEM in words:
        return NONE_OF_THEM
    stated = _STATED.search(answer) if upstream else None
    return stated[1].upper() if stated and stated[1].upper() in options else None


def _by_text(answer: str, options: Mapping[str, str], upstream: bool) -> str | None:
    said = answer.lower()
    if upstream and len(said) > 2 * sum(map(len, options.values())):
        return None
    found = [letter for letter, text in options.items() if text.lower() in said]
    return found[0] if len(found) == 1 else None
