"""`minicpmv slice`: how a picture is cut, as a table and as a picture.

Arithmetic and pixels only; no weights are loaded, nor torch.
"""

import argparse
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minicpmv.checkpoint.hub import Checkpoint
from minicpmv.processing.placeholders import image_placeholder
from minicpmv.processing.slicing import SlicePlan, plan_slices, plan_uncut
from minicpmv.releases import VISION_TYPES, model_type_of, release_of

from .attachments import read_picture
from .usage import UsageError

if TYPE_CHECKING:
    from PIL import Image

DESCRIPTION = """\
Show how a picture is cut into slices and how many tokens it costs. Sizes are height x width.

The settings come from the model's preprocessor_config.json, or config.json where the release has no
such file; its weights are not loaded.
"""

EPILOG = """\
examples:
  minicpmv slice street.jpg
  minicpmv slice street.jpg --out cut.png
  minicpmv slice street.jpg -m openbmb/MiniCPM-V-2_6 --max-slice-nums 4
"""


def add_parser(subparsers: "argparse._SubParsersAction") -> None:
    parser = subparsers.add_parser(
        "slice",
        usage="minicpmv slice [options] FILE",
        description=DESCRIPTION,
        epilog=EPILOG,
    )
    parser.add_argument("file", metavar="FILE", help="a picture: path, URL, or - for stdin")
    parser.add_argument(
        "-m", "--model", default="nano", help="folder, name on the hub, or nano (the default)"
    )
    parser.add_argument("--revision", help="branch, tag or commit on the hub")
    parser.add_argument(
        "--max-slice-nums",
        type=int,
        metavar="N",
        help="most cells a picture is cut into; 1 does not cut (default: the model's)",
    )
    parser.add_argument("--out", metavar="FILE", help="draw the cut into this picture file")
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object instead of the table"
    )


def run(args: argparse.Namespace) -> None:
    from minicpmv.media.image import to_rgb

    if args.max_slice_nums is not None and args.max_slice_nums < 1:
        raise UsageError(f"--max-slice-nums is {args.max_slice_nums}; it must be at least 1.")
    if args.out is not None:
        _check_out(args.out, args.file)
    settings = Settings.read(args.model, args.revision)
    picture = to_rgb(read_picture(args.file))
    max_slices = settings.max_slice_nums if args.max_slice_nums is None else args.max_slice_nums
    cost = plan_cost(picture.height, picture.width, max_slices, settings)
    if args.out:
        draw_cut(picture, cost.plan).save(args.out)
    if args.json:
        report = {"file": args.file, "model": args.model, "max_slice_nums": max_slices}
        print(json.dumps(report | cost.as_dict(), ensure_ascii=False))
    else:
        title = f"{args.file}: {picture.height} x {picture.width} pixels (height x width)"
        limits = slice_limits(settings.scale_resolution, max_slices, settings.image_size)
        print(f"{title}\n{args.model}: {limits}\n\n{cost.table()}")


def _check_out(out: str, file: str) -> None:
    """The drawing is never written over the picture, nor in a format that is no picture's."""
    from PIL import Image

    if file != "-" and Path(out).resolve() == Path(file).resolve():
        raise UsageError(f"--out {out!r} is the picture itself; choose another name.")
    if Image.registered_extensions().get(Path(out).suffix.lower()) not in Image.SAVE:
        raise UsageError(
            f"--out {out!r} does not end in a picture format; use .png, .jpg or .webp."
        )
    if not Path(out).parent.is_dir():
        raise OSError(f"--out {out!r}: there is no folder {str(Path(out).parent)!r}; make it.")


