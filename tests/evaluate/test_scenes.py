"""A model is asked about scenes: runs, interruptions, and the twelve tasks."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

import minicpmv
from minicpmv.cli import main
from minicpmv.evaluate import scenes
from minicpmv.evaluate.scenes import measures, tasks
from minicpmv.evaluate.scenes import runner as asking
from minicpmv.evaluate.scenes import samples as items
from minicpmv.evaluate.scenes.failures import ContactSheet
from minicpmv.scenes import Example, Figure, Scene, Turn

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


# Measures on results known by hand


def _result(answers, turns, scorer):
    examples = tuple(Example((_scene(1),), (turn,)) for turn in turns)
    item = items.Sample(0, 1, examples)
    scores = tuple(scorer(example, said) for example, said in zip(examples, answers, strict=True))
    return measures.Result(item, tuple(answers), scores)


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
        with asking.AnswerFile(tmp_path / name, {"split": "test", "run_seed": 0}) as file:
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
    with asking.AnswerFile(path, {"run_seed": 0}) as file:
        scenes.evaluate(_Reader(), SMALL, number=3, file=file)
    with pytest.raises(ValueError, match="run_seed 0, and this run has 1"):
        asking.AnswerFile(path, {"run_seed": 1})
    path.write_text(path.read_text().replace("How many?", "How much?"))
    with (
        asking.AnswerFile(path, {"run_seed": 0}) as file,
        pytest.raises(ValueError, match="the scenes have changed"),
    ):
        scenes.evaluate(_Reader(), SMALL, number=3, file=file)
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
    drawn = sheet.read_bytes()
    Image.open(sheet).save(sheet)  # somebody else's picture
    assert main(command) == 1
    err = capsys.readouterr().err
    assert f"{str(sheet)!r} is there already, and is no drawing of wrong answers" in err
    assert "Replace it with --overwrite, or name another." in err
    assert sheet.read_bytes() != drawn
    assert main([*command, "--overwrite"]) == 0
    assert sheet.read_bytes() == drawn
    assert main([*command, "--swap"]) == 1
    assert "pictures 'shown', and this run has 'swapped'" in capsys.readouterr().err
    assert main(["evaluate", "scenes", "--items", "0"]) == 2
    assert "--items is 0" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*command, "--swap", "--blind"])


def test_the_model_in_the_box_can_be_measured():
    """Through the public interface, whatever it answers: several pictures and a video too."""
    chat = minicpmv.load(progress=False)
    for name in ("counting", "few-shot", "video"):
        results = scenes.evaluate(chat, tasks.SUBTASKS[name], number=2)
        assert all(isinstance(answer, str) for result in results for answer in result.answers)


def test_an_answer_may_hold_what_ends_lines_of_text(tmp_path):
    key, path = ("counting", 1, 0), tmp_path / "answers.jsonl"
    with asking.AnswerFile(path, {}) as file:
        file.add(key, question="Q", answer="1\u2028\x85 2")
    with asking.AnswerFile(path, {}) as file:
        assert file.answer(key, "Q") == "1\u2028\x85 2"


def test_a_file_that_holds_something_else_stays(tmp_path):
    from minicpmv.evaluate.scenes.runner import AnswerFile

    notes = tmp_path / "notes.txt"
    notes.write_text("precious, without a line's end")
    with pytest.raises(ValueError, match="holds no answers of an evaluation"):
        AnswerFile(notes, {})
    assert notes.read_text() == "precious, without a line's end"
