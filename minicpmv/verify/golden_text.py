"""Golden cases of the MiniCPM text models: `manifest.json` with a `kind` per case."""

import copy
import json
import tempfile
from collections.abc import Iterator
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from ..checkpoint.hub import Checkpoint
from ..export.convert import convert
from ..loader import MODEL_CLASSES, read_config
from ..model.configuration_minicpm import MiniCPMConfig
from ..model.minicpm import (
    MiniCPMForCausalLM,
    MiniCPMForSequenceClassification,
    MiniCPMRotaryEmbedding,
)
from ..model.moe import balance_loss, route
from ..processing.text import load_text_tokenizer
from ..released_auto import AutoModelForCausalLM
from ..releases import model_type_of
from .checks import CaseReport

TOLERANCE = 2e-4  # where a case brings none
_INPUTS = ("input_ids", "inputs_embeds", "attention_mask", "position_ids")
_SLOW_TOKENIZER = "of the slow tokenizer class, which no current transformers has"


def replay_text(cases: Path, checkpoint: Path, manifest: dict[str, Any]) -> Iterator[CaseReport]:
    """Every case of the manifest."""
    path = cases / "cases.safetensors"
    tensors = load_file(path) if path.is_file() else {}
    models = _Models(cases, checkpoint)
    for record in manifest["cases"]:
        yield _Case(models, tensors, record).run()


class _Models:
    """The checkpoints of one folder of cases, each loaded once, in float32 on the CPU."""

    def __init__(self, cases: Path, checkpoint: Path):
        self.cases = cases
        self.checkpoint = checkpoint
        self.name = cases.resolve().parent.name

    @cached_property
    def model(self) -> Any:
        model = AutoModelForCausalLM.from_pretrained(
            self.checkpoint, dtype=torch.float32, compat="released"
        )
        return model.eval()

    @cached_property
    def tokenizer(self) -> Any:
        return load_text_tokenizer(self.checkpoint)

    @lru_cache  # noqa: B019 - lives as long as the replay of one folder
    def other(self, name: str) -> Any:
        """A checkpoint in another format, named relative to the cases or to the checkpoint.

        One in Llama's layout is made from the checkpoint where it is not there.
        """
        places = [self.cases / name, self.checkpoint / name]
        place = next((place for place in places if _has_weights(place)), None)
        if place is not None:
            return _loaded(place)
        if Path(name).name != "llama_format":
            raise FileNotFoundError(f"No checkpoint at {' or '.join(map(str, places))}.")
        with tempfile.TemporaryDirectory(prefix="minicpmv-verify-") as folder:
            convert(self.checkpoint, Path(folder) / "llama", "llama")
            return _loaded(Path(folder) / "llama")

    def variant(self, changes: dict[str, Any]) -> Any:
        """The model with other numbers in its config.json."""
        fields = json.loads((self.checkpoint / "config.json").read_text("utf-8")) | changes
        model = MiniCPMForCausalLM(MiniCPMConfig.from_dict(fields)).eval()
        model.load_state_dict(self.model.state_dict())
        return model


def _has_weights(folder: Path) -> bool:
    return any(folder.glob("*.safetensors")) or any(folder.glob("*.bin"))


def _loaded(folder: Path) -> Any:
    model_class = MODEL_CLASSES[model_type_of(read_config(Checkpoint.at(folder, {})))]
    return model_class.from_pretrained(folder, dtype=torch.float32).eval()


