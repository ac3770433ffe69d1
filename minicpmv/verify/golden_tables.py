"""Golden tables of 1.0, 2.0 and OmniLMM-12B: strings and their ids, sizes and their cuts."""

from pathlib import Path
from typing import Any

from ..processing.processor import MiniCPMVProcessor
from ..processing.sentencepiece import joined_as_released
from ..processing.slicing import plan_slices
from ..released_auto import AutoTokenizer
from .checks import CaseReport


def tokenizer_table(
    name: str, checkpoint: Path, processor: MiniCPMVProcessor, table: dict[str, Any]
) -> CaseReport:
    """Ids, pieces and decoded text of single strings."""
    report, tokenizer = CaseReport(name, "tokenizer"), processor.tokenizer
    attributes = {
        **{key: key for key in ("bos_id", "eos_id", "unk_id", "im_start_id", "im_end_id")},
        "pad_token_id": "pad_token_id",
        "bos": "bos_token_id",
        "eos": "eos_token_id",
        "unk": "unk_token_id",
        "pad": "pad_token_id",
        "vocab_size": "vocab_size",
        "im_start": "im_start_id",
        "im_end": "im_end_id",
    }
    known = {*attributes, "len", "im_patch", "cases", "note", "reference_class", "padding_side"}
    report.unknown_fields(table, known)
    if "len" in table:
        report.equal("len", len(tokenizer), table["len"])
    if "im_patch" in table:
        report.equal("im_patch", processor.image_token_id, table["im_patch"])
    as_stored = AutoTokenizer.from_pretrained(checkpoint)
    for key, attribute in attributes.items():
        # OmniLMM counts its added tokens to the vocabulary in one place and not in the other.
        if key in table and key != "vocab_size":
            with report.stage(key):
                # The processor names a pad token where the files name none.
                source = as_stored if attribute == "pad_token_id" else tokenizer
                report.equal(key, getattr(source, attribute), table[key])
    for case in table["cases"]:
        with report.stage("tokenizer"):
            _compare_string(report, processor, case)
    return report


def _compare_string(report: CaseReport, processor: MiniCPMVProcessor, case: dict[str, Any]) -> None:
    tokenizer = processor.tokenizer
    encoding = tokenizer(case["text"])
    report.equal("ids", encoding["input_ids"], case["ids"])
    if "tokens" in case:
        report.equal("tokens", encoding.tokens(), case["tokens"])
    if "ids_no_special" in case:
        ids = tokenizer(case["text"], add_special_tokens=False)["input_ids"]
        report.equal("ids without BOS", ids, case["ids_no_special"])
    for name, ids, skips in (
        ("decode", case["ids"], False),
        ("decode_skip_special", case["ids"], True),
        ("decode_of_ids_without_bos", case["ids"][1:], False),
    ):
        if name in case:
            report.equal(name, _decoded(processor, ids, skips), case[name])
    if case.get("slow_ids") is not None:
        report.uncovered("slow_ids", "of a tokenizer class that transformers no longer has")


def _decoded(processor: MiniCPMVProcessor, ids: list[int], skips_special: bool) -> str:
    """Text as the released tokenizer spaced it."""
    if processor.release.released_decoding != "spaced":
        return processor.tokenizer.decode(
            ids, skip_special_tokens=skips_special, clean_up_tokenization_spaces=False
        )
    pieces = processor.tokenizer.convert_ids_to_tokens(ids, skip_special_tokens=skips_special)
    return joined_as_released(pieces, set(processor.tokenizer.all_special_tokens))


def official_ids(name: str, processor: MiniCPMVProcessor, table: dict[str, Any]) -> CaseReport:
    """The tags of the released vocabulary; its other pieces are not in this checkpoint."""
    report, tokenizer = CaseReport(name, "official_tokenizer_ids"), processor.tokenizer
    ids = processor.release.token_ids
    named = ("bos_id", "eos_id", "unk_id", "im_start_id", "im_end_id")
    known = {*named, "note", "len", "vocab_size", "pad_token", "slice", "samples"}
    report.unknown_fields(table, known | {"model_max_length"})
    for key in ("len", "vocab_size"):
        if key in table:
            report.equal(key, ids.vocab_size, table[key])
    for key in named:
        if key in table:
            report.equal(key, getattr(tokenizer, key), table[key])
    if ids.slice_start_id is not None and "slice" in table:
        report.equal("slice", [ids.slice_start_id, ids.slice_end_id], table["slice"][:2])
    if "samples" in table:
        report.uncovered("samples", "of the released vocabulary, which is not here")
    return report


def slice_table(name: str, table: dict[str, Any]) -> CaseReport:
    """Plans for many sizes."""
    report = CaseReport(name, "slice_table")
    for row in table["rows"]:
        width, height = row["size"]
        with report.stage("slices"):
            plan = plan_slices(
                height,
                width,
                max_slices=row["max_slice_nums"],
                scale_resolution=table.get("scale_resolution", 448),
                patch_size=table.get("patch_size", 14),
            )
            rows, cols = plan.grid or (0, 0)
            found = {
                "source_size": turned(plan.overview),
                "best_grid": turned(plan.grid),
                "slice_size": turned(plan.cell),
                "n_rows": rows,
                "n_cols": cols,
            }
            wanted = {key: row[key] for key in found if key in row}
            report.equal("slices", {key: found[key] for key in wanted}, wanted)
            unread = set(row) - set(found) - {"size", "max_slice_nums"}
            report.unknown_fields(row, set(row) - unread)
    return report


def turned(pair: tuple[int, int] | None) -> list[int] | None:
    """(height, width) as [width, height]."""
    return None if pair is None else [pair[1], pair[0]]
