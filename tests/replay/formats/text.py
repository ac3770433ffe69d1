"""The recordings of the text models: a `manifest.json` whose cases have a `kind`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from ..recording import Case
from .folders import checkpoint_of, unread_files

TOLERANCE = 2e-4  # where a case brings none
REMARKS = {
    *("note", "compare", "max_abs_eager_vs_sdpa", "max_abs_full_vs_incremental", "max_abs_diff"),
    *("max_abs_fresh_vs_after", "max_abs_train_vs_eval_logits"),
}
ABOUT = {
    *("split", "model", "checkpoint", "dtype", "reference", "weight_seed", "cases"),
    *("max_position_embeddings", "min_router_logit_margin_2nd_vs_3rd"),
}
_SLOW = "transformers 5 has no tokenizer of the slow class"
LEFT_OUT = {
    "ids_slow": _SLOW,
    "ids_slow_tokenizer": _SLOW,
    "logits_after_long_call": "the released code forgot to shrink its table of angles",
}


def read(folder: Path, fields: dict[str, Any]) -> Iterator[Case]:
    path = folder / "cases.safetensors"
    tensors = load_file(path) if path.is_file() else {}
    common: dict[str, Any] = {
        "model": folder.resolve().parent.name,
        "folder": folder,
        "checkpoint": checkpoint_of(folder, fields.get("checkpoint")),
    }
    yield from unread_files(folder, {"manifest.json", "cases.safetensors"})
    unread = set(tensors)

    def value(entry: dict[str, Any]) -> Any:
        unread.discard(entry.get("tensor", ""))
        return tensors[entry["tensor"]] if "tensor" in entry else entry["json"]

    cases = []
    for record in fields["cases"]:
        record = {key: found for key, found in record.items() if key not in REMARKS}
        name, kind = record.pop("name"), record.pop("kind")
        given = {key: value(entry) for key, entry in record.pop("inputs").items()}
        given |= {
            k: record.pop(k) for k in ("checkpoint_override", "config_override") if k in record
        }
        expected = {key: value(entry) for key, entry in record.pop("expect").items()}
        left_out = {key: LEFT_OUT[key] for key in LEFT_OUT if expected.pop(key, None) is not None}
        tolerance = record.pop("atol", TOLERANCE)
        cases.append(
            Case(
                kind=kind,
                name=name,
                given=given,
                expected=expected | record,
                left_out=left_out,
                tolerance=tolerance,
                **common,
            )
        )
    unknown = {*unread, *(fields.keys() - ABOUT)}
    if unknown:
        yield Case(kind="files", name="unread", given={}, expected=dict.fromkeys(unknown), **common)
    yield from cases
