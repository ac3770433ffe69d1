"""`load`, `Chat.ask`, `stream`, `batch` and the running conversation."""

import json
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from minicpmv import Answer, Chat, load
from minicpmv.engine.plan import plan_generation
from minicpmv.media.video import VideoFile

from ..helpers.clips import write_clip
from ..helpers.golden import CHECKPOINTS
from ..helpers.pictures import picture


@pytest.fixture(scope="module", params=["2.5", "2.6"])
def chat(request: pytest.FixtureRequest) -> Chat:
    return load(CHECKPOINTS[request.param], device="cpu")


GREEDY = {"sampling": False, "num_beams": 1, "repetition_penalty": 1.0, "max_new_tokens": 8}


def test_answer_counts_what_it_cost(chat: Chat) -> None:
    answer = chat.ask("What is it?", [picture(40, 30)], **GREEDY)
    assert str(answer) == answer.text
    assert 0 < answer.num_output_tokens <= 8
    assert answer.num_input_tokens > chat.processor.num_queries
    assert answer.finish_reason == ("length" if answer.num_output_tokens == 8 else "stop")
    assert answer.seconds == answer.prompt_seconds + answer.decode_seconds
    num_decoded = answer.num_output_tokens - 1
    assert answer.tokens_per_second == pytest.approx(num_decoded / answer.decode_seconds)


@pytest.mark.parametrize("seed", range(6))
def test_stream_joins_to_the_answer(chat: Chat, seed: int) -> None:
    options = {"sampling": True, "seed": seed, "temperature": 2.0, "max_new_tokens": 30}
    whole = chat.ask("What is it?", [picture(40, 30, seed)], **options)
    stream = chat.stream("What is it?", [picture(40, 30, seed)], **options)
    pieces = list(stream)
    assert "".join(pieces) == whole.text
    assert isinstance(stream.answer, Answer)
    assert stream.answer.text == whole.text
    assert stream.answer.num_output_tokens == whole.num_output_tokens
    assert stream.answer.finish_reason == whole.finish_reason


def test_closing_a_stream_stops_the_generation(chat: Chat) -> None:
    stream = chat.stream("Count.", sampling=True, seed=1, temperature=3.0, max_new_tokens=4000)
    next(stream)
    stream.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "minicpmv-generate"]
    assert stream.answer is None


def test_batch_gives_the_answers_of_ask(chat: Chat) -> None:
    requests = [
        ("What is it?", [picture(40, 30)]),
        "Hello",
        ("Compare the two.", [picture(700, 300, 1), picture(50, 50, 2)]),
        [{"role": "user", "content": ["And this?", picture(20, 90, 3)]}],
    ]
    alone = [
        chat.ask(*request, **GREEDY) if isinstance(request, tuple) else chat.ask(request, **GREEDY)
        for request in requests
    ]
    together = chat.batch(requests, batch_size=3, **GREEDY)
    assert [answer.text for answer in together] == [answer.text for answer in alone]
    assert [a.num_input_tokens for a in together] == [a.num_input_tokens for a in alone]


def test_repetition_penalty_ignores_prompt_and_padding(chat: Chat) -> None:
    requests = [("What is it?", [picture(40, 30)]), "Hello, how are you doing on this fine day?"]
    options = GREEDY | {"repetition_penalty": 1.5}
    alone = [chat.ask(*requests[0], **options).text, chat.ask(requests[1], **options).text]
    assert [answer.text for answer in chat.batch(requests, **options)] == alone


def test_history_keeps_finished_turns_only(chat: Chat) -> None:
    chat.clear()
    first = "".join(chat.say("What is it?", [picture(40, 30)], **GREEDY))
    assert [message["role"] for message in chat.history] == ["user", "assistant"]
    assert chat.history[1]["content"] == first

    chat.say("Go on.", **GREEDY).close()
    interrupted = chat.say("Go on.", sampling=True, seed=1, temperature=3.0, max_new_tokens=2000)
    next(interrupted)
    interrupted.close()
    with pytest.raises(ValueError, match="Unknown option"):
        chat.say("Go on.", nonsense=1)
    assert len(chat.history) == 2

    second = "".join(chat.say("And the colour?", **GREEDY))
    dialogue = [*chat.history[:2], {"role": "user", "content": "And the colour?"}]
    assert second == chat.ask(dialogue, **GREEDY).text
    chat.clear()
    assert chat.history == []


