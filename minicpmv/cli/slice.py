"""`minicpmv slice`: how a picture is cut, as a table and as a picture.

Arithmetic and pixels only; no weights are loaded, nor torch.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from minicpmv.processing.cost import Cost, CutSettings, count_tag_tokens, plan_cost
from minicpmv.processing.slicing import SlicePlan

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
  minicpmv slice street.jpg -m openbmb/MiniCPM-V-2_6 --like llama.cpp
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
    parser.add_argument(
        "--like",
        choices=("llama.cpp",),
        help="also show how that program would cut the picture, and what differs",
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
    settings = CutSettings.read(args.model, args.revision)
    picture = to_rgb(read_picture(args.file))
    max_slices = settings.max_slice_nums if args.max_slice_nums is None else args.max_slice_nums
    cost = plan_cost(picture.height, picture.width, max_slices, settings)
    if args.out:
        draw_cut(picture, cost.plan).save(args.out)
    theirs = None if args.like is None else as_llama_cpp(cost, settings)
    if args.json:
        report = {"file": args.file, "model": args.model, "max_slice_nums": max_slices}
        if theirs is not None:
            cut, differences = theirs
            report[args.like] = cut.as_dict() | {"differences": differences}
        print(json.dumps(report | cost.as_dict(), ensure_ascii=False))
    else:
        title = f"{args.file}: {picture.height} x {picture.width} pixels (height x width)"
        limits = slice_limits(settings.scale_resolution, max_slices, settings.image_size)
        print(f"{title}\n{args.model}: {limits}\n\n{table(cost)}")
        if theirs is not None:
            cut, differences = theirs
            lines = [f"- {line}" for line in differences] or ["The same."]
            print(f"\nas llama.cpp cuts it:\n\n{table(cut)}\n\n" + "\n".join(lines))


def as_llama_cpp(ours: Cost, settings: CutSettings) -> tuple[Cost, list[str]]:
    """What the picture costs in llama.cpp, and how its slices differ from the model's own."""
    from minicpmv.processing.llama_cpp import differences, plan_like_llama_cpp

    if settings.scale_resolution is None or not settings.slice_mode:
        raise UsageError("--like llama.cpp is for releases that cut pictures: 2.5, 2.6 and nano.")
    height, width = ours.size
    theirs = plan_like_llama_cpp(
        height,
        width,
        scale_resolution=settings.scale_resolution,
        patch_size=settings.patch_size,
    )
    plain = replace(settings, use_image_id=False)  # the number is never written there
    tags = count_tag_tokens(theirs.plan, plain)
    cost = Cost(ours.size, theirs.plan, settings.patch_size, settings.num_queries, tags)
    lines = differences(ours.plan, theirs)
    if settings.use_image_id:
        lines.append("the number of the picture, <image_id>0</image_id>, is not written")
    return cost, lines


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


def table(cost: Cost) -> str:
    """The slices by kind, with sizes (height x width), patches and tokens; and the grid."""
    rows = [("", "slices", "pixels", "patches", "tokens")]
    for name, size, count in _groups(cost):
        height, width = (side // cost.patch_size for side in size)
        patches = f"{height} x {width} = {height * width}"
        tokens = f"{count} x {cost.num_queries} = {count * cost.num_queries}"
        rows.append((name, str(count), f"{size[0]} x {size[1]}", patches, tokens))
    rows.append(("tags and newlines", "", "", "", str(cost.num_tag_tokens)))
    rows.append(("total", str(cost.plan.num_slices), "", "", str(cost.num_tokens)))
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    lines = [
        "  ".join(
            [row[0].ljust(widths[0])]
            + [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        ).rstrip()
        for row in rows
    ]
    if cost.plan.grid and cost.plan.cell:
        lines += ["", draw_grid(cost.plan.grid, cost.plan.cell)]
    return "\n".join(lines)


def _groups(cost: Cost) -> list[tuple[str, tuple[int, int], int]]:
    groups = [("overview", cost.plan.overview, 1)]
    if cost.plan.grid and cost.plan.cell:
        rows, cols = cost.plan.grid
        groups.append((f"grid of {rows} x {cols}", cost.plan.cell, rows * cols))
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
