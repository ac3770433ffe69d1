"""What was measured, as data and as a table."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from .cases import FIGURES, Figure, Sample
from .subjects import Subject


def summary(
    subjects: Sequence[Subject],
    names: Sequence[str],
    found: Sequence[Mapping[str, Sequence[Sample]]],
) -> dict[str, Any]:
    """Subjects and figures: medians, spread, and the ratios of rounds.

    A ratio says how many times as fast as the peer this build is; `cpu_ratio` compares processor
    seconds, which other programs disturb less than the clock.
    """
    figures: list[dict[str, Any]] = []
    for name in names:
        figure = FIGURES[name]
        line: dict[str, Any] = {"name": name, "title": figure.title.strip(), "unit": figure.unit}
        line["values"] = [_spread(figure, samples.get(name, ())) for samples in found]
        if len(found) > 1 and all(name in samples for samples in found):
            ours, theirs = (samples[name] for samples in found[:2])
            line["ratio"] = _ratio(figure, ours, theirs)
            if all(sample.cpu_seconds for sample in (*ours, *theirs)):
                line["cpu_ratio"] = _ratio(figure, ours, theirs, of_cpu=True)
        figures.append(line)
    _compare_with_first(figures, found)
    sides = [
        {"name": subject.name, **subject.facts, "peak_bytes": subject.peak_bytes()}
        for subject in subjects
    ]
    return {"subjects": sides, "figures": figures}


def _spread(figure: Figure, samples: Sequence[Sample]) -> dict[str, Any] | None:
    if not samples:
        return None
    values = [sample.value(figure.unit) for sample in samples]
    cpu = [sample.cpu_seconds for sample in samples if sample.cpu_seconds is not None]
    return {
        **_extent(values),
        "seconds": statistics.median(sample.seconds for sample in samples),
        "cpu_seconds": statistics.median(cpu) if cpu else None,
        "tokens": samples[0].tokens,
        "samples": values,
    }


def _ratio(
    figure: Figure, ours: Sequence[Sample], theirs: Sequence[Sample], *, of_cpu: bool = False
) -> dict[str, float]:
    """Their cost by ours, round by round."""
    costs = [[s.cost(figure.unit, of_cpu=of_cpu) for s in side] for side in (ours, theirs)]
    return _extent([b / max(a, 1e-9) for a, b in zip(*costs, strict=True)])


def _extent(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def _compare_with_first(figures: list[dict[str, Any]], found: Any) -> None:
    """What a second question costs, by the first on the same picture."""
    by_name = {line["name"]: line for line in figures}
    for name, line in by_name.items():
        first = name.replace("second", "first")
        if name == first or first not in by_name:
            continue
        line["of_first"] = [
            statistics.median(
                b.seconds / a.seconds for a, b in zip(samples[first], samples[name], strict=True)
            )
            if name in samples
            else None
            for samples in found
        ]


def as_text(data: Mapping[str, Any]) -> str:
    """The report for people."""
    return "\n".join([*_head(data), "", *_table(data), "", *_foot(data)])


def _head(data: Mapping[str, Any]) -> list[str]:
    machine, model = data["machine"], data["model"]
    settings, (own, *peers) = data["settings"], data["subjects"]
    what = model["name"]
    if model["shape"] is not None:
        share = model["parameters"] / model["whole_parameters"]
        what += (
            f", random weights, {model['layers']} of {model['whole_layers']} decoder layers: "
            f"{model['parameters'] / 1e6:,.0f} of {model['whole_parameters'] / 1e6:,.0f} million "
            f"parameters ({100 * share:.0f} %)"
        )
    processor = machine.get("gpu") or machine["processor"]
    sets = " ".join(machine["instruction_sets"])
    weights = "; ".join(
        f"{part}: " + ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        for part, kinds in own["layers"].items()
    )
    read = _gigabytes(data["memory_limit"]["bytes_per_token"])
    reason = f" ({own['reason']})" if own["reason"] else ""
    lines = {
        "date": f"{machine['date']}, minicpmv {machine['minicpmv']} ({machine['commit']}), "
        f"torch {machine['torch']}, transformers {machine['transformers']}",
        "processor": f"{processor}{f' ({sets})' if sets else ''}",
        "threads": f"{machine['threads']} on {machine['processors']} processors",
        "model": what,
        "computed in": f"{own['dtype']} on {own['device']}{reason}",
        "layers": f"{weights}; {read} read per token",
        "kernels": machine["kernels"],
    }
    for peer in peers:
        facts = ", ".join(_said(key, peer[key]) for key in ("version", "file", "dtype", "threads")
                          if peer.get(key) is not None)  # fmt: skip
        lines["against"] = peer["name"] + (f" ({facts})" if facts else "")
    turns = " in turn" if peers else ""
    lines["rounds"] = (
        f"{settings['repeat']}{turns}, after {settings['warmup']} that do not count; medians, and "
        "least to most"
    )
    others = 100 * machine["other_load"]
    lines["other load"] = f"{others:.0f} % of all processors' time went to other programs"
    if others > 5:
        lines["other load"] += "; repeat on an idle machine"
    return [f"{name:13}{text}" for name, text in lines.items()]


def _said(key: str, value: Any) -> str:
    return f"{value} threads" if key == "threads" else str(value)


def _table(data: Mapping[str, Any]) -> list[str]:
    subjects = [subject["name"] for subject in data["subjects"]]
    rows = [["", "", *(cell for name in subjects for cell in (name, ""))]]
    if len(subjects) > 1:
        rows[0] += ["ratio", "", "by CPU time"]
    for line in data["figures"]:
        indent = "  " if line["name"].startswith("second") else ""
        title = line["title"].format(streams=data["settings"]["streams"])
        row = [indent + title, line["unit"]]
        for values in line["values"]:
            row += ["-", ""] if values is None else _cells(values)
        if "ratio" in line:
            ratio = line["ratio"]
            row += [f"{ratio['median']:.2f}x", f"{ratio['least']:.2f} to {ratio['most']:.2f}"]
        if "cpu_ratio" in line:
            row.append(f"{line['cpu_ratio']['median']:.2f}x")
        rows.append(row)
    for title, key, scale, unit in (("load", "load_seconds", 1, "s"),
                                    ("peak memory", "peak_bytes", 1e9, "GB")):  # fmt: skip
        row = [title, unit]
        for subject in data["subjects"]:
            value = subject.get(key)
            row += ["-" if value is None else _number(value / scale), ""]
        rows.append(row)
    columns = max(map(len, rows))
    rows = [row + [""] * (columns - len(row)) for row in rows]
    widths = [max(len(row[i]) for row in rows) for i in range(columns)]
    return [
        "  ".join(
            cell.ljust(width) if i < 2 or i % 2 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _cells(values: Mapping[str, float]) -> list[str]:
    return [
        _number(values["median"]),
        f"{_number(values['least'])} to {_number(values['most'])}",
    ]


def _foot(data: Mapping[str, Any]) -> list[str]:
    lines = []
    limit = data["memory_limit"]
    most = limit["bytes_per_second"] / limit["bytes_per_token"]
    lines.append(
        f"Memory gives {limit['bytes_per_second'] / 1e9:.1f} GB/s, so at most {_number(most)} "
        "tokens/s for one answer."
    )
    for line in data["figures"]:
        values = line["values"][0]
        if line["name"] == "decode" and values is not None:
            lines[-1] += f" Decoding reaches {100 * values['median'] / most:.0f} % of that."
        if "of_first" in line:
            names = [subject["name"] for subject in data["subjects"]]
            shares = ", ".join(
                f"{share:.3f} ({name})"
                for name, share in zip(names, line["of_first"], strict=True)
                if share is not None
            )
            side = line["name"].partition("-")[2]
            lines.append(f"Second question by the first, {side} x {side}: {shares}.")
    return lines


def _gigabytes(count: float) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


def _number(value: float) -> str:
    """With three digits that count."""
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.{2 if value >= 1 else 3}f}" if value < 10 else f"{value:.1f}"
