"""A judge that says which option an answer means, or yes or no, where the rules could not read it.

A reply is read by the same metric as the answer would have been, so that circular accuracy and
pairs of questions work as they do without a judge.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace

from minicpmv.evaluate.items import Item
from minicpmv.evaluate.judges import JudgeRequest
from minicpmv.evaluate.metrics.contract import Scored
from minicpmv.evaluate.metrics.judged.unread import UnreadByRules
from minicpmv.evaluate.metrics.letters import NONE_OF_THEM
from minicpmv.evaluate.metrics.mmmu import MMMU

_TRIES = 3
_WORDS = re.compile(r"[A-Za-z]+")
_CHINESE = re.compile(r"[\u4e00-\u9fff]")

_ENGLISH_OPTIONS = """\
Somebody was asked a multiple-choice question and answered in free words. Say which option the \
answer means. Do not solve the question yourself: a wrong answer stays wrong. Where the answer \
means none of the options, or several, say Z. Reply with one capital letter only: {letters} or Z.

Question: Which animal is it?
Options:
A. cat
B. dog
Answer: It is clearly somebody's puppy.
Letter: B

Question: Which animal is it?
Options:
A. cat
B. dog
Answer: A horse on a meadow.
Letter: Z

Question: {question}
Options:
{options}
Answer: {answer}
Letter:"""

_CHINESE_OPTIONS = """\
有人用自己的话回答了一道选择题。请判断该回答对应哪个选项。不要自己解题：错误的回答仍按其原意匹配。\
如果回答不对应任何选项，或对应多个选项，请输出 Z。只输出一个大写字母：{letters} 或 Z。

问题：图中是什么动物？
选项：
A. 猫
B. 狗
回答：显然是一只小狗。
字母：B

问题：图中是什么动物？
选项：
A. 猫
B. 狗
回答：草地上的一匹马。
字母：Z

问题：{question}
选项：
{options}
回答：{answer}
字母："""

_ENGLISH_YES_NO = """\
Somebody was asked a question that wants yes or no, and answered in free words. Say whether the \
answer means Yes or No. Do not answer the question yourself. Where the answer means neither, say \
Unknown. Reply with one word only: Yes, No or Unknown.

Question: Is the word in the picture "Hello"?
Answer: The word in the picture is "Hello".
Word: Yes

Question: Is there a dog?
Answer: I can only see a cat.
Word: No

Question: {question}
Answer: {answer}
Word:"""

_CHINESE_YES_NO = """\
有人用自己的话回答了一道是非题。请判断该回答的意思是 Yes 还是 No。不要自己回答问题。\
如果两者都不是，请输出 Unknown。只输出一个词：Yes、No 或 Unknown。

问题：图中的单词是“Hello”吗？
回答：图中的单词是“Hello”。
输出：Yes

问题：图中有狗吗？
回答：我只看到一只猫。
输出：No

问题：{question}
回答：{answer}
输出："""


def letter_of(reply: str, letters: Mapping[str, str] | str) -> str | None:
    """The one letter of an option, or Z, in a reply; None where it has none or several."""
    named = {word for word in _WORDS.findall(reply) if word in letters or word == NONE_OF_THEM}
    return named.pop() if len(named) == 1 else None


def word_of(reply: str) -> str | None:
    """The one of Yes, No and Unknown that a reply says."""
    said = {word.capitalize() for word in _WORDS.findall(reply)} & {"Yes", "No", "Unknown"}
    return said.pop() if len(said) == 1 else None


def is_yes_or_no(item: Item) -> bool:
    """Whether yes and no are the answers there are."""
    return bool(item.answers) and all(
        each.strip().lower() in ("yes", "no") for each in item.answers
    )


class MatchedByJudge(UnreadByRules):
    """A metric whose unread answers a judge matches with the options, or with yes and no."""

    def _question(self, item: Item, answer: str) -> JudgeRequest | None:
        item = self._as_choice(item)
        is_chinese = bool(_CHINESE.search(item.question))
        if item.options:
            letters = ", ".join(item.options)
            text = (_CHINESE_OPTIONS if is_chinese else _ENGLISH_OPTIONS).format(
                letters=letters,
                question=item.question,
                options="\n".join(f"{letter}. {text}" for letter, text in item.options.items()),
                answer=answer,
            )
            options = dict(item.options)
            return _request(text, lambda reply: letter_of(reply, options) is not None)
        if is_yes_or_no(item):
            text = (_CHINESE_YES_NO if is_chinese else _ENGLISH_YES_NO).format(
                question=item.question, answer=answer
            )
            return _request(text, lambda reply: word_of(reply) is not None)
        return None

    def judged(self, item: Item, answer: str, reply: str) -> Scored:
        item = self._as_choice(item)
        said = letter_of(reply, item.options) if item.options else word_of(reply)
        if said in (NONE_OF_THEM, "Unknown", None):
            # A verdict: the answer was read, and says nothing that could be right.
            return Scored(0.0, said, {"by": "judge"})
        found = self._metric.score(item, said, self._rules)
        return replace(found, detail={**found.detail, "by": "judge"})

    def _as_choice(self, item: Item) -> Item:
        """An open question of MMMU is one with two options in VLMEvalKit."""
        if isinstance(self._metric, MMMU) and self._rules != "lmms-eval":
            return self._metric.as_choice(item)
        return item


def _request(text: str, valid: Callable[[str], bool]) -> JudgeRequest:
    return JudgeRequest([{"role": "user", "content": text}], 16, tries=_TRIES, valid=valid)
