"""`minicpmv chat`: a conversation in the terminal.

Lines that begin with a slash are commands; everything else is said to the model. Answers go to
stdout and the rest to stderr, so a conversation can be scripted:
`minicpmv chat scene.png < questions.txt > answers.txt`.
"""

import argparse
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minicpmv.conversation_file import read_conversation, write_conversation
from minicpmv.errors import ArgumentError, MarkedError, meant

from .attachments import add_video_options, read_files, read_video, video_options
from .options import (
    ANSWER_OPTIONS,
    add_generation_options,
    add_model_options,
    generation_options,
    load_chat,
)
from .usage import with_command

if TYPE_CHECKING:
    from minicpmv.chat import Chat

DESCRIPTION = "Talk about pictures in the terminal. /help lists what can be typed beside questions."

BYTE_ORDER_MARK = "\ufeff"  # which editors and shells of Windows put before a text

HELP = '''\
/image PATH ...    show pictures with the next message
/video PATH ...    show a video: a file, an animated GIF, a folder of frames, or its frames
/system [TEXT]     set the system prompt; without TEXT, remove it
/set [NAME VALUE]  set an option of the answer (/set max_new_tokens 50); alone, list them;
                   without VALUE, back to the default
/clear             forget the conversation and the pictures not yet sent
/save FILE         write the conversation, pictures included, as JSON
/load FILE         continue a saved conversation
/help              this list
/bye               leave; so does Ctrl-D
""" ... """        around a message of several lines
Ctrl-C             stop the answer
'''


def add_parser(subparsers: "argparse._SubParsersAction") -> None:
    parser = subparsers.add_parser(
        "chat",
        usage="minicpmv chat [options] [FILE ...]",
        description=DESCRIPTION,
        epilog=f"inside:\n{HELP}",
    )
    parser.add_argument(
        "files",
        metavar="FILE",
        nargs="*",
        help="a picture or video for the first message: path or URL",
    )
    add_video_options(parser)
    parser.add_argument("--system", metavar="TEXT", help="system prompt")
    add_model_options(parser)
    add_generation_options(parser)


def run(args: argparse.Namespace) -> None:
    from minicpmv.media.frames import check_sampling

    if "-" in args.files:
        raise ValueError(
            "chat reads what you type from stdin, so a picture cannot come from there."
        )
    check_sampling(**{"num_frames": None, "fps": None, **video_options(args)})
    pictures = read_files(args.files, **video_options(args))
    interactive = sys.stdin.isatty()
    if interactive:
        _start_readline()
    session = Session(load_chat(args), generation_options(args), interactive)
    if pictures:
        session.check_supports_images()
    session.pictures = pictures
    session.video_options = video_options(args)
    if interactive:
        _tell(f"Talking to {args.model}. /help lists the commands, Ctrl-D leaves.")
    for text, is_quoted in _read_messages(interactive):
        if not session.handle(text, is_quoted):
            break


