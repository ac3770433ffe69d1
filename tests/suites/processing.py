"""Our processor, as transformers' common suite of processors wants to see it."""

import os
import unittest

from transformers import ProcessorMixin

import minicpmv.auto  # noqa: F401
from minicpmv.processing import MiniCPMVProcessor

from ...test_processing_common import ProcessorTesterMixin


class Processor(ProcessorTesterMixin):
    """A processor of a recorded checkpoint; `MINICPMV_GOLDEN` is the folder of them."""

    processor_class = MiniCPMVProcessor
    images_unstructured_max_length = 200  # a picture takes up to 64 tokens, a system text 40
    folder = ""

    @classmethod
    def setUpClass(cls):
        cls.model_id = os.path.join(os.environ["MINICPMV_GOLDEN"], cls.folder, "checkpoint")
        super().setUpClass()

    @classmethod
    def _setup_test_attributes(cls, processor):
        # What stands for a picture in the text; the suite calls it the image token.
        cls.image_token = processor.image_token

    @staticmethod
    def does_processor_return_mm_offsets(processor_class, method_name):
        # The suite compares with the first base, which is a mixin of ours.
        return getattr(processor_class, method_name) is not getattr(ProcessorMixin, method_name)


class MiniCPMV26ProcessorTest(Processor, unittest.TestCase):
    folder = "minicpm-v-2_6"


class MiniCPMV25ProcessorTest(Processor, unittest.TestCase):
    folder = "minicpm-llama3-v-2_5"


class MiniCPMV20ProcessorTest(Processor, unittest.TestCase):
    folder = "minicpm-v-2"


class OmniLMMProcessorTest(Processor, unittest.TestCase):
    folder = "omnilmm-12b"
