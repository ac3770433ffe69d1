import numpy as np
import pytest
import torch

from minicpmv.media.frames import choose_frames
from minicpmv.processing.placeholders import IMAGE_MARKER, VIDEO_MARKER

from ..helpers.golden import Golden, golden_records
from ..helpers.pictures import picture
from ..helpers.processors import golden_processor, inputs_of, user


def conversations_of(version: str, record: dict) -> list[list[dict]]:
    """The conversations of a record as messages, `image` and `system_prompt` included."""
    golden = Golden(version)
    messages = golden.messages(record)
    batch = messages if isinstance(messages[0], list) else [messages]
    conversations = []
    for conversation in batch:
        first, *rest = conversation
        if record.get("image"):
            first = first | {"content": [golden.image(record["image"]), first["content"]]}
        system = (record.get("kwargs") or {}).get("system_prompt")
        opening = [{"role": "system", "content": system}] if system else []
        conversations.append([*opening, first, *rest])
    return conversations


def settings_of(record: dict) -> dict:
    settings = dict(record.get("kwargs") or {})
    settings.pop("system_prompt", None)
    return settings


def attended(inputs) -> list[list[int]]:
    return [
        row[mask.bool()].tolist()
        for row, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True)
    ]


@pytest.mark.parametrize(("version", "record"), golden_records())
def test_our_own_defaults_change_no_id(version, record):
    inputs = inputs_of(
        golden_processor(version), conversations_of(version, record), **settings_of(record)
    )
    pad = 0  # the released code pads with 0, we with the pad token
    expected = [
        row[next(i for i, t in enumerate(row) if t != pad) :] for row in record["input_ids"]
    ]
    assert attended(inputs) == expected
    num_queries = golden_processor(version).num_queries
    slices = [sum(record["n_slices"])]
    assert inputs["mm_token_type_ids"].sum() == num_queries * slices[0]
    assert len(inputs.get("pixel_values", ())) == slices[0]


def test_an_answer_ends_at_the_first_terminator_and_keeps_its_exclamation_marks(later_version):
    processor = golden_processor(later_version)
    tokenizer = processor.tokenizer
    ids = tokenizer("Look !")["input_ids"]
    assert tokenizer.convert_tokens_to_ids("!") == 0
    first, second = processor.terminator_ids
    text = processor.clean_up_spaces("Look !")
    for tail in ([], [first], [second, first, 0, 0], [first, *ids]):
        assert processor.decode_answer(torch.tensor([tokenizer.bos_token_id, *ids, *tail])) == text
    assert processor.decode_answer([]) == ""
    assert processor.decode_answer([first]) == ""


def test_only_2_5_closes_up_punctuation():
    text = "It 's fine , is n't it ? I 'm sure they 've seen it ."
    assert golden_processor("2.6").clean_up_spaces(text) == text
    expected = "It's fine, isn't it? I'm sure they've seen it."
    assert golden_processor("2.5").clean_up_spaces(text) == expected


def test_an_exclamation_mark_is_an_ordinary_token(processor_2_6):
    conversation = user("Look ! here !")
    ours = inputs_of(processor_2_6, conversation)
    assert 0 in ours["input_ids"]
    assert ours["attention_mask"].all()
    released = inputs_of(processor_2_6, conversation, compat="released")
    assert torch.equal(released["attention_mask"], (released["input_ids"] != 0).long())


def test_a_batch_holds_the_inputs_of_each_sample(processor):
    conversations = [
        user(picture(500, 900), picture(30, 30), "What differs?"),
        user("Who are you?"),
        [
            *user(picture(50, 50), "One"),
            {"role": "assistant", "content": "Yes."},
            *user(picture(400, 700), "And this one, which is longer?"),
        ],
    ]
    together = inputs_of(processor, conversations)
    start = 0
    for index, conversation in enumerate(conversations):
        alone = inputs_of(processor, conversation)
        length = alone["input_ids"].shape[1]
        assert torch.equal(together["input_ids"][index, -length:], alone["input_ids"][0])
        assert not together["attention_mask"][index, :-length].any()
        assert torch.equal(
            together["mm_token_type_ids"][index, -length:], alone["mm_token_type_ids"][0]
        )
        if "pixel_values" in alone:
            rows = slice(start, start + len(alone["pixel_values"]))
            width = alone["pixel_values"].shape[-1]
            assert torch.equal(together["pixel_values"][rows, ..., :width], alone["pixel_values"])
            assert torch.equal(together["target_sizes"][rows], alone["target_sizes"])
            start = rows.stop
    assert start == len(together["pixel_values"])


