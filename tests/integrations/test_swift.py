"""The register file for ms-swift, which is not installed here: `tests/suites/trainers`."""

import subprocess
import sys
from pathlib import Path

import minicpmv.integrations

FILE = Path(minicpmv.integrations.__file__).with_name("swift.py")
# As ms-swift imports a plugin: by its file, under a name of its own, its folder first in sys.path.
_AS_SWIFT_DOES = """
import importlib.util, sys, types
native = types.ModuleType("minicpmv.integrations.swift_native")
native.register_all = lambda: print("registered")
sys.modules[native.__name__] = native
sys.path.insert(0, {folder!r})
spec = importlib.util.spec_from_file_location("_swift_external_1", {file!r})
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
print({folder!r} in sys.path)
"""


def output_of(*command: str) -> list[str]:
    found = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, check=True, cwd=FILE.parents[2]
    )
    return found.stdout.split("\n")[:-1]


def test_the_file_tells_where_it_is():
    assert output_of("-m", "minicpmv.integrations.swift") == [str(FILE.resolve())]


def test_it_is_imported_without_ms_swift():
    for name in ("swift", "swift_native"):
        code = f"import minicpmv.integrations.{name}, sys; print('swift' in sys.modules)"
        assert output_of("-c", code) == ["False"]


def test_as_a_plugin_it_registers_and_hides_no_library():
    code = _AS_SWIFT_DOES.format(folder=str(FILE.parent), file=str(FILE))
    assert output_of("-c", code) == ["registered", "False"]
