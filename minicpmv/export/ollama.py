"""A model for Ollama: its GGUF files and the Modelfile that `ollama create` reads.

A Modelfile says how a conversation is written as a template of Go. The forms of the family are a
table here, from which the template is made; the form is compared with the checkpoint's own chat
template first, so that a model with another one does not get words it was not trained on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .gguf.run import Exported, export
from .gguf.source import Source
from .gguf.tokens import terminators
from .gguf.vision import runs_in_llama_cpp

_MOST_CONTEXT = 8192  # of memory for a conversation, where the release does not say


@dataclass(frozen=True)
class ChatForm:
    """How a conversation is written.

    Fields:
        head: before everything.
        turns: by role what stands before and after a message.
        opening: begins the answer.
        system: the first message where none is given.
    """

    head: str
    turns: Mapping[str, tuple[str, str]]
    opening: str
    system: str = ""

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The prompt; the last message is not the assistant's."""
        if self.system and messages[0]["role"] != "system":
            messages = [{"role": "system", "content": self.system}, *messages]
        turns = [(self.turns[message["role"]], message["content"]) for message in messages]
        return (
            self.head
            + "".join(before + content + after for (before, after), content in turns)
            + self.opening
        )

    def go_template(self) -> str:
        """The same in Go's templates, as Ollama fills them.

        A conversation that ends with words of the assistant is gone on with.
        """
        cases = []
        for number, (role, (before, after)) in enumerate(self.turns.items()):
            test = f'{{{{ {"else " if number else ""}if eq .Role "{role}" }}}}'
            end = after
            if after and role == "assistant":
                end = f"{{{{ if not $last }}}}{after}{{{{ end }}}}"
            cases.append(f"{test}{before}{{{{ .Content }}}}{end}")
        opening = ""
        if self.opening:
            opening = f'{{{{ if and $last (ne .Role "assistant") }}}}{self.opening}{{{{ end }}}}'
        return (
            f"{self.head}{{{{ range $i, $_ := .Messages }}}}"
            "{{ $last := eq (len (slice $.Messages $i)) 1 }}"
            f"{''.join(cases)}{{{{ end }}}}{opening}{{{{ end }}}}"
        )


def _alike(before: str, after: str) -> dict[str, tuple[str, str]]:
    roles = ("system", "user", "assistant")
    return {role: (before.format(role=role), after) for role in roles}


_CHATML = _alike("<|im_start|>{role}\n", "<|im_end|>\n")
_CHATML_OPENING = "<|im_start|>assistant\n"
_HEADERS = _alike("<|start_header_id|>{role}<|end_header_id|>\n\n", "<|eot_id|>")
_TAGS = {"user": ("<用户>", "<AI>"), "assistant": ("", ""), "system": ("", "")}
FORMS = (
    ChatForm("", _CHATML, _CHATML_OPENING, "You are a helpful assistant."),
    ChatForm("", _CHATML, _CHATML_OPENING),
    ChatForm("", _CHATML, ""),
    ChatForm("<|begin_of_text|>", _HEADERS, "<|start_header_id|>assistant<|end_header_id|>\n\n"),
    ChatForm("", _TAGS, ""),
    ChatForm(
        "",
        _alike("<|{role}|>\n", "</s>\n"),
        "<|assistant|>\n",
        "You are an artificial intelligence assistant, which gives helpful, detailed, and polite "
        "answers to the human's questions.",
    ),
)
_SAMPLE = (
    {"role": "user", "content": "What is this?"},
    {"role": "assistant", "content": "A harbour."},
    {"role": "user", "content": "And that?"},
)


