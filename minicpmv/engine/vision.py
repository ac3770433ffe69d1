"""The slices of a picture to features, a few at a time, so that running answers go on between."""

from collections.abc import Iterator
from typing import Any

import torch

from .compiled import CompiledFunctions
from .tower import PlainTower

# On a CPU: a slice of 448 x 448 pixels in patches of 14; more for a tower smaller than those of
# the releases, up to a picture of 9 slices and its overview.
_PATCHES_ON_CPU = 1024
_LARGE_TOWER = 400_000_000  # parameters
_MOST_ON_CPU = 10 * 1024
_PATCHES_ELSEWHERE = 32 * 1024  # 1344 x 1344 pixels, its overview included, three times over


class VisionEncoder:
    """Features of slices as `model.get_image_features` gives them, whichever class it is.

    A piece has slices of equally many patches only: they need neither padding nor a mask, and so
    take the fastest attention of every device.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._config = model.config.vision_config
        # Where padding takes part in attention (release 2.5), its amount counts.
        self._attends_padding = bool(getattr(self._config, "attend_padding", False))
        self._tower = PlainTower(model) if PlainTower.takes(model) else None
        self._budget = self._patches_of_a_piece()

    def _patches_of_a_piece(self) -> int:
        """About as much work as the released towers have with one slice."""
        if self._model.device.type != "cpu":
            return _PATCHES_ELSEWHERE
        config = self._config
        of_layer = config.hidden_size * (4 * config.hidden_size + 2 * config.intermediate_size)
        most = _PATCHES_ON_CPU * _LARGE_TOWER // (config.num_hidden_layers * of_layer)
        return max(_PATCHES_ON_CPU, min(int(most), _MOST_ON_CPU))

    def is_small(self) -> bool:
        """Whether it is a plain tower on a CPU, and smaller than those of the releases."""
        tower = self._tower
        return tower is not None and self._budget > _PATCHES_ON_CPU and tower.is_usable()

    def piece_of(self, target_sizes: torch.Tensor) -> int:
        """How many of the slices, from the first on, make the next piece: at least one.

        Args:
            target_sizes: (num_slices, 2), height and width in patches of what is to be encoded.
        """
        num_patches = target_sizes.prod(dim=1).tolist()
        most = max(1, self._budget // max(1, num_patches[0]))
        equal = (index for index, number in enumerate(num_patches) if number != num_patches[0])
        return min(next(equal, len(num_patches)), most)

    def pieces(
        self, pixel_values: torch.Tensor, target_sizes: torch.Tensor, longest: int | None = None
    ) -> Iterator[torch.Tensor]:
        """The features of `encode`, piece by piece, each when it is asked for."""
        start = 0
        while start < len(target_sizes):
            end = start + self.piece_of(target_sizes[start:])
            yield self._features(pixel_values[start:end], target_sizes[start:end], longest)
            start = end

    def encode(
        self, pixel_values: torch.Tensor, target_sizes: torch.Tensor, longest: int | None = None
    ) -> torch.Tensor:
        """Features of slices: (num_slices, query_num, hidden).

        Args:
            pixel_values: (num_slices, channels, patch_size, patch_size * max_patches), zero-padded.
            target_sizes: (num_slices, 2), height and width of each slice in patches.
            longest: patches of the longest slice of the prompt, which all slices are padded to
                where padding takes part in attention. None: of these slices.

        Raises:
            ValueError: the inputs disagree about the number of slices or patches.
        """
        if self._attends_padding and longest is None:
            longest = int(target_sizes.prod(dim=1).max())
        return torch.cat(list(self.pieces(pixel_values, target_sizes, longest)))

    def _features(
        self, pixel_values: torch.Tensor, target_sizes: torch.Tensor, longest: int | None
    ) -> torch.Tensor:
        num_patches = target_sizes.prod(dim=1)
        patches = int(num_patches.max())
        own = pixel_values[..., : patches * self._config.patch_size].to(self._model.device)
        if self._tower is not None and longest in (None, patches) and self._tower.is_usable():
            return self._tower.encode(own, target_sizes, patches)
        arguments = {}
        if self._attends_padding and longest is not None:
            arguments["row_lengths"] = torch.full_like(num_patches, longest)
        with CompiledFunctions():
            features: torch.Tensor = self._model.get_image_features(
                own, target_sizes, return_dict=True, **arguments
            ).pooler_output
        return features
