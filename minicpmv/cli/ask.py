"""`minicpmv ask`: one answer on stdout, everything else on stderr."""

import argparse
import json
import os
import re
import select
import shlex
import stat
import sys
from pathlib import Path
from typing import Any

from minicpmv.errors import short

from .attachments import (
    add_video_options,
    check_video_options,
    read_files,
    read_video,
    video_options,
)
from .decide import add_decision_options, decision_options, is_decision, print_decision
from .options import (
    add_generation_options,
    add_model_options,
    generation_options,
    load_chat,
    tell_default_model,
)
from .usage import UsageError

DESCRIPTION = """\
Answer one question about pictures and videos. The answer goes to stdout, everything else to stderr.

Text piped to stdin is put in front of PROMPT; with the file `-`, stdin is a picture or video.
"""

_ADDRESS = re.compile(r"(?:(?:https?|file|ftp|s3)://|data:[a-z]+/)\S*", re.IGNORECASE)
PATIENCE_S = 3.0  # with a silent pipe, until we say what we wait for

EPILOG = """\
examples:
  minicpmv ask "What is written on the sign?" street.jpg
  minicpmv ask "What has changed?" before.png after.png
  minicpmv ask "What happens?" clip.mp4
  curl -s https://example.com/cat.jpg | minicpmv ask "Describe this." -
  minicpmv ask "Summarise this." < letter.txt
  minicpmv ask "What colour is the star?" scene.png --choices red,green,blue
  minicpmv ask "Is there a star?" scene.png --kind yesno
  minicpmv ask --json "How many circles are there?" scene.png | jq .text
"""


def add_parser(subparsers: "argparse._SubParsersAction") -> None:
    parser = subparsers.add_parser(
        "ask",
        usage="minicpmv ask [options] PROMPT [FILE ...]",
        description=DESCRIPTION,
        epilog=EPILOG,
    )
    parser.add_argument(
        "prompt", metavar="PROMPT", nargs="?", help="the question; - reads it from stdin"
    )
    parser.add_argument(
        "files", metavar="FILE", nargs="*", help="a picture or video: path, URL, or - for stdin"
    )
    parser.add_argument(
        "--video",
        metavar="PATH",
        action="append",
        default=[],
        help="a video, animated GIF or folder of frames, shown after the files; may be given more "
        "than once",
    )
    add_video_options(parser)
    parser.add_argument("--system", metavar="TEXT", help="system prompt")
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object: text, tokens, seconds"
    )
    add_decision_options(parser)
    add_model_options(parser)
    add_generation_options(parser)


def run(args: argparse.Namespace) -> None:
    _check_order(args.prompt, args.files)
    prompt = _read_prompt(args.prompt, stdin_is_picture="-" in args.files)
    pictures = read_files(args.files, **video_options(args))
    options: dict[str, Any] = generation_options(args)
    if args.video:
        options["videos"] = [read_video([path], **video_options(args)) for path in args.video]
    check_video_options(video_options(args), [*pictures, *options.get("videos", ())])
    decided = decision_options(args) if is_decision(args) else None
    chat = load_chat(args)
    if decided is not None:
        if args.files or args.video:
            tell_default_model(args)
        decision = chat.decide(prompt, pictures, **decided, **options)
        print_decision(chat, decision, as_json=args.json)
        return
    with chat.stream(prompt, pictures, **options) as stream:
        if args.files or args.video:
            tell_default_model(args)
        for text in stream:
            if not args.json:
                print(text, end="", flush=True)
    print(_as_json(stream.answer, args.model) if args.json else "")


def _as_json(answer: Any, model: str) -> str:
    report = {
        "text": answer.text,
        "model": model,
        "num_input_tokens": answer.num_input_tokens,
        "num_output_tokens": answer.num_output_tokens,
        "seconds": round(answer.seconds, 3),
        "prompt_seconds": round(answer.prompt_seconds, 3),
        "decode_seconds": round(answer.decode_seconds, 3),
        "tokens_per_second": round(answer.tokens_per_second, 2),
        "finish_reason": answer.finish_reason,
    }
    return json.dumps(report, ensure_ascii=False)


def _check_order(prompt: str | None, files: list[str]) -> None:
    """The question comes first: `minicpmv ask street.jpg` would never look at the picture."""
    kind = None if not prompt or prompt == "-" else _kind_of_file(prompt, files)
    if prompt is None or kind is None:
        return
    question = next((file for file in files if not _may_be_file(file)), "What is this?")
    shown = shlex.quote(prompt) if len(prompt) <= 200 else "FILE"
    shown = f"--video {shown}" if kind == "a folder" else shown
    raise UsageError(
        f"PROMPT {short(prompt, 200)} is {kind}. The question comes first: "
        f'minicpmv ask "{question}" {shown}'
    )


def _kind_of_file(prompt: str, files: list[str]) -> str | None:
    """What was named in place of a question; None for a question."""
    path = os.path.expanduser(prompt)
    if _ADDRESS.fullmatch(prompt):
        return "an address"
    if os.path.isfile(path) and (Path(path).suffix or _has_question(files)):
        return "a file"
    if os.path.isdir(path) and _has_question(files):
        return "a folder"
    return "the name of a file" if _has_suffix_of_file(prompt) else None


def _has_question(files: list[str]) -> bool:
    return any(not _may_be_file(file) for file in files)


def _may_be_file(word: str) -> bool:
    is_there = word == "-" or os.path.exists(os.path.expanduser(word))
    return is_there or bool(_ADDRESS.fullmatch(word)) or _has_suffix_of_file(word)


def _has_suffix_of_file(word: str) -> bool:
    from minicpmv.media.source import PICTURE_SUFFIXES, VIDEO_SUFFIXES

    suffixes = PICTURE_SUFFIXES | VIDEO_SUFFIXES
    return not re.search(r"\s", word) and Path(word).suffix.lower() in suffixes


def _read_prompt(typed: str | None, stdin_is_picture: bool) -> str:
    """What was typed, after what was piped; `-` stands for the pipe alone."""
    if typed == "-" and stdin_is_picture:
        raise UsageError("PROMPT and FILE are both -, but stdin can be read only once.")
    piped = "" if stdin_is_picture else _piped_text().strip("\n")
    prompt = "\n".join(part for part in (piped, typed) if part and part != "-")
    if not prompt.strip():
        raise UsageError('The prompt is empty. Give a question: minicpmv ask "What is this?" FILE')
    return prompt


def _piped_text() -> str:
    """What another program or a file feeds into stdin; nothing when stdin is a terminal."""
    if sys.stdin is None or not _is_fed(sys.stdin):
        return ""
    if os.name == "posix" and not select.select([sys.stdin], [], [], PATIENCE_S)[0]:
        print("minicpmv: waiting for text on stdin (< /dev/null gives none)", file=sys.stderr)
    try:
        return sys.stdin.buffer.read().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(
            "stdin is not UTF-8 text. If it is a picture, add the file -: minicpmv ask PROMPT -"
        ) from None


def _is_fed(stream: Any) -> bool:
    """True for a pipe or a redirected file; false for a terminal or /dev/null."""
    try:
        mode = os.fstat(stream.fileno()).st_mode
    except (OSError, ValueError):
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode)
