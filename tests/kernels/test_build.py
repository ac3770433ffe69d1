"""Compiling, keeping and loading, with a source of a few lines in place of the real ones."""

import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from minicpmv.kernels import build, check, processor

SOURCE = """
#define EXPORT extern "C" __attribute__((visibility("default")))
EXPORT const char* minicpmv_target() { return ""; }
EXPORT int minicpmv_has_threads() { return 0; }
"""
# A compiler that notes what it was called with.
NOTING = """#!/bin/sh
echo "$@" >> {log}
exec {compiler} "$@"
"""
needs_compiler = pytest.mark.skipif(
    sys.platform == "win32" or not any(shutil.which(name) for name in build.COMPILERS),
    reason="there is no C++ compiler",
)


@pytest.fixture(autouse=True)
def _as_found():
    yield
    build.forget()


@pytest.fixture
def sources(tmp_path, monkeypatch):
    """A folder of sources, an empty cache, and no check of what is computed."""
    folder = tmp_path / "sources"
    folder.mkdir()
    (folder / "library.cpp").write_text(SOURCE)
    monkeypatch.setattr(build, "SOURCES", folder)
    monkeypatch.setattr(check, "difference", lambda library: None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(build.VARIABLE, raising=False)
    build.forget()
    return folder


@pytest.fixture
def calls(tmp_path, monkeypatch):
    """What the compiler was called with to compile, so far."""
    log, script = tmp_path / "log", tmp_path / "compiler"
    compiler = next(filter(None, map(shutil.which, build.COMPILERS)))
    script.write_text(NOTING.format(log=log, compiler=compiler))
    script.chmod(0o755)
    log.touch()
    monkeypatch.setenv("CXX", str(script))
    return lambda: [line for line in log.read_text().splitlines() if " -c " in line]


@needs_compiler
def test_compiled_once_and_found_again(sources, calls):
    assert build.built() is None
    assert calls() == []
    first = build.library()
    assert first is not None
    assert build.built() is first
    build.forget()
    again = build.built()
    assert again is not None
    assert again.path == first.path
    assert build.library() is again
    assert len(calls()) == 1


@needs_compiler
def test_the_name_holds_everything_that_the_code_depends_on(sources, monkeypatch):
    keys = [build.find_recipe().key]
    (sources / "library.cpp").write_text(SOURCE + "// changed")
    keys.append(build.find_recipe().key)
    (sources / "more.h").write_text("")
    keys.append(build.find_recipe().key)
    monkeypatch.setattr(build, "_FLAGS", (*build._FLAGS, "-O2"))
    keys.append(build.find_recipe().key)
    monkeypatch.setattr(build, "fingerprint", lambda: "another processor")
    keys.append(build.find_recipe().key)
    monkeypatch.setattr(torch, "__version__", "9.9")
    keys.append(build.find_recipe().key)
    version = subprocess.CompletedProcess([], 0, stdout="another compiler")
    monkeypatch.setattr(build, "_run", lambda command: version)
    keys.append(build.find_recipe().key)
    assert len(set(keys)) == len(keys)


def test_the_fingerprint_holds_the_instruction_sets(monkeypatch):
    before = processor.fingerprint.__wrapped__()
    monkeypatch.setattr(processor, "instruction_sets", lambda: frozenset({"avx9"}))
    monkeypatch.setattr(processor, "_sysctl", lambda: ["", "avx9", ""])
    assert processor.fingerprint.__wrapped__() != before


@needs_compiler
@pytest.mark.parametrize("damage", [b"", b"\x7fELF", None])
def test_a_damaged_file_is_made_anew(sources, calls, damage):
    path = build.library().path
    whole = path.read_bytes()
    path.unlink()  # the process has loaded this file: another takes its place
    path.write_bytes(whole[:-100] + bytes(100) if damage is None else damage)
    build.forget()
    assert build.built() is None
    assert build.library() is not None
    assert path.read_bytes() == whole
    assert len(calls()) == 2


@needs_compiler
def test_many_threads_compile_once(sources, calls):
    found = []
    threads = [threading.Thread(target=lambda: found.append(build.library())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(map(id, found))) == 1
    assert found[0] is not None
    assert len(calls()) == 1


@needs_compiler
def test_two_processes_compile_once(sources, calls):
    script = (
        "from pathlib import Path\n"
        "from minicpmv.kernels import build, check\n"
        f"build.SOURCES = Path({str(sources)!r})\n"
        "check.difference = lambda library: None\n"
        "print(build.library().path.name)\n"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    names = [process.communicate()[0] for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert names[0] == names[1]
    assert len(calls()) == 1


def test_without_a_compiler_torch_computes(sources, monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    assert build.library() is None
    assert "there is no C++ compiler" in build.why_not()
    build.forget()
    monkeypatch.setenv(build.VARIABLE, "on")
    with pytest.warns(RuntimeWarning, match="No compiled kernels: there is no C"):
        assert build.library() is None


@pytest.mark.skipif(sys.platform == "win32", reason="nothing is compiled on Windows")
def test_a_compiler_that_is_not_there_is_named(sources, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler -m64")
    assert build.built() is None
    with pytest.warns(RuntimeWarning, match="CXX names no-such-compiler, which cannot be run"):
        assert build.library() is None


@pytest.mark.parametrize("word", ["off", "OFF", "0"])
def test_off(sources, monkeypatch, word):
    monkeypatch.setenv(build.VARIABLE, word)
    assert build.library() is None
    assert build.built() is None
    assert build.why_not() == f"{build.VARIABLE} is {word}"


@needs_compiler
def test_a_library_made_elsewhere(sources, monkeypatch, tmp_path):
    made = shutil.copy(build.library().path, tmp_path / "kernels.so")
    build.forget()
    monkeypatch.setenv(build.VARIABLE, str(made))
    monkeypatch.setenv("PATH", "")
    assert build.built().path == Path(made)
    build.forget()
    (tmp_path / "kernels.txt").write_text("no library")
    monkeypatch.setenv(build.VARIABLE, str(tmp_path / "kernels.txt"))
    with pytest.warns(RuntimeWarning, match=r"kernels.txt cannot be loaded"):
        assert build.library() is None


@needs_compiler
def test_a_build_that_fails_is_told_and_not_repeated(sources, calls):
    (sources / "wrong.cpp").write_text("#error this cannot be\n")
    with pytest.warns(RuntimeWarning, match="this cannot be.*computed by torch, several times"):
        assert build.library() is None
    attempts = len(calls())
    build.forget()
    with pytest.warns(RuntimeWarning, match=r"this cannot be.*remove .*\.failed to try again"):
        assert build.library() is None
    assert len(calls()) == attempts


@needs_compiler
def test_wrong_results_are_not_used(sources, monkeypatch, tmp_path):
    monkeypatch.setattr(check, "difference", lambda library: "other sums than torch")
    with pytest.warns(RuntimeWarning, match="computes other sums than torch"):
        assert build.library() is None
    assert list((tmp_path / "cache").rglob("*.so")) == []


@needs_compiler
def test_results_are_compared_once(sources, monkeypatch):
    compared = []
    monkeypatch.setattr(check, "difference", compared.append)
    build.library()
    build.forget()
    path = build.built().path
    assert len(compared) == 1
    build.forget()
    monkeypatch.setenv(build.VARIABLE, str(path))  # it may come from anywhere
    build.built()
    assert len(compared) == 2


@needs_compiler
def test_an_instruction_that_is_missing_is_named(sources, monkeypatch):
    (sources / "library.cpp").write_text(SOURCE.replace('return ""', 'return "avx2 avx9"'))
    monkeypatch.setattr(build, "instruction_sets", lambda: frozenset({"avx2"}))
    with pytest.warns(RuntimeWarning, match="needs avx9, which this processor does not have"):
        assert build.library() is None


@needs_compiler
def test_a_library_of_other_sources_is_not_used(sources, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(build, "SOURCES", sources)
    monkeypatch.setenv("XDG_CACHE_HOME", str(sources / "cache"))
    monkeypatch.delenv(build.VARIABLE, raising=False)
    build.forget()
    with pytest.warns(RuntimeWarning, match="compiled from other sources"):
        assert build.library() is None


@needs_compiler
def test_a_cache_that_cannot_be_written(sources, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.warns(RuntimeWarning, match="made anew at each start: .* cannot be written"):
        found = build.library()
    assert found is not None
    assert build.built() is found
    folder = found.path.parent
    assert folder.stat().st_mode & 0o077 == 0


@needs_compiler
def test_the_compiler_is_told_of_on_a_terminal(sources, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    build.library()
    error = capsys.readouterr().err
    assert error.startswith("minicpmv: compiling kernels for ")
    assert error.count("\n") == 1


def test_importing_compiles_and_loads_nothing():
    script = (
        "import minicpmv.kernels as kernels\n"
        "from minicpmv.kernels import build\n"
        "assert not build._State.looked\n"
        "assert 'minicpmv.kernels.check' not in __import__('sys').modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
