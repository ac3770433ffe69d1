"""Heavy imports: without garbage collection, and with it again afterwards."""

import gc
import importlib

import pytest

from minicpmv.cli.startup import imports


def test_nothing_is_collected_while_libraries_are_imported() -> None:
    assert gc.isenabled()
    before = gc.get_freeze_count()
    with imports():
        assert not gc.isenabled()
    assert gc.isenabled()
    assert gc.get_freeze_count() > before
    gc.unfreeze()


def test_a_missing_library_leaves_it_switched_on() -> None:
    with pytest.raises(ImportError, match="no_such_module"), imports():
        importlib.import_module("no_such_module")
    assert gc.isenabled()
    gc.unfreeze()
