"""Tables and charts say about themselves what is drawn, and their answers can be read off."""

import random
import re

import numpy as np
import pytest

from minicpmv.scenes.questions import charts as chart_questions
from minicpmv.scenes.questions import tables as table_questions
from minicpmv.scenes.text import aligned, charts, lettering, records, tables

SEEDS = range(40)


def _number(text):
    return float(text.strip("$%").replace(",", ""))


def _paint(module, seed, split="train", size=None):
    (kind,) = module.KINDS
    return module.paint(random.Random(f"{split}:{seed}"), split, seed, kind, size)


@pytest.fixture(scope="module")
def printed_tables():
    return [_paint(tables, seed, split) for split in ("train", "test") for seed in SEEDS]


@pytest.fixture(scope="module")
def drawn_charts():
    return [_paint(charts, seed, split) for split in ("train", "test") for seed in SEEDS]


@pytest.mark.parametrize("module", [tables, charts])
def test_a_seed_gives_the_same_pixels_and_facts(module):
    for seed in range(4):
        first, second = _paint(module, seed), _paint(module, seed)
        assert first.image.tobytes() == second.image.tobytes()
        assert (first.texts, first.table, first.chart) == (
            second.texts,
            second.table,
            second.chart,
        )


def test_all_letters_lie_inside_the_picture_and_on_ink(printed_tables, drawn_charts):
    for scene in printed_tables + drawn_charts:
        grey = np.asarray(scene.image.convert("L"), dtype=np.int16)
        height, width = grey.shape
        for text in scene.texts:
            assert "".join(glyph.character for glyph in text.glyphs) == text.text.replace(" ", "")
            for glyph in text.glyphs:
                top, left, bottom, right = glyph.box
                assert 0 <= top < bottom <= 1
                assert 0 <= left < right <= 1
            top, left, bottom, right = text.box
            there = grey[
                int(top * height) : round(bottom * height), int(left * width) : round(right * width)
            ]
            assert np.ptp(there) >= lettering.MIN_CONTRAST, (scene.kind, scene.seed, text.text)


def test_no_two_texts_overlap(printed_tables, drawn_charts):
    for scene in printed_tables + drawn_charts:
        boxes = [text.box for text in scene.texts]
        for i, (top, left, bottom, right) in enumerate(boxes):
            for other in boxes[:i]:
                apart = bottom <= other[0] or right <= other[1] or top >= other[2]
                assert apart or left >= other[3], (scene.kind, scene.split, scene.seed)


def test_pictures_stay_within_the_slices_of_the_model(printed_tables, drawn_charts):
    for scene in printed_tables + drawn_charts:
        width, height = scene.image.size
        assert width * height <= aligned.MAX_AREA
        assert max(width / height, height / width) <= tables.MAX_RATIO + 0.02


def test_a_size_is_kept():
    for module in (tables, charts):
        for seed in range(6):
            for size in ((224, 224), (300, 448)):
                assert _paint(module, seed, size=size).image.size == size[::-1]


def test_splits_share_no_names():
    for listed in (records._GOODS, records._JOBS):
        train, test = records._of("train", listed), records._of("test", listed)
        assert len(test) >= 3
        assert not set(train) & set(test)


def test_cells_stand_in_their_row_and_column(printed_tables):
    for scene in printed_tables:
        cells = [text for text in scene.texts if text.kind == "cell"]
        lines = [scene.table.header, *scene.table.rows]
        assert [text.text for text in cells] == [cell for line in lines for cell in line]
        cols = len(scene.table.header)
        middles = np.array(
            [((t.box[0] + t.box[2]) / 2, (t.box[1] + t.box[3]) / 2) for t in cells]
        ).reshape(-1, cols, 2)
        assert (np.diff(middles[..., 0], axis=0) > 0).all()
        assert (np.diff(middles[..., 1], axis=1) > 0).all()


def test_row_names_are_unique(printed_tables):
    for scene in printed_tables:
        for names in (scene.table.header, [row[0] for row in scene.table.rows]):
            assert len({name.lower() for name in names}) == len(names)


def test_cell_answers_are_cells_of_the_row_or_column_that_is_named(printed_tables):
    for scene in printed_tables:
        cells = {cell for row in (scene.table.header, *scene.table.rows) for cell in row}
        for trial in range(12):
            question = table_questions.QUESTIONS["table_cell"](scene, random.Random(trial))
            assert question.answer in cells
            assert question.spelt
            place = re.search(r"row (\d),? (?:and )?column (\d)", question.text)
            if place:
                row, column = (int(part) - 1 for part in place.groups())
                assert scene.table.rows[row][column] == question.answer


def test_read_rows_and_columns_are_those_of_the_table(printed_tables):
    for scene in printed_tables:
        rows = scene.table.rows
        lines = {" | ".join(line) for line in (scene.table.header, *rows, *zip(*rows, strict=True))}
        for trial in range(6):
            assert (
                table_questions.QUESTIONS["table_line"](scene, random.Random(trial)).answer in lines
            )


