"""Answers as models give them, and as they should not: drawn at random from pieces that make the
rules of benchmarks disagree.
"""

import random
from collections.abc import Sequence

_LETTERS = "ABCDEZ"
_DRESSES = (
    *("{}", "({})", "{}.", "{})", "{}:", "{},", "**{}**", "[{}]", "{} ", " {}", "{}. cat", "({}) "),
    *("{}）", "（{}）", "{}。", "{}、", "option {}", "Option {}:", "\\boxed{{{}}}", "{}!", "'{}'"),
)
_BEFORE = (
    *("", "", "", "The answer is ", "The correct answer is ", "Answer: ", "answer:", "I choose "),
    *("the best option is ", "The correct option is ", "Final Answer: ", "So the answer is "),
    *(
        "正确答案是",
        "答案为",
        "选",
        "I think it could be ",
        "Because ",
        "According to the picture, ",
    ),
    *("A dog and ", "Option:", "Best answer: ", "\n", "  ", "It is not B but ", "最后答案"),
)
_AFTER = (
    *("", "", "", ".", " because the cat is there.", "\nThe dog runs.", ", not A", " or C", "。"),
    *(" is correct.", " as DNA shows.", " and vitamin A is there", "吗", "!!", " (see D).", "\t"),
)
_TEXTS = (
    *(
        "",
        " ",
        "None",
        "nan",
        "cat",
        "Cat",
        "a cat",
        "The cat.",
        "dog",
        "A dog",
        "a  dog ",
        "banana",
    ),
    *(
        "yes",
        "Yes.",
        "no",
        "No",
        "Yes, there is a dog.",
        "no, it is not",
        "yes and no",
        "Not at all",
    ),
    *(
        "y",
        "n",
        "Y.",
        "note that",
        "I do not know",
        "yes!",
        "eyes",
        "none",
        "unanswerable",
        "unsure",
    ),
    *("1,000", "1000", "1,000.50", "3.14", "3.1", "3", "three", "Three.", "0", "0.0", "-2", "5%"),
    *("0.05", "12 %", "1e-3", "$3.50", "$3.5", "2,5", "14", "14.0", "fourteen", "[2007, 2008]"),
    *(
        "hello world",
        "hello  world ",
        "Hello, World!",
        "HELLO\nWORLD",
        "ｈｅｌｌｏ　ｗｏｒｌｄ",
        "ＡＢＣ",
        "你好",
    ),
    *(
        "你好，世界",
        "正确",
        "不对",
        "错误",
        "这是对的。",
        "判断为错",
        "是否正确",
        "答案是3.5",
        "结果为 1，000",
    ),
    *("it's", "its", "dont", "don't know", "shed've", "ow's'at", "o'clock", "10 o'clock", "ten"),
    *("a/b", "a / b", "x=y", "x = y + 1", "\\frac{1}{2}", "\\frac {1} {2}", "e.g. this", "a.b.c."),
    *("St. John's", "john s", "john's", "what?", "1,000 cats, 2 dogs", "semi;colon", "under_score"),
    *(
        "I'm sorry, but without the image provided I cannot say",
        "Z",
        "B",
        "b",
        "b.",
        "C) red",
        "(D)",
    ),
    *("the result is 42", "so x = 5", "it is about 3.14159", "is 7\nso 8\nthus 9", "= 12", "is :"),
    *("The first picture shows a red ball. The second a blue one.", "A red ball", "red", "blue"),
    *("........................................x", "a. b. c. d. e.", "x " * 300, "word " * 120),
    *("the answer", "answer", "Answer:", "ANSWER: C", "The Answer Is (C)", "cat dog", "dog. cat."),
)


def draw_answer(rng: random.Random, extra: Sequence[str] = ()) -> str:
    """One answer; one in four is one of `extra`, in some way."""
    kind = rng.random()
    if extra and kind < 0.25:
        answer = rng.choice([*extra])
        return rng.choice(
            [answer, answer.upper(), f" {answer} ", f"{answer}.", f"The answer is {answer}.",
             f"It is {answer}", answer.lower(), f"{answer}\n", f"Final answer: {answer}"]
        )  # fmt: skip
    if kind < 0.65:
        letter = rng.choice(_LETTERS)
        return rng.choice(_BEFORE) + rng.choice(_DRESSES).format(letter) + rng.choice(_AFTER)
    if kind < 0.9:
        return rng.choice(_TEXTS)
    return " ".join(rng.choice(_TEXTS) for _ in range(rng.randint(2, 4)))


def draw_text(rng: random.Random) -> str:
    """A reference: short text that is not empty."""
    return rng.choice([text for text in _TEXTS if text.strip() and len(text) < 40])


def near(rng: random.Random, text: str) -> str:
    """The text with a few characters changed, or more white space."""
    characters = list(text)
    for _ in range(rng.randint(0, 3)):
        place = rng.randint(0, len(characters))
        characters[place : place + rng.randint(0, 1)] = rng.choice(["x", " ", "  ", "", "É", "9"])
    return "".join(characters)