def export_ollama(
    model: str | Path, out: str | Path, file_type: str = "Q4_K_M", **options: Any
) -> Exported:
    """Write GGUF files of one type and a `Modelfile` beside them.

    Args:
        options: of `export`.

    Raises:
        ValueError: the model cannot be written as GGUF.
        OSError: a file is missing, is there already, or the disk is full.
    """
    with Source(model, options.get("adapter"), options.get("revision")) as source:
        form = form_of(source.processor)
        parameters = _parameters(source)
        license_text = _license(source)
        has_pictures = hasattr(source.config, "vision_config")
        runs_pictures = has_pictures and runs_in_llama_cpp(source.config)
        release = source.processor.release.name
    if not runs_pictures:
        options["mmproj"] = None

    def text(files: Sequence[Path]) -> str:
        return modelfile(files, form, parameters, license_text)

    written = export(model, out, [file_type], modelfile=text, **options)
    notes = list(written.notes)
    if has_pictures and not runs_pictures:
        notes.append(
            f"Ollama runs the language model of {release} alone: it has no code for its tower."
        )
    if form is None:
        notes.append(
            "The chat template is none of the release's, so the Modelfile has no TEMPLATE; Ollama "
            "looks for one by the template in the file."
        )
    return replace(written, notes=notes)


def form_of(processor: Any) -> ChatForm | None:
    """The form that writes a conversation as the checkpoint's template does; None without one."""
    wanted = processor.apply_chat_template(
        [dict(message) for message in _SAMPLE], add_generation_prompt=True, tokenize=False
    )
    wanted = wanted if isinstance(wanted, str) else wanted[0]
    return next((form for form in FORMS if form.render(_SAMPLE) == wanted), None)


def _parameters(source: Source) -> list[tuple[str, str]]:
    release = source.processor.release
    tokenizer, text = source.tokenizer, source.config.get_text_config()
    sampling = release.sampling
    longest = source.generation.get("max_new_tokens") or release.max_new_tokens
    most = getattr(release, "max_inp_length", _MOST_CONTEXT - longest)
    context = min(text.max_position_embeddings, most + longest)
    is_greedy = not sampling.draws or source.generation.get("do_sample") is False
    parameters = [("num_ctx", str(context)), ("num_predict", str(longest))]
    if is_greedy:
        parameters.append(("temperature", "0"))
    else:
        parameters += [
            ("temperature", f"{sampling.temperature:g}"),
            ("top_p", f"{sampling.top_p:g}"),
            ("top_k", str(sampling.top_k)),
        ]
    penalty = source.generation.get("repetition_penalty", sampling.repetition_penalty)
    parameters.append(("repeat_penalty", f"{penalty:g}"))
    texts = tokenizer.convert_ids_to_tokens(terminators(source))
    parameters += [("stop", text) for text in dict.fromkeys([*texts, *release.stop_texts])]
    return parameters


def _license(source: Source) -> str:
    found = sorted(source.folder.glob("LICENSE*"))
    if found and found[0].is_file():
        return found[0].read_text(encoding="utf-8", errors="replace").strip()
    release = source.processor.release
    if source.fields.get("variant") == "nano":
        return "Apache-2.0: https://www.apache.org/licenses/LICENSE-2.0"
    places = " or ".join(f"https://huggingface.co/{repo}" for repo in release.repo_ids[:1])
    return f"The weights are of {release.name}, under the licence that its page names: {places}"


def modelfile(
    files: Sequence[Path],
    form: ChatForm | None,
    parameters: Sequence[tuple[str, str]],
    license_text: str,
) -> str:
    """The text of a Modelfile beside `files`."""
    lines = [f"FROM ./{path.name}" for path in files]
    if form is not None:
        lines += ["", f"TEMPLATE {_quoted(form.go_template())}"]
        if form.system:
            lines += ["", f"SYSTEM {_quoted(form.system)}"]
    lines.append("")
    lines += [
        f"PARAMETER {name} {_quoted(value) if name == 'stop' else value}"
        for name, value in parameters
    ]
    lines += ["", f"LICENSE {_quoted(license_text)}"]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """A value of any text; three quotes where it has lines or quotes of its own."""
    if "\n" in text or '"' in text:
        return f'"""{text.replace(_QUOTES, _OTHER_QUOTES)}"""'
    return f'"{text}"'


_QUOTES, _OTHER_QUOTES = '"' * 3, "'" * 3


__all__ = ["FORMS", "ChatForm", "export_ollama", "form_of", "modelfile"]
