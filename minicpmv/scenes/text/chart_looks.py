"""The looks of plotting programs: papers, frames, grids and inks of charts."""

from dataclasses import dataclass

from minicpmv.scenes.figures.colours import Rgb


@dataclass(frozen=True)
class Look:
    """What one plotting program's pictures have in common."""

    paper: Rgb
    panel: Rgb | None  # behind the bars
    frame: str  # "box", "corner" (left and bottom), "base" (the zero line) or ""
    ticks: int  # length outwards, in tenths of the type size; negative inwards
    grid: Rgb | None
    inks: tuple[Rgb, ...]  # of bars and lines
    title_at: str = "m"
    right_axis: bool = False
    is_terminal: bool = False
    uses_dejavu: bool = False


WHITE: Rgb = (255, 255, 255)


TABLEAU: tuple[Rgb, ...] = (
    (31, 119, 180),
    (255, 127, 14),
    (44, 160, 44),
    (214, 39, 40),
    (148, 103, 189),
    (140, 86, 75),
    (227, 119, 194),
)
_OFFICE: tuple[Rgb, ...] = (
    (68, 114, 196),
    (237, 125, 49),
    (165, 165, 165),
    (255, 192, 0),
    (91, 155, 213),
    (112, 173, 71),
)
_MUTED: tuple[Rgb, ...] = ((76, 114, 176), (221, 132, 82), (85, 168, 104), (196, 78, 82))
_BRIGHT: tuple[Rgb, ...] = ((255, 0, 0), (0, 0, 255), (0, 160, 0), (200, 0, 200), (0, 150, 170))
_NEON: tuple[Rgb, ...] = ((99, 110, 250), (239, 85, 59), (0, 204, 150), (255, 161, 90))
LOOKS: dict[str, Look] = {
    "matplotlib": Look(WHITE, None, "box", 4, None, TABLEAU, uses_dejavu=True),
    "matplotlib grid": Look(
        WHITE, None, "box", 4, (200, 200, 200), TABLEAU, uses_dejavu=True
    ),
    "seaborn": Look(WHITE, (234, 234, 242), "", 0, WHITE, _MUTED),
    "ggplot": Look(WHITE, (235, 235, 235), "", 3, WHITE, ((89, 89, 89), (0, 0, 0), *_MUTED)),
    "spreadsheet": Look(WHITE, None, "base", 0, (217, 217, 217), _OFFICE),
    "old spreadsheet": Look(WHITE, (192, 192, 192), "box", 4, (0, 0, 0), ((153, 153, 255),)),
    "corner": Look(WHITE, None, "corner", 4, None, (*TABLEAU, (0, 0, 0))),
    "gnuplot": Look(WHITE, None, "box", -5, None, _BRIGHT),
    "paper": Look((250, 246, 232), None, "corner", 3, (222, 214, 190), ((120, 60, 30), *_MUTED)),
    "dark": Look((17, 17, 17), None, "base", 0, (60, 64, 80), _NEON),
    "dark panel": Look((30, 34, 44), (40, 46, 60), "", 0, (70, 78, 96), _NEON),
    "terminal": Look(
        (12, 12, 12), None, "", 0, None, ((0, 205, 0), (229, 229, 229), (90, 160, 255)),
        is_terminal=True,
    ),
}  # fmt: skip
TEST_LOOKS = {
    **LOOKS,
    "journal": Look(
        (213, 228, 235), None, "base", 0, WHITE, ((0, 80, 110), (160, 40, 40)), "l", True
    ),
}