def test_system_prompt(chat: Chat) -> None:
    by_option = chat.ask("Hello", system_prompt="Be brief.", **GREEDY).text
    chat.system = "Be brief."
    try:
        assert chat.ask("Hello", **GREEDY).text == by_option
    finally:
        chat.system = None
    message = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    assert chat.ask(message, **GREEDY).text == by_option


def test_seed_repeats_an_answer(chat: Chat) -> None:
    options = {"sampling": True, "temperature": 3.0, "max_new_tokens": 12}
    answers = {chat.ask("Hello", seed=seed, **options).text for seed in range(4)}
    assert len(answers) > 1
    assert chat.ask("Hello", seed=2, **options).text == chat.ask("Hello", seed=2, **options).text


def test_literal_tags_in_a_question_are_text(chat: Chat) -> None:
    question = "What does <image> mean, and </image>, <unk> and (<image>./</image>)?"
    with_picture = chat.ask(question, [picture(40, 30)], **GREEDY)
    assert isinstance(with_picture.text, str)
    assert chat.ask(question, **GREEDY).num_input_tokens < with_picture.num_input_tokens


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tempreature": 1.0}, "Unknown option 'tempreature'"),
        ({"sampling": False, "top_p": 0.5}, "top_p would have no effect without sampling=True"),
        ({"sampling": True, "length_penalty": 2.0}, "length_penalty would have no effect"),
        ({"sampling": True, "temperature": 0.0}, "it must be above 0"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0; it must be at least 1"),
        ({"num_beams": -1}, "num_beams is -1"),
        ({"repetition_penalty": 0}, "repetition_penalty is 0"),
        ({"sampling": True, "do_sample": False}, "contradict"),
        ({"max_new_tokens": 2.5}, "max_new_tokens is 2.5; it must be a whole number"),
        ({"max_new_tokens": True}, "max_new_tokens is True; it must be a whole number"),
        ({"temperature": "hot"}, "temperature is 'hot'; it must be a number"),
        ({"sampling": "no"}, "sampling is 'no'; it must be True or False"),
        ({"top_p": 2}, "top_p is 2; it must be at most 1"),
        ({"top_k": -1}, "top_k is -1; it must be at least 0"),
        ({"seed": -1}, "seed is -1; it must be at least 0"),
        ({"min_new_tokens": 10, "max_new_tokens": 3}, "the first cannot be larger"),
        ({"max_length": 30}, "Unknown option 'max_length'"),
        ({"eos_token_id": 5}, "Unknown option 'eos_token_id'"),
        ({"max_slice_nums": 0}, "max_slice_nums is 0"),
        ({"max_new_tokens": 10**6}, "max_new_tokens is 1000000"),
    ],
)
def test_bad_options_are_named(chat: Chat, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        chat.ask("Hello", [picture(40, 30)], **options)


@pytest.mark.parametrize("prompt", ["", "  \n"])
def test_empty_prompt_is_an_error(chat: Chat, prompt: str) -> None:
    with pytest.raises(ValueError, match="The prompt is empty"):
        chat.ask(prompt, [picture(40, 30)])


def test_a_single_picture_must_be_in_a_list(chat: Chat) -> None:
    with pytest.raises(ValueError, match=r"pass a list: images=\['street.jpg'\]"):
        chat.ask("What is it?", "street.jpg")
    one = picture(10, 10)
    for image in (one, np.asarray(one), torch.zeros(3, 9, 9), {"a": one}, b"bytes", None):
        with pytest.raises(ValueError, match=r"pass a list: images=\[image\]"):
            chat.ask("What is it?", image)


@pytest.mark.parametrize(
    ("requests", "message"),
    [
        ("hello", "requests is 'hello'; pass a list of requests"),
        ({"role": "user"}, "pass a list of requests"),
        ([("hello",)], r"Request 0: It is \('hello',\); a pair is \(prompt, images\)"),
        ([5], "expected a question, or a list of messages"),
        ([[]], "expected a question, or a list of messages"),
        ([["hello"]], "Message 0 is 'hello'; expected a dict with role and content"),
    ],
)
def test_requests_of_another_form_are_named(chat: Chat, requests: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        chat.batch(requests)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": [None]}, "Message 0 has the block .* which holds nothing"),
        ({"videos": [picture(9, 9)]}, "it must be a file or a list of frames"),
        ({"videos": [b"clip.mp4"]}, "cannot be read as a video"),
        ({"images": [picture(9, 9)], "fps": 2}, "fps would have no effect without a video"),
        ({"videos": "clip.mp4"}, "pass a list: videos="),
    ],
)
def test_what_is_no_picture_and_no_video_is_named(
    chat: Chat, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        chat.ask("What is it?", **arguments)


def test_a_video_file_is_asked_about(chat: Chat, tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", 30)
    frames = list(VideoFile(path))
    options = {"sampling": False, "num_beams": 1, "max_new_tokens": 6}
    expected = chat.ask("What happens?", videos=[frames], **options)
    block = {"type": "video", "video": str(path)}
    for prompt, given in [
        ("What happens?", {"videos": [str(path)]}),
        ("What happens?", {"videos": [path.read_bytes()], "fps": 1}),
        ("What happens?", {"images": [VideoFile(path)]}),
        ([{"role": "user", "content": [block, "What happens?"]}], {}),
    ]:
        answer = chat.ask(prompt, **given, **options)
        assert (answer.text, answer.num_input_tokens) == (expected.text, expected.num_input_tokens)
    more = chat.ask("What happens?", videos=[path], num_frames=5, **options)
    assert more.num_input_tokens > expected.num_input_tokens
    with pytest.raises(FileNotFoundError, match=r"'clip.mp4' does not exist"):
        chat.ask("What happens?", videos=["clip.mp4"])


def test_two_system_prompts_are_an_error(chat: Chat) -> None:
    messages = [{"role": "system", "content": "A"}, {"role": "user", "content": "B"}]
    with pytest.raises(ValueError, match="keep one"):
        chat.ask(messages, system_prompt="C")


def plan(chat: Chat, stored: Any = None, **options: Any) -> Any:
    return plan_generation(chat.processor, stored, options)


def test_defaults_are_the_releases(chat: Chat) -> None:
    drawn = plan(chat)
    assert drawn.config.do_sample
    assert (drawn.config.top_p, drawn.config.top_k, drawn.config.temperature) == (0.8, 100, 0.7)
    assert drawn.repetition_penalty == 1.05
    assert drawn.config.max_new_tokens == {"2.5": 1024, "2.6": 2048}[chat.model.config.version]
    searched = plan(chat, sampling=False)
    assert (searched.config.num_beams, searched.repetition_penalty) == (3, 1.2)
    assert not searched.config.do_sample
    overridden = plan(chat, sampling=False, num_beams=1, repetition_penalty=1.0, max_new_tokens=5)
    assert (overridden.config.num_beams, overridden.config.max_new_tokens) == (1, 5)


def test_generation_config_of_a_checkpoint_wins_over_the_release(chat: Chat) -> None:
    from transformers import GenerationConfig

    stored = GenerationConfig(do_sample=False, num_beams=1, repetition_penalty=1.1)
    quiet = plan(chat, stored)
    assert (quiet.config.do_sample, quiet.config.num_beams) == (False, 1)
    assert quiet.repetition_penalty == 1.1
    drawn = plan(chat, stored, sampling=True)
    assert drawn.config.temperature == 0.7, "the file's values belong to its own mode"
    assert drawn.repetition_penalty == 1.05


def copied(version: str, folder: Path) -> Path:
    shutil.copytree(CHECKPOINTS[version], folder / "model")
    for file in (folder / "model").iterdir():
        file.chmod(0o644)
    (folder / "model").chmod(0o755)
    return folder / "model"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "MiniCPM-V-2_7",
            "Model 'MiniCPM-V-2_7' is not known and no such folder exists. Known: nano",
        ),
        ("./no/such/folder", "is not known and no such folder exists"),
        (__file__, "is a file; a model is a folder with config.json in it"),
    ],
)
def test_unknown_models_are_named(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(name)


def test_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(
        OSError,
        match=r"has no config\.json, so it is not a complete MiniCPM-V or MiniCPM checkpoint",
    ):
        load(tmp_path)


def test_folder_without_settings_for_pictures(tmp_path: Path) -> None:
    folder = copied("2.6", tmp_path)
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(OSError, match=r"has no preprocessor_config\.json"):
        load(folder)


def test_folder_without_a_tokenizer(tmp_path: Path) -> None:
    folder = copied("2.6", tmp_path)
    for name in ("tokenizer.json", "vocab.json"):
        (folder / name).unlink()
    with pytest.raises(OSError, match=r"has no tokenizer\.json or tokenizer\.model or vocab\.json"):
        load(folder)


def test_a_folder_has_no_revisions(tmp_path: Path) -> None:
    for name in ("nano", tmp_path):
        with pytest.raises(ValueError, match="revision='main' has no effect"):
            load(name, revision="main")


def test_unreachable_hub_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def refuse(self: Any, name: str, **options: Any) -> None:
        asked.append(name)
        raise ConnectionError("no route to host")

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", refuse)
    with pytest.raises(
        OSError,
        match=r"'openbmb/MiniCPM-V-9' is not a local folder, no copy is cached, and the .* hub",
    ):
        load("openbmb/MiniCPM-V-9")
    assert asked == ["openbmb/MiniCPM-V-9"]


def test_removed_tensor_is_named(tmp_path: Path) -> None:
    folder = copied("2.6", tmp_path)
    tensors = load_file(folder / "model.safetensors")
    del tensors["resampler.ln_q.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"1 missing: resampler\.ln_q\.weight"):
        load(folder, device="cpu")


def test_truncated_weights_are_one_line(tmp_path: Path) -> None:
    folder = copied("2.6", tmp_path)
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(OSError, match="damaged or not complete"):
        load(folder, device="cpu")


@pytest.mark.parametrize(
    ("file", "key", "value", "message"),
    [
        ("preprocessor_config.json", "image_feature_size", 9, "image_feature_size 9"),
        ("preprocessor_config.json", "patch_size", 16, "patch_size 16"),
        ("preprocessor_config.json", "version", 2.5, "version '2.5'"),
        ("config.json", "version", "2.7", "Version '2.7' of MiniCPM-V is not known"),
    ],
)
def test_files_that_do_not_belong_together(
    tmp_path: Path, file: str, key: str, value: Any, message: str
) -> None:
    folder = copied("2.6", tmp_path)
    fields = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(fields | {key: value}))
    with pytest.raises(ValueError, match=message):
        load(folder, device="cpu")


def test_tokenizer_without_image_tokens(tmp_path: Path) -> None:
    folder = copied("2.6", tmp_path)
    for file in folder.glob("*.json"):
        if file.name != "preprocessor_config.json":
            file.write_text(file.read_text("utf-8").replace("<slice>", "<slyce>"), "utf-8")
    with pytest.raises(ValueError, match="the tokenizer has no token <slice>"):
        load(folder, device="cpu")


def test_dtypes_and_devices(chat: Chat) -> None:
    folder = CHECKPOINTS["2.6"]
    assert load(folder, "cpu", "bf16").model.dtype == torch.bfloat16
    assert load(folder, "cpu", torch.float16).model.dtype == torch.float16
    assert load(folder, "cpu").model.dtype == torch.float32, "auto keeps the checkpoint's"
    spread = load(folder, device_map="auto")
    answer = spread.ask("What is it?", [picture(40, 30)], **GREEDY)
    assert answer.text == load(folder, "cpu").ask("What is it?", [picture(40, 30)], **GREEDY).text
    with pytest.raises(ValueError, match="dtype 'float63' is not known"):
        load(folder, dtype="float63")
    with pytest.raises(ValueError, match="device 'gpu' is not available"):
        load(folder, device="gpu")
    with pytest.raises(ValueError, match="pass one of them"):
        load(folder, device="cpu", device_map="auto")
