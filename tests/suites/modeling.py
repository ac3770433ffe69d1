"""Our models as transformers' common suites want to see them; see docs/testing.md.

`run.py` puts this file into the unpacked source distribution of transformers, whose `tests/` hold
the suites: `ModelTesterMixin` and its companions ask a `model_tester` for a tiny config and inputs.
No test is skipped here; what a suite skips, it skips for every model of this kind.
"""

import inspect
import unittest
from unittest import mock

import torch
from transformers.modeling_utils import PreTrainedModel
from transformers.models.auto import modeling_auto

import minicpmv.auto  # noqa: F401
from minicpmv.model.configuration import (
    MiniCPMVConfig,
    MiniCPMVVisionConfig,
    MiniCPMVViTConfig,
    OmniLMMConfig,
)
from minicpmv.model.configuration_minicpm import MiniCPMConfig
from minicpmv.model.minicpm import (
    MiniCPMForCausalLM,
    MiniCPMForSequenceClassification,
    MiniCPMModel,
)
from minicpmv.model.modeling import (
    MiniCPMVForConditionalGeneration,
    MiniCPMVModel,
    OmniLMMForConditionalGeneration,
    OmniLMMModel,
)
from minicpmv.model.vision import MiniCPMVVisionModel
from minicpmv.model.vit import MiniCPMVViTModel
from minicpmv.releases import RELEASES

from ... import test_tensor_parallel_mixin
from ...generation.test_utils import GenerationTesterMixin
from ...test_configuration_common import ConfigTester
from ...test_modeling_common import ModelTesterMixin, floats_tensor, ids_tensor
from ...test_training_mixin import TrainingTesterMixin

# The suites look these names up, as if we were part of transformers.
modeling_auto.MODEL_MAPPING_NAMES["minicpmv"] = "MiniCPMVModel"
modeling_auto.MODEL_MAPPING_NAMES["minicpmv_vision"] = "MiniCPMVVisionModel"
modeling_auto.MODEL_MAPPING_NAMES["minicpmv_vit"] = "MiniCPMVViTModel"
modeling_auto.MODEL_MAPPING_NAMES["omnilmm"] = "OmniLMMModel"
modeling_auto.MODEL_MAPPING_NAMES["minicpm"] = "MiniCPMModel"
modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES["minicpm"] = "MiniCPMForCausalLM"
modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES["minicpm"] = (
    "MiniCPMForSequenceClassification"
)
for mapping in (
    modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    modeling_auto.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
):
    mapping["minicpmv"] = "MiniCPMVForConditionalGeneration"
    mapping["omnilmm"] = "OmniLMMForConditionalGeneration"
# The suite's own list has a few model types only, to save time.
test_tensor_parallel_mixin.TP_DISTRIBUTED_TEST_MODEL_TYPES = None


def without_gpu(test):
    """A suite's test of weights on a GPU, the CPU and the disk, with the CPU in the GPU's place."""

    def run(self):
        load = PreTrainedModel.from_pretrained.__func__

        def load_on_cpu(cls, *args, max_memory=None, **kwargs):
            memory = None if max_memory is None else {"cpu": max_memory[0]}
            return load(cls, *args, max_memory=memory, **kwargs)

        with mock.patch.object(PreTrainedModel, "from_pretrained", classmethod(load_on_cpu)):
            inspect.unwrap(test)(self)

    return run


class OurModelTester(ModelTesterMixin):
    test_disk_offload_bin = without_gpu(ModelTesterMixin.test_disk_offload_bin)
    test_disk_offload_safetensors = without_gpu(ModelTesterMixin.test_disk_offload_safetensors)

    def check_device_map_is_respected(self, model, device_map):
        assert "disk" in device_map.values()
        for name, parameter in model.named_parameters():
            keys = [key for key in device_map if not key or f"{name}.".startswith(f"{key}.")]
            place = device_map[max(keys, key=len)]
            assert parameter.device.type == ("meta" if place == "disk" else "cpu")


