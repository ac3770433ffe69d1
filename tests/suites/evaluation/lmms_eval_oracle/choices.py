"""Comparisons of questions with options, and of benchmarks of several pictures."""

import importlib
import random
import re
from collections.abc import Callable, Mapping, Sequence
from unittest import mock

from minicpmv.evaluate.items import Item

from .answers import draw_text
from .comparison import Comparison, Doc, Sides, one, stop, task

_LETTERS = "ABCDEFGH"


def _options(rng: random.Random, number: int) -> dict[str, str]:
    return {letter: draw_text(rng) for letter in _LETTERS[:number]}


def _choice(
    fields: Callable[[random.Random], Doc] = lambda rng: {}, most: int = 5
) -> Callable[[random.Random], Sides]:
    """Draws a question with 2 to `most` options."""

    def draw(rng: random.Random) -> Sides:
        options = _options(rng, rng.randint(2, most))
        right, more = rng.choice([*options]), fields(rng)
        item = Item("1", "", answers=(right,), options=options, fields=more)
        return item, {"answer": right, "options": [*options.values()], **more}

    return draw


def _index(doc: Doc) -> int:
    return _LETTERS.index(doc["answer"])


def _ai2d_score(doc: Doc, answer: str) -> float:
    module = task("ai2d.utils")
    exact_match = importlib.import_module("lmms_eval.api.metrics").exact_match_hf_evaluate
    picked = module.MultiChoiceRegexFilter().apply([[answer]], [doc])[0].strip()
    target = module.ai2d_doc_to_target({**doc, "answer": _index(doc)}, "mcq")
    found = exact_match(
        predictions=[picked], references=[target], ignore_case=True, ignore_punctuation=True
    )
    return float(found["exact_match"])


def _scienceqa_score(doc: Doc, answer: str) -> float:
    row = {"choices": doc["options"], "answer": _index(doc)}
    return float(task("scienceqa.utils").sqa_process_results(row, [answer])["exact_match"])


def _seedbench_score(doc: Doc, answer: str) -> float:
    module = task("seedbench.utils")
    row = {**doc, "data_type": "image", "question_id": 1}
    return float(
        module.seed_aggregation_result([module.seed_process_result(row, [answer])["seed_all"]])
    )


def _blink_result(doc: Doc, answer: str) -> Doc:
    row = {"answer": f"({doc['answer']})", "choices": doc["options"], "idx": 1, "sub_task": "x"}
    return dict(task("blink.utils").blink_process_results(row, [answer])["blink_acc"])


def _mmstar_score(doc: Doc, answer: str) -> float:
    found = task("mmstar.utils").mmstar_process_results({**doc, "index": 1}, [answer])
    return float(found["average"]["score"])


def _mmstar_summary(rows: Sequence[tuple[Doc, str]]) -> Mapping[str, float]:
    module = task("mmstar.utils")
    found = [module.mmstar_process_results({**d, "index": 1}, [a])["average"] for d, a in rows]
    return {"mmstar": 100 * module.mmstar_aggregate_results(found)}


def _realworldqa(rng: random.Random) -> Sides:
    answer = rng.choice(["A", "B", "C", "D", draw_text(rng)])
    return Item("1", "", answers=(answer,), options=_options(rng, 4)), {"answer": answer}


def _realworldqa_score(doc: Doc, answer: str) -> float:
    return float(
        task("realworldqa.utils").realworldqa_process_results(doc, [answer])["exact_match"]
    )


def _videomme_result(doc: Doc, answer: str) -> Doc:
    row = {**doc, "sub_category": "Food", "question_id": "1", "videoID": "v"}
    module = task("videomme.utils")
    return dict(module.videomme_process_results(row, [answer])["videomme_perception_score"])


def _videomme_summary(rows: Sequence[tuple[Doc, str]]) -> Mapping[str, float]:
    results = [_videomme_result(*row) for row in rows]
    return {"video-mme": task("videomme.utils").videomme_aggregate_results(results)}


