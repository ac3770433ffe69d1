"""Replay of tables: sizes and their cuts, pictures and their strips, position tables, resizing."""

import re
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image

from minicpmv.model.positions import position_buckets, sincos_positions
from minicpmv.processing.slicing import SlicePlan, plan_slices

from .comparison import sha256
from .replayer import Replay, compares

CUT = "best_grid|source_size|refine_size|slice_size|n_rows|n_cols"


class _Cut(Replay):
    """The plan for one size."""

    def _plan(self, width: int, height: int, limit: int | None) -> SlicePlan:
        images = self.released.processor.image_processor
        return plan_slices(
            height,
            width,
            max_slices=images.max_slice_nums if limit is None else limit,
            scale_resolution=self.given("scale_resolution", images.scale_resolution),
            patch_size=self.given("patch_size", images.patch_size),
        )

    def compare_cut(self, name: str, recorded: Any, plan: SlicePlan, what: str) -> None:
        rows, cols = plan.grid or (0, 0)
        pairs = {
            "best_grid": plan.grid,
            "source_size": plan.overview,
            "refine_size": plan.refined,
            "slice_size": plan.cell,
        }
        turned = {key: pair and [pair[1], pair[0]] for key, pair in pairs.items()}
        self.check.equal(name, {**turned, "n_rows": rows, "n_cols": cols}[what], recorded)


class Sizes(_Cut):
    kinds = ("sizes",)

    @compares(rf"(\d+)x(\d+)/(\d+|None)/({CUT})")
    def size(self, name: str, recorded: Any, *groups: str) -> None:
        width, height, limit, what = groups
        plan = self._plan(int(width), int(height), None if limit == "None" else int(limit))
        self.compare_cut(name, recorded, plan, what)


class Picture(_Cut):
    """One picture at one limit of slices."""

    kinds = ("picture",)

    @cached_property
    def picture(self) -> Image.Image:
        return self.case.picture(f"{self.given('image')}.png")

    @cached_property
    def limit(self) -> int | None:
        return self.given("max_slice_nums")

    @cached_property
    def features(self) -> Any:
        return self.released.processor.image_processor(
            self.picture,
            max_slice_nums=self.limit,
            return_released_layout=True,
            return_tensors="pt",
        )

    @compares(CUT)
    def cut(self, name: str, recorded: Any) -> None:
        self.compare_cut(name, recorded, self._plan(*self.picture.size, self.limit), name)

    @compares("mode|size|n_slices|tgt_sizes|image_sizes|strips")
    def facts(self, name: str, recorded: Any) -> None:
        strips = self.features["pixel_values"][0]
        sizes = self.features["image_sizes"]
        found = {
            "mode": self.picture.mode,
            "size": list(self.picture.size),
            "n_slices": len(strips),
            "strips": len(strips),
            "tgt_sizes": self.features["tgt_sizes"][0].tolist(),
            "image_sizes": [[list(size) for size in sample] for sample in sizes],
        }
        self.check.equal(name, found[name], recorded)

    @compares("placeholder")
    def placeholder(self, name: str, recorded: str) -> None:
        number = re.search(r"<image_id>(\d+)", recorded)
        images, index = self.released.processor.image_processor, int(number[1]) if number else 0
        found = images.get_slice_image_placeholder(self.picture.size, index, self.limit)
        self.check.equal(name, found, recorded)

    @compares("crops")
    def crops(self, name: str, recorded: list[Any]) -> None:
        """Sizes of the cells: by rows, or one after the other."""
        images = self.released.processor.image_processor
        _, rows, _ = images.slice_image(images.process_image(self.picture), self.limit)
        cells = [[list(cell.size) for cell in row] for row in rows]
        is_nested = bool(recorded) and isinstance(recorded[0][0], list)
        self.check.equal(name, cells if is_nested else [s for row in cells for s in row], recorded)

    @compares(r"strip/(\d+)(?:/first\d+|/last\d+)?")
    def strip(self, name: str, recorded: Any, index: str) -> None:
        self.check.numbers(name, self.features["pixel_values"][0][int(index)], recorded, 1e-6)


class Tables(Replay):
    """Position buckets of the tower, and the resampler's positions."""

    kinds = ("tables",)

    @compares("tables/bucket_n|tables/bucket_values_concatenated")
    def buckets(self, name: str, recorded: torch.Tensor) -> None:
        counts = self.case.expected["tables/bucket_n"].tolist()
        side = self.released.model.model.vision_tower.embeddings.table_side
        found = [position_buckets(size, side) for size in counts]
        if name == "tables/bucket_n":
            self.check.equal(name, [len(buckets) for buckets in found], counts)
        else:
            self.check.equal(name, torch.cat(found).tolist(), recorded.tolist())

    @compares("tables/resampler_pos_yx|tables/resampler_pos_embed_at_yx")
    def positions(self, name: str, recorded: torch.Tensor) -> None:
        places = self.case.expected["tables/resampler_pos_yx"]
        table = self.case.expected["tables/resampler_pos_embed_at_yx"]
        row, column = places.unbind(1)
        half = table.shape[1] // 2
        found = torch.cat([sincos_positions(column, half), sincos_positions(row, half)], dim=-1)
        self.check.close(name, found, table, 1e-5)


class Resize(Replay):
    """Noise at another size, as the environment of the model cards makes it."""

    kinds = ("resize",)

    @compares(r"(\d+)x(\d+)-\d+")
    def noise(self, name: str, row: dict[str, Any], width: str, height: str) -> None:
        from minicpmv.processing.pixels import resize

        fields = {"seed", "width", "height", "new_width", "new_height", "sha256"}
        self.check.equal(f"{name}/fields", set(row), fields)
        shape = (int(height), int(width), 3)
        noise = np.random.default_rng(row["seed"]).integers(0, 256, shape, dtype=np.uint8)
        found = resize(Image.fromarray(noise), (row["new_height"], row["new_width"]))
        self.check.equal(name, sha256(torch.from_numpy(np.asarray(found).copy())), row["sha256"])
