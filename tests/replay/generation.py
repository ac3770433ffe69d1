"""Replay of the answers of a conversation: greedy, with beams, sampled; scores, steps, `chat()`."""

import json
import re
from functools import cached_property
from typing import Any

import torch
from transformers import GenerationConfig
from transformers.generation import LogitsProcessorList, RepetitionPenaltyLogitsProcessor

from minicpmv.engine.hf import generate_ids
from minicpmv.engine.plan import GenerationPlan, plan_generation

from .replayer import Replay, compares

MAX_NEW_TOKENS = 12
BFLOAT16_TOLERANCE = 0.15  # two roundings of one model, in standard deviations of the logits
SEARCH = r"(greedy[^/]*|beam\d[^/]*|sampled_seed\d+)"


class Generation(Replay):
    """What follows from the encoded inputs; `Conversation` makes those."""

    encoded: dict[str, Any]
    inputs: dict[str, Any]
    options: dict[str, Any]
    output: Any
    image: Any
    messages: Any

    def _options(self, search: str) -> dict[str, Any]:
        """Options of `Chat.ask` by the recorded name: `beam3_rep1.2`, `sampled_seed1234`."""
        options: dict[str, Any] = {"max_new_tokens": MAX_NEW_TOKENS}
        if search.startswith("sampled"):
            settings = self.case.expected.get(f"{search}/settings")
            if settings is not None:
                options |= {"repetition_penalty": 1.0, **settings}
            return options | {"sampling": True}
        beams, penalty = re.match(r"beam(\d+)", search), re.search(r"rep([\d.]+)", search)
        return options | {
            "sampling": False,
            "num_beams": int(beams[1]) if beams else 1,
            "repetition_penalty": float(penalty[1]) if penalty else 1.0,
        }

    def _plan(self, options: dict[str, Any]) -> GenerationPlan:
        return plan_generation(self.released.processor, None, options)

    def content(self, row: list[int]) -> list[int]:
        """The ids before the first one that ends an answer."""
        ends = set(self.released.processor.terminator_ids)
        return row[: next((i for i, token in enumerate(row) if token in ends), len(row))]

    @cached_property
    def answers(self) -> dict[str, list[list[int]]]:
        return {}

    def answer(self, search: str) -> list[list[int]]:
        """New ids of every sample."""
        if search not in self.answers:
            if seed := re.fullmatch(r"sampled_seed(\d+)", search):
                # Recorded with one generator for all rows of a batch, set before the call.
                torch.manual_seed(int(seed[1]))
            ids = generate_ids(self.released.model, self.encoded, self._plan(self._options(search)))
            self.answers[search] = ids.tolist()
        return self.answers[search]

    def _is_unstable(self, search: str) -> bool:
        """The recording calls it a near tie: rounding decides."""
        unstable = self.given("unstable", ())
        return search in unstable or re.sub(r"(rep)[\d.]+$", r"\1", search) in unstable

    def compare_or_tie(self, name: str, search: str, found: Any, recorded: Any) -> None:
        if found != recorded and self._is_unstable(search):
            self.check.near_tie(name)
        else:
            self.check.equal(name, found, recorded)

    @compares(f"{SEARCH}/(ids|content)")
    def new_ids(self, name: str, recorded: list[Any], search: str, what: str) -> None:
        rows = recorded if isinstance(recorded[0], list) else [recorded]
        found = [self.content(row) for row in self.answer(search)]
        self.compare_or_tie(name, search, found, [self.content(row) for row in rows])

    @compares(f"{SEARCH}/text")
    def text(self, name: str, recorded: str | list[str], search: str) -> None:
        wanted = recorded if isinstance(recorded, list) else [recorded]
        found = [self.released.processor.decode_answer(row) for row in self.answer(search)]
        self.compare_or_tie(name, search, found, wanted)

    @compares(r"(sampled_seed\d+)/settings")
    def sampling_settings(self, name: str, recorded: dict[str, Any], search: str) -> None:
        """What sampling does when nothing else was asked for."""
        plan = self._plan({"sampling": True, "max_new_tokens": MAX_NEW_TOKENS})
        found = {**plan.config.to_dict(), "repetition_penalty": plan.repetition_penalty}
        self.check.equal(name, {key: found.get(key) for key in recorded}, recorded)

    @cached_property
    def greedy_logits(self) -> torch.Tensor:
        """Logits of every greedy step, (samples, steps, vocabulary), from one pass over it all."""
        ids = torch.tensor(self.answer("greedy"), dtype=torch.long)
        answer = ids[:, :-1]
        mask = torch.nn.functional.pad(
            self.encoded["attention_mask"], (0, answer.shape[1]), value=1
        )
        inputs = self.encoded | {
            "input_ids": torch.cat([self.encoded["input_ids"], answer], dim=1),
            "attention_mask": mask,
            "position_ids": (mask.cumsum(1) - 1).clamp(min=0),
        }
        with torch.inference_mode():
            return self.released.model(**inputs).logits[:, -ids.shape[1] :]

    @compares("greedy/steps")
    def steps(self, name: str, recorded: list[dict[str, Any]]) -> None:
        """The best candidates of every step."""
        self.check.equal(f"{name}/count", self.greedy_logits.shape[1], len(recorded))
        for row, step in zip(self.greedy_logits[0], recorded, strict=True):
            self.check.equal(name, set(step), {"top_ids", "top_scores", "margin"})
            self.close(name, row[torch.tensor(step["top_ids"])], step["top_scores"])
            first, second = row.topk(2).values
            self.check.close(f"{name}/margin", first - second, step["margin"], 1e-3)

    @compares("greedy/min_margin")
    def min_margin(self, name: str, recorded: float) -> None:
        """How near the greedy path comes to a tie, up to its end."""
        gaps = self.greedy_logits.topk(2, dim=-1).values
        gaps = gaps[..., 0] - gaps[..., 1]
        lengths = [len(self.content(row)) + 1 for row in self.answer("greedy")]
        found = min(float(row[:n].min()) for row, n in zip(gaps, lengths, strict=True))
        self.check.close(name, found, recorded, 2e-3)

    @torch.inference_mode()
    def _beams(self, search: str) -> tuple[list[list[int]], torch.Tensor]:
        """Every beam of every sample, best first, and its score."""
        plan = self._plan(self._options(search))
        start = self.encoded["input_ids"].shape[1]
        processors = LogitsProcessorList()
        if plan.repetition_penalty != 1.0:
            penalty = plan.repetition_penalty
            processors.append(RepetitionPenaltyLogitsProcessor(penalty, prompt_ignore_length=start))
        fields = plan.config.to_dict() | {
            "num_return_sequences": plan.config.num_beams,
            "output_scores": True,
            "return_dict_in_generate": True,
        }
        output = self.released.model.generate(
            **self.encoded,
            generation_config=GenerationConfig(**fields),
            logits_processor=processors,
        )
        rows = [self.content(row) for row in output.sequences[:, start:].tolist()]
        return rows, output.sequences_scores

    @compares(f"{SEARCH}/beams")
    def beams(self, name: str, recorded: list[dict[str, Any]], search: str) -> None:
        """Ids and score of the best beam; of the others the scores, where their ids are the same.

        transformers ranks the runners-up otherwise now than when they were recorded.
        """
        found, scores = self._beams(search)
        self.check.equal(f"{name}/count", len(found), len(recorded))
        wanted = [self.content(beam["ids"]) for beam in recorded]
        self.compare_or_tie(f"{name}/best", search, found[0], wanted[0])
        for ids, score in zip(found, scores.tolist(), strict=True):
            if ids in wanted:
                beam = recorded[wanted.index(ids)]
                self.check.equal(name, set(beam), {"ids", "score"})
                self.check.close(f"{name}/scores", score, beam["score"], 1e-3)

    @compares(f"{SEARCH}/score")
    def score(self, name: str, recorded: float, search: str) -> None:
        self.check.close(name, self._beams(search)[1][0], recorded, 1e-3)

    @compares(f"{SEARCH}/scores")
    def scores(self, name: str, recorded: Any, search: str) -> None:
        """Of the best beam of each sample; the runners-up have no ids here to know them by."""
        wanted = torch.tensor(recorded).reshape(len(self.encoded["input_ids"]), -1)
        found = self._beams(search)[1].view_as(wanted)
        self.check.close(name, found[:, 0], wanted[:, 0], 1e-3)
        self.check.holds(f"{name}/order", bool((found.diff(dim=1) <= 0).all()), "not best first")

    @compares("sampling/scores")
    def first_scores(self, name: str, recorded: torch.Tensor) -> None:
        """What the first token is drawn from by default."""
        plan = self._plan({"sampling": True, "max_new_tokens": 1})
        plan.config.output_scores = plan.config.return_dict_in_generate = True
        with torch.inference_mode():
            output = self.released.model.generate(**self.encoded, generation_config=plan.config)
        self.close(name, output.scores[0][0], recorded)

    # The whole model in bfloat16, whose roundings another order of sums changes.

    @cached_property
    def _half_logits(self) -> torch.Tensor:
        with torch.inference_mode():
            return self.released.model_in_bfloat16(**self.inputs).logits[0, -1].float()

    @compares("bfloat16/logits")
    def bfloat16_logits(self, name: str, recorded: torch.Tensor) -> None:
        recorded = recorded.float()
        allowed = BFLOAT16_TOLERANCE * float(recorded.std())
        self.check.close(name, self._half_logits, recorded, allowed)

    @compares("bfloat16/greedy_ids")
    def bfloat16_greedy(self, name: str, recorded: list[int]) -> None:
        """Each recorded token is the likeliest here, too, or as near to it as two roundings are."""
        has_start = recorded[0] == self.released.processor.tokenizer.bos_token_id
        answer = torch.tensor([recorded[1:] if has_start else recorded])
        inputs = dict(self.inputs)
        inputs["input_ids"] = torch.cat([inputs["input_ids"], answer[:, :-1]], dim=1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        with torch.inference_mode():
            logits = self.released.model_in_bfloat16(**inputs).logits[0].float()
        steps = logits[-answer.shape[1] :]
        behind = steps.max(dim=-1).values - steps.gather(1, answer.T)[:, 0]
        allowed = 2 * BFLOAT16_TOLERANCE * float(steps.std())
        self.check.close(name, behind, torch.zeros_like(behind), allowed)

    # The released call, from the messages to the text.

    def _call(self, **options: Any) -> Any:
        as_json = self.given("msgs_as_json")
        call = {
            "image": self.image,
            "msgs": json.dumps(self.given("msgs")) if as_json else self.messages,
            "tokenizer": self.released.processor.tokenizer,
            "processor": self.released.processor,
            "max_new_tokens": MAX_NEW_TOKENS,
            **self.options,
        }
        model, images = self.released.model, self.released.processor.image_processor
        before = model.config.slice_mode, images.slice_mode
        slice_mode = call.pop("slice_mode", before[0])  # a field of the config, not an argument
        model.config.slice_mode = images.slice_mode = slice_mode
        try:
            return model.chat(**call, **options)
        finally:
            model.config.slice_mode, images.slice_mode = before

    @cached_property
    def chat_result(self) -> Any:
        """1.0 and 2.0 give three parts; 1.0 searches without a penalty unless told."""
        settings = self.case.expected.get("chat/settings") or {}
        kept = {k: v for k, v in settings.items() if k in ("num_beams", "repetition_penalty")}
        if settings:
            return self._call(context=None, sampling=False, **kept)
        return self._call(sampling=False)

    @compares("chat/answer")
    def chat_answer(self, name: str, recorded: str) -> None:
        result = self.chat_result
        self.check.equal(name, result[0] if isinstance(result, tuple) else result, recorded)

    @compares("chat/context_last")
    def chat_context(self, name: str, recorded: dict[str, str]) -> None:
        self.check.equal(name, self.chat_result[1][-1], recorded)

    @compares("chat/settings")
    def chat_settings(self, name: str, recorded: dict[str, Any]) -> None:
        self.check.equal(name, self.chat_result[2], recorded)

    @compares(r"chat/stream_seed(\d+)")
    def stream(self, name: str, recorded: list[str], seed: str) -> None:
        """The text; where it is cut into pieces is a matter of taste."""
        torch.manual_seed(int(seed))
        pieces = self._call(sampling=True, stream=True)
        self.compare_or_tie(name, f"sampled_seed{seed}", "".join(pieces), "".join(recorded))
