"""Flags of fine-tuning: ours, those of the released scripts, and combinations without effect."""

import argparse

import pytest
import torch

from minicpmv.errors import ArgumentError
from minicpmv.train.flags import add_released_flags
from minicpmv.train.options import add_flags, given, read_options
from minicpmv.train.sft.options import SftOptions

# The launcher of the released scripts for adapters, as its users have it, without its data.
RELEASED = r"""
--model_name_or_path nano --llm_type llama --remove_unused_columns false --label_names labels
--prediction_loss_only false --bf16 false --bf16_full_eval false --fp16 true --fp16_full_eval true
--do_train --do_eval --tune_vision true --tune_llm false --use_lora true
--lora_target_modules llm\..*layers\.\d+\.self_attn\.(q_proj|k_proj|v_proj|o_proj)
--model_max_length 2048 --max_slice_nums 9 --max_steps 10000 --eval_steps 1000 --output_dir out
--logging_dir out/logs --logging_strategy steps --per_device_train_batch_size 1
--per_device_eval_batch_size 1 --gradient_accumulation_steps 1 --evaluation_strategy steps
--save_strategy steps --save_steps 1000 --save_total_limit 10 --learning_rate 1e-6
--weight_decay 0.1 --adam_beta2 0.95 --warmup_ratio 0.01 --lr_scheduler_type cosine
--logging_steps 1 --gradient_checkpointing true --report_to tensorboard
"""


@pytest.fixture
def read(tmp_path):
    """`read("--lora")`: the checked options of a command line that names data and output."""
    data = tmp_path / "rows.json"
    data.write_text("[]")
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_flags(parser, SftOptions)
    add_released_flags(parser)

    def call(*words, name="--data"):
        words = [name, str(data), "--output", str(tmp_path / "out"), *words]
        options = read_options(SftOptions, parser.parse_args(words))
        options.check()
        return options

    return call


def test_the_released_launcher_is_understood(read):
    options = read(*RELEASED.split(), "--eval_data_path", __file__, name="--data_path")
    assert (options.model, options.lora, options.tune_vision, options.tune_llm) == (
        "nano",
        True,
        True,
        False,
    )
    assert (options.max_length, options.max_slice_nums, options.max_steps) == (2048, 9, 10000)
    assert (options.batch, options.accumulation, options.learning_rate) == (1, 1, 1e-6)
    assert (options.save_every, options.keep, options.log_every, options.eval_every) == (
        1000,
        10,
        1,
        1000,
    )
    assert (options.warmup, options.schedule, options.asked_dtype) == (0.01, "cosine", "float16")
    assert options.gradient_checkpointing
    assert options.report_to == "tensorboard"
    assert r"llm\..*layers" in options.lora_targets


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ([], True),
        (["--no-tune-resampler"], False),
        (["--tune-resampler", "false"], False),
        (["--tune_resampler", "False"], False),
        (["--tune_resampler", "1"], True),
    ],
)
def test_switches_take_values_and_negations(read, words, wanted):
    assert read(*words).tune_resampler is wanted


