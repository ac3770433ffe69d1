"""The snippets of the model cards, with only their imports changed, give the recorded answers."""

import json
from functools import lru_cache
from typing import Any

import pytest
import torch
from PIL import Image

from minicpmv import AutoModel, AutoTokenizer, MiniCPMV, MiniCPMVChat, MiniCPMVProcessor, img2base64

from ..helpers.golden import CHECKPOINTS, Golden
from ..helpers.pictures import picture


@lru_cache
def loaded(version: str) -> tuple[Any, Any, Any]:
    folder = CHECKPOINTS[version]
    model = AutoModel.from_pretrained(folder, trust_remote_code=True, torch_dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    return model.eval(), tokenizer, MiniCPMVProcessor.from_pretrained(folder, compat="released")


# The snippets below keep the wording of the published model cards; only imports and paths differ.


def test_single_image_snippet() -> None:
    path = CHECKPOINTS["2.6"]
    model = AutoModel.from_pretrained(
        path, trust_remote_code=True, attn_implementation="sdpa", torch_dtype=torch.bfloat16
    )
    model = model.eval()
    tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=True)
    image = Golden("2.6").image("p03_336x672").convert("RGB")
    question = "What is in the image?"
    msgs = [{"role": "user", "content": [image, question]}]

    res = model.chat(image=None, msgs=msgs, tokenizer=tokenizer, max_new_tokens=4)
    assert isinstance(res, str)
    assert model.dtype == torch.bfloat16

    torch.manual_seed(0)
    res = model.chat(image=None, msgs=msgs, tokenizer=tokenizer, max_new_tokens=8)
    torch.manual_seed(0)
    generated_text = ""
    for new_text in model.chat(
        image=None, msgs=msgs, tokenizer=tokenizer, sampling=True, stream=True, max_new_tokens=8
    ):
        generated_text += new_text
    assert generated_text.strip() == res


def test_first_llama3_snippet() -> None:
    model, tokenizer, _ = loaded("2.5")
    image = Golden("2.5").image("p02_448x448").convert("RGB")
    msgs = [{"role": "user", "content": "What is in the image?"}]
    torch.manual_seed(3)
    res = model.chat(
        image=image,
        msgs=msgs,
        tokenizer=tokenizer,
        sampling=True,
        temperature=0.7,
        max_new_tokens=6,
        # system_prompt='' # pass system_prompt if needed
    )
    torch.manual_seed(3)
    hotter = model.chat(
        image=image, msgs=msgs, tokenizer=tokenizer, temperature=5.0, top_k=700, max_new_tokens=6
    )
    assert res != hotter, "temperature is used"
    shouted = model.chat(
        image=image,
        msgs=msgs,
        tokenizer=tokenizer,
        sampling=False,
        system_prompt="Shout.",
        max_new_tokens=6,
    )
    plain = model.chat(
        image=image, msgs=msgs, tokenizer=tokenizer, sampling=False, max_new_tokens=6
    )
    assert shouted != plain, "system_prompt is used"


def test_few_shot_snippet_is_one_conversation() -> None:
    model, tokenizer, _ = loaded("2.6")
    names = ("p01_tiny_30x40", "p03_336x672", "p13_halfround_63x65")
    image1, image2, image_test = (Golden("2.6").image(name).convert("RGB") for name in names)
    question = "production date"
    msgs = [
        {"role": "user", "content": [image1, question]},
        {"role": "assistant", "content": ["2023.08.04"]},
        {"role": "user", "content": [image2, question]},
        {"role": "assistant", "content": ["2007.04.24"]},
        {"role": "user", "content": [image_test, question]},
    ]
    settings = {"tokenizer": tokenizer, "sampling": False, "max_new_tokens": 6}
    answer = model.chat(image=None, msgs=msgs, **settings)
    shuffled = [msgs[2], msgs[1], msgs[0], *msgs[3:]]
    assert model.chat(image=None, msgs=shuffled, **settings) != answer, "every example is seen"


def test_video_snippet_uses_its_parameters() -> None:
    model, tokenizer, _ = loaded("2.6")
    frames = [Golden("2.6").image(f"p21_frame{i}_760x430").convert("RGB") for i in range(2)]
    msgs = [{"role": "user", "content": [*frames, "Describe the video"]}]
    params = {"use_image_id": False, "max_slice_nums": 2}
    settings = {"tokenizer": tokenizer, "sampling": False, "max_new_tokens": 6}
    answer = model.chat(image=None, msgs=msgs, **settings, **params)
    assert answer != model.chat(image=None, msgs=msgs, **settings), "the parameters are used"


def test_first_readme_snippet(tmp_path: Any) -> None:
    Golden("2.5").image("p03_336x672").save(tmp_path / "picture.jpg")
    chat_model = MiniCPMVChat(CHECKPOINTS["2.5"], device="cpu")
    im_64 = img2base64(tmp_path / "picture.jpg")
    msgs = [{"role": "user", "content": "What is interesting about this image?"}]
    inputs = {"image": im_64, "question": json.dumps(msgs)}
    options = {"sampling": False, "max_new_tokens": 5}
    answer = chat_model.chat(inputs, **options)

    with Image.open(tmp_path / "picture.jpg") as image:
        model, tokenizer, _ = loaded("2.5")
        expected = model.chat(image=image, msgs=msgs, tokenizer=tokenizer, **options)
    assert answer == expected

    # Second round of chat: the history is passed back as text.
    msgs += [{"role": "assistant", "content": answer}, {"role": "user", "content": "Where is it?"}]
    inputs = {"image": im_64, "question": json.dumps(msgs)}
    assert isinstance(chat_model.chat(inputs, **options), str)


