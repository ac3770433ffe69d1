"""The small files of a checkpoint: what is damaged, missing or of another model is named."""

import json
import math
import shutil
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM

import minicpmv
import minicpmv.auto
from minicpmv.checkpoint.consistency import find_mismatches
from minicpmv.checkpoint.hub import Checkpoint
from minicpmv.loader import load_processor, read_config
from minicpmv.model.generation_checks import check_generation_config
from minicpmv.processing.file_checks import check_processor_files
from minicpmv.processing.tokenizer import MiniCPMVTokenizerFast

from ..helpers.golden import CHECKPOINTS, GOLDEN

TEXTS = {
    "2b": "minicpm-2b",
    "1b": "minicpm-1b",
    "128k": "minicpm-2b-128k",
    "moe": "minicpm-moe-8x2b",
}
FOLDERS = CHECKPOINTS | {name: GOLDEN / folder / "ckpt" for name, folder in TEXTS.items()}
FOLDERS["nano"] = Path(minicpmv.__file__).parent / "nano"


@pytest.fixture
def folder(tmp_path):
    """A copy of a checkpoint's small files, with fields of one of them changed."""

    def copied(name, file=None, **fields):
        target = tmp_path / name
        target.mkdir()
        for path in FOLDERS[name].iterdir():
            if path.suffix != ".safetensors":
                shutil.copy(path, target)
        if file:
            content = json.loads((target / file).read_text()) | fields
            (target / file).write_text(json.dumps(content))
        return target

    return copied


def refused(call, *words):
    with pytest.raises((ValueError, OSError)) as caught:
        call()
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert all(word in message for word in words), message


def processor_of(folder):
    checkpoint = Checkpoint.find(folder)
    fields = read_config(checkpoint)
    return load_processor(checkpoint, fields), fields


@pytest.mark.parametrize("name", FOLDERS)
def test_files_as_released_are_taken(name):
    checkpoint = Checkpoint.find(FOLDERS[name])
    check_processor_files(checkpoint)
    check_generation_config(checkpoint)


@pytest.mark.parametrize("name", FOLDERS)
def test_a_missing_tokenizer_config_is_named(name, folder):
    target = folder(name)
    (target / "tokenizer_config.json").unlink()
    refused(lambda: processor_of(target), "tokenizer_config.json")


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("2b", "chat_template", 5),
        ("2b", "chat_template", "{% if %}"),
        ("2b", "chat_template", "{{ unclosed"),
        ("2b", "add_bos_token", "yes"),
        ("2.6", "eos_token", 5),
        ("2.6", "eos_token", None),
        ("2.6", "eos_token", ""),
        ("2.6", "bos_token", ["<s>"]),
        ("2.6", "additional_special_tokens", "<image>"),
        ("2.6", "additional_special_tokens", [5]),
        ("2.6", "added_tokens_decoder", [1]),
        ("2.6", "added_tokens_decoder", {"x": {"content": "a"}}),
        ("2.6", "model_max_length", -1),
        ("2.6", "padding_side", "middle"),
        ("2.6", "tokenizer_class", None),
        ("1.0", "clean_up_tokenization_spaces", 3),
        ("nano", "eos_token", "<|nowhere|>"),
    ],
)
def test_a_damaged_value_of_the_tokenizer_is_named(name, field, value, folder):
    target = folder(name, "tokenizer_config.json", **{field: value})
    refused(lambda: processor_of(target), "tokenizer_config.json", field)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("im_end", 5),
        ("unk", ""),
        ("slice_start", None),
        ("norm_std", [0.5, 0, 0.5]),
        ("norm_mean", [0.5, math.nan, 0.5]),
        ("norm_mean", 0.5),
        ("image_feature_size", "8"),
        ("patch_size", 0),
        ("max_slice_nums", -1),
        ("scale_resolution", [448]),
        ("slice_mode", "yes"),
        ("use_image_id", 1),
        ("image_processor_type", "Foo"),
        ("version", [2.6]),
        ("resample", 9),
    ],
)
def test_a_damaged_value_of_the_image_processor_is_named(field, value, folder):
    target = folder("2.6", "preprocessor_config.json", **{field: value})
    refused(lambda: processor_of(target), "preprocessor_config.json", field)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("do_sample", "no"),
        ("temperature", -1),
        ("temperature", math.inf),
        ("top_p", 2),
        ("top_k", 1.5),
        ("num_beams", 0),
        ("repetition_penalty", 0),
        ("max_new_tokens", [512]),
        ("eos_token_id", "</s>"),
        ("early_stopping", "maybe"),
    ],
)
def test_a_damaged_value_of_the_generation_is_named(field, value, folder):
    target = folder("nano", "generation_config.json", **{field: value})
    refused(
        lambda: check_generation_config(Checkpoint.find(target)), "generation_config.json", field
    )


