"""Pretraining: what is fed, runs that stop and go on, several processes."""

import dataclasses
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

from minicpmv.devices import Hardware
from minicpmv.loader import load
from minicpmv.processing.batching import default_frame_slices
from minicpmv.scenes import EXAMPLE_KINDS, KINDS, draw_example, questions_of, render
from minicpmv.scenes.figures.colours import COLOURS
from minicpmv.scenes.figures.shapes import SHAPES
from minicpmv.scenes.text.labels import CLASSES, ENDS, NUM_PLACES, TARGETS
from minicpmv.train.pretrain import run as pretrain
from minicpmv.train.pretrain.dataloader import (
    FeedOptions,
    Packer,
    batches,
    make_batch,
    plan,
    slices_of,
)
from minicpmv.train.pretrain.dialogue import FIRST_TURN, IGNORED, DialogueWriter
from minicpmv.train.pretrain.letters import LETTERS, letter_crops
from minicpmv.train.pretrain.network import NAME_SCALE, PLACE_SCALE, attention_groups
from minicpmv.train.pretrain.recipe import STAGES
from minicpmv.train.pretrain.run import Pretraining
from minicpmv.train.pretrain.tokenizer import SPECIAL_TOKENS

from ..helpers.training import TINY


def messages_of(example):
    """An example as a conversation for the chat face, without its last answer."""
    messages = []
    for turn in example.turns:
        pictures = [example.scenes[i].image for i in turn.shown]
        if example.is_video and pictures:
            content = [{"type": "video", "video": pictures}]
        else:
            content = [{"type": "image", "image": picture} for picture in pictures]
        messages.append(
            {"role": "user", "content": [*content, {"type": "text", "text": turn.question}]}
        )
        messages.append({"role": "assistant", "content": turn.answer})
    return messages[:-1]


def a_question(run, kind):
    """One question about a scene that is cut: slices, sequence and messages."""
    options = dataclasses.replace(
        run.feed(STAGES[-1]), scale_resolution=56, max_slices=9, length=896
    )
    for seed in range(20):
        scene = render(seed, kind=kind)
        cuts = plan(scene.image, options, 9)
        asked = questions_of(scene, 1, random.Random(seed))
        sequence = run.writer.questions(asked, cuts.grid, random.Random(seed), 896)
        if asked and "talk" not in sequence.tasks and fits(cuts):
            break
    content = [{"type": "image", "image": scene.image}, {"type": "text", "text": asked[0].text}]
    slices = slices_of(scene, cuts, 14)
    return slices, sequence, [{"role": "user", "content": content}]


def fits(cuts):
    return max(rows * cols for rows, cols in cuts.target_sizes(14)) <= 16


def an_example(run, kind):
    """One example: slices, sequence and messages."""
    options = dataclasses.replace(run.feed(STAGES[-1]), scale_resolution=56)
    for seed in range(50):
        example = draw_example(seed, "train", kind)
        most = default_frame_slices(len(example.scenes), 9) if example.is_video else 9
        plans = [plan(scene.image, options, most) for scene in example.scenes]
        if all(map(fits, plans)) and len(plans[0].sizes) * len(plans) <= 40:
            break
    # Nothing is typed in haste.
    sequence = run.writer.example(example, [cuts.grid for cuts in plans], Careful())
    slices = [
        piece
        for scene, cuts in zip(example.scenes, plans, strict=True)
        for piece in slices_of(scene, cuts, 14)
    ]
    return slices, sequence, messages_of(example)


class Careful(random.Random):
    def random(self):
        return 0.99


@pytest.fixture(scope="module")
def trained(tokenizer_folder, tmp_path_factory):
    """A run that has not begun, its checkpoint, and the chat face of that."""
    folder = tmp_path_factory.mktemp("run")
    for path in tokenizer_folder.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    run = Pretraining(dataclasses.replace(TINY, output=str(folder)))
    run.save()
    return run, load(str(folder), progress=False)