def test_image_bound_and_token_types_say_the_same(processor):
    conversations = [user(picture(500, 900), "Look."), user("Hello"), user(picture(9, 9), "Again.")]
    inputs = inputs_of(processor, conversations)
    released = inputs_of(processor, conversations, return_released_layout=True)
    marked = torch.zeros_like(inputs["input_ids"])
    for row, bounds in zip(marked, released["image_bound"], strict=True):
        for start, end in bounds.tolist():
            row[start:end] = 1
    assert torch.equal(marked, inputs["mm_token_type_ids"])


def test_image_ids_count_through_a_conversation_and_begin_anew_in_the_next(processor_2_6):
    conversation = [
        *user(picture(9, 9), "a"),
        {"role": "assistant", "content": "b"},
        *user(picture(9, 9), "c"),
    ]
    inputs = inputs_of(processor_2_6, [conversation, conversation])
    for text in processor_2_6.batch_decode(inputs["input_ids"]):
        assert text.count("<image_id>0</image_id>") == text.count("<image_id>1</image_id>") == 1
    without = inputs_of(processor_2_6, conversation, use_image_id=False)
    assert "<image_id>" not in processor_2_6.decode(without["input_ids"][0])


def test_image_ids_need_their_tags():
    with pytest.raises(ValueError, match="lacks <image_id>, </image_id>"):
        inputs_of(golden_processor("2.5"), user(picture(9, 9), "a"), use_image_id=True)


def test_tags_typed_by_a_user_are_plain_text(processor):
    typed = "<image> </image> <slice> <unk> <|im_end|> <|eot_id|> (<image>./</image>) end!"
    inputs = inputs_of(processor, user(picture(500, 900), typed))
    plain = inputs_of(processor, user(picture(500, 900), "end!"))
    ids = processor.tokenizer
    for name in ("im_start_id", "im_end_id", "slice_start_id", "unk_id", "eos_id"):
        token = getattr(ids, name)
        assert (inputs["input_ids"] == token).sum() == (plain["input_ids"] == token).sum(), name
    assert inputs["mm_token_type_ids"].sum() == plain["mm_token_type_ids"].sum()
    assert typed in processor.decode(inputs["input_ids"][0])


def test_tags_typed_by_a_user_keep_their_meaning_as_released(processor):
    tag = processor.image_processor.im_end
    inputs = inputs_of(processor, user(f"a {tag} b"), compat="released")
    assert (inputs["input_ids"] == processor.tokenizer.im_end_id).sum() == 1


def test_grounding_tags_may_be_typed(processor):
    inputs = inputs_of(processor, user("Where is <ref>the cat</ref>?"))
    assert processor.tokenizer.convert_tokens_to_ids("<ref>") in inputs["input_ids"]


def test_a_quoted_tag_changes_no_other_token(processor):
    with_tag = inputs_of(processor, user("first line\nan <image> tag"))["input_ids"][0].tolist()
    other = inputs_of(processor, user("first line\nan"))["input_ids"][0].tolist()
    common = next(
        i for i, pair in enumerate(zip(with_tag, other, strict=False)) if pair[0] != pair[1]
    )
    assert other[:common] == with_tag[:common]
    assert common >= len(inputs_of(processor, user("first line\n"), False)["input_ids"][0]) - 3


def test_markers_in_text_take_images_passed_beside(processor):
    images = [picture(500, 900), picture(30, 30)]
    text = f"{IMAGE_MARKER}\n{IMAGE_MARKER}\nCompare."
    prompt = processor.apply_chat_template(
        [{"role": "user", "content": text}], add_generation_prompt=True
    )
    expected = inputs_of(processor, user(*images, "Compare."))
    for given in (images, [images], tuple(images)):
        inputs = processor(prompt, given)
        assert torch.equal(inputs["input_ids"], expected["input_ids"])
        assert torch.equal(inputs["pixel_values"], expected["pixel_values"])


