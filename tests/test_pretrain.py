"""Pre-training learns, resumes to the same weights, and trains what the model class runs."""

import argparse
import dataclasses
import random

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

from minicpmv.loader import load
from minicpmv.scenes import render
from minicpmv.train import pretrain
from minicpmv.train.dialogue import FIRST_TURN, IGNORED, DialogueWriter
from minicpmv.train.feed import FeedOptions, batches, fit, make_batch, to_patches
from minicpmv.train.muon import MuonAdamW, orthogonalise
from minicpmv.train.network import attention_groups
from minicpmv.train.pretrain import Pretraining, PretrainOptions
from minicpmv.train.tokenizer import SPECIAL_TOKENS, save_tokenizer, train_tokenizer

TINY = PretrainOptions(
    steps=4,
    dense_steps=1,
    batch_size=2,
    warmup_steps=1,
    vision_size=32,
    vision_layers=1,
    vision_heads=1,
    hidden_size=128,
    layers=1,
    heads=2,
    queries=4,
    scale_resolution=56,
    length=80,
    dtype="float32",
    compile=False,
    workers=0,
    save_every=100,
    evaluate_every=100,
    log_every=1,
)


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(train_tokenizer(), folder)
    return folder


@pytest.fixture
def tiny(tokenizer_folder, tmp_path):
    """Options of a tiny run in a folder of its own that already has the tokenizer."""

    def options(name="run", **changes):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        for path in tokenizer_folder.iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        return dataclasses.replace(TINY, output=str(folder), **changes)

    return options


def test_the_tokenizer_spells_anything_and_knows_the_tags(tokenizer_folder):
    tokenizer = Tokenizer.from_file(str(tokenizer_folder / "tokenizer.json"))
    for text in ("What colour is the star?", "naïve 日本語 \t😀", "a  b\n\nc"):
        assert tokenizer.decode(tokenizer.encode(text).ids) == text
    ids = [tokenizer.token_to_id(tag) for tag in SPECIAL_TOKENS]
    assert ids == sorted(ids)
    assert tokenizer.token_to_id("!") == 0  # as in the released vocabulary
    assert len(tokenizer.encode("yes").ids) == 1
    assert len(tokenizer.encode("purple").ids) == 1


def test_questions_do_not_see_each_other_and_all_see_the_picture(tokenizer_folder):
    tokenizer = Tokenizer.from_file(str(tokenizer_folder / "tokenizer.json"))
    writer = DialogueWriter(tokenizer, 4, 120)
    dialogue = next(
        d
        for d in (writer.write(render(seed), random.Random(seed)) for seed in range(50))
        if d.groups.max() > FIRST_TURN + 2
    )
    allowed = attention_groups(
        torch.from_numpy(dialogue.groups)[None], torch.from_numpy(dialogue.sees_picture)[None]
    )[0].numpy()
    assert not np.triu(allowed, 1).any()
    for i in np.flatnonzero(dialogue.groups >= FIRST_TURN):
        for j in np.flatnonzero(dialogue.groups >= FIRST_TURN):
            if dialogue.groups[i] != dialogue.groups[j]:
                assert not allowed[i, j]
        assert allowed[i, writer.image_start] == (dialogue.sees_picture[i] == 1)
        assert allowed[i, 0]


