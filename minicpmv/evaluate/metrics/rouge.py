"""ROUGE-L as the package `rouge` 1.0.1 computes it, which lmms-eval scores with."""

from collections.abc import Sequence


def rouge_l(said: str, reference: str) -> float:
    """F of the longest common subsequences of words, sentence by sentence.

    Sentences end at periods. Every word counts once, however often it is there: "a a b" has two.

    Raises:
        ValueError: one has no words.
    """
    given, true = _sentences(said), _sentences(reference)
    if not given or not true:
        empty = "answer" if not given else "reference"
        raise ValueError(f"The {empty} is empty; ROUGE-L needs at least 1 word of both.")
    shared: set[str] = set()
    for sentence in true:
        for other in given:
            shared |= set(_common(sentence, other))
    precision = len(shared) / len({word for sentence in given for word in sentence})
    recall = len(shared) / len({word for sentence in true for word in sentence})
    return 2.0 * ((precision * recall) / (precision + recall + 1e-8))


def _sentences(text: str) -> list[list[str]]:
    # Of a sentence that is white space alone an empty word is left, which counts.
    return [" ".join(part.split()).split(" ") for part in text.split(".") if part]


def _common(x: Sequence[str], y: Sequence[str]) -> list[str]:
    """The longest common subsequence; of several the one whose words stand earliest in `x` where
    they are equally long, as that package walks back."""
    length = [[0] * (len(y) + 1) for _ in range(len(x) + 1)]
    for i, word in enumerate(x):
        for j, other in enumerate(y):
            length[i + 1][j + 1] = (
                length[i][j] + 1 if word == other else max(length[i][j + 1], length[i + 1][j])
            )
    i, j, common = len(x), len(y), []
    while i and j:
        if x[i - 1] == y[j - 1]:
            common.append(x[i - 1])
            i, j = i - 1, j - 1
        elif length[i - 1][j] > length[i][j - 1]:
            i -= 1
        else:
            j -= 1
    return common
