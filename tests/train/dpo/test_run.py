"""Whole trainings on preferences of a micro model."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from minicpmv import load
from minicpmv.data.files import open_rows
from minicpmv.data.messages import Preference, chat_messages
from minicpmv.data.prepared import Prepared
from minicpmv.errors import ArgumentError
from minicpmv.train.dpo.options import DpoOptions
from minicpmv.train.dpo.run import run

Make = Callable[..., DpoOptions]


def records(folder: str | Path) -> list[dict[str, Any]]:
    lines = (Path(folder) / "metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if "loss" in record]


def test_thirty_steps_tell_better_answers_from_worse(options: Make) -> None:
    opts = options(max_steps=30, save_every=30, max_length=1024, learning_rate=3e-3)
    run(opts)
    found = records(opts.output)
    assert found[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert found[0]["rewards/margins"] == pytest.approx(0, abs=1e-5)
    assert found[-1]["loss"] < 0.2
    assert np.mean([record["rewards/accuracies"] for record in found[-5:]]) > 0.9
    assert (Path(opts.output) / "model.safetensors").is_file()


def test_the_reference_is_what_the_model_gives_each_answer(options: Make, micro: Path) -> None:
    """From the messages by one forward pass per answer, without packing or stored features."""
    opts = options(max_steps=1)
    run(opts)
    folder = Path(opts.output)
    values, prepared = np.load(folder / "reference.npy"), Prepared(folder / "data")
    starts = np.concatenate([[0], np.cumsum(prepared.num_trained)])
    chat = load(micro, "cpu", "float32")
    rows = list(open_rows(opts.data))
    for number in (0, 1, 6, 7):
        row = rows[number // 2]
        assert isinstance(row, Preference)
        prompt = chat.processor.apply_chat_template(
            chat_messages(row.prompt), tokenize=True, add_generation_prompt=True, return_dict=True
        )
        example = prepared[number]
        answer = torch.from_numpy(example.targets[example.targets != -100].astype("int64"))
        ids = torch.cat([prompt["input_ids"], answer[None]], dim=1)
        kinds = torch.nn.functional.pad(prompt["mm_token_type_ids"], (0, len(answer)))
        given = {n: prompt[n] for n in ("pixel_values", "target_sizes")}
        with torch.no_grad():
            logits = chat.model(input_ids=ids, mm_token_type_ids=kinds, **given).logits[0]
        places = torch.arange(len(answer)) + prompt["input_ids"].shape[1] - 1
        expected = logits[places].log_softmax(-1)[torch.arange(len(answer)), answer]
        found = torch.from_numpy(values[starts[number] : starts[number + 1]])
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_packed_and_padded_pairs_give_the_same_losses(options: Make) -> None:
    losses = []
    for name, packing in (("packed", True), ("padded", False)):
        opts = options(name, packing=packing, max_length=100)  # one pair in each row
        run(opts)
        losses.append([record["loss"] for record in records(opts.output)])
    np.testing.assert_allclose(losses[0], losses[1], atol=1e-4)


def test_steps_are_means_over_pairs_whatever_the_rows(options: Make) -> None:
    """Eight pairs in one row, or in rows that are accumulated."""
    losses = []
    for name, changes in (
        ("one", {"max_length": 2048}),
        ("several", {"max_length": 128, "accumulation": 8}),
    ):
        opts = options(name, max_steps=3, seed=1, **changes)
        run(opts)
        losses.append([record["loss"] for record in records(opts.output)])
    np.testing.assert_allclose(losses[0], losses[1], atol=2e-4)


def test_an_adapter_on_corrected_spans(options: Make, micro: Path) -> None:
    changes = {"lora": True, "lora_r": 4, "sft_weight": 0.1, "ddpo": True, "beta": 0.5}
    opts = options(max_steps=12, save_every=12, learning_rate=1e-2, max_length=1024, **changes)
    run(opts)
    found = records(opts.output)
    first = found[0]["loss"] + 0.1 * found[0]["logps/chosen"]
    assert first == pytest.approx(math.log(2), abs=1e-4)
    assert found[-1]["rewards/margins"] > 0
    names = load_file(Path(opts.output) / "adapter_model.safetensors")
    assert any("lora_A" in name for name in names)
    chat = load(micro, "cpu", adapter=opts.output)
    assert chat.ask("Which colour?", max_new_tokens=2) is not None


def test_going_on_takes_the_same_reference(options: Make) -> None:
    whole, parted = options("whole"), options("parted")
    run(whole)
    run(parted)
    folder = Path(parted.output)
    for name in ("report.json", "model.safetensors"):
        (folder / name).unlink()
    shutil.rmtree(folder / "checkpoint-4")
    before = (folder / "reference.npy").stat().st_mtime_ns
    run(parted)
    assert (folder / "reference.npy").stat().st_mtime_ns == before
    one = load_file(Path(whole.output) / "model.safetensors")
    other = load_file(folder / "model.safetensors")
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_an_evaluation_on_other_pairs(options: Make, pairs: Path) -> None:
    opts = options(eval_data=str(pairs), eval_every=4)
    run(opts)
    lines = (Path(opts.output) / "metrics.jsonl").read_text().splitlines()
    last = [record for record in map(json.loads, lines) if "eval_loss" in record][-1]
    assert last["eval_loss"] < math.log(2)
    assert "eval_rewards/accuracies" in last


def test_conversations_are_refused(options: Make, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]
    path.write_text(json.dumps({"messages": messages}) + "\n")
    with pytest.raises(ValueError, match="minicpmv train sft"):
        run(options(data=str(path)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ddpo_gamma": 2.0}, "ddpo_gamma has no effect without ddpo"),
        ({"beta": 0.0}, "beta"),
        ({"data": ""}, "data is missing"),
    ],
)
def test_wrong_options(options: Make, changes: dict[str, Any], message: str) -> None:
    with pytest.raises((ArgumentError, ValueError), match=message):
        run(options(**changes))