PATCH_SIZE = 4
# Low ids: the suite that resizes embeddings clamps ids to a smaller vocabulary.
IMAGE, IMAGE_START, IMAGE_END, SLICE_START, SLICE_END = 3, 4, 5, 6, 7
FIRST_TEXT_ID = 8
SHAPES = [[3, 4], [2, 5], [4, 3], [1, 7], [2, 2], [5, 2], [3, 3]]  # no two neighbours alike


def padded_strips(sizes):
    """Random pixels, zero after a slice's own patches."""
    lengths = sizes.prod(dim=1).tolist()
    pixels = floats_tensor([len(sizes), 3, PATCH_SIZE, PATCH_SIZE * max(lengths)]) * 2 - 1
    for row, length in zip(pixels, lengths, strict=True):
        row[..., length * PATCH_SIZE :] = 0
    return pixels


class VisionTester:
    """The tower alone, on seven slices: one suite invents sizes when it gets fewer."""

    is_training = True
    batch_size = 7
    hidden_size, num_hidden_layers, num_attention_heads = 32, 2, 4
    patch_size, image_size = PATCH_SIZE, 10 * PATCH_SIZE
    seq_length = 12

    def __init__(self, parent, version):
        self.parent, self.release = parent, RELEASES[version]
        self.is_omnilmm = version == "omnilmm-12b"
        if self.is_omnilmm:
            self.seq_length += 1  # the class token

    def get_config(self):
        numbers = {
            "hidden_size": self.hidden_size,
            "intermediate_size": 37,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            "image_size": self.image_size,
            "patch_size": self.patch_size,
        }
        if self.release.vision_tower == "vit":
            flags = ("has_class_token", "omits_key_bias", "post_norm")
            return MiniCPMVViTConfig(**numbers, **dict.fromkeys(flags, self.is_omnilmm))
        return MiniCPMVVisionConfig(
            **numbers,
            positions=self.release.vision_positions,
            attend_padding=self.release.attend_padding,
        )

    def prepare_config_and_inputs_for_common(self):
        sizes = torch.tensor(SHAPES)
        inputs = {"pixel_values": padded_strips(sizes), "target_sizes": sizes}
        return self.get_config(), inputs


class ModelTester:
    """The whole model, on samples of an overview and detail slices of unlike sizes."""

    base_model_class = MiniCPMVModel
    conditional_generation_class = causal_lm_class = MiniCPMVForConditionalGeneration
    is_training = True
    batch_size = 3
    hidden_size, num_hidden_layers, num_attention_heads, vocab_size = 128, 2, 4, 99
    patch_size, image_size = PATCH_SIZE, 10 * PATCH_SIZE
    query_num = 4
    num_text_tokens = 5

    def __init__(self, parent, version, slices_per_sample, has_types):
        self.parent, self.version = parent, version
        self.slices_per_sample, self.has_types = slices_per_sample, has_types
        self.vision_config = VisionTester(parent, version).get_config()
        self.text_config = {
            "model_type": RELEASES[version].text_model_type,
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": 64,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            "num_key_value_heads": 2,
            "max_position_embeddings": 512,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 0,
        }
        if self.text_config["model_type"] == "minicpm":
            self.text_config |= {"scale_emb": 12, "scale_depth": 1.4, "dim_model_base": 64}
        self.config_class = OmniLMMConfig if version == "omnilmm-12b" else MiniCPMVConfig
        self.seq_length = slices_per_sample * (self.query_num + 2) + self.num_text_tokens

    def get_config(self):
        return self.config_class(
            version=self.version,
            text_config=dict(self.text_config),
            vision_config=self.vision_config.to_dict(),
            query_num=self.query_num,
            drop_vision_last_layer=False,
            image_token_id=IMAGE,
            image_start_id=IMAGE_START,
            image_end_id=IMAGE_END,
            slice_start_id=SLICE_START,
            slice_end_id=SLICE_END,
        )

    def prepare_config_and_inputs_for_common(self):
        num_slices = self.batch_size * self.slices_per_sample
        sizes = torch.tensor((SHAPES * 2)[:num_slices])
        tags = [(IMAGE_START, IMAGE_END)] + [(SLICE_START, SLICE_END)] * self.slices_per_sample
        prefix = []
        for start, end in tags[: self.slices_per_sample]:
            prefix += [start, *[IMAGE] * self.query_num, end]
        prefix = torch.tensor(prefix).expand(self.batch_size, -1)
        text = ids_tensor([self.batch_size, self.num_text_tokens], 80).cpu() + FIRST_TEXT_ID
        input_ids = torch.cat([prefix, text], dim=1)
        inputs = {
            "pixel_values": padded_strips(sizes),
            "target_sizes": sizes,
            "input_ids": input_ids,
            "attention_mask": torch.ones_like(input_ids),
        }
        if self.has_types:
            inputs["mm_token_type_ids"] = (input_ids == IMAGE).long()
        return self.get_config(), inputs


