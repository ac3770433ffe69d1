"""Pairs of answers from a model's own samples, as `minicpmv train preferences` collects them.

    question -> answers -> claims -> verdicts -> scores        one line per question, kept at once
                                              -> pairs of about equal length    when all are there

All answers to a question come from the same model by the same prompt, so that two of them differ in
what they say and not in how (RLAIF-V calls them deconfounded). What is not judged is counted.
"""

import hashlib
import json
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ...appending import Appended
from ...data.convert import convert, written_row
from ...data.faults import DataError, Fault
from ...data.files import open_rows
from ...data.formats import format_of
from ...data.media_fields import MediaWriter
from ...data.messages import Conversation, Message, Preference, chat_messages
from ...loader import load
from ...media.policy import MediaPolicy, use_policy
from ..options import flag_of, given
from .claims import POLAR, Asked, Splitter, opposite_of, splitter_named
from .correct import corrections, with_right_ones
from .judge import Asking, Judge, ModelJudge, SceneJudge, next_tokens
from .options import SCENE_JUDGES, PreferenceOptions
from .pairs import is_kept, length_limit, pairs_of, score, words
from .server import Server

Row = Conversation | Preference
Record = dict[str, Any]


@dataclass
class Collected:
    """What a collection came to.

    Fields:
        questions: rows that were asked; answers: that were drawn; claims: in them.
        rejected: claims that do not hold; unjudged: answers left out, as not all of their claims
            have a verdict; repeated: answers left out, as they were drawn before.
        candidates: pairs with different scores; pairs: that are left with about equal lengths.
        limit: how much longer a rejected answer was allowed to be, as a share of it.
        words: the mean of the chosen and of the rejected answers.
    """

    questions: int = 0
    answers: int = 0
    claims: int = 0
    rejected: int = 0
    unjudged: int = 0
    repeated: int = 0
    candidates: int = 0
    pairs: int = 0
    limit: float | None = None
    words: tuple[float, float] = field(default=(0.0, 0.0))

    def as_text(self) -> str:
        """One line."""
        limit = "" if self.limit is None else f", at most {self.limit:.0%} of it longer"
        return (
            f"{self.questions} questions, {self.answers} answers ({self.repeated} repeated and "
            f"{self.unjudged} not judged are left out), {self.claims} claims of which "
            f"{self.rejected} do not hold; {self.candidates} pairs, {self.pairs} kept{limit}; mean "
            f"words {self.words[0]:.1f} chosen, {self.words[1]:.1f} rejected"
        )


def run(options: PreferenceOptions) -> Collected:
    """Ask, judge and pair as the options say.

    Raises:
        DataError: rows have faults.
        ValueError, OSError: something else is wrong, in one line.
    """
    options.check()
    with use_policy(MediaPolicy(schemes=("file", "data"), warns=False)):
        rows = _rows(options)
        with Kept(Path(options.output + ".answers.jsonl"), _facts(options)) as kept:
            left = [row for row in rows if row.row not in kept.records]
            if left:
                _ask(options, left, kept, len(rows))
        records = [kept.records[row.row] for row in rows]
        pairs, found = _paired(records, options)
        if not pairs:
            raise ValueError(
                f"No two answers of a question differ in what holds ({found.as_text()}). Draw more "
                "--answers, or raise --temperature; where most are not judged, the judge says "
                "neither yes nor no: try --no-polar or another --judge."
            )
        _write(Path(options.output), {row.row: row for row in rows}, pairs)
    print(found.as_text(), file=sys.stderr)
    return found


class Kept(Appended):
    """Answers and verdicts on disk, one line per question, behind a line that says what they
    depend on.
    """

    def __init__(self, path: Path, facts: Record) -> None:
        self.path = path
        self.records: dict[int, Record] = {}
        self._facts = facts
        super().__init__(path)

    def _begin(self) -> None:
        facts, *records = [*map(json.loads, self._whole_lines("collection"))] or [None]
        if facts is None:
            self._write(self._facts)
        elif facts != self._facts:
            raise ValueError(
                f"{self.path} is of a collection with other options or data. Remove it, or give "
                "another --output."
            )
        self.records = {record["row"]: record for record in records}

    def add(self, record: Record) -> None:
        self._write(record)
        self.records[record["row"]] = record

    def _write(self, record: Record) -> None:
        self._append(json.dumps(record, ensure_ascii=False).encode("utf-8", "replace") + b"\n")


