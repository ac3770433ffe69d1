"""The widths that `minicpmv bench --shape` knows are those of the releases."""

import json
from pathlib import Path

import pytest

from minicpmv.bench.checkpoint import share_of, write_checkpoint, write_small_files
from minicpmv.bench.shapes import SHAPES, config_of
from minicpmv.checkpoint.consistency import find_mismatches
from minicpmv.checkpoint.hub import Checkpoint
from minicpmv.loader import MODEL_CLASSES, load, load_processor
from minicpmv.releases import RELEASES, TEXT_RELEASES, model_type_of

RELEASED = Path(__file__).parents[1] / "released_configs"
MEMBERS = {
    "1.0": "minicpm-v-1_0",
    "2.0": "minicpm-v-2",
    "2.5": "minicpm-llama3-v-2_5",
    "2.6": "minicpm-v-2_6",
    "omnilmm-12b": "omnilmm-12b",
    "2b": "minicpm-2b",
    "1b": "minicpm-1b",
    "2b-128k": "minicpm-2b-128k",
    "moe-8x2b": "minicpm-moe-8x2b",
}
SMALL = {"hidden_size": 128, "intermediate_size": 64, "num_hidden_layers": 1}


def test_every_release_has_its_shape():
    assert set(SHAPES) == {*RELEASES, *TEXT_RELEASES, "tiny"} == {*MEMBERS, "tiny"}


@pytest.mark.parametrize("shape", MEMBERS)
def test_fields_are_those_of_the_released_config(shape):
    released = json.loads((RELEASED / f"{MEMBERS[shape]}.json").read_text())
    fields = config_of(shape)
    assert {name: released.get(name) for name in fields} == fields


def test_the_share_of_a_model_is_counted():
    share = share_of("2.6", 4)
    assert (share["layers"], share["whole_layers"]) == (4, 28)
    assert share["whole_parameters"] == 8_099_175_152
    assert share["whole_parameters"] - share["parameters"] == 24 * 233_057_792


@pytest.mark.parametrize("shape", MEMBERS)
def test_files_of_a_random_model_agree_with_each_other(shape, tmp_path):
    fields = config_of(shape)
    write_small_files(tmp_path, fields)
    processor = load_processor(Checkpoint.find(str(tmp_path)), fields)
    config = MODEL_CLASSES[model_type_of(fields)].config_class.from_dict(fields)
    assert find_mismatches(config, processor) == []


@pytest.mark.parametrize("shape", ["tiny", "2b", "1b", "2b-128k", "moe-8x2b"])
def test_a_random_model_loads_and_answers(shape, tmp_path, monkeypatch):
    small = {} if shape == "tiny" else SMALL | {"vocab_size": 1024, "num_attention_heads": 4}
    small |= {"num_key_value_heads": 2} if shape == "1b" else {"num_key_value_heads": 4}
    fields = SHAPES[shape] | ({} if shape == "tiny" else small)
    monkeypatch.setitem(SHAPES, shape, fields)
    size = write_checkpoint(tmp_path, shape, 1)
    assert size == sum(file.stat().st_size for file in tmp_path.glob("*.safetensors")) - sum(
        8 + int.from_bytes(file.read_bytes()[:8], "little")
        for file in tmp_path.glob("*.safetensors")
    )
    chat = load(tmp_path, "cpu", "float32", progress=False)
    answer = chat.ask("red", sampling=False, num_beams=1, max_new_tokens=3, min_new_tokens=3)
    assert answer.num_output_tokens == 3
