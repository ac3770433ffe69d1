"""TRL's rows to batches with our targets. TRL itself: `tests/suites/trainers`."""

import pytest
import torch

from minicpmv.data.encode import EncodeSettings, encode_conversation
from minicpmv.data.faults import DataError
from minicpmv.data.messages import Conversation, Message, Picture
from minicpmv.data.pictures import PictureReader
from minicpmv.integrations.trl import SFTCollator

from ..helpers.conversations import picture, processor_of
from ..helpers.golden import CHECKPOINTS, Golden

RED, BLUE = picture(), picture(30, 50, "blue")


def block(kind, text=None):
    """As `datasets` gives it: every key in every block."""
    return {"type": kind, "text": text}


ROWS = [
    {
        "messages": [
            {"role": "user", "content": [block("image"), block("text", "What is this?")]},
            {"role": "assistant", "content": [block("text", "Red.")]},
            {"role": "user", "content": [block("text", "Sure?")]},
            {"role": "assistant", "content": [block("text", "Yes, red.")]},
        ],
        "images": [RED],
    },
    {
        "messages": [
            {
                "role": "user",
                "content": [block("image"), block("image"), block("text", "Compare.")],
            },
            {"role": "assistant", "content": [block("text", "Red, blue.")]},
        ],
        "images": [RED, BLUE],
    },
    {
        "messages": [
            {"role": "user", "content": [block("text", "Hello")]},
            {"role": "assistant", "content": [block("text", "Good day")]},
        ],
        "images": [],
    },
]
CONVERSATIONS = [
    Conversation(
        (
            Message("user", (Picture(RED), "What is this?")),
            Message("assistant", ("Red.",)),
            Message("user", ("Sure?",)),
            Message("assistant", ("Yes, red.",)),
        )
    ),
    Conversation(
        (
            Message("user", (Picture(RED), Picture(BLUE), "Compare.")),
            Message("assistant", ("Red, blue.",)),
        )
    ),
    Conversation((Message("user", ("Hello",)), Message("assistant", ("Good day",)))),
]


@pytest.mark.parametrize("model", list(CHECKPOINTS))
def test_the_targets_are_those_of_our_trainer(model):
    processor = processor_of(model)
    reader, settings = PictureReader(), EncodeSettings()
    rows = ROWS if model not in ("1.0", "omnilmm-12b") else [ROWS[0], ROWS[2]]
    wanted = CONVERSATIONS if len(rows) == 3 else [CONVERSATIONS[0], CONVERSATIONS[2]]
    batch = SFTCollator(processor)(rows)
    examples = [e for c in wanted for e in encode_conversation(processor, c, settings, reader)]
    assert len(batch["input_ids"]) == len(examples)
    for line, example in enumerate(examples):
        length = len(example.input_ids)
        assert batch["input_ids"][line, :length].tolist() == example.input_ids.tolist()
        assert batch["shift_labels"][line, :length].tolist() == example.targets.tolist()
        assert (batch["shift_labels"][line, length:] == -100).all()
        assert batch["attention_mask"][line].sum() == length
    trained = batch["shift_labels"] != -100
    assert not (trained[:, :-1] & (batch["mm_token_type_ids"][:, 1:] == 1)).any()
    assert batch["slices_per_sample"].sum() == len(batch["pixel_values"])


def test_a_prompt_with_a_completion_and_a_lone_picture():
    processor = processor_of("2.6")
    row = {
        "prompt": [{"role": "user", "content": "What is this?"}],
        "completion": [{"role": "assistant", "content": "Red."}],
        "image": RED,
    }
    messages = ROWS[0]["messages"][:2]
    expected = SFTCollator(processor)([{"messages": messages, "images": [RED]}])
    found = SFTCollator(processor)([row])
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)


def test_the_model_learns_from_the_batch():
    batch = SFTCollator(processor_of("2.6"), max_slice_nums=1)(ROWS)
    out = Golden("2.6").model(**batch)
    assert out.loss.isfinite()


def test_rows_that_cannot_be_trained_on_are_named():
    collate = SFTCollator(processor_of("2.6"))
    broken = {"messages": [*ROWS[2]["messages"][:1], {"role": "assistant", "content": " "}]}
    with pytest.raises(DataError, match=r"row 1, messages\[1\].content: .*"):
        collate([ROWS[2], broken])
    with pytest.raises(DataError, match="messages"):
        collate([{"input_ids": [1, 2]}])
    with pytest.raises(DataError, match="tokens"):
        SFTCollator(processor_of("2.6"), max_length=4)([ROWS[2]])