# MMBench: every question in the order A, B, C ... and in the others


def _mmbench() -> Callable[[random.Random], Sides]:
    waiting: list[Sides] = []
    count = iter(range(10**6))

    def draw(rng: random.Random) -> Sides:
        if not waiting:
            number, index = rng.randint(2, 4), next(count)
            texts, right = [draw_text(rng) for _ in range(number)], rng.randrange(number)
            more = {"category": rng.choice("xy"), "l2-category": rng.choice("pq")}
            for turn in range(number):
                turned = texts[turn:] + texts[:turn]
                options = dict(zip("ABCD", turned, strict=False))
                letter = "ABCD"[(right - turn) % number]
                position = str(index + turn * 1_000_000)
                item = Item(position, "", answers=(letter,), options=options, fields=more)
                absent = dict.fromkeys("ABCDE", "nan")
                row = {"index": int(position), "answer": letter, "question": "", "hint": "nan",
                       "source": "s", "split": "dev", "category": more["category"],
                       "L2-category": more["l2-category"], **absent, **options}  # fmt: skip
                waiting.append((item, row))
        return waiting.pop(0)

    return draw


def _mmbench_rows(rows: Sequence[tuple[Doc, str]]) -> list[Doc]:
    module = task("mmbench.en_utils")
    return [module.mmbench_process_results(*one(row))["gpt_eval_score"] for row in rows]


def _mmbench_hits(rows: Sequence[tuple[Doc, str]]) -> tuple[float, Doc, Doc]:
    evaluator = task("mmbench.en_utils").mmbench_evaluator
    return evaluator.eval_result(_mmbench_rows(rows), eval_method="static")  # type: ignore[no-any-return]


def _mmbench_score(doc: Doc, answer: str) -> float:
    return float(_mmbench_hits([({**doc, "index": 1}, answer)])[0])


def _mmbench_summary(rows: Sequence[tuple[Doc, str]]) -> Mapping[str, float]:
    share, by_category, by_l2 = _mmbench_hits(rows)
    shares = {"mcq-circular": share, **by_category, **by_l2}
    return {name: 100 * value for name, value in shares.items()}


# MMMU and CMMMU


def _mmmu(rng: random.Random) -> Sides:
    row_id = f"validation_{rng.choice(['Art', 'Art_Theory', 'Math'])}_{rng.randrange(10**6)}"
    if rng.random() < 0.5:
        options = _options(rng, rng.randint(2, 5))
        right = rng.choice([*options])
        fields = {"question_type": "multiple-choice"}
        item = Item(row_id, "", answers=(right,), options=options, fields=fields)
        return item, {"id": row_id, "answer": right, "options": str([*options.values()]), **fields}
    right, fields = draw_text(rng), {"question_type": "open"}
    item = Item(row_id, "", answers=(right,), fields=fields)
    return item, {"id": row_id, "answer": right, "options": "[]", **fields}


def _mmmu_result(doc: Doc, answer: str) -> Doc:
    with mock.patch("lmms_eval.tasks._task_utils.mmmu_mcq_utils.random.choice", stop):
        return dict(task("mmmu.utils").mmmu_process_results(doc, [answer])["mmmu_acc"])


def _mmmu_score(doc: Doc, answer: str) -> float:
    if not answer:
        stop()  # the text "" is found nowhere, and an option is drawn
    module = task("mmmu.utils")
    return float(module.evaluate_mmmu([_mmmu_result(doc, answer)])[1]["acc"])


def _mmmu_summary(rows: Sequence[tuple[Doc, str]]) -> Mapping[str, float]:
    results = [_mmmu_result(*row) for row in rows]
    art = [each for each in results if "_Art_" in each["id"] or "_Art_Theory_" in each["id"]]
    shares = {"mmmu": results, "Art and Design": art}
    module = task("mmmu.utils")
    return {name: 100 * module.evaluate_mmmu(some)[1]["acc"] for name, some in shares.items()}


