"""Golden cases of MiniCPM-V 1.0, 2.0 and OmniLMM-12B: `manifest.json` with a file per case."""

import json
import math
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import GenerationConfig
from transformers.generation import LogitsProcessorList, RepetitionPenaltyLogitsProcessor

from ..engine.hf import generate_ids
from ..engine.plan import plan_generation
from ..processing.packing import rows_per_slice
from ..processing.processor import MiniCPMVProcessor
from ..released_auto import AutoModel
from .checks import CaseReport, sha256
from .golden_tables import official_ids, slice_table, tokenizer_table

TOLERANCE, RELATIVE = 2e-4, 1e-3  # of activations and logits, as the manifests say
BFLOAT16_TOLERANCE = 0.15  # two roundings of one model, on logits with a spread of 2 to 8
PIXEL_TOLERANCE = 1e-6
MARGIN = 1e-3  # where the two likeliest tokens are closer, either may come
MAX_NEW_TOKENS = 12
CASE_FIELDS = {
    *("name", "image_file", "image_size_wh", "msgs", "options", "max_inp_length"),
    *("arrays_file", "arrays", "note", "stable_under_1e-4_input_noise"),
    # What the released code did to its arguments; ours leaves them alone.
    *("input_msgs_mutated_by_chat", "msgs_mutated_in_place", "slow_tokenizer_same_ids"),
}
COMPARED_FIELDS = {
    *("prompt", "first_user_content_after_expansion", "seq_len", "image_bound"),
    *("best_grid_cols_rows", "num_slices_total", "fed_image_sizes_wh", "pixels", "pixel"),
    *("vision", "resampler_stats", "inputs_embeds_stats", "logits_stats"),
    *("greedy", "greedy_rep1.1", "beam3", "beam3_no_penalty", "beam3_rep1.2"),
    *("sampled_seed1234", "bf16_greedy_ids", "halfpixels_max_abs_diff"),
    *("chat_num_beams3_answer", "chat_context_last", "chat_returned_generation_config"),
}
SEARCHES: dict[str, dict[str, Any]] = {
    "greedy": {"num_beams": 1, "repetition_penalty": 1.0},
    "greedy_rep1.1": {"num_beams": 1, "repetition_penalty": 1.1},
    "beam3": {"num_beams": 3, "repetition_penalty": 1.0},
    "beam3_no_penalty": {"num_beams": 3, "repetition_penalty": 1.0},
    "beam3_rep1.2": {"num_beams": 3, "repetition_penalty": 1.2},
}


def replay_cases(cases: Path, checkpoint: Path, manifest: dict[str, Any]) -> Iterator[CaseReport]:
    """The tokenizer, the table of sizes, then every recorded conversation."""
    golden = _Golden(cases, checkpoint)
    name, processor = golden.name, golden.processor
    if "tokenizer" in manifest:
        yield tokenizer_table(name, checkpoint, processor, manifest["tokenizer"])
    table = cases / "slice_table.json"
    if table.is_file():
        yield slice_table(name, json.loads(table.read_text(encoding="utf-8")))
    official = cases / "official_tokenizer_ids.json"
    if official.is_file():
        yield official_ids(name, processor, json.loads(official.read_text(encoding="utf-8")))
    for record in manifest["cases"]:
        yield _Conversation(golden, record).run()


class _Golden:
    """One checkpoint and the cases that were recorded with it."""

    def __init__(self, cases: Path, checkpoint: Path):
        self.cases = cases
        self.checkpoint = checkpoint
        self.name = cases.resolve().parent.name
        self.processor = MiniCPMVProcessor.from_pretrained(checkpoint, compat="released")
        self.tokenizer = self.processor.tokenizer

    @cached_property
    def model(self) -> Any:
        return AutoModel.from_pretrained(self.checkpoint, dtype=torch.float32).eval()

    @cached_property
    def model_in_bfloat16(self) -> Any:
        return AutoModel.from_pretrained(self.checkpoint, dtype=torch.bfloat16).eval()