@pytest.fixture(scope="module")
def finished(few_slices, tokenizer_folder, tmp_path_factory):
    """A run that has ended, looked at on its way every two steps."""
    folder = tmp_path_factory.mktemp("finished")
    for path in tokenizer_folder.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    run = Pretraining(dataclasses.replace(TINY, output=str(folder), evaluate_every=2))
    run.train()
    return run


class _StoppedError(Exception):
    pass


def stop_after(run, step):
    """Train until the checkpoint of a step is written, as a run that is killed then."""
    save = run.save

    def save_and_stop():
        save()
        if run.step == step:
            raise _StoppedError

    run.save = save_and_stop
    with pytest.raises(_StoppedError):
        run.train()


def test_the_tokenizer_spells_anything_and_knows_the_tags(tokenizer_folder):
    tokenizer = Tokenizer.from_file(str(tokenizer_folder / "tokenizer.json"))
    for text in ("What colour is the star?", "naïve 日本語 \t😀", "a  b\n\nc"):
        assert tokenizer.decode(tokenizer.encode(text).ids) == text
    ids = [tokenizer.token_to_id(tag) for tag in SPECIAL_TOKENS]
    assert ids == sorted(ids)
    assert tokenizer.token_to_id("!") == 0  # as in the released vocabulary
    assert len(tokenizer.encode("yes").ids) == 1
    assert len(tokenizer.encode("How many circles are there?").ids) < 8
    for form in ("red", " red", "Red", "star", " star", "Star", " stars", " apples"):
        assert len(tokenizer.encode(form).ids) == 1, form
    writer = DialogueWriter(tokenizer, 4)
    for classes in CLASSES.values():
        ids = dict(zip(classes, writer.name_ids(classes), strict=True))
        assert {""} <= {name for name, token in ids.items() if token < 0} <= {"", "ice cream"}
    for ends in ENDS.values():
        assert -1 not in writer.name_ids(ends)


def test_the_kinds_of_the_stages_are_those_that_are_drawn():
    for stage in STAGES:
        assert set(stage.mix) <= {LETTERS, *KINDS, *EXAMPLE_KINDS}
    assert set(STAGES[-1].mix) == {LETTERS, *KINDS, *EXAMPLE_KINDS}


def test_questions_do_not_see_each_other_and_all_see_the_picture(tokenizer_folder):
    writer = DialogueWriter(Tokenizer.from_file(str(tokenizer_folder / "tokenizer.json")), 4)
    scene = render(1, kind="many")
    sequence = next(
        s
        for seed in range(50)
        for s in [
            writer.questions(
                questions_of(scene, 5, random.Random(0)), None, random.Random(seed), 200
            )
        ]
        if max(s.groups) > FIRST_TURN + 2 and 0 in s.sees_picture[30:]
    )
    groups = torch.tensor([sequence.groups * 2])  # the same sequence twice in one row
    numbers = torch.arange(2).repeat_interleave(len(sequence))[None]
    sees = torch.tensor([sequence.sees_picture * 2])
    allowed = attention_groups(numbers, groups, sees)[0].numpy()
    length = len(sequence)
    assert not np.triu(allowed, 1).any()
    assert not allowed[length:, :length].any()
    assert np.array_equal(allowed[:length, :length], allowed[length:, length:])
    place = np.array(sequence.groups)
    for i in np.flatnonzero(place >= FIRST_TURN):
        others = (place >= FIRST_TURN) & (place != place[i])
        assert not allowed[i, :length][others].any()
        assert allowed[i, sequence.slices[0]] == (sequence.sees_picture[i] == 1)
        assert allowed[i, 0]


