"""Normalised answers of the VQA evaluation (Antol 2015), as the programs really do it.

Two of its regular expressions do not do what they were meant to, and every score that was ever
published has been computed with them: the one for periods has `(?!<=\\d)` for `(?<!\\d)`, so that
a period goes wherever no digit follows it, and is given a flag in the place of a count, so that at
most 32 go.
"""

import re

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_COMMAS_IN_NUMBER = re.compile(r"(?<=\d),+(?=\d)")  # lmms-eval's; also of 1,,000
_PERIOD = re.compile(r"\.(?!\d)")
_MOST_PERIODS = 32  # the value of re.UNICODE
_NUMBERS = {
    "none": "0",
    **{
        word: str(number)
        for number, word in enumerate(
            ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
        )
    },
}
_ARTICLES = ("a", "an", "the")
# Written without one of their apostrophes they are given it back.
_CONTRACTIONS = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't
    haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've
    might've mustn't must've needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've
    shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've someone'll
    someone's something'd something'd've something'll that's there'd there'd've there're there's
    they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're
    what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're
    why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're
    you've
"""
CONTRACTIONS = {
    word[:place] + word[place + 1 :]: word
    for word in _CONTRACTIONS.split()
    for place, character in enumerate(word)
    if character == "'"
}
CONTRACTIONS["somebody'd"] = "somebodyd"  # the wrong way round in all of them


def strip_punctuation(text: str, commas: re.Pattern[str] = _COMMA_IN_NUMBER) -> str:
    """Take out punctuation: a mark goes where it stands beside a space anywhere in the text, or
    where the text has a comma between digits; elsewhere it becomes a space."""
    has_commas = commas.search(text) is not None
    stripped = text
    for mark in _PUNCTUATION:
        beside_space = f"{mark} " in text or f" {mark}" in text
        stripped = stripped.replace(mark, "" if beside_space or has_commas else " ")
    return _PERIOD.sub("", stripped, count=_MOST_PERIODS)


def plain_words(text: str) -> str:
    """Lower case, numbers as digits, no articles, contractions with their apostrophes."""
    words = (_NUMBERS.get(word, word) for word in text.lower().split())
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def without_breaks(text: str) -> str:
    """Line breaks and tabs as spaces, none at the ends."""
    return text.replace("\n", " ").replace("\t", " ").strip()


def vqa_answer(text: str) -> str:
    """Of the VQA evaluation, VLMEvalKit and OpenBMB's runner."""
    return plain_words(strip_punctuation(without_breaks(text)))


def reference_of_runner(text: str) -> str:
    """A reference of OpenBMB's runner, which does not strip it before it looks for spaces."""
    return plain_words(strip_punctuation(text))


def vqav2_answer(text: str) -> str:
    """Of lmms-eval for VQAv2."""
    return plain_words(strip_punctuation(without_breaks(text), _COMMAS_IN_NUMBER))


def evalai_answer(text: str) -> str:
    """Of the EvalAI server, lmms-eval's for TextVQA, VizWiz and OK-VQA: no commas and question
    marks, and a possessive s is a word."""
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    return plain_words(strip_punctuation(without_breaks(text), _COMMAS_IN_NUMBER))
