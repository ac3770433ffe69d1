"""The default model's tokenizer: a small byte-level BPE with release 2.6's special tokens.

It learns its merges from the chat template and from questions and answers about scenes, so that a
usual answer is one or two tokens; any other text is spelt in bytes. What is read off a picture is
left out of the training text: it is spelt.
"""

import json
import random
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from minicpmv.scenes import EXAMPLE_KINDS, KINDS, draw_example, questions_of, render
from minicpmv.scenes.figures.colours import COLOURS
from minicpmv.scenes.figures.icons import ICONS
from minicpmv.scenes.figures.shapes import SHAPES
from minicpmv.scenes.questions.naming import plural
from minicpmv.train.pretrain.dialogue import SMALL_TALK, SYSTEM

NUM_MERGES = 1536
# How often every name of a thing or colour stands in the training text, in each form, so that each
# form is one token.
NAME_REPEATS = 60
# Pictures of every kind whose questions are the training text.
NUM_SCENES, NUM_EXAMPLES = 120, 40
# In the order of the released vocabulary.
SPECIAL_TOKENS = (
    "<unk>",
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<image>",
    "</image>",
    "<ref>",
    "</ref>",
    "<box>",
    "</box>",
    "<quad>",
    "</quad>",
    "<point>",
    "</point>",
    "<slice>",
    "</slice>",
    "<image_id>",
    "</image_id>",
    *(f"<|reserved_special_token_{i}|>" for i in range(6)),
)
# Qwen2's way of cutting text before merging: contractions, words with their space, single digits,
# punctuation.
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _corpus() -> list[str]:
    text = ["system\nuser\nassistant\n", SYSTEM] * 200
    for question, answer in SMALL_TALK:
        text += [question, answer] * 20
    for name in (*SHAPES, *ICONS, *COLOURS):
        forms = (name, f" {name}", name.capitalize(), f" {plural(name)}", plural(name))
        text += NAME_REPEATS * forms
    for kind in KINDS:
        for seed in range(NUM_SCENES):
            for asked in questions_of(render(seed, kind=kind), 8, random.Random(seed)):
                text += [asked.text, asked.text[0].lower() + asked.text[1:]]
                if not asked.spelt:
                    text.append(asked.answer)
    for kind in EXAMPLE_KINDS:
        for seed in range(NUM_EXAMPLES):
            for turn in draw_example(seed, "train", kind).turns:
                text += [turn.question] if turn.spelt else [turn.question, turn.answer]
    return text


def train_tokenizer() -> Tokenizer:
    """Learn the vocabulary; the same one on every run."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=256 + NUM_MERGES,
        min_frequency=2,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in SPECIAL_TOKENS])
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write `tokenizer.json` and `tokenizer_config.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "MiniCPMVTokenizerFast",
        "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "unk_token": "<unk>",
        "extra_special_tokens": list(SPECIAL_TOKENS[4:]),
        "clean_up_tokenization_spaces": False,
        "model_max_length": 4096,
        "spells_print": True,  # for those who score given answers
    }
    text = json.dumps(config, indent=2) + "\n"
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")
