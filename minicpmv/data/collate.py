"""Rows of examples to the inputs of one forward pass.

Packed, the examples of all rows stand one behind another in a batch of one, without padding;
`cu_seq_lens_q` says where each begins, and attention stays inside of it. Padded, every example has
a line of its own: slower, and the reference that the tests compare with.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .encode import NO_TARGET, Example
from .pictures import PictureReader, PictureRef

if TYPE_CHECKING:
    from .prepared import Prepared


class Collator:
    """Makes batches for `forward`.

    Args:
        prepared: the examples by number: `Prepared`, or a list.
        processor: of the model.
        features: a `FeatureStore` that holds the features of every picture; None: pixels are made.
        packed: whether the examples share one line.
        packed: whether the examples share one line.
        idle_slice: whether a batch without pictures gets one blank slice, which no conversation
            shows. With several processes all must use the same modules.
        reader: opens the pictures.
    """

    def __init__(
        self,
        prepared: "Prepared | Sequence[Example]",
        processor: Any,
        features: Any = None,
        *,
        packed: bool = True,
        idle_slice: bool = False,
        reader: PictureReader | None = None,
    ) -> None:
        self.prepared = prepared
        self.processor = processor
        self.features = features
        self.packed = packed
        self.idle_slice = idle_slice
        self.reader = PictureReader() if reader is None else reader
        pad = processor.tokenizer.pad_token_id
        self.pad_id = int(processor.terminator_ids[0] if pad is None else pad)

    def __call__(self, rows: Sequence[Sequence[int]]) -> dict[str, Any]:
        """The batch of some rows of example numbers.

        Returns:
            input_ids, position_ids, shift_labels, labels, and mm_token_type_ids with pictures,
            loss_weights where an example has weights: (1, num_tokens), or (num_examples, longest)
            and attention_mask. `labels` are `shift_labels` moved right, for who counts them.
            Packed: cu_seq_lens_q, cu_seq_lens_k (num_examples + 1,) int32, max_length_q,
            max_length_k. With pictures: slices_per_sample (num_examples,), and pixel_values,
            patch_features or image_features with target_sizes. Packed examples that show the same
            pictures have them once, as both answers of a pair: then slices_per_sample counts for
            those examples alone that brought new ones, and slice_index (num_slices,) says which row
            is each slice of the prompts.
        """
        examples = [self.prepared[number] for row in rows for number in row]
        if not examples:
            examples = [self._empty()]
        batch = self._packed(examples) if self.packed else self._padded(examples)
        pictures = self._pictures(examples)
        if pictures:
            batch |= pictures
        else:
            del batch["mm_token_type_ids"]
        return batch

    def _packed(self, examples: Sequence[Example]) -> dict[str, Any]:
        lengths = [len(example.input_ids) for example in examples]
        borders = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
        columns = [_columns(example) for example in examples]
        batch: dict[str, Any] = {
            name: torch.cat([column[name] for column in columns])[None]
            for name in self._names(examples)
        }
        return batch | {
            "labels": _moved_right(batch["shift_labels"]),
            "cu_seq_lens_q": borders,
            "cu_seq_lens_k": borders,
            "max_length_q": max(lengths),
            "max_length_k": max(lengths),
        }

    def _padded(self, examples: Sequence[Example]) -> dict[str, Any]:
        columns = [_columns(example) for example in examples]
        fills: dict[str, float] = {"input_ids": self.pad_id, "shift_labels": NO_TARGET}
        batch: dict[str, Any] = {
            name: torch.nn.utils.rnn.pad_sequence(
                [column[name] for column in columns],
                batch_first=True,
                padding_value=fills.get(name, 0),
            )
            for name in self._names(examples)
        }
        ones = [torch.ones(len(example.input_ids), dtype=torch.long) for example in examples]
        return batch | {
            "labels": _moved_right(batch["shift_labels"]),
            "attention_mask": torch.nn.utils.rnn.pad_sequence(ones, batch_first=True),
        }

    def _names(self, examples: Sequence[Example]) -> list[str]:
        names = ["input_ids", "position_ids", "shift_labels", "mm_token_type_ids"]
        weighted = any(example.weights is not None for example in examples)
        return [*names, "loss_weights"] if weighted else names

    def _pictures(self, examples: Sequence[Example]) -> dict[str, Any]:
        """What the model is given of the pictures; nothing when there are none."""
        found: dict[str, Any] = {}
        if self.packed:
            others, places = _with_other_pictures(examples)
            if len(places) > sum(_num_slices(example) for example in others):
                examples = others
                found["slice_index"] = torch.tensor(places)
        refs = [ref for example in examples for ref in example.pictures]
        if not refs and not self.idle_slice:
            return {}
        found["slices_per_sample"] = torch.tensor([_num_slices(example) for example in examples])
        if not refs:
            return found | self._idle()
        if self.features is None:
            pixels, sizes = self.reader.pixels(self.processor, refs)
            return found | {"pixel_values": pixels, "target_sizes": sizes}
        stored = [
            self.features.get(ref, longest)
            for example in examples
            for longest in [_longest(example.pictures)]
            for ref in example.pictures
        ]
        if self.features.kind == "image_features":
            return found | {"image_features": torch.cat(stored)}
        sizes = torch.tensor([size for ref in refs for size in ref.target_sizes])
        return found | {"patch_features": _stacked(stored), "target_sizes": sizes}

    def _idle(self) -> dict[str, Any]:
        """One blank slice, in the form that the others have."""
        image_processor = self.processor.image_processor
        patch = image_processor.patch_size
        side = (image_processor.image_size or 2 * patch) // patch
        sizes = torch.tensor([[side, side]])
        if self.features is None:
            blank = torch.zeros(1, 3, patch, patch * side * side)
            return {"pixel_values": blank, "target_sizes": sizes}
        key, dtype = self.features.key, self.features.dtype
        if self.features.kind == "image_features":
            return {"image_features": torch.zeros(1, key["query_num"], key["width"], dtype=dtype)}
        blank = torch.zeros(1, side * side, key["width"], dtype=dtype)
        return {"patch_features": blank, "target_sizes": sizes}

    def _empty(self) -> Example:
        """What stands for a row without examples: one token of which nothing is learned."""
        one = torch.zeros(1, dtype=torch.int32).numpy()
        return Example(-1, 0, one + self.pad_id, one + NO_TARGET, one.astype("uint8"))


def _columns(example: Example) -> dict[str, Tensor]:
    length = len(example.input_ids)
    weights = example.weights
    return {
        "input_ids": torch.from_numpy(example.input_ids.astype("int64")),
        "position_ids": torch.arange(length),
        "shift_labels": torch.from_numpy(example.targets.astype("int64")),
        "mm_token_type_ids": torch.from_numpy(example.mm_token_type_ids.astype("int64")),
        "loss_weights": torch.ones(length)
        if weights is None
        else torch.from_numpy(weights.astype("float32")),
    }


def _moved_right(shift_labels: Tensor) -> Tensor:
    labels = torch.full_like(shift_labels, NO_TARGET)
    labels[:, 1:] = shift_labels[:, :-1]
    return labels


def _num_slices(example: Example) -> int:
    return sum(ref.num_slices for ref in example.pictures)


def _with_other_pictures(examples: Sequence[Example]) -> tuple[list[Example], list[int]]:
    """The examples that show other pictures than those before them, and for each slice of all
    examples its place among their slices.
    """
    starts: dict[Any, int] = {}
    others: list[Example] = []
    places: list[int] = []
    num_slices = 0
    for example in examples:
        key = tuple((ref.kind, *ref.cut) for ref in example.pictures)
        count = _num_slices(example)
        if key not in starts:
            starts[key] = num_slices
            num_slices += count
            others.append(example)
        places += range(starts[key], starts[key] + count)
    return others, places


def _longest(pictures: Sequence[PictureRef]) -> int:
    """Patches of the largest slice of a conversation, which others are padded to in release 2.5."""
    sizes = [height * width for ref in pictures for height, width in ref.target_sizes]
    return max(sizes, default=0)


def _stacked(features: Sequence[Tensor]) -> Tensor:
    """(num_slices, longest, width) of parts of other lengths, with zeros behind."""
    longest = max(part.shape[1] for part in features)
    return torch.cat(
        [torch.nn.functional.pad(part, (0, 0, 0, longest - part.shape[1])) for part in features]
    )
