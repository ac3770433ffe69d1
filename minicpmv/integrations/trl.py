"""TRL's SFTTrainer with the tokens and targets of `minicpmv train sft`.

    collator = SFTCollator(processor)
    SFTTrainer(model, args, train_dataset=rows, processing_class=processor, data_collator=collator)

TRL's own collator trains on everything that is no padding: on the question and the placeholders of
pictures too, and on no terminator where the template writes none. `assistant_only_loss=True` and
rows of `prompt` and `completion` leave the questions out.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


class SFTCollator:
    """Rows of `messages`, or `prompt` and `completion`, with `image` or `images`, to a batch.

    Only answers and their terminators are trained; the targets are `shift_labels`, which TRL's loss
    takes, so that `loss_type` is to stay "nll" or "dft" and labels are not smoothed.

    Args:
        processor: of the model; of a text model `minicpmv.load(MODEL).processor`.
        max_length: the most tokens of a row; None: any number. `SFTConfig.max_length` is not read.
        cut: whether longer rows are cut on the right; otherwise they are errors.
        max_slice_nums: the most slices of a picture; None: as the image processor says.
        num_frames: of a video.
        fps: of a video.
        use_image_id: whether pictures are numbered; None: as the release does.
        image_folder: where relative paths of pictures begin.
    """

    def __init__(
        self,
        processor: Any,
        *,
        max_length: int | None = None,
        cut: bool = False,
        max_slice_nums: int | None = None,
        num_frames: int | None = None,
        fps: float | None = None,
        use_image_id: bool | None = None,
        image_folder: str | Path = ".",
    ) -> None:
        from ..data.encode import EncodeSettings
        from ..data.formats.hugging_face import HuggingFace
        from ..data.media_fields import MediaReader
        from ..data.pictures import PictureReader

        self.processor = processor
        self.settings = EncodeSettings(
            max_length, cut, max_slice_nums, num_frames, fps, use_image_id
        )
        self._format = HuggingFace()
        self._media = MediaReader(Path(image_folder).absolute())
        self._reader = PictureReader()

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The batch.

        Args:
            rows: of the dataset.

        Returns:
            input_ids, attention_mask, position_ids, labels, shift_labels (num_rows, longest),
            padded on the right, and with pictures mm_token_type_ids, pixel_values, target_sizes
            and slices_per_sample. A row whose answers cannot be trained together is several lines.

        Raises:
            DataError: a row cannot be trained on, with its place in the batch and its field.
        """
        from ..data.collate import Collator
        from ..data.encode import encode_conversation
        from ..data.faults import DataError
        from ..data.fields import RowError

        examples = []
        for number, row in enumerate(rows):
            given = {name: value for name, value in row.items() if value is not None}
            try:
                conversation = self._format.read_row(given, number, self._media)
            except RowError as error:
                raise DataError([error.fault(number)]) from None
            examples += encode_conversation(
                self.processor, conversation, self.settings, self._reader
            )
        collator = Collator(examples, self.processor, packed=False, reader=self._reader)
        return collator([list(range(len(examples)))])


__all__ = ["SFTCollator"]