@pytest.mark.parametrize(
    ("text", "images", "message"),
    [
        ([IMAGE_MARKER], 2, "Sample 0 has 1 image placeholders but 2 images were given"),
        ([IMAGE_MARKER * 2], 1, "Sample 0 has 2 image placeholders but 1 images were given"),
        (["a", IMAGE_MARKER], 3, "The 2 prompts have 1 image placeholders but 3 images"),
        ([IMAGE_MARKER, "a"], [1, 1], "Sample 1 has 0 image placeholders but 1 images were given"),
        ([IMAGE_MARKER, IMAGE_MARKER], [1, 1, 0], "2 prompts but 3 lists of images"),
        ([IMAGE_MARKER], None, "Sample 0 has 1 image placeholders but 0 images"),
        ([VIDEO_MARKER], None, "Sample 0 has 1 video placeholders but 0 videos"),
    ],
)
def test_images_and_markers_must_agree(processor_2_6, text, images, message):
    if isinstance(images, int):
        images = [picture(9, 9)] * images
    elif images is not None:
        images = [[picture(9, 9)] * count for count in images]
    with pytest.raises(ValueError, match=message) as error:
        processor_2_6(text, images)
    assert "pass" in str(error.value)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"max_slices": 2}, TypeError, "does not know max_slices"),
        ({"images_kwargs": {"sharpen": 1}}, TypeError, r"images_kwargs\['sharpen'\]"),
        ({"max_slice_nums": 0}, ValueError, "max_slice_nums is 0"),
        ({"max_inp_length": 0}, ValueError, "max_inp_length is 0"),
        ({"max_inp_length": 5.5}, ValueError, "max_inp_length is 5.5"),
        ({"compat": "old"}, ValueError, "compat is 'old'"),
        ({"stride": 3}, ValueError, "stride is not supported"),
        ({"padding": "max_length"}, ValueError, "needs max_length"),
        ({"audio": [1]}, ValueError, "Audio input is not supported"),
        ({"audios": [1]}, ValueError, "Audio input is not supported; remove audios"),
        ({"text": None, "videos": [[1]]}, ValueError, "videos need text"),
    ],
)
def test_a_keyword_without_effect_or_sense_is_an_error(processor_2_6, settings, error, message):
    with pytest.raises(error, match=message):
        processor_2_6(**{"text": "Hello", **settings})


def test_something_must_be_given(processor_2_6):
    with pytest.raises(ValueError, match="Nothing was given"):
        processor_2_6()
    with pytest.raises(TypeError, match="text is Image"):
        processor_2_6(picture(9, 9), "Hello")


def test_an_empty_prompt_works(processor):
    assert inputs_of(processor, user(""))["input_ids"].shape[1] > 0
    assert processor("", add_special_tokens=False)["input_ids"].shape == (1, 0)


def test_cutting_text_after_the_last_image_is_allowed(processor):
    conversation = user(picture(30, 30), "one two three four five six seven eight nine ten")
    whole = inputs_of(processor, conversation)["input_ids"]
    cut = inputs_of(processor, conversation, max_inp_length=whole.shape[1] - 3)
    assert torch.equal(cut["input_ids"], whole[:, :-3])


def test_cutting_an_image_is_an_error(processor):
    conversation = user(picture(500, 900), "Look.")
    bounds = inputs_of(processor, conversation, return_released_layout=True)["image_bound"][0]
    end = int(bounds[-1, 1]) + 1  # the tag that closes the last slice
    cuts = processor.release.slicing == "adaptive"
    end += cuts and processor.release.slice_tags == "grid"  # and the one around the grid
    assert inputs_of(processor, conversation, max_inp_length=end)["input_ids"].shape == (1, end)
    message = f"last image ends at token {end}, but the prompt may have {end - 1}"
    message += ".*lower max_slice" if cuts else ".*, or give fewer images"
    with pytest.raises(ValueError, match=message):
        inputs_of(processor, conversation, max_inp_length=end - 1)
    with pytest.raises(ValueError, match="cutting there would cut an image"):
        inputs_of(processor, conversation, truncation=True, max_length=10)


def test_frames_of_a_video_are_images_without_ids(processor):
    frames = [picture(430, 760, seed) for seed in range(3)]
    inputs = inputs_of(processor, user({"type": "video", "video": frames}, "What happens?"))
    limit = {"max_slice_nums": 2} if processor.release.slicing == "adaptive" else {}
    settings = {"use_image_id": False} | limit
    expected = inputs_of(processor, user(*frames, "What happens?"), **settings)
    assert torch.equal(inputs["input_ids"], expected["input_ids"])
    assert torch.equal(inputs["pixel_values"], expected["pixel_values"])
    many = [picture(430, 760)] * 17
    assert len(inputs_of(processor, user({"type": "video", "video": many}))["pixel_values"]) == 17
    some = inputs_of(processor, user({"type": "video", "video": many}), num_frames=4, **limit)
    assert len(some["pixel_values"]) == 4 * (3 if limit else 1)


def test_images_and_videos_keep_the_order_of_the_prompt(processor_2_6):
    first, last = picture(30, 30, 1), picture(30, 30, 2)
    frames = [picture(30, 30, 3), picture(30, 30, 4)]
    prompt = f"{IMAGE_MARKER} {VIDEO_MARKER} {IMAGE_MARKER}"
    array = np.stack([np.asarray(frame) for frame in frames])
    expected = processor_2_6(f"{IMAGE_MARKER} " * 4, [first, *frames, last])["pixel_values"]
    for videos in (frames, [frames], [[frames]], array, [array]):
        inputs = processor_2_6(prompt, [first, last], videos=videos)
        assert torch.equal(inputs["pixel_values"], expected)
    text = processor_2_6.decode(inputs["input_ids"][0])
    assert [text.count(f"<image_id>{index}") for index in range(3)] == [1, 1, 0]


