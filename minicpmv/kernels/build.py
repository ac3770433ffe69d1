"""Compile the C++ files of this folder into one shared library, keep it on disk, and load it.

Nothing is compiled or loaded when a module is imported. `library()` compiles at its first call, and
the result stays in the user's cache folder under a name that says what it was made from: sources,
flags, compiler, torch, and the processor's instruction sets, so that a home folder that machines
share never gives one of them the code of another. `built()` gives the library only where that was
done.

The environment variable MINICPMV_KERNELS:

    (unset)     use a compiler where there is one
    off         torch alone
    on          as unset, and a warning where there is no compiler
    PATH        this library, compiled elsewhere from the same sources

CXX names the compiler. A library that cannot be made, loaded, or does not compute what torch
computes is not used: one warning says why.

The sources use no C++ runtime (no exceptions, no containers), so that the library works with
whatever runtime torch has loaded. They are linked without an OpenMP runtime: its symbols are those
of the runtime that torch has loaded, so all share one pool of threads.
"""

import contextlib
import ctypes
import dataclasses
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import torch

from .processor import fingerprint, instruction_sets, processor_name

VARIABLE = "MINICPMV_KERNELS"
_OFF = ("off", "0", "no", "false")
SUFFIXES = {torch.float32: "f32", torch.bfloat16: "bf16"}  # of functions
SOURCES = Path(__file__).parent
COMPILERS = ("c++", "g++", "clang++")
TIMEOUT_S = 300
_EXPECTED_S = 5  # on one core of a laptop or server
_FLAGS = (
    "-O3",
    "-std=c++17",
    "-fPIC",
    "-fvisibility=hidden",
    "-fno-exceptions",
    "-fno-rtti",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffp-contract=fast",
    "-fno-threadsafe-statics",
)
_COST = "the same results are computed by torch, several times slower."


class BuildError(Exception):
    """Why there is no library; the message is a clause without a full stop."""


@dataclasses.dataclass(frozen=True)
class Library:
    """A loaded library.

    Fields:
        path: the file.
        cdll: its functions by name; each releases the interpreter's lock while it runs.
        target: instruction sets that it was compiled for, as the compiler calls them.
        threads: whether it computes in several threads.
    """

    path: Path
    cdll: Any
    target: tuple[str, ...]
    threads: bool

    def function(self, name: str, *arguments: Any) -> Any:
        """The function `minicpmv_NAME` without a result, with the ctypes of its arguments."""
        function = self.cdll[f"minicpmv_{name}"]  # an object of its own at each call
        function.argtypes, function.restype = arguments, None
        return function