@pytest.mark.parametrize("kind", ["few", "page", "table", *EXAMPLE_KINDS])
def test_training_sees_what_the_processor_writes_and_the_model_computes(trained, kind):
    run, chat = trained
    slices, sequence, messages = (an_example if kind in EXAMPLE_KINDS else a_question)(run, kind)
    inputs = chat.processor.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True
    )
    length = inputs["input_ids"].shape[1]
    assert inputs["input_ids"][0].tolist() == sequence.input_ids[:length]
    assert sequence.position_ids[:length] == list(range(length))
    for ours, strip in zip(slices, inputs["pixel_values"], strict=True):
        theirs = strip.unflatten(2, (-1, 14)).permute(2, 0, 1, 3).flatten(1)
        pixels = (torch.from_numpy(ours.patches).float() / 255 - 0.5) / 0.5
        torch.testing.assert_close(pixels, theirs[: len(pixels)], rtol=0, atol=0)

    options = dataclasses.replace(
        run.feed(STAGES[-1]), slices=len(slices) + 1, rows=2, length=len(sequence) + 40
    )
    packer = Packer(options)
    packer.add(slices, sequence)
    tensors = run.network.tensors(packer.finish())
    with torch.no_grad():
        features = run.network.encode(tensors)
        visual_tokens, looks = run.network.resample(features, tensors)
        torch.testing.assert_close(looks.sum(dim=-1), torch.ones(looks.shape[:2]))
        ours = run.network.decode(visual_tokens, tensors)
        theirs = chat.model(**inputs).logits[0, -1]
    answer = int((tensors.answer_places == length - 1).nonzero()[0])
    torch.testing.assert_close(ours[answer], theirs, rtol=1e-4, atol=1e-4)


def test_the_alignment_loss_asks_for_the_words_of_what_is_looked_at(trained):
    run, _ = trained
    options = dataclasses.replace(run.feed(STAGES[1]), mix={"few": 1.0}, slices=4, rows=4)
    tensors = run.network.tensors(make_batch(0, options, run.writer))
    names = tensors.names[0]  # (patches, vocabulary)
    spoken = {run.writer._tokenizer.id_to_token(i).strip("Ġ") for i in names.sum(0).nonzero()}
    assert spoken & set(COLOURS)
    assert spoken & set(SHAPES)
    patch = int(names.sum(dim=-1).argmax())
    assert names[patch].sum() == 3  # a thing, its colour and its middle
    looks = torch.zeros(4, 4, names.shape[0])
    looks[0, 0, patch] = 1.0  # one token looks there, the others at nothing
    embedding = run.model.model.language_model.embed_tokens.weight
    told = torch.zeros(4, 4, embedding.shape[1])
    with torch.no_grad():
        # Equally like all three words.
        told[0, 0] = torch.linalg.pinv(embedding[names[patch] > 0]) @ torch.full((3,), 30.0)
        near = run.network.alignment_loss(told, looks, tensors)
        far = run.network.alignment_loss(-told, looks, tensors)
        likely = (NAME_SCALE * embedding @ told[0, 0]).softmax(dim=0)
        expected = -likely[names[patch] > 0].log().mean()
        near_places = far_places = torch.tensor(0.0)
        for target, (first, last) in ENDS.items():
            number = int(tensors.targets[0, list(TARGETS).index(target), patch])
            place = torch.tensor((number - 0.5) / NUM_PLACES)
            ids = run.writer.name_ids((first, last))
            said = PLACE_SCALE * told[0, 0] @ (embedding[ids[1]] - embedding[ids[0]])
            cross_entropy = torch.nn.functional.binary_cross_entropy_with_logits
            expected += cross_entropy(said, place)
            near_places = near_places + cross_entropy(said, place)
            far_places = far_places + cross_entropy(-said, place)
    assert float(near) == pytest.approx(float(expected), rel=1e-5)
    assert near - near_places < 1.5 < 4 < far - far_places


def test_the_alignment_loss_asks_for_the_character_that_follows(trained):
    run, _ = trained
    options = dataclasses.replace(run.feed(STAGES[1]), mix={"word": 1.0}, slices=4, rows=4)
    for number in range(20):  # words are drawn in the fonts of the machine: not all fill a patch
        tensors = run.network.tensors(make_batch(number, options, run.writer))
        known = tensors.following[0].sum(dim=-1) == 1
        if known.any():
            break
    patch = int(known.nonzero()[0])
    character = int(tensors.following[0, patch].argmax())
    looks = torch.zeros(4, 4, len(known))
    looks[0, 0, patch] = 1.0
    embedding = run.model.model.language_model.embed_tokens.weight
    with torch.no_grad():
        losses = []
        for number in (character, (character + 1) % tensors.following.shape[-1]):
            told = torch.zeros(4, 4, embedding.shape[1])
            # Said in the turned words, and in nothing of the plain ones.
            told[0, 0] = embedding[run.network.character_ids[number]] @ run.network.turn.T
            losses.append(float(run.network.alignment_loss(told, looks, tensors)))
    assert losses[0] < losses[1]


