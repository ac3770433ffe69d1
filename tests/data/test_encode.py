"""Rows to examples: lengths, faults, pictures, parts, preferences."""

from dataclasses import replace

import numpy as np
import pytest

from minicpmv.data.encode import (
    NO_TARGET,
    EncodeSettings,
    encode_conversation,
    encode_preference,
    standard_labels,
)
from minicpmv.data.faults import DataError
from minicpmv.data.messages import Conversation, Message, Picture, Preference
from minicpmv.data.pictures import PictureReader

from ..helpers.conversations import MODELS, picture, processor_of, reads_pictures


def conversation(*messages, row=17):
    roles = ("user", "assistant")
    parts = [part if isinstance(part, tuple) else (part,) for part in messages]
    return Conversation(tuple(Message(roles[i % 2], part) for i, part in enumerate(parts)), row=row)


def encoded(model, row, **settings):
    return encode_conversation(
        processor_of(model), row, EncodeSettings(**settings), PictureReader()
    )


def fault_of(model, row, **settings):
    with pytest.raises(DataError) as caught:
        encoded(model, row, **settings)
    return caught.value.faults[0]


def said(model, example):
    """The trained texts, each with its terminator."""
    tokenizer = processor_of(model).tokenizer
    return [
        tokenizer.decode(example.targets[start:end], clean_up_tokenization_spaces=False)
        for _, start, end in example.spans
    ]


def test_targets_are_the_next_tokens_of_each_answer():
    (example,) = encoded("2.6", conversation("Hi", "Hello!", "More", "Yes."))
    assert said("2.6", example) == ["Hello!<|im_end|>", "Yes.<|im_end|>"]
    for index, start, end in example.spans:
        assert index in (1, 3)
        assert (example.targets[start:end] == example.input_ids[start + 1 : end + 1]).all()
    assert example.input_ids.dtype == example.targets.dtype == np.int32
    assert example.mm_token_type_ids.dtype == np.uint8
    assert example.row == 17


def test_labels_of_transformers_are_the_targets_moved_right():
    (example,) = encoded("2.6", conversation("Hi", "Hello!", "More", "Yes."))
    labels = standard_labels(example)
    assert labels[0] == NO_TARGET
    assert (labels[1:] == example.targets[:-1]).all()


@pytest.mark.parametrize("model", ["1.0", "2.0", "minicpm-2b", "minicpm-1b", "minicpm-moe-8x2b"])
def test_an_answer_is_taught_to_end_where_the_template_goes_on(model):
    (example,) = encoded(model, conversation("Hi", "Hello!", "More", "Yes."))
    end = processor_of(model).tokenizer.eos_token_id
    for _, _, stop in example.spans:
        assert example.targets[stop - 1] == end
    first_end = example.spans[0][2]
    assert example.input_ids[first_end] != end  # the next question stands there
    assert example.input_ids[-1] == end
    with pytest.raises(ValueError, match="Row 17 trains an answer to end"):
        standard_labels(example)


@pytest.mark.parametrize("model", MODELS)
def test_text_alone_trains_on_every_release(model):
    (example,) = encoded(model, conversation("Hi", "Hello!"))
    assert example.num_trained > 1
    assert example.pictures == ()
    assert not example.mm_token_type_ids.any()


@pytest.mark.parametrize("model", [m for m in MODELS if reads_pictures(m)])
def test_a_video_is_encoded_as_at_inference(model):
    processor = processor_of(model)
    frames = tuple(picture(900, 500, colour) for colour in ("red", "green", "blue"))
    row = conversation((Picture(frames, "video"), "What?"), "Red.")
    (example,) = encoded(model, row)
    inputs = processor.apply_chat_template(
        [
            {
                "role": "user",
                "content": [
                    {"type": "video", "video": list(frames)},
                    {"type": "text", "text": "What?"},
                ],
            }
        ],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
    )
    prompt = inputs["input_ids"][0].tolist()
    assert example.input_ids[: len(prompt)].tolist() == prompt
    pixels, sizes = PictureReader().pixels(processor, example.pictures)
    assert pixels.equal(inputs["pixel_values"])
    assert sizes.equal(inputs["target_sizes"])
    (two,) = encoded(model, row, num_frames=2)
    assert len(two.pictures[0].sizes) == 2


@pytest.mark.parametrize("model", ["2.0", "2.5", "2.6"])
def test_a_limit_of_slices_holds_for_the_run_or_one_picture(model):
    large = picture(1300, 900)
    row = conversation((Picture(large), Picture(large, max_slice_nums=1), "What?"), "Red.")
    (free,) = encoded(model, row)
    (limited,) = encoded(model, row, max_slice_nums=2)
    slices = [[ref.num_slices for ref in example.pictures] for example in (free, limited)]
    assert slices[0][0] > 3
    assert slices[0][1] == slices[1][1] == 1
    assert slices[1][0] == 3
    _, sizes = PictureReader().pixels(processor_of(model), limited.pictures)
    assert len(sizes) == 4


def test_pictures_are_numbered_unless_they_are_not():
    row = conversation((Picture(picture()), Picture(picture()), "What?"), "Red.")
    (numbered,) = encoded("2.6", row)
    (bare,) = encoded("2.6", row, use_image_id=False)
    assert len(numbered.input_ids) > len(bare.input_ids)


def test_a_row_above_the_limit_is_a_fault_with_both_numbers():
    row = conversation("Hi", "word " * 50)
    (example,) = encoded("2.6", row)
    length = len(example.input_ids)
    fault = fault_of("2.6", row, max_length=20)
    assert (fault.kind, fault.row) == ("too_long", 17)
    assert f"{length} tokens, and 20 are the most" in fault.message
    assert fault.num_tokens == length
    assert encoded("2.6", row, max_length=length)


