"""MathVista (Lu 2024): a judge takes the short answer out of a long one, rules then compare it."""

from dataclasses import replace

from minicpmv.evaluate.items import Item
from minicpmv.evaluate.judges import JudgeRequest
from minicpmv.evaluate.metrics.contract import Scored
from minicpmv.evaluate.metrics.judged.unread import UnreadByRules
from minicpmv.evaluate.metrics.mathvista import compare, is_choice, options_of

_TRIES, _WARMER, _MAX_TOKENS = 5, 0.5, 128

_PROMPT = """\
Somebody answered a question in many words. Take out the final answer, in the form that is wanted, \
and write nothing else. Do not solve the question and do not correct the answer. Where it comes to \
no final answer, write: none

Question: How many wheels are in the picture?
Wanted: a whole number
Answer: I see two bicycles with two wheels each, which makes 4 wheels.
Final answer: 4

Question: What is the average height in metres?
Wanted: a number with 1 decimal
Answer: The average comes to about 1.7 m.
Final answer: 1.7

Question: In which two years are the sales highest?
Wanted: a list, as [1, 2]
Answer: They are highest in 2007 and again in 2008.
Final answer: [2007, 2008]

Question: Which share is blue?
Options: (A) 3/11 (B) 8/11
Wanted: the letter of an option
Answer: Eight of the eleven parts are blue.
Final answer: B

Question: {question}
{options}Wanted: {wanted}
Answer: {answer}
Final answer:"""


class ExtractedByJudge(UnreadByRules):
    """MathVista with a judge, who takes short answers out of long ones."""

    def _question(self, item: Item, answer: str) -> JudgeRequest:
        options = " ".join(f"({letter}) {text}" for letter, text in options_of(item).items())
        text = _PROMPT.format(
            question=item.question,
            options=f"Options: {options}\n" if is_choice(item) else "",
            wanted=_wanted(item),
            answer=answer,
        )
        messages = [{"role": "user", "content": text}]
        return JudgeRequest(messages, _MAX_TOKENS, tries=_TRIES, warmer=_WARMER)

    def judged(self, item: Item, answer: str, reply: str) -> Scored:
        said = reply.strip().removeprefix("Final answer:").strip()
        if said.lower().rstrip(".") == "none":
            return Scored(0.0, said, {"by": "judge"})  # a verdict: there is no answer
        found = compare(item, said, self._rules)
        return replace(found, parsed=found.parsed or said, detail={"by": "judge"})


def _wanted(item: Item) -> str:
    if is_choice(item):
        return "the letter of an option"
    decimals = int(float(item.fields.get("precision") or 0))
    return {
        "integer": "a whole number",
        "float": f"a number with {decimals} decimal{'s' if decimals > 1 else ''}"
        if decimals
        else "a number",
        "list": "a list, as [1, 2]",
    }.get(str(item.fields.get("answer_type")), "a few words")
