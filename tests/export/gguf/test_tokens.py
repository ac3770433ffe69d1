"""Vocabularies as llama.cpp reads them; its way to merge is written out here and compared."""

import json
import re
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from minicpmv.export.gguf.source import Source
from minicpmv.export.gguf.tokens import (
    BYTE,
    CONTROL,
    NORMAL,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    Vocabulary,
    chat_template,
    read_vocabulary,
    terminators,
)

from .members import FOLDERS, language

TEXTS = (
    "Hello world, how are you?",
    "你好，世界！ 1234",
    "a  b   c\n\n d\t",
    "  leading",
    "Ünïcödé 😀",
    "sssseeeerrrr tttttt",
)
PIECES = ("1.0", "2.0", "omnilmm-12b", "1b", "2b", "2b-128k", "moe-8x2b")


def merged_by_score(found: Vocabulary, text: str) -> list[int]:
    """Tokens of a text: those that a user has defined are found first, and what is between them is
    merged."""
    defined = {piece: i for i, piece in enumerate(found.tokens) if found.types[i] == USER_DEFINED}
    if found.puts_space_in_front:
        text = " " + text
    if not defined:
        return merged(found, text)
    longest_first = sorted(defined, key=len, reverse=True)
    tokens: list[int] = []
    for part in re.split(f"({'|'.join(map(re.escape, longest_first))})", text):
        tokens += [defined[part]] if part in defined else merged(found, part)
    return tokens


def merged(found: Vocabulary, text: str) -> list[int]:
    """Neighbours are joined, best score first, of equal ones the leftmost; what is no piece is
    written in bytes."""
    parts = list(text.replace(" ", "▁"))
    ids = {piece: i for i, piece in enumerate(found.tokens) if found.types[i] == NORMAL}
    while True:
        pairs = [
            (-found.scores[ids[a + b]], place)
            for place, (a, b) in enumerate(pairwise(parts))
            if a + b in ids
        ]
        if not pairs:
            break
        _, place = min(pairs)
        parts[place : place + 2] = [parts[place] + parts[place + 1]]
    tokens = []
    for part in parts:
        spelt = [f"<0x{byte:02X}>" for byte in part.encode()]
        tokens += [ids[part]] if part in ids else [found.tokens.index(byte) for byte in spelt]
    return tokens


@pytest.mark.parametrize("model", PIECES)
@pytest.mark.parametrize("kept", ["all files", "tokenizer.json alone"])
def test_scores_give_the_tokens_of_the_release(tmp_path: Path, model: str, kept: str) -> None:
    folder = FOLDERS[model]
    if kept != "all files":
        folder = tmp_path / "saved"
        shutil.copytree(FOLDERS[model], folder, copy_function=shutil.copyfile)
        with Source(FOLDERS[model]) as source:
            source.tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
        (folder / "tokenizer.model").unlink()
    with Source(folder) as source:
        found = read_vocabulary(source)
        assert found.kind == "llama"
        for text in TEXTS:
            expected = source.tokenizer(text, add_special_tokens=False)["input_ids"]
            assert merged_by_score(found, text) == expected, text


@pytest.mark.parametrize("model", PIECES)
def test_pieces_have_their_kinds(model: str) -> None:
    with Source(FOLDERS[model]) as source:
        found = read_vocabulary(source)
        added = source.tokenizer.added_tokens_decoder
    assert found.types[0] == UNKNOWN
    assert found.types[found.tokens.index("<0x0A>")] == BYTE
    for token_id, token in added.items():
        assert found.tokens[token_id] == str(token)
        if token_id:
            assert found.types[token_id] == (CONTROL if token.special else USER_DEFINED)


@pytest.mark.parametrize(
    ("model", "split"), [("2.5", "llama-bpe"), ("2.6", "qwen2"), ("nano", "qwen2")]
)
def test_pairs_of_bytes_keep_their_merges(model: str, split: str) -> None:
    said = language(model).metadata
    with Source(FOLDERS[model]) as source:
        written = json.loads(source.tokenizer.backend_tokenizer.to_str())
        vocabulary = source.tokenizer.get_vocab()
    assert said["tokenizer.ggml.model"] == "gpt2"
    assert said["tokenizer.ggml.pre"] == split
    merges = [tuple(merge.split(" ")) for merge in said["tokenizer.ggml.merges"]]
    pairs = [m.split(" ") if isinstance(m, str) else m for m in written["model"]["merges"]]
    assert merges == [tuple(pair) for pair in pairs]
    tokens = said["tokenizer.ggml.tokens"]
    assert {token: tokens.index(token) for token in vocabulary} == vocabulary
    assert said["tokenizer.ggml.token_type"][vocabulary["<image>"]] == CONTROL


def test_a_text_of_another_split_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(FOLDERS["2.6"], folder, copy_function=shutil.copyfile)
    written = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    written["pre_tokenizer"]["pretokenizers"][0]["pattern"] = {"Regex": r"\w+|\W+"}
    (folder / "tokenizer.json").write_text(json.dumps(written), encoding="utf-8")
    with Source(folder) as source, pytest.raises(ValueError, match=r"\\w\+.*other tokens"):
        read_vocabulary(source)


class Resized:
    """A checkpoint whose embeddings have more rows than its vocabulary has tokens."""

    def __init__(self, source: Source, rows: int):
        self._source, self._rows = source, rows
        self.config = self

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def get_text_config(self) -> Any:
        class Text:
            vocab_size = self._rows

        return Text()


@pytest.mark.parametrize(("model", "rows"), [("2b", 728), ("2.6", 768)])
def test_rows_without_a_token_are_unused(model: str, rows: int) -> None:
    with Source(FOLDERS[model]) as source:
        size = len(source.tokenizer)
        found = read_vocabulary(Resized(source, rows))  # type: ignore[arg-type]
    assert found.tokens[size:] == [f"[PAD{place}]" for place in range(size, rows)]
    assert set(found.types[size:]) == {UNUSED}
    assert len(found.tokens) == len(found.types) == rows
    if found.scores:
        assert len(found.scores) == rows


@pytest.mark.parametrize("model", FOLDERS)
def test_every_end_of_an_answer_is_named(model: str) -> None:
    said = language(model).metadata
    with Source(FOLDERS[model]) as source:
        release, vocabulary = source.processor.release, source.tokenizer.get_vocab()
        ends = terminators(source)
    named = [said.get(f"tokenizer.ggml.{key}_token_id") for key in ("eos", "eot")]
    expected = {vocabulary[text] for text in release.terminators}
    assert set(ends) >= expected
    assert expected <= {token_id for token_id in named if token_id is not None}


@pytest.mark.parametrize("model", FOLDERS)
def test_a_template_for_text_writes_what_the_processor_writes(model: str) -> None:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    messages = [
        {"role": "user", "content": "What is this?"},
        {"role": "assistant", "content": "A harbour."},
        {"role": "user", "content": "And that?"},
    ]
    with Source(FOLDERS[model]) as source:
        template = chat_template(source)
        expected = source.processor.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=False
        )
        begin = source.tokenizer.bos_token
    expected = expected if isinstance(expected, str) else expected[0]
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    written = environment.from_string(template).render(
        messages=messages, add_generation_prompt=True, bos_token=begin
    )
    assert written == expected
    assert "generation" not in template.replace("add_generation_prompt", "")
    assert "./</image>" not in template
