"""Modules under their former names work, and say what they are called now."""

import importlib
import sys

import pytest

import minicpmv
from minicpmv.moved import MOVED


@pytest.mark.parametrize("name", MOVED)
def test_a_former_name_gives_what_the_module_has_and_warns(name):
    full = f"minicpmv.{name}"
    sys.modules.pop(full, None)
    with pytest.warns(DeprecationWarning, match=f"{full} is now minicpmv.{MOVED[name][0]}"):
        former = importlib.import_module(full)
    for home in MOVED[name]:
        module = importlib.import_module(f"minicpmv.{home}")
        public = [each for each in vars(module) if not each.startswith("_")]
        assert public
        assert all(getattr(former, each) is not None for each in public if each in vars(module))
    with pytest.raises(AttributeError, match=f"module '{full}' has no attribute 'nothing'"):
        _ = former.nothing


def test_names_of_a_former_module_can_be_imported():
    sys.modules.pop("minicpmv.released", None)
    with pytest.warns(DeprecationWarning, match="the old name goes with the next version"):
        from minicpmv.released import AutoModel, MiniCPMV
    assert (AutoModel, MiniCPMV) == (minicpmv.AutoModel, minicpmv.MiniCPMV)
    with pytest.raises(ModuleNotFoundError, match=r"minicpmv\.nothing"):
        importlib.import_module("minicpmv.nothing")