@dataclass(frozen=True)
class Settings:
    """What decides the cut and its text.

    `max_slice_nums` and `scale_resolution` are None for releases that make every picture a square
    of `image_size` pixels; `image_size` is None for the others.
    """

    patch_size: int
    num_queries: int
    max_slice_nums: int | None = None
    scale_resolution: int | None = None
    image_size: int | None = None
    slice_mode: bool = True
    use_image_id: bool = False
    tag_every_slice: bool = False
    pads_uncut: bool = False

    @classmethod
    def read(cls, model: str, revision: str | None) -> "Settings":
        """Read the settings of a model.

        Raises:
            ValueError: a field is missing, or the model takes no pictures.
            OSError: there is no such model or file.
        """
        checkpoint = Checkpoint.find(model, revision=revision)
        file = "preprocessor_config.json"
        if checkpoint.find_file(file) is not None:
            config = checkpoint.read_json(file)
        else:
            config, file = _settings_elsewhere(checkpoint, file), "config.json"
        release = release_of(config)
        names = ["max_slice_nums", "scale_resolution"]
        names = ["image_size"] if release.slicing == "square" else names
        names += ["patch_size", "image_feature_size"]
        missing = [name for name in names if name not in config]
        if missing:
            raise ValueError(f"{file} of {model!r} lacks {', '.join(missing)}.")
        fields = {name: config[name] for name in names if name != "image_feature_size"}
        return cls(
            **fields,
            num_queries=config["image_feature_size"],
            slice_mode=config.get("slice_mode", True),
            use_image_id=config.get("use_image_id", release.use_image_id),
            tag_every_slice=release.slice_tags == "cell",
            pads_uncut=release.pads_uncut,
        )


def _settings_elsewhere(checkpoint: Checkpoint, missing: str) -> dict[str, Any]:
    """The settings in `config.json`, of a release whose repository has no file `missing`.

    Raises:
        OSError: there is no `config.json` either, or the release should have the file.
        ValueError: the model does not support images.
    """
    if checkpoint.find_file("config.json") is None:
        checkpoint.file(missing)  # names it
    config = checkpoint.read_json("config.json")
    if model_type_of(config) not in VISION_TYPES:
        raise ValueError(
            f"The model {checkpoint.location!r} reads text only, so there is nothing to cut."
        )
    release = release_of(config)
    if release.has_preprocessor_config:
        checkpoint.file(missing)
    return {
        "max_slice_nums": 9,
        "scale_resolution": 448,
        "patch_size": 14,
        "image_size": 448,
        "image_feature_size": config.get("query_num", config.get("num_query", 64)),
        **config,
        "version": release.version,
    }


