"""What the library refuses, in the words of requests."""

from minicpmv.errors import ArgumentError, PromptTooLongError
from minicpmv.serve.errors import from_exception


def test_options_are_called_as_in_requests() -> None:
    error = from_exception(
        ArgumentError("`min_new_tokens` is 9 and `max_new_tokens=5`; the first cannot be larger.")
    )
    assert error.message == "min_tokens is 9 and max_tokens=5; the first cannot be larger."
    assert (error.status, error.code, error.param) == (400, "invalid_value", "min_tokens")


def test_values_are_written_as_json_writes_them() -> None:
    marked = "`a=True` or `b=None`; `list_choices=False`, `orders='all'` and `num_beams=3`."
    message = from_exception(ArgumentError(marked)).message
    assert message == 'a=true or b=null; list_choices=false, orders="all" and num_beams=3.'


def test_an_option_with_the_same_name_is_the_field() -> None:
    error = from_exception(ArgumentError("`logit_bias` names token 9; the vocabulary has 5."))
    assert error.param == "logit_bias"


def test_a_long_prompt_is_about_the_messages() -> None:
    error = from_exception(PromptTooLongError("The prompt has 9 tokens; lower `num_frames`."))
    assert (error.code, error.param) == ("context_length_exceeded", "messages")
    assert error.message == "The prompt has 9 tokens; lower mm_processor_kwargs.num_frames."


def test_a_field_that_was_being_read_is_the_field() -> None:
    assert from_exception(ValueError("no"), "prompt").param == "prompt"