def test_slices_of_letters_know_every_character():
    """The characters that the labels name are those that the page shows, half patch by half
    patch: a crop inverted or recoloured keeps its labels, and no crop is empty.
    """
    for seed in range(6):
        crops = letter_crops(seed, 224, 14)
        assert len(crops) == 4
        for patches, (rows, cols), labels in crops:
            assert len(patches) == rows * cols == labels.shape[1] <= 256
            glyphs = labels[3:5]
            assert (glyphs > 0).mean() > 0.05
            inked = patches.reshape(rows * cols, 3, -1).astype(float).std(axis=-1).mean(axis=-1)
            assert inked[(glyphs > 0).any(axis=0)].mean() > inked[(glyphs == 0).all(axis=0)].mean()


def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(tiny, finished):
    whole, parts = finished.options, tiny("parts")
    half = Pretraining(dataclasses.replace(parts, save_every=2))
    stop_after(half, 2)
    resumed = Pretraining(parts)
    assert resumed.step == 2
    resumed.train()
    first = load_file(f"{whole.output}/model.safetensors")
    second = load_file(f"{parts.output}/model.safetensors")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert all(name.startswith(("llm.", "vpm.", "resampler.")) for name in first)


def test_a_run_says_what_it_does(finished):
    folder = Path(finished.options.output)
    records = [json.loads(text) for text in (folder / "metrics.jsonl").read_text().splitlines()]
    trained = [record for record in records if record["kind"] == "train"]
    assert [record["step"] for record in trained] == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    stages = [record["stage"] for record in trained]
    assert stages == [
        "dense",
        "captions",
        "captions",
        "places",
        "reading",
        "pairs",
        "forms",
        "slices",
        "chat",
    ]
    assert any(record["kind"] == "held out" for record in records)
    assert (folder / "losses.png").read_bytes()[:4] == b"\x89PNG"
    assert "After step 3 (captions)" in (folder / "samples.md").read_text()
    planned = json.loads((folder / "plan.json").read_text())
    assert planned["steps"] == {
        "dense": 1,
        "captions": 2,
        "places": 1,
        "reading": 1,
        "pairs": 1,
        "forms": 1,
        "slices": 1,
        "chat": 1,
    }


def test_minutes_become_steps_and_leave_the_weights_alone(tiny, monkeypatch):
    """By a clock that moves a second whenever it is looked at: a timed step takes that long."""
    seconds = itertools.count()
    clock = types.SimpleNamespace(**vars(time) | {"perf_counter": lambda: float(next(seconds))})
    monkeypatch.setattr(pretrain, "time", clock)
    monkeypatch.setattr(pretrain, "TIMED_STEPS", 1)
    run = Pretraining(tiny(steps="", minutes=1.0))
    before = {name: value.clone() for name, value in run.network.state_dict().items()}
    begin = next(seconds)
    run._make_plan(run.network)
    left = 60 - (next(seconds) - begin - 2)  # the plan begins and ends with a look of its own
    assert run.plan == [max(1, round(left * stage.share)) for stage in pretrain.STAGES]
    assert sum(run.plan) > len(run.plan)
    after = run.network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    monkeypatch.setattr(pretrain, "STAGES", pretrain.STAGES[:1])
    with pytest.raises(ValueError, match="minutes are over"):
        Pretraining(tiny("short", steps="", minutes=1e-6))._make_plan(run.network)


