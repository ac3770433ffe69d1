"""What the released `chat()` reads and computes anew for an answer, and what it does not."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from minicpmv import AutoModel, AutoProcessor, AutoTokenizer

from ..helpers.golden import CHECKPOINTS
from ..helpers.pictures import picture

GREEDY = {"sampling": False, "num_beams": 1, "max_new_tokens": 2}
HELLO = [{"role": "user", "content": "Hello"}]


def test_the_vocabulary_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = AutoModel.from_pretrained(CHECKPOINTS["2.6"]).eval()
    tokenizer = AutoTokenizer.from_pretrained(CHECKPOINTS["2.6"])
    first = model.chat(None, HELLO, tokenizer, **GREEDY)
    reads = []
    get_vocab = type(tokenizer).get_vocab
    monkeypatch.setattr(
        type(tokenizer), "get_vocab", lambda self: reads.append(1) or get_vocab(self)
    )
    assert model.chat(None, HELLO, tokenizer, **GREEDY) == first
    assert not reads


@pytest.mark.parametrize("version", ["1.0", "2.0", "2.5", "2.6"])
def test_given_features_spare_the_work_on_pixels(
    version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = AutoModel.from_pretrained(CHECKPOINTS[version]).eval()
    tokenizer = AutoTokenizer.from_pretrained(CHECKPOINTS[version])
    image = picture(700, 300)
    processor = AutoProcessor.from_pretrained(CHECKPOINTS[version])
    inputs = processor(text="(<image>./</image>)What?", images=[image])
    with torch.no_grad():
        features = model.get_image_features(
            inputs["pixel_values"], inputs["target_sizes"]
        ).pooler_output
    asked: dict[str, Any] = {"image": image, "msgs": [{"role": "user", "content": "What?"}]}
    whole = model.chat(**asked, tokenizer=tokenizer, **GREEDY)
    done = []
    for name in ("resize", "crop"):
        monkeypatch.setattr(Image.Image, name, lambda *args, **kwargs: done.append(1))
    monkeypatch.setattr(type(model.model.vision_tower), "forward", lambda *args: 1 / 0)
    found = model.chat(**asked, tokenizer=tokenizer, vision_hidden_states=[features], **GREEDY)
    assert found == whole
    assert not done


def test_the_checkpoints_own_template_stays_beside_a_tokenizer(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(CHECKPOINTS["2.6"], folder, copy_function=shutil.copyfile)
    processor = AutoProcessor.from_pretrained(folder)
    processor.chat_template = "Answer in French. " + processor.chat_template
    processor.save_pretrained(folder)
    lengths = []
    for tokenizer in (None, AutoTokenizer.from_pretrained(folder)):
        model = AutoModel.from_pretrained(folder).eval()
        model.get_input_embeddings().register_forward_pre_hook(
            lambda module, args: lengths.append(args[0].shape[1])
        )
        model.chat(None, HELLO, tokenizer, **GREEDY | {"max_new_tokens": 1})
    assert lengths[0] == lengths[1]
    assert lengths[0] > len(AutoTokenizer.from_pretrained(folder)("Answer in French.").input_ids)


def test_a_batch_with_a_seed_is_each_conversation_alone() -> None:
    model = AutoModel.from_pretrained(CHECKPOINTS["2.6"]).eval()
    tokenizer = AutoTokenizer.from_pretrained(CHECKPOINTS["2.6"])
    options = {"sampling": True, "seed": 5, "temperature": 3.0, "max_new_tokens": 6}
    conversations = [HELLO, [{"role": "user", "content": "How many legs has a spider?"}]]
    alone = [model.chat(None, messages, tokenizer, **options) for messages in conversations]
    assert model.chat(None, conversations, tokenizer, **options) == alone