def _facts(options: PreferenceOptions) -> Record:
    """What answers and verdicts depend on."""
    path = Path(options.data.rpartition("::")[0] or options.data)
    later = (
        "output",
        "pairs",
        "correct",
        "right_share",
        "balance_lengths",
        "batch",
        "limit",
        "device",
    )
    told = {name: value for name, value in asdict(options).items() if name not in later}
    digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
    return told | {"sha256": digest}


def _rows(options: PreferenceOptions) -> list[Row]:
    """The rows that are asked.

    Raises:
        DataError: some have faults.
    """
    rows = open_rows(
        options.data, format=options.format or None, image_folder=options.image_folder or None
    )
    found: list[Row] = []
    faults: list[Fault] = []
    for row in rows:
        if options.limit and len(found) + len(faults) == options.limit:
            break
        if isinstance(row, Fault):
            faults.append(row)
        else:
            found.append(row)
    if faults:
        command = ["minicpmv", "data", "check", options.data, "--model", options.model]
        for name in ("format", "image_folder"):
            if getattr(options, name):
                command += [flag_of(name), getattr(options, name)]
        raise DataError(faults[:20], len(faults), shlex.join([*command, "--max-length", "0"]))
    if not found:
        raise ValueError(f"{options.data} holds no rows.")
    return found


def prompt_of(row: Row) -> tuple[Message, ...]:
    """What is asked of a row: everything before its last answer."""
    return row.prompt if isinstance(row, Preference) else row.messages[:-1]


def _ask(options: PreferenceOptions, rows: Sequence[Row], kept: Kept, total: int) -> None:
    """Answer, split and judge, and keep each row when it is done."""
    from tqdm import tqdm

    chat = load(
        options.model,
        options.device,
        options.dtype,
        progress=False,
        adapter=options.adapter or None,
    )
    splitter, (judge, polar) = _splitter(options), _judge(options, chat)
    with chat, tqdm(total=total, initial=total - len(rows), unit="question", disable=None) as bar:
        for start in range(0, len(rows), options.batch):
            part = rows[start : start + options.batch]
            for row, texts in zip(part, drawn(chat, part, options), strict=True):
                kept.add(judged(row, texts, splitter, judge, options.balance_yes, polar))
                bar.update()


def drawn(chat: Any, rows: Sequence[Row], options: PreferenceOptions) -> list[list[str]]:
    """The answers to each row, the i-th drawn with seed + i."""
    requests = [chat_messages(prompt_of(row)) for row in rows]
    answers: list[list[str]] = [[] for _ in rows]
    for number in range(options.answers):
        found = chat.batch(
            requests,
            batch_size=options.batch,
            sampling=True,
            temperature=options.temperature,
            max_new_tokens=options.max_new_tokens,
            seed=options.seed + number,
        )
        for texts, answer in zip(answers, found, strict=True):
            texts.append(answer.text)
    return answers


def judged(
    row: Row,
    texts: Sequence[str],
    splitter: Splitter,
    judge: Judge,
    asks_opposites: bool,
    polar: bool = True,
) -> Record:
    """The answers to a row with their claims, questions, verdicts and scores.

    A verdict is None where there is none, and so is the score of its answer.
    """
    question = " ".join(message.text for message in prompt_of(row) if message.role == "user")
    pictures = [
        block
        for message in chat_messages(prompt_of(row))
        if not isinstance(message["content"], str)
        for block in message["content"]
        if block["type"] != "text"
    ]
    distinct = list(dict.fromkeys(texts))
    claims = [splitter.claims(question, text) for text in distinct]
    asked = {}
    for claim in (claim for found in claims for claim in found):
        both = splitter.question(claim), opposite_of(claim) if asks_opposites else ""
        if not polar:
            both = both[0].removesuffix(POLAR), both[1].removesuffix(POLAR)
        asked[claim] = Asking(claim, *both)
    verdicts = judge.verdicts(pictures, row.rest, list(asked.values()))
    if len(verdicts) != len(asked):
        raise ValueError(f"The judge gave {len(verdicts)} verdicts on {len(asked)} claims.")
    known = dict(zip(asked, verdicts, strict=True))
    answers = []
    for text, found in zip(distinct, claims, strict=True):
        of_answer = [known[claim] for claim in found]
        accepted = [verdict.accepted for verdict in of_answer if verdict is not None]
        is_whole = bool(found) and len(accepted) == len(found)
        answers.append(
            {
                "text": text,
                "claims": found,
                "questions": [asked[claim].question for claim in found],
                "verdicts": [None if v is None else [v.accepted, v.yes] for v in of_answer],
                "score": score(accepted) if is_whole else None,
            }
        )
    return {"row": row.row, "drawn": len(texts), "answers": answers}