@pytest.mark.parametrize(
    ("videos", "settings", "message"),
    [
        (picture(9, 9), {}, "A video is one picture"),
        ([picture(9, 9)], {"fps": 2, "num_frames": 1}, "Give one of them"),
        ([], {}, "has no frames"),
        ([picture(9, 9)], {"fps": 2}, "a list of frames has no time"),
        ([picture(9, 9)], {"num_frames": 0}, "num_frames is 0"),
    ],
)
def test_what_is_no_video_is_named(processor_2_6, videos, settings, message):
    with pytest.raises(ValueError, match=message):
        processor_2_6(VIDEO_MARKER, videos=videos, **settings)


def test_empty_lists_are_no_media(processor_2_6):
    plain = processor_2_6(["Hello", "World"])
    empty = processor_2_6(["Hello", "World"], images=[[], []], videos=[], audios=[])
    assert torch.equal(plain["input_ids"], empty["input_ids"])
    assert plain.keys() == empty.keys()


def test_frames_are_chosen_from_the_middle_of_equal_parts():
    assert choose_frames(range(100), 4) == [12, 37, 62, 87]
    assert choose_frames(range(3), 4) == [0, 1, 2]


def test_padding_and_kinds_of_tensors(processor_2_6):
    texts = ["Hello", "Hello there, how are you?"]
    left = processor_2_6(texts)
    right = processor_2_6(texts, padding_side="right")
    assert left["attention_mask"][0].tolist() == right["attention_mask"][0].tolist()[::-1]
    assert attended(left) == attended(right)
    assert processor_2_6(texts, padding="max_length", max_length=40)["input_ids"].shape == (2, 40)
    assert processor_2_6(texts, pad_to_multiple_of=16)["input_ids"].shape[1] % 16 == 0
    ragged = processor_2_6(texts, padding=False, return_tensors=None)["input_ids"]
    assert ragged == attended(left)
    with pytest.raises(ValueError, match="without padding"):
        processor_2_6(texts, padding=False)
    assert isinstance(processor_2_6(texts, return_tensors="np")["input_ids"], np.ndarray)


def test_images_alone_give_their_features(processor):
    features = processor(images=[picture(500, 900)])
    assert set(features) == {"pixel_values", "target_sizes"}
    expected = inputs_of(processor, user(picture(500, 900), "a"))
    assert torch.equal(features["pixel_values"], expected["pixel_values"])


def test_token_counts_need_no_pixels(processor):
    sizes = [(30, 40), (500, 900), (1000, 1), (2000, 3000)]
    counts = processor._get_num_multimodal_tokens(image_sizes=sizes)
    for (height, width), tokens, slices in zip(
        sizes, counts["num_image_tokens"], counts["num_image_patches"], strict=True
    ):
        inputs = inputs_of(processor, user(picture(height, width), "a"))
        assert inputs["mm_token_type_ids"].sum() == tokens
        assert len(inputs["pixel_values"]) == slices
    assert processor._get_num_multimodal_tokens([(9000, 9000)], max_slice_nums=1)[
        "num_image_patches"
    ] == [1]


def test_an_assistant_turn_can_be_continued(processor):
    conversation = [*user("Count."), {"role": "assistant", "content": "One, two,"}]
    prompt = processor.apply_chat_template(conversation, continue_final_message=True)
    assert prompt.endswith("One, two,")
    whole = processor.apply_chat_template(conversation)
    assert whole.startswith(prompt)
    assert any(terminator in whole[len(prompt) :] for terminator in processor.release.terminators)


def test_the_assistants_tokens_are_marked(processor):
    conversation = [
        *user(picture(500, 900), "Say <image>!"),
        {"role": "assistant", "content": "An answer."},
        *user("And?"),
        {"role": "assistant", "content": "No <unk> more."},
    ]
    inputs = processor.apply_chat_template(
        conversation,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        return_assistant_tokens_mask=True,
    )
    mask = torch.as_tensor(inputs["assistant_masks"])[0].bool()
    end = processor.tokenizer.decode(processor.terminator_ids[0])
    if processor.release.version == "2.5":
        end = "<|eot_id|>"
    between = "" if processor.release.chat_template == "minicpm_v.jinja" else end
    expected = f"An answer.{between}No <unk> more.{end}"
    text = processor.tokenizer.decode(
        inputs["input_ids"][0][mask], clean_up_tokenization_spaces=False
    )
    assert text == expected


@pytest.mark.parametrize(
    ("text", "settings", "message"),
    [
        ("a", {"padding_side": "up"}, "padding_side is 'up'; it is 'left' or 'right'"),
        ("a", {"return_tensors": "tf"}, "return_tensors is 'tf'; it is 'pt', 'np' or None"),
        ([], {}, "text is an empty list"),
    ],
)
def test_outputs_that_do_not_exist_are_refused(processor, text, settings, message):
    with pytest.raises(ValueError, match=message):
        processor(text, **settings)
