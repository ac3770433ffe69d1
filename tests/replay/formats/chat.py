"""The recordings of 2.5 and 2.6: `chat.json`, `images.json`, `slicing_table.json`, `text.json`."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from ..recording import Case, Digest, Part
from .folders import checkpoint_of, unread_files

FILES = {
    *("chat.json", "chat.safetensors", "images.json", "images.safetensors"),
    *("slicing_table.json", "text.json", "manifest.json"),
}
GIVEN = {"image", "msgs", "kwargs", "msgs_as_json"}
# Remarks: whether `chat()` was called with stream=True follows from the recorded pieces.
REMARKS = {"note", "stream", "text_only"}
STABILITY = "unchanged_under_relative_noise_3e-5"
NAMES = {
    "prompt_after_chat_template": "prompt",
    "prompt_after_image_placeholders": "expanded_prompt",
    "input_ids": "input_ids",
    "attention_mask": "attention_mask",
    "image_bound": "image_bound",
    "tgt_sizes": "patch_grids",
    "pixel_values_sha256": "strips_sha256",
    "n_slices": "num_slices",
    "prefill_position_ids": "positions",
    "prefill_attention_mask_passed": "mask_passed",
    "vision_batches": "vision/batches",
    "greedy_min_top2_gap": "greedy/min_margin",
    "chat_sampling_False_text": "chat/answer",
    "stream_seed1234_chunks": "chat/stream_seed1234",
}
ARRAYS = {
    "vision_out": "vision",
    "resampler_out": "resampler",
    "inputs_embeds": "embeddings",
    "prefill_logits": "logits",
    "prefill_logits_at_rows": "logits/rows",
}
DIGESTS = {
    "vision_out_digest_per_slice": "vision",
    "resampler_out_digest_per_slice": "resampler",
}


def read(folder: Path) -> Iterator[Case]:
    """Tables first, then every recorded conversation."""
    common: dict[str, Any] = {
        "model": folder.resolve().parent.name,
        "folder": folder / "images",
        "checkpoint": checkpoint_of(folder),
    }
    yield from unread_files(folder, FILES)
    if (folder / "slicing_table.json").is_file():
        yield _sizes(common, _json(folder / "slicing_table.json"))
    if (folder / "images.json").is_file():
        yield from _pictures(common, folder)
    if (folder / "text.json").is_file():
        yield _texts(common, _json(folder / "text.json"))
    path = folder / "chat.safetensors"
    tensors = load_file(path) if path.is_file() else {}
    conversations = [
        _conversation(common, record, tensors) for record in _json(folder / "chat.json")
    ]
    if tensors:  # what no conversation took
        yield Case(kind="tables", name="tables", given={}, expected=tensors, **common)
    yield from conversations


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _conversation(
    common: dict[str, Any], record: dict[str, Any], tensors: dict[str, torch.Tensor]
) -> Case:
    """One record of `chat.json`; its arrays are taken out of `tensors`."""
    record = dict(record)
    name = record.pop("name")
    rows = record.pop("prefill_logits_rows", None)
    given = {key: record.pop(key) for key in GIVEN & record.keys()}
    stable = record.pop(STABILITY, {})
    unstable = {key.removesuffix("_ids") for key, is_stable in stable.items() if not is_stable}
    if unstable:
        given["unstable"] = unstable
    expected: dict[str, Any] = {}
    for field, value in record.items():
        if field in NAMES:
            expected[NAMES[field]] = value
        elif field in ARRAYS:
            array = tensors.pop(value["array"] if isinstance(value, dict) else f"{name}/{field}")
            part = Part(array, (slice(None), rows)) if field.endswith("at_rows") else array
            expected[ARRAYS[field]] = part
        elif field in DIGESTS:
            expected[f"{DIGESTS[field]}/count"] = len(value)
            expected |= {f"{DIGESTS[field]}/{i}": Digest(v) for i, v in enumerate(value)}
        elif field == "inputs_embeds_digest":
            expected["embeddings/digest"] = Digest(value)
        elif field == "content_ids":
            expected |= {f"{search}/content": ids for search, ids in value.items()}
        elif found := re.fullmatch(r"(.+)_(ids|text|all_scores)", field):
            search, what = found.groups()
            expected[f"{search}/{'scores' if what == 'all_scores' else what}"] = value
        elif field not in REMARKS:
            expected[field] = value
    return Case(
        kind="conversation", name=name, given=given, expected=expected, is_batch=True, **common
    )


def _pictures(common: dict[str, Any], folder: Path) -> Iterator[Case]:
    """Every picture at every setting of the cut: plan, placeholder, pixels."""
    path = folder / "images.safetensors"
    tensors = load_file(path) if path.is_file() else {}
    for record in _json(folder / "images.json"):
        record = dict(record)
        given = {key: record.pop(key) for key in ("image", "max_slice_nums") if key in record}
        # Where the released code failed, grid and sizes are what its arithmetic gives.
        record.pop("official_error", None)
        digests = record.pop("pixel_values", None)
        ends = record.pop("pixel_values_first_and_last_24_patches", [])
        expected: dict[str, Any] = record
        if digests is not None:
            expected["strips"] = len(digests)
            expected |= {f"strip/{i}": Digest(digest) for i, digest in enumerate(digests)}
        for i, entries in enumerate(ends):
            for entry in entries:
                array = tensors.pop(entry["array"])
                end = entry["array"].rsplit("/", 1)[-1]
                length = array.shape[-1]
                index = slice(None, length) if end.startswith("first") else slice(-length, None)
                expected[f"strip/{i}/{end}"] = Part(array, (..., index))
        limit = given.get("max_slice_nums")
        name = f"{given['image']}-{limit}"
        yield Case(kind="picture", name=name, given=given, expected=expected, **common)
    if tensors:
        yield Case(kind="files", name="images.safetensors", given={}, expected=tensors, **common)


def _sizes(common: dict[str, Any], table: dict[str, Any]) -> Case:
    """Plans for many sizes; names of columns carry remarks: "best_grid [cols,rows] or null"."""
    table = dict(table)
    columns = [name.split()[0] for name in table.pop("columns")]
    rows = [dict(zip(columns, row, strict=True)) for row in table.pop("rows")]
    expected: dict[str, Any] = {}
    for row in rows:
        width, height, limit = (row.pop(name) for name in ("width", "height", "max_slice_nums"))
        expected |= {f"{width}x{height}/{limit}/{key}": value for key, value in row.items()}
    expected |= {key: value for key, value in table.items() if key not in ("what", "note")}
    return Case(kind="sizes", name="table", given={}, expected=expected, **common)


def _texts(common: dict[str, Any], record: dict[str, Any]) -> Case:
    """What the tokenizer encodes, and how answers are decoded."""
    record = {key: value for key, value in record.items() if key != "what"}
    expected: dict[str, Any] = {}
    for i, entry in enumerate(record.pop("encode", [])):
        expected[f"encode/{i}"] = entry
    for i, entry in enumerate(record.pop("decode", [])):
        expected[f"decode_answer/{i}"] = {key: v for key, v in entry.items() if key != "why"}
    special = record.pop("special_ids", {})
    expected |= {f"attribute/{name}": value for name, value in special.items()}
    return Case(kind="tokenizer", name="text", given={}, expected=expected | record, **common)