@pytest.mark.parametrize(
    ("words", "dtype"),
    [
        ([], "auto"),
        (["--bf16"], "bfloat16"),
        (["--bf16", "false"], "float32"),
        (["--bf16", "false", "--fp16", "false"], "auto"),
        (["--fp16", "true"], "float16"),
        (["--dtype", "fp32"], "fp32"),
    ],
)
def test_the_dtype_is_asked_for_in_both_ways(read, words, dtype):
    assert read(*words).asked_dtype == dtype


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--lora-r", "8"], "--lora-r has no effect without --lora"),
        (["--lora-vision"], "--lora-vision has no effect without --lora"),
        (["--tune-embeddings"], "--tune-embeddings has no effect without --lora"),
        (["--lora", "--tune_llm", "true"], "--tune-llm trains the language model whole and --lora"),
        (["--lora", "--lora-vision", "--tune-vision"], "--lora-vision and --tune-vision"),
        (["--lora", "--lora-resampler", "--tune-resampler"], "--lora-resampler and"),
        (["--eval-every", "5"], "--eval-every has no effect without --eval-data"),
        (["--samples", "0", "--samples-every", "5"], "--samples-every has no effect without"),
        (["--no-feature-cache", "--feature-cache-gb", "5"], "--feature-cache-gb has no effect"),
        (["--num-frames", "4", "--fps", "1"], "--num-frames and --fps"),
        (["--bf16", "--fp16"], "--bf16 and --fp16"),
        (["--dtype", "fp32", "--bf16"], "--dtype and --bf16"),
        (["--max-steps", "0"], "--max-steps is 0"),
        (["--max-steps", "9", "--epochs", "2"], "--epochs has no effect beside --max-steps"),
        (["--lora", "--lora-dropout", "1.5"], "--lora-dropout is 1.5; it must be below 1"),
        (["--no-tune-llm", "--no-tune-resampler"], "nothing is trained"),
        (["--decay", "0.2"], "--decay has no effect on --schedule 'cosine'; it is of"),
        (["--schedule", "warmup_stable_decay", "--half-life", "5"], "--half-life has no effect on"),
    ],
)
def test_flags_that_do_not_go_together_are_named(read, words, message):
    with pytest.raises(ArgumentError) as caught:
        read(*words)
    assert message in caught.value.as_flags()


def test_data_and_output_are_needed():
    for name, other in (("data", "output"), ("output", "data")):
        with pytest.raises(ArgumentError, match=f"{name} is missing"):
            SftOptions(**{other: "."}).check()


def test_qlora_and_zero3_are_refused(read, tmp_path):
    file = tmp_path / "zero3.json"
    file.write_text('{"zero_optimization": {"stage": 3}}')
    with pytest.raises(ArgumentError, match="ZeRO-3"):
        read("--qlora", "--deepspeed", str(file))
    file.write_text('{"zero_optimization": {"stage": 2}}')
    assert read("--qlora", "--deepspeed", str(file)).qlora


@pytest.mark.parametrize(
    "words",
    [
        ["--remove_unused_columns", "true"],
        ["--label_names", "targets"],
        ["--tune_vision", "maybe"],
        ["--save_strategy", "epoch"],
    ],
)
def test_released_values_that_are_not_so_here_are_refused(read, words):
    with pytest.raises(argparse.ArgumentError):
        read(*words)


def test_what_was_given_is_known():
    assert given(SftOptions(lora=True, seed=0)) == {"lora"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--optim", "sgd", "--adam-beta1", "0.5"], "adam_beta1 has no effect"),
        (["--optim", "adafactor", "--adam-beta2", "0.5"], "adam_beta2 has no effect"),
        (["--tune-vision", "--feature-cache"], "feature_cache has no effect"),
        (["--seed", "4294967296"], "seed is 4294967296"),
        (["--eval-data", __file__, "--eval-strategy", "epoch", "--eval-every", "5"], "eval_every"),
    ],
)
def test_more_flags_without_effect(read, words, message):
    with pytest.raises(ArgumentError, match=message):
        read(*words)


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        (["--report-to", "nobody"], ArgumentError, "report_to is 'nobody'"),
        (["--logging-dir", "logs"], ArgumentError, "logging_dir has no effect"),
        (["--report-to", "codecarbon"], ImportError, "pip install codecarbon"),
    ],
)
def test_who_is_told_is_checked_first(read, words, error, message):
    from minicpmv.train.sft.arguments import _reporters

    with pytest.raises(error, match=message):
        _reporters(read(*words))


def test_weights_of_four_bits_need_their_library_before_anything_is_read(read, monkeypatch):
    from minicpmv.train.sft import arguments

    options = read("--qlora", "--device", "cpu")
    monkeypatch.setattr(arguments, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"--qlora needs bitsandbytes: pip install"):
        arguments.training_arguments(options, arguments.precision_for(options, torch.device("cpu")))


def test_the_command_that_lists_faults_finds_those_of_the_run(read):
    from minicpmv.train.sft.arguments import check_command

    options = read("--max-length", "50", "--cut-long", "--max-slice-nums", "2")
    assert check_command("my rows.json", options) == (
        "minicpmv data check 'my rows.json' --model nano --max-length 50 --max-slice-nums 2 "
        "--cut-long"
    )
