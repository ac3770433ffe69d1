"""Our image processor, as transformers' common suite of image processors wants to see it."""

import unittest

import minicpmv.auto  # noqa: F401
from minicpmv.processing.image_processor import MiniCPMVImageProcessor
from minicpmv.processing.slicing import plan_slices

from ...test_image_processing_common import ImageProcessingTester, ImageProcessingTestMixin


class Tester(ImageProcessingTester):
    """Pictures of 30 to 400 pixels, which are not cut: one row each, and as long as the longest."""

    def __init__(self, parent, version):
        super().__init__(parent)
        self.version = version

    def _get_image_processing_classes(self):
        return {"pil": MiniCPMVImageProcessor}

    def prepare_image_processor_dict(self):
        return {"version": self.version}

    def expected_output_image_shape(self, images):
        lengths = []
        for image in images:
            if hasattr(image, "size") and isinstance(image.size, tuple):
                width, height = image.size
            else:
                shape = tuple(image.shape)
                height, width = shape[:2] if shape[-1] in (1, 3, 4) else shape[-2:]
            plan = plan_slices(height, width, max_slices=9, scale_resolution=448, patch_size=14)
            lengths.append(plan.overview[0] // 14 * (plan.overview[1] // 14))
        return self.num_channels, 14, 14 * max(lengths)


class ImageProcessor(ImageProcessingTestMixin):
    version = "2.6"

    def setUp(self):
        self.image_processor_tester_class = lambda parent: Tester(parent, self.version)
        super().setUp()

    def test_new_models_require_torchvision_backend(self):
        # Pillow's pixels are what the released models saw (docs/differences.md): no other backend.
        assert list(self.image_processing_classes) == ["pil"]


class MiniCPMV26ImageProcessorTest(ImageProcessor, unittest.TestCase):
    pass


class MiniCPMV25ImageProcessorTest(ImageProcessor, unittest.TestCase):
    version = "2.5"


class MiniCPMV20ImageProcessorTest(ImageProcessor, unittest.TestCase):
    version = "2.0"