@pytest.mark.parametrize(
    ("name", "other", "files"),
    [
        ("2.6", "2b", ("tokenizer.json",)),
        ("2.6", "2.5", ("tokenizer.json",)),
        ("2.5", "2.6", ("tokenizer.json",)),
        ("2.5", "nano", ("tokenizer.json", "tokenizer_config.json")),
        ("nano", "2.6", ("tokenizer.json",)),
        ("nano", "2b", ("tokenizer.json",)),
        ("2b", "1b", ("tokenizer.json",)),
        ("2b", "1b", ("tokenizer.json", "tokenizer.model", "tokenizer_config.json")),
        ("1b", "2b", ("tokenizer.json", "tokenizer.model", "tokenizer_config.json")),
        ("128k", "2b", ("tokenizer.json", "tokenizer_config.json")),
        ("omnilmm-12b", "1b", ("tokenizer.model",)),
        ("1.0", "2b", ("tokenizer.model",)),
    ],
)
def test_the_tokenizer_of_another_model_is_refused(name, other, files, folder):
    target = folder(name)
    for file in files:
        shutil.copy(FOLDERS[other] / file, target)

    def check():
        processor, fields = processor_of(target)
        kind = minicpmv.loader.MODEL_CLASSES[fields["model_type"]]
        problems = find_mismatches(kind.config_class.from_dict(fields), processor)
        if problems:
            raise ValueError("; ".join(problems))

    refused(check, "token")


