"""Object HalBench: words to objects, COCO's files, rates that are known by hand."""

import json

import pytest

from minicpmv.evaluate.items import Item
from minicpmv.evaluate.metrics import metric
from minicpmv.evaluate.metrics.judged.object_halbench import ObjectHalBench, names_in
from minicpmv.evaluate.metrics.judged.objects import coco
from minicpmv.evaluate.metrics.judged.objects.words import (
    class_of,
    classes,
    mentions_in,
    mentions_of,
    singular,
)
from tests.helpers.scripted_judge import answer_in_turn, judged, table


def test_there_are_eighty_classes_each_of_its_own():
    assert len(classes()) == 80
    assert all(class_of(name) == name for name in classes())
    assert class_of("puppy") == "dog"
    assert class_of("iphone") == "cell phone"
    assert class_of("house") is None


@pytest.mark.parametrize(
    ("plural", "one"),
    [
        *[("cats", "cat"), ("buses", "bus"), ("benches", "bench"), ("couches", "couch")],
        *[("knives", "knife"), ("people", "people"), ("men", "man"), ("children", "children")],
        *[("vases", "vase"), ("horses", "horse"), ("canoes", "canoe"), ("ties", "tie")],
        *[("puppies", "puppy"), ("skis", "skis"), ("scissors", "scissors"), ("glasses", "glass")],
        *[("toothbrushes", "toothbrush"), ("bus", "bus"), ("mice", "mouse"), ("oxen", "oxen")],
        *[("ponies", "pony"), ("tennis", "tennis"), ("grass", "grass"), ("potatoes", "potato")],
    ],
)
def test_singular(plural, one):
    assert singular(plural) == one


@pytest.mark.parametrize(
    ("text", "objects"),
    [
        ("A dog, two cats and a dog.", ["dog", "cat", "dog"]),
        ("The dog's toy", ["dog"]),
        ("Traffic lights above STOP SIGNS!", ["traffic light", "stop sign"]),
        ("He must stop. Signs are far.", []),
        ("a baby elephant, an adult bear, a baby", ["elephant", "bear", "person"]),
        ("a passenger train and a passenger", ["train", "person"]),
        ("a baby cub", []),
        ("a bow tie", ["tie"]),
        ("the toilet seat", ["toilet"]),
        ("the seat of the toilet", ["toilet"]),
        ("a seat", ["chair"]),
        ("home plate at the train tracks", []),
        ("wine glasses and glasses", ["wine glass"]),
        ("hot dogs for dogs", ["hot dog", "dog"]),
        ("一只狗", []),
        ("", []),
    ],
)
def test_mentions_in_free_text(text, objects):
    assert [each.object for each in mentions_in(text)] == objects


def test_mentions_of_names():
    names = [
        "group of people",
        "coffee table",
        "wooden table",
        "red stop signs",
        "Man",
        "men",
        "cup",
    ]
    assert [(each.word, each.object) for each in mentions_of(names)] == [
        ("people", "person"),
        ("table", "dining table"),
        ("stop sign", "stop sign"),
        ("man", "person"),
        ("cup", "cup"),
    ]


def asked(number, *true):
    return Item(str(number), "Describe it.", fields={"gt_object": list(true)})


PAIRS = [
    (asked(0, "dog", "couch"), "A dog and a cat sit on a couch. The dog is brown."),  # 4, 1 wrong
    (asked(1, "person", "car", "tie"), "A man in a car."),  # 2
    (asked(2, "bench"), "Nothing but green meadows under a blue sky."),  # none
    (asked(3, "bird"), "A boat and a ship on the water."),  # 2, 2 wrong
]


def test_rates_by_word_list():
    measure = metric("object-halbench")
    scored = [measure.score(item, answer, "vlmevalkit") for item, answer in PAIRS]
    assert [each.value for each in scored] == [1, 0, 0, 1]
    assert scored[0].detail["wrong"] == ["cat"]
    rows = table(measure, PAIRS, scored)
    assert {name: row.value for name, row in rows.items()} == {
        "answers (objects by word list)": pytest.approx(100 * 2 / 3),
        "mentions": pytest.approx(100 * 3 / 8),
        "answers without hallucination": pytest.approx(100 / 3),
        "mentions without hallucination": pytest.approx(100 * 5 / 8),
        "of all answers (CHAIRs)": 50,
        "objects named, of all there": pytest.approx(100 * 4 / 7),
        "words of an answer": pytest.approx((13 + 5 + 8 + 8) / 4),
    }
    assert [row.less_is_better for row in rows.values()][:3] == [True, True, False]


