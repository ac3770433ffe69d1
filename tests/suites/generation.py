"""`GenerationTesterMixin`, written after the interface that transformers documents for `generate`.

The source distribution imports the mixin from `tests/generation/test_utils.py` and does not carry
that file. A class that mixes this in has `model_tester.prepare_config_and_inputs_for_common()` and
`all_generative_model_classes`; every test below runs `generate` of each of them.
"""

import copy

import pytest
import torch
from transformers import DynamicCache, StaticCache, StoppingCriteria, StoppingCriteriaList
from transformers.generation import (
    GenerateBeamDecoderOnlyOutput,
    GenerateDecoderOnlyOutput,
    LogitsProcessor,
    LogitsProcessorList,
)
from transformers.testing_utils import torch_device

NEW = 5


class GenerationTesterMixin:
    """Greedy, sampled, beam and assisted generation, with every cache and way of giving inputs."""

    input_name = "input_ids"

    def _models(self):
        """Each generating class with a tiny config, and inputs for it."""
        for model_class in self.all_generative_model_classes:
            torch.manual_seed(0)
            config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
            config.get_text_config().eos_token_id = None
            model = model_class(config).to(torch_device).eval()
            model.generation_config.eos_token_id = None
            model.generation_config.pad_token_id = 0
            inputs = {
                name: value.to(torch_device) if torch.is_tensor(value) else value
                for name, value in self._prepare_for_class(inputs, model_class).items()
            }
            yield model, inputs

    def _generate(self, model, inputs, **options):
        settings = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False} | options
        return model.generate(**copy.deepcopy(inputs), **settings)

    def _check_outputs(self, output, inputs, model, num_sequences=1):
        """Lengths of everything that `generate` returns beside ids."""
        rows, length = inputs["input_ids"].shape
        vocabulary = model.config.get_text_config().vocab_size
        assert output.sequences.shape == (rows * num_sequences, length + NEW)
        assert len(output.scores) == NEW
        assert len(output.logits) == NEW
        assert output.scores[0].shape[-1] == vocabulary
        assert len(output.hidden_states) == NEW
        num_layers = model.config.get_text_config().num_hidden_layers
        for step in output.hidden_states:
            assert len(step) == num_layers + 1

    _all = {
        "return_dict_in_generate": True,
        "output_scores": True,
        "output_logits": True,
        "output_hidden_states": True,
    }

    def test_greedy_generate(self):
        for model, inputs in self._models():
            output = self._generate(model, inputs)
            assert output.shape[1] == inputs["input_ids"].shape[1] + NEW

    def test_greedy_generate_dict_outputs(self):
        for model, inputs in self._models():
            output = self._generate(model, inputs, **self._all)
            assert isinstance(output, GenerateDecoderOnlyOutput)
            self._check_outputs(output, inputs, model)
            again = self._generate(model, inputs, use_cache=False)
            assert torch.equal(output.sequences, again)

    def test_greedy_is_the_likeliest_token_of_forward(self):
        for model, inputs in self._models():
            output = self._generate(model, inputs, max_new_tokens=1, min_new_tokens=1)
            with torch.no_grad():
                expected = model(**inputs).logits[:, -1].argmax(dim=-1)
            assert torch.equal(output[:, -1], expected)

    def test_sample_generate(self):
        for model, inputs in self._models():
            drawn = []
            for _ in range(2):
                torch.manual_seed(3)
                drawn.append(self._generate(model, inputs, do_sample=True, top_k=0))
            assert torch.equal(*drawn)

    def test_sample_generate_dict_output(self):
        for model, inputs in self._models():
            options = {**self._all, "do_sample": True, "num_return_sequences": 2}
            output = self._generate(model, inputs, **options)
            assert isinstance(output, GenerateDecoderOnlyOutput)
            self._check_outputs(output, inputs, model, num_sequences=2)

    def test_beam_search_generate(self):
        for model, inputs in self._models():
            output = self._generate(model, inputs, num_beams=3)
            assert output.shape[1] == inputs["input_ids"].shape[1] + NEW

    def test_beam_search_generate_dict_output(self):
        for model, inputs in self._models():
            options = {**self._all, "num_beams": 3, "num_return_sequences": 2}
            output = self._generate(model, inputs, **options)
            assert isinstance(output, GenerateBeamDecoderOnlyOutput)
            self._check_outputs(output, inputs, model, num_sequences=2)
            uncached = self._generate(model, inputs, use_cache=False, **options)
            assert torch.equal(output.sequences, uncached.sequences)
            torch.testing.assert_close(output.sequences_scores, uncached.sequences_scores)

    def test_beam_sample_generate(self):
        for model, inputs in self._models():
            output = self._generate(model, inputs, num_beams=2, do_sample=True)
            assert output.shape[1] == inputs["input_ids"].shape[1] + NEW

    def _row(self, inputs):
        """The first sample alone, with its own slices."""
        rows = len(inputs["input_ids"])
        return {
            name: value[: len(value) // rows] if torch.is_tensor(value) else value
            for name, value in inputs.items()
        }

    def test_assisted_decoding_matches_greedy_search(self):
        for model, inputs in self._models():
            inputs = self._row(inputs)
            greedy = self._generate(model, inputs)
            assisted = self._generate(model, inputs, assistant_model=copy.deepcopy(model))
            assert torch.equal(greedy, assisted)

    def test_prompt_lookup_decoding_matches_greedy_search(self):
        for model, inputs in self._models():
            inputs = self._row(inputs)
            looked_up = self._generate(model, inputs, prompt_lookup_num_tokens=2)
            assert torch.equal(self._generate(model, inputs), looked_up)

    def test_left_padding_compatibility(self):
        for model, inputs in self._models():
            padded = dict(inputs)
            for name, value in (("input_ids", 0), ("attention_mask", 0), ("mm_token_type_ids", 0)):
                if name in padded:
                    padded[name] = torch.nn.functional.pad(padded[name], (4, 0), value=value)
            found = self._generate(model, padded)[:, -NEW:]
            assert torch.equal(found, self._generate(model, inputs)[:, -NEW:])

    def test_generate_continue_from_past_key_values(self):
        for model, inputs in self._models():
            whole = self._generate(model, inputs)
            first = self._generate(
                model, inputs, max_new_tokens=2, min_new_tokens=2, return_dict_in_generate=True
            )
            grown = dict(inputs) | {"input_ids": first.sequences}
            for name, value in (("attention_mask", 1), ("mm_token_type_ids", 0)):
                if name in grown:
                    grown[name] = torch.nn.functional.pad(grown[name], (0, 2), value=value)
            for name in ("pixel_values", "target_sizes"):
                grown.pop(name, None)  # they are in the cache
            rest = model.generate(
                **grown,
                past_key_values=first.past_key_values,
                max_new_tokens=NEW - 2,
                min_new_tokens=NEW - 2,
                do_sample=False,
            )
            assert torch.equal(rest, whole)

    def test_generate_with_static_cache(self):
        for model, inputs in self._models():
            output = self._generate(
                model, inputs, cache_implementation="static", return_dict_in_generate=True
            )
            assert isinstance(output.past_key_values, StaticCache)
            assert torch.equal(output.sequences, self._generate(model, inputs))

    def test_past_key_values_format(self):
        for model, inputs in self._models():
            output = self._generate(model, inputs, return_dict_in_generate=True)
            text = model.config.get_text_config()
            assert isinstance(output.past_key_values, DynamicCache)
            assert len(output.past_key_values.layers) == text.num_hidden_layers
            head = text.hidden_size // text.num_attention_heads
            rows, length = inputs["input_ids"].shape
            shape = (rows, text.num_key_value_heads, length + NEW - 1, head)
            for layer in output.past_key_values.layers:
                assert layer.keys.shape == shape
                assert layer.values.shape == shape

    def test_generate_from_inputs_embeds(self):
        """Of text: the embeddings of the ids give the new tokens of the ids."""
        for model, inputs in self._models():
            ids = inputs["input_ids"][:, -5:]
            text = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
            embeds = {
                "inputs_embeds": model.get_input_embeddings()(ids).detach(),
                "attention_mask": text["attention_mask"],
            }
            new = self._generate(model, text)[:, -NEW:]
            assert torch.equal(self._generate(model, embeds)[:, -NEW:], new)

    def test_logits_processors_and_stopping_criteria(self):
        class Only(LogitsProcessor):
            def __call__(self, input_ids, scores):
                scores = torch.full_like(scores, -torch.inf)
                scores[:, 11] = 0.0
                return scores

        class AfterTwo(StoppingCriteria):
            def __init__(self, length):
                self.length = length

            def __call__(self, input_ids, scores, **kwargs):
                is_done = input_ids.shape[1] >= self.length
                return torch.full((len(input_ids),), is_done, device=input_ids.device)

        for model, inputs in self._models():
            length = inputs["input_ids"].shape[1]
            output = self._generate(
                model,
                inputs,
                logits_processor=LogitsProcessorList([Only()]),
                stopping_criteria=StoppingCriteriaList([AfterTwo(length + 2)]),
            )
            assert output[:, length:].unique().tolist() == [11]
            assert output.shape[1] == length + 2

    def test_eos_token_ends_a_row_and_pads_it(self):
        for model, inputs in self._models():
            length = inputs["input_ids"].shape[1]
            first = int(self._generate(model, inputs)[0, length])
            output = model.generate(
                **inputs, max_new_tokens=NEW, do_sample=False, eos_token_id=first, pad_token_id=0
            )
            assert output[0, length:].tolist() == [first] + [0] * (output.shape[1] - length - 1)

    def test_model_kwargs_that_nobody_reads_are_refused(self):
        for model, inputs in self._models():
            with pytest.raises(ValueError, match="not_a_keyword"):
                self._generate(model, inputs, not_a_keyword=1)

    def test_low_precision_generates(self):
        for model, inputs in self._models():
            half = {
                name: value.bfloat16()
                if torch.is_tensor(value) and value.is_floating_point()
                else value
                for name, value in inputs.items()
            }
            output = self._generate(model.bfloat16(), half)
            assert output.shape[1] == inputs["input_ids"].shape[1] + NEW
