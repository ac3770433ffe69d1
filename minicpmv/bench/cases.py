"""What is measured, as data. Needs no torch, and nothing else of the package."""

from collections.abc import Sequence
from dataclasses import dataclass

CONTEXT = 512  # tokens of the text prompt
NEW_TOKENS = 32  # decoded after the first token of an answer
STREAM_CONTEXT = 128  # tokens of each prompt of the streams
PICTURES = {"448": 448, "1344": 1344}  # sides in pixels; 2.6 cuts them into 1 and 1 + 9 slices


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One line of the table.

    Fields:
        name: as typed after `--only`, and in JSON.
        title: for people; `{streams}` stands for how many there are.
        unit: "s" or "tokens/s".
        run: the run that finds it; runs of one name are one.
        needs_pictures: text models have none.
    """

    name: str
    title: str
    unit: str
    run: str
    needs_pictures: bool = False


@dataclass(frozen=True)
class Sample:
    """One measurement.

    Fields:
        seconds: on the clock; cpu_seconds: of all processors, None where they were not counted.
        tokens: that were worked off in this time.
    """

    seconds: float
    cpu_seconds: float | None = None
    tokens: int = 0

    def value(self, unit: str) -> float:
        """In the unit of its figure."""
        return self.seconds if unit == "s" else self.tokens / max(self.seconds, 1e-9)

    def cost(self, unit: str, *, of_cpu: bool = False) -> float:
        """Seconds, of a token where tokens are counted: less is better."""
        seconds = (self.cpu_seconds or 0.0) if of_cpu else self.seconds
        return seconds if unit == "s" else seconds / max(self.tokens, 1)


FIGURES: dict[str, Figure] = {
    figure.name: figure
    for figure in (
        Figure(
            name="encode",
            title="encode one 448 x 448 slice",
            unit="s",
            run="encode",
            needs_pictures=True,
        ),
        Figure(name="prefill", title=f"prefill, {CONTEXT} tokens", unit="tokens/s", run="text"),
        Figure(name="decode", title=f"decode, after {CONTEXT} tokens", unit="tokens/s", run="text"),
        Figure(
            name="first-448",
            title="first token, 448 x 448 picture",
            unit="s",
            run="picture-448",
            needs_pictures=True,
        ),
        Figure(
            name="second-448",
            title="  second question on it",
            unit="s",
            run="picture-448",
            needs_pictures=True,
        ),
        Figure(
            name="first-1344",
            title="first token, 1344 x 1344 picture",
            unit="s",
            run="picture-1344",
            needs_pictures=True,
        ),
        Figure(
            name="second-1344",
            title="  second question on it",
            unit="s",
            run="picture-1344",
            needs_pictures=True,
        ),
        Figure(name="streams", title="{streams} streams in all", unit="tokens/s", run="streams"),
    )
}


def runs_of(names: Sequence[str]) -> dict[str, list[str]]:
    """The figures that each run is to find, in the order of the table."""
    runs: dict[str, list[str]] = {}
    for name, figure in FIGURES.items():
        if name in names:
            runs.setdefault(figure.run, []).append(name)
    return runs