class WholeModel(
    OurModelTester,
    GenerationTesterMixin,
    test_tensor_parallel_mixin.TensorParallelTesterMixin,
    TrainingTesterMixin,
):
    all_model_classes = (MiniCPMVModel, MiniCPMVForConditionalGeneration)
    _is_composite = True
    model_tester = None
    version, slices_per_sample, has_types = "2.6", 2, True

    def setUp(self):
        self.model_tester = ModelTester(self, self.version, self.slices_per_sample, self.has_types)

    def test_config(self):
        ConfigTester(
            self,
            config_class=self.model_tester.config_class,
            has_text_modality=False,
            common_properties=[],
        ).run_common_tests()

    def test_reverse_loading_mapping(self):
        # Released names are those of the model with its head, as for llava.
        super().test_reverse_loading_mapping(skip_base_model=True)

    def _image_features_prepare_config_and_inputs(self):
        # The suite wants one entry per image and as many images as samples. Our entries are slices.
        tester = ModelTester(self, self.version, 1, self.has_types)
        config, inputs = tester.prepare_config_and_inputs_for_common()
        return config, {name: inputs[name] for name in ("pixel_values", "target_sizes")}


class MiniCPMV26Test(WholeModel, unittest.TestCase):
    pass


class MiniCPMV26ByTagsTest(WholeModel, unittest.TestCase):
    has_types = False


class MiniCPMV25Test(WholeModel, unittest.TestCase):
    version = "2.5"


class MiniCPMV25ByTagsTest(WholeModel, unittest.TestCase):
    version, slices_per_sample, has_types = "2.5", 1, False


class MiniCPMV20Test(WholeModel, unittest.TestCase):
    version = "2.0"


class MiniCPMV10Test(WholeModel, unittest.TestCase):
    version, slices_per_sample = "1.0", 1


class OmniLMMTest(WholeModel, unittest.TestCase):
    all_model_classes = (OmniLMMModel, OmniLMMForConditionalGeneration)
    version, slices_per_sample, has_types = "omnilmm-12b", 1, False

    def setUp(self):
        super().setUp()
        self.model_tester.base_model_class = OmniLMMModel
        self.model_tester.conditional_generation_class = OmniLMMForConditionalGeneration
        self.model_tester.causal_lm_class = OmniLMMForConditionalGeneration


class Tower(OurModelTester):
    all_model_classes = (MiniCPMVVisionModel,)
    additional_model_inputs = ("target_sizes",)
    test_resize_embeddings = False  # a tower has no vocabulary
    version = "2.6"

    def setUp(self):
        self.model_tester = VisionTester(self, self.version)

    def test_config(self):
        ConfigTester(
            self, config_class=type(self.model_tester.get_config()), has_text_modality=False
        ).run_common_tests()

    def test_model_get_set_embeddings(self):
        # The suite expects a table of tokens; a tower embeds patches.
        model = self.all_model_classes[0](self.model_tester.get_config())
        assert isinstance(model.get_input_embeddings(), torch.nn.Conv2d)
        assert model.get_output_embeddings() is None


