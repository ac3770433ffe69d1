"""The reliability diagram of a calibration, before and after."""

from pathlib import Path
from typing import Any

from .calibrate import Report
from .fit import Bin

SOFTWARE = "minicpmv calibrate --plot"  # by which the picture is known again


def check_matplotlib() -> None:
    """
    Raises:
        ImportError: it is not installed.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise ImportError(
            "The reliability diagram is drawn with matplotlib, which is not installed. Run: "
            'pip install "minicpmv[eval]"'
        ) from None


def draw(report: Report, path: str | Path) -> None:
    """Write the diagram as a PNG: the share of right decisions by their confidence, and how many
    there are of each confidence.
    """
    from matplotlib.figure import Figure

    found = report.calibration
    figure = Figure(figsize=(9, 4.8), layout="constrained")
    axes = figure.subplots(2, 2, sharex=True, height_ratios=[3, 1])
    for column, (title, bins, quality) in enumerate(
        (
            ("before", report.before, found.before),
            ("after", report.after, found.after),
        )
    ):
        _diagram(axes[0, column], bins)
        axes[0, column].set_title(
            f"{title}: {quality.accuracy:.1%} right, calibration error {quality.ece:.3f}",
            fontsize="medium",
        )
        _numbers(axes[1, column], bins)
    axes[0, 0].set_ylabel("right")
    axes[1, 0].set_ylabel("decisions")
    bias = "" if found.bias is None else " and a bias per choice"
    figure.suptitle(
        f"{found.model}, temperature {found.temperature:.3g}{bias}; "
        f"{found.num_held_out:,} examples held out of {found.num_held_out + found.num_fitted:,}"
    )
    figure.savefig(path, dpi=150, format="png", metadata={"Software": SOFTWARE})


def _diagram(axis: Any, bins: list[Bin]) -> None:
    shown = [each for each in bins if each.number]
    axis.plot([0, 1], [0, 1], color="grey", linewidth=1, linestyle="--")
    axis.bar(
        [each.low for each in shown],
        [each.accuracy for each in shown],
        width=[each.high - each.low for each in shown],
        align="edge",
        edgecolor="white",
        color="#4c72b0",
    )
    axis.plot(
        [each.confidence for each in shown],
        [each.accuracy for each in shown],
        color="#c44e52",
        marker="o",
        markersize=4,
        linewidth=1,
    )
    axis.set_xlim(0, 1)
    axis.set_ylim(0, 1)


def _numbers(axis: Any, bins: list[Bin]) -> None:
    axis.bar(
        [each.low for each in bins],
        [each.number for each in bins],
        width=[each.high - each.low for each in bins],
        align="edge",
        edgecolor="white",
        color="grey",
    )
    axis.set_xlabel("confidence")