def test_rates_by_a_judge():
    pairs = [*PAIRS, (asked(4, "cat"), "A black dog.")]
    replies = answer_in_turn(
        'Here: ["dog", "cat", "couch"]', '["man", "car"]', "none", "[]", *["no list"] * 5
    )
    scored, judge = judged("object-halbench", pairs, replies)
    assert [each.value for each in scored] == [1, 0, 0, None, 0]
    assert len(judge.asked) == 9  # the last answer is too short to name anything
    assert scored[3].detail["judge"] == "garbage"
    rows = table("object-halbench", pairs, scored)
    assert {name: row.value for name, row in rows.items()} == {
        "answers (objects by judge)": pytest.approx(100 * 2 / 3),
        "mentions": pytest.approx(100 / 5),
        "answers without hallucination": pytest.approx(100 / 3),
        "mentions without hallucination": pytest.approx(80),
        "of all answers (CHAIRs)": pytest.approx(40),
        "objects named, of all there": pytest.approx(100 * 4 / 8),
        "words of an answer": pytest.approx((13 + 5 + 8 + 8 + 3) / 5),
    }
    assert {row.unparsed for row in rows.values()} == {1}


@pytest.mark.parametrize(
    ("reply", "names"),
    [
        ('["a", "b"]', ["a", "b"]),
        ('```json\n["a"]\n```', ["a"]),
        ('I use [] for none, but here: ["a"]', ["a"]),
        ("[]", []),
        ("()", None),
        ("[1, 2]", None),
        ("['a']", None),
    ],
)
def test_names(reply, names):
    assert names_in(reply) == names


def test_nothing_is_said_of_answers_that_name_nothing():
    pairs = [(asked(0, "dog"), "Meadows and nothing else.")]
    measure = metric("object-halbench")
    rows = table(measure, pairs, [measure.score(*pairs[0], "vlmevalkit")])
    row = rows["mentions"]
    assert (row.value, row.low, row.high) == (0, 0, 100)


@pytest.fixture
def annotations(tmp_path, monkeypatch):
    """COCO's files for three pictures, read in pieces of 7 characters."""
    monkeypatch.setattr(coco, "_CHUNK", 7)
    folder = tmp_path / "annotations"
    folder.mkdir()
    categories = [{"id": number, "name": name} for number, name in enumerate(classes(), 1)]
    things = [(1, "dog"), (1, "couch"), (2, "person"), (2, "person")]
    annotated = [
        {"image_id": image, "segmentation": [[1.5, 2]], "category_id": classes().index(name) + 1}
        for image, name in things
    ]
    said = [(1, 'A puppy on a "sofa", beside a lamp'), (2, "Men with umbrellas"), (3, "Two ships")]
    captions = [{"image_id": image, "caption": caption} for image, caption in said]
    instances = {"info": {}, "annotations": annotated, "categories": categories}
    (folder / "instances_val2014.json").write_text(json.dumps(instances))
    (folder / "captions_val2014.json").write_text(json.dumps({"annotations": captions}, indent=1))
    return tmp_path


def test_truth_of_coco_is_instances_and_captions(annotations):
    assert coco.true_objects(annotations) == {
        1: {"dog", "couch"},
        2: {"person", "umbrella"},
        3: {"boat"},
    }


def test_items_are_looked_up_in_coco(annotations):
    measure = ObjectHalBench(coco=str(annotations / "annotations"))
    item = Item("a", "Describe it.", fields={"image_id": "2"})
    assert measure.score(item, "A man, a dog", "vlmevalkit").detail["wrong"] == ["dog"]
    with pytest.raises(ValueError, match="image_id 9, which is none of COCO's pictures"):
        measure.score(Item("b", "", fields={"image_id": 9}), "A man", "vlmevalkit")


def test_what_is_missing_is_named(annotations):
    with pytest.raises(ValueError, match=r"Item 'b' does not say what .*--coco DIR"):
        metric("object-halbench").score(Item("b", "", fields={"image_id": 9}), "x", "vlmevalkit")
    file = annotations / "annotations" / "captions_val2014.json"
    file.write_text(file.read_text()[:-5])
    with pytest.raises(
        ValueError, match=r"captions_val2014\.json has no list 'annotations', or ends"
    ):
        coco.true_objects(annotations)
    file.unlink()
    with pytest.raises(
        OSError, match=r"captions_val2014.json is not there\. .*annotations_trainval"
    ):
        coco.true_objects(annotations)