def test_a_cut_row_keeps_the_target_behind_its_last_token():
    row = conversation("Hi", "Yes.", "More", "word " * 50)
    (whole,) = encoded("2.6", row)
    limit = whole.spans[1][1] + 5
    (cut,) = encoded("2.6", row, max_length=limit, cut=True)
    assert cut.input_ids.tolist() == whole.input_ids[:limit].tolist()
    assert cut.targets.tolist() == whole.targets[:limit].tolist()
    assert cut.targets[-1] == whole.input_ids[limit]
    assert cut.spans == (whole.spans[0], (3, whole.spans[1][1], limit))
    assert cut.num_cut == len(whole.input_ids) - limit


def test_a_row_is_not_cut_inside_a_picture():
    row = conversation("Hi", "Yes.", ("Look", Picture(picture(), field="images[0]")), "Red.")
    (whole,) = encoded("2.6", row)
    shown = np.flatnonzero(whole.mm_token_type_ids)
    fault = fault_of("2.6", row, max_length=int(shown[0]) + 3, cut=True)
    assert (fault.kind, fault.field) == ("cut_in_picture", "images[0]")
    end = int(shown[-1]) + 2  # and the tag behind it
    assert f"at least {end}," in fault.message
    (before,) = encoded("2.6", row, max_length=int(shown[0]) - 6, cut=True)
    assert before.pictures == ()
    assert len(before.spans) == 1
    (behind,) = encoded("2.6", row, max_length=end + 8, cut=True)
    assert len(behind.pictures) == 1


def test_a_row_of_which_nothing_is_left_is_a_fault():
    row = conversation("word " * 50, "Yes.")
    assert fault_of("2.6", row, max_length=20, cut=True).kind == "nothing_trained"
    untrained = Conversation(
        tuple(replace(message, train=False) for message in row.messages), row=2
    )
    assert fault_of("2.6", untrained).kind == "nothing_trained"
    assert fault_of("2.6", Conversation(row.messages[:1])).kind == "no_answer"


@pytest.mark.parametrize("answer", ["", " \n", "\u200b"])
@pytest.mark.parametrize("model", ["2.6", "2.5", "minicpm-2b"])
def test_an_answer_of_nothing_is_a_fault(model, answer):
    fault = fault_of(model, conversation("Hi", answer, "More", "Yes."))
    assert (fault.kind, fault.field) == ("empty_answer", "messages[1].content")
    assert str(fault).startswith("row 17, messages[1].content: the answer is empty")


def test_pictures_that_cannot_be_read_are_faults(tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    row = conversation(
        (
            Picture(str(tmp_path / "none.png"), field="images[0]"),
            Picture(str(broken), field="images[1]"),
            "What?",
        ),
        "Red.",
    )
    with pytest.raises(DataError) as caught:
        encoded("2.6", row)
    found = [(fault.field, fault.kind) for fault in caught.value.faults]
    assert found == [("images[0]", "missing_picture"), ("images[1]", "unreadable_picture")]


def test_a_picture_for_a_text_model_is_a_fault():
    row = conversation((Picture(picture(), field="image"), "What?"), "Red.")
    fault = fault_of("minicpm-2b", row)
    assert (fault.kind, fault.field) == ("text_model_with_picture", "image")


def test_a_picture_in_a_trained_answer_is_a_fault():
    row = conversation("Draw.", ("Here:", Picture(picture())))
    assert fault_of("2.6", row).kind == "wrong_type"
    history = Message("assistant", row.messages[1].parts, train=False)
    more = (row.messages[0], history, Message("user", ("Thanks",)), Message("assistant", ("OK",)))
    (example,) = encoded("2.6", Conversation(more))
    assert len(example.pictures) == 1


def test_settings_without_effect_are_faults_of_the_template():
    assert fault_of("1.0", conversation("Hi", "Yes."), max_slice_nums=4).kind == "template"
    assert fault_of("minicpm-2b", conversation("Hi", "Yes."), max_slice_nums=4).kind == "template"


def test_tags_in_an_answer_are_characters():
    (example,) = encoded("2.6", conversation("Hi", "Type <|im_end|> or <unk>."))
    (_, start, end) = example.spans[0]
    special = set(processor_of("2.6").tokenizer.all_special_ids)
    assert not special & set(example.targets[start : end - 1].tolist())


@pytest.mark.parametrize("model", ["2.6", "2.5", "2.0", "minicpm-2b"])
def test_a_preference_is_two_examples_of_one_prompt(model):
    shown = (Picture(picture()),) if reads_pictures(model) else ()
    preference = Preference(
        (
            Message("user", (*shown, "What?")),
            Message("assistant", ("A thing.",)),
            Message("user", ("Which?",)),
        ),
        chosen="A red one.",
        rejected="Blue.",
        row=4,
    )
    chosen, rejected = encode_preference(
        processor_of(model), preference, EncodeSettings(), PictureReader()
    )
    start = chosen.spans[0][1]
    assert start == rejected.spans[0][1]
    assert (chosen.input_ids[: start + 1] == rejected.input_ids[: start + 1]).all()
    ends = processor_of(model).tokenizer.decode(chosen.targets[-2])
    assert said(model, chosen) == [f"A red one.{ends}"]
    assert said(model, rejected) == [f"Blue.{ends}"]
    assert chosen.row == rejected.row == 4


def test_faults_of_a_preference_name_the_answer():
    preference = Preference((Message("user", ("What?",)),), "Red.", " ", row=4)
    with pytest.raises(DataError, match=r"row 4, rejected: the answer is empty"):
        encode_preference(processor_of("2.6"), preference, EncodeSettings(), PictureReader())