class FunctionByDtype:
    """A function of the library that was used last, by dtype; replaced as a whole."""

    def __init__(self, name: str, arguments: tuple[Any, ...], result: Any = None):
        self._name, self._arguments, self._result = name, arguments, result
        self._of: tuple[Library | None, dict[torch.dtype, Any]] = (None, {})

    def __call__(self, library: Library) -> dict[torch.dtype, Any]:
        owner, functions = self._of
        if owner is not library:
            functions = {
                dtype: library.function(f"{self._name}_{suffix}", *self._arguments)
                for dtype, suffix in SUFFIXES.items()
            }
            for function in functions.values():
                function.restype = self._result
            self._of = library, functions
        return functions


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How the library is made here.

    Fields:
        compiler: the command.
        flags: of compilation.
        key: 32 hexadecimal digits; of everything that decides what the library contains.
    """

    compiler: tuple[str, ...]
    flags: tuple[str, ...]
    key: str


class _State:
    """What this process knows; written under the lock, read without it."""

    lock = threading.Lock()
    library: Library | None = None
    reason: str | None = None  # why there is none, once that is sure
    looked = False  # for a library that is compiled already
    finished = False  # compiled, or failed
    disabled = 0  # how often, by `disabled()`


def library() -> Library | None:
    """The library, compiled where it is not yet; None where that is not possible or not wanted.

    The first call may take seconds. Safe to call from any thread; never raises for want of a
    compiler or of anything else.
    """
    if not _State.finished:
        with _State.lock:
            if not _State.finished:
                _find(compiling=True)
                _State.looked = _State.finished = True
    return _State.library


def built() -> Library | None:
    """The library if it is compiled already. Compiles nothing; cheap after the first call."""
    if not _State.looked:
        with _State.lock:
            if not _State.looked:
                _find(compiling=False)
                _State.looked = True
    return _State.library


def why_not() -> str | None:
    """Why `library()` gave none, as a clause; None where it did, or was not called yet."""
    return _State.reason


def forget() -> None:
    """Look anew at the next call; for tests."""
    with _State.lock:
        _State.library = _State.reason = None
        _State.looked = _State.finished = False


@contextlib.contextmanager
def disabled() -> Iterator[None]:
    """Let torch compute meanwhile, in all threads; for comparisons."""
    with _State.lock:
        kept = _State.library, _State.looked, _State.finished
        _State.library, _State.looked, _State.finished = None, True, True
        _State.disabled += 1
    try:
        yield
    finally:
        with _State.lock:
            _State.library, _State.looked, _State.finished = kept
            _State.disabled -= 1


def are_off() -> bool:
    """Whether no kernels of any kind are wanted: by the variable, or inside `disabled()`."""
    return _State.disabled > 0 or _wanted().lower() in _OFF


def _find(compiling: bool) -> None:
    """Set the state; the caller holds the lock."""
    if _State.library is not None:
        return
    wanted = _wanted()
    _State.reason = None
    if wanted.lower() in _OFF:
        _State.reason = f"{VARIABLE} is {wanted}"
        return
    insisting = wanted.lower() in ("on", "1", "yes", "true")
    try:
        if wanted and not insisting:
            _State.library = _load(Path(wanted).expanduser())
            return
        recipe = find_recipe()
        if recipe is None:
            _State.reason = f"there is no C++ compiler (looked for {', '.join(COMPILERS)})"
            if insisting and compiling:
                _warn(_State.reason)
            return
        _State.library = _cached(recipe)
        if _State.library is None and compiling:
            _State.library = _compiled(recipe)
    except BuildError as error:
        _State.reason = str(error)
        if compiling or wanted:
            _warn(_State.reason)


def _wanted() -> str:
    return os.environ.get(VARIABLE, "").strip()


def _warn(reason: str) -> None:
    message = f"No compiled kernels: {reason}; {_COST} {VARIABLE}=off silences this."
    warnings.warn(message, RuntimeWarning, stacklevel=4)


# --- how it is made


def find_recipe() -> Recipe | None:
    """The compiler, flags and key for this machine; None without a compiler.

    Raises:
        BuildError: CXX names none, or it does not run.
    """
    compiler = _compiler()
    if compiler is None:
        return None
    version = _run([*compiler, "--version"]).stdout
    flags = (*_FLAGS, *_processor_flags(), *_openmp_flags("clang" in version.lower()))
    digest = hashlib.sha256()
    parts = (version, "\n".join(compiler), "\n".join(flags), fingerprint(), torch.__version__)
    for part in parts:
        digest.update(part.encode() + b"\0")
    for file in sorted([*SOURCES.glob("*.cpp"), *SOURCES.glob("*.h")]):
        digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return Recipe(compiler, flags, digest.hexdigest()[:32])


def _compiler() -> tuple[str, ...] | None:
    if sys.platform == "win32":  # torch's own compiler there is MSVC, which these flags are not for
        return None
    named = shlex.split(os.environ.get("CXX", ""))
    if named:
        if shutil.which(named[0]) is None:
            raise BuildError(f"CXX names {named[0]}, which cannot be run")
        return tuple(named)
    for name in COMPILERS:
        path = shutil.which(name)
        if path is not None:
            return (path,)
    return None


def _processor_flags() -> tuple[str, ...]:
    machine = platform.machine().lower()
    if machine in ("x86_64", "amd64", "i686"):
        return ("-march=native",)
    if machine in ("aarch64", "arm64"):
        return ("-mcpu=native",)
    return ()


def _openmp_flags(is_clang: bool) -> tuple[str, ...]:
    """Flags for OpenMP, if torch's runtime is one that the compiler's code can call."""
    needed = "__kmpc_fork_call" if is_clang else "GOMP_parallel"
    if not all(hasattr(ctypes.CDLL(None), name) for name in (needed, "omp_get_thread_num")):
        return ()
    if sys.platform == "darwin":
        return ("-Xpreprocessor", "-fopenmp")  # Apple's clang has no other door to it
    return ("-fopenmp",)


def _run(command: list[str]) -> "subprocess.CompletedProcess[str]":
    try:
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=True,
            timeout=TIMEOUT_S,
            env={**os.environ, "LC_ALL": "C"},
        )
    except subprocess.CalledProcessError as error:
        lines = (error.stderr or error.stdout or "").splitlines()
        telling = [line for line in lines if "error" in line.lower()] or lines or ["no message"]
        raise BuildError(f"{command[0]} failed: {telling[0].strip()[:200]}") from error
    except subprocess.TimeoutExpired as error:
        raise BuildError(f"{command[0]} did not end within {TIMEOUT_S} s") from error
    except OSError as error:
        raise BuildError(f"{command[0]} cannot be run: {error.strerror}") from error


# --- where it is kept


def cache_folder() -> Path:
    """`minicpmv/kernels` in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    root = Path(base) if base and Path(base).is_absolute() else Path("~/.cache").expanduser()
    return root / "minicpmv" / "kernels"


