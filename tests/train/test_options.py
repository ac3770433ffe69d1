"""Options of a training are checked, from flags and files, before anything is prepared."""

import argparse
import dataclasses
import json

import pytest

from minicpmv.train.options import add_flags, flag_of, read_options
from minicpmv.train.pretrain import recipe
from minicpmv.train.pretrain.options import SIZE_NAMES, STAGE_NAMES, PretrainOptions
from minicpmv.train.pretrain.run import Pretraining


@pytest.fixture
def read():
    """`read("--batch", "2")`: the options of a command line."""
    parser = argparse.ArgumentParser()
    add_flags(parser, PretrainOptions)

    def call(*words):
        options = read_options(PretrainOptions, parser.parse_args([str(word) for word in words]))
        options.check()
        return options

    return call


def test_names_of_stages_and_sizes_are_those_of_the_recipe():
    assert list(STAGE_NAMES) == [stage.name for stage in recipe.STAGES]
    assert list(SIZE_NAMES) == list(recipe.SIZES)


def test_every_option_has_a_flag_with_help():
    parser = argparse.ArgumentParser()
    add_flags(parser, PretrainOptions)
    for field in dataclasses.fields(PretrainOptions):
        assert flag_of(field.name) in parser.format_help()


def test_a_file_fills_options_and_flags_win(read, tmp_path):
    file = tmp_path / "options.json"
    file.write_text(json.dumps({"steps": "7,1,1,1,1,1,1,1", "seed": 3, "weight_decay": 0}))
    options = read("--config", file, "--steps", "9,1,1,1,1,1,1,1")
    assert (options.steps, options.seed, options.weight_decay) == ("9,1,1,1,1,1,1,1", 3, 0)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "is not a JSON file"),
        ("[1]", "holds no JSON object"),
        ('{"step": 7}', "unknown options: step"),
        ('{"batch": "four"}', "batch in .*options.json is 'four'; it must be a whole number"),
        ('{"batch": true}', "batch in .*options.json is True; it must be a whole number"),
        ('{"batch": 1.5}', "batch in .*options.json is 1.5; it must be a whole number"),
        ('{"learning_rate": "0.1"}', "learning_rate in .*options.json is '0.1'; .* a number"),
        ('{"learning_rate": Infinity}', "learning_rate in .*options.json is inf; .* finite"),
        ('{"compile": 1}', "compile in .*options.json is 1; it must be true or false"),
        ('{"output": null}', "output in .*options.json is None; it must be text"),
    ],
)
def test_a_damaged_file_of_options_is_named_with_its_field(content, words, read, tmp_path):
    file = tmp_path / "options.json"
    file.write_text(content)
    with pytest.raises(ValueError, match=words):
        read("--config", file)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--learning-rate", "nan"], "--learning-rate is nan; it must be a finite number"),
        (["--learning-rate", "0"], "--learning-rate is 0.0; it must be above 0"),
        (["--adam-learning-rate", "-1"], "--adam-learning-rate is -1.0; it must be above 0"),
        (["--weight-decay", "-0.1"], "--weight-decay is -0.1; it must be at least 0"),
        (["--minutes", "-5"], "--minutes is -5.0; it must be at least 0"),
        (["--minutes", "inf"], "--minutes is inf"),
        (["--batch", "0"], "--batch is 0; it must be at least 1"),
        (["--save-every", "0"], "--save-every is 0"),
        (["--evaluate-every", "-1"], "--evaluate-every is -1"),
        (["--log-every", "0"], "--log-every is 0"),
        (["--workers", "-1"], "--workers is -1"),
        (["--threads", "-1"], "--threads is -1"),
        (["--seed", "-1"], "--seed is -1"),
        (["--warmup-steps", "-1"], "--warmup-steps is -1"),
        (["--size", "giant"], "--size is 'giant'; it is one of micro, tiny, nano, small"),
        (["--steps", "1,2"], "--steps is '1,2'; give 8 numbers"),
        (["--steps", "1,2,3,4,5,6,7,many"], "give 8 numbers"),
        (["--steps", "1,2,3,4,5,6,7,-8"], "give 8 numbers"),
        (["--worker-cores", "one"], "--worker-cores is 'one'; it is numbers of cores"),
        (["--start", "no/such/folder"], "--start is 'no/such/folder'; there is no config.json"),
        (["--output", ""], "--output is ''; give a folder"),
        (["--steps", "1,1,1,1,1,1,1,1", "--minutes", "3"], "--minutes has no effect"),
        (["--workers", "0", "--worker-cores", "1"], "--worker-cores has no effect"),
    ],
)
def test_a_value_without_sense_is_refused(flags, words, read):
    with pytest.raises(ValueError, match=words):
        read(*flags)


def test_wrong_options_are_refused_before_the_folder_is_made(tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(ValueError, match="--size is 'giant'"):
        Pretraining(PretrainOptions(output=str(folder), size="giant"))
    assert not folder.exists()
