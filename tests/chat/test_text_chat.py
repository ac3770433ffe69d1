"""Text models: `load`, `Chat` and the released `chat()` on the recorded checkpoints."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from minicpmv import AutoModel, AutoModelForCausalLM, AutoProcessor, AutoTokenizer, Chat, load
from minicpmv.checkpoint.hub import Checkpoint
from minicpmv.engine import scheduler
from minicpmv.engine.hf import generate_ids
from minicpmv.engine.plan import plan_generation
from minicpmv.engine.sampling import Choice, Chooser
from minicpmv.export.convert import convert
from minicpmv.model.minicpm import MiniCPMForCausalLM

from ..helpers.golden import GOLDEN
from ..helpers.pictures import picture
from ..helpers.text_models import MODELS, in_llama_format, recorded

GREEDY = {"sampling": False, "max_new_tokens": 8}


def folder(model: str) -> Path:
    return GOLDEN / model / "ckpt"


@lru_cache
def loaded(model: str) -> Chat:
    return load(folder(model), device="cpu")


@pytest.fixture(params=MODELS)
def chat(request: pytest.FixtureRequest) -> Chat:
    return loaded(request.param)


def test_answer_and_stream_and_batch_agree(chat: Chat) -> None:
    questions = ["hello", "What is 12 + 30? Think before you answer.", "再见"]
    alone = [chat.ask(question, **GREEDY) for question in questions]
    assert [answer.text for answer in chat.batch(questions, **GREEDY)] == [a.text for a in alone]
    for question, answer in zip(questions, alone, strict=True):
        stream = chat.stream(question, **GREEDY)
        assert "".join(stream) == answer.text
        assert stream.answer is not None
        assert stream.answer.num_output_tokens == answer.num_output_tokens
        assert stream.answer.finish_reason == answer.finish_reason


@pytest.mark.parametrize("seed", range(4))
def test_stream_joins_to_the_answer(chat: Chat, seed: int) -> None:
    options = {"seed": seed, "temperature": 2.0, "max_new_tokens": 24}
    whole = chat.ask("hello", **options)
    assert "".join(chat.stream("hello", **options)) == whole.text


def test_conversation_and_system_prompt(chat: Chat) -> None:
    chat.clear()
    first = "".join(chat.say("hello", **GREEDY))
    second = "".join(chat.say("Go on.", **GREEDY))
    turns = [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": first},
        {"role": "user", "content": "Go on."},
    ]
    assert second == chat.ask(turns, **GREEDY).text
    chat.clear()
    system = {"role": "system", "content": "Be brief."}
    assert (
        chat.ask([system, *turns[:1]], **GREEDY).text
        == chat.ask("hello", system_prompt="Be brief.", **GREEDY).text
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": [picture(9, 9)]}, "reads text only. Load a release that supports images"),
        ({"videos": [[picture(9, 9)]]}, "reads text only"),
        ({"max_slice_nums": 2}, "max_slice_nums would have no effect"),
        ({"max_new_tokens": 9999}, "max_new_tokens is 9999"),
    ],
)
def test_what_text_models_cannot_do_is_named(
    chat: Chat, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        chat.ask("What is it?", **arguments)


def test_defaults_are_those_of_the_released_chat(chat: Chat) -> None:
    drawn = plan_generation(chat.processor, chat.model.generation_config, {})
    assert drawn.config.do_sample
    assert (drawn.config.top_p, drawn.config.top_k, drawn.config.temperature) == (0.8, 50, 0.3)
    assert drawn.repetition_penalty == 1.0
    greedy = plan_generation(chat.processor, chat.model.generation_config, {"sampling": False})
    assert greedy.config.num_beams == 1


def test_a_checkpoint_may_ask_for_another_temperature(chat: Chat) -> None:
    from transformers import GenerationConfig

    stored = GenerationConfig(do_sample=True, top_p=0.8, temperature=0.5)
    assert plan_generation(chat.processor, stored, {}).config.temperature == 0.5


def dictate(monkeypatch: pytest.MonkeyPatch, chat: Chat, text: str) -> list[int]:
    """Let every answer of the chat be this text, and then the end."""
    ids = chat.processor.tokenizer(text, add_special_tokens=False)["input_ids"]
    said = [*ids, 2]

    def choose(logits: torch.Tensor, choosers: Sequence[Chooser]) -> list[Choice]:
        return [Choice(said[min(len(each.new_ids), len(ids))]) for each in choosers]

    monkeypatch.setattr(scheduler, "choose", choose)
    return ids


@pytest.mark.parametrize("stop", ["<AI>", "<用户>"])
def test_an_answer_ends_where_the_model_begins_the_next_turn(
    monkeypatch: pytest.MonkeyPatch, stop: str
) -> None:
    chat = load(folder("minicpm-2b"), device="cpu")
    dictate(monkeypatch, chat, f"You are <b> {stop}and much, much more")
    num_said = len(chat.processor.tokenizer(f"You are <b> {stop}")["input_ids"]) - 1
    answer = chat.ask("hello", max_new_tokens=30)
    assert (answer.text, answer.num_output_tokens) == ("You are <b>", num_said)
    assert answer.finish_reason == "stop"
    stream = chat.stream("hello", max_new_tokens=30)
    pieces = list(stream)
    assert "".join(pieces) == "You are <b>"
    assert not [piece for piece in pieces if piece.endswith((" ", "<"))]
    assert stream.answer is not None
    assert (stream.answer.num_output_tokens, stream.answer.finish_reason) == (num_said, "stop")
    two = chat.batch(["hello", "hello to you, too"], max_new_tokens=30)
    assert [a.num_output_tokens for a in two] == [num_said, num_said]


def test_half_a_stop_text_is_shown_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    chat = load(folder("minicpm-2b"), device="cpu")
    dictate(monkeypatch, chat, "a <A")
    assert "".join(chat.stream("hello", max_new_tokens=30)) == "a <A"


def test_penalty_counts_the_prompt_and_not_its_padding() -> None:
    chat = loaded("minicpm-2b")
    options = {"repetition_penalty": 3.0, "max_new_tokens": 6, "sampling": False}
    short, long = "hello", "Write one sentence about the sea, and another about the hills."
    alone = [chat.ask(question, **options).text for question in (short, long)]
    assert [answer.text for answer in chat.batch([short, long], **options)] == alone


@pytest.mark.parametrize("model", MODELS)
def test_recorded_ids_with_their_penalty(model: str) -> None:
    """Recorded from `generate`, whose penalty counts the prompt."""
    manifest = json.loads((GOLDEN / model / "public" / "manifest.json").read_text())
    (case,) = (case for case in manifest["cases"] if case["name"] == "greedy_reppen")
    penalty = case["inputs"]["generate"]["json"]["repetition_penalty"]
    cases = load_file(GOLDEN / model / "public" / "cases.safetensors")
    ids = cases["greedy_reppen/inputs/input_ids"]
    answer = cases["greedy_reppen/expect/sequences"][0, ids.shape[1] :]
    options = {"sampling": False, "repetition_penalty": penalty, "max_new_tokens": len(answer)}
    plan = plan_generation(loaded(model).processor, None, options)
    plan = replace(plan, stops=None)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    assert torch.equal(generate_ids(loaded(model).model, inputs, plan)[0], answer)


# The released chat()


@lru_cache
def released(model: str, compat: Any = None) -> tuple[Any, Any]:
    path = folder(model)
    network = AutoModelForCausalLM.from_pretrained(
        path, torch_dtype=torch.float32, trust_remote_code=True, compat=compat
    )
    return network, AutoTokenizer.from_pretrained(path)


@pytest.mark.parametrize(("model", "inputs", "expected"), recorded("chat"))
def test_recorded_chat(model: str, inputs: Any, expected: Any) -> None:
    network, tokenizer = released(model, "released")
    settings = inputs["kwargs"]
    response, history = network.chat(tokenizer, inputs["query"], inputs["history"], **settings)
    assert (response, history) == (expected["response"], expected["history"])
    network, _ = released(model)
    whole, _ = network.chat(tokenizer, inputs["query"], inputs["history"], **settings)
    assert len(whole) > len(response), "the last token is kept"


@pytest.mark.parametrize("compat", [None, "released"])
def test_a_text_of_the_caller_ends_the_released_chat(compat: Any) -> None:
    network, tokenizer = released("minicpm-2b", compat)
    options = {"do_sample": False, "max_new_tokens": 20}
    whole, _ = network.chat(tokenizer, "hello", **options)
    for stop in (whole[4:6], whole[0], whole[3:7]):
        text, history = network.chat(tokenizer, "hello", **options, stop=["no such text", stop])
        assert text == whole.partition(stop)[0] == history[-1]["content"]


def test_released_snippet(chat: Chat) -> None:
    path = Path(chat.name)
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForCausalLM.from_pretrained(
        path, torch_dtype=torch.bfloat16, device_map="cpu", trust_remote_code=True
    )
    responds, history = model.chat(
        tokenizer, "山东省最高的山是哪座山, 它比黄山高还是矮？", temperature=0.5, top_p=0.8,
        repetition_penalty=1.02,
    )  # fmt: skip
    assert history[-1] == {"role": "assistant", "content": responds}
    earlier = list(history)
    _, longer = model.chat(tokenizer, "再见", history=history, max_new_tokens=4)
    assert history == earlier, "the caller's list is not changed"
    assert longer[:2] == earlier
    assert [message["role"] for message in longer] == ["user", "assistant"] * 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"query": " "}, "query is ' '"),
        ({"role": "system"}, "role is 'system'; only a user's query is answered"),
        ({"max_length": 3}, "which leaves none of max_length 3 for the answer. Raise max_length"),
        ({"query": "again " * 90}, "leaves none of the model's context of 96 for the answer"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"temperatur": 1.0}, "Unknown option 'temperatur'"),
        ({"do_sample": False, "top_p": 0.5}, "top_p would have no effect without sampling=True"),
        ({"history": [{"role": "bot", "content": "hi"}]}, "Message 0 has the role 'bot'"),
    ],
)
def test_what_chat_cannot_do_is_named(arguments: dict[str, Any], message: str) -> None:
    model, tokenizer = released("minicpm-2b")
    with pytest.raises(ValueError, match=message):
        model.chat(tokenizer, **{"query": "hello"} | arguments)


def test_top_k_0_draws_from_all_tokens() -> None:
    """As in the released web demo."""
    model, tokenizer = released("minicpm-2b")
    response, _ = model.chat(tokenizer, "hello", top_k=0, seed=1, max_new_tokens=4)
    assert isinstance(response, str)


# Loading


def test_short_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *args, **options: None)
    assert Checkpoint.find("2b").location == "openbmb/MiniCPM-2B-sft-bf16"
    assert Checkpoint.find("moe-8x2b").location == "openbmb/MiniCPM-MoE-8x2B"
    assert Checkpoint.find("minicpm-2b-dpo-bf16").location == "openbmb/MiniCPM-2B-dpo-bf16"
    assert Checkpoint.find("MiniCPM-V-2").location == "openbmb/MiniCPM-V-2"
    assert Checkpoint.find("omnilmm-12b").location == "openbmb/OmniLMM-12B"


def copied(model: str, target: Path, **changes: Any) -> Path:
    shutil.copytree(folder(model), target, copy_function=shutil.copyfile)
    target.chmod(0o755)
    config = json.loads((target / "config.json").read_text()) | changes
    (target / "config.json").write_text(json.dumps(config))
    return target


@pytest.mark.parametrize("model", ["minicpm-2b", "minicpm-1b"])
def test_llama_format_gives_the_same_answers(model: str, tmp_path: Path) -> None:
    folded = load(in_llama_format(model, tmp_path / "llama"), device="cpu")
    assert folded.processor.release is loaded(model).processor.release
    for question in ("hello", "What is 12 + 30?"):
        assert folded.ask(question, **GREEDY).text == loaded(model).ask(question, **GREEDY).text


def test_the_layout_of_mixtral_gives_the_same_answers(tmp_path: Path) -> None:
    convert(folder("minicpm-moe-8x2b"), tmp_path / "mixtral", "mixtral")
    folded = load(tmp_path / "mixtral", device="cpu")
    assert folded.processor.release.name == "MiniCPM-MoE-8x2B"
    assert (
        folded.ask("hello", **GREEDY).text == loaded("minicpm-moe-8x2b").ask("hello", **GREEDY).text
    )


def test_a_llama_that_was_no_minicpm_is_named(tmp_path: Path) -> None:
    path = in_llama_format("minicpm-2b", tmp_path / "llama")
    file = path / "tokenizer_config.json"
    file.write_text(file.read_text("utf-8").replace("<用户>", "[INST]"), "utf-8")
    with pytest.raises(ValueError, match="was not made from MiniCPM-2B"):
        load(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "qwen3"}, "is of a 'qwen3' model. This package reads minicpmv"),
        ({"vocab_size": 700}, "not those of its config|vocab_size 700"),
        ({"num_hidden_layers": 4}, "are not those of its config: .* missing"),
    ],
)
def test_files_that_do_not_fit_are_named(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        load(copied("minicpm-2b", tmp_path / "model", **changes), device="cpu")


def test_a_text_model_has_no_processor() -> None:
    with pytest.raises(ValueError, match=r"does not support images\. Use AutoTokenizer"):
        AutoProcessor.from_pretrained(folder("minicpm-2b"))


def test_auto_model_gives_the_class_with_chat(tmp_path: Path) -> None:
    model = AutoModel.from_pretrained(folder("minicpm-2b"))
    assert isinstance(model, MiniCPMForCausalLM)
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == [
        "MiniCPMForCausalLM"
    ]
    with pytest.raises(ValueError, match="LlamaForCausalLM has no chat"):
        AutoModel.from_pretrained(
            in_llama_format("minicpm-2b", tmp_path / "llama"), compat="released"
        )
