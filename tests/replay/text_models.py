"""Replay of the text models: which checkpoint, and the kinds of cases that need no training."""

import copy
import json
import tempfile
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from minicpmv import AutoModelForCausalLM
from minicpmv.export.convert import convert
from minicpmv.loader import MODEL_CLASSES
from minicpmv.model.configuration_minicpm import MiniCPMConfig
from minicpmv.model.minicpm import (
    MiniCPMForCausalLM,
    MiniCPMForSequenceClassification,
    MiniCPMRotaryEmbedding,
)
from minicpmv.processing.text import load_text_tokenizer
from minicpmv.releases import model_type_of

from .recording import unpacked
from .replayer import Replay, compares

INPUTS = ("input_ids", "inputs_embeds", "attention_mask", "position_ids")


@cache
def model_of(checkpoint: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(
        checkpoint, dtype=torch.float32, compat="released"
    ).eval()


@cache
def tokenizer_of(checkpoint: Path) -> Any:
    return load_text_tokenizer(checkpoint)


@cache
def other_format(folder: Path, checkpoint: Path, name: str) -> Any:
    """A checkpoint in another format, named relative to the recording; Llama's may be made here."""
    place = unpacked(folder / name)
    if not any(place.glob("*.safetensors")) and not any(place.glob("*.bin")):
        if Path(name).name != "llama_format":
            raise FileNotFoundError(f"There is no checkpoint at {place}.")
        with tempfile.TemporaryDirectory(prefix="minicpmv-replay-") as target:
            convert(checkpoint, Path(target) / "llama", "llama")
            return _loaded(Path(target) / "llama")
    return _loaded(place)


def _loaded(folder: Path) -> Any:
    fields = json.loads((folder / "config.json").read_text("utf-8"))
    return MODEL_CLASSES[model_type_of(fields)].from_pretrained(folder, dtype=torch.float32).eval()


class TextModel(Replay):
    """A case of a text model; the kinds below and in `training.py` are its subclasses."""

    @cached_property
    def model(self) -> Any:
        if override := self.given("checkpoint_override"):
            return other_format(self.case.folder, self.case.checkpoint, override)
        model = model_of(self.case.checkpoint)
        if changes := self.given("config_override"):
            fields = json.loads((self.case.checkpoint / "config.json").read_text("utf-8"))
            variant = MiniCPMForCausalLM(MiniCPMConfig.from_dict(fields | changes)).eval()
            variant.load_state_dict(model.state_dict())
            return variant
        return model

    @property
    def tokenizer(self) -> Any:
        return tokenizer_of(self.case.checkpoint)

    def inputs(self, *names: str) -> dict[str, Any]:
        values = {name: self.given(name) for name in names or INPUTS}
        return {name: value for name, value in values.items() if value is not None}

    def close_unpadded(self, name: str, found: torch.Tensor, recorded: torch.Tensor) -> None:
        """The last rows that were recorded, where they are not padding."""
        if "_last" in name:
            found = found[:, -recorded.shape[1] :]
        mask = self.given("attention_mask")
        if mask is not None and found.shape == recorded.shape:
            mask = mask[:, -recorded.shape[1] :].bool()
            found, recorded = found[mask], recorded[mask]
        self.close(name, found, recorded)

    @cached_property
    def output(self) -> Any:
        with torch.no_grad():
            return self.model(**self.inputs(), **self.forward_options)

    forward_options: dict[str, Any] = {}

    @compares(r"logits(?:_last\d+)?")
    def logits(self, name: str, recorded: torch.Tensor) -> None:
        self.close_unpadded(name, self.output.logits, recorded)


class Logits(TextModel):
    kinds = ("logits", "gptq")

    def run(self) -> Any:
        equivalent = self.given("input_ids_equivalent")
        if equivalent is not None:
            with torch.no_grad():
                found = self.model(input_ids=equivalent).logits
            for name, recorded in self.case.expected.items():
                self.close_unpadded(name, found, recorded)
        return super().run()

    @compares("dequant/(.+)")
    def dequantised(self, name: str, recorded: torch.Tensor, weight: str) -> None:
        self.close(name, dict(self.model.named_parameters())[weight], recorded)


class HiddenStates(TextModel):
    kinds = ("hidden_states",)
    forward_options = {"output_hidden_states": True, "output_attentions": True}

    @cached_property
    def model(self) -> Any:
        model = copy.deepcopy(super().model)
        model.set_attn_implementation("eager")  # only it shows its weights
        return model

    @compares(r"(hidden|attn)_(\d+)")
    def state(self, name: str, recorded: torch.Tensor, what: str, index: str) -> None:
        output = self.output
        states = output.hidden_states if what == "hidden" else output.attentions
        self.close(name, states[int(index)], recorded)


class Loss(TextModel):
    kinds = ("loss",)

    @cached_property
    def output(self) -> Any:
        with torch.no_grad():
            return self.model(**self.inputs(), labels=self.given("labels"))

    @compares("loss")
    def loss(self, name: str, recorded: torch.Tensor) -> None:
        self.close(name, self.output.loss, recorded)


class Cache(TextModel):
    kinds = ("kv_cache",)

    @cached_property
    @torch.no_grad()
    def incremental(self) -> tuple[torch.Tensor, Any]:
        """Logits and cache, the ids read chunk by chunk."""
        cache: Any = None
        parts = []
        for chunk in self.given("input_ids").split(self.given("chunks"), dim=1):
            output = self.model(input_ids=chunk, past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            parts.append(output.logits)
        return torch.cat(parts, dim=1), cache

    @compares(r"logits_(full|incremental)(?:_last\d+)?")
    def both_logits(self, name: str, recorded: torch.Tensor, what: str) -> None:
        found = self.output.logits if what == "full" else self.incremental[0]
        self.close_unpadded(name, found, recorded)

    @compares(r"(key|value)_(\d+)")
    def cached(self, name: str, recorded: torch.Tensor, what: str, index: str) -> None:
        layer = self.incremental[1].layers[int(index)]
        self.close(name, layer.keys if what == "key" else layer.values, recorded)


class Bfloat16(TextModel):
    """Two roundings of one model differ, so ours may be as far off as twice its own error."""

    kinds = ("logits_bf16",)

    @compares("logits_fp32")
    def exact(self, name: str, recorded: torch.Tensor) -> None:
        self.close(name, self.output.logits, recorded)

    @compares("logits")
    def logits(self, name: str, recorded: torch.Tensor) -> None:
        recorded, exact = recorded.float(), self.case.expected["logits_fp32"]
        with torch.no_grad():
            half = copy.deepcopy(self.model).to(torch.bfloat16)
            found = half(**self.inputs()).logits.float()
        allowed = 2 * float((recorded - exact).abs().mean())
        self.check.close(name, (found - recorded).abs().mean(), torch.zeros(()), allowed)


class LlamaFormat(TextModel):
    kinds = ("llama_format",)

    @compares("logits_(llama|minicpm)")
    @torch.no_grad()
    def in_format(self, name: str, recorded: torch.Tensor, what: str) -> None:
        model = self.model if what == "llama" else model_of(self.case.checkpoint)
        self.close(name, model(**self.inputs()).logits, recorded)


class Classification(TextModel):
    kinds = ("seqcls",)

    @compares("logits")
    @torch.no_grad()
    def logits(self, name: str, recorded: torch.Tensor) -> None:
        model = MiniCPMForSequenceClassification.from_pretrained(
            self.case.checkpoint,
            num_labels=self.given("num_labels"),
            pad_token_id=self.given("pad_token_id"),
            dtype=torch.float32,
        ).eval()
        scores = load_file(self.case.folder.parent / "seqcls" / "score.safetensors")
        model.score.weight.copy_(next(iter(scores.values())))
        self.close(name, model(input_ids=self.given("input_ids")).logits, recorded)


class Rope(TextModel):
    """Frequencies at a length: the angle at place 1, and the last row."""

    kinds = ("rope_table",)

    @cached_property
    def angles(self) -> tuple[torch.Tensor, torch.Tensor]:
        length, width, factor = (self.given(n) for n in ("seq_len", "head_dim", "factor"))
        config = MiniCPMConfig(
            hidden_size=2 * width,
            num_attention_heads=2,
            rope_scaling=None if factor is None else {"type": "dynamic", "factor": factor},
            **self.inputs("max_position_embeddings", "rope_theta"),
        )
        return MiniCPMRotaryEmbedding(config)(torch.tensor([[1, length - 1]]), length)

    @compares("inv_freq|cos_last|sin_last")
    def table(self, name: str, recorded: torch.Tensor) -> None:
        cos, sin = self.angles
        found = {
            "inv_freq": torch.atan2(sin[0, 0], cos[0, 0])[: cos.shape[-1] // 2],
            "cos_last": cos[0, 1],
            "sin_last": sin[0, 1],
        }
        self.close(name, found[name], recorded)


class AfterALongCall(TextModel):
    """A call does not depend on those before it, as it did in the released code."""

    kinds = ("logits_quirk",)

    @compares("logits_fresh")
    @torch.no_grad()
    def fresh(self, name: str, recorded: torch.Tensor) -> None:
        ids, length = self.given("input_ids"), self.given("preceding_length")
        longer = ids.repeat(1, 1 + length // ids.shape[1])
        self.model(input_ids=longer[:, :length])
        self.close(name, self.model(input_ids=ids).logits, recorded)