def test_a_run_starts_from_the_weights_of_another(tiny, finished):
    first = finished
    second = Pretraining(tiny("second", start=first.options.output, seed=1))
    theirs = first.model.state_dict()
    assert all(torch.equal(v, theirs[n]) for n, v in second.model.state_dict().items())
    heads = first.network.heads.state_dict()
    assert all(torch.equal(v, heads[n]) for n, v in second.network.heads.state_dict().items())
    with pytest.raises(ValueError, match=r"no config\.json"):
        Pretraining(tiny("nowhere", start=first.options.output + "-not"))
    with pytest.raises(ValueError, match="--size tiny"):
        Pretraining(tiny("third", start=first.options.output, size="tiny"))


def test_training_overfits_a_few_samples(tiny):
    run = Pretraining(tiny())
    options = dataclasses.replace(run.feed(STAGES[1]), mix={"few": 1.0}, slices=4, rows=4)
    tensors = run.network.tensors(make_batch(0, options, run.writer))
    losses = []
    for _ in range(40):
        result = run.network(tensors)
        result.language.backward()
        run.optimizer.step(1.0)
        losses.append(result.language.item())
    learned = tensors.answer_labels != IGNORED
    right = (result.predicted == tensors.answer_labels)[learned].float().mean()
    assert losses[-1] < 0.2 * losses[0]
    assert right > 0.9


@pytest.mark.parametrize(
    ("asked", "has_bfloat16", "expected"),
    [
        ("auto", True, torch.bfloat16),
        ("auto", False, torch.float32),
        ("bf16", False, torch.bfloat16),
    ],
)
def test_a_training_computes_in_what_the_device_can(
    tiny, monkeypatch, asked, has_bfloat16, expected
):
    hardware = Hardware("cpu", "a processor", has_bfloat16, False)
    monkeypatch.setattr(pretrain, "hardware_of", lambda device: hardware)
    run = Pretraining(tiny(dtype=asked))
    assert run.model.dtype is expected
    with pytest.raises(ValueError, match="device 'gpu' is not available"):
        Pretraining(tiny(device="gpu"))


def test_batches_are_functions_of_their_number(tokenizer_folder):
    options = FeedOptions(
        tokenizer_file=str(tokenizer_folder / "tokenizer.json"),
        mix={LETTERS: 1.0, "few": 2.0, "word": 2.0},
        slices=6,
        rows=3,
        answers=100,
        num_queries=4,
        scale_resolution=56,
    )
    source = batches(options, 3, workers=0)
    third, fourth = next(source), next(source)
    again = next(batches(options, 4, workers=0))
    for one, two in zip(fourth, again, strict=True):
        assert np.array_equal(one, two)
    assert not np.array_equal(third.patches, fourth.patches)
    skipping = batches(options, 1, stride=3, workers=0)
    next(skipping)
    assert np.array_equal(next(skipping).patches, again.patches)


def test_several_processes_train_one_model(tiny, tmp_path):
    """torchrun with two processes: the first one's checkpoint, and no process left behind."""
    options = tiny("two", steps="1,1,1,1,1,1,1,1")
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"),
        *("--master-port", "0", "--standalone"),
        *("-m", "minicpmv", "train", "pretrain", "--output", options.output),
        *("--size", "micro", "--steps", "1,1,0,0,0,0,0,0", "--no-compile", "--workers", "0"),
        *("--threads", "1", "--dtype", "float32", "--device", "cpu"),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "two" / "model.safetensors").exists()
    assert "captions 2/2" in done.stderr


@pytest.mark.slow
def test_a_killed_run_ends_with_the_weights_of_one_left_alone(tiny):
    """kill -9 at a moment that nobody chose, three times."""
    weights = []
    for name in ("alone", "killed"):
        options = tiny(name)
        command = [
            *(sys.executable, "-m", "minicpmv", "train", "pretrain", "--output", options.output),
            *("--size", "micro", "--steps", "3,6,0,0,0,0,0,0", "--no-compile", "--threads", "1"),
            *("--save-every", "1", "--log-every", "1"),
        ]
        for wait in (25, 35, 30) if name == "killed" else ():
            process = subprocess.Popen(command, start_new_session=True)
            time.sleep(wait * random.random())
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        assert subprocess.run(command).returncode == 0
        weights.append(load_file(f"{options.output}/model.safetensors"))
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
