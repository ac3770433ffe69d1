"""The Modelfile, read by its documented grammar; its template, filled as Go fills it.

Both are written out here for the part that is used: instructions with values in one or three
quotes; `range`, `if`, `else`, `end`, a variable, and the functions that our templates call.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from minicpmv.export.gguf.source import Source
from minicpmv.export.ollama import FORMS, ChatForm, export_ollama, form_of, modelfile

from .gguf.members import FOLDERS

INSTRUCTIONS = {"FROM", "PARAMETER", "TEMPLATE", "SYSTEM", "LICENSE", "MESSAGE", "ADAPTER"}
NUMBERS = {"num_ctx", "num_predict", "temperature", "top_p", "top_k", "repeat_penalty"}
MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is this?"},
    {"role": "assistant", "content": "A harbour."},
    {"role": "user", "content": "And that?"},
]


def instructions(text: str) -> Iterator[tuple[str, str]]:
    """Name and value of every instruction."""
    while text := text.lstrip():
        name, _, text = text.partition(" ")
        assert name in INSTRUCTIONS, name
        if text.startswith('"""'):
            value, _, text = text[3:].partition('"""')
        else:
            value, _, text = text.partition("\n")
            if name == "PARAMETER":
                parameter, _, number = value.partition(" ")
                value = f"{parameter} {unquoted(number)}"
                assert parameter in NUMBERS | {"stop"}
                assert parameter == "stop" or float(number) >= 0
            else:
                value = unquoted(value)
        yield name, value


def unquoted(value: str) -> str:
    return value[1:-1] if value.startswith('"') and value.endswith('"') and value[1:] else value


def filled(template: str, messages: list[dict[str, str]]) -> str:
    """A template of Go with these messages as `.Messages`."""
    parts = re.split(r"(\{\{.*?\}\})", template, flags=re.DOTALL)
    text, rest = block(parts, 0, {"$.Messages": messages, ".Messages": messages}, True)
    assert rest == len(parts)
    return text


def block(parts: list[str], place: int, scope: dict[str, Any], is_on: bool) -> tuple[str, int]:
    """Text up to the action that ends a block, and its place."""
    text = ""
    while place < len(parts):
        part = parts[place]
        if not part.startswith("{{"):
            text += part if is_on else ""
            place += 1
            continue
        action = part[2:-2].strip()
        if action.startswith(("else", "end")):
            return text, place
        if action.startswith("range"):
            match = re.fullmatch(r"range (\$\w+), (\$\w+) := (\S+)", action)
            assert match is not None
            for number, item in enumerate(scope[match[3]]):
                inner = scope | {match[1]: number, match[2]: item, ".": item}
                found, end = block(parts, place + 1, inner, is_on)
                text += found
            place = end + 1
        elif action.startswith("if "):
            found, place = choice(parts, place, action, scope, is_on)
            text += found
        elif ":=" in action:
            name, _, expression = action.partition(":=")
            scope[name.strip()] = value(expression, scope) if is_on else None
            place += 1
        else:
            text += str(value(action, scope)) if is_on else ""
            place += 1
    return text, place


def choice(
    parts: list[str], place: int, action: str, scope: dict[str, Any], is_on: bool
) -> tuple[str, int]:
    text, is_open = "", is_on
    while action != "end":
        holds = is_open and (action == "else" or bool(value(action.partition("if ")[2], scope)))
        found, place = block(parts, place + 1, scope, holds)
        text += found
        is_open = is_open and not holds
        action = parts[place][2:-2].strip()
    return text, place + 1


def value(expression: str, scope: dict[str, Any]) -> Any:
    words = re.findall(r'"[^"]*"|[()]|[^\s()]+', expression)
    found, rest = term(words, scope)
    assert not rest
    return found


def term(words: list[str], scope: dict[str, Any]) -> tuple[Any, list[str]]:
    """A call with its arguments up to a closing bracket, or one word."""
    functions = {
        "eq": lambda a, b: a == b,
        "ne": lambda a, b: a != b,
        "and": lambda a, b: a and b,
        "not": lambda a: not a,
        "len": len,
        "slice": lambda items, start: items[start:],
    }
    if words[0] not in functions:
        return atom(words, scope)
    function, words, arguments = functions[words[0]], words[1:], []
    while words and words[0] != ")":
        argument, words = atom(words, scope)
        arguments.append(argument)
    return function(*arguments), words


