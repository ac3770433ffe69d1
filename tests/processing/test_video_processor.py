import torch
from transformers.models.auto.video_processing_auto import AutoVideoProcessor

import minicpmv.auto  # noqa: F401
from minicpmv.processing import MiniCPMVVideoProcessor

from ..helpers.golden import CHECKPOINTS
from ..helpers.pictures import picture


def test_frames_become_rows(version):
    video_processor = AutoVideoProcessor.from_pretrained(CHECKPOINTS[version])
    assert isinstance(video_processor, MiniCPMVVideoProcessor)
    frames = [picture(430, 760, seed) for seed in range(3)]
    one = video_processor(frames, return_tensors="pt")
    two = video_processor([frames[:1], frames[1:]], return_tensors="pt")
    assert torch.equal(one["pixel_values"], two["pixel_values"])
    cuts = video_processor.release.slicing == "adaptive"
    assert one["num_slices"] == [3 if cuts else 1] * 3
    many = video_processor([picture(430, 760)] * 17)
    assert many["num_slices"] == [1] * 17
    assert video_processor.to_dict()["video_processor_type"] == "MiniCPMVVideoProcessor"