def _cached(recipe: Recipe) -> Library | None:
    """The library of an earlier build. Its name holds its own hash, so damage is noticed; what it
    computes was compared when it was made, by this torch on such a processor."""
    for file in sorted(cache_folder().glob(f"{recipe.key}-*.so")):
        with contextlib.suppress(OSError):
            if file.name == _file_name(recipe, file):
                return _load(file, comparing=False)
    return None


def _file_name(recipe: Recipe, file: Path) -> str:
    return f"{recipe.key}-{hashlib.sha256(file.read_bytes()).hexdigest()[:32]}.so"


def _compiled(recipe: Recipe) -> Library:
    """Compile, keep and load.

    Raises:
        BuildError: it cannot be compiled, loaded, or computes something else than torch.
    """
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _lock_of(folder / f"{recipe.key}.lock"):
            by_another = _cached(recipe)  # while this process waited
            if by_another is not None:
                return by_another
            failed = folder / f"{recipe.key}.failed"  # no second try at each start
            if failed.exists():
                reason = failed.read_text(encoding="utf-8", errors="replace")
                raise BuildError(f"{reason}, before; remove {failed} to try again")
            try:
                return _compile_into(folder, recipe)
            except BuildError as error:
                failed.write_text(str(error), encoding="utf-8")
                raise
    except OSError as error:
        reason = f"{folder} cannot be written ({error.strerror or error})"
    folder = _private_folder()
    warnings.warn(
        f"Compiled kernels are made anew at each start: {reason}. Set XDG_CACHE_HOME to a folder "
        "that can be written.",
        RuntimeWarning,
        stacklevel=5,
    )
    return _compile_into(folder, recipe)


@cache
def _private_folder() -> Path:
    """A folder of this process; what is loaded from it stays usable after it is removed."""
    temporary = tempfile.TemporaryDirectory(prefix="minicpmv-kernels-")
    _KEPT.append(temporary)
    return Path(temporary.name)


_KEPT: list[Any] = []  # folders that are removed when the process ends


@contextlib.contextmanager
def _lock_of(file: Path) -> Iterator[None]:
    """One process compiles, the others wait; where locks do not work, each compiles."""
    import fcntl  # not on Windows, where nothing is compiled

    with file.open("a") as handle:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _compile_into(folder: Path, recipe: Recipe) -> Library:
    if sys.stderr is not None and sys.stderr.isatty():
        line = f"compiling kernels for {processor_name()}, once, about {_EXPECTED_S} s"
        print(f"minicpmv: {line}", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(dir=folder) as work:
        sources = sorted(SOURCES.glob("*.cpp"))
        objects = [str(Path(work, f"{source.stem}.o")) for source in sources]
        commands = [
            [*recipe.compiler, *recipe.flags, "-c", str(source), "-o", made]
            for source, made in zip(sources, objects, strict=True)
        ]
        with ThreadPoolExecutor(min(len(commands), os.cpu_count() or 1)) as pool:
            list(pool.map(_run, commands))
        linked = Path(work, "library.so")
        _run([*recipe.compiler, *_link_flags(), *objects, "-o", str(linked)])
        found = _load(linked)  # what fails its check is not kept
        kept = folder / _file_name(recipe, linked)
        os.replace(linked, kept)
    return dataclasses.replace(found, path=kept)


def _link_flags() -> tuple[str, ...]:
    if sys.platform == "darwin":
        return ("-dynamiclib", "-undefined", "dynamic_lookup")
    return ("-shared", "-Wl,--as-needed")


# --- loading


def _load(path: Path, comparing: bool = True) -> Library:
    """Load a library and, where `comparing`, compare what it computes with torch: 0.1 s.

    Raises:
        BuildError: it is no such library, this processor lacks its instructions, or it is wrong.
    """
    from .check import difference

    try:
        cdll = ctypes.CDLL(str(path))
        cdll.minicpmv_target.restype = ctypes.c_char_p  # a constant: runs no special instruction
        target = tuple(cdll.minicpmv_target().decode().split())
        threads = bool(cdll.minicpmv_has_threads())
    except (OSError, AttributeError) as error:
        raise BuildError(f"{path} cannot be loaded ({error})") from error
    known = instruction_sets()
    missing = [name for name in target if known and name not in known]
    if missing:
        raise BuildError(f"{path} needs {', '.join(missing)}, which this processor does not have")
    found = Library(path, cdll, target, threads)
    if not comparing:
        return found
    try:
        wrong = difference(found)
    except AttributeError as error:
        raise BuildError(f"{path} was compiled from other sources ({error})") from error
    if wrong is not None:
        raise BuildError(f"{path} computes {wrong}")
    return found