def test_checked_cells_are_told_from_their_neighbours(printed_tables):
    answers = []
    for scene in printed_tables:
        for trial in range(6):
            question = table_questions.QUESTIONS["table_check"](
                scene, random.Random(100 * scene.seed + trial)
            )
            if question is None:
                continue
            answers.append(question.answer)
            if question.answer == "yes":  # all of it stands in one row, under one heading
                assert any(
                    all(part in question.text for part in (row[0], heading, cell))
                    for row in scene.table.rows
                    for heading, cell in zip(scene.table.header[1:], row[1:], strict=True)
                )
    assert 0.4 < answers.count("yes") / len(answers) < 0.6


def test_markdown_gives_the_table_back(printed_tables):
    for scene in printed_tables:
        lines = table_questions.markdown(scene.table).split("\n")
        read = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
        assert set(lines[1]) == {"|", "-"}
        assert tuple(read[0]) == scene.table.header
        assert tuple(tuple(row) for row in read[2:]) == scene.table.rows
        question = table_questions.QUESTIONS["table_markdown"](scene, random.Random(0))
        assert question is None or question.answer == "\n".join(lines)


def test_values_are_printed_or_lie_on_half_a_tick(drawn_charts):
    for scene in drawn_charts:
        texts = [text.text for text in scene.texts]
        chart = scene.chart
        assert len(chart.labels) == len(chart.values)
        assert all(label in texts for label in chart.labels)
        ticks = sorted(_number(text.text) for text in scene.texts if text.kind == "number")
        if all(value in ticks for value in chart.values):
            continue
        step = ticks[1] - ticks[0]
        for value in chart.values:
            assert ticks[0] <= value <= ticks[-1]
            assert (value - ticks[0]) / step * 2 == pytest.approx(
                round((value - ticks[0]) / step * 2)
            )


def test_bars_are_as_tall_as_their_values():
    """The colour of a bar, followed upwards from its foot, ends where the ticks say."""
    checked = 0
    for seed in range(120):
        scene = _paint(charts, seed)
        numbers = [text for text in scene.texts if text.kind == "number"]
        height, width = scene.image.height, scene.image.width
        columns = {round(text.box[3] * width) // 3 for text in numbers}
        if scene.chart.kind != "bar" or len(columns) > 1:  # values printed, or lying bars
            continue
        middle = {_number(t.text): (t.box[0] + t.box[2]) / 2 * height for t in numbers}
        low, high = min(middle), max(middle)
        pixels = np.asarray(scene.image, dtype=np.int16)
        for label, value in zip(scene.chart.labels, scene.chart.values, strict=True):
            (printed,) = (t for t in scene.texts if t.text == label and t.kind == "label")
            x = int((printed.box[1] + printed.box[3]) / 2 * width)
            y = int(middle[low]) - 3
            ink = pixels[y, x]
            while y > 0 and (pixels[y - 1, x] == ink).all():
                y -= 1
            wanted = middle[low] + (value - low) / (high - low) * (middle[high] - middle[low])
            assert abs(y - wanted) <= 3, (seed, label, value)
            checked += 1
    assert checked > 30


def test_extremes_and_comparisons_follow_the_values(drawn_charts):
    answers = []
    for scene in drawn_charts:
        worth = dict(zip(scene.chart.labels, scene.chart.values, strict=True))
        for trial in range(8):
            rng = random.Random(trial)
            question = chart_questions.QUESTIONS["chart_extreme"](scene, rng)
            if question is not None:
                up = re.search("highest|largest|longest", question.text)
                wanted = max(worth.values()) if up else min(worth.values())
                assert worth[question.answer] == wanted
            question = chart_questions.QUESTIONS["chart_value"](scene, rng)
            assert float(question.answer) in worth.values()
            question = chart_questions.QUESTIONS["chart_compare"](scene, rng)
            if question is not None:
                answers.append(question.answer)
                named = sorted(
                    (place.start(), label)
                    for label in worth
                    for place in [re.search(rf"\b{re.escape(label)}\b", question.text)]
                    if place
                )
                more = re.search("higher|larger|more", question.text)
                first, second = (worth[label] for _, label in named[:2])
                if len(named) == 2:
                    assert (question.answer == "yes") == ((first > second) == bool(more))
    assert 0.4 < answers.count("yes") / len(answers) < 0.6


def test_scenes_of_other_kinds_admit_no_question(printed_tables, drawn_charts):
    for function in table_questions.QUESTIONS.values():
        assert function(drawn_charts[0], random.Random(0)) is None
    for function in chart_questions.QUESTIONS.values():
        assert function(printed_tables[0], random.Random(0)) is None


@pytest.mark.parametrize("module", [table_questions, chart_questions])
def test_every_task_has_a_weight_and_is_asked(module, printed_tables, drawn_charts):
    assert set(module.WEIGHTS) == set(module.QUESTIONS)
    for task, function in module.QUESTIONS.items():
        scenes = printed_tables if module is table_questions else drawn_charts
        asked = [function(scene, random.Random(1)) for scene in scenes]
        assert all(question.task == task for question in asked if question)
        assert sum(question is not None for question in asked) > len(scenes) / 3
