"""The recordings of 1.0, 2.0 and OmniLMM-12B: `manifest.json`, and a file of arrays per case."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from ..recording import Case, Digest, Part
from .folders import checkpoint_of, unread_files

ABOUT = {"version", "split", "notes", "checkpoint", "reference", "suggested_tolerance"}
GIVEN = {"image_file": "image", "msgs": "msgs", "options": "options"}
REMARKS = {"note", "index"}
LEFT_OUT = {
    "input_msgs_mutated_by_chat": "the released code changed its arguments; ours does not",
    "msgs_mutated_in_place": "the released code changed its arguments; ours does not",
    "slow_tokenizer_same_ids": "transformers 5 has no tokenizer of the slow class",
    "slow_ids": "transformers 5 has no tokenizer of the slow class",
    "samples": "of the released vocabulary, which is not here",
    "store_u8": "says what was recorded",
}
NAMES = {
    "prompt": "expanded_prompt",
    "first_user_content_after_expansion": "opening",
    "seq_len": "num_tokens",
    "image_bound": "image_bound",
    "image_size_wh": "picture_size",
    "best_grid_cols_rows": "grid",
    "num_slices_total": "num_slices",
    "fed_image_sizes_wh": "slice_sizes",
    "chat_num_beams3_answer": "chat/answer",
    "chat_context_last": "chat/context_last",
    "chat_returned_generation_config": "chat/settings",
    "bf16_greedy_ids": "bfloat16/greedy_ids",
    "halfpixels_max_abs_diff": "half_pixels/max_difference",
    "inputs_embeds_stats": "embeddings/digest",
    "logits_stats": "logits/digest",
    "resampler_stats": "resampler/0/digest",
}
PER_SLICE = {
    "shape_chw": "slice/{}/shape",
    "float32_sha256": "slice/{}/sha256",
    "uint8_hwc_sha256": "slice/{}/sha256_of_8_bit",
    "uint8_png": "slice/{}/picture",
    "stats": "slice/{}/digest",
    "patch_grid_hw": "slice/{}/grid",
    "vision_tokens": "vision/{}/tokens",
    "vision_stats": "vision/{}/digest",
    "resampler_stats": "resampler/{}/digest",
}
PER_SEARCH = {"all_beams": "beams", "sequence_score": "score"}
BATCHED = ("expanded_prompt", "image_bound", "num_slices")  # one entry per sample, of one sample


def read(folder: Path, fields: dict[str, Any]) -> Iterator[Case]:
    """The tables, then every recorded conversation."""
    common: dict[str, Any] = {
        "model": folder.resolve().parent.name,
        "folder": folder,
        "checkpoint": checkpoint_of(folder, fields.get("checkpoint")),
        "tolerance": 2e-4,  # of activations and logits, as the manifests say
        "relative": 1e-3,
    }
    tables = ("slice_table.json", "official_tokenizer_ids.json")
    arrays = [case.get("arrays_file") or f"{case['name']}.safetensors" for case in fields["cases"]]
    yield from unread_files(folder, {"manifest.json", *tables, *arrays})
    if unknown := fields.keys() - ABOUT - {"cases", "tokenizer"}:
        yield Case(
            kind="files", name="manifest", given={}, expected=dict.fromkeys(unknown), **common
        )
    if "tokenizer" in fields:
        yield _tokenizer(common, fields["tokenizer"])
    if (folder / tables[0]).is_file():
        yield _sizes(common, json.loads((folder / tables[0]).read_text(encoding="utf-8")))
    if (folder / tables[1]).is_file():
        yield _official_ids(common, json.loads((folder / tables[1]).read_text(encoding="utf-8")))
    for record, file in zip(fields["cases"], arrays, strict=True):
        yield _conversation(common, record, load_file(folder / file))


def _conversation(
    common: dict[str, Any], record: dict[str, Any], tensors: dict[str, torch.Tensor]
) -> Case:
    record = dict(record)
    name, described = record.pop("name"), record.pop("arrays", {})
    record.pop("arrays_file", None)
    given = {GIVEN[key]: value for key in GIVEN if (value := record.pop(key, None)) is not None}
    given["max_inp_length"] = record.pop("max_inp_length", None)
    left_out = {key: LEFT_OUT[key] for key in LEFT_OUT if record.pop(key, None) is not None}
    stable = record.pop("stable_under_1e-4_input_noise", {})
    unstable = {search for search, is_stable in stable.items() if not is_stable}
    expected: dict[str, Any] = {}
    pixels = record.pop("pixels", None)
    if "pixel" in record:
        pixels = [record.pop("pixel")]
    if pixels is not None:
        expected["slices"] = len(pixels)
        for i, entry in enumerate(pixels):
            expected |= _renamed(entry, PER_SLICE, i)
    for key, value in record.items():
        if key == "vision":
            names = {"stats": "digest", "tokens_with_cls": "tokens_with_class"}
            for part, found in value.items():
                expected[f"vision/0/{names.get(part, part)}"] = found
        elif isinstance(value, dict) and "ids" in value:
            expected |= _search(key, value)
            if value.get("min_margin", 1.0) <= 1e-3:  # either token may come
                unstable.add(key)
        elif key not in REMARKS:
            expected[NAMES.get(key, key)] = value
    expected |= {_array_name(key): _part(key, t, described) for key, t in tensors.items()}
    if missing := sorted(described.keys() - tensors.keys()):
        expected |= dict.fromkeys(f"described, not in the file: {key}" for key in missing)
    for key in expected.keys() & {*BATCHED}:
        found = expected[key]
        expected[key] = [found.tolist() if isinstance(found, torch.Tensor) else found]
    for key, value in expected.items():
        if key.endswith("/digest"):
            expected[key] = Digest(value)
    if unstable:
        given["unstable"] = unstable
    return Case(
        kind="conversation",
        name=name,
        given=given,
        expected=expected,
        left_out=left_out,
        **common,
    )


def _renamed(entry: dict[str, Any], names: dict[str, str], index: int) -> dict[str, Any]:
    return {
        names.get(key, f"slice/{{}}/{key}").format(index): value
        for key, value in entry.items()
        if key not in REMARKS
    }


def _search(name: str, recorded: dict[str, Any]) -> dict[str, Any]:
    """Ids, text, steps, beams and scores of one way to an answer."""
    return {
        f"{name}/{PER_SEARCH.get(key, key)}": value
        for key, value in recorded.items()
        if key not in REMARKS
    }


def _array_name(name: str) -> str:
    for pattern, replacement in (
        (r"inputs_embeds_(tail|stride)", r"embeddings/\1"),
        (r"logits_(tail|stride|last|argmax)", r"logits/\1"),
        (r"hidden_(\d+)_last", r"hidden/\1"),
        (r"pixel_(\d+)_sample", r"slice/\1/sample"),
        (r"pixel_sample", r"slice/0/sample"),
        (r"(vision|resampler)_(\d+)", r"\1/\2/rows"),
        (r"(vision|resampler)", r"\1/0/rows"),
        (r"vision_cls", r"class_token"),
        (r"logits_last_halfpixels", r"half_pixels/logits"),
        (r"bf16_logits_last", r"bfloat16/logits"),
        (r"sampling_scores_step0", r"sampling/scores"),
    ):
        if re.fullmatch(pattern, name):
            return re.sub(pattern, replacement, name)
    return name


def _part(name: str, values: torch.Tensor, described: dict[str, Any]) -> Any:
    """Which rows an array has is said by its name and its description ("tokens ::24")."""
    if name in ("input_ids", "image_bound", "logits_argmax", "vision_cls"):
        return values
    if re.fullmatch(r"pixel_(\d+_)?sample", name):
        step = _step(described.get(name, {})) or 24
        return Part(values, (slice(None), slice(None, None, step), slice(None, None, step)))
    if name.endswith("_tail") or re.fullmatch(r"hidden_\d+_last", name):
        return Part(values, slice(-len(values), None))
    if name == "logits_last":
        return Part(values, -1)
    if name.endswith("_stride") or re.fullmatch(r"(vision|resampler)(_\d+)?", name):
        return Part(values, slice(None, None, _step(described.get(name, {})) or 1))
    return values


def _step(description: dict[str, Any]) -> int | None:
    found = re.search(r"::(\d+)", description.get("description", ""))
    return int(found[1]) if found else None


def _tokenizer(common: dict[str, Any], table: dict[str, Any]) -> Case:
    """Ids, pieces and decoded text of single strings."""
    table = {k: v for k, v in table.items() if k not in ("note", "reference_class")}
    strings, left_out = table.pop("cases"), {}
    expected = {f"attribute/{name}": value for name, value in table.items()}
    for i, entry in enumerate(strings):
        if entry.get("slow_ids") is not None:
            left_out[f"slow_ids/{i}"] = LEFT_OUT["slow_ids"]
        expected[f"string/{i}"] = {key: v for key, v in entry.items() if key != "slow_ids"}
    return Case(
        kind="tokenizer", name="strings", given={}, expected=expected, left_out=left_out, **common
    )


def _official_ids(common: dict[str, Any], table: dict[str, Any]) -> Case:
    """The tags of the released vocabulary; its other pieces are not in this checkpoint."""
    left_out = {key: LEFT_OUT[key] for key in LEFT_OUT if key in table}
    expected = {f"official/{k}": v for k, v in table.items() if k not in {"note", *left_out}}
    return Case(
        kind="tokenizer",
        name="official_ids",
        given={},
        expected=expected,
        left_out=left_out,
        **common,
    )


def _sizes(common: dict[str, Any], table: dict[str, Any]) -> Case:
    table = {key: value for key, value in table.items() if key != "note"}
    settings = ("scale_resolution", "patch_size")
    given = {key: table.pop(key) for key in settings if key in table}
    expected: dict[str, Any] = {}
    for row in table.pop("rows"):
        row = dict(row)
        (width, height), limit = row.pop("size"), row.pop("max_slice_nums")
        expected |= {f"{width}x{height}/{limit}/{key}": value for key, value in row.items()}
    return Case(kind="sizes", name="table", given=given, expected=expected | table, **common)
