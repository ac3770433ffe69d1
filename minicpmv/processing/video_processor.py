"""Video for transformers' Auto classes: frames, each sliced like an image.

Released checkpoints have no video processor; `AutoVideoProcessor`, which pipelines call, would
therefore offer to run their remote code. This class does not need torchvision.
"""

from itertools import chain
from typing import Any

from transformers.image_processing_utils import BatchFeature

from .batching import default_frame_slices, videos_as_frames
from .image_processor import MiniCPMVImageProcessorPil


class MiniCPMVVideoProcessor(MiniCPMVImageProcessorPil):
    """Slices of the frames of videos, one row each, in order."""

    def __call__(self, videos: Any, **kwargs: Any) -> BatchFeature:
        return self.preprocess(videos, **kwargs)

    def preprocess(
        self,
        images: Any,
        *,
        num_frames: int | None = None,
        fps: float | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """As for images; here `images` is a video (a file, or a list of frames), or a list of them.

        `max_slice_nums` is 2 by default, and 1 when the longest video has more than 16 frames, as
        published for 2.6. `num_frames` and `fps` choose frames as `VideoFile` says.
        """
        samples = videos_as_frames(images, num_frames=num_frames, fps=fps)
        listed = [video for sample in samples for video in sample]
        longest = max((len(video) for video in listed), default=0)
        if self.max_slice_nums is not None:
            kwargs.setdefault("max_slice_nums", default_frame_slices(longest, self.max_slice_nums))
        return super().preprocess(listed, **kwargs)

    def _preprocess_image_like_inputs(self, images: Any, *args: Any, **kwargs: Any) -> BatchFeature:
        # Frames of a file are decoded one at a time.
        return self._preprocess([chain.from_iterable(images)], **kwargs)

    def to_dict(self) -> dict[str, Any]:
        written = super().to_dict()
        written["video_processor_type"] = written.pop("image_processor_type")
        return written
