"""Golden cases of MiniCPM-Llama3-V 2.5 and MiniCPM-V 2.6: `chat.json` and its tables."""

import json
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import GenerationConfig

from ..engine.hf import generate_ids
from ..engine.plan import plan_generation
from ..model.positions import position_buckets, sincos_positions
from ..processing.packing import rows_per_slice
from ..processing.processor import MiniCPMVProcessor
from ..processing.slicing import plan_slices
from ..released_api import MiniCPMV
from .checks import CaseReport, sha256

TOLERANCE = 1e-3  # absolute, on features and logits, as the manifests say
MAX_NEW_TOKENS = 12
# Recorded name of a search, and the options of `Chat.ask` that repeat it.
SEARCHES: dict[str, dict[str, Any]] = {
    "greedy": {"sampling": False, "num_beams": 1, "repetition_penalty": 1.0},
    "beam3": {"sampling": False, "num_beams": 3, "repetition_penalty": 1.0},
    "beam3_rep1.2": {"sampling": False, "num_beams": 3, "repetition_penalty": 1.2},
    "greedy_rep1.5": {"sampling": False, "num_beams": 1, "repetition_penalty": 1.5},
    "sampled_seed1234": {"sampling": True},  # after torch.manual_seed(1234)
}
# Inputs of a case, and remarks about it.
INPUT_FIELDS = {"name", "image", "msgs", "kwargs", "msgs_as_json", "stream", "note", "text_only"}
STABILITY = "unchanged_under_relative_noise_3e-5"
COMPARED_FIELDS = {
    "prompt_after_chat_template",
    "prompt_after_image_placeholders",
    "input_ids",
    "attention_mask",
    "image_bound",
    "tgt_sizes",
    "pixel_values_sha256",
    "n_slices",
    "vision_batches",
    "vision_out",
    "vision_out_digest_per_slice",
    "resampler_out",
    "resampler_out_digest_per_slice",
    "inputs_embeds",
    "inputs_embeds_digest",
    "prefill_position_ids",
    "prefill_attention_mask_passed",
    "prefill_logits",
    "prefill_logits_at_rows",
    "prefill_logits_rows",
    "greedy_min_top2_gap",
    "greedy_text",
    "content_ids",
    "chat_sampling_False_text",
    "stream_seed1234_chunks",
    STABILITY,
    *(f"{name}_ids" for name in SEARCHES),
    "beam3_all_scores",
    "beam3_rep1.2_all_scores",
}


def replay_chat(cases: Path, checkpoint: Path, manifest: dict[str, Any]) -> Iterator[CaseReport]:
    """Tables first, then every recorded conversation."""
    golden = _Golden(cases, checkpoint)
    for name, run in (
        ("slicing_table.json", golden.slicing_table),
        ("images.json", golden.images),
        ("text.json", golden.texts),
    ):
        if (cases / name).is_file():
            yield from run(json.loads((cases / name).read_text(encoding="utf-8")))
    if any(name.startswith("tables/") for name in golden.tensors):
        yield golden.tables()
    for record in json.loads((cases / "chat.json").read_text(encoding="utf-8")):
        yield _Conversation(golden, record).run()


