"""Metrics on answers whose score is known by hand, and the evaluation on models whose score is."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

import minicpmv
from minicpmv.cli import main
from minicpmv.evaluate import measures, metrics, scenes, tasks
from minicpmv.evaluate import runner as asking
from minicpmv.evaluate import samples as items
from minicpmv.evaluate.failures import ContactSheet
from minicpmv.scenes import Example, Figure, Question, Scene, Turn
from minicpmv.scenes.examples.draw import draw_example

# Metrics


def test_answers_are_compared_by_what_they_say():
    assert metrics.is_right("Grey.", "grey")
    assert metrics.is_right("gray", "grey")
    assert metrics.is_right("The circle", "circle")
    assert metrics.is_right("three", "3")
    assert metrics.is_right("1,200", "1200")
    assert metrics.is_right("$3.50", "3.50")
    assert metrics.is_right("top", "centre", "top")
    assert not metrics.is_right("30", "3")
    assert not metrics.is_right("3.5", "35")
    assert not metrics.is_right("-2", "2")
    assert not metrics.is_right("", "no")


def test_vqa_accuracy_counts_three_of_ten_people_as_wholly_right():
    people = ["red"] * 2 + ["pink"] * 8
    # Left out is one of the 2 (then 1 of 9 agrees) or one of the 8 (then 2 of 9 agree).
    assert metrics.vqa_accuracy("red", people) == pytest.approx((2 * 1 / 3 + 8 * 2 / 3) / 10)
    assert metrics.vqa_accuracy("Pink", people) == 1
    assert metrics.vqa_accuracy("blue", people) == 0


def test_yes_and_no_are_read_off_the_beginning():
    assert metrics.yes_or_no("Yes, there is a red circle.") == "yes"
    assert metrics.yes_or_no("no") == "no"
    assert metrics.yes_or_no("nothing") is None
    assert metrics.yes_or_no("") is None


@pytest.mark.parametrize(
    ("answer", "index"),
    [
        ("B", 1),
        ("(B)", 1),
        ("B.", 1),
        ("B. blue", 1),
        ("blue", 1),
        ("The answer is B.", 1),
        ("a red", 0),  # the option's text, not its letter
        ("A", 0),
        ("D", None),
        ("Blue and red", None),
        ("", None),
    ],
)
def test_an_option_is_chosen_by_letter_or_by_text(answer, index):
    assert metrics.chosen_option(answer, ["red", "blue", "green"]) == index


def test_numbers_may_be_off_by_a_twentieth():
    assert metrics.is_close("95", "100")
    assert not metrics.is_close("94.9", "100")
    assert metrics.is_close("21", "20")
    assert metrics.is_close("1,050", "1000")
    assert metrics.is_close("12 %", "12%")
    assert metrics.is_close("-2.1", "-2")
    assert metrics.is_close("0", "0")
    assert not metrics.is_close("0.01", "0")
    assert metrics.is_close("May", "may")
    assert not metrics.is_close("nan", "3")


def test_edit_distance_of_known_pairs():
    assert metrics.edit_distance("kitten", "sitting") == 3
    assert metrics.edit_distance("", "abc") == 3
    assert metrics.edit_distance("abc", "abc") == 0
    assert metrics.character_error_rate(["abc", "x"], ["abd", "xy"]) == pytest.approx(2 / 5)
    assert metrics.character_error_rate(["a b"], ["a\nb"]) == 0  # a line break is a space
    assert metrics.character_error_rate(["ab"], ["AB"]) == 1


def test_printed_text_is_found_inside_an_answer():
    assert metrics.contains_text('It says "OPEN\ndaily".', "open Daily")
    assert not metrics.contains_text("OPE", "open")


def test_anls_forgives_less_than_half():
    assert metrics.anls("$3.5", "$3.50") == pytest.approx(0.8)
    assert metrics.anls("Jane", "JANE") == 1
    assert metrics.anls("ab", "cb") == 0  # half wrong
    assert metrics.anls("Anne", "Maria", "Anna") == pytest.approx(0.75)


def test_cell_f1_of_known_tables():
    truth = "| a | b |\n|---|---|\n| 1 | 2 |\n| 3 | 4 |"
    assert metrics.cell_f1(truth, truth) == 1
    assert metrics.cell_f1("|a|b|\n|---|:---:|\n|1|2|\n|3|4|", truth) == 1
    # 4 of the 6 cells, nothing wrong: precision 1, recall 2/3.
    assert metrics.cell_f1("| a | b |\n|---|---|\n| 1 | 2 |", truth) == pytest.approx(0.8)
    assert metrics.cell_f1("| a | b |\n|---|---|\n| 1 | 9 |\n| 3 | 4 |", truth) == pytest.approx(
        5 / 6
    )
    assert metrics.cell_f1("no table", truth) == 0
    assert metrics.markdown_rows("Here:\n| a |  |\n|---|---|\n| - | 1 |") == [["a", ""], ["-", "1"]]


def test_wilson_interval_of_known_shares():
    low, high = metrics.wilson_interval(8, 10)
    assert (round(low, 3), round(high, 3)) == (0.490, 0.943)
    assert metrics.wilson_interval(0, 5)[0] == pytest.approx(0.0)
    assert metrics.wilson_interval(5, 5)[1] == pytest.approx(1.0)
    with pytest.raises(ValueError, match="6 right of 5"):
        metrics.wilson_interval(6, 5)


def test_bootstrap_interval_is_that_of_the_normal_distribution_for_many_units():
    scores = [0.0, 1.0] * 200  # standard error of the mean: 0.5 / 20
    low, high = metrics.bootstrap_interval(scores, lambda drawn: sum(drawn) / len(drawn))
    assert low == pytest.approx(0.5 - 1.96 * 0.025, abs=0.006)
    assert high == pytest.approx(0.5 + 1.96 * 0.025, abs=0.006)
    assert metrics.ratio([(1, 10), (0, 30)]) == pytest.approx(1 / 40)
    with pytest.raises(ValueError, match="0 units"):
        metrics.bootstrap_interval([], metrics.ratio)


# Multiple choice and forms of answers


def test_options_move_round_and_the_right_letter_with_them():
    question = Question("choice", "What colour is it?\nA. red\nB. dark blue\nC. green", "B")
    turned = items.rotations(question)
    assert [each.answer for each in turned] == ["B", "A", "C"]
    assert turned[1].text == "What colour is it?\nA. dark blue\nB. green\nC. red"
    for each in turned:
        spans = items.option_spans(each.text)
        start, end = spans["ABC".index(each.answer)]
        assert each.text[start:end] == "dark blue"


@pytest.mark.parametrize(
    ("question", "options"),
    [
        ("Which way? A. left B. up, too\nAnswer with the letter.", ["left", "up, too"]),
        ("Which? (A) one (B) two (C) three", ["one", "two", "three"]),
        ("Which?\nA) 1\nB) 2", ["1", "2"]),
        ("Is there a star?", []),
        ("Is this A or B?", []),
    ],
)
def test_options_are_found_in_the_ways_people_write_them(question, options):
    assert [question[start:end] for start, end in items.option_spans(question)] == options


def test_solved_examples_and_the_answer_after_them_have_one_form():
    for seed in range(40):
        turns = draw_example(seed, "test", "few_shot").turns
        shown = [turn.answer for turn in turns]
        assert len({measures.form(each, shown, turns[-1].spelt) for each in shown}) == 1, shown


@pytest.mark.parametrize(
    ("answer", "shown", "same"),
    [
        ("blue star", ["red circle", "green ring"], True),
        ("star blue", ["red circle", "green ring"], False),
        ("BLUE star", ["RED circle", "GREEN ring"], True),
        ("blue star", ["RED circle", "GREEN ring"], False),
        ("star/blue", ["circle/red", "ring/green"], True),
        ("star, blue", ["circle/red", "ring/green"], False),
        ("shape=star", ["shape=ring", "shape=heart"], True),
        ("figure=star", ["shape=ring", "shape=heart"], False),
        ('{"colour": "blue"}', ['{"colour": "red"}', '{"colour": "green"}'], True),
        ("blue", ['{"colour": "red"}', '{"colour": "green"}'], False),
        ("5", ["2", "1"], True),
        ("five", ["2", "1"], False),
        ("2 stars", ["3 circles", "4 crosses"], True),
        ("It is an orange star.", ["It is a red ring.", "It is a blue heart."], True),
        ("It is orange.", ["It is a red ring.", "It is a blue heart."], False),
        ("It says Box.", ["It says tree.", "It says BOX."], True),
        ("Box", ["It says tree.", "It says BOX."], False),
    ],
)
def test_the_form_of_an_answer_is_what_is_left_without_its_content(answer, shown, same):
    assert (measures.form(answer, shown) == measures.form(shown[-1], shown)) is same


# A small world, so that no test depends on how scenes look


def _scene(seed, colour="red", size=(20, 10)):
    image = Image.new("RGB", size, colour)
    figure = Figure("star", colour, (0.5, 0.5), (0.4, 0.4, 0.6, 0.6), ())
    return Scene("test", seed, image, "white", (figure,))


def _numbers(seed, split, number):
    """Pictures whose shade says how often to count; every third seed admits nothing."""
    if seed % 3 == 0:
        return None
    scene = replace(_scene(seed), image=Image.new("RGB", (20 + seed % 5, 10), (seed % 256, 0, 0)))
    return (Example((scene,), (Turn("counting", "How many?", str(seed % 256), (0,)),)),)


SMALL = tasks.Subtask(
    "counting",
    "counting",
    _numbers,
    measures.relaxed_match,
    (measures.Measure("accuracy", measures.share),),
)


class _Reader:
    """A model that reads the answer off the first pixel of the last picture; it counts its calls
    and may die.
    """

    def __init__(self, dies_after=None):
        self.asked = 0
        self.dies_after = dies_after

    def batch(self, requests, **options):
        assert (options["sampling"], options["num_beams"]) == (False, 1)
        assert "max_slice_nums" not in options  # the model's own
        answers = []
        for messages in requests:
            if self.asked == self.dies_after:
                raise KeyboardInterrupt
            self.asked += 1
            image = messages[-1]["content"][0]["image"]
            answers.append(SimpleNamespace(text=str(image.getpixel((0, 0))[0])))
        return answers


def test_who_sees_is_right_and_who_is_shown_grey_or_other_pictures_is_not():
    rows = {
        pictures: scenes.scores(
            SMALL, scenes.evaluate(_Reader(), SMALL, number=20, pictures=pictures)
        )[0]
        for pictures in ("shown", "grey", "swapped")
    }
    assert [row.value for row in rows.values()] == [1, 0, 0]
    assert "| counting | accuracy | 100.0% | 20 | 83.9% to 100.0% |" in scenes.table(
        [rows["shown"]]
    )


def test_items_are_the_same_on_every_run_and_others_for_another_seed():
    def seeds(seed):
        return [
            item.seed for item in items.draw_samples(_numbers, split="test", seed=seed, number=9)
        ]

    assert seeds(0) == seeds(0)
    assert not set(seeds(0)) & set(seeds(1))


def test_grey_pictures_keep_their_size_and_swapped_ones_are_the_next_items():
    drawn = items.draw_samples(_numbers, split="test", seed=0, number=4)
    images = [item.examples[0].scenes[0].image for item in drawn]
    grey = [item.examples[0].scenes[0].image for item in asking.with_grey_pictures(drawn)]
    assert [image.size for image in grey] == [image.size for image in images]
    assert {image.getpixel((3, 3)) for image in grey} == {asking.GREY}
    swapped = [item.examples[0].scenes[0].image for item in asking.with_swapped_pictures(drawn)]
    assert swapped == [*images[1:], images[0]]


def test_an_interrupted_run_goes_on_where_it_was(tmp_path):
    path = tmp_path / "answers.jsonl"

    def run(model, name):
        file = asking.AnswerFile(tmp_path / name, {"split": "test", "run_seed": 0})
        return scenes.evaluate(model, SMALL, number=20, batch_size=4, file=file)

    with pytest.raises(KeyboardInterrupt):
        run(_Reader(dies_after=9), path.name)
    assert len(path.read_text().splitlines()) == 8
    path.write_text(path.read_text() + '{"part": "counti')  # killed while writing
    second = _Reader()
    resumed = run(second, path.name)
    assert second.asked == 12
    assert resumed == run(_Reader(), "whole.jsonl")
    assert path.read_text() == (tmp_path / "whole.jsonl").read_text()
    third = _Reader()
    assert run(third, path.name) == resumed
    assert third.asked == 0
    line = json.loads(path.read_text().splitlines()[0])
    wanted = {"part": "counting", "task": "counting", "item": 0, "seed": 1, "question": "How many?"}
    wanted |= {"truth": "1", "answer": "1", "score": 1.0, "run_seed": 0}
    assert wanted.items() <= line.items()


def test_answers_of_other_settings_are_not_mixed_in(tmp_path):
    path = tmp_path / "answers.jsonl"
    scenes.evaluate(_Reader(), SMALL, number=3, file=asking.AnswerFile(path, {"run_seed": 0}))
    with pytest.raises(ValueError, match="run_seed 0, and this run has 1"):
        asking.AnswerFile(path, {"run_seed": 1})
    path.write_text(path.read_text().replace("How many?", "How much?"))
    with pytest.raises(ValueError, match="the scenes have changed"):
        scenes.evaluate(_Reader(), SMALL, number=3, file=asking.AnswerFile(path, {"run_seed": 0}))
    path.write_text("no json\n")
    with pytest.raises(ValueError, match="line 1 is no answer"):
        asking.AnswerFile(path, {"run_seed": 1})


def test_earlier_turns_are_shown_with_their_answers_and_a_video_as_one():
    turns = (Turn("count", "Q1", "1", (0,)), Turn("count", "Q2", "2", (1, 2)))
    example = Example((_scene(0), _scene(1), _scene(2)), turns)
    first, answer, last = asking.conversation(example)
    assert [block["type"] for block in first["content"]] == ["image", "text"]
    assert answer == {"role": "assistant", "content": "1"}
    assert [block["type"] for block in last["content"]] == ["image", "image", "text"]
    video = replace(example, turns=(Turn("video", "Q", "A", (0, 1, 2)),), is_video=True)
    (message,) = asking.conversation(video)
    assert [block["type"] for block in message["content"]] == ["video", "text"]
    assert len(message["content"][0]["video"]) == 3


def test_weights_have_a_fingerprint():
    torch.manual_seed(0)
    first, second = torch.nn.Linear(3, 4), torch.nn.Linear(3, 4)
    assert asking.fingerprint(first) != asking.fingerprint(second)
    second.load_state_dict(first.state_dict())
    assert asking.fingerprint(first) == asking.fingerprint(second)


def test_failures_are_drawn_and_right_answers_are_not(tmp_path):
    drawn = items.draw_samples(_numbers, split="test", seed=0, number=7)
    results = [measures.Result(item, ("x" * 300,), (float(item.number > 0),)) for item in drawn]
    sheet = ContactSheet()
    sheet.add("counting", results, drawn)
    assert sheet.save(tmp_path / "sheet.png") == 1
    with Image.open(tmp_path / "sheet.png") as picture:
        assert picture.format == "PNG"
        assert len(picture.getcolors(1 << 20)) > 10


# Measures on results known by hand


def _result(answers, turns, scorer):
    examples = tuple(Example((_scene(1),), (turn,)) for turn in turns)
    item = items.Sample(0, 1, examples)
    scores = tuple(scorer(example, said) for example, said in zip(examples, answers, strict=True))
    return measures.Result(item, tuple(answers), scores)


def test_both_answers_about_a_picture_must_be_right_for_acc_plus():
    turns = [Turn("existence", "a?", "no", (0,)), Turn("existence", "b?", "yes", (0,))]
    results = [
        _result(answers, turns, measures.says_yes_or_no)
        for answers in (["no", "yes"], ["yes", "yes"], ["No.", "Yes, it is."], ["no", "maybe"])
    ]
    assert measures.share(results).value == pytest.approx(6 / 8)
    assert measures.share(results).total == 8
    assert measures.share_of_items(results).value == pytest.approx(2 / 4)


def test_character_error_rate_of_a_part_is_that_of_all_characters():
    turn = Turn("reading_line", "Read.", "abcd", (0,))
    results = [_result([said], [turn], measures.reads_characters) for said in ("abcd", "abxx")]
    estimate = measures.character_error_rate(results)
    assert estimate.value == pytest.approx(2 / 8)
    assert (estimate.low, estimate.high) == (0, 0.5)
    assert [result.scores[0] for result in results] == [1, 0.5]


def test_scores_that_are_all_alike_are_not_called_certain():
    turn = Turn("document", "Total?", "3.50", (0,))
    results = [_result(["none"], [turn], measures.anls) for _ in range(10)]
    estimate = measures.mean(results)
    assert (estimate.value, estimate.low) == (0, 0)
    assert estimate.high == pytest.approx(0.278, abs=0.001)  # Wilson: 0 of 10


def test_what_a_description_invents_is_counted_by_mention_and_by_response():
    """The scene shows one star."""
    turn = Turn("caption", "Describe the picture.", "A red star.", (0,))
    said = ["A red star.", "A star and two circles.", "Nothing.", "A heart and some rings."]
    results = [_result([each], [turn], measures.names_only_what_is_there) for each in said]
    assert measures.hallucinated_mentions(results).value == pytest.approx(3 / 5)
    assert measures.hallucinated_responses(results).value == pytest.approx(2 / 4)
    assert measures.things_found(results).value == pytest.approx(2 / 4)
    assert [result.scores[0] for result in results] == [1, 0.5, 0, 0]


def test_years_on_an_axis_are_no_estimates():
    turn = Turn("chart_extreme", "Which year is highest?", "2010", (0,))
    example = Example((_scene(1),), (turn,))
    assert measures.is_close_to_it(example, "2011") == 0
    value = replace(example, turns=(replace(turn, task="chart_value"),))
    assert measures.is_close_to_it(value, "2011") == 1


# The twelve tasks on rendered scenes


class _Oracle:
    """Knows the true answer to every conversation about the examples it was shown beforehand."""

    def __init__(self, examples):
        self.truths = {_key(asking.conversation(each)): each.turns[-1].answer for each in examples}

    def batch(self, requests, **options):
        return [SimpleNamespace(text=self.truths[_key(messages)]) for messages in requests]


def _key(messages):
    """Everything that the model is shown."""
    parts = []
    for message in messages:
        content = message["content"]
        for block in [content] if isinstance(content, str) else content:
            images = block.get("video") or [block.get("image")] if isinstance(block, dict) else []
            parts.append(block["text"] if isinstance(block, dict) and "text" in block else "")
            parts += [image.tobytes() for image in images if image]
    return tuple(parts)


@pytest.mark.parametrize("part", tasks.SUBTASKS.values(), ids=list(tasks.SUBTASKS))
def test_who_knows_the_truth_has_full_marks_in_every_measure(part):
    drawn = items.draw_samples(part.draw, split="test", seed=3, number=6)
    oracle = _Oracle([example for item in drawn for example in item.examples])
    results = scenes.evaluate(oracle, part, seed=3, number=6)
    for row in scenes.scores(part, results):
        assert row.value == pytest.approx(0 if row.less_is_better else 1), row
        assert row.low <= row.value <= row.high
        assert row.total >= 6
    for example in (example for item in drawn for example in item.examples):
        assert part.scorer(example, "zzz") < 1


def test_there_are_twelve_tasks_and_parts_may_be_named_alone():
    assert len(tasks.TASKS) == 12
    assert [part.name for part in tasks.subtasks_of(["page", "reading"])] == [
        "word",
        "line",
        "page",
    ]
    assert [part.name for part in tasks.subtasks_of(["page", "counting"])] == ["counting", "page"]
    with pytest.raises(ValueError, match=r"Task 'colours' is not known\. Known: yes-no, open,"):
        tasks.subtasks_of(["colours"])


def test_counts_from_one_to_six_come_equally_often():
    drawn = items.draw_samples(tasks.SUBTASKS["counting"].draw, split="test", seed=0, number=12)
    assert [item.examples[0].turns[-1].answer for item in drawn] == list("123456") * 2


def test_pages_are_cut_and_lines_are_short():
    for item in items.draw_samples(tasks.SUBTASKS["page"].draw, split="test", seed=0, number=5):
        (scene,) = item.examples[0].scenes
        assert scene.image.width * scene.image.height > 224 * 224
        assert len(item.examples[0].turns[-1].answer.splitlines()) <= 8
    for item in items.draw_samples(tasks.SUBTASKS["line"].draw, split="test", seed=0, number=5):
        assert len(item.examples[0].turns[-1].answer) <= 24


def test_the_command_prints_a_table_and_keeps_what_was_answered(tmp_path, monkeypatch, capsys):
    model = _Reader()
    model.supports_images = True
    model.model = torch.nn.Linear(2, 2)
    monkeypatch.setattr("minicpmv.loader.load", lambda name, **options: model)
    answers, sheet = tmp_path / "answers.jsonl", tmp_path / "failures.png"
    command = ["evaluate", "scenes", "--tasks", "word", "--items", "3", "--batch-size", "2"]
    command += ["--answers", str(answers), "--failures", str(sheet)]
    assert main(command) == 0
    output = capsys.readouterr()
    assert output.out.splitlines()[0] == "| task | measure | score | n | 95 % interval |"
    assert output.out.splitlines()[2].startswith("| reading: word | exact | 0.0% | 3 |")
    assert "word: 3/3 answers" in output.err
    assert len(answers.read_text().splitlines()) == 3
    assert Image.open(sheet).width == 1400
    asked = model.asked
    assert main([*command, "--json"]) == 0
    assert model.asked == asked  # all is in the file
    found = json.loads(capsys.readouterr().out)
    assert [row["measure"] for row in found["scores"]] == ["exact", "substring"]
    assert main([*command, "--swap"]) == 1
    assert "pictures 'shown', and this run has 'swapped'" in capsys.readouterr().err
    assert main(["evaluate", "scenes", "--items", "0"]) == 1
    assert "--items is 0" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*command, "--swap", "--blind"])


def test_the_model_in_the_box_can_be_measured():
    """Through the public interface, whatever it answers: several pictures and a video too."""
    chat = minicpmv.load(progress=False)
    for name in ("counting", "few-shot", "video"):
        results = scenes.evaluate(chat, tasks.SUBTASKS[name], number=2)
        assert all(isinstance(answer, str) for result in results for answer in result.answers)
