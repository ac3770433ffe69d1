"""Import torch and transformers, and load a model, at less cost.

For programs of one purpose, as commands are: a library must not touch what others share.
"""

import gc
import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_COMPILER = "torch._dynamo"
# Of the compiler, what transformers needs for masks; it imports nothing else of it.
_STANDS_ALONE = f"{_COMPILER}._trace_wrapped_higher_order_op"

_OF_SERVERS = ("fastapi", "uvicorn", "pydantic", "prometheus_client")  # of the extra `serve`


@contextmanager
def imports() -> Iterator[None]:
    """Inside, heavy libraries are imported, and a model is loaded.

    Nothing of what they define is garbage, and there are millions of objects: collecting while they
    are imported and once more at the exit took a third of the time of `minicpmv ask` with the
    bundled model. Torch's compiler, distributed tensors and sympy took another fifth; they are
    imported when something needs them.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        with _compiler_postponed(), _alone(), _shapes_only():
            yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()


@contextmanager
def server_packages(what: str) -> Iterator[None]:
    """Inside, the server's code is imported: a missing package is named with the extra that has it.

    Args:
        what: needs them, as "The server".

    Raises:
        ImportError: a package of the extra `serve` is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in _OF_SERVERS:
            raise
        raise ImportError(f"{what} needs {error.name}: pip install 'minicpmv[serve]'") from error


@contextmanager
def _compiler_postponed() -> Iterator[None]:
    """Inside, `torch._dynamo` is imported only if more is asked of it than to leave a function
    alone. Transformers asks that for functions which it defines, torch for those that make tensors
    without memory; in a program that compiles nothing, it has no effect."""
    if _COMPILER in sys.modules:
        yield
        return
    import torch

    stand_in = _StandIn(torch)
    sys.meta_path.insert(0, stand_in.finder)
    sys.modules[_COMPILER] = stand_in
    vars(torch)["_dynamo"] = stand_in
    try:
        yield
    finally:
        stand_in.leave()


class _StandIn(ModuleType):
    """`torch._dynamo` as long as nothing but `disable` is asked of it."""

    def __init__(self, torch: ModuleType) -> None:
        super().__init__(_COMPILER)
        self.__path__ = [f"{folder}/_dynamo" for folder in torch.__path__]
        self.torch = torch
        self.finder = _Finder(self)

    @staticmethod
    def disable(fn: Any = None, *args: Any, **options: Any) -> Any:
        return fn if callable(fn) else _itself

    @staticmethod
    def assume_constant_result(fn: Any) -> Any:
        return fn

    @staticmethod
    def allow_in_graph(fn: Any) -> Any:
        return fn

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.replaced(), name)

    def replaced(self) -> ModuleType:
        """The module itself, in place of this."""
        self.leave()
        return importlib.import_module(_COMPILER)

    def leave(self) -> None:
        """From now on, an import of the module loads it."""
        with suppress(ValueError):
            sys.meta_path.remove(self.finder)
        if sys.modules.get(_COMPILER) is self:
            del sys.modules[_COMPILER]
        if vars(self.torch).get("_dynamo") is self:
            del vars(self.torch)["_dynamo"]


class _Finder(MetaPathFinder):
    """Part of the compiler is imported with the whole."""

    def __init__(self, stand_in: _StandIn) -> None:
        self.stand_in = stand_in

    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if not name.startswith(f"{_COMPILER}.") or name == _STANDS_ALONE:
            return None
        self.stand_in.replaced()
        return ModuleSpec(name, _Loaded(importlib.import_module(name)))


class _Loaded(Loader):
    """Of a module that is loaded already."""

    def __init__(self, module: ModuleType) -> None:
        self.module, self.spec = module, module.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self.module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self.spec


def _itself(fn: Callable[..., Any]) -> Callable[..., Any]:
    return fn


@contextmanager
def _alone() -> Iterator[None]:
    """Inside, transformers takes it that the process is not one of many, as with a torch that was
    built without `torch.distributed`."""
    import torch
    from transformers.utils import is_torch_distributed_available as is_available

    found = torch.distributed.is_available
    is_available.cache_clear()
    torch.distributed.is_available = lambda: False
    try:
        is_available()  # which it remembers
    finally:
        torch.distributed.is_available = found
    try:
        yield
    finally:
        is_available.cache_clear()


@contextmanager
def _shapes_only() -> Iterator[None]:
    """Inside, tensors without memory, of which transformers first makes a model, are made without
    the symbolic shapes of torch, and with them sympy."""
    import torch
    from torch.overrides import TorchFunctionMode

    # Of a tensor of floating-point numbers and a number, as in the frequencies of rotary positions.
    of_number = {torch.Tensor.div, torch.Tensor.__rdiv__, torch.Tensor.__rpow__}

    def replaced(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """The result without memory; None where torch is to make it."""
        if func is torch.arange:
            if str(kwargs.get("device")) == "meta":
                return torch.arange(*args, **{**kwargs, "device": "cpu"}).to("meta")
            return None
        tensor = args[0] if args else kwargs.get("tensor")
        if not isinstance(tensor, torch.Tensor) or not tensor.is_meta:
            return None
        if func is torch.nn.init.normal_:
            return tensor  # there is nothing to fill
        kind: dict[str, Any] = {"dtype": tensor.dtype, "device": tensor.device}
        if func is torch.empty_like and kwargs.keys() <= kind.keys():
            asked = {name: value for name, value in kwargs.items() if value is not None}
            return torch.empty(tensor.shape, **(kind | asked))
        if func in of_number and tensor.is_floating_point() and type(args[-1]) in (int, float):
            return torch.empty(tensor.shape, **kind)
        return None

    class Shapes(TorchFunctionMode):
        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            kwargs = kwargs or {}
            found = replaced(func, args, kwargs) if func in known else None
            return func(*args, **kwargs) if found is None else found

    known = {*of_number, torch.arange, torch.empty_like, torch.nn.init.normal_}
    with Shapes():
        yield