def atom(words: list[str], scope: dict[str, Any]) -> tuple[Any, list[str]]:
    first, rest = words[0], words[1:]
    if first == "(":
        found, rest = term(rest, scope)
        assert rest[0] == ")"
        return found, rest[1:]
    if first.startswith('"'):
        return first[1:-1], rest
    if first.isdigit():
        return int(first), rest
    if first in (".Role", ".Content"):
        return scope["."][first[1:].lower()], rest
    return scope[first], rest


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("messages", [MESSAGES, MESSAGES[:2], MESSAGES[1:]])
def test_go_writes_the_prompt_of_the_form(form: ChatForm, messages: list[dict[str, str]]) -> None:
    given = messages
    if form.system and messages[0]["role"] != "system":  # Ollama puts SYSTEM there
        given = [{"role": "system", "content": form.system}, *messages]
    assert filled(form.go_template(), given) == form.render(messages)


def test_an_answer_that_was_begun_is_gone_on_with() -> None:
    written = filled(FORMS[0].go_template(), MESSAGES[:3])
    assert written.endswith("<|im_start|>assistant\nA harbour.")


@pytest.mark.parametrize("model", FOLDERS)
def test_every_member_has_the_form_of_its_template(model: str) -> None:
    with Source(FOLDERS[model]) as source:
        form = form_of(source.processor)
        assert form is not None
        for messages in (MESSAGES[1:], MESSAGES):
            written = source.processor.apply_chat_template(
                [dict(message) for message in messages], add_generation_prompt=True, tokenize=False
            )
            assert form.render(messages) == (written if isinstance(written, str) else written[0])


@pytest.mark.parametrize(
    ("model", "stops", "has_pictures"),
    [
        ("2.6", ["<|im_end|>", "<|endoftext|>"], True),
        ("2.5", ["<|end_of_text|>", "<|eot_id|>"], True),
        ("2b", ["</s>", "<AI>", "<用户>"], False),
        ("2.0", ["</s>"], False),
        ("nano", ["<|im_end|>", "<|endoftext|>"], True),
    ],
)
def test_modelfile(tmp_path: Path, model: str, stops: list[str], has_pictures: bool) -> None:
    written = export_ollama(FOLDERS[model], tmp_path, "F16", progress=False)
    assert written.modelfile == tmp_path / "Modelfile"
    found = list(instructions((tmp_path / "Modelfile").read_text(encoding="utf-8")))
    files = [tmp_path / value for name, value in found if name == "FROM"]
    assert files == written.files
    assert len(files) == 1 + has_pictures
    parameters = [value.split(" ", 1) for name, value in found if name == "PARAMETER"]
    assert sorted(value for name, value in parameters if name == "stop") == sorted(stops)
    once = dict(parameters)
    with Source(FOLDERS[model]) as source:
        form = form_of(source.processor)
        release, text = source.processor.release, source.config.get_text_config()
    assert form is not None
    assert ("TEMPLATE", form.go_template()) in found
    assert (("SYSTEM", form.system) in found) == bool(form.system)
    assert int(once["num_ctx"]) <= text.max_position_embeddings
    if model == "nano":
        assert once["temperature"] == "0"
    else:
        assert float(once["top_p"]) == release.sampling.top_p
        assert float(once["temperature"]) == release.sampling.temperature
    assert [name for name, _ in found].count("LICENSE") == 1


def test_a_licence_may_hold_quotes(tmp_path: Path) -> None:
    text = modelfile([tmp_path / "a.gguf"], FORMS[0], [], 'Say "yes".\n"""\nEnd')
    found = dict(instructions(text))
    assert found["LICENSE"] == "Say \"yes\".\n'''\nEnd"


def test_a_modelfile_that_is_there_stays(tmp_path: Path) -> None:
    (tmp_path / "Modelfile").write_text("FROM x\n", encoding="utf-8")
    with pytest.raises(FileExistsError, match="Modelfile' is there"):
        export_ollama(FOLDERS["2b"], tmp_path, "F16", progress=False)
    assert len(list(tmp_path.iterdir())) == 1