class _Conversation:
    """One case of the manifest."""

    def __init__(self, golden: _Golden, record: dict[str, Any]):
        self.golden = golden
        self.record = record
        self.report = CaseReport(golden.name, record["name"])
        options = record.get("options") or {}
        self.settings = dict(options.get("chat_kwargs") or {})
        self.settings |= {name: options[name] for name in ("slice_mode",) if name in options}
        self.seen: set[str] = set()
        self.normed = torch.empty(0)  # the tower's tokens, the class token among them

    @cached_property
    def arrays(self) -> dict[str, torch.Tensor]:
        file = self.record.get("arrays_file") or f"{self.record['name']}.safetensors"
        return load_file(self.golden.cases / file)

    @cached_property
    def image(self) -> Image.Image | None:
        if not self.record.get("image_file"):
            return None
        with Image.open(self.golden.cases / self.record["image_file"]) as image:
            return image.copy()

    @cached_property
    def conversation(self) -> list[dict[str, Any]]:
        first, *rest = self.record["msgs"]
        if self.image is None:
            return [first, *rest]
        return [first | {"content": [self.image, first["content"]]}, *rest]

    @cached_property
    def released(self) -> Any:
        """The processor's output in the released layout."""
        return self.golden.processor.apply_chat_template(
            self.conversation,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            processor_kwargs={"return_released_layout": True, **self.settings},
        )

    @cached_property
    def inputs(self) -> dict[str, Any]:
        inputs = rows_per_slice(self.released)
        names = ("input_ids", "attention_mask", "image_bound", "pixel_values", "target_sizes")
        return {name: inputs[name] for name in names if name in inputs}

    @cached_property
    def vision(self) -> Any:
        return self._encoded_pixels(self.inputs["pixel_values"])

    @torch.inference_mode()
    def _encoded_pixels(self, pixels: torch.Tensor) -> Any:
        sizes = self.inputs["target_sizes"]
        tower = self.golden.model.model.vision_tower
        hook = tower.norm.register_forward_hook(
            lambda module, args, output: setattr(self, "normed", output)
        )
        try:
            return self.golden.model.get_image_features(pixels, sizes, return_dict=True)
        finally:
            hook.remove()

    @cached_property
    def encoded(self) -> dict[str, Any]:
        """The inputs with encoded slices in place of pixels."""
        inputs = {name: self.inputs[name] for name in ("input_ids", "attention_mask")}
        if "pixel_values" in self.inputs:
            inputs |= {
                "image_bound": self.inputs["image_bound"],
                "image_features": self.vision.pooler_output,
            }
        return inputs

    @property
    def slices(self) -> list[dict[str, Any]]:
        """What was recorded of every slice."""
        if "pixel" in self.record:
            one = {"vision_stats": (self.record.get("vision") or {}).get("stats")}
            one |= {"resampler_stats": self.record.get("resampler_stats")}
            return [self.record["pixel"] | {k: v for k, v in one.items() if v is not None}]
        return self.record.get("pixels") or []

    def run(self) -> CaseReport:
        """All stages, each whether or not an earlier one failed."""
        self.report.unknown_fields(self.record, CASE_FIELDS | COMPARED_FIELDS)
        for name, compare in (
            ("prompt", self.prompt),
            ("ids", self.ids),
            ("slices", self.plan),
            ("pixels", self.pixels),
            ("vision", self.features),
            ("logits", self.logits),
            ("generation", self.generation),
            ("bfloat16", self.bfloat16),
            ("chat", self.chat),
        ):
            with self.report.stage(name):
                compare()
        if not self.report.failures:
            for name in sorted(set(self.arrays) - self.seen):
                self.report.uncovered(name, "no comparison reads this array")
        return self.report

    def array(self, name: str) -> torch.Tensor | None:
        self.seen.add(name)
        return self.arrays.get(name)

    def close(self, stage: str, found: torch.Tensor, name: str) -> None:
        """An array against the recorded one of that name, if there is one."""
        recorded = self.array(name)
        if recorded is not None:
            self.report.close(stage, found, recorded, TOLERANCE, RELATIVE)

    def step(self, name: str, total: int) -> int:
        """Every how many rows an array was recorded; its description says it ("tokens ::24")."""
        described = (self.record.get("arrays") or {}).get(name, {}).get("description", "")
        found = re.search(r"::(\d+)", described)
        return int(found[1]) if found else math.ceil(total / len(self.arrays[name]))

    # The stages.

    def prompt(self) -> None:
        processor = self.golden.processor
        prompt = processor.apply_chat_template(self.conversation, add_generation_prompt=True)
        settings = {k: v for k, v in self.settings.items() if k != "max_inp_length"}
        output = processor.apply_chat_template(
            self.conversation,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            processor_kwargs={"return_text_replacement_offsets": True, **settings},
        )
        texts = [item["replacement"] for row in output["text_replacement_offsets"] for item in row]
        (expanded,), _ = processor.get_text_with_replacements([prompt], texts)
        if "prompt" in self.record:
            self.report.equal("prompt", expanded, self.record["prompt"])
        opening = self.record.get("first_user_content_after_expansion")
        if opening is not None:
            self.report.equal("opening", opening in expanded, True)

    def ids(self) -> None:
        ids, report = self.released["input_ids"], self.report
        recorded = self.array("input_ids")
        if recorded is not None:
            report.equal("input_ids", ids.tolist(), recorded.tolist())
        if "seq_len" in self.record:
            report.equal("seq_len", ids.shape[1], self.record["seq_len"])
        bounds = self.array("image_bound")
        expected = self.record.get("image_bound") if bounds is None else bounds.tolist()
        if expected is not None:
            found = torch.as_tensor(self.released["image_bound"][0]).tolist()
            report.equal("image_bound", found, expected)

    def plan(self) -> None:
        """Grid, number and sizes of what the tower sees."""
        record, report, image = self.record, self.report, self.image
        images = self.golden.processor.image_processor
        if image is None:
            if "fed_image_sizes_wh" in record:
                report.equal("fed sizes", [], record["fed_image_sizes_wh"])
            return
        is_cut = images.slice_mode and self.settings.get("slice_mode", True)
        if is_cut and images.release.slicing == "adaptive":
            overview, cells, grid = images.slice_image(images.process_image(image))
            sizes = [list(piece.size) for piece in (overview, *(c for row in cells for c in row))]
        else:  # released 1.0 and OmniLMM resize inside the model
            sizes, grid = [list(image.size)], None
        if "image_size_wh" in record:
            report.equal("picture", list(image.size), record["image_size_wh"])
        if "best_grid_cols_rows" in record:
            report.equal("grid", grid, record["best_grid_cols_rows"])
        if "num_slices_total" in record:
            found = len(self.released["pixel_values"][0])
            report.equal("number of slices", found, record["num_slices_total"])
        if "fed_image_sizes_wh" in record:
            report.equal("fed sizes", sizes, record["fed_image_sizes_wh"])

    def pixels(self) -> None:
        images, report = self.golden.processor.image_processor, self.report
        strips = self.released["pixel_values"][0] if self.image is not None else []
        grids = torch.as_tensor(self.released["tgt_sizes"][0]).reshape(-1, 2).tolist()
        report.equal("number of slices", len(strips), len(self.slices))
        mean, std = (
            torch.tensor(values).view(3, 1, 1) for values in (images.image_mean, images.image_std)
        )
        for index, (strip, (rows, cols), entry) in enumerate(
            zip(strips, grids, self.slices, strict=True)
        ):
            if "patch_grid_hw" in entry:
                report.equal("patch grid", [rows, cols], entry["patch_grid_hw"])
            picture = _unpatchified(strip, rows, cols)
            _, height, width = entry["shape_chw"]
            rest = [picture[:, height:], picture[:, :, width:]]
            report.equal("padding", any(bool(part.any()) for part in rest), False)
            picture = picture[:, :height, :width].contiguous()
            if "float32_sha256" in entry:
                report.equal("pixels", sha256(picture), entry["float32_sha256"])
            grey = ((picture * std + mean) * 255).round().to(torch.uint8).permute(1, 2, 0)
            if "uint8_hwc_sha256" in entry:
                report.equal("8-bit pixels", sha256(grey), entry["uint8_hwc_sha256"])
            if "stats" in entry:
                report.digest("pixels", picture, entry["stats"], 1e-5)
            if "uint8_png" in entry:
                with Image.open(self.golden.cases / entry["uint8_png"]) as file:
                    stored = torch.frombuffer(bytearray(file.tobytes()), dtype=torch.uint8)
                report.equal("8-bit pixels", torch.equal(grey.flatten(), stored), True)
            name = "pixel_sample" if "pixel" in self.record else f"pixel_{index}_sample"
            sample = self.array(name)
            if sample is not None:
                step = self.step(name, 0) or 24
                found = picture[:, ::step, ::step]
                report.close("pixels", found, sample, PIXEL_TOLERANCE)

    def features(self) -> None:
        if self.image is None:
            return
        report = self.report
        lengths = self.inputs["target_sizes"].prod(dim=1).tolist()
        counted = self.record.get("vision") or {}
        for index, (length, entry) in enumerate(zip(lengths, self.slices, strict=True)):
            suffix = "" if "pixel" in self.record else f"_{index}"
            states = self.vision.last_hidden_state[index, :length]
            pooled = self.vision.pooler_output[index]
            tokens = entry.get("vision_tokens", counted.get("tokens"))
            if tokens is not None:
                report.equal("vision tokens", len(states), tokens)
            for stage, found in (("vision", states), ("resampler", pooled)):
                name = f"{stage}{suffix}"
                if self.array(name) is not None:
                    self.close(stage, found[:: self.step(name, len(found))], name)
                if f"{stage}_stats" in entry:
                    report.digest(stage, found, entry[f"{stage}_stats"], TOLERANCE)
        if self.array("vision_cls") is not None:
            self.close("class token", self.normed[0, 0], "vision_cls")

    @torch.inference_mode()
    def logits(self) -> None:
        record, report, model = self.record, self.report, self.golden.model
        output = model(**self.encoded, output_hidden_states=True)
        states = output.hidden_states
        embeds, logits = states[0][0], output.logits[0]
        for stage, found, prefix in (
            ("embeddings", embeds, "inputs_embeds"),
            ("logits", logits, "logits"),
        ):
            tail, stride = f"{prefix}_tail", f"{prefix}_stride"
            recorded = self.array(tail)
            if recorded is not None:
                self.close(stage, found[-len(recorded) :], tail)
            if self.array(stride) is not None:
                self.close(stage, found[:: self.step(stride, len(found))], stride)
            if f"{prefix}_stats" in record:
                report.digest(stage, found, record[f"{prefix}_stats"], TOLERANCE)
        for index, layer in enumerate(states):
            recorded = self.array(f"hidden_{index}_last")
            if recorded is not None:
                self.close("hidden states", layer[0, -len(recorded) :], f"hidden_{index}_last")
        self.close("logits", logits[-1], "logits_last")
        likeliest = self.array("logits_argmax")
        if likeliest is not None:
            report.equal("top-1", logits.argmax(dim=-1).tolist(), likeliest.tolist())
        if self.array("logits_last_halfpixels") is not None:
            halved = self._encoded_pixels(self.inputs["pixel_values"].half().float())
            features = self.encoded | {"image_features": halved.pooler_output}
            last = model(**features).logits[0, -1]
            self.close("half pixels", last, "logits_last_halfpixels")
            if "halfpixels_max_abs_diff" in record:
                found = (last - logits[-1]).abs().max()
                expected = record["halfpixels_max_abs_diff"]
                report.close("half pixels", found, expected, TOLERANCE)

    def generation(self) -> None:
        for name, options in SEARCHES.items():
            if name in self.record:
                with self.report.stage(name):
                    self._compare_search(name, self.record[name], {"sampling": False, **options})
        if "sampled_seed1234" in self.record:
            settings = dict(self.record["sampled_seed1234"].get("settings") or {})
            settings = {"repetition_penalty": 1.0, **settings, "sampling": True, "seed": 1234}
            with self.report.stage("sampled_seed1234"):
                self._compare_search("sampled_seed1234", self.record["sampled_seed1234"], settings)
        scores = self.array("sampling_scores_step0")
        if scores is not None:
            plan = self._plan({"sampling": True, "max_new_tokens": 1})
            plan.config.output_scores = plan.config.return_dict_in_generate = True
            with torch.inference_mode():
                output = self.golden.model.generate(**self.encoded, generation_config=plan.config)
            self.close("sampling scores", output.scores[0][0], "sampling_scores_step0")

    def _plan(self, options: dict[str, Any]) -> Any:
        processor = self.golden.processor
        return plan_generation(processor, None, {"max_new_tokens": MAX_NEW_TOKENS, **options})

    def _compare_search(self, name: str, recorded: dict[str, Any], options: dict[str, Any]) -> None:
        report, processor = self.report, self.golden.processor
        ends = set(processor.terminator_ids)
        plan = self._plan(options)
        ids = generate_ids(self.golden.model, self.encoded, plan)[0].tolist()
        found, expected = _content(ids, ends), _content(recorded["ids"], ends)
        stable = self.record.get("stable_under_1e-4_input_noise") or {}
        is_stable = stable.get(name, stable.get(re.sub(r"(rep)[\d.]+$", r"\1", name), True))
        margin = recorded.get("min_margin", math.inf)
        if found != expected and (not is_stable or margin <= MARGIN):
            report.uncovered(name, "the record calls itself a near tie, and it differs")
            return
        report.equal(name, found, expected)
        if "text" in recorded:
            report.equal(f"{name} text", processor.decode_answer(ids), recorded["text"])
        if recorded.get("steps"):
            self._compare_steps(name, recorded["steps"], ids)
        beams = recorded.get("all_beams")
        score = recorded.get("sequence_score", recorded.get("score"))
        if beams is None and score is not None:
            beams = [{"ids": recorded["ids"], "score": score}]
        if beams:
            self._compare_beams(name, beams, plan)

    @torch.inference_mode()
    def _compare_steps(self, name: str, steps: list[dict[str, Any]], ids: list[int]) -> None:
        """The best candidates of every greedy step, from one pass over prompt and answer."""
        answer = torch.tensor([ids[: len(steps) - 1]], dtype=torch.long)
        inputs = self.encoded | {
            "input_ids": torch.cat([self.encoded["input_ids"], answer], dim=1),
            "attention_mask": torch.nn.functional.pad(
                self.encoded["attention_mask"], (0, answer.shape[1]), value=1
            ),
        }
        logits = self.golden.model(**inputs).logits[0, -len(steps) :]
        for row, step in zip(logits, steps, strict=True):
            top = torch.tensor(step["top_ids"])
            self.report.close(f"{name} steps", row[top], step["top_scores"], TOLERANCE, RELATIVE)
            best = row.topk(2).values
            self.report.close(f"{name} margins", best[0] - best[1], step["margin"], 5 * TOLERANCE)

    @torch.inference_mode()
    def _compare_beams(self, name: str, beams: list[dict[str, Any]], plan: Any) -> None:
        """Ids and scores of all beams."""
        processors = LogitsProcessorList()
        start = self.encoded["input_ids"].shape[1]
        if plan.repetition_penalty != 1.0:
            processors.append(
                RepetitionPenaltyLogitsProcessor(
                    plan.repetition_penalty, prompt_ignore_length=start
                )
            )
        fields = plan.config.to_dict() | {
            "num_return_sequences": len(beams),
            "output_scores": True,
            "return_dict_in_generate": True,
        }
        output = self.golden.model.generate(
            **self.encoded,
            generation_config=GenerationConfig(**fields),
            logits_processor=processors,
        )
        ends = set(self.golden.processor.terminator_ids)
        found = [_content(row, ends) for row in output.sequences[:, start:].tolist()]
        self.report.equal(f"{name} beams", found, [_content(beam["ids"], ends) for beam in beams])
        scores = [beam["score"] for beam in beams]
        self.report.close(f"{name} scores", output.sequences_scores, scores, 1e-3)

    @torch.inference_mode()
    def bfloat16(self) -> None:
        """The whole model in bfloat16, whose roundings another order of sums changes."""
        last, recorded = self.array("bf16_logits_last"), self.record.get("bf16_greedy_ids")
        if last is None and recorded is None:
            return
        model = self.golden.model_in_bfloat16
        inputs = dict(self.inputs)
        if last is not None:
            found = model(**inputs).logits[0, -1].float()
            spread = float(last.float().std())
            self.report.close("bf16 logits", found, last.float(), BFLOAT16_TOLERANCE * spread)
        if recorded is not None:
            plan = self._plan({"sampling": False, "num_beams": 1, "repetition_penalty": 1.0})
            ids = generate_ids(model, inputs, plan)[0].tolist()
            expected = (
                recorded[1:] if recorded[0] == self.golden.tokenizer.bos_token_id else recorded
            )
            if ids[: len(expected)] == expected:
                self.report.equal("bf16 greedy", ids[: len(expected)], expected)
            else:
                note = "another order of roundings leads to another answer"
                self.report.uncovered("bf16_greedy_ids", note)

    def chat(self) -> None:
        """The released call, with its three-part result."""
        record, report, golden = self.record, self.report, self.golden
        if "chat_num_beams3_answer" not in record:
            return
        model, processor = golden.model, golden.processor
        slice_mode = self.settings.get("slice_mode", model.config.slice_mode)
        before = model.config.slice_mode, processor.image_processor.slice_mode
        model.config.slice_mode = processor.image_processor.slice_mode = slice_mode
        try:
            answer, context, settings = model.chat(
                image=self.image,
                msgs=[dict(message) for message in record["msgs"]],
                context=None,
                tokenizer=golden.tokenizer,
                processor=processor,
                sampling=False,
                max_new_tokens=MAX_NEW_TOKENS,
                **_chat_options(record),
            )
        finally:
            model.config.slice_mode, processor.image_processor.slice_mode = before
        report.equal("chat", answer, record["chat_num_beams3_answer"])
        if "chat_context_last" in record:
            report.equal("chat context", context[-1], record["chat_context_last"])
        if "chat_returned_generation_config" in record:
            report.equal("chat settings", settings, record["chat_returned_generation_config"])


def _chat_options(record: dict[str, Any]) -> dict[str, Any]:
    """Options of the released `chat()`: 1.0 searches without a penalty unless told."""
    wanted = record.get("chat_returned_generation_config") or {}
    given = dict((record.get("options") or {}).get("chat_kwargs") or {})
    return {k: v for k, v in wanted.items() if k in ("num_beams", "repetition_penalty")} | given


def _content(ids: list[int], terminators: set[int]) -> list[int]:
    """The ids before the first terminator."""
    return ids[: next((i for i, token in enumerate(ids) if token in terminators), len(ids))]


def _unpatchified(strip: torch.Tensor, rows: int, cols: int) -> torch.Tensor:
    """(channels, height, width) of a slice's patches side by side."""
    side = strip.shape[1]
    patches = strip[..., : rows * cols * side].reshape(3, side, rows, cols, side)
    return patches.permute(0, 2, 1, 3, 4).reshape(3, rows * side, cols * side)