class _Golden:
    """One checkpoint and the cases that were recorded with it."""

    def __init__(self, cases: Path, checkpoint: Path):
        self.cases = cases
        self.name = cases.resolve().parent.name
        self.model = MiniCPMV.from_pretrained(checkpoint, dtype=torch.float32).eval()
        self.processor = MiniCPMVProcessor.from_pretrained(checkpoint, compat="released")
        self.tokenizer = self.processor.tokenizer

    @cached_property
    def tensors(self) -> dict[str, torch.Tensor]:
        path = self.cases / "chat.safetensors"
        return load_file(path) if path.is_file() else {}

    def image(self, name: str) -> Image.Image:
        with Image.open(self.cases / "images" / f"{name}.png") as image:
            return image.copy()

    def with_pictures(self, part: Any) -> Any:
        """Recorded messages with a picture wherever one is named."""
        if isinstance(part, list):
            return [self.with_pictures(item) for item in part]
        if isinstance(part, dict) and set(part) == {"image"}:
            return self.image(part["image"])
        if isinstance(part, dict) and "content" in part:
            return part | {"content": self.with_pictures(part["content"])}
        return part

    def slicing_table(self, table: dict[str, Any]) -> Iterator[CaseReport]:
        """One case for the whole table of sizes."""
        report = CaseReport(self.name, "slicing_table")
        columns = table["columns"]
        for row in table["rows"]:
            fields = dict(zip(columns, row, strict=True))
            with report.stage("slices"):
                self._compare_plan(report, fields, fields["width"], fields["height"])
        yield report

    def _compare_plan(
        self, report: CaseReport, fields: dict[str, Any], width: int, height: int
    ) -> None:
        images = self.processor.image_processor
        plan = plan_slices(
            height,
            width,
            max_slices=fields.get("max_slice_nums", images.max_slice_nums),
            scale_resolution=images.scale_resolution,
            patch_size=images.patch_size,
        )
        found = {
            "best_grid": plan.grid,
            "source_size": plan.overview,
            "refine_size": plan.refined,
            "slice_size": plan.cell,
        }
        wanted = {name: fields[name] for name in found if name in fields}
        turned = {name: found[name] and [found[name][1], found[name][0]] for name in wanted}  # type: ignore[index]
        report.equal("slices", turned, wanted)

    def images(self, records: list[dict[str, Any]]) -> Iterator[CaseReport]:
        """Every picture at every recorded setting: plan, placeholder, pixels."""
        known = {
            *("image", "mode", "size", "max_slice_nums", "best_grid", "source_size"),
            *("refine_size", "slice_size", "placeholder", "crops", "n_slices", "tgt_sizes"),
            *("image_sizes", "pixel_values", "pixel_values_first_and_last_24_patches"),
            *("official_error",),
        }
        path = self.cases / "images.safetensors"
        arrays = load_file(path) if path.is_file() else {}
        for record in records:
            report = CaseReport(self.name, f"{record['image']}/{record.get('max_slice_nums')}")
            report.unknown_fields(record, known)
            with report.stage("slices"):
                self._compare_plan(report, record, *record["size"])
            with report.stage("pixels"):
                self._compare_picture(report, record, arrays)
            yield report

    def _compare_picture(
        self, report: CaseReport, record: dict[str, Any], arrays: dict[str, torch.Tensor]
    ) -> None:
        images = self.processor.image_processor
        picture = self.image(record["image"])
        limit = record.get("max_slice_nums")
        report.equal("size", list(picture.size), record.get("size", list(picture.size)))
        report.equal("mode", picture.mode, record.get("mode", picture.mode))
        if "placeholder" in record:
            number = re.search(r"<image_id>(\d+)", record["placeholder"])
            index = int(number[1]) if number else 0
            text = images.get_slice_image_placeholder(picture.size, index, limit)
            report.equal("placeholder", text, record["placeholder"])
        if "crops" in record:
            _, rows, _ = images.slice_image(images.process_image(picture), limit)
            cells = [[list(cell.size) for cell in row] for row in rows]
            flat = [size for row in cells for size in row]
            nested = bool(record["crops"]) and isinstance(record["crops"][0][0], list)
            report.equal("crops", cells if nested else flat, record["crops"])
        if record.get("official_error"):
            return  # it has no pixels; grid and sizes are still what its arithmetic gives
        features = images(
            picture, max_slice_nums=limit, return_released_layout=True, return_tensors="pt"
        )
        strips = features["pixel_values"][0]
        if "n_slices" in record:
            report.equal("n_slices", len(strips), record["n_slices"])
        if "tgt_sizes" in record:
            report.equal("tgt_sizes", features["tgt_sizes"][0].tolist(), record["tgt_sizes"])
        if "image_sizes" in record:
            sizes = [[list(size) for size in sample] for sample in features["image_sizes"]]
            report.equal("image_sizes", sizes, record["image_sizes"])
        digests = record.get("pixel_values")
        if digests is not None:
            report.equal("pixels", len(strips), len(digests))
        for strip, digest in zip(strips, digests or (), strict=False):
            if "sha256" in digest:
                report.equal("pixels", sha256(strip), digest["sha256"])
            if "sample_value" in digest:
                report.digest("pixels", strip, digest, 1e-6)
        for strip, ends in zip(
            strips, record.get("pixel_values_first_and_last_24_patches", []), strict=False
        ):
            for entry in ends:
                array = arrays[entry["array"]]
                length = array.shape[-1]
                is_first = entry["array"].endswith("first24")
                part = strip[..., :length] if is_first else strip[..., -length:]
                report.close("pixels", part, array, 0.0)

    def texts(self, record: dict[str, Any]) -> Iterator[CaseReport]:
        """What the tokenizer encodes and how answers are decoded."""
        report = CaseReport(self.name, "text")
        known = {"what", "special_ids", "terminators", "encode", "decode"}
        report.unknown_fields(record, known)
        for case in record.get("encode", []):
            with report.stage("encode"):
                report.equal("encode", self.tokenizer(case["text"])["input_ids"], case["ids"])
        for name, token_id in record.get("special_ids", {}).items():
            with report.stage("special ids"):
                report.equal("special ids", getattr(self.tokenizer, name), token_id)
        if "terminators" in record:
            report.equal("terminators", self.processor.terminator_ids, record["terminators"])
        for case in record.get("decode", []):
            with report.stage("decode"):
                found = self.processor.decode_answer(case["ids"], cut=False)
                # Where the released code failed, ours gives nothing.
                report.equal("decode", found, case["text"] or "")
        yield report

    def tables(self) -> CaseReport:
        """Position buckets and the resampler's position table."""
        report = CaseReport(self.name, "tables")
        names = {name for name in self.tensors if name.startswith("tables/")}
        counts, values = "tables/bucket_n", "tables/bucket_values_concatenated"
        if {counts, values} <= names:
            with report.stage("position buckets"):
                side = self.model.model.vision_tower.embeddings.table_side
                sizes = self.tensors[counts].tolist()
                found = torch.cat([position_buckets(size, side) for size in sizes])
                report.equal("position buckets", found.tolist(), self.tensors[values].tolist())
        places, rows = "tables/resampler_pos_yx", "tables/resampler_pos_embed_at_yx"
        if {places, rows} <= names:
            with report.stage("resampler positions"):
                table = self.tensors[rows]
                row, column = self.tensors[places].unbind(1)
                half = table.shape[1] // 2
                found = torch.cat(
                    [sincos_positions(column, half), sincos_positions(row, half)], dim=-1
                )
                report.close("resampler positions", found, table, 1e-5)
        for name in sorted(names - {counts, values, places, rows}):
            report.uncovered(name, "no comparison reads this table")
        return report