class Session:
    """A running conversation: the chat, the options of the answers, what the next message shows."""

    def __init__(self, chat: "Chat", options: dict[str, Any], interactive: bool) -> None:
        chat.check_options(options)
        self.chat = chat
        self.options = options
        self.interactive = interactive
        self.pictures: list = []
        self.videos: list = []
        self.video_options: dict[str, Any] = {}
        self.commands: dict[str, Callable[[str], None]] = {
            "image": self.show_pictures,
            "video": self.show_video,
            "system": self.set_system,
            "set": self.set_option,
            "clear": self.clear,
            "save": self.save,
            "load": self.load,
            "help": self.help,
        }

    def handle(self, text: str, is_quoted: bool = False) -> bool:
        """Run a command or say a message; False when the conversation is over.

        At a terminal an error is one line and the conversation goes on; in a script it ends it.
        """
        is_command = text.startswith("/") and not is_quoted
        name, _, rest = text[1:].partition(" ") if is_command else ("", "", text)
        try:
            if name in ("bye", "exit", "quit", "clear", "help") and rest.strip():
                raise ValueError(f"/{name} stands alone; {rest.strip()!r} would have no effect.")
            if name in ("bye", "exit", "quit"):
                return False
            if not is_command:
                self.say(text)
            elif name in self.commands:
                self.commands[name](rest.strip())
            else:
                raise ValueError(f"Unknown command /{name}. /help lists the commands.")
        except ArgumentError as error:
            if not self.interactive:
                raise ValueError(error.as_settings()) from error
            _tell(f"error: {error.as_settings()}")
        except (ValueError, OSError, RuntimeError) as error:
            if not self.interactive:
                raise
            found = error.as_flags() if isinstance(error, MarkedError) else str(error)
            message = with_command(found, "/video")
            _tell(f"error: {' '.join(message.split())}")
        return True

    def say(self, prompt: str) -> None:
        """Stream the answer to stdout; after Ctrl-C the conversation stands as it did before."""
        options = self._options_with_effect()
        if self.videos:
            options["videos"] = self.videos
        try:
            with self.chat.say(prompt, self.pictures, **options) as stream:
                for text in stream:
                    print(text, end="", flush=True)
            print(flush=True)
        except KeyboardInterrupt:
            if not self.interactive:
                raise
            print(flush=True)
            _tell("(stopped; the conversation continues without this message)")
            return
        self.pictures, self.videos = [], []

    def _options_with_effect(self) -> dict[str, Any]:
        """What was set stands for all messages; options of pictures wait for the first one."""
        if self.pictures or self.videos or any(map(_shows_something, self.chat.history)):
            return dict(self.options)
        return {
            name: value
            for name, value in self.options.items()
            if ANSWER_OPTIONS[name].needs != "picture"
        }

    def check_supports_images(self) -> None:
        """A picture that can never be sent would be in the way of every message."""
        if not self.chat.supports_images:
            raise ValueError(f"{self.chat.name} reads text only; it takes no pictures and videos.")

    def show_pictures(self, rest: str) -> None:
        self.check_supports_images()
        paths = _paths(rest, "/image street.jpg")
        self.pictures = [*self.pictures, *read_files(paths, **self.video_options)]
        _tell(f"(pictures with the next message: {len(self.pictures)})")

    def show_video(self, rest: str) -> None:
        self.check_supports_images()
        frames = read_video(_paths(rest, "/video clip.mp4"), **self.video_options)
        self.videos = [*self.videos, frames]
        _tell(f"(video with the next message: {len(frames)} frames)")

    def set_system(self, rest: str) -> None:
        self.chat.system = rest or None
        _tell(f"(system prompt: {rest})" if rest else "(no system prompt)")

    def set_option(self, rest: str) -> None:
        name, _, value = rest.partition(" ")
        if not name:
            width = max(map(len, ANSWER_OPTIONS)) + 2
            for option in ANSWER_OPTIONS.values():
                _tell(f"{option.name:{width}}{self._shown(option.name):10}{option.help}")
            return
        name = name.replace("-", "_")
        if name not in ANSWER_OPTIONS:
            close = meant(name, ANSWER_OPTIONS, "/set")
            raise ValueError(f"Unknown option {name!r}.{close}")
        options = {key: value for key, value in self.options.items() if key != name}
        value = value.strip()
        if value:
            is_quoted = len(value) > 2 and value[0] == value[-1] == '"'  # keeps spaces at the ends
            options[name] = ANSWER_OPTIONS[name].parse(value[1:-1] if is_quoted else value)
        self.chat.check_options(options)
        self.options = options
        _tell(f"({name}: {self._shown(name)})")

    def _shown(self, name: str) -> str:
        """The value of an option, texts in quotes."""
        value = self.options.get(name, "default")
        return ", ".join(f'"{text}"' for text in value) if isinstance(value, tuple) else str(value)

    def clear(self, rest: str) -> None:
        self.chat.clear()
        self.pictures, self.videos = [], []
        _tell("(a new conversation)")

    def save(self, rest: str) -> None:
        (path,) = _paths(rest, "/save talk.json", only_one=True)
        write_conversation(path, self.chat.name, self.chat.system, self.options, self.chat.history)
        _tell(f"(saved {len(self.chat.history)} messages to {path})")

    def load(self, rest: str) -> None:
        (path,) = _paths(rest, "/load talk.json", only_one=True)
        saved = read_conversation(path)
        unknown = sorted(set(saved["options"]) - set(ANSWER_OPTIONS))
        if unknown:
            raise ValueError(f"{path!r} sets the unknown option {unknown[0]!r}.")
        self.chat.check_options(saved["options"])
        self.chat.system = saved["system"]
        self.chat.history = saved["messages"]
        self.options = saved["options"]
        _tell(f"(loaded {len(self.chat.history)} messages from {path})")

    def help(self, rest: str) -> None:
        _tell(HELP.rstrip("\n"))


def _shows_something(message: dict[str, Any]) -> bool:
    content = message["content"]
    return not isinstance(content, str) and any(block.get("type") != "text" for block in content)


def _read_messages(interactive: bool) -> Iterator[tuple[str, bool]]:
    """What is typed, without empty lines, and whether it stood in triple quotes."""
    while True:
        try:
            text = _read_line(interactive, ">>> ").removeprefix(BYTE_ORDER_MARK).strip()
            is_quoted = text.startswith('"""')
            if is_quoted:
                text = _read_block(interactive, text[3:])
            if text:
                yield text, is_quoted
        except EOFError:
            if interactive:
                print(file=sys.stderr)
            return
        except KeyboardInterrupt:
            if not interactive:
                raise
            _tell("\n(Ctrl-D or /bye leaves)")


def _read_block(interactive: bool, first: str) -> str:
    lines = [first]
    while not lines[-1].rstrip().endswith('"""'):
        try:
            lines.append(_read_line(interactive, "... "))
        except EOFError:
            raise ValueError('The message that begins with """ has no closing """.') from None
    lines[-1] = lines[-1].rstrip().removesuffix('"""')
    return "\n".join(lines).strip("\n")


def _read_line(interactive: bool, prompt: str) -> str:
    if interactive:
        return input(prompt)
    try:
        line = sys.stdin.readline()
        line.encode()
    except UnicodeError:
        raise ValueError("stdin is not UTF-8 text. Type or pipe it in UTF-8.") from None
    if not line:
        raise EOFError
    return line.rstrip("\n")


def _paths(rest: str, example: str, only_one: bool = False) -> list[str]:
    """Split a command's words as a shell does, quotes and all."""
    paths = shlex.split(rest, posix=os.name == "posix")
    if not paths or (only_one and len(paths) > 1):
        raise ValueError(
            f"{example.split()[0]} takes {'one path' if only_one else 'a path'}: {example}"
        )
    return [os.path.expanduser(path) for path in paths]


def _start_readline() -> None:
    """Line editing, and what was typed in earlier conversations on the arrow keys."""
    try:
        import readline
    except ImportError:  # Python on Windows has none
        return
    import atexit

    history = _state_dir() / "chat_history"
    with suppress(OSError):  # none yet, or not ours to read: talking goes on without it
        readline.read_history_file(history)
    readline.set_history_length(1000)

    def write() -> None:
        with suppress(OSError):
            history.parent.mkdir(parents=True, exist_ok=True)
            readline.write_history_file(history)

    atexit.register(write)


def _state_dir() -> Path:
    if os.name == "nt":
        home = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    else:
        home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(home) / "minicpmv"


def _tell(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
