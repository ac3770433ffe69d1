"""Every member at its true size, without memory for its weights.

The tensors that `released_tensors.py` writes down are those of our classes, and their sums are the
published ones.
"""

import math
import shutil

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import minicpmv.auto  # noqa: F401

from ..helpers.released_tensors import CONFIGS, count, parts, released

TOTALS = {
    "minicpm-v-1_0": 3_434_965_792,
    "minicpm-v-2": 3_434_965_792,
    "minicpm-llama3-v-2_5": 8_537_092_336,
    "minicpm-v-2_6": 8_099_175_152,
}
# Vision tower, resampler, language model.
PARTS = {
    "minicpm-llama3-v-2_5": (417_792_240, 89_038_848, 8_030_261_248),
    "minicpm-v-2_6": (417_792_240, 68_619_264, 7_612_763_648),
}
# Published without the embeddings.
BODIES = {"minicpm-2b": 2_442_057_984, "minicpm-1b": 1_247_442_432}
# Published as rounded numbers: total, and how exact it is.
ROUNDED = {"omnilmm-12b": (11.61e9, 0.01e9), "minicpm-moe-8x2b": (13.6e9 + 122753 * 2304, 0.05e9)}
# Bytes that the released index announces, and bytes of a number there. 2.5's counts four, though
# its files are float16.
INDEX_BYTES = {
    "minicpm-v-1_0": (6_869_931_584, 2),
    "minicpm-v-2": (6_869_931_584, 2),
    "minicpm-llama3-v-2_5": (34_148_369_344, 4),
    "minicpm-v-2_6": (16_198_350_304, 2),
}


def test_the_rules_give_the_published_numbers():
    for member, total in TOTALS.items():
        assert sum(map(count, parts(released(member)))) == total
        size, width = INDEX_BYTES[member]
        assert width * total == size
    for member, sizes in PARTS.items():
        assert tuple(map(count, parts(released(member)))) == sizes
    for member, body in BODIES.items():
        (tensors,) = parts(released(member))
        assert count(tensors) - math.prod(tensors["model.embed_tokens.weight"]) == body
    for member, (total, error) in ROUNDED.items():
        assert sum(map(count, parts(released(member)))) == pytest.approx(total, abs=error)


@pytest.mark.parametrize("member", [path.stem for path in sorted(CONFIGS.glob("*.json"))])
def test_the_model_has_the_released_tensors(member, tmp_path):
    shutil.copyfile(CONFIGS / f"{member}.json", tmp_path / "config.json")
    config = AutoConfig.from_pretrained(tmp_path)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    tensors = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if not any(tensor is other for other in tensors.values()):  # tied: once in the file
            tensors[model.released_name(name)] = tensor
    expected = {name: shape for part in parts(released(member)) for name, shape in part.items()}
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == expected
