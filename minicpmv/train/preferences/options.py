"""Everything that `minicpmv train preferences` can be told. Imports no torch."""

import dataclasses
from pathlib import Path

from minicpmv.errors import ArgumentError
from minicpmv.train.options import check_options, given, option

SUFFIXES = (".json", ".jsonl", ".parquet")
SCENE_JUDGES = ("scene", "scene-objects")


def _check_data(text: str) -> str:
    path = text.rpartition("::")[0] or text
    return "" if not text or Path(path).exists() else "there is no such file"


def _check_output(text: str) -> str:
    if Path(text).is_dir():
        return "that is a folder; give a file"
    return "" if not text or text.endswith(SUFFIXES) else f"end it in {', '.join(SUFFIXES)}"


def _check_url(text: str) -> str:
    is_url = text.startswith(("http://", "https://"))
    return "" if is_url or not text else "it must begin with http:// or https://"


def _check_splitter(text: str) -> str:
    is_known = text == "rules" or ":" in text
    return "" if is_known else "give rules, module:function, or the address of a server"


@dataclasses.dataclass
class PreferenceOptions:
    """Options of a collection of pairs; see the help texts."""

    data: str = option("", "file of rows whose questions are asked", check=_check_data)
    output: str = option(
        "",
        "file of the pairs, .jsonl, .json or .parquet; what is sampled and judged is kept beside "
        "it, so that an interrupted run goes on",
        check=_check_output,
    )
    model: str = option("nano", "folder, name on the hub, or nano: it answers")
    adapter: str = option("", "folder of an adapter of it")
    format: str = option("", "format of the data, instead of the one that is recognised")
    image_folder: str = option("", "folder of the pictures, instead of the data file's own")
    limit: int = option(0, "rows that are taken; 0: all", least=0)

    answers: int = option(10, "answers that are drawn for each question", least=1)
    temperature: float = option(0.7, "of the answers", above=0)
    max_new_tokens: int = option(512, "the most tokens of an answer", least=1)
    batch: int = option(32, "questions that are answered together", least=1)
    seed: int = option(0, "of the answers, the first one's, and of the choice of pairs", least=0)

    splitter: str = option(
        "rules",
        "what makes claims of an answer: rules, module:function, or the address of a server",
        check=_check_splitter,
    )
    splitter_model: str = option("", "name of the model on that server")
    judge: str = option(
        "self",
        "who judges the claims: self, the name of a model, or for drawn pictures scene, or "
        "scene-objects, which looks at what is there and not at its colour and number",
    )
    judge_url: str = option(
        "", "address of an OpenAI-compatible server that judges instead", check=_check_url
    )
    judge_model: str = option("", "name of the model on that server")
    yes_threshold: float = option(
        0.5, "a claim holds if yes has a larger share of yes and no", above=0
    )
    polar: bool = option(
        True,
        "end questions with 'Please answer yes or no.'",
        shown="on; off where nano judges, which does not know it",
    )
    balance_yes: bool = option(
        False, "ask for the opposite of each claim too, against a habit of saying yes"
    )

    pairs: int = option(2, "the most pairs of a question", least=1)
    correct: bool = option(
        False,
        "pair each answer with itself, corrected: a wrong name is a thing in the better one; where "
        "all names are right, one is a thing in the worse one; for the judge scene-objects",
    )
    right_share: float = option(
        0.5,
        "of the pairs by --correct, the most whose answer was right already: the more, the less "
        "sure a model has to be to give a name",
        least=0,
    )
    balance_lengths: bool = option(
        True, "leave out pairs whose worse answer is much longer, until both are equally long"
    )
    device: str = option("auto", "cpu, cuda, mps, or auto: the fastest that is there")
    dtype: str = option("auto", "bfloat16, float32 ..., or auto")

    def check(self) -> None:
        """Raise ArgumentError for a value out of its range, or one without effect."""
        check_options(self, needed=("data", "output"))
        named = given(self)
        if self.judge_url and "judge" in named and self.judge != "self":
            raise ArgumentError("`judge` and `judge_url`: give one of them.")
        if self.judge_model and not self.judge_url:
            raise ArgumentError("`judge_model` has no effect without `judge_url`.")
        if self.splitter_model and not self.splitter.startswith(("http://", "https://")):
            raise ArgumentError("`splitter_model` has no effect without an address as `splitter`.")
        if self.yes_threshold >= 1:
            raise ArgumentError(f"`yes_threshold` is {self.yes_threshold:g}; it must be below 1.")
        if self.right_share >= 1:
            raise ArgumentError(f"`right_share` is {self.right_share:g}; it must be below 1.")
        if not self.correct and self.right_share != 0.5:
            raise ArgumentError("`right_share` has no effect without `correct`.")
        if self.correct and (self.judge_url or self.judge != "scene-objects"):
            raise ArgumentError("`correct` needs `judge` scene-objects, which knows the names.")
        if self.correct and self.splitter != "rules":
            raise ArgumentError("`correct` needs `splitter` rules, which puts claims back.")
        if self.answers < 2 and not self.correct:
            raise ArgumentError(f"`answers` is {self.answers}; a pair needs two without `correct`.")
        if self.judge in SCENE_JUDGES and not self.judge_url:
            for name in ("yes_threshold", "balance_yes", "polar"):
                if name in named and getattr(self, name) != type(self).__dict__.get(name):
                    raise ArgumentError(f"`{name}` has no effect: a scene is certain.")
