"""Replay of what the text models say: generation, `chat()`, templates and tokenizers."""

import copy
from functools import cached_property
from typing import Any

import torch

from .replayer import compares
from .text_models import TextModel


class Generate(TextModel):
    kinds = ("generate",)

    @cached_property
    def output(self) -> Any:
        return self.model.generate(
            **self.inputs("input_ids", "attention_mask"),
            **self.given("generate"),
            max_length=None,
            output_logits=True,
            output_scores=True,
            return_dict_in_generate=True,
        )

    def run(self) -> Any:
        """The recorded ids are also what the tokenizer makes of the recorded prompt."""
        prompts = self.given("prompts") or [self.given("prompt")]
        if prompts[0] is not None:
            rows = [self.tokenizer(prompt)["input_ids"] for prompt in prompts]
            ids = self.given("input_ids")
            recorded = [row[-len(found) :].tolist() for row, found in zip(ids, rows, strict=True)]
            self.check.equal("prompt ids", rows, recorded)
        return super().run()

    @compares("sequences")
    def sequences(self, name: str, recorded: torch.Tensor) -> None:
        self.check.equal(name, self.output.sequences.tolist(), recorded.tolist())

    @compares("step_logits|sequences_scores")
    def scores(self, name: str, recorded: torch.Tensor) -> None:
        logits = name == "step_logits"
        found = torch.stack(self.output.logits, dim=1) if logits else self.output.sequences_scores
        self.close(name, found, recorded)

    @compares("min_top1_margin")
    def margin(self, name: str, recorded: float) -> None:
        """How near the path comes to a tie, in the scores that the token was chosen by."""
        best = torch.stack(self.output.scores, dim=1).topk(2, dim=-1).values
        self.check.close(name, (best[..., 0] - best[..., 1]).min(), recorded, 1e-3)


class WarpedProbabilities(TextModel):
    kinds = ("warped_probs",)

    @compares("probs")
    def probabilities(self, name: str, recorded: torch.Tensor) -> None:
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
        self.close(name, output.scores[0].softmax(dim=-1), recorded)


class ChatTemplate(TextModel):
    kinds = ("chat_template",)

    @compares("text|ids_fast_tokenizer|ids_apply_chat_template_tokenize_true")
    def rendered(self, name: str, recorded: Any) -> None:
        messages, prompts = self.given("messages"), bool(self.given("add_generation_prompt"))

        def render(**options: Any) -> Any:
            return self.tokenizer.apply_chat_template(
                messages, add_generation_prompt=prompts, **options
            )

        text = render(tokenize=False)
        found = {
            "text": lambda: text,
            "ids_fast_tokenizer": lambda: self.tokenizer(text)["input_ids"],
            "ids_apply_chat_template_tokenize_true": lambda: render(
                tokenize=True, return_dict=False
            ),
        }
        self.check.equal(name, found[name](), recorded)


class Tokenize(TextModel):
    kinds = ("tokenize",)

    @compares("ids_fast|decode_fast|decode_fast_skip")
    def string(self, name: str, recorded: Any) -> None:
        ids = self.tokenizer(self.given("text"))["input_ids"]
        found = ids
        if name != "ids_fast":
            skips = name.endswith("skip")
            found = self.tokenizer.decode(
                ids, skip_special_tokens=skips, clean_up_tokenization_spaces=False
            )
        self.check.equal(name, found, recorded)


class Chat(TextModel):
    kinds = ("chat",)

    @cached_property
    def result(self) -> tuple[str, Any]:
        history, options = copy.deepcopy(self.given("history")), self.given("kwargs") or {}
        return self.model.chat(self.tokenizer, self.given("query"), history=history, **options)

    @compares("response|history")
    def answer(self, name: str, recorded: Any) -> None:
        response, history = self.result
        self.check.equal(name, response if name == "response" else history, recorded)
