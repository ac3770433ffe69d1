"""Video for transformers' Auto classes: frames, each sliced like an image.

Released checkpoints have no video processor; `AutoVideoProcessor`, which pipelines call, would
therefore offer to run their remote code. This one needs neither torchvision nor a decoder: a video
is a list of frames.
"""

from typing import Any

from transformers.image_processing_utils import BatchFeature

from .image_processor import MiniCPMVImageProcessorPil
from .samples import default_frame_slices, videos_as_frames


class MiniCPMVVideoProcessor(MiniCPMVImageProcessorPil):
    """Slices of the frames of videos, one row each, in order."""

    def preprocess(self, images: Any, **kwargs: Any) -> BatchFeature:
        """As for images; here `images` is a video, that is a list of frames, or a list of them.

        `max_slice_nums` is 2 by default, and 1 when the longest video has more than 16 frames, as
        published for 2.6.
        """
        listed = [video for sample in videos_as_frames(images) for video in sample]
        longest = max((len(video) for video in listed), default=0)
        if self.max_slice_nums is not None:
            kwargs.setdefault("max_slice_nums", default_frame_slices(longest, self.max_slice_nums))
        return super().preprocess([frame for video in listed for frame in video], **kwargs)

    def to_dict(self) -> dict[str, Any]:
        written = super().to_dict()
        written["video_processor_type"] = written.pop("image_processor_type")
        return written