class _Case:
    """One recorded case; `inputs` and `expected` are arrays and plain values alike."""

    def __init__(self, models: _Models, tensors: dict[str, torch.Tensor], record: dict[str, Any]):
        self.models = models
        self.tensors = tensors
        self.record = record
        self.report = CaseReport(models.name, record["name"])
        self.tolerance = record.get("atol", TOLERANCE)
        self.seen: set[str] = set()

    def run(self) -> CaseReport:
        """Replay by kind; what was recorded and is not compared is listed."""
        kind = self.record["kind"]
        replay = getattr(self, f"_{kind}", None)
        if replay is None:
            self.report.uncovered(kind, "nothing in this package computes it")
            return self.report
        with self.report.stage(kind):
            replay()
        if not self.report.failures:
            for name in self.record["expect"]:
                if name not in self.seen:
                    self.report.uncovered(name, "no comparison reads this value")
        return self.report

    # What a case holds.

    def _value(self, entry: dict[str, Any]) -> Any:
        return self.tensors[entry["tensor"]] if "tensor" in entry else entry["json"]

    def given(self, name: str) -> Any:
        """An input; None where the case has none of that name."""
        entry = self.record["inputs"].get(name)
        return None if entry is None else self._value(entry)

    def expected(self, name: str) -> Any:
        self.seen.add(name)
        return self._value(self.record["expect"][name])

    def expects(self, name: str) -> bool:
        return name in self.record["expect"]

    def uncovered(self, name: str, note: str) -> None:
        if self.expects(name):
            self.seen.add(name)
            self.report.uncovered(name, note)

    @cached_property
    def model(self) -> Any:
        override = self.record.get("checkpoint_override")
        if override is not None:
            return self.models.other(override)
        changes = self.record.get("config_override")
        return self.models.variant(changes) if changes else self.models.model

    def inputs(self, *names: str) -> dict[str, Any]:
        values = {name: self.given(name) for name in names or _INPUTS}
        return {name: value for name, value in values.items() if value is not None}

    def compare(self, name: str, found: torch.Tensor) -> None:
        """`found` as far as it was recorded, and where it is not padding."""
        expected = self.expected(name)
        if "_last" in name:
            found = found[:, -expected.shape[1] :]
        mask = self.given("attention_mask")
        if mask is not None and found.shape == expected.shape:
            mask = mask[:, -expected.shape[1] :].bool()
            found, expected = found[mask], expected[mask]
        self.report.close(name, found, expected, self.tolerance)

    def compare_all(self, prefix: str, found: torch.Tensor) -> None:
        """Every recorded part of one array: whole, or its last rows."""
        for name in self.record["expect"]:
            if name == prefix or name.startswith(f"{prefix}_last"):
                self.compare(name, found)

    def compare_if_recorded(self, name: str, found: Any) -> None:
        if self.expects(name):
            self.report.close(name, found, self.expected(name), self.tolerance)

    # The kinds.

    @torch.no_grad()
    def _logits(self) -> None:
        self.compare_all("logits", self.model(**self.inputs()).logits)
        equivalent = self.given("input_ids_equivalent")
        if equivalent is not None:
            self.compare_all("logits", self.model(input_ids=equivalent).logits)

    @torch.no_grad()
    def _hidden_states(self) -> None:
        model = copy.deepcopy(self.model)
        model.set_attn_implementation("eager")  # only it shows its weights
        output = model(**self.inputs(), output_hidden_states=True, output_attentions=True)
        for index, states in enumerate(output.hidden_states):
            self.compare_if_recorded(f"hidden_{index}", states)
        for index, weights in enumerate(output.attentions):
            self.compare_if_recorded(f"attn_{index}", weights)
        self.compare_all("logits", output.logits)

    @torch.no_grad()
    def _loss(self) -> None:
        output = self.model(**self.inputs(), labels=self.given("labels"))
        self.compare_if_recorded("loss", output.loss)
        self.compare_all("logits", output.logits)

    @torch.no_grad()
    def _kv_cache(self) -> None:
        ids = self.given("input_ids")
        self.compare_all("logits_full", self.model(input_ids=ids).logits)
        cache: Any = None
        parts = []
        for chunk in ids.split(self.given("chunks"), dim=1):
            output = self.model(input_ids=chunk, past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            parts.append(output.logits)
        self.compare_all("logits_incremental", torch.cat(parts, dim=1))
        for index, layer in enumerate(cache.layers):
            self.compare_if_recorded(f"key_{index}", layer.keys)
            self.compare_if_recorded(f"value_{index}", layer.values)

    def _generate(self) -> None:
        output = self.model.generate(
            **self.inputs("input_ids", "attention_mask"),
            **self.given("generate"),
            max_length=None,
            output_logits=True,
            output_scores=True,
            return_dict_in_generate=True,
        )
        prompts = self.given("prompts") or [self.given("prompt")]
        if prompts[0] is not None:
            rows = [self.models.tokenizer(prompt)["input_ids"] for prompt in prompts]
            ids = self.given("input_ids")
            recorded = [row[-len(found) :].tolist() for row, found in zip(ids, rows, strict=True)]
            self.report.equal("prompt ids", rows, recorded)
        recorded = self.expected("sequences").tolist()
        self.report.equal("sequences", output.sequences.tolist(), recorded)
        if self.expects("step_logits"):
            self.compare_if_recorded("step_logits", torch.stack(output.logits, dim=1))
        if self.expects("sequences_scores"):
            self.compare_if_recorded("sequences_scores", output.sequences_scores)

    def _warped_probs(self) -> None:
        output = self.model.generate(
            input_ids=self.given("input_ids"),
            do_sample=True,
            **self.inputs("temperature", "top_k", "top_p"),
            max_new_tokens=1,
            max_length=None,
            pad_token_id=2,
            output_scores=True,
            return_dict_in_generate=True,
        )
        self.compare_if_recorded("probs", output.scores[0].softmax(dim=-1))

    @torch.no_grad()
    def _logits_bf16(self) -> None:
        """Two roundings of one model differ, so ours may be as far off as twice its own error."""
        inputs = self.inputs()
        if self.expects("logits_fp32"):
            self.compare("logits_fp32", self.model(**inputs).logits)
        found = copy.deepcopy(self.model).to(torch.bfloat16)(**inputs).logits.float()
        recorded = self.expected("logits").float()
        exact = self._value(self.record["expect"]["logits_fp32"])
        allowed = 2 * float((recorded - exact).abs().mean())
        distance = (found - recorded).abs().mean()
        self.report.close("logits", distance, torch.zeros(()), allowed)

    def _chat_template(self) -> None:
        tokenizer = self.models.tokenizer
        messages, prompts = self.given("messages"), bool(self.given("add_generation_prompt"))
        text = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=prompts
        )
        self.report.equal("text", text, self.expected("text"))
        if self.expects("ids_fast_tokenizer"):
            ids = tokenizer(text)["input_ids"]
            self.report.equal("ids", ids, self.expected("ids_fast_tokenizer"))
        name = "ids_apply_chat_template_tokenize_true"
        if self.expects(name):
            ids = tokenizer.apply_chat_template(
                messages, tokenize=True, add_generation_prompt=prompts, return_dict=False
            )
            self.report.equal("ids without BOS", ids, self.expected(name))
        self.uncovered("ids_slow_tokenizer", _SLOW_TOKENIZER)

    def _tokenize(self) -> None:
        tokenizer, text = self.models.tokenizer, self.given("text")
        ids = tokenizer(text)["input_ids"]
        self.report.equal("ids_fast", ids, self.expected("ids_fast"))
        for name, skips in (("decode_fast", False), ("decode_fast_skip", True)):
            if self.expects(name):
                found = tokenizer.decode(
                    ids, skip_special_tokens=skips, clean_up_tokenization_spaces=False
                )
                self.report.equal(name, found, self.expected(name))
        self.uncovered("ids_slow", _SLOW_TOKENIZER)

    def _chat(self) -> None:
        history = copy.deepcopy(self.given("history"))
        options = self.given("kwargs") or {}
        response, messages = self.model.chat(
            self.models.tokenizer, self.given("query"), history=history, **options
        )
        self.report.equal("response", response, self.expected("response"))
        if self.expects("history"):
            self.report.equal("history", messages, self.expected("history"))

    def _grads(self) -> None:
        model = copy.deepcopy(self.model).train()
        output = model(**self.inputs(), labels=self.given("labels"), use_cache=False)
        output.loss.backward()
        self.compare_if_recorded("loss", output.loss)
        self._compare_gradients(model, "")

    def _compare_gradients(self, model: Any, prefix: str) -> None:
        for name, parameter in model.named_parameters():
            if self.expects(prefix + name):
                self.compare_if_recorded(prefix + name, parameter.grad)

    def _train_grads(self) -> None:
        """With and without the loss that keeps the experts busy; the reported loss has it not."""
        for prefix, weight in (("grad_without_aux/", 0.0), ("grad_with_aux/", 1.0)):
            model = copy.deepcopy(self.model).train()
            model.config.router_aux_loss_coef = weight
            output = model(**self.inputs(), labels=self.given("labels"), use_cache=False)
            output.loss.backward()
            if not weight:
                self.compare_if_recorded("loss", output.loss)
                self.compare_if_recorded("logits_train", output.logits)
            self._compare_gradients(model, prefix)

    @torch.no_grad()
    def _llama_format(self) -> None:
        inputs = self.inputs()
        self.compare_if_recorded("logits_llama", self.model(**inputs).logits)
        self.compare_if_recorded("logits_minicpm", self.models.model(**inputs).logits)

    @torch.no_grad()
    def _seqcls(self) -> None:
        labels, pad_id = self.given("num_labels"), self.given("pad_token_id")
        model = MiniCPMForSequenceClassification.from_pretrained(
            self.models.checkpoint, num_labels=labels, pad_token_id=pad_id, dtype=torch.float32
        ).eval()
        places = [self.models.cases.parent, self.models.checkpoint.parent]
        files = [place / "seqcls" / "score.safetensors" for place in places]
        scores = load_file(next((file for file in files if file.is_file()), files[0]))
        model.score.weight.copy_(next(iter(scores.values())))
        self.compare_if_recorded("logits", model(input_ids=self.given("input_ids")).logits)

    @torch.no_grad()
    def _gptq(self) -> None:
        self.compare_all("logits", self.model(**self.inputs()).logits)
        weights = dict(self.model.named_parameters())
        for name in self.record["expect"]:
            if name.startswith("dequant/"):
                self.compare_if_recorded(name, weights[name.removeprefix("dequant/")])

    def _rope_table(self) -> None:
        """Frequencies at a length: the angle at place 1, and the last row."""
        length, width, factor = (self.given(n) for n in ("seq_len", "head_dim", "factor"))
        config = MiniCPMConfig(
            hidden_size=2 * width,
            num_attention_heads=2,
            rope_scaling=None if factor is None else {"type": "dynamic", "factor": factor},
            **self.inputs("max_position_embeddings", "rope_theta"),
        )
        rope = MiniCPMRotaryEmbedding(config)
        cos, sin = rope(torch.tensor([[1, length - 1]]), length)
        half = cos.shape[-1] // 2
        self.compare_if_recorded("inv_freq", torch.atan2(sin[0, 0], cos[0, 0])[:half])
        self.compare_if_recorded("cos_last", cos[0, 1])
        self.compare_if_recorded("sin_last", sin[0, 1])

    @torch.no_grad()
    def _logits_quirk(self) -> None:
        """A call does not depend on those before it, as it did in the released code."""
        ids = self.given("input_ids")
        longer = ids.repeat(1, 1 + self.given("preceding_length") // ids.shape[1])
        self.model(input_ids=longer[:, : self.given("preceding_length")])
        self.compare_if_recorded("logits_fresh", self.model(input_ids=ids).logits)
        self.uncovered("logits_after_long_call", "the released code forgot to shrink its table")

    @torch.no_grad()
    def _router(self) -> None:
        """Every mixture of the model, watched in one forward pass."""
        watched: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        hooks = [
            layer.mlp.register_forward_hook(
                lambda module, args, output, index=index: watched.__setitem__(
                    index, (args[0], output)
                )
            )
            for index, layer in enumerate(self.model.model.layers)
        ]
        try:
            output = self.model(**self.inputs(), output_router_logits=True)
        finally:
            for hook in hooks:
                hook.remove()
        self.compare_all("logits", output.logits)
        top_k = self.model.config.num_experts_per_tok
        for index, logits in enumerate(output.router_logits):
            weights, chosen = route(logits, top_k)
            self.compare_if_recorded(f"mlp_in_{index}", watched[index][0])
            self.compare_if_recorded(f"mlp_out_{index}", watched[index][1])
            self.compare_if_recorded(f"router_scores_{index}", logits)
            self.compare_if_recorded(f"topk_idx_{index}", chosen)
            self.compare_if_recorded(f"topk_weight_{index}", weights)
            self.compare_if_recorded(f"balance_loss_{index}", balance_loss((logits,), top_k))

    @torch.no_grad()
    def _moe_block(self) -> None:
        block = self.model.model.layers[self.given("layer")].mlp
        self.compare_if_recorded("y", block(self.given("x")))