def _cmmmu(rng: random.Random) -> Sides:
    kind = rng.choice(["选择", "判断", "填空"])
    fields = {"type": kind, "subcategory": rng.choice(["艺术", "数学"]), "id": 1}
    fields |= {f"option{number}": draw_text(rng) for number in range(1, 5)}
    choices = {"选择": ["A", "B", "AC"], "判断": ["对", "错"], "填空": [draw_text(rng)]}
    right = rng.choice(choices[kind])
    return Item("1", "", answers=(right,), fields=fields), {"answer": right, **fields}


def _cmmmu_score(doc: Doc, answer: str) -> float:
    if not answer:
        stop()
    module = task("cmmmu.utils")
    with mock.patch("lmms_eval.tasks.cmmmu.utils.random.choice", stop):
        found = module.cmmmu_process_results(doc, [answer])["cmmmu_acc"]
        return float(module.eval_cmmmu([found])["acc"])


# Several pictures


def _mantis(rng: random.Random) -> Sides:
    kind = rng.choice(["multi-choice", "short-answer"])
    options = _options(rng, 4) if kind == "multi-choice" else {}
    form = rng.choice(["{}", "{}. {}", "({}) {}"])
    options = {
        letter: form.format(letter, text) if form != "{}" else text
        for letter, text in options.items()
    }
    right = rng.choice([*options, "(B)"]) if options else draw_text(rng)
    item = Item("1", "", answers=(right,), options=options, fields={"question_type": kind})
    return item, {"id": 1, "question_type": kind, "answer": right, "options": [*options.values()]}


def _mantis_score(doc: Doc, answer: str) -> float:
    return float(
        task("mantis.utils").mantis_process_results(doc, [answer])["mantis_score"]["correct"]
    )


_SUBSETS = ("food", "sightseeing", "codeu", "plot_code", "analogy", "3d_scene", "image_jigsaw",
            "count", "attribute", "visual_chain", "arxiv")  # fmt: skip


def _mirb(rng: random.Random) -> Sides:
    right = rng.choice(["A", "B", "E", draw_text(rng), draw_text(rng)])
    fields = {"subset": rng.choice(_SUBSETS), "question_id": 1}
    return Item("1", "", answers=(right,), fields=fields), {"answers": right, **fields}


def _mirb_result(doc: Doc, answer: str) -> Doc:
    return dict(task("mirb.utils").mirb_process_results(doc, [answer])["mirb_score"])


def _mirb_score(doc: Doc, answer: str) -> float:
    module = task("mirb.utils")
    found = _mirb_result(doc, answer)
    letter = found["answers"] in ("A", "B", "C", "D", "E")
    compare = module.eval_multi_choice if letter else module.eval_open
    return float(compare(found["answers"], found["pred_answer"]))


def _mirb_summary(rows: Sequence[tuple[Doc, str]]) -> Mapping[str, float]:
    module = task("mirb.utils")
    groups: dict[str, float] = {}
    means = module.compute_averages_from_task_scores

    def keep(*given: object) -> Mapping[str, float]:
        groups.update(means(*given))
        return groups

    with mock.patch("lmms_eval.tasks.mirb.utils.compute_averages_from_task_scores", keep):
        share = module.mirb_aggregation([_mirb_result(*row) for row in rows])
    return {name: 100 * value for name, value in {"mirb": share, **groups}.items()}


def _interleave(rng: random.Random) -> Sides:
    kind = rng.choice(["multi-choice", "open-ended"])
    right = rng.choice(["A", "B. cat", "(C)", "d"]) if kind == "multi-choice" else draw_text(rng)
    fields = {"question_type": kind, "sub_task": "MathVerse", "sample_id": 1}
    return Item("1", "", answers=(right,), fields=fields), {"answer": right, **fields}