class MiniCPMV26TowerTest(Tower, unittest.TestCase):
    pass


class MiniCPMV25TowerTest(Tower, unittest.TestCase):
    version = "2.5"


class MiniCPMV20TowerTest(Tower, unittest.TestCase):
    all_model_classes = (MiniCPMVViTModel,)
    version = "2.0"


class OmniLMMTowerTest(Tower, unittest.TestCase):
    all_model_classes = (MiniCPMVViTModel,)
    version = "omnilmm-12b"


class TextTester:
    """A language model, on text alone."""

    base_model_class, causal_lm_class = MiniCPMModel, MiniCPMForCausalLM
    is_training = True
    batch_size, seq_length = 3, 7
    hidden_size, num_hidden_layers, num_attention_heads, vocab_size = 128, 2, 4, 99

    def __init__(self, parent, changes):
        self.parent, self.changes = parent, changes

    def get_config(self):
        return MiniCPMConfig(
            vocab_size=self.vocab_size,
            hidden_size=self.hidden_size,
            intermediate_size=96,
            num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads,
            num_key_value_heads=2,
            max_position_embeddings=512,
            scale_emb=12,
            scale_depth=1.4,
            dim_model_base=64,
            initializer_range=0.03,  # wider, and bfloat16 sends tokens to other experts
            pad_token_id=0,
            **self.changes,
        )

    def prepare_config_and_inputs_for_common(self):
        shape = [self.batch_size, self.seq_length]
        input_ids = ids_tensor(shape, 80).cpu() + FIRST_TEXT_ID
        return self.get_config(), {
            "input_ids": input_ids,
            "attention_mask": torch.ones_like(input_ids),
        }


class Text(
    OurModelTester,
    GenerationTesterMixin,
    test_tensor_parallel_mixin.TensorParallelTesterMixin,
    TrainingTesterMixin,
):
    all_model_classes = (MiniCPMModel, MiniCPMForCausalLM, MiniCPMForSequenceClassification)
    changes = {}

    def setUp(self):
        self.model_tester = TextTester(self, self.changes)

    def test_config(self):
        ConfigTester(
            self, config_class=MiniCPMConfig, hidden_size=32, num_attention_heads=4
        ).run_common_tests()

    # The suite expects RuntimeError of a tensor of a wrong shape; here it is a ValueError, like
    # every other difference between a checkpoint and its config. In these two tests alone.

    def test_load_with_mismatched_shapes(self):
        with self._value_error_for_runtime_error():
            super().test_load_with_mismatched_shapes()

    def test_can_load_ignoring_mismatched_shapes(self):
        with self._value_error_for_runtime_error():
            super().test_can_load_ignoring_mismatched_shapes()

    def _value_error_for_runtime_error(self):
        asserts = self.assertRaises

        def raises(expected, *args, **kwargs):
            return asserts(ValueError if expected is RuntimeError else expected, *args, **kwargs)

        return mock.patch.object(self, "assertRaises", raises)


class DenseText(Text):
    def test_output_router_logits_from_config(self):
        # One output class serves both kinds, and a dense model has no routers.
        config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        assert not MiniCPMModel(config)(**inputs, output_router_logits=True).router_logits


class MiniCPMTest(DenseText, unittest.TestCase):
    pass


class MiniCPMUntiedTest(DenseText, unittest.TestCase):
    changes = {
        "tie_word_embeddings": False,
        "rope_scaling": {"type": "dynamic", "factor": 4.0},
    }


class MiniCPMMoETest(Text, unittest.TestCase):
    changes = {"num_experts": 4, "num_experts_per_tok": 2}