class _Conversation:
    """One record of `chat.json`."""

    def __init__(self, golden: _Golden, record: dict[str, Any]):
        self.golden = golden
        self.record = record
        self.report = CaseReport(golden.name, record["name"])
        self.settings = dict(record.get("kwargs") or {})
        self.system = self.settings.pop("system_prompt", None)

    @cached_property
    def conversations(self) -> list[list[dict[str, Any]]]:
        messages = self.golden.with_pictures(self.record["msgs"])
        batch = messages if isinstance(messages[0], list) else [messages]
        conversations = []
        for conversation in batch:
            first, *rest = conversation
            if self.record.get("image"):
                picture = self.golden.image(self.record["image"])
                first = first | {"content": [picture, first["content"]]}
            opening = [{"role": "system", "content": self.system}] if self.system else []
            conversations.append([*opening, first, *rest])
        return conversations

    @cached_property
    def released(self) -> Any:
        """The processor's output in the released layout."""
        return self.golden.processor.apply_chat_template(
            self.conversations,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"return_released_layout": True, **self.settings},
        )

    @cached_property
    def inputs(self) -> dict[str, Any]:
        """Inputs of the model, one row per slice; 2.5 attended to everything, padding included."""
        inputs = rows_per_slice(self.released)
        names = ("input_ids", "attention_mask", "image_bound", "pixel_values", "target_sizes")
        return {name: inputs[name] for name in names if name in inputs}

    @cached_property
    def vision(self) -> Any:
        with torch.inference_mode():
            return self.golden.model.get_image_features(
                self.inputs["pixel_values"],
                self.inputs["target_sizes"],
                slices_per_sample=[len(bounds) for bounds in self.inputs["image_bound"]],
                return_dict=True,
            )

    @cached_property
    def encoded(self) -> dict[str, Any]:
        """The inputs with encoded slices in place of pixels."""
        names = ("input_ids", "attention_mask")
        inputs = {name: self.inputs[name] for name in names}
        if "pixel_values" in self.inputs:
            inputs["image_bound"] = self.inputs["image_bound"]
            inputs["image_features"] = self.vision.pooler_output
        return inputs

    @property
    def positions(self) -> torch.Tensor:
        return (self.inputs["attention_mask"].long().cumsum(1) - 1).clamp(min=0)

    def run(self) -> CaseReport:
        """All stages, each whether or not an earlier one failed."""
        self.report.unknown_fields(self.record, INPUT_FIELDS | COMPARED_FIELDS)
        for name, compare in (
            ("prompt", self.prompts),
            ("ids", self.ids),
            ("vision", self.features),
            ("logits", self.logits),
            ("generation", self.generation),
            ("beam scores", self.beam_scores),
            ("chat", self.chat),
        ):
            with self.report.stage(name):
                compare()
        return self.report

    def prompts(self) -> None:
        record, processor = self.record, self.golden.processor
        prompts = processor.apply_chat_template(self.conversations, add_generation_prompt=True)
        if "prompt_after_chat_template" in record:
            self.report.equal("prompt", prompts, record["prompt_after_chat_template"])
        if "prompt_after_image_placeholders" in record:
            whole = {k: v for k, v in self.settings.items() if k != "max_inp_length"}
            output = processor.apply_chat_template(
                self.conversations,
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                processor_kwargs={"return_text_replacement_offsets": True, **whole},
            )
            texts = [
                item["replacement"] for row in output["text_replacement_offsets"] for item in row
            ]
            expanded, _ = processor.get_text_with_replacements(prompts, texts)
            self.report.equal("placeholders", expanded, record["prompt_after_image_placeholders"])

    def ids(self) -> None:
        record, released, report = self.record, self.released, self.report
        found = {
            "input_ids": released["input_ids"].tolist(),
            "image_bound": [torch.as_tensor(b).tolist() for b in released["image_bound"]],
            "tgt_sizes": [torch.as_tensor(s).tolist() for s in released["tgt_sizes"]],
            "n_slices": [len(sample) for sample in released["pixel_values"]],
            "pixel_values_sha256": [
                [sha256(strip) for strip in sample] for sample in released["pixel_values"]
            ],
        }
        if "attention_mask" in record:
            found["attention_mask"] = released["attention_mask"].long().tolist()
        for name, value in found.items():
            if name in record:
                report.equal(name, value, record[name])
        mask = released["attention_mask"].bool()
        passed = record.get("prefill_attention_mask_passed")
        if isinstance(passed, list):
            report.equal("mask", mask.long().tolist(), passed)
        elif passed is not None:
            report.equal("mask", "all ones" if bool(mask.all()) else "some zeros", passed)

    def features(self) -> None:
        record, report = self.record, self.report
        names = [name for name in record if name.startswith(("vision_", "resampler_out"))]
        if not names:
            return
        states, pooled = self.vision.last_hidden_state, self.vision.pooler_output
        if "vision_batches" in record:
            # The tower may run on other numbers of slices at once; they add up the same.
            total = [sum(shape[0] for shape in record["vision_batches"])]
            width = record["vision_batches"][0][-1]
            report.equal("vision shape", [[len(states)], states.shape[-1]], [total, width])
        lengths = self.inputs["target_sizes"].prod(dim=1).tolist()
        if "vision_out" in record:
            recorded = self._array("vision_out")
            for found, expected, length in zip(states, recorded, lengths, strict=True):
                report.close("vision", found[:length], expected[:length], TOLERANCE)
        for name in ("vision_out_digest_per_slice", "resampler_out_digest_per_slice"):
            if name in record:
                report.equal("slices", len(states), len(record[name]))
        for found, digest in zip(
            states, record.get("vision_out_digest_per_slice", ()), strict=False
        ):
            report.digest("vision", found[: digest["shape"][0]], digest, TOLERANCE)
        if "resampler_out" in record:
            report.close("resampler", pooled, self._array("resampler_out"), TOLERANCE)
        for found, digest in zip(
            pooled, record.get("resampler_out_digest_per_slice", ()), strict=False
        ):
            report.digest("resampler", found, digest, TOLERANCE)

    @torch.inference_mode()
    def logits(self) -> None:
        record, report, model = self.record, self.report, self.golden.model
        if "inputs_embeds" in record or "inputs_embeds_digest" in record:
            embeds = model.get_input_embeddings()(self.inputs["input_ids"])
            if "image_features" in self.encoded:
                places = model.model.get_placeholder_mask(
                    self.inputs["input_ids"], image_bound=self.inputs["image_bound"]
                )
                embeds[places] = self.encoded["image_features"].flatten(0, 1)
            if "inputs_embeds" in record:
                report.close("embeddings", embeds, self._array("inputs_embeds"), TOLERANCE)
            else:
                report.digest("embeddings", embeds, record["inputs_embeds_digest"], TOLERANCE)
        mask = self.inputs["attention_mask"].bool()
        positions = record.get("prefill_position_ids")
        if isinstance(positions, list):
            # What stands at masked places is never read.
            recorded = torch.tensor(positions).expand_as(mask)[mask]
            report.equal("positions", self.positions[mask].tolist(), recorded.tolist())
        elif positions is not None:
            plain = [list(range(mask.shape[1]))] * len(mask)
            report.equal("positions", self.positions.tolist(), plain)
        name = next((n for n in ("prefill_logits", "prefill_logits_at_rows") if n in record), None)
        if name is None:
            return
        found = model(**self.encoded, position_ids=self.positions).logits
        if name == "prefill_logits_at_rows":
            rows = record["prefill_logits_rows"]
            found, mask = found[:, rows], mask[:, rows]
        recorded = self._array(name)
        if recorded.shape != found.shape:
            report.close("logits", found, recorded, TOLERANCE)
            return
        found, recorded = found[mask], recorded[mask]
        report.close("logits", found, recorded, TOLERANCE)
        report.equal("top-1", found.argmax(-1).tolist(), recorded.argmax(-1).tolist())

    def generation(self) -> None:
        record, report, processor = self.record, self.report, self.golden.processor
        terminators = set(processor.terminator_ids)
        stable = record.get(STABILITY) or {}
        for name, options in SEARCHES.items():
            recorded = (record.get("content_ids") or {}).get(name)
            if recorded is None and f"{name}_ids" in record:
                recorded = [_content(row, terminators) for row in record[f"{name}_ids"]]
            if recorded is None:
                continue
            plan = plan_generation(processor, None, {"max_new_tokens": MAX_NEW_TOKENS, **options})
            with report.stage(name):
                torch.manual_seed(1234)
                ids = generate_ids(self.golden.model, self.encoded, plan)
                found = [_content(row, terminators) for row in ids.tolist()]
                if found != recorded and stable.get(f"{name}_ids") is False:
                    report.uncovered(name, "the record calls itself unstable, and it differs")
                    continue
                report.equal(name, found, recorded)
                if name == "greedy" and "greedy_text" in record:
                    texts = [processor.decode_answer(row) for row in ids]
                    wanted = record["greedy_text"]
                    report.equal(
                        "greedy text", texts, wanted if isinstance(wanted, list) else [wanted]
                    )

    @torch.inference_mode()
    def beam_scores(self) -> None:
        """The scores of all three beams, and how near the greedy path comes to a tie."""
        record, report, processor = self.record, self.report, self.golden.processor
        common = {
            "max_new_tokens": MAX_NEW_TOKENS,
            "eos_token_id": processor.terminator_ids,
            "pad_token_id": 0,
            "return_dict_in_generate": True,
        }
        if "beam3_all_scores" in record:
            config = GenerationConfig(
                num_beams=3, num_return_sequences=3, output_scores=True, **common
            )
            output = self.golden.model.generate(**self.encoded, generation_config=config)
            recorded = torch.tensor(record["beam3_all_scores"]).flatten()
            report.close("beam scores", output.sequences_scores, recorded, TOLERANCE)
        if "greedy_min_top2_gap" in record:
            config = GenerationConfig(output_logits=True, **common)
            output = self.golden.model.generate(**self.encoded, generation_config=config)
            top2 = torch.stack(output.logits, dim=1).topk(2, dim=-1).values
            gaps = top2[..., 0] - top2[..., 1]  # (batch, new)
            new = output.sequences[:, -gaps.shape[1] :]
            lengths = [
                len(_content(row, set(processor.terminator_ids))) + 1 for row in new.tolist()
            ]
            found = min(
                float(row[:length].min()) for row, length in zip(gaps, lengths, strict=True)
            )
            report.close("top-2 gap", found, record["greedy_min_top2_gap"], 2 * TOLERANCE)

    def chat(self) -> None:
        """The released call, from the messages to the text."""
        record, report, golden = self.record, self.report, self.golden
        options = {
            "image": golden.image(record["image"]) if record.get("image") else None,
            "msgs": json.dumps(record["msgs"])
            if record.get("msgs_as_json")
            else golden.with_pictures(record["msgs"]),
            "tokenizer": golden.tokenizer,
            "processor": golden.processor,
            "max_new_tokens": MAX_NEW_TOKENS,
            **(record.get("kwargs") or {}),
        }
        if "chat_sampling_False_text" in record:
            text = golden.model.chat(**options, sampling=False)
            report.equal("chat", text, record["chat_sampling_False_text"])
        if "stream_seed1234_chunks" in record:
            torch.manual_seed(1234)
            pieces = golden.model.chat(**options, sampling=True, stream=True)
            report.equal("stream", "".join(pieces), "".join(record["stream_seed1234_chunks"]))

    def _array(self, name: str) -> torch.Tensor:
        """A recorded array, by the name its field gives or the usual one."""
        field = self.record[name]
        key = field["array"] if isinstance(field, dict) else f"{self.record['name']}/{name}"
        return self.golden.tensors[key]


def _content(ids: list[int], terminators: set[int]) -> list[int]:
    """The ids before the first terminator."""
    return ids[: next((i for i, token in enumerate(ids) if token in terminators), len(ids))]