@pytest.mark.parametrize("name", [*CHECKPOINTS, "nano"])
def test_a_loaded_config_knows_its_tags(name, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(FOLDERS[name])
    processor, fields = processor_of(FOLDERS[name])
    assert model.config.image_token_id == processor.image_token_id
    images, ids = processor.image_processor, processor.tokenizer.convert_tokens_to_ids
    assert model.config.image_end_id == ids(images.im_end)
    if model.config.release.slicing == "adaptive":
        assert model.config.slice_start_id == ids(images.slice_start)
    model.config.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    fields.pop("auto_map", None)  # names code that is not saved
    assert saved == fields


def test_a_vocabulary_is_looked_through_once(monkeypatch):
    processor, fields = processor_of(FOLDERS["2.6"])
    config = minicpmv.loader.MODEL_CLASSES["minicpmv"].config_class.from_dict(fields)
    assert find_mismatches(config, processor) == []
    monkeypatch.setattr(type(processor.tokenizer), "get_vocab", lambda self: pytest.fail("again"))
    assert find_mismatches(config, processor) == []


def test_the_released_chat_of_text_models_refuses_a_foreign_tokenizer():
    model = minicpmv.AutoModelForCausalLM.from_pretrained(FOLDERS["2b"])
    tokenizer = minicpmv.AutoTokenizer.from_pretrained(FOLDERS["1b"])
    with pytest.raises(ValueError, match="the tokenizer of another model"):
        model.chat(tokenizer, "Hello", max_new_tokens=1)


def test_nano_stays_greedy_without_its_generation_config(tmp_path):
    target = tmp_path / "nano"
    shutil.copytree(FOLDERS["nano"], target)
    (target / "generation_config.json").unlink()
    settings = AutoModelForCausalLM.from_pretrained(target).generation_config
    assert (settings.do_sample, settings.num_beams, settings.max_new_tokens) == (False, 1, 512)


@pytest.mark.parametrize("name", ["nano", "2.6", "2.5", "2b", "1b"])
def test_a_vocabulary_whose_merges_are_lost_is_named(folder, name):
    copied = folder(name)
    path = copied / "tokenizer.json"
    content = json.loads(path.read_text())
    content["model"]["merges"] = []
    path.write_text(json.dumps(content, indent=2))
    refused(
        lambda: processor_of(copied), "tokenizer.json of", "has no merges", "pieces that merges"
    )


def _with_model(folder, name, **changes):
    """A copy whose BPE model has other fields, each computed from its own."""
    copied = folder(name)
    path = copied / "tokenizer.json"
    content = json.loads(path.read_text())
    for field, change in changes.items():
        content["model"][field] = change(content["model"].get(field))
    path.write_text(json.dumps(content))
    return copied


@pytest.mark.parametrize("name", ["nano", "2.6", "2.5", "2b", "1b", "128k", "moe"])
@pytest.mark.parametrize(
    "left",
    [
        lambda merges: merges[: len(merges) // 2],
        lambda merges: merges[: len(merges) * 9 // 10],
        lambda merges: merges[len(merges) // 2 :],
        lambda merges: merges[::2],
    ],
    ids=["first-half", "nine-tenths", "last-half", "every-other"],
)
def test_a_vocabulary_with_a_part_of_its_merges_is_named(folder, name, left):
    copied = _with_model(folder, name, merges=left)
    refused(lambda: processor_of(copied), "tokenizer.json of", "merges make", "a part of them")


def test_pieces_of_the_user_need_no_merges(folder):
    """As SentencePiece has them, of pieces of the vocabulary or not."""
    words = ["<answer>", "<reserved_1>", "thethe", "intheof"]
    copied = _with_model(
        folder,
        "2b",
        vocab=lambda vocab: vocab | {word: len(vocab) + n for n, word in enumerate(words)},
    )
    processor, _ = processor_of(copied)
    assert processor.tokenizer.convert_tokens_to_ids(words) == list(range(720, 724))


_BYTES = pre_tokenizers.ByteLevel
_METASPACE = {"special_tokens": ["<unk>"], "model": {"unk_token": "<unk>", "byte_fallback": True}}


@pytest.mark.parametrize(
    ("split", "options"),
    [
        (_BYTES(), {"initial_alphabet": _BYTES.alphabet()}),
        (_BYTES(add_prefix_space=False), {"max_token_length": 5}),
        (pre_tokenizers.Whitespace(), {"limit_alphabet": 20, **_METASPACE}),
        (pre_tokenizers.Metaspace(), _METASPACE),
        (pre_tokenizers.Split("\n", "isolated"), {"min_frequency": 3}),
        (pre_tokenizers.Whitespace(), {"model": {"continuing_subword_prefix": "##"}}),
        (pre_tokenizers.Whitespace(), {"model": {"end_of_word_suffix": "</w>"}}),
        (pre_tokenizers.Whitespace(), {"model": {"dropout": 0.9}}),
    ],
    ids=["bytes", "short", "few-letters", "byte-fallback", "lines", "prefix", "suffix", "dropout"],
)
def test_trained_vocabularies_have_all_their_merges(tmp_path, split, options):
    options = dict(options)
    parts = options.pop("model", {})
    affixes = {key: value for key, value in parts.items() if key.endswith("fix")}
    trained = Tokenizer(models.BPE(**parts))
    trained.pre_tokenizer = split
    trainer = trainers.BpeTrainer(vocab_size=700, show_progress=False, **affixes, **options)
    trained.train_from_iterator([Path(__file__).read_text()], trainer)
    trained.add_special_tokens(["<end>"])
    trained.save(str(tmp_path / "tokenizer.json"))
    settings = {"tokenizer_class": "MiniCPMVTokenizerFast", "eos_token": "<end>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    found = MiniCPMVTokenizerFast.from_pretrained(tmp_path)
    assert len(found) == trained.get_vocab_size()