def _interleave_result(doc: Doc, answer: str) -> Doc:
    if doc["question_type"] == "open-ended" and not re.sub(r"[.]", "", answer):
        return {**doc, "score": 0.0}  # rouge fails at an answer of periods alone
    return dict(
        task("llava_interleave_bench.utils").interleave_process_results(doc, [answer])[
            "overall_score"
        ]
    )


def _interleave_summary(rows: Sequence[tuple[Doc, str]]) -> Mapping[str, float]:
    results = [_interleave_result(*row) for row in rows]
    return {"interleave": 100 * task("llava_interleave_bench.utils").overall_score(results)}


# MathVista, of answers that need no judge


def _mathvista(rng: random.Random) -> Sides:
    kind = rng.choice(["text", "integer", "float", "list"])
    options = _options(rng, 4) if kind == "text" else {}
    rights = {"text": [*options.values()], "integer": ["3", "14", "1000"],
              "float": ["3.1", "0.05", "14.0"], "list": ["[2007, 2008]"]}  # fmt: skip
    right = rng.choice(rights[kind])
    question_type = "multi_choice" if options else "free_form"
    fields = {"question_type": question_type, "answer_type": kind, "precision": 1.0}
    item = Item("1", "", answers=(right,), options=options, fields=fields)
    choices = [*options.values()]
    return item, {"pid": 1, "query": "", "answer": right, "choices": choices, "metadata": {},
                  **fields, "precision": 1}  # fmt: skip


def _mathvista_score(doc: Doc, answer: str) -> float:
    if not answer:
        stop()  # makes the option with the shortest text of nothing
    module = task("mathvista.utils")
    with mock.patch.object(module.mathvista_evaluator, "server") as judge:
        judge.evaluate.side_effect = KeyboardInterrupt  # everything else is caught there
        try:
            found = module.mathvista_process_results(doc, [answer])["llm_as_judge_eval"]
        except KeyboardInterrupt:
            stop()
    if found["prediction"] is None:
        stop()
    return float(found["true_false"])


def _mmstar_fields(rng: random.Random) -> Doc:
    return {"category": rng.choice("xy"), "l2_category": rng.choice("pqr")}


def _video_fields(rng: random.Random) -> Doc:
    domains, kinds = ["Knowledge", "Life Record"], ["OCR Problems", "Counting Problem"]
    return {
        "duration": rng.choice(["short", "long"]),
        "domain": rng.choice(domains),
        "task_type": rng.choice(kinds),
    }


COMPARISONS = [
    Comparison("ai2d", "ai2d", _choice(), _ai2d_score),
    Comparison("scienceqa", "scienceqa", _choice(), _scienceqa_score),
    Comparison("seedbench", "seedbench", _choice(most=4), _seedbench_score),
    Comparison(
        "blink",
        "blink",
        _choice(),
        lambda doc, answer: float(_blink_result(doc, answer)["is_correct"]),
    ),
    Comparison("mmstar", "mmstar", _choice(_mmstar_fields, 4), _mmstar_score, _mmstar_summary),
    Comparison("realworldqa", "realworldqa", _realworldqa, _realworldqa_score),
    Comparison(
        "videomme",
        "video-mme",
        _choice(_video_fields, 4),
        lambda doc, answer: float(_videomme_result(doc, answer)["score"]),
        _videomme_summary,
    ),
    Comparison(
        "mmbench, without GPT", "mcq-circular", _mmbench(), _mmbench_score, _mmbench_summary
    ),
    Comparison("mmmu", "mmmu", _mmmu, _mmmu_score, _mmmu_summary),
    Comparison("cmmmu", "cmmmu", _cmmmu, _cmmmu_score),
    Comparison("mantis", "mantis", _mantis, _mantis_score),
    Comparison("mirb", "mirb", _mirb, _mirb_score, _mirb_summary),
    Comparison(
        "llava_interleave_bench",
        "interleave",
        _interleave,
        lambda doc, answer: float(_interleave_result(doc, answer)["score"]),
        _interleave_summary,
    ),
    Comparison("mathvista, without GPT", "mathvista", _mathvista, _mathvista_score),
]
