"""Answers and their prompts: templates that do not keep them apart are refused."""

import copy

import pytest

from minicpmv.processing.turns import Looked, TemplateError, turn_ids

from ..helpers.conversations import MODELS, processor_of, reads_pictures

TALK = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello!"},
    {"role": "user", "content": "More"},
    {"role": "assistant", "content": "Yes."},
]


def with_template(model, template):
    processor = copy.copy(processor_of(model))
    if reads_pictures(model):
        processor.chat_template = template
    else:
        processor.tokenizer = copy.deepcopy(processor.tokenizer)
        processor.tokenizer.chat_template = template
    return processor


@pytest.mark.parametrize("model", MODELS)
def test_turns_of_a_conversation(model):
    processor = processor_of(model)
    turns = turn_ids(processor, TALK)
    first, second = turns.turns
    assert [turn.message for turn in turns.turns] == [1, 3]
    assert [turn.text for turn in turns.turns] == ["Hello!", "Yes."]
    assert second.prompt[: len(first.prompt)] == first.prompt
    assert second.prompt[len(first.prompt) :][: len(first.answer)] == first.answer
    assert first.terminator in processor.terminator_ids
    assert turns.mm_token_type_ids is second.mm_token_type_ids
    assert turn_ids(processor, TALK, only=[3]).turns[0].prompt == second.prompt


@pytest.mark.parametrize("model", MODELS)
def test_the_template_says_whether_the_terminator_is_written(model):
    writes = model not in ("minicpm-1b", "minicpm-2b", "minicpm-moe-8x2b")
    assert all(turn.is_written == writes for turn in turn_ids(processor_of(model), TALK).turns)


@pytest.mark.parametrize("model", [m for m in MODELS if reads_pictures(m)])
def test_pictures_stand_where_their_spans_say(model):
    processor = processor_of(model)
    looked = [Looked(((900, 1300),)), Looked(((40, 60),)), Looked(((500, 700),) * 2, "video")]
    kinds = [{"type": "image"}, {"type": "text", "text": "and"}, {"type": "image"}]
    messages = [
        {"role": "user", "content": [*kinds, {"type": "text", "text": "What?"}]},
        TALK[1],
        {"role": "user", "content": [{"type": "video"}]},
        TALK[3],
    ]
    turns = turn_ids(processor, messages, looked)
    first, second = turns.turns
    assert len(first.picture_spans) == 2
    assert len(second.picture_spans) == 3
    assert second.picture_spans[:2] == first.picture_spans
    for (start, end), sizes in zip(second.picture_spans, turns.target_sizes, strict=True):
        shown = second.mm_token_type_ids[start:end]
        assert shown.sum() == len(sizes) * processor.num_queries
        assert not shown[0]
        assert not shown[-1]
    assert second.mm_token_type_ids.sum() == sum(
        second.mm_token_type_ids[start:end].sum() for start, end in second.picture_spans
    )


@pytest.mark.parametrize("model", ["2.6", "minicpm-2b"])
def test_a_template_that_hides_answers_is_refused(model):
    template = (
        "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}"
    )
    with pytest.raises(TemplateError, match="does not write the answers"):
        turn_ids(with_template(model, template), TALK)


@pytest.mark.parametrize("model", ["2.6", "minicpm-2b"])
def test_a_template_whose_prompt_is_not_in_front_of_the_answer_is_refused(model):
    template = (
        "{% for m in messages %}{{ m.role ~ ': ' ~ m.content ~ '\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'Your turn: ' }}{% endif %}"
    )
    with pytest.raises(TemplateError, match="behind its generation prompt"):
        turn_ids(with_template(model, template), TALK)


def test_a_template_that_leaves_pictures_out_is_refused():
    template = (
        "{% for m in messages %}{{ m.role }}:{% if m.content is string %}{{ m.content }}{% endif %}"
        "\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
    )
    messages = [{"role": "user", "content": [{"type": "image"}]}, TALK[1]]
    with pytest.raises(ValueError, match="writes 0 of the 1 pictures"):
        turn_ids(with_template("2.6", template), messages, [Looked(((40, 60),))])


def test_a_conversation_that_begins_with_an_answer_is_refused():
    with pytest.raises(ValueError, match="begins with an answer"):
        turn_ids(processor_of("2.6"), TALK[1:])


def test_settings_of_a_call_are_not_changed():
    given = {"max_slice_nums": 2}
    for model in ("2.5", "2.6"):  # a template that writes the first token, and one that does not
        processor_of(model).apply_chat_template(
            TALK, tokenize=True, return_dict=True, processor_kwargs=given
        )
    assert given == {"max_slice_nums": 2}
