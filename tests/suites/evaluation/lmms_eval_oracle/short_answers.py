"""Comparisons of short answers and of yes and no."""

import importlib
import random
import tempfile
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence

from minicpmv.evaluate.items import Item

from .answers import draw_text
from .comparison import Comparison, Doc, Sides, one, task

# Short answers


def _people(rng: random.Random) -> list[str]:
    said = [draw_text(rng) for _ in range(3)]
    return [rng.choice(said) for _ in range(10)]


def _vqa(rng: random.Random) -> Sides:
    people = _people(rng)
    return Item("1", "", answers=tuple(people)), {"answers": [*people], "question_id": 1}


def _vqa_score(name: str) -> Callable[[Doc, str], float]:
    def score(doc: Doc, answer: str) -> float:
        doc["answers"] = [*doc["answers"]]  # they are changed in place
        return float(
            getattr(task(f"{name}.utils"), f"{name}_process_results")(doc, [answer])["exact_match"]
        )

    return score


def _vqav2_score(doc: Doc, answer: str) -> float:
    doc["answers"] = [{"answer": a, "answer_id": n} for n, a in enumerate(doc["answers"])]
    return float(task("vqav2.utils").vqav2_process_results(doc, [answer])["exact_match"])


def _anls(rng: random.Random) -> Sides:
    answers = [draw_text(rng) for _ in range(rng.randint(1, 3))]
    return Item("1", "", answers=tuple(answers)), {"answers": answers}


def _anls_score(doc: Doc, answer: str) -> float:
    anls = importlib.import_module("lmms_eval.api.metrics").anls
    return float(anls(references=doc["answers"], predictions=[answer])["anls"])


_OCR_TYPES = (
    "Regular Text Recognition", "Handwriting Recognition", "Scene Text-centric VQA",
    "Key Information Extraction", "Handwritten Mathematical Expression Recognition",
)  # fmt: skip


def _ocr(rng: random.Random) -> Sides:
    answers = [draw_text(rng) for _ in range(rng.randint(1, 2))]
    kind = rng.choice(_OCR_TYPES)
    fields = {"dataset": "HME100k" if "Math" in kind else "IIIT5K", "question_type": kind}
    return Item("1", "", answers=tuple(answers), fields=fields), {"answer": answers, **fields}


def _ocr_score(doc: Doc, answer: str) -> float:
    found = task("ocrbench.utils").ocrbench_process_results(doc, [answer])
    return float(found["ocrbench_accuracy"]["score"])


def _ocr_summary(rows: Sequence[tuple[Doc, str]]) -> Mapping[str, float]:
    module = task("ocrbench.utils")
    results = [module.ocrbench_process_results(*one(row))["ocrbench_accuracy"] for row in rows]
    with tempfile.TemporaryDirectory() as folder:
        share = module.ocrbench_aggregate_accuracy(results, Namespace(output_path=folder))
    return {"Final Score": 1000 * share}


def _chartqa(rng: random.Random) -> Sides:
    answer = draw_text(rng)
    return Item("1", "", answers=(answer,)), {"answer": answer, "type": "human_test"}


def _chartqa_score(doc: Doc, answer: str) -> float:
    return float(task("chartqa.utils").chartqa_process_results(doc, [answer])["relaxed_overall"])


# Yes and no


def _mme() -> Callable[[random.Random], Sides]:
    drawn: list[Sides] = []

    def draw(rng: random.Random) -> Sides:
        """Two questions about every picture."""
        if len(drawn) % 2:
            fields = drawn[-1][1]
        else:
            category = rng.choice(["existence", "OCR", "code_reasoning"])
            fields = {"question_id": f"{category}/{len(drawn)}", "category": category}
        fields = {name: fields[name] for name in ("question_id", "category")}
        answer = rng.choice(["Yes", "No"])
        drawn.append(
            (Item("1", "", answers=(answer,), fields=fields), {"answer": answer, **fields})
        )
        return drawn[-1]

    return draw


def _mme_result(doc: Doc, answer: str) -> Doc:
    (found,) = task("mme.utils").mme_process_results(doc, [answer]).values()
    return dict(found)


def _mme_score(doc: Doc, answer: str) -> float:
    return float(_mme_result(doc, answer)["score"])


def _mme_summary(rows: Sequence[tuple[Doc, str]]) -> Mapping[str, float]:
    total = task("mme.utils").mme_aggregate_results([_mme_result(*row) for row in rows])
    return {"perception + cognition": total}


def _pope(rng: random.Random) -> Sides:
    answer = rng.choice(["yes", "no"])
    fields = {"question_id": "1", "category": rng.choice(["random", "popular"])}
    return Item("1", "", answers=(answer,), fields=fields), {"answer": answer, **fields}


def _pope_score(doc: Doc, answer: str) -> float:
    return float(task("pope.utils").pope_process_results(doc, [answer])["pope_accuracy"]["score"])


def _pope_summary(rows: Sequence[tuple[Doc, str]]) -> Mapping[str, float]:
    module = task("pope.utils")
    results = [module.pope_process_results(*one(row))["pope_accuracy"] for row in rows]
    names = {"F1": "f1_score", "accuracy": "accuracy", "precision": "precision",
             "recall": "recall", "yes ratio": "yes_ratio"}  # fmt: skip
    return {
        ours: 100 * getattr(module, f"pope_aggregate_{theirs}")(results)
        for ours, theirs in names.items()
    }


def _hallusion(rng: random.Random) -> Sides:
    fields = {
        "category": rng.choice(["VD", "VS"]),
        "subcategory": rng.choice(["ocr", "map"]),
        **{name: str(rng.randrange(4)) for name in ("set_id", "figure_id", "question_id")},
    }
    gold = rng.choice("01")
    return Item("1", "", answers=(gold,), fields=fields), {"gt_answer": gold, **fields}


def _hallusion_results(rows: Sequence[tuple[Doc, str]]) -> list[Doc]:
    return [{**doc, "model_prediction": answer} for doc, answer in rows]


def _hallusion_score(doc: Doc, answer: str) -> float:
    module = task("hallusion_bench.evaluate_hb")
    return float(module.hb_aggregation_result_aAcc_intern(_hallusion_results([(doc, answer)])))


def _hallusion_summary(rows: Sequence[tuple[Doc, str]]) -> Mapping[str, float]:
    module = task("hallusion_bench.evaluate_hb")
    return {
        name: 100
        * getattr(module, f"hb_aggregation_result_{name}_intern")(_hallusion_results(rows))
        for name in ("aAcc", "fAcc", "qAcc")
    }


COMPARISONS = [
    *(
        Comparison(f"{name} (VQA, EvalAI)", "vqa", _vqa, _vqa_score(name))
        for name in ("textvqa", "vizwiz_vqa", "ok_vqa")
    ),
    Comparison("vqav2 (VQA)", "vqav2", _vqa, _vqav2_score),
    Comparison("docvqa (ANLS)", "anls", _anls, _anls_score),
    Comparison("ocrbench", "ocrbench", _ocr, _ocr_score, _ocr_summary),
    Comparison("chartqa (relaxed)", "relaxed-accuracy", _chartqa, _chartqa_score),
    Comparison("mme", "mme", _mme(), _mme_score, _mme_summary),
    Comparison("pope", "pope", _pope, _pope_score, _pope_summary),
    Comparison(
        "hallusion_bench, without GPT",
        "hallusionbench",
        _hallusion,
        _hallusion_score,
        _hallusion_summary,
    ),
]