@dataclass(frozen=True)
class Cost:
    """The cut of a picture of `size` (height, width) pixels, and its tokens."""

    size: tuple[int, int]
    plan: SlicePlan
    patch_size: int
    num_queries: int
    num_tag_tokens: int

    @property
    def num_visual_tokens(self) -> int:
        return self.plan.num_tokens(self.num_queries)

    @property
    def num_tokens(self) -> int:
        return self.num_visual_tokens + self.num_tag_tokens

    def as_dict(self) -> dict[str, Any]:
        plan = self.plan
        patches = plan.target_sizes(self.patch_size)
        return {
            "size": self.size,
            "grid": plan.grid,
            "overview": plan.overview,
            "refined": plan.refined,
            "cell": plan.cell,
            "num_slices": plan.num_slices,
            "slices": [
                {"size": size, "patches": cut}
                for size, cut in zip(plan.sizes, patches, strict=True)
            ],
            "tokens_per_slice": self.num_queries,
            "num_visual_tokens": self.num_visual_tokens,
            "num_tag_tokens": self.num_tag_tokens,
            "num_tokens": self.num_tokens,
        }

    def table(self) -> str:
        rows = [("", "slices", "pixels", "patches", "tokens")]
        for name, size, count in self._groups():
            height, width = (side // self.patch_size for side in size)
            patches = f"{height} x {width} = {height * width}"
            tokens = f"{count} x {self.num_queries} = {count * self.num_queries}"
            rows.append((name, str(count), f"{size[0]} x {size[1]}", patches, tokens))
        rows.append(("tags and newlines", "", "", "", str(self.num_tag_tokens)))
        rows.append(("total", str(self.plan.num_slices), "", "", str(self.num_tokens)))
        widths = [max(len(row[i]) for row in rows) for i in range(5)]
        lines = [
            "  ".join(
                [row[0].ljust(widths[0])]
                + [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
            ).rstrip()
            for row in rows
        ]
        if self.plan.grid and self.plan.cell:
            lines += ["", draw_grid(self.plan.grid, self.plan.cell)]
        return "\n".join(lines)

    def _groups(self) -> list[tuple[str, tuple[int, int], int]]:
        groups = [("overview", self.plan.overview, 1)]
        if self.plan.grid and self.plan.cell:
            rows, cols = self.plan.grid
            groups.append((f"grid of {rows} x {cols}", self.plan.cell, rows * cols))
        return groups


def slice_limits(
    scale_resolution: int | None, max_slices: int | None, image_size: int | None = None
) -> str:
    """What a model's settings mean for pictures, in words."""
    if image_size is not None:
        return f"squeezed into {image_size} x {image_size} pixels, never cut"
    assert max_slices is not None
    cut = f"and at most {max_slices} cells of about that size" if max_slices > 1 else "never cut"
    return f"an overview of about {scale_resolution} x {scale_resolution} pixels, {cut}"


def plan_cost(height: int, width: int, max_slices: int | None, settings: Settings) -> Cost:
    """Cut a picture of `height` x `width` pixels; count its tokens as the first of a prompt.

    Raises:
        UsageError: `max_slices` has no effect.
        ValueError: it is below 1.
    """
    plan = _plan(height, width, max_slices, settings)
    tags = image_placeholder(
        plan.grid,
        0,
        tag_every_slice=settings.tag_every_slice,
        image_id=0 if settings.use_image_id else None,
    )
    # Each tag, each digit of the image's number and each newline is one token.
    num_tag_tokens = len(re.findall(r"<[^>]+>|\d|\n", tags))
    size = (height, width)
    return Cost(size, plan, settings.patch_size, settings.num_queries, num_tag_tokens)


def _plan(height: int, width: int, max_slices: int | None, settings: Settings) -> SlicePlan:
    if settings.image_size is not None:
        if max_slices is not None:
            raise UsageError(
                "--max-slice-nums has no effect: the model squeezes every picture into one square."
            )
        return SlicePlan((settings.image_size, settings.image_size))
    if not settings.slice_mode:
        return plan_uncut(height, width, settings.patch_size, fill=settings.pads_uncut)
    assert max_slices is not None
    assert settings.scale_resolution is not None
    return plan_slices(
        height,
        width,
        max_slices=max_slices,
        scale_resolution=settings.scale_resolution,
        patch_size=settings.patch_size,
    )


def draw_grid(grid: tuple[int, int], cell: tuple[int, int]) -> str:
    """The cells of a grid in the order the model sees them, after slice 0, the overview.

    A letter of a terminal is about twice as high as wide.
    """
    rows, cols = grid
    inner = min(max(round(2 * 2 * cell[1] / cell[0]), 3), 12)
    border = "+" + f"{'-' * inner}+" * cols
    lines = [border]
    for row in range(rows):
        numbers = (str(row * cols + col + 1).center(inner) for col in range(cols))
        lines += ["|" + "|".join(numbers) + "|", border]
    return "\n".join(lines)


def draw_cut(picture: "Image.Image", plan: SlicePlan) -> "Image.Image":
    """The overview and, beside it, the cells of the grid with gaps between them, in true size."""
    from PIL import Image, ImageDraw, ImageFont

    from minicpmv.processing.pixels import cut

    gap = 14
    overview, *cells = cut(picture, plan)
    pieces = [(gap, gap, overview)]
    left = overview.width + 3 * gap
    for index, piece in enumerate(cells):
        assert plan.grid is not None
        row, col = divmod(index, plan.grid[1])
        pieces.append((left + col * (piece.width + gap), gap + row * (piece.height + gap), piece))
    size = (
        max(x + piece.width for x, _, piece in pieces) + gap,
        max(y + piece.height for _, y, piece in pieces) + gap,
    )
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(16)
    for index, (x, y, piece) in enumerate(pieces):
        sheet.paste(piece, (x, y))
        draw.rectangle((x - 1, y - 1, x + piece.width, y + piece.height), outline="black")
        label = draw.textbbox((x + 6, y + 4), str(index), font=font)
        draw.rectangle((label[0] - 4, label[1] - 3, label[2] + 4, label[3] + 3), fill="black")
        draw.text((x + 6, y + 4), str(index), fill="white", font=font)
    return sheet
