"""Subjects in turn, round by round, so that a machine that changes its speed changes it for all."""

from collections.abc import Callable, Sequence

from .cases import FIGURES, Sample, runs_of
from .subjects import Subject

Found = list[dict[str, list[Sample]]]


def take_turns(
    subjects: Sequence[Subject],
    names: Sequence[str],
    *,
    repeat: int,
    warmup: int,
    progress: Callable[[str], None],
) -> Found:
    """Samples of each subject by the name of the figure, one for every round that counts.

    Args:
        names: of figures.
        warmup: rounds before, which do not count.
    """
    found: Found = [{} for _ in subjects]
    for number in range(warmup + repeat):
        is_warmup = number < warmup
        kind = "warm-up" if is_warmup else "round"
        of = f"{number + 1} of {warmup}" if is_warmup else f"{number + 1 - warmup} of {repeat}"
        # Who begins changes, so that nobody always follows the same one.
        order = list(range(len(subjects)))[:: -1 if number % 2 else 1]
        for place, (run, wanted) in enumerate(runs_of(names).items()):
            seed = 1 + 100 * number + 10 * place
            for index in order:
                if not _can(subjects[index], run):
                    continue
                progress(f"{kind} {of}: {run}, {subjects[index].name}")
                samples = subjects[index].measure(run, wanted, seed)
                for name in wanted if not is_warmup else ():
                    found[index].setdefault(name, []).append(samples[name])
    return found


def possible(names: Sequence[str] | None, has_pictures: bool) -> list[str]:
    """The figures that were asked for, or all, that a model with or without pictures has."""
    asked = FIGURES if names is None else names
    return [name for name in asked if has_pictures or not FIGURES[name].needs_pictures]


def _can(subject: Subject, run: str) -> bool:
    can = getattr(subject, "can", None)
    return can is None or bool(can(run))
