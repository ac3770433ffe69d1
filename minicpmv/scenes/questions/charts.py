"""What can be asked about a chart: the value of a label, which label is highest, whether one is
higher than another, the title.
"""

import random
from collections.abc import Callable

from minicpmv.scenes.scene import Chart, Question, Scene
from minicpmv.scenes.text import records

# Values closer than this share of the largest one are never compared.
LEAST_DIFFERENCE = 0.03


def _noun(chart: Chart) -> str:
    """What one label stands for."""
    if all(label in records.MONTHS for label in chart.labels):
        return "month"
    if all(label in records.DAYS for label in chart.labels):
        return "day"
    if all(label.isdigit() for label in chart.labels):
        return "year"
    if all(label in records.QUARTERS for label in chart.labels):
        return "quarter"
    return "bar" if chart.kind == "bar" else "point"


def _value(scene: Scene, rng: random.Random) -> Question | None:
    chart = scene.chart
    if chart is None:
        return None
    if rng.random() < 0.15:
        extreme, value = rng.choice((("highest", max(chart.values)), ("lowest", min(chart.values))))
        forms = [
            "What is the {} value?",
            "What is the {} value in the chart?",
            "What is the {} value shown?",
        ]
        return _answer(scene, rng.choice(forms).format(extreme), value)
    i = rng.randrange(len(chart.labels))
    forms = [
        "What is the value of {label}?",
        "What is the value for {label}?",
        "What is the value of {label}?",
        "What value does {label} have?",
        "What is the value at {label}?",
        "How much is {label}?",
        "Read the value of {label}.",
        "How high is {label}?",
    ]
    within = "in" if _noun(chart) in ("month", "year", "quarter") else "for"
    if chart.unit[:1].isupper():
        forms += ["What is the {unit} {within} {label}?", "What is the {unit} of {label}?"] * 2
    elif within == "in":
        forms += ["What was the value in {label}?"] * 2
    text = rng.choice(forms).format(label=chart.labels[i], unit=chart.unit.lower(), within=within)
    return _answer(scene, text, chart.values[i])


def _answer(scene: Scene, text: str, value: float) -> Question:
    """The bare number; as good is what is printed beside the bar: $1,500."""
    plain = f"{value:g}"
    printed = {
        other.text
        for other in scene.texts
        if other.kind == "number" and other.text.strip("$%").replace(",", "") == plain
    }
    return Question("chart_value", text, plain, tuple(sorted(printed - {plain})), spelt=True)


def _extreme(scene: Scene, rng: random.Random) -> Question | None:
    chart = scene.chart
    if chart is None:
        return None
    highest = rng.random() < 0.6
    value = max(chart.values) if highest else min(chart.values)
    # Two that can hardly be told apart make the answer a matter of taste.
    close = [
        v for v in chart.values if abs(v - value) < LEAST_DIFFERENCE * max(map(abs, chart.values))
    ]
    if len(close) > 1:
        return None
    word = rng.choice(("highest", "largest") if highest else ("lowest", "smallest"))
    noun = _noun(chart)
    forms = [
        "Which {noun} is the {word}?",
        "Which {noun} is {word}?",
        "Which {noun} has the {word} value?",
        "What has the {word} value?",
        "Which label has the {word} value?",
    ]
    if noun in ("month", "day", "year", "quarter"):
        forms += ["In which {noun} is the value {word}?", "When is the value {word}?"]
    elif chart.kind == "bar":
        forms += [
            "Which bar is the longest?" if highest else "Which bar is the shortest?",
            "What is the longest bar called?" if highest else "What is the shortest bar called?",
        ]
    if chart.unit[:1].isupper():
        forms += ["Which {noun} has the {word} {unit}?"] * 2
    text = rng.choice(forms).format(noun=noun, word=word, unit=chart.unit.lower())
    return Question("chart_extreme", text, chart.labels[chart.values.index(value)], spelt=True)


def _compare(scene: Scene, rng: random.Random) -> Question | None:
    chart = scene.chart
    if chart is None:
        return None
    least = LEAST_DIFFERENCE * max(map(abs, chart.values))
    pairs = [
        (i, j)
        for i, first in enumerate(chart.values)
        for j, second in enumerate(chart.values)
        if first - second > least
    ]
    if not pairs:
        return None
    high, low = (chart.labels[i] for i in rng.choice(pairs))
    more = [
        "Is {} higher than {}?",
        "Is {} larger than {}?",
        "Is {} more than {}?",
        "Is the value of {} higher than that of {}?",
        "Is the value of {} larger than the value of {}?",
        "Does {} have a higher value than {}?",
    ]
    less = [
        "Is {} lower than {}?",
        "Is {} less than {}?",
        "Is {} smaller than {}?",
        "Is the value of {} lower than that of {}?",
        "Does {} have a lower value than {}?",
    ]
    truth, said_more = rng.random() < 0.5, rng.random() < 0.6
    first, second = (high, low) if truth == said_more else (low, high)
    text = rng.choice(more if said_more else less).format(first, second)
    return Question("chart_compare", text, "yes" if truth else "no")


def _title_of(scene: Scene, rng: random.Random) -> Question | None:
    chart = scene.chart
    if chart is None:
        return None
    if chart.unit and (not chart.title or rng.random() < 0.25):
        forms = [
            "What is the label of the axis?",
            "What does the axis show?",
            "What is written on the axis of the values?",
        ]
        return Question("chart_title", rng.choice(forms), chart.unit, spelt=True)
    if not chart.title:
        return None
    forms = [
        "What is the title of the chart?",
        "What is the title?",
        "What is the chart called?",
        "What is the title of this graph?",
        "What does the title say?",
        "Read the title of the chart.",
        "What is the chart about?",
    ]
    return Question("chart_title", rng.choice(forms), chart.title, spelt=True)


def _count(scene: Scene, rng: random.Random) -> Question | None:
    chart = scene.chart
    if chart is None:
        return None
    noun = _noun(chart)
    forms = [
        f"How many {noun}s are there?",
        f"How many {noun}s are shown?",
        f"How many {noun}s does the chart have?",
        f"Count the {noun}s.",
    ]
    return Question("chart_count", rng.choice(forms), str(len(chart.labels)))


def _kind(scene: Scene, rng: random.Random) -> Question | None:
    if scene.chart is None:
        return None
    forms = [
        "What kind of chart is this?",
        "What type of chart is this?",
        "Is this a bar chart or a line chart?",
        "Which kind of chart is shown?",
    ]
    return Question("chart_kind", rng.choice(forms), f"{scene.chart.kind} chart")


QUESTIONS: dict[str, Callable[[Scene, random.Random], Question | None]] = {
    "chart_value": _value,
    "chart_extreme": _extreme,
    "chart_compare": _compare,
    "chart_title": _title_of,
    "chart_count": _count,
    "chart_kind": _kind,
}
WEIGHTS = {
    "chart_value": 5.0,
    "chart_extreme": 2.0,
    "chart_compare": 2.0,
    "chart_title": 1.5,
    "chart_count": 1.0,
    "chart_kind": 0.5,
}