def test_vision_hidden_states_replace_the_tower() -> None:
    model, tokenizer, processor = loaded("2.6")
    image = Golden("2.6").image("p01_tiny_30x40")
    msgs = [{"role": "user", "content": [image, "What is the color?"]}]
    settings = {"tokenizer": tokenizer, "processor": processor, "sampling": False}
    settings |= {"max_new_tokens": 8}
    features = processor.image_processor(image, return_tensors="pt")
    with torch.inference_mode():
        encoded = model.get_image_features(features["pixel_values"], features["target_sizes"])
    answer = model.chat(msgs=msgs, **settings)
    assert answer == model.chat(msgs=msgs, vision_hidden_states=[encoded.pooler_output], **settings)
    blind = [torch.zeros_like(encoded.pooler_output)]
    assert answer != model.chat(msgs=msgs, vision_hidden_states=blind, **settings)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temperatur": 0.5}, "Unknown option 'temperatur'"),
        (
            {"sampling": False, "temperature": 0.5},
            "temperature would have no effect without sampling=True",
        ),
        ({"image": "picture"}, "image= was given, but the content of the first message is a list"),
        ({"msgs": None}, "msgs is missing"),
        ({"msgs": []}, "expected a list of messages"),
        ({"msgs": {"role": "user"}}, "msgs is dict; expected a list of messages"),
        ({"msgs": "what?"}, "msgs is not JSON text"),
        ({"msgs": [{"role": "user", "content": ""}]}, "The last message is empty"),
        ({"msgs": [{"role": "assistant", "content": "Hi"}]}, "it must be a user's"),
        ({"vision_hidden_states": []}, "pass a tensor per conversation"),
        ({"processor": 5}, "processor is int; expected a MiniCPMVProcessor"),
        ({"max_inp_length": 20}, "max_inp_length is 20; cutting it would lose the end of the que"),
    ],
)
def test_what_was_ignored_or_crashed_is_a_clear_error(
    arguments: dict[str, Any], message: str
) -> None:
    model, tokenizer, _ = loaded("2.6")
    image = Golden("2.6").image("p01_tiny_30x40")
    msgs = [{"role": "user", "content": [image, "What is it?"]}]
    if arguments.get("image") == "picture":
        arguments = {"image": image}
    arguments = {"msgs": msgs, "tokenizer": tokenizer} | arguments
    with pytest.raises(ValueError, match=message):
        list(model.chat(**arguments))  # a stream raises at its first piece at the latest


def test_a_picture_given_by_its_path_is_seen(tmp_path: Any) -> None:
    model, tokenizer, _ = loaded("2.6")
    image = Golden("2.6").image("p01_tiny_30x40")
    image.save(tmp_path / "tiny.png")
    msgs = [{"role": "user", "content": "What is it?"}]
    settings = {"msgs": msgs, "tokenizer": tokenizer, "sampling": False, "max_new_tokens": 8}
    assert model.chat(image=str(tmp_path / "tiny.png"), **settings) == model.chat(
        image=image, **settings
    )


def test_released_layout_gives_the_same_logits_and_tokens() -> None:
    model, _, processor = loaded("2.6")
    texts = ["(<image>./</image>) and (<image>./</image>)", "text only", "(<image>./</image>)"]
    images = [[picture(40, 30), picture(500, 900, 1)], [], [picture(30, 60, 2)]]
    rows = processor(texts, images)
    nested = processor(texts, images, return_released_layout=True)
    assert isinstance(nested["pixel_values"], list)
    with torch.inference_mode():
        expected = model(**rows).logits
        assert torch.equal(model(**nested).logits, expected)
        assert torch.equal(model(dict(nested)).logits, expected)
        settings = {"max_new_tokens": 4, "do_sample": False, "num_beams": 2}
        assert torch.equal(model.generate(**nested, **settings), model.generate(**rows, **settings))
    nested = processor(["text only"], [[]], return_released_layout=True)
    with torch.inference_mode():
        alone = model(**processor(["text only"])).logits
        assert torch.equal(model(**nested).logits, alone)


def test_auto_model_has_the_head_and_transformers_own_has_not() -> None:
    import transformers

    folder = CHECKPOINTS["2.6"]
    assert type(AutoModel.from_pretrained(folder)) is MiniCPMV
    assert not hasattr(transformers.AutoModel.from_pretrained(folder), "lm_head")


def test_a_tokenizer_keeps_the_template_of_the_checkpoint() -> None:
    model = AutoModel.from_pretrained(CHECKPOINTS["2.6"])
    own = model._processor_with(None, None)
    own.chat_template = "Answer in French. " + own.chat_template
    tokenizer = AutoTokenizer.from_pretrained(CHECKPOINTS["2.6"])
    processor = model._processor_with(tokenizer, None)
    assert processor.tokenizer is tokenizer
    assert processor.chat_template == own.chat_template


def test_keys_of_the_input_that_have_no_effect_are_errors() -> None:
    chat_model = MiniCPMVChat(CHECKPOINTS["2.5"], device="cpu")
    question = json.dumps([{"role": "user", "content": "What?"}])
    with pytest.raises(ValueError, match="the key 'images', which has no effect"):
        chat_model.chat({"image": "", "question": question, "images": []})