def _paired(
    records: Sequence[Record], options: PreferenceOptions
) -> tuple[list[Record], Collected]:
    """The pairs of all questions, and what was left out on the way."""
    found = Collected(questions=len(records))
    pairs: list[Record] = []
    for record in records:
        answers = record["answers"]
        whole = [answer for answer in answers if answer["score"] is not None]
        found.answers += record["drawn"]
        found.repeated += record["drawn"] - len(answers)
        found.unjudged += len(answers) - len(whole)
        for answer in whole:
            found.claims += len(answer["claims"])
            found.rejected -= answer["score"]
        if options.correct:
            pairs += [
                {"row": record["row"]} | pair
                for pair in corrections(whole, f"{options.seed}:{record['row']}", options.pairs)
            ]
            continue
        texts = [answer["text"] for answer in whole]
        scores = [answer["score"] for answer in whole]
        for pair in pairs_of(record["row"], texts, scores, options.pairs, options.seed):
            both = {"chosen": whole[pair.chosen], "rejected": whole[pair.rejected]}
            pairs.append({"row": pair.row} | both)
    found.candidates = len(pairs)
    if options.correct:
        pairs = with_right_ones(pairs, options.right_share, options.seed)
    lengths = [(words(p["chosen"]["text"]), words(p["rejected"]["text"])) for p in pairs]
    if options.balance_lengths and pairs and not options.correct:
        found.limit = length_limit(lengths)
        is_left = [is_kept(*each, found.limit) for each in lengths]
        pairs = [pair for pair, stays in zip(pairs, is_left, strict=True) if stays]
        lengths = [each for each, stays in zip(lengths, is_left, strict=True) if stays]
    found.pairs = len(pairs)
    if pairs:
        chosen, rejected = (sum(each) / len(pairs) for each in zip(*lengths, strict=True))
        found.words = chosen, rejected
    return pairs, found


def _write(path: Path, rows: dict[int, Row], pairs: Sequence[Record]) -> None:
    """The pairs as rows of RLAIF-V, with claims, questions, verdicts and scores in `org_infos`."""
    writer, media = format_of("rlaif-v"), MediaWriter(path)
    lines = []
    for number, pair in enumerate(pairs):
        row = rows[pair["row"]]
        rest = {name: value for name, value in row.rest.items() if name == "scene"}
        rest |= {
            "idx": number,
            "origin_dataset": "minicpmv",
            "org_infos": {
                name: {key: value for key, value in pair[name].items() if key != "text"}
                for name in ("chosen", "rejected")
            },
        }
        texts = pair["chosen"]["text"], pair["rejected"]["text"]
        preference = Preference(prompt_of(row), *texts, row=number, id=row.id, rest=rest)
        lines.append(json.dumps(written_row(preference, writer, media), ensure_ascii=False) + "\n")
    part = path.with_name(f".{path.name}.part.jsonl")
    part.write_text("".join(lines), encoding="utf-8")
    if path.suffix == ".jsonl":
        os.replace(part, path)
        return
    try:
        convert(part, path, "rlaif-v", format="rlaif-v", overwrite=True)
    finally:
        part.unlink()


def _splitter(options: PreferenceOptions) -> Splitter:
    if options.splitter.startswith(("http://", "https://")):
        return Asked(Server(options.splitter, options.splitter_model).complete)
    return splitter_named(options.splitter)


def _judge(options: PreferenceOptions, chat: Any) -> tuple[Judge, bool]:
    """The judge, and whether its questions say that they want yes or no."""
    if options.judge_url:
        server = Server(options.judge_url, options.judge_model)
        return ModelJudge(server.yes_or_no, options.yes_threshold), options.polar
    if options.judge in SCENE_JUDGES:
        return SceneJudge(objects=options.judge == "scene-objects"), options.polar
    if options.judge != "self":
        chat = load(options.judge, options.device, options.dtype, progress=False)
    # nano was trained on bare questions; after this sentence it says something else.
    is_nano = getattr(chat.model.config, "variant", None) == "nano"
    polar = options.polar and ("polar" in given(options) or not is_nano)
    return ModelJudge(next_tokens(chat), options.yes_threshold), polar


__all__ = ["Collected", "Kept", "drawn", "judged", "prompt_of", "run"]