def test_the_training_pass_gives_the_logits_of_the_model_itself(tiny):
    options = tiny()
    run = Pretraining(options)
    batch = make_batch(3, run.feed, run.writer)
    run.save()
    tensors = run.network.tensors(batch)
    with torch.no_grad():
        features = run.network.look(tensors)
        ours = run.network.speak(run.network.resample(features, tensors), tensors)

    chat = load(options.output, progress=False)
    dialogue = batch.dialogue
    first_group = FIRST_TURN + 1
    row = next(i for i in range(2) if (dialogue.groups[i] == first_group).any())
    question = dialogue.groups[row] == first_group
    kept = (dialogue.groups[row] == 0) | (dialogue.groups[row] == 1) | question
    image = render(run.feed.seed + 3 * options.batch_size + row).image
    text = chat.processor.tokenizer.decode(dialogue.input_ids[row][question].tolist())
    prompt = text.removeprefix("\n").split("<|im_end|>")[0]
    inputs = chat.processor.apply_chat_template(
        [{"role": "user", "content": [image, prompt]}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
    )
    length = inputs["input_ids"].shape[1]
    # The processor writes the very tokens that training saw, up to the answer.
    assert inputs["input_ids"][0].tolist() == dialogue.input_ids[row][kept][:length].tolist()
    with torch.no_grad():
        theirs = chat.model(**inputs).logits[0, -1]
    place = np.flatnonzero(kept)[length - 1]
    answer = int((tensors.answer_places[row] == place).nonzero()[0, 0])
    torch.testing.assert_close(ours[row, answer], theirs, rtol=1e-4, atol=1e-4)


def test_patches_are_those_of_the_processor(tiny):
    options = tiny()
    run = Pretraining(options)
    run.save()
    chat = load(options.output, progress=False)
    image = render(5).image
    strip = chat.processor.image_processor(image, return_tensors="pt")["pixel_values"][0]
    patches = to_patches(fit(image, run.feed), 14)
    ours = (torch.from_numpy(patches).float() / 255 - 0.5) / 0.5  # (num_patches, 3 * 14 * 14)
    theirs = strip.unflatten(2, (-1, 14)).permute(2, 0, 1, 3).flatten(1)
    torch.testing.assert_close(ours, theirs[: len(ours)], rtol=0, atol=0)


def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(tiny):
    whole, parts = tiny("whole"), tiny("parts")
    Pretraining(whole).train()
    half = Pretraining(dataclasses.replace(parts, save_every=2))
    half.options.steps = 4
    stop_after(half, 2)
    resumed = Pretraining(parts)
    assert resumed.step == 2
    resumed.train()
    first = load_file(f"{whole.output}/model.safetensors")
    second = load_file(f"{parts.output}/model.safetensors")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert all(name.startswith(("llm.", "vpm.", "resampler.")) for name in first)


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


def test_training_overfits_a_few_samples(tiny):
    run = Pretraining(tiny(batch_size=8))
    tensors = run.network.tensors(make_batch(0, run.feed, run.writer))
    losses = []
    for _ in range(30):
        result = run.network(tensors)
        result.language.backward()
        run.optimizer.step(1.0)
        losses.append(result.language.item())
    learned = tensors.answer_labels != IGNORED
    right = (result.predicted == tensors.answer_labels)[learned].float().mean()
    assert losses[-1] < 0.2 * losses[0]
    assert right > 0.9


def test_batches_are_functions_of_their_number(tokenizer_folder):
    options = FeedOptions(
        tokenizer_file=str(tokenizer_folder / "tokenizer.json"),
        batch_size=2,
        num_queries=4,
        scale_resolution=56,
        length=80,
    )
    source = batches(options, 3, workers=0)
    third, fourth = next(source), next(source)
    again = next(batches(options, 4, workers=0))
    assert np.array_equal(fourth.patches, again.patches)
    assert np.array_equal(fourth.dialogue.input_ids, again.dialogue.input_ids)
    assert not np.array_equal(third.patches, fourth.patches)


def test_orthogonalised_matrices_have_singular_values_near_one():
    matrices = torch.randn(3, 24, 40, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalise(matrices).float())
    assert values.min() > 0.5
    assert values.max() < 1.4


def test_the_optimizer_descends():
    weight = torch.nn.Parameter(torch.ones(4, 4))
    bias = torch.nn.Parameter(torch.ones(4))
    optimizer = MuonAdamW(
        [weight], [bias], learning_rate=0.1, adam_learning_rate=0.1, weight_decay=0.0
    )
    for _ in range(30):
        (weight.square().sum() + bias.square().sum()).backward()
        optimizer.step(1.0)
    assert weight.abs().max() < 0.6
    assert bias.abs().max() < 0.3


def test_the_rate_warms_up_stays_and_falls_to_zero(tiny):
    run = Pretraining(tiny(steps=100, dense_steps=20, warmup_steps=10, decay=0.2))
    rates = [run.rate(step) for step in range(100)]
    assert rates[0] == rates[20] == pytest.approx(0.1)
    assert rates[50] == 1.0
    assert rates[90] == pytest.approx(0.5)
    assert run.rate(100) == 0.0


def test_every_option_has_a_flag_with_help_and_a_file_fills_them(tmp_path, monkeypatch):
    parser = argparse.ArgumentParser()
    pretrain.add_arguments(parser)
    for field in dataclasses.fields(PretrainOptions):
        assert "--" + field.name.replace("_", "-") in parser.format_help()
    file = tmp_path / "options.json"
    file.write_text('{"steps": 7, "layers": 3}')
    seen = []
    monkeypatch.setattr(pretrain, "Pretraining", lambda options: seen.append(options) or _Idle())
    pretrain.run(parser.parse_args(["--config", str(file), "--steps", "9"]))
    assert (seen[0].steps, seen[0].layers) == (9, 3)
    file.write_text('{"step": 7}')
    with pytest.raises(ValueError, match="unknown options: step"):
        pretrain.run(parser.parse_args(["--config", str(file)]))


class _Idle:
    def train(self):
        pass
